package mm

import (
	"errors"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Reclaim: Linux 2.6.29 mm/vmscan.c, without control groups, lumpy reclaim (taking
// neighbours along for large blocks) and shrinkers of slabs.
//
//	active list   --shrinkActiveList-->   inactive list   --shrinkInactiveList-->   free
//	        new anonymous pages begin here      |
//	              ^                             | used meanwhile, or busy
//	              +-----------------------------+
//
// A page on its way from the inactive list to the allocator, if it is anonymous:
//
//	locked, old --> add_to_swap --> try_to_unmap --> pageout --> written --> __remove_mapping
//	              cache: 1 ref    ptes: entries   only if refs are 2: the   refs 2 -> 0, frozen
//	                                              cache's and reclaim's
//
// The first two steps do not look at references: a page that somebody has pinned loses
// its ptes and keeps its contents, in the swap cache, where the next fault finds it.

const (
	swapClusterMax  = 32 // pages looked at and freed at a time (SWAP_CLUSTER_MAX)
	defPriority     = 12 // DEF_PRIORITY: the first pass looks at 1/4096 of each list
	costlyOrder     = 3  // PAGE_ALLOC_COSTLY_ORDER
	vmSwappiness    = 60 // vm.swappiness
	congestionNap   = 100_000_000
	unreclaimableAt = 6 // times the lists have been looked at in vain
)

// scanControl is one reclaim in progress (struct scan_control), with the pages that it
// has isolated. It belongs to the task.
type scanControl struct {
	gfp       page.GFP
	order     int
	kswapd    bool
	mayUnmap  bool // pages that are mapped may be taken; may_swap in Linux
	scanned   uint64
	reclaimed uint64
	hopeless  bool // no zone is worth scanning (all_unreclaimable)
	busy      bool // the buffer below is in use

	pages [swapClusterMax]x86.PFN
}

// Writepager is an AddressSpaceOps whose dirty pages can be written by reclaim
// (a_ops->writepage). Where it is missing such pages are activated again.
type Writepager interface {
	// WritePage begins to write p, which is locked and has just been marked clean. It
	// unlocks the page; the completion calls page.Map.EndPageWriteback. An error is the
	// method's to record (handle_write_error); ErrWritepageActivate alone returns with the
	// page locked, and dirty again.
	WritePage(t *sched.Task, as *AddressSpace, p *page.Page) error
}

// ErrWritepageActivate is what WritePage returns for a page that cannot be written now
// and should go back to the active list (AOP_WRITEPAGE_ACTIVATE).
var ErrWritepageActivate = errors.New("page cannot be written now")

// pageMappingInuse reports whether a page that was used deserves another round: it is
// mapped, in the swap cache, or its file is mapped (page_mapping_inuse).
func (s *System) pageMappingInuse(t *sched.Task, p *page.Page) bool {
	if s.Pages.Mapped(t, p) || p.Has(page.SwapCache) {
		return true
	}
	as := s.spaces.racyOf(p.RacyMapping())
	return as != nil && as.racyMapped(t)
}

// racyMapped reports whether a VMA maps the AddressSpace, without the lock
// (mapping_mapped).
//
//go:norace
func (as *AddressSpace) racyMapped(t *sched.Task) bool {
	t.C.Touch(as.mappedObj(), x86.AccRead)
	return as.head != nil
}

// shrunk says what became of a page that reclaim looked at.
type shrunk uint8

const (
	shrunkKeep   shrunk = iota // it stays; still isolated
	shrunkFree                 // it has been freed
	shrunkCulled               // it is on the unevictable list
)

// shrinkPageList tries to free isolated pages of inactive lists (shrink_page_list). The
// pages that stay are moved to the front of the slice, and their number returned.
func (s *System) shrinkPageList(t *sched.Task, sc *scanControl, pages []x86.PFN) (kept int, freed uint64) {
	t.CondResched()
	for _, pfn := range pages {
		t.CondResched()
		switch s.shrinkPage(t, sc, s.Pages.Page(pfn)) {
		case shrunkKeep:
			pages[kept] = pfn
			kept++
		case shrunkFree:
			freed++
		}
	}
	if s.swapOn() {
		s.swapUnplug(t)
	}
	return kept, freed
}

// shrinkPage is the body of shrink_page_list's loop.
func (s *System) shrinkPage(t *sched.Task, sc *scanControl, p *page.Page) shrunk {
	pm := s.Pages
	if !pm.TrylockPage(t, p) {
		return shrunkKeep
	}
	sc.scanned++
	if !pm.Evictable(t, p) {
		return s.cullLocked(t, p)
	}
	if !sc.mayUnmap && pm.Mapped(t, p) {
		return s.keepLocked(t, p)
	}
	if p.Has(page.SwapCache) {
		sc.scanned++ // twice the pressure on slabs
	}
	mayEnterFS := sc.gfp&page.GFPFS != 0 || p.Has(page.SwapCache) && sc.gfp&page.GFPIO != 0
	if pm.TestFlag(t, p, page.Writeback) {
		return s.keepLocked(t, p)
	}
	referenced := s.PageReferenced(t, p, true /* locked */) > 0
	if sc.order <= costlyOrder && referenced && s.pageMappingInuse(t, p) {
		return s.activateLocked(t, p)
	}
	if p.Anon() && !p.Has(page.SwapCache) {
		if sc.gfp&page.GFPIO == 0 {
			return s.keepLocked(t, p)
		}
		if !s.addToSwap(t, p) {
			return s.activateLocked(t, p)
		}
		mayEnterFS = true
	}
	if s.hasMapping(p) && pm.Mapped(t, p) {
		switch s.TryToUnmap(t, p) {
		case SwapFail:
			return s.activateLocked(t, p)
		case SwapAgain:
			return s.keepLocked(t, p)
		case SwapMlock:
			return s.cullLocked(t, p)
		}
	}
	if pm.TestFlag(t, p, page.Dirty) {
		if sc.order <= costlyOrder && referenced || !mayEnterFS {
			return s.keepLocked(t, p)
		}
		switch s.pageout(t, p) {
		case pageKeep:
			return s.keepLocked(t, p)
		case pageActivate:
			return s.activateLocked(t, p)
		case pageSuccess:
			// It is unlocked. If it was written at once it can go now.
			if pm.TestFlag(t, p, page.Writeback) || pm.TestFlag(t, p, page.Dirty) || !pm.TrylockPage(t, p) {
				return shrunkKeep
			}
			if pm.TestFlag(t, p, page.Dirty) || pm.TestFlag(t, p, page.Writeback) {
				return s.keepLocked(t, p)
			}
		}
	}
	if p.Has(page.Private) {
		return s.activateLocked(t, p) // try_to_release_page: nobody has buffers yet
	}
	if !s.removeMapping(t, p) {
		return s.keepLocked(t, p)
	}
	pm.FreeLocked(t, p)
	return shrunkFree
}

func (s *System) keepLocked(t *sched.Task, p *page.Page) shrunk {
	s.Pages.UnlockPage(t, p)
	return shrunkKeep
}

// activateLocked sends a page back to the active list; if swap is full its slot is
// worth more than the writing that it would save.
func (s *System) activateLocked(t *sched.Task, p *page.Page) shrunk {
	if p.Has(page.SwapCache) && s.vmSwapFull(t) {
		s.tryToFreeSwap(t, p)
	}
	s.Pages.SetFlag(t, p, page.Active)
	t.C.Trace.Inc(trace.PGActivate)
	s.Pages.UnlockPage(t, p)
	return shrunkKeep
}

// cullLocked moves a page of a locked VMA to where reclaim does not look.
func (s *System) cullLocked(t *sched.Task, p *page.Page) shrunk {
	s.tryToFreeSwap(t, p)
	s.Pages.UnlockPage(t, p)
	s.Pages.PutbackLRU(t, p)
	return shrunkCulled
}

// hasMapping reports whether the page belongs to something that can say where it goes
// (page_mapping): the swap cache or a file.
func (s *System) hasMapping(p *page.Page) bool {
	return p.Has(page.SwapCache) || p.Mapping != 0 && !p.Anon()
}

// pageoutResult is pageout_t.
type pageoutResult uint8

const (
	pageKeep     pageoutResult = iota // not now
	pageActivate                      // it cannot be written
	pageSuccess                       // writing has begun, or was not needed; unlocked
	pageClean                         // it is clean already
)

// pageout writes a dirty page that nobody but its cache and we hold: Linux 2.6.29
// mm/vmscan.c:pageout. A page with one more reference is kept as it is. Between this
// look and the writing somebody may take a reference and change the page: the look
// that counts is that of removeMapping.
//
// Preconditions:
//   - p is locked and isolated, no pte maps it
func (s *System) pageout(t *sched.Task, p *page.Page) pageoutResult {
	pm := s.Pages
	if s.hooks&HookReclaim != 0 && !s.policy.Pageout(t, p) {
		t.C.Trace.Inc(trace.EmuPolicyOverrides)
		return pageKeep
	}
	extra := 0
	if p.Has(page.Private) {
		extra = 1
	}
	if pm.Refs(t, p)-extra != 2 || !s.hasMapping(p) {
		return pageKeep
	}
	var as *AddressSpace
	var w Writepager
	if !p.Has(page.SwapCache) {
		as = s.spaces.of(p.Mapping)
		if w, _ = as.Ops.(Writepager); w == nil {
			return pageActivate
		}
	}
	if !pm.TestAndClear(t, p, page.Dirty) {
		return pageClean
	}
	pm.SetFlag(t, p, page.Reclaim)
	if as == nil {
		s.swapWritepage(t, p)
	} else if w.WritePage(t, as, p) == ErrWritepageActivate {
		pm.ClearFlag(t, p, page.Reclaim)
		return pageActivate
	}
	if !pm.TestFlag(t, p, page.Writeback) {
		pm.ClearFlag(t, p, page.Reclaim)
	}
	t.C.Trace.Inc(trace.NrVMScanWrite)
	return pageSuccess
}

// removeMapping takes a page out of its cache if nobody else has a reference and it is
// clean, looked at in that order: who changes a page says so before he drops his
// reference. The page is then frozen, with no references. Linux 2.6.29
// mm/vmscan.c:__remove_mapping.
//
// Preconditions:
//   - p is locked, not being written, no pte maps it
func (s *System) removeMapping(t *sched.Task, p *page.Page) bool {
	pm := s.Pages
	looked := s.Broken(BreakFreeze) && pm.Refs(t, p) == 2 && !pm.TestFlag(t, p, page.Dirty)
	if p.Has(page.SwapCache) {
		c := &s.swap.cache
		off := c.lock.LockIRQSave(t)
		if looked {
			p.Count.Poke(2)
		}
		if !s.freezeClean(t, p) {
			c.lock.UnlockIRQRestore(t, off)
			return false
		}
		e := s.deleteFromSwapCacheLocked(t, p)
		c.lock.UnlockIRQRestore(t, off)
		s.unheld(t, e)
		return true
	}
	as := s.spaces.of(p.Mapping)
	if as == nil {
		return false
	}
	off := as.TreeLock.LockIRQSave(t)
	ok := s.freezeClean(t, p)
	if ok {
		t.C.Touch(as.countObj(), x86.AccAdd)
		if as.tree.remove(p.Index) != pm.PFN(p) {
			t.Oops("address_space %d does not have pfn %#x at index %d", as.slot, pm.PFN(p), p.Index)
		}
		p.Mapping = 0
		t.C.Trace.Dec(trace.NrFilePages)
	}
	as.TreeLock.UnlockIRQRestore(t, off)
	return ok
}

// freezeClean freezes the two references of a clean page. The lock of its cache is held.
func (s *System) freezeClean(t *sched.Task, p *page.Page) bool {
	if !s.Pages.FreezeRefs(t, p, 2) {
		return false
	}
	if s.Pages.TestFlag(t, p, page.Dirty) {
		s.Pages.UnfreezeRefs(t, p, 2)
		return false
	}
	return true
}

// shrinkInactiveList isolates pages of an inactive list, frees what it can, and puts
// back what is left, until it has looked at maxScan (shrink_inactive_list). It
// returns how many it freed.
func (s *System) shrinkInactiveList(t *sched.Task, z int, sc *scanControl, maxScan int, l page.LRUList) (freed uint64) {
	pm := s.Pages
	pm.LRUAddDrain(t)
	for scanned := 0; scanned < maxScan; {
		taken, n := pm.IsolateZone(t, z, l, swapClusterMax, sc.pages[:])
		scanned += n
		kept, got := s.shrinkPageList(t, sc, sc.pages[:taken])
		freed += got
		c := t.C.Trace
		if sc.kswapd {
			c.Add(trace.PGScanKswapdNormal, uint64(n))
			c.Add(trace.KswapdSteal, got)
		} else {
			c.Add(trace.PGScanDirectNormal, uint64(n))
		}
		c.Add(trace.PGStealNormal, got)
		if taken == 0 {
			break
		}
		pm.PutbackZone(t, sc.pages[:kept])
	}
	return freed
}

// shrinkActiveList moves pages from the old end of an active list to the inactive
// one (shrink_active_list). In 2.6.28 and 2.6.29 that they were used in between does
// not keep them active: it only counts for the balance between files and anonymous
// memory, and their A bits are clear now.
func (s *System) shrinkActiveList(t *sched.Task, z int, sc *scanControl, n int, l page.LRUList) {
	pm := s.Pages
	pm.LRUAddDrain(t)
	taken, scanned := pm.IsolateZone(t, z, l, n, sc.pages[:min(n, len(sc.pages))])
	stay, rotated := 0, uint64(0)
	for _, pfn := range sc.pages[:taken] {
		t.CondResched()
		p := pm.Page(pfn)
		if !pm.Evictable(t, p) {
			pm.PutbackLRU(t, p)
			continue
		}
		if s.pageMappingInuse(t, p) && s.PageReferenced(t, p, false /* locked */) > 0 {
			rotated++
		}
		sc.pages[stay] = pfn
		stay++
	}
	file := 0
	if l.File() {
		file = 1
	}
	pm.ZoneStat(z).Rotated[file].RawAdd(rotated)
	t.C.Trace.Add(trace.PGRefillNormal, uint64(scanned))
	for left := sc.pages[:stay]; len(left) > 0; {
		k := min(len(left), page.PagevecSize)
		pm.DeactivateZone(t, left[:k])
		if k == len(left) && s.swapOn() && s.vmSwapFull(t) {
			s.pagevecSwapFree(t, left)
		}
		pm.ReleasePages(t, left[:k], page.RefTemp, false /* cold */)
		left = left[k:]
	}
}

// pagevecSwapFree gives the slots of pages back that are in memory (pagevec_swap_free).
func (s *System) pagevecSwapFree(t *sched.Task, pages []x86.PFN) {
	for _, pfn := range pages {
		p := s.Pages.Page(pfn)
		if s.Pages.TestFlag(t, p, page.SwapCache) && s.Pages.TrylockPage(t, p) {
			s.tryToFreeSwap(t, p)
			s.Pages.UnlockPage(t, p)
		}
	}
}
