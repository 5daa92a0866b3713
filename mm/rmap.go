package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Reverse mapping: from a page to the ptes that map it. Linux 2.6.29 mm/rmap.c.
//
//	            forward                             reverse
//	address --> VMA --> page tables --> pte --> page --> Mapping, Index --> AnonVMA or
//	                                     ^                                 AddressSpace
//	                                     +------ VMA.Start + (Index - PgOff) <-- VMAs
//
// Page.MapCount says how many ptes there are, so a walk knows when to stop. It
// is changed under the ptl of the pte that comes or goes, but ptes of one page
// have different ptls: the count is atomic.

// PageAddNewAnonRmap makes p, which nobody else has seen yet, an anonymous page
// mapped once, at addr of v, and puts it on its way to the active list. Linux
// 2.6.29 page_add_new_anon_rmap.
//
// Preconditions:
//   - AnonVMAPrepare has been called for v
//   - the ptl of the entry at addr is held; the entry is set afterwards
func (s *System) PageAddNewAnonRmap(t *sched.Task, p *page.Page, v *VMA, addr uint64) {
	if addr < v.Start || addr >= v.End {
		t.Oops("anonymous page at %#x outside VMA %#x-%#x", addr, v.Start, v.End)
	}
	p.PokeSet(page.SwapBacked)
	p.MapCount.Poke(1)
	s.pageSetAnonRmap(t, p, v, addr)
	if s.hooks&HookAnonNew != 0 {
		s.policy.AnonNew(t, p, v)
	}
	if !v.racyLocked(t) { // a policy may come from rmap
		s.Pages.LRUCacheAdd(t, p, page.ActiveAnon)
	} else {
		p.PokeSet(page.Mlocked)
		t.C.Trace.Inc(trace.NrMlock)
		t.C.Trace.Inc(trace.UnevictablePGsMlocked)
		s.Pages.AddToUnevictable(t, p)
	}
}

// pageSetAnonRmap is __page_set_anon_rmap.
func (s *System) pageSetAnonRmap(t *sched.Task, p *page.Page, v *VMA, addr uint64) {
	a := v.anonVMA()
	if a == nil {
		t.Oops("anonymous page at %#x of a VMA without anon_vma", addr)
	}
	p.Mapping = a.handle()
	p.Index = v.Index(addr)
	t.C.Trace.Inc(trace.NrAnonPages)
}

// PageAddAnonRmap counts a mapping, at addr of v, of an anonymous page that
// comes from the swap cache (page_add_anon_rmap).
//
// Preconditions:
//   - p is locked, and the ptl of the entry is held
func (s *System) PageAddAnonRmap(t *sched.Task, p *page.Page, v *VMA, addr uint64) {
	if s.Pages.IncMap(t, p) == 1 {
		s.pageSetAnonRmap(t, p, v, addr)
	} else {
		s.pageCheckAnonRmap(t, p, v, addr)
	}
}

// PageAddFileRmap counts a mapping of a page of the page cache
// (page_add_file_rmap). The ptl of the entry is held.
func (s *System) PageAddFileRmap(t *sched.Task, p *page.Page) {
	if s.Pages.IncMap(t, p) == 1 {
		t.C.Trace.Inc(trace.NrMapped)
	}
}

// PageDupRmap counts one more mapping, at addr of v, of a page that is mapped
// already (page_dup_rmap). This is fork's loop.
//
// Preconditions:
//   - the ptl of a pte that maps the page is held
func (s *System) PageDupRmap(t *sched.Task, p *page.Page, v *VMA, addr uint64) {
	if s.M.CheckLocks() && p.Anon() && !p.KSM() {
		s.pageCheckAnonRmap(t, p, v, addr)
	}
	s.Pages.DupMap(t, p)
}

// pageCheckAnonRmap stops the machine if rmap would not find an anonymous page
// at addr of v (__page_check_anon_rmap, of debug kernels).
//
//go:noinline
func (s *System) pageCheckAnonRmap(t *sched.Task, p *page.Page, v *VMA, addr uint64) {
	a := v.anonVMA()
	if a == nil || p.Mapping != a.handle() || p.Index != v.Index(addr) {
		t.Oops("pfn %#x at %#x of VMA %#x-%#x has mapping %#x index %#x, which is not there",
			s.Pages.PFN(p), addr, v.Start, v.End, p.Mapping, p.Index)
	}
}

// PageRemoveRmap counts one mapping less (page_remove_rmap). Mapping and Index
// stay until the page is freed: somebody may be mapping it again.
//
// Preconditions:
//   - the ptl of the entry that went is held
//   - for a page that stays in use: the TLBs that could still use the entry have
//     been flushed (do_wp_page), or the reference outlives the flush (mmu_gather)
func (s *System) PageRemoveRmap(t *sched.Task, p *page.Page) {
	if s.Pages.DecMap(t, p) == 0 {
		if p.Anon() {
			t.C.Trace.Dec(trace.NrAnonPages)
		} else {
			t.C.Trace.Dec(trace.NrMapped)
		}
	}
}

// vmaAddress returns where in v the page with the given index is (vma_address).
func vmaAddress(index uint64, v *VMA) (addr uint64, ok bool) {
	addr = v.Start + (index-v.PgOff)<<x86.PageShift
	return addr, addr >= v.Start && addr < v.End
}

// walkTable goes down the tables of mm to the last-level table that translates
// addr, reading each entry without a lock, and returns that table; false if
// there is none, or if a huge page is in its place.
func (m *MM) walkTable(c *x86.CPU, addr uint64) (table x86.PFN, ok bool) {
	table = m.PGD
	for level := x86.LevelPGD; level > x86.LevelPTE; level-- {
		e := m.entry(table, level, addr).Load(c)
		if !e.HWPresent() || e.Huge() {
			return 0, false
		}
		table = e.PFN()
	}
	return table, true
}

// lookupPTE returns the entry of mm for addr and the lock of its table, which is
// not taken; false if there is no table.
func (m *MM) lookupPTE(c *x86.CPU, addr uint64) (x86.PTERef, *lock.SpinLock, bool) {
	table, ok := m.walkTable(c, addr)
	if !ok {
		return x86.PTERef{}, nil, false
	}
	return m.entry(table, x86.LevelPTE, addr), m.Sys.Pages.PTL(table), true
}

// pageCheckAddress returns the entry for addr of mm with its lock held, if it
// maps p (page_check_address). With sync clear an entry that is not present is
// not even locked.
func (s *System) pageCheckAddress(t *sched.Task, p *page.Page, m *MM, addr uint64, sync bool) (x86.PTERef, *lock.SpinLock, bool) {
	ref, ptl, ok := m.lookupPTE(t.C, addr)
	if !ok || !sync && !ref.Load(t.C).Present() {
		return x86.PTERef{}, nil, false
	}
	ptl.Lock(t)
	if e := ref.Load(t.C); e.Present() && e.PFN() == s.Pages.PFN(p) {
		return ref, ptl, true
	}
	ptl.Unlock(t)
	return x86.PTERef{}, nil, false
}

// PageReferenced returns how many times p was used since it was last asked: the
// A bits of all ptes that map it, which it clears, and the page's flag
// Referenced. locked says that the caller has the page locked. Linux 2.6.29
// page_referenced, without the swap token.
func (s *System) PageReferenced(t *sched.Task, p *page.Page, locked bool) int {
	n := 0
	if s.Pages.TestAndClear(t, p, page.Referenced) {
		n++
	}
	switch {
	case !s.Pages.Mapped(t, p) || p.RacyMapping() == 0:
	case p.Anon():
		n += s.pageReferencedAnon(t, p)
	case locked:
		n += s.pageReferencedFile(t, p)
	case !s.Pages.TrylockPage(t, p):
		n++
	default:
		n += s.pageReferencedFile(t, p)
		s.Pages.UnlockPage(t, p)
	}
	return n
}

func (s *System) pageReferencedAnon(t *sched.Task, p *page.Page) int {
	a := s.pageLockAnonVMA(t, p)
	if a == nil {
		return 0
	}
	t.C.Trace.Inc(trace.EmuRmapWalks)
	n, left := 0, s.Pages.MapRefs(t, p)
	t.ReadOf(a, "anon_vma.list")
	for v := a.head; v != nil && left != 0; v = v.anonNext {
		n += s.pageReferencedOne(t, p, v, &left)
	}
	pageUnlockAnonVMA(t, a)
	return n
}

func (s *System) pageReferencedFile(t *sched.Task, p *page.Page) int {
	as := s.spaces.of(p.RacyMapping())
	if as == nil {
		return 0
	}
	t.C.Trace.Inc(trace.EmuRmapWalks)
	n := 0
	as.IMmapLock.Lock(t)
	left := s.Pages.MapRefs(t, p)
	t.ReadOf(as, "i_mmap")
	for v := as.head; v != nil && left != 0; v = v.mapNext {
		if v.racyLocked(t) && v.Flags&VMShared != 0 {
			n++
			break
		}
		n += s.pageReferencedOne(t, p, v, &left)
	}
	as.IMmapLock.Unlock(t)
	return n
}

// pageReferencedOne is page_referenced_one. left counts the mappings yet to be
// found; a locked VMA ends the walk.
func (s *System) pageReferencedOne(t *sched.Task, p *page.Page, v *VMA, left *int) (n int) {
	t.ReadOf(v, "vma.bounds")
	addr, ok := vmaAddress(p.RacyIndex(), v)
	if !ok {
		return 0
	}
	ref, ptl, ok := s.pageCheckAddress(t, p, v.MM, addr, false /* sync */)
	if !ok {
		return 0
	}
	if v.racyLocked(t) {
		*left = 1
	} else if s.ptepClearFlushYoungNotify(t, v, addr, ref) {
		n++
	}
	*left--
	ptl.Unlock(t)
	return n
}

// ptepClearFlushYoung clears A and, if it was set, flushes the page
// (ptep_clear_flush_young). The ptl is held.
func (s *System) ptepClearFlushYoung(t *sched.Task, v *VMA, addr uint64, ref x86.PTERef) bool {
	young := ref.TestAndClearYoung(t.C)
	if young {
		s.FlushTLBPage(t, v, addr)
	}
	return young
}

// UnmapResult is what TryToUnmap found.
type UnmapResult uint8

// The results of TryToUnmap.
const (
	SwapSuccess UnmapResult = iota // no pte maps the page any more
	SwapAgain                      // some pte was missed: try again later
	SwapFail                       // the page is in use
	SwapMlock                      // a locked VMA maps the page
)

// TryToUnmap replaces every pte that maps p by one that says where the page is
// to be found: for an anonymous page its swap entry, which must be in the swap
// cache. References are not looked at: a pinned page is unmapped like any other.
// Linux 2.6.29 try_to_unmap.
//
// Preconditions:
//   - p is locked and the caller has a reference
func (s *System) TryToUnmap(t *sched.Task, p *page.Page) UnmapResult {
	if !p.Has(page.Locked) {
		t.Oops("try_to_unmap of pfn %#x, which is not locked", s.Pages.PFN(p))
	}
	r := SwapAgain
	if p.Anon() {
		r = s.tryToUnmapAnon(t, p)
	} else {
		r = s.tryToUnmapFile(t, p)
	}
	if r != SwapMlock && !s.Pages.Mapped(t, p) {
		r = SwapSuccess
	}
	return r
}

func (s *System) tryToUnmapAnon(t *sched.Task, p *page.Page) UnmapResult {
	a := s.pageLockAnonVMA(t, p)
	if a == nil {
		return SwapAgain
	}
	t.C.Trace.Inc(trace.EmuRmapWalks)
	r := SwapAgain
	t.ReadOf(a, "anon_vma.list")
	for v := a.head; v != nil; v = v.anonNext {
		r = s.tryToUnmapOne(t, p, v)
		if r == SwapFail || !s.Pages.Mapped(t, p) {
			break
		}
		if r == SwapMlock {
			if s.tryToMlockPage(t, p, v) {
				break
			}
			r = SwapAgain // it was busy; the page stays where it is
		}
	}
	pageUnlockAnonVMA(t, a)
	return r
}

func (s *System) tryToUnmapFile(t *sched.Task, p *page.Page) UnmapResult {
	as := s.spaces.of(p.RacyMapping())
	if as == nil {
		return SwapAgain
	}
	t.C.Trace.Inc(trace.EmuRmapWalks)
	r := SwapAgain
	as.IMmapLock.Lock(t)
	t.ReadOf(as, "i_mmap")
	for v := as.head; v != nil; v = v.mapNext {
		r = s.tryToUnmapOne(t, p, v)
		if r == SwapFail || !s.Pages.Mapped(t, p) {
			break
		}
		if r == SwapMlock {
			if s.tryToMlockPage(t, p, v) {
				break
			}
			r = SwapAgain // it was busy; the page stays where it is
		}
	}
	as.IMmapLock.Unlock(t)
	return r
}

// tryToUnmapOne is try_to_unmap_one, without migration. A policy's refusal
// counts as the page being in use.
func (s *System) tryToUnmapOne(t *sched.Task, p *page.Page, v *VMA) UnmapResult {
	t.ReadOf(v, "vma.bounds")
	addr, ok := vmaAddress(p.RacyIndex(), v)
	if !ok {
		return SwapAgain
	}
	mm := v.MM
	ref, ptl, ok := s.pageCheckAddress(t, p, mm, addr, false /* sync */)
	if !ok {
		return SwapAgain
	}
	if v.racyLocked(t) {
		ptl.Unlock(t)
		return SwapMlock
	}
	if s.ptepClearFlushYoungNotify(t, v, addr, ref) {
		return s.unmapFailed(t, ptl)
	}
	// The lock of the list keeps preemption off, so the CPU's scratch is ours.
	u := &s.anon.cpus[t.C.ID].unmap
	hooked := s.hooks&HookReclaim != 0
	if hooked {
		*u = Unmap{T: t, VMA: v, Addr: addr, Page: p, Ref: ref, PTE: ref.Peek()}
		if !s.policy.UnmapBefore(u) {
			return s.unmapFailed(t, ptl)
		}
	}
	pte := s.PtepClearFlushNotify(t, v, addr, ref)
	if pte.Dirty() && !s.Broken(BreakUnmapDirty) {
		s.SetPageDirty(t, p)
	}
	var swap x86.PTE
	if p.Anon() {
		if !p.Has(page.SwapCache) {
			t.Oops("try_to_unmap of anonymous pfn %#x, which has no swap entry", s.Pages.PFN(p))
		}
		t.ReadOf(p, "page.private")
		swap = x86.PTE(p.Private)
	}
	if hooked {
		u.PTE, u.Swap = pte, swap
		if !s.policy.Unmap(u) {
			ref.Set(t.C, pte)
			TracePTE(t, addr, 0, pte)
			return s.unmapFailed(t, ptl)
		}
		swap = u.Swap
	}
	if p.Anon() {
		if !s.Broken(BreakUnmapSwapDup) {
			s.swapDuplicate(t, x86.PTE(p.Private).Swap())
		}
		s.mmlistAdd(t, mm, nil)
		mm.AnonRSS.RawAdd(^uint64(0))
		ref.Set(t.C, swap)
		TracePTE(t, addr, 0, swap)
	} else {
		mm.FileRSS.RawAdd(^uint64(0))
	}
	s.PageRemoveRmap(t, p)
	s.Pages.PutAs(t, p, page.RefMap)
	t.C.Trace.Inc(trace.EmuRmapUnmaps)
	t.C.Trace.Event(trace.EvUnmap, t.C.Now(), addr, uint64(s.Pages.PFN(p)), uint64(swap))
	ptl.Unlock(t)
	return SwapAgain
}

func (s *System) unmapFailed(t *sched.Task, ptl *lock.SpinLock) UnmapResult {
	t.C.Trace.Inc(trace.EmuRmapUnmapFails)
	ptl.Unlock(t)
	return SwapFail
}

// rmapPeek calls fn for every place where rmap says that p may be mapped, without
// locks or points, until fn returns false: for invariants. The entry itself is
// not looked at.
func (s *System) rmapPeek(p *page.Page, fn func(v *VMA, addr uint64) bool) {
	if a := s.anon.of(p.RacyMapping()); a != nil {
		for v := a.head; v != nil; v = v.anonNext {
			if addr, ok := vmaAddress(p.RacyIndex(), v); ok && !fn(v, addr) {
				return
			}
		}
		return
	}
	if as := s.spaces.of(p.RacyMapping()); as != nil {
		for v := as.head; v != nil; v = v.mapNext {
			if addr, ok := vmaAddress(p.RacyIndex(), v); ok && !fn(v, addr) {
				return
			}
		}
	}
}
