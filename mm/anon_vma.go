package mm

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// AnonVMA is the list of VMAs in which an anonymous page may be mapped: struct
// anon_vma of Linux 2.6.29. Its VMAs are relatives: each was split from, merged
// with, or forked from another one of the list.
//
//	page.Mapping = handle of A | 1        page.Index = offset in pages
//	      |
//	      v
//	AnonVMA A --> VMA of the parent --> VMA of the 1st child --> VMA of the 2nd
//	              ^ order of arrival: rmap visits the parent's pte first
//
// An AnonVMA is a slot of a slab whose slots are re-used at once but never given
// back (SLAB_DESTROY_BY_RCU). Whoever comes from a page may thus lock an AnonVMA
// that has meanwhile become somebody else's. That is harmless, because what a
// walk finds is always checked against the ptes.
type AnonVMA struct {
	// Lock protects the list, and the bounds of the VMAs on it. It is made once,
	// with the slot, and survives re-use.
	Lock lock.SpinLock

	head, tail *VMA       // the list, by VMA.anonNext; protected by Lock
	slot       uint32     // number in the slab; immutable
	made       x86.Word32 // 1 once the slot exists: see VMA.anonVMA; set once
}

// handle is what Page.Mapping holds for pages of a. No slot's handle is the bare
// page.MappingAnon: that is a KSM page, which has no AnonVMA.
func (a *AnonVMA) handle() uint64 { return uint64(a.slot+1)<<1 | page.MappingAnon }

// empty reports whether no VMA is on the list. The caller holds a.Lock, or
// nothing is running.
func (a *AnonVMA) empty() bool { return a.head == nil }

// The slab's chunks double in size, so that a look-up is two loads and the
// table of chunks never moves under a reader.
const (
	firstChunk   = 32 // slots in the first chunk, a power of two
	firstChunkLg = 5
	maxChunks    = 26

	anonBatch   = 4  // slots made at a time
	anonPerCPU  = 32 // free slots a CPU keeps
	anonReturns = 16 // of these, given to the others when there are too many
)

// anonVMAs is the slab of AnonVMAs, with what else rmap keeps for the machine.
// It belongs to the allocator, not to the machine: no points, no costs.
type anonVMAs struct {
	m      *sched.Machine       // immutable
	chunks [maxChunks][]AnonVMA // an element is written once, under lock, before any of its handles exists
	cpus   []anonFree           // by CPU; each is its CPU's

	lock   x86.RawSpin
	n      uint32   // slots made; protected by lock
	shared []uint32 // free slots of no CPU; protected by lock

	// zero is the frame of ZERO_PAGE, 0 until it is first wanted; see ZeroPage.
	zero x86.Word64
}

// anonFree is a CPU's stack of free slots: the last one freed is the first one
// taken, so that a stale handle soon meets a new owner, as it does in Linux.
type anonFree struct {
	slots [anonPerCPU]uint32
	n     int
	unmap Unmap // scratch of try_to_unmap, which runs with preemption off
	_     [64]byte
}

// init prepares the slab.
func (s *anonVMAs) init(sys *System) {
	s.m = sys.M
	s.cpus = make([]anonFree, sys.M.CPUs())
}

// at returns the slot with the given number, which must have been made.
func (s *anonVMAs) at(slot uint32) *AnonVMA {
	i := slot + firstChunk
	k := bits.Len32(i) - 1
	return &s.chunks[k-firstChunkLg][i&^(1<<k)]
}

// of returns the AnonVMA that a Page.Mapping names; nil if it names none.
func (s *anonVMAs) of(mapping uint64) *AnonVMA {
	if mapping&page.MappingAnon == 0 || mapping == page.MappingAnon {
		return nil
	}
	return s.at(uint32(mapping>>1) - 1)
}

// alloc takes a free slot (anon_vma_alloc).
func (s *anonVMAs) alloc(t *sched.Task) *AnonVMA {
	f := &s.cpus[t.C.ID]
	if f.n == 0 {
		s.refill(f)
	}
	f.n--
	return s.at(f.slots[f.n])
}

// free returns a slot with an empty list (anon_vma_free). It may be handed out
// again at once.
func (s *anonVMAs) free(t *sched.Task, a *AnonVMA) {
	if !a.empty() {
		t.Oops("anon_vma %d freed with VMAs on its list", a.slot)
	}
	f := &s.cpus[t.C.ID]
	if f.n == anonPerCPU {
		s.lock.Lock()
		s.shared = append(s.shared, f.slots[:anonReturns]...)
		s.lock.Unlock()
		f.n = copy(f.slots[:], f.slots[anonReturns:])
	}
	f.slots[f.n] = a.slot
	f.n++
}

func (s *anonVMAs) refill(f *anonFree) {
	s.lock.Lock()
	for f.n = range anonBatch { // the lowest number on top
		i := anonBatch - 1 - f.n
		if n := len(s.shared); n > 0 {
			f.slots[i] = s.shared[n-1]
			s.shared = s.shared[:n-1]
		} else {
			f.slots[i] = s.grow()
		}
	}
	f.n = anonBatch
	s.lock.Unlock()
}

// grow makes one more slot. The caller holds s.lock.
func (s *anonVMAs) grow() uint32 {
	slot := s.n
	s.n++
	if i := slot + firstChunk; i&(i-1) == 0 {
		s.chunks[bits.Len32(i)-1-firstChunkLg] = make([]AnonVMA, i)
	}
	a := s.at(slot)
	a.slot = slot
	a.Lock.Init(s.m, lock.AnonVMALock)
	a.made.Poke(1)
	return slot
}

// anonVMA returns v.AnonVMA, for callers that hold mmap_sem only for reading:
// another thread's fault may just be setting it, under page_table_lock. Linux
// reads the pointer without a lock too; what it points to is then complete.
func (v *VMA) anonVMA() *AnonVMA {
	a := v.racyAnonVMA()
	if a != nil {
		a.made.Peek() // what was written before the slot existed is visible now
	}
	return a
}

// seeAnonVMA is anonVMA for who acts upon whether there is one yet: it tells a search so.
func (v *VMA) seeAnonVMA(t *sched.Task) *AnonVMA {
	t.C.Touch(v.anonObj(), x86.AccRead)
	return v.anonVMA()
}

// anonObj names v.AnonVMA, as long as mmap_sem is held: who holds it only for reading may
// lower v.Start (expandStack), but not change v.End.
func (v *VMA) anonObj() x86.ObjID {
	return x86.Obj(x86.ClassWord, 1<<55|uint64(v.MM.ID)<<36&(1<<55-1)|v.End>>x86.PageShift)
}

// racyAnonVMA is apart because this read races on purpose.
//
//go:norace
func (v *VMA) racyAnonVMA() *AnonVMA { return v.AnonVMA }

// racyLocked reports whether v has VMLocked, for rmap, which does not hold mmap_sem, or not against
// the end of the address space. Who sets it or takes it away touches the object, too.
//
//go:norace
func (v *VMA) racyLocked(t *sched.Task) bool {
	t.C.Touch(v.MM.lockedObj(), x86.AccRead)
	return v.Flags&VMLocked != 0
}

// AnonVMAPrepare gives v an AnonVMA if it has none: a neighbour's, if the two
// could merge one day, else a new one. Linux 2.6.29 mm/rmap.c:anon_vma_prepare.
// The error is ENOMEM; it cannot happen yet.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
//   - no spinlock is held
func AnonVMAPrepare(t *sched.Task, v *VMA) error {
	if v.seeAnonVMA(t) != nil {
		return nil
	}
	return anonVMAPrepareSlow(t, v)
}

//go:noinline
func anonVMAPrepareSlow(t *sched.Task, v *VMA) error {
	mm := v.MM
	s := &mm.Sys.anon
	a := findMergeableAnonVMA(t, v)
	var allocated *AnonVMA
	if a == nil {
		if mm.Sys.Pages.FailSite(t, "anon_vma") {
			return unix.ENOMEM
		}
		if a = s.alloc(t); a == nil {
			return unix.ENOMEM
		}
		allocated = a
	}
	if mm.Sys.Broken(BreakLockOrder) {
		mm.PageTableLock.Lock(t)
		a.Lock.Lock(t)
		a.Lock.Unlock(t)
		mm.PageTableLock.Unlock(t)
	}
	a.Lock.Lock(t)
	mm.PageTableLock.Lock(t) // against other threads that fault in this VMA
	if v.AnonVMA == nil {
		t.WriteOf(v, "vma.anon_vma")
		t.C.Touch(v.anonObj(), x86.AccWrite)
		v.AnonVMA = a
		t.WriteOf(a, "anon_vma.list")
		a.addTail(v)
		allocated = nil
	}
	mm.PageTableLock.Unlock(t)
	a.Lock.Unlock(t)
	if allocated != nil {
		s.free(t, allocated)
	}
	return nil
}

// addTail puts v at the end of the list. The caller holds a.Lock.
func (a *AnonVMA) addTail(v *VMA) {
	v.anonPrev, v.anonNext = a.tail, nil
	if a.tail != nil {
		a.tail.anonNext = v
	} else {
		a.head = v
	}
	a.tail = v
}

// remove takes v off the list. The caller holds a.Lock.
func (a *AnonVMA) remove(t *sched.Task, v *VMA) {
	t.WriteOf(a, "anon_vma.list")
	switch {
	case v.anonPrev != nil:
		v.anonPrev.anonNext = v.anonNext
	case a.head == v:
		a.head = v.anonNext
	default:
		t.Oops("VMA %#x-%#x is not on the list of anon_vma %d", v.Start, v.End, a.slot)
	}
	if v.anonNext != nil {
		v.anonNext.anonPrev = v.anonPrev
	} else {
		a.tail = v.anonPrev
	}
	v.anonPrev, v.anonNext = nil, nil
}

// anonVMALinkLocked puts v on the list of its AnonVMA, if it has one
// (__anon_vma_link). The caller holds v.AnonVMA.Lock. A copy of a VMA that is on
// a list is not on it: linking ignores what the copy brought along.
func anonVMALinkLocked(t *sched.Task, v *VMA) {
	if a := v.AnonVMA; a != nil {
		a.Lock.AssertHeld(t)
		t.WriteOf(a, "anon_vma.list")
		a.addTail(v)
	}
}

// anonVMALink is anonVMALinkLocked for callers without the lock
// (anon_vma_link): fork, for the child's copy of a VMA.
func anonVMALink(t *sched.Task, v *VMA) {
	if a := v.AnonVMA; a != nil {
		a.Lock.Lock(t)
		t.WriteOf(a, "anon_vma.list")
		a.addTail(v)
		a.Lock.Unlock(t)
	}
}

// anonVMAMerge takes next off its list because v has swallowed it; v must have
// the same AnonVMA (__anon_vma_merge). The caller holds its lock.
func anonVMAMerge(t *sched.Task, v, next *VMA) {
	a := v.AnonVMA
	if a == nil || a != next.AnonVMA {
		t.Oops("VMAs %#x and %#x merge with different anon_vmas", v.Start, next.Start)
	}
	a.Lock.AssertHeld(t)
	a.remove(t, next)
}

// anonVMAUnlink takes v off the list of its AnonVMA, if it has one, and frees the
// AnonVMA if that was the last VMA (anon_vma_unlink). v.AnonVMA stays set: v
// itself is about to go.
func anonVMAUnlink(t *sched.Task, v *VMA) {
	a := v.AnonVMA
	if a == nil {
		return
	}
	a.Lock.Lock(t)
	a.remove(t, v)
	empty := a.empty()
	a.Lock.Unlock(t)
	if empty {
		v.MM.Sys.anon.free(t, a)
	}
}

// pageLockAnonVMA locks the list of VMAs that may map p, and returns it with
// the RCU read side entered; nil, with neither, if p is not anonymous or not
// mapped. Linux 2.6.29 mm/rmap.c:page_lock_anon_vma.
//
// That p was mapped a moment ago says that its AnonVMA was alive then. By the
// time its lock is ours it may have been freed and re-used, and the list is that
// of VMAs that have never seen p: every pte must be checked, see
// pageCheckAddress. RCU keeps the slot from becoming anything but an AnonVMA.
func (s *System) pageLockAnonVMA(t *sched.Task, p *page.Page) *AnonVMA {
	lock.RCUReadLock(t)
	t.C.Point(x86.OpRead, x86.PageObj(s.Pages.PFN(p), x86.PageFields))
	a := s.anon.of(p.RacyMapping())
	if a == nil || !s.Pages.Mapped(t, p) {
		lock.RCUReadUnlock(t)
		return nil
	}
	if !s.Broken(BreakAnonLock) {
		a.Lock.Lock(t)
	}
	return a
}

// pageUnlockAnonVMA undoes pageLockAnonVMA.
func pageUnlockAnonVMA(t *sched.Task, a *AnonVMA) {
	if !SystemOf(t).Broken(BreakAnonLock) {
		a.Lock.Unlock(t)
	}
	lock.RCUReadUnlock(t)
}
