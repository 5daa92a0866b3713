package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// PagevecSize is how many pages a pagevec holds (PAGEVEC_SIZE).
const PagevecSize = 14

// pagevec is a small batch of pages, so that the LRU lock is taken once for all
// of them (struct pagevec). Each page in it has one more reference, which is
// not a pin and not a mapping: whoever compares counts sees it.
type pagevec struct {
	n     int
	pages [PagevecSize]uint32
}

// add puts a page in and reports whether there is room for another.
func (v *pagevec) add(pfn uint32) (room bool) {
	v.pages[v.n] = pfn
	v.n++
	return v.n < PagevecSize
}

// LRUCacheAdd puts a page on its way to list l (lru_cache_add_lru): it goes to
// this CPU's pagevec with a reference of its own, and to the list together
// with up to 13 others when the pagevec is full or drained. Until then flag LRU
// is clear, though Active or Unevictable may be set: they are taken off.
//
// Preconditions:
//   - the caller has a reference
//   - flag LRU is clear
func (m *Map) LRUCacheAdd(t *sched.Task, p *Page, l LRUList) {
	flags := p.Flags.Peek()
	if flags&(1<<LRU) != 0 {
		m.badPage(t, p, "page is on an LRU list twice")
	}
	if flags&(1<<Active) != 0 {
		m.ClearFlag(t, p, Active)
	}
	if flags&(1<<Unevictable) != 0 {
		m.ClearFlag(t, p, Unevictable)
	}
	t.PreemptDisable()
	v := &m.cpus[t.C.ID].lruAdd[l]
	m.GetAs(t, p, RefPagevec)
	if !v.add(uint32(m.PFN(p))) {
		m.pagevecLRUAdd(t, v, l)
	}
	t.PreemptEnable()
}

// pagevecLRUAdd moves a pagevec's pages to list l and drops their extra
// references (____pagevec_lru_add).
//
// Preconditions:
//   - preemption is off, or the pagevec's CPU is at rest
func (m *Map) pagevecLRUAdd(t *sched.Task, v *pagevec, l LRUList) {
	var z *zone
	off := false
	for i := range v.n {
		pfn := v.pages[i]
		p := m.page(pfn)
		if home := m.zoneOf(pfn); home != z {
			if z != nil {
				z.lruLock.UnlockIRQRestore(t, off)
			}
			z = home
			off = z.lruLock.LockIRQSave(t)
			t.WriteOf(z, "lru")
		}
		if p.Flags.Peek()&(1<<LRU|1<<Active|1<<Unevictable) != 0 {
			m.badPage(t, p, "page in a pagevec is on an LRU list")
		}
		m.SetFlag(t, p, LRU)
		if l.Active() {
			m.SetFlag(t, p, Active)
		}
		m.addToList(t, z, pfn, l)
	}
	if z != nil {
		z.lruLock.UnlockIRQRestore(t, off)
	}
	m.releasePagevec(t, v)
}

// releasePagevec drops the references of a pagevec and empties it.
func (m *Map) releasePagevec(t *sched.Task, v *pagevec) {
	m.releasePages(t, v.pages[:v.n], RefPagevec, false /* cold */)
	v.n = 0
}

// RotateReclaimable moves a page whose writing has just ended to the old end of
// its inactive list, so that reclaim finds it first (rotate_reclaimable_page).
// It works through a pagevec too and may be called in interrupts.
func (m *Map) RotateReclaimable(t *sched.Task, p *Page) {
	flags := p.Flags.Load(t.C, m.obj(p, x86.PageFlags))
	if flags&(1<<Locked|1<<Active|1<<Dirty|1<<Unevictable) != 0 || flags&(1<<LRU) == 0 {
		return
	}
	off := t.C.IRQSave()
	c := t.C
	m.GetAs(t, p, RefPagevec)
	v := &m.cpus[c.ID].rotate
	if !v.add(uint32(m.PFN(p))) {
		m.pagevecMoveTail(t, v)
	}
	c.IRQRestore(off)
}

// pagevecMoveTail moves a pagevec's pages to the old end of their lists
// (pagevec_move_tail).
//
// Preconditions:
//   - interrupts are off
func (m *Map) pagevecMoveTail(t *sched.Task, v *pagevec) {
	var z *zone
	for i := range v.n {
		pfn := v.pages[i]
		p := m.page(pfn)
		if home := m.zoneOf(pfn); home != z {
			if z != nil {
				z.lruLock.Unlock(t)
			}
			z = home
			z.lruLock.Lock(t)
			t.WriteOf(z, "lru")
		}
		flags := p.Flags.Peek()
		if flags&(1<<LRU) != 0 && flags&(1<<Active|1<<Unevictable) == 0 {
			l := baseLRU(flags)
			m.unlink(&z.lru[l], pfn)
			m.pushBack(&z.lru[l], pfn)
			t.C.Trace.Inc(trace.PGRotated)
		}
	}
	if z != nil {
		z.lruLock.Unlock(t)
	}
	m.releasePagevec(t, v)
}

// LRUAddDrain empties this CPU's pagevecs (lru_add_drain).
func (m *Map) LRUAddDrain(t *sched.Task) {
	t.PreemptDisable()
	m.drainPagevecs(t, t.C.ID)
	t.PreemptEnable()
}

// LRUAddDrainCPU empties the pagevecs of a CPU that is at rest: its last task is
// gone, or the machine is quiet. On a running machine lru_add_drain_all is
// LRUAddDrain on every CPU.
func (m *Map) LRUAddDrainCPU(t *sched.Task, cpu int) { m.drainPagevecs(t, cpu) }

// drainPagevecs is drain_cpu_pagevecs.
func (m *Map) drainPagevecs(t *sched.Task, cpu int) {
	s := &m.cpus[cpu]
	for l := range LRUList(NumLRU) {
		if s.lruAdd[l].n > 0 {
			m.pagevecLRUAdd(t, &s.lruAdd[l], l)
		}
	}
	if s.rotate.n > 0 {
		off := t.C.IRQSave()
		c := t.C
		m.pagevecMoveTail(t, &s.rotate)
		c.IRQRestore(off)
	}
}

// PagevecPages returns how many pages sit in pagevecs. The machine must be at
// rest for the number to be exact.
func (m *Map) PagevecPages() int {
	n := 0
	for i := range m.cpus {
		s := &m.cpus[i]
		n += s.rotate.n
		for l := range s.lruAdd {
			n += s.lruAdd[l].n
		}
	}
	return n
}

// ReleasePages drops a reference of the given kind on each page
// (release_pages). Those that were the last take their pages off the LRU lists
// under one hold of the lock where they follow each other. cold says that the
// pages are not in the CPU's cache.
func (m *Map) ReleasePages(t *sched.Task, pages []x86.PFN, kind RefKind, cold bool) {
	releasePages(t, m, pages, kind, cold)
}

func (m *Map) releasePages(t *sched.Task, pages []uint32, kind RefKind, cold bool) {
	releasePages(t, m, pages, kind, cold)
}

// releaseBatch is how many pages are freed together; the LRU lock is not held
// while they are.
const releaseBatch = PagevecSize

func releasePages[T ~uint32](t *sched.Task, m *Map, pages []T, kind RefKind, cold bool) {
	var z *zone
	off := false
	var dead [releaseBatch]uint32
	n := 0
	for _, pfn := range pages {
		p := m.page(uint32(pfn))
		if p.Flags.Peek()&compoundFlags != 0 {
			if z != nil {
				z.lruLock.UnlockIRQRestore(t, off)
				z = nil
			}
			m.PutAs(t, p, kind)
			continue
		}
		if !m.putTestZero(t, p, kind, 1) {
			continue
		}
		if p.Flags.Peek()&(1<<LRU) != 0 {
			if home := m.zoneOf(uint32(pfn)); home != z {
				if z != nil {
					z.lruLock.UnlockIRQRestore(t, off)
				}
				z = home
				off = z.lruLock.LockIRQSave(t)
				t.WriteOf(z, "lru")
			}
			m.delFreedFromLRU(t, z, p)
		}
		dead[n] = uint32(pfn)
		if n++; n == releaseBatch {
			if z != nil {
				z.lruLock.UnlockIRQRestore(t, off)
				z = nil
			}
			m.freeDead(t, dead[:n], cold)
			n = 0
		}
	}
	if z != nil {
		z.lruLock.UnlockIRQRestore(t, off)
	}
	m.freeDead(t, dead[:n], cold)
}

// freeDead frees pages without references (__pagevec_free).
func (m *Map) freeDead(t *sched.Task, pages []uint32, cold bool) {
	for _, pfn := range pages {
		m.freeHotCold(t, m.page(pfn), cold)
	}
}
