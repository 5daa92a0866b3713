package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// The swap cache: pages in memory that have a slot of swap, by entry. Linux 2.6.29
// mm/swap_state.c. It is where a page that several ptes point to meets itself
// again, and where somebody who has it pinned keeps it from being read twice.
//
//	                 add_to_swap               try_to_unmap           write
//	anonymous page ---------------> in cache --------------> ptes ------------> clean,
//	mapped                          dirty, mapped            are entries        freed
//	      ^                            |   ^                    |
//	      |     reuse_swap_page,       |   |    do_swap_page    |
//	      +----------------------------+   +--------------------+
//	            try_to_free_swap
//
// A page is in the cache while it has the flag SwapCache; Private is then its entry,
// as a pte would hold it. The cache has a reference and a count of the entry.
// Mapping stays what it was for an anonymous page: its anon_vma, stale once no pte
// maps it, or zero for a page that was only read ahead.
type swapCache struct {
	// lock is the tree_lock of swapper_space. Irq-safe.
	lock lock.SpinLock
	tree pageTree   // by swapKey; protected by lock
	n    x86.Word64 // pages (total_swapcache_pages); changed under lock, read without
}

// swapKey is an entry's place in the tree: slots of one area are neighbours.
func swapKey(e x86.SwapEntry) uint64 { return uint64(e.Type)<<40 | e.Offset }

// findSwapCache returns the page of an entry with a reference, nil if it is not in
// the cache (find_get_page of swapper_space).
func (s *System) findSwapCache(t *sched.Task, e x86.SwapEntry) *page.Page {
	c := &s.swap.cache
	var p *page.Page
	off := c.lock.LockIRQSave(t)
	t.WriteOf(c, "swap_cache")
	if pfn := c.tree.get(swapKey(e)); pfn != 0 {
		p = s.Pages.Page(pfn)
		s.Pages.Get(t, p)
	}
	c.lock.UnlockIRQRestore(t, off)
	return p
}

// lookupSwapCache is findSwapCache for a fault (lookup_swap_cache).
func (s *System) lookupSwapCache(t *sched.Task, e x86.SwapEntry) *page.Page {
	p := s.findSwapCache(t, e)
	t.C.Trace.Inc(trace.EmuSwapCacheFinds)
	if p != nil {
		t.C.Trace.Inc(trace.EmuSwapCacheHits)
	}
	return p
}

// addToSwapCache puts a page into the cache under an entry, whose count the caller has
// taken and which becomes the cache's (add_to_swap_cache).
//
//   - EEXIST: there is one already
//   - ENOMEM: no memory for the tree
//
// Preconditions:
//   - p is locked, up to the caller's reference nobody else's concern, and not in the
//     cache
func (s *System) addToSwapCache(t *sched.Task, p *page.Page, e x86.SwapEntry) error {
	pm, c := s.Pages, &s.swap.cache
	if pm.FailSite(t, "add_to_swap_cache") {
		return unix.ENOMEM
	}
	pm.GetAs(t, p, page.RefCache)
	pm.SetFlag(t, p, page.SwapCache)
	t.WriteOf(p, "page.private")
	p.Private = uint64(x86.MkSwapPTE(e))
	off := c.lock.LockIRQSave(t)
	t.WriteOf(c, "swap_cache")
	ok := c.tree.insert(swapKey(e), pm.PFN(p))
	if ok {
		c.n.RawAdd(1)
		s.swap.held.RawAdd(^uint64(0))
		t.C.Trace.Inc(trace.NrFilePages)
		t.C.Trace.Inc(trace.EmuSwapCacheAdds)
	}
	c.lock.UnlockIRQRestore(t, off)
	if !ok {
		t.WriteOf(p, "page.private")
		p.Private = 0
		pm.ClearFlag(t, p, page.SwapCache)
		pm.PutAs(t, p, page.RefCache)
		return unix.EEXIST
	}
	return nil
}

// deleteFromSwapCacheLocked is __delete_from_swap_cache: the count of the entry, which
// it returns, and the cache's reference are the caller's to drop.
//
// Preconditions:
//   - p is locked and not being written; the tree's lock is held
func (s *System) deleteFromSwapCacheLocked(t *sched.Task, p *page.Page) x86.SwapEntry {
	pm, c := s.Pages, &s.swap.cache
	e := x86.PTE(p.Private).Swap()
	if p.Flags.Peek()&(1<<page.SwapCache|1<<page.Locked|1<<page.Writeback) != 1<<page.SwapCache|1<<page.Locked {
		t.Oops("__delete_from_swap_cache: %s", s.describePage(pm.PFN(p), p))
	}
	if c.tree.remove(swapKey(e)) != pm.PFN(p) {
		t.Oops("swap cache does not have pfn %#x at %d:%#x", pm.PFN(p), e.Type, e.Offset)
	}
	s.swap.held.RawAdd(1)
	t.WriteOf(p, "page.private")
	p.Private = 0
	pm.ClearFlag(t, p, page.SwapCache)
	c.n.RawAdd(^uint64(0))
	t.C.Trace.Dec(trace.NrFilePages)
	t.C.Trace.Inc(trace.EmuSwapCacheDeletes)
	return e
}

// deleteFromSwapCache takes a page out of the cache (delete_from_swap_cache).
//
// Preconditions:
//   - p is locked, not being written, and the caller has a reference
func (s *System) deleteFromSwapCache(t *sched.Task, p *page.Page) {
	c := &s.swap.cache
	off := c.lock.LockIRQSave(t)
	t.WriteOf(c, "swap_cache")
	e := s.deleteFromSwapCacheLocked(t, p)
	c.lock.UnlockIRQRestore(t, off)
	s.unheld(t, e)
	s.Pages.PutAs(t, p, page.RefCache)
}

// addToSwap gives an anonymous page a slot of swap and puts it into the cache, dirty
// (add_to_swap); false if there is no slot, or no memory, or the policy refuses.
//
// Preconditions:
//   - p is locked and up to date
func (s *System) addToSwap(t *sched.Task, p *page.Page) bool {
	if s.hooks&HookReclaim != 0 && !s.policy.SwapAdd(t, p) {
		t.C.Trace.Inc(trace.EmuPolicyOverrides)
		return false
	}
	for {
		e, ok := s.getSwapPage(t)
		if !ok {
			return false
		}
		switch s.addToSwapCache(t, p, e) {
		case nil:
			s.Pages.SetFlag(t, p, page.Dirty)
			return true
		case unix.EEXIST:
			s.unheld(t, e) // somebody reads ahead what is stale there
		default:
			s.unheld(t, e)
			return false
		}
	}
}

// freeSwapCache takes a page that no pte maps any more out of the cache, if nobody
// has it locked (free_swap_cache).
func (s *System) freeSwapCache(t *sched.Task, p *page.Page) {
	pm := s.Pages
	if pm.TestFlag(t, p, page.SwapCache) && !pm.Mapped(t, p) && pm.TrylockPage(t, p) {
		s.tryToFreeSwap(t, p)
		pm.UnlockPage(t, p)
	}
}

// readSwapCacheAsync returns the page of an entry, with a reference: the one in the
// cache, or a new one whose reading has begun and that stays locked until it is
// over; nil if the entry is free by now, or there is no memory. Linux 2.6.29
// mm/swap_state.c:read_swap_cache_async.
//
// Preconditions:
//   - the task may sleep
func (s *System) readSwapCacheAsync(t *sched.Task, e x86.SwapEntry) *page.Page {
	pm := s.Pages
	var fresh *page.Page
	for {
		// The look-up comes first: the page may have come while we allocated.
		found := s.findSwapCache(t, e)
		if found == nil && fresh == nil {
			fresh = pm.Alloc(t, page.GFPHighUserMovable, 0, "read_swap_cache_async")
			if fresh != nil {
				continue
			}
		}
		if found != nil || fresh == nil || !s.swapDup(t, e, 1) {
			if fresh != nil {
				pm.Put(t, fresh)
			}
			return found
		}
		pm.LockPageNew(t, fresh)
		fresh.PokeSet(page.SwapBacked)
		err := s.addToSwapCache(t, fresh, e)
		if err == nil {
			pm.LRUCacheAdd(t, fresh, page.InactiveAnon)
			s.swapReadpage(t, fresh)
			return fresh
		}
		fresh.PokeClear(page.SwapBacked)
		pm.AbandonLock(t, fresh)
		s.unheld(t, e)
		if err == unix.ENOMEM {
			pm.Put(t, fresh)
			return nil
		}
	}
}

// swapinReadahead reads an entry for a fault, and with it the slots around it: what
// was swapped out together is likely to be wanted together (swapin_readahead).
func (s *System) swapinReadahead(t *sched.Task, e x86.SwapEntry) *page.Page {
	first, n := s.validSwaphandles(t, e)
	for off := first; off < first+uint64(n); off++ {
		p := s.readSwapCacheAsync(t, x86.SwapEntry{Type: e.Type, Offset: off})
		if p == nil {
			break
		}
		s.Pages.Put(t, p)
	}
	s.Pages.LRUAddDrain(t)
	return s.readSwapCacheAsync(t, e)
}

// DropSwapCache empties the swap cache of what no pte needs: pages that were locked
// or being written when their last entry went. Linux leaves them to reclaim; a
// machine that is shut down has none left over. The caller may sleep.
func (s *System) DropSwapCache(t *sched.Task) {
	pm, c := s.Pages, &s.swap.cache
	var pfns [page.PagevecSize]x86.PFN
	for from, more := uint64(0), s.swapOn(); more; {
		off := c.lock.LockIRQSave(t)
		t.WriteOf(c, "swap_cache")
		n, last := c.tree.gang(from, pfns[:])
		for _, pfn := range pfns[:n] {
			pm.Get(t, pm.Page(pfn))
		}
		c.lock.UnlockIRQRestore(t, off)
		for _, pfn := range pfns[:n] {
			p := pm.Page(pfn)
			pm.LockPage(t, p)
			pm.WaitOnWriteback(t, p)
			s.tryToFreeSwap(t, p)
			pm.UnlockPage(t, p)
			pm.Put(t, p)
		}
		from, more = last+1, n == len(pfns)
	}
}
