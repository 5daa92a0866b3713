package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Merging and splitting of VMAs, as Linux 2.6.29 mm/mmap.c does it.
//
// Two neighbours are one VMA if nobody could tell: same flags, same backing object
// with offsets that go on, same anon_vma or only one of them has one, nobody to be
// told when a VMA goes. What 2.6.29 does not look at, and later kernels do, is
// whether an anon_vma came from a fork: there is one list for all relatives.

// mergeKey is what a stretch of memory must share with its neighbour to merge
// with it. The page offset is that of the stretch's start.
type mergeKey struct {
	flags   VMFlags
	anon    *AnonVMA
	mapping *AddressSpace
	file    VMFile
	pgoff   uint64
	policy  uint64
}

// keyAt describes the part of v from addr on, with other flags.
func (v *VMA) keyAt(addr uint64, flags VMFlags) mergeKey {
	return mergeKey{flags: flags, anon: v.anonVMA(), mapping: v.Mapping, file: v.File,
		pgoff: v.Index(addr), policy: v.Policy}
}

// VMOps is what a VMFile implements that wants to know of VMAs that come and go
// (vm_operations_struct's open and close). A VMA of such a file never merges.
type VMOps interface {
	// Open is called when a VMA is duplicated, by fork or by a split, and Close
	// before one goes. mmap_sem is held for writing, except at exit.
	Open(t *sched.Task, v *VMA)
	Close(t *sched.Task, v *VMA)
}

// ops returns the file's VMOps, nil if it has none.
func (v *VMA) ops() VMOps {
	o, _ := v.File.(VMOps)
	return o
}

// isMergeableVMA compares everything but offsets and anon_vmas
// (is_mergeable_vma, and mpol_equal).
func isMergeableVMA(v *VMA, k *mergeKey) bool {
	return v.Flags == k.flags && v.Mapping == k.mapping && v.File == k.file &&
		v.Policy == k.policy && v.Flags&VMHugetlb == 0 && v.ops() == nil
}

// isMergeableAnonVMA reports whether two anon_vmas can be one
// (is_mergeable_anon_vma).
func isMergeableAnonVMA(a, b *AnonVMA) bool { return a == nil || b == nil || a == b }

// canVMAMergeBefore reports whether a stretch whose end has the key k can
// be put in front of v (can_vma_merge_before): pgoff is that of its end.
func canVMAMergeBefore(v *VMA, k *mergeKey, pgoff uint64) bool {
	return isMergeableVMA(v, k) && isMergeableAnonVMA(k.anon, v.anonVMA()) && v.PgOff == pgoff
}

// canVMAMergeAfter reports whether a stretch with the key k can be put behind v
// (can_vma_merge_after).
func canVMAMergeAfter(v *VMA, k *mergeKey) bool {
	return isMergeableVMA(v, k) && isMergeableAnonVMA(k.anon, v.anonVMA()) && v.PgOff+v.Pages() == k.pgoff
}

// vmaMerge looks whether [addr, end), which has or is about to get the key k, can
// become part of prev or of what follows, and makes it so. It returns the VMA that
// then contains the stretch, nil if nothing merged. prev is the VMA before the
// stretch, or the one in whose middle or at whose end the stretch lies. The cases are
// numbered as in Linux 2.6.29 mm/mmap.c:vma_merge, P is prev, N what is behind
// the stretch, A the stretch, which in the first row is a hole or goes at once and
// in the others is (part of) a VMA already:
//
//	  AAAA             AAAA                 AAAA
//	PP    NN         PP    NNN            PP    NNN
//	1: PPPPPPPP      2: PPPPPP NNN        3: PP NNNNNNN
//
//	   AAAA               AAAA                AAAA                AAAA
//	PPPPPPNNN          PPPPNNNNN           PPPPNNNNXX          PPPPNNNNXX
//	4: PP NNNNNNN      5: PPPPPPPPN        6: PPPPPPPPPP       7: PPPPPPPPXX, 8: PPPPNNNNNN
//
// The caller changes flags and protection of the stretch; they are not vmaMerge's
// business.
//
// Preconditions:
//   - mmap_sem is held for writing
func (m *MM) vmaMerge(t *sched.Task, prev *VMA, addr, end uint64, k mergeKey) *VMA {
	if k.flags&VMSpecial != 0 {
		return nil
	}
	pglen := (end - addr) >> x86.PageShift
	next := m.afterVMA(prev)
	area := next
	if next != nil && next.End == end { // cases 6, 7, 8
		next = m.nextVMA(next)
	}
	after := next != nil && end == next.Start && canVMAMergeBefore(next, &k, k.pgoff+pglen)

	if prev != nil && prev.End == addr && canVMAMergeAfter(prev, &k) {
		if after && isMergeableAnonVMA(prev.anonVMA(), next.anonVMA()) { // cases 1, 6
			m.vmaAdjust(t, prev, prev.Start, next.End, prev.PgOff, nil)
		} else { // cases 2, 5, 7
			m.vmaAdjust(t, prev, prev.Start, end, prev.PgOff, nil)
		}
		return prev
	}
	if after {
		if prev != nil && addr < prev.End { // case 4
			m.vmaAdjust(t, prev, prev.Start, addr, prev.PgOff, nil)
		} else { // cases 3, 8
			m.vmaAdjust(t, area, addr, next.End, next.PgOff-pglen, nil)
		}
		return area
	}
	return nil
}

// vmaAdjust gives v new bounds, and its neighbour behind what that leaves to it: the
// neighbour is swallowed, loses its beginning, or gets v's end. Or it inserts
// insert, the other part of a split of v. Linux 2.6.29 mm/mmap.c:vma_adjust.
//
// Whoever comes from a page finds its VMAs on the lists of the anon_vma or the
// mapping, and reads their bounds under the lock of that list; so both locks are held
// while bounds change. A VMA that takes over pages takes over the anon_vma too, before
// it does.
//
// Preconditions:
//   - mmap_sem is held for writing
func (m *MM) vmaAdjust(t *sched.Task, v *VMA, start, end, pgoff uint64, insert *VMA) {
	for again := true; again; {
		again = m.vmaAdjustOnce(t, v, start, end, pgoff, insert)
	}
}

// vmaAdjustOnce is vmaAdjust up to the first neighbour that is swallowed; it
// reports whether there is another one (mprotect's case 6).
func (m *MM) vmaAdjustOnce(t *sched.Task, v *VMA, start, end, pgoff uint64, insert *VMA) (again bool) {
	var (
		next     = m.nextVMA(v)
		importer *VMA     // who takes over pages from a neighbour
		anon     *AnonVMA // whose lock is needed
		remove   bool     // next is swallowed
		shift    int64    // by how many bytes next's start moves
	)
	if next != nil && insert == nil {
		switch {
		case end >= next.End:
			remove, again = true, end > next.End
			end = next.End
			anon, importer = next.AnonVMA, v
		case end > next.Start: // case 5
			shift = int64(end - next.Start)
			anon, importer = next.AnonVMA, v
		case end < v.End: // case 4; where a split shrinks v, insert is set
			shift = -int64(v.End - end)
			anon, importer = next.AnonVMA, next
		}
	}
	mapping := v.Mapping
	if mapping != nil {
		mapping.IMmapLock.Lock(t)
		if insert != nil {
			mapping.linkLocked(t, insert)
		}
	}
	if v.AnonVMA != nil {
		anon = v.AnonVMA
	}
	if anon != nil {
		anon.Lock.Lock(t)
		if importer != nil && importer.AnonVMA == nil {
			importer.AnonVMA = anon
			anonVMALinkLocked(t, importer)
		}
	}

	switch {
	case remove:
		m.treeRemove(next)
		if mapping != nil {
			mapping.unlinkLocked(t, next)
		}
		if next.AnonVMA != nil {
			anonVMAMerge(t, v, next)
		}
	case shift < 0: // v ends earlier: free the key before next takes the pages
	case shift > 0:
		next.Start += uint64(shift)
		next.PgOff += uint64(shift) >> x86.PageShift
	}
	t.WriteOf(m, "mm.vmas")
	t.WriteOf(v, "vma.bounds")
	if shift != 0 {
		t.WriteOf(next, "vma.bounds")
	}
	m.setBounds(v, start, end, pgoff)
	if shift < 0 {
		next.Start -= uint64(-shift)
		next.PgOff -= uint64(-shift) >> x86.PageShift
	}
	if insert != nil {
		m.treeInsert(insert)
		anonVMALinkLocked(t, insert)
	}

	if anon != nil {
		anon.Lock.Unlock(t)
	}
	if mapping != nil {
		mapping.IMmapLock.Unlock(t)
	}
	if remove && next.File != nil {
		next.File.Put(t)
	}
	return again
}

// splitVMA splits v at addr, which lies within it. The new VMA is the lower part if
// newBelow is set, else the upper; v stays the other one. Linux 2.6.29
// mm/mmap.c:split_vma.
//
// The error is ENOMEM if the address space has too many VMAs, EINVAL if v is of
// huge pages and addr within one.
//
// Preconditions:
//   - mmap_sem is held for writing
func (m *MM) splitVMA(t *sched.Task, v *VMA, addr uint64, newBelow bool) error {
	if addr&(v.KernelPageSize()-1) != 0 {
		return unix.EINVAL
	}
	if m.MapCount >= maxMapCount {
		return unix.ENOMEM
	}
	if m.Sys.Pages.FailSite(t, siteVMA) {
		return unix.ENOMEM
	}
	n := m.copyVMA(v)
	pages := (addr - v.Start) >> x86.PageShift
	if newBelow {
		n.End = addr
	} else {
		n.Start = addr
		n.PgOff += pages
	}
	if n.File != nil {
		n.File.Get(t)
	}
	if o := n.ops(); o != nil {
		o.Open(t, n)
	}
	if newBelow {
		m.vmaAdjust(t, v, addr, v.End, v.PgOff+pages, n)
	} else {
		m.vmaAdjust(t, v, v.Start, addr, v.PgOff, n)
	}
	return nil
}

// copyVMA allocates a copy of v that is on no list. It copies the links along with
// the rest, which others may be changing under the lists' locks, and forgets them.
//
//go:norace
func (m *MM) copyVMA(v *VMA) *VMA {
	n := new(VMA)
	*n = *v
	n.anonPrev, n.anonNext, n.mapPrev, n.mapNext = nil, nil, nil, nil
	return n
}

// findMergeableAnonVMA returns the anon_vma of a neighbour that v may merge with,
// now or after an mprotect, so that the two have one and the merge can happen;
// nil if there is none. Linux 2.6.29 mm/mmap.c:find_mergeable_anon_vma.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func findMergeableAnonVMA(t *sched.Task, v *VMA) *AnonVMA {
	const perms = VMRead | VMWrite | VMExec
	m := v.MM
	// Differing permissions do not count: mprotect may make them equal.
	if near := m.nextVMA(v); near != nil && near.Start == v.End {
		k := v.keyAt(v.Start, v.Flags&^perms|near.Flags&perms)
		k.anon = nil
		if a := near.seeAnonVMA(t); a != nil && canVMAMergeBefore(near, &k, v.PgOff+v.Pages()) {
			return a
		}
	}
	if _, near := m.findVMAPrev(t, v.Start); near != nil && near.End == v.Start {
		k := v.keyAt(v.Start, v.Flags&^perms|near.Flags&perms)
		k.anon = nil
		if a := near.seeAnonVMA(t); a != nil && canVMAMergeAfter(near, &k) {
			return a
		}
	}
	return nil
}
