package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// What the core is built from, and policies may be built from too: a patch to the
// kernel can be written down line by line with these.

// MkPTE makes the entry that maps p in v: mk_pte(page, vma->vm_page_prot).
func (s *System) MkPTE(p *page.Page, v *VMA) x86.PTE { return x86.MkPTE(s.Pages.PFN(p), v.Prot) }

// MaybeMkWrite makes the entry writable if the VMA is: get_user_pages with force
// raises write faults in VMAs that are not, and gets a read-only copy.
func MaybeMkWrite(e x86.PTE, v *VMA) x86.PTE {
	if v.Flags&VMWrite != 0 {
		return e.MkWrite()
	}
	return e
}

// TracePTE records that an entry of the last level was changed, after the fact: policies that
// set one themselves call it too.
func TracePTE(t *sched.Task, addr uint64, old, e x86.PTE) {
	t.C.Trace.Event(trace.EvPTESet, t.C.Now(), addr, uint64(old), uint64(e))
}

// PtepClearFlush empties an entry and flushes the address on every CPU; it returns
// what the entry was, with the A and D bits that the hardware set until then
// (ptep_clear_flush).
//
// Preconditions:
//   - the ptl of the entry is held, interrupts are enabled
func (s *System) PtepClearFlush(t *sched.Task, v *VMA, addr uint64, ref x86.PTERef) x86.PTE {
	v.MM.flushBegin()
	pte := ref.Xchg(t.C, 0)
	TracePTE(t, addr, pte, 0)
	s.FlushTLBPage(t, v, addr)
	v.MM.flushEnd()
	return pte
}

// PtepSetAccessFlags replaces an entry by one that permits more and says so of
// itself, and reports whether it differed. Where only A changed nothing is
// written: the hardware sets A by itself (ptep_set_access_flags on x86).
//
// Preconditions:
//   - the ptl of the entry is held
func (s *System) PtepSetAccessFlags(t *sched.Task, v *VMA, addr uint64, ref x86.PTERef, e x86.PTE, dirty bool) bool {
	old := ref.Load(t.C)
	changed := old != e
	if changed && dirty {
		ref.Set(t.C, e)
		TracePTE(t, addr, old, e)
		s.FlushTLBPage(t, v, addr)
	}
	return changed
}

// CowUserPage copies old to dst (cow_user_page). No lock need be held, and none
// keeps a device from writing old meanwhile.
func (s *System) CowUserPage(t *sched.Task, dst, old *page.Page) {
	to, from := s.Pages.PFN(dst), s.Pages.PFN(old)
	t.C.Trace.Event(trace.EvPageCopyBegin, t.C.Now(), uint64(to), uint64(from), 0)
	// kmap_atomic: the task must not change CPUs in the middle of the copy.
	t.PreemptDisable()
	s.Mem.CopyPage(t.C, to, from)
	if t.C.Det && old.Count.Peek() == 0 {
		t.Oops("cow_user_page: pfn %#x was freed while it was copied", from)
	}
	t.PreemptEnable()
	t.C.Trace.Event(trace.EvPageCopyEnd, t.C.Now(), uint64(to), uint64(from), 0)
}

// copyFromUserAddress fills p from the current address space's addr, for a page
// behind which stands no struct Page; zeroes if it cannot be read.
func (s *System) copyFromUserAddress(t *sched.Task, p *page.Page, addr uint64) {
	buf := make([]byte, x86.PageSize)
	t.PreemptDisable()
	if n, ec := t.C.ReadBytes(addr, buf); ec != x86.NoFault {
		clear(buf[:n])
	}
	s.Mem.WriteFrame(t.C, s.Pages.PFN(p), 0, buf)
	t.PreemptEnable()
}

// ClearPageMlock takes the mark of a locked VMA off a page that is about to be
// another process's alone (clear_page_mlock, with the page lock around it).
func (s *System) ClearPageMlock(t *sched.Task, p *page.Page) {
	s.Pages.LockPage(t, p)
	if s.Pages.TestAndClear(t, p, page.Mlocked) {
		t.C.Trace.Dec(trace.NrMlock)
		t.C.Trace.Inc(trace.UnevictablePGsCleared)
		if s.Pages.IsolateLRU(t, p) {
			s.Pages.PutbackLRU(t, p)
		} else if p.Has(page.Unevictable) {
			t.C.Trace.Inc(trace.UnevictablePGsStranded)
		}
	}
	s.Pages.UnlockPage(t, p)
}

// AllocUserPage allocates a page for a user mapping (alloc_page_vma with
// GFP_HIGHUSER_MOVABLE), not cleared; nil if there is no memory. site is for
// failure injection. The task must be able to sleep.
func (s *System) AllocUserPage(t *sched.Task, site string) *page.Page {
	return s.Pages.Alloc(t, page.GFPHighUserMovable, 0, site)
}

// TryToFreeSwap takes p out of the swap cache if no pte needs its entry, and reports
// whether it did (try_to_free_swap). The caller has the page locked.
func (s *System) TryToFreeSwap(t *sched.Task, p *page.Page) bool { return s.tryToFreeSwap(t, p) }

// MapSwapCount returns how many ptes map p, and how many entries stand for it if it is in
// the swap cache (page_mapcount plus page_swapcount). The page need not be locked.
func (s *System) MapSwapCount(t *sched.Task, p *page.Page) int {
	n := s.Pages.MapRefs(t, p)
	if s.Pages.TestFlag(t, p, page.SwapCache) {
		n += s.racySwapcount(t, p)
	}
	return n
}

// InvalidateRangeStart tells the address space's notifiers that ptes of [start, end) are
// about to change (mmu_notifier_invalidate_range_start), InvalidateRangeEnd that they have.
// No spinlock is held.
func (m *MM) InvalidateRangeStart(t *sched.Task, start, end uint64) {
	m.mmuNotifierInvalidateRangeStart(t, start, end)
}

// InvalidateRangeEnd is the end of InvalidateRangeStart.
func (m *MM) InvalidateRangeEnd(t *sched.Task, start, end uint64) {
	m.mmuNotifierInvalidateRangeEnd(t, start, end)
}

// CurrentFault returns the page fault that the task is in, the innermost one; nil if
// there is none. Hooks that are not given the fault, such as AnonNew, learn from it where
// they are called from: f.Orig is none, an entry of swap, or present in do_wp_page.
func CurrentFault(t *sched.Task) *Fault {
	ts := stateOf(t)
	if ts.depth == 0 || ts.depth > maxNested {
		return nil
	}
	return &ts.faults[ts.depth-1]
}

// Lock takes the ptl of the fault's entry.
func (f *Fault) Lock() { f.PTL.Lock(f.T) }

// Unlock drops it.
func (f *Fault) Unlock() { f.PTL.Unlock(f.T) }

// Same reports whether the entry is still what the fault found (pte_same): a
// visible read.
func (f *Fault) Same() bool { return f.PTE.Load(f.T.C) == f.Orig }

// Lock takes both ptls of fork's current tables, in the order that fork takes
// them: the child's, which nobody else can hold for long, and then the parent's.
func (f *Fork) Lock() {
	f.DstPTL.Lock(f.T)
	f.SrcPTL.LockNested(f.T)
}

// Unlock drops both ptls and adds up the mappings made under them.
func (f *Fork) Unlock() {
	f.SrcPTL.Unlock(f.T)
	f.FlushRSS()
	f.DstPTL.Unlock(f.T)
}

// FlushRSS adds the mappings counted in f.Anon and f.File to the child's
// (add_mm_rss).
func (f *Fork) FlushRSS() {
	if f.Anon != 0 {
		f.Dst.AnonRSS.RawAdd(uint64(f.Anon))
	}
	if f.File != 0 {
		f.Dst.FileRSS.RawAdd(uint64(f.File))
	}
	f.Anon, f.File = 0, 0
}

// AddMapping counts the child's mapping of p: a reference, a mapping, a page of
// rss. The child's entry is the caller's to set.
//
// Preconditions:
//   - both ptls are held and the parent's entry maps p
func (f *Fork) AddMapping(p *page.Page) {
	s := f.Src.Sys
	s.Pages.GetAs(f.T, p, page.RefMap)
	s.PageDupRmap(f.T, p, f.SrcVMA, f.Addr)
	if p.Anon() {
		f.Anon++
	} else {
		f.File++
	}
}

// DropMapping undoes AddMapping.
func (f *Fork) DropMapping(p *page.Page) {
	s := f.Src.Sys
	if p.Anon() {
		f.Anon--
	} else {
		f.File--
	}
	s.PageRemoveRmap(f.T, p)
	s.Pages.PutAs(f.T, p, page.RefMap)
}

// SetChildPage maps p, an anonymous page that nobody else has, in the child: dirty
// and writable if the VMA is. The reference of the caller becomes the entry's.
//
// Preconditions:
//   - both ptls are held and the child's entry is empty
//   - AnonVMAPrepare has been called for the child's VMA
func (f *Fork) SetChildPage(p *page.Page) {
	s := f.Src.Sys
	p.PokeSet(page.Uptodate)
	s.Pages.Relabel(f.T, p, page.RefTemp, page.RefMap, 1)
	s.PageAddNewAnonRmap(f.T, p, f.DstVMA, f.Addr)
	f.DstPTE.Set(f.T.C, MaybeMkWrite(s.MkPTE(p, f.DstVMA).MkDirty(), f.DstVMA))
	f.T.C.Trace.Inc(trace.EmuForkCopies)
	f.T.C.Trace.Event(trace.EvForkPTE, f.T.C.Now(), f.Addr, uint64(s.Pages.PFN(p)), trace.ForkCopied)
	f.Anon++
}

// CopyToChild gives the child a copy of the page that the parent's entry maps now,
// dropping both ptls for the allocation and the copy. It reports ForkGo if the
// child's entry is set, ForkAgain if the parent's has changed meanwhile and nothing
// was done, and ForkNoMem. Both ptls are held before and after.
//
// Preconditions:
//   - f.PTE is the parent's entry, f.Page the page that it maps
//   - the child's entry is empty
func (f *Fork) CopyToChild(site string) ForkNext {
	t, s := f.T, f.Src.Sys
	pte, old := f.SrcPTE.Load(t.C), f.Page
	s.Pages.Get(t, old)
	f.Unlock()
	var p *page.Page
	if AnonVMAPrepare(t, f.DstVMA) == nil {
		p = s.AllocUserPage(t, site)
	}
	if p != nil {
		s.CowUserPage(t, p, old)
	}
	f.Lock()
	next := ForkGo
	switch {
	case p == nil:
		next = ForkNoMem
	case f.SrcPTE.Load(t.C) != pte:
		next = ForkAgain
		t.C.Trace.Inc(trace.EmuForkRetries)
		s.Pages.Put(t, p)
	default:
		f.SetChildPage(p)
	}
	s.Pages.Put(t, old)
	return next
}
