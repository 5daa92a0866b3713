package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// copyHugetlbPageRange copies the ptes of f.SrcVMA, which is of huge pages, for fork. Linux
// 2.6.29 mm/hugetlb.c:copy_hugetlb_page_range. The parent's TLBs are flushed at the end of
// fork, as for small pages.
//
// Preconditions:
//   - both mmap_sems are held for writing
func (s *System) copyHugetlbPageRange(f *Fork) error {
	t, v := f.T, f.SrcVMA
	h := v.hstate()
	f.SrcPTL, f.DstPTL = &f.Src.PageTableLock, &f.Dst.PageTableLock
	for addr := v.Start; addr < v.End; addr += h.size {
		src, ok := f.Src.hugePTEOffset(t.C, addr, h)
		if !ok {
			continue
		}
		dst, err := f.Dst.hugePTEAlloc(t, addr, h)
		if err != nil {
			return err
		}
		f.Addr, f.SrcPTE, f.DstPTE = addr, src, dst
		f.Lock()
		f.PTE = src.Load(t.C)
		next := ForkGo
		switch {
		case f.PTE.None():
			f.Unlock()
		case v.Flags.IsCOW() && v.Flags&VMDontCOW != 0:
			next = f.hugeDontCOW()
		case s.hooks&HookForkHuge != 0:
			next = s.policy.ForkHuge(f)
		default:
			f.CopyOneHuge()
			f.Unlock()
		}
		if next == ForkNoMem {
			return unix.ENOMEM
		}
	}
	return nil
}

// CopyOneHuge copies one huge pte as 2.6.29 does: write-protected in the parent of a COW
// mapping, and the same in the child. Nobody asks whether the page is pinned.
//
// Preconditions:
//   - both page_table_locks are held; f.PTE is the entry at f.SrcPTE, and not empty
func (f *Fork) CopyOneHuge() {
	if f.SrcVMA.Flags.IsCOW() {
		if f.PTE.Write() {
			f.T.C.Trace.Inc(trace.EmuForkWrprotect)
		}
		f.SrcPTE.SetWrprotect(f.T.C)
	}
	e, s, c := f.SrcPTE.Load(f.T.C), f.Src.Sys, f.T.C
	s.Pages.GetAs(f.T, s.Pages.Page(e.PFN()), page.RefMap)
	s.hugeMapped(f.T, f.DstVMA, s.Pages.Page(e.PFN()), false /* anon */)
	f.DstPTE.Set(c, e)
	c.Trace.Inc(trace.EmuForkPages)
	if c.Trace.On() {
		f.event(f.Addr, e, f.SrcVMA.Flags.IsCOW())
	}
}

// HugeCOWChild breaks COW for the child, in the middle of fork: its entry at f.Addr is e,
// and not writable. cached is as in HugetlbCOW. The child's page_table_lock is taken and
// dropped. ForkNoMem if the pool has no page that nobody was promised; ForkGo also if the entry has been
// emptied meanwhile, by truncation.
//
// Preconditions:
//   - no spinlock is held
func (f *Fork) HugeCOWChild(e x86.PTE, cached *page.Page) ForkNext {
	t, s := f.T, f.Src.Sys
	ts := stateOf(t)
	x := ts.fault()
	*x = Fault{T: t, MM: f.Dst, VMA: f.DstVMA, Addr: f.Addr, Write: true, PTE: f.DstPTE, Orig: e, PTL: f.DstPTL}
	x.Lock()
	// Truncated while the lock was dropped? Then the page may be gone. Nobody but who holds the lock changes
	// the entry of a child that does not run, so that the look needs no point of its own.
	if x.PTE.Peek() != e {
		x.Unlock()
		ts.endFault()
		t.C.Trace.Inc(trace.EmuForkRetries)
		return ForkGo
	}
	ret := s.HugetlbCOW(x, cached)
	x.Unlock()
	ts.endFault()
	if ret&VMFaultError != 0 {
		return ForkNoMem
	}
	t.C.Trace.Inc(trace.EmuForkCopies)
	return ForkGo
}

// hugeMapped counts an entry that is about to map a huge page, for a policy that wants it
// counted; anon says that the page is new and private. The page_table_lock is held.
func (s *System) hugeMapped(t *sched.Task, v *VMA, p *page.Page, anon bool) {
	if s.hooks&HookHugeRmap == 0 {
		return
	}
	if anon {
		s.policy.HugeAnonNew(t, p, v)
	}
	s.Pages.DupMap(t, p)
}

// hugeUnmapped counts one that is gone.
func (s *System) hugeUnmapped(t *sched.Task, p *page.Page) {
	if s.hooks&HookHugeRmap != 0 {
		s.Pages.DecMap(t, p)
	}
}

// hugeDontCOW is copyDontCOWPTE for a huge page: the child gets a copy at once, and the
// parent's entry is writable again afterwards. Both locks are held and dropped.
func (f *Fork) hugeDontCOW() ForkNext {
	t, s, orig := f.T, f.Src.Sys, f.PTE
	f.CopyOneHuge()
	e := f.DstPTE.Load(t.C)
	f.Unlock()
	s.FlushTLBRange(t, f.SrcVMA, f.Addr, f.Addr+f.SrcVMA.hstate().size)
	next := f.HugeCOWChild(e, nil)
	if orig.Write() {
		f.SrcPTL.Lock(t)
		if now := f.SrcPTE.Load(t.C); now.Present() && now.PFN() == orig.PFN() { // not truncated
			f.SrcPTE.Set(t.C, now.MkWrite())
		}
		f.SrcPTL.Unlock(t)
	}
	return next
}

// unmapHugepageRange empties the entries of [start, end) of v, whole huge pages
// (unmap_hugepage_range).
func (s *System) unmapHugepageRange(t *sched.Task, v *VMA, start, end uint64) {
	as := v.Mapping
	as.IMmapLock.Lock(t)
	s.unmapHugepages(t, v, start, end, nil)
	as.IMmapLock.Unlock(t)
}

// unmapHugepages empties the entries of [start, end) of v, flushes, and then drops the
// references: the order that gup-fast relies on. If only is set it is that page alone that
// is unmapped, and v is marked as having lost it. Linux 2.6.29
// mm/hugetlb.c:__unmap_hugepage_range, which strings the pages on a list of their own.
//
// Preconditions:
//   - i_mmap_lock of v's file is held
func (s *System) unmapHugepages(t *sched.Task, v *VMA, start, end uint64, only *page.Page) {
	m, h, ts := v.MM, v.Mapping.huge.h, stateOf(t) // not hstate: the flags are mmap_sem's, which truncation does not hold
	if (start|end)&(h.size-1) != 0 {
		t.Oops("__unmap_hugepage_range: %#x-%#x is not whole pages of %#x", start, end, h.size)
	}
	gone := ts.huge[:0]
	m.mmuNotifierInvalidateRangeStart(t, start, end)
	m.flushBegin()
	m.PageTableLock.Lock(t)
	for addr := start; addr < end; addr += h.size {
		ref, ok := m.hugePTEOffset(t.C, addr, h)
		if !ok {
			continue
		}
		if only != nil {
			e := ref.Load(t.C)
			if e.None() || s.Pages.Page(e.PFN()) != only {
				continue
			}
			v.resv.unmapped = true
		}
		e := ref.Xchg(t.C, 0)
		if e.None() {
			continue
		}
		p := s.Pages.Page(e.PFN())
		if e.Dirty() {
			s.SetPageDirty(t, p)
		}
		s.hugeUnmapped(t, p)
		gone = append(gone, e.PFN())
	}
	m.PageTableLock.Unlock(t)
	s.FlushTLBRange(t, v, start, end)
	m.flushEnd()
	m.mmuNotifierInvalidateRangeEnd(t, start, end)
	for i := len(gone) - 1; i >= 0; i-- { // list_add: the last one first
		s.Pages.PutAs(t, s.Pages.Page(gone[i]), page.RefMap)
	}
	ts.huge = gone[:0]
	t.C.Trace.Event(trace.EvZap, t.C.Now(), start, uint64(len(gone)), 0)
}

// ClearBadHuge does to the entries of v, which is of huge pages, what a walk over page tables
// does that does not expect any: pmd_none_or_clear_bad, pud_none_or_clear_bad of Linux
// 2.6.29. An entry with PSE is no pointer to a table, so it is reported and emptied. Nobody
// flushes, and the page keeps the reference, which is nobody's from then on. For a policy.
//
// Preconditions:
//   - mmap_sem is held for writing
func (v *VMA) ClearBadHuge(t *sched.Task) {
	m, h, pm := v.MM, v.hstate(), v.MM.Sys.Pages
	for addr := v.Start; addr < v.End; addr += h.size {
		ref, ok := m.hugePTEOffset(t.C, addr, h)
		if !ok {
			continue
		}
		e := ref.Load(t.C)
		if e.None() {
			continue
		}
		t.Warn("bad pmd %v at %#x", e, addr)
		ref.Set(t.C, 0)
		TracePTE(t, addr, e, 0)
		m.badCleared = true
		p := pm.Page(e.PFN())
		m.Sys.hugeUnmapped(t, p)
		pm.Relabel(t, p, page.RefMap, page.RefTemp, 1)
	}
}

// hugetlbChangeProtection gives the entries of [start, end) v's protection, and then
// flushes. Linux 2.6.29 mm/hugetlb.c:hugetlb_change_protection. A private page becomes
// read-only whatever the permission, so the next store asks who refers to it.
func (s *System) hugetlbChangeProtection(t *sched.Task, v *VMA, start, end uint64) (changed int) {
	m, h, as := v.MM, v.hstate(), v.Mapping
	as.IMmapLock.Lock(t)
	m.PageTableLock.Lock(t)
	for addr := start; addr < end; addr += h.size {
		ref, ok := m.hugePTEOffset(t.C, addr, h)
		if !ok || ref.Load(t.C).None() {
			continue
		}
		old := ref.Xchg(t.C, 0)
		e := old.Modify(v.Prot).MkHuge()
		ref.Set(t.C, e)
		TracePTE(t, addr, old, e)
		changed++
	}
	m.PageTableLock.Unlock(t)
	as.IMmapLock.Unlock(t)
	s.FlushTLBRange(t, v, start, end)
	return changed
}
