package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// Swap areas and their slots: Linux 2.6.29 mm/swapfile.c.
//
//	area 0   [hdr| 0| 2| 1| 3| ... ]    swap_map: how many users each slot has
//	                 ^  ^     ^
//	                 |  |     +-- two ptes and the swap cache
//	                 |  +-- the swap cache alone: nobody needs it, it may go
//	                 +-- two ptes, no page in memory: a parent and its child
//
// A swap entry is an area's number and a slot. Its users are ptes, each of which
// counts one, and the page in the swap cache, which counts one: a slot whose count
// falls to zero is free. The count goes up before a new user can be seen and down
// after it has gone.

const (
	maxSwapAreas    = 1 << x86.SwapTypeBits // MAX_SWAPFILES
	swapMapMax      = 0x7fff                // SWAP_MAP_MAX: a count that is never taken back
	swapfileCluster = 256                   // slots handed out in a row, SWAPFILE_CLUSTER
)

// swapState is the swap of a machine: what in Linux are the globals of
// mm/swapfile.c and mm/swap_state.c.
type swapState struct {
	lock   lock.SpinLock            // swap_lock
	areas  [maxSwapAreas]*swapArea  // nil where there is none; protected by lock
	order  []*swapArea              // areas in use, the highest priority first; protected by lock
	next   int                      // index in order from which the next slot comes; protected by lock
	prio   int                      // of the last area without one of its own; protected by lock
	nr     x86.Word64               // free slots of all areas, signed (nr_swap_pages); changed under lock, read without
	total  x86.Word64               // slots of all areas (total_swap_pages); changed under lock, read without
	obj    x86.ObjID                // names nr and total; immutable
	used   x86.Word32               // 1 once there has been an area. Set once.
	held   x86.Word64               // counts taken whose user is not there yet, or gone: for invariants; no points
	cache  swapCache                // the swap cache
	mms    mmRing                   // address spaces that may have swap entries
	shmems shmemList                // objects of shmem that may
	plug   [maxSwapAreas]x86.Word32 // areas that were written to and not unplugged yet

	// cluster is log2 of how many slots are read at a time (vm.page-cluster).
	// Set while nothing runs.
	cluster int
}

// swapArea is one device to swap to (struct swap_info_struct). All of it is
// protected by swap_lock, but for what is immutable.
type swapArea struct {
	kind uint8       // its number; immutable
	dev  *blk.Device // immutable
	prio int
	// writeOK is set while slots may be handed out (SWP_WRITEOK).
	writeOK bool
	max     uint64 // slots, that of the header included; immutable
	pages   uint64 // slots that can be used; immutable
	inuse   uint64
	// lowest and highest bound the slots that may be free; highest is 0 if none is.
	lowest, highest uint64
	clusterNext     uint64 // the slot to try first
	clusterNr       uint64 // slots left of the cluster
	m               []uint16
}

func (sw *swapState) init(s *System) {
	sw.lock.Init(s.M, lock.SwapLock)
	sw.cache.lock.Init(s.M, lock.TreeLock)
	sw.mms.lock.Init(s.M, lock.MMListLock)
	sw.shmems.lock.Init(s.M, lock.ShmemList)
	sw.obj = s.M.NewObj(x86.ClassWord)
	sw.cluster = 3
	if s.Mem.Frames() < 16<<20>>x86.PageShift {
		sw.cluster = 2 // swap_setup: a small machine does not read ahead as much
	}
}

// SetPageCluster sets vm.page-cluster: how much is read from swap at a time, as a
// power of two; 0 is no read-ahead. Nothing may be running.
func (s *System) SetPageCluster(n int) { s.swap.cluster = n }

// swapOn reports whether there has ever been a swap area. Where there has not,
// nothing of swap is looked at, and a search over schedules has no steps of it.
func (s *System) swapOn() bool {
	s.M.Touch(usedObj, x86.AccRead)
	return s.swap.used.Peek() != 0
}

// usedObj names the word that says that there has been a swap area.
const usedObj = x86.ObjID(x86.ClassWord)<<56 | 1<<44 | 3

// SwapPages returns how many slots there are in all, and how many are free.
func (s *System) SwapPages() (total, free uint64) {
	return s.swap.total.Peek(), uint64(max(int64(s.swap.nr.Peek()), 0))
}

// SwapCachePages returns how many pages are in the swap cache.
func (s *System) SwapCachePages() uint64 { return s.swap.cache.n.Peek() }

// vmSwapFull reports whether more than half of swap is used: then slots of pages
// that are in memory are given back (vm_swap_full).
func (s *System) vmSwapFull(t *sched.Task) bool {
	sw := &s.swap
	return int64(sw.nr.Load(t.C, sw.obj))*2 < int64(sw.total.Peek())
}

// swapFreePages is nr_swap_pages.
func (s *System) swapFreePages(t *sched.Task) uint64 {
	if !s.swapOn() {
		return 0
	}
	return uint64(max(int64(s.swap.nr.Load(t.C, s.swap.obj)), 0))
}

// getSwapPage takes a free slot, of the area with the highest priority that has
// one, areas of equal priority in turn; its count is 1, for the swap cache
// (get_swap_page).
func (s *System) getSwapPage(t *sched.Task) (e x86.SwapEntry, ok bool) {
	sw := &s.swap
	if s.Pages.FailSite(t, "get_swap_page") {
		return e, false
	}
	sw.lock.Lock(t)
	if int64(sw.nr.Peek()) <= 0 || len(sw.order) == 0 {
		sw.lock.Unlock(t)
		return e, false
	}
	sw.next %= len(sw.order)
	wrapped := 0
	for i := sw.next; wrapped < 2; {
		a := sw.order[i]
		next := i + 1
		if next == len(sw.order) || wrapped == 0 && a.prio != sw.order[next].prio {
			next = 0
			wrapped++
		}
		if a.highest != 0 && a.writeOK {
			if off := a.scan(); off != 0 {
				sw.next = next
				sw.nr.Add(t.C, sw.obj, ^uint64(0))
				sw.held.RawAdd(1)
				sw.lock.Unlock(t)
				return x86.SwapEntry{Type: a.kind, Offset: off}, true
			}
		}
		i = next
	}
	sw.lock.Unlock(t)
	return e, false
}

// scan finds a free slot and takes it; 0 is none (scan_swap_map). Linux drops
// swap_lock while it searches. Slots are handed out in a row as long as a cluster
// lasts, then from the first run of free slots that is long enough for another,
// else from where it was.
//
// As in 2.6.29, the second half of the search for a single slot begins behind the
// lowest, which is therefore never found there.
func (a *swapArea) scan() uint64 {
	offset := a.clusterNext
	if a.clusterNr == 0 {
		if a.pages-a.inuse >= swapfileCluster {
			if at := a.freeCluster(); at != 0 {
				offset = at
			}
		}
		a.clusterNr = swapfileCluster
	}
	a.clusterNr--
	if offset > a.highest {
		offset = a.lowest
	}
	if a.m[offset] != 0 {
		base := offset
		for offset++; offset <= a.highest && a.m[offset] != 0; offset++ {
		}
		if offset > a.highest {
			for offset = a.lowest + 1; offset < base && a.m[offset] != 0; offset++ {
			}
			if offset >= base {
				return 0
			}
		}
	}
	if offset == a.lowest {
		a.lowest++
	}
	if offset == a.highest {
		a.highest--
	}
	if a.inuse++; a.inuse == a.pages {
		a.lowest, a.highest = a.max, 0
	}
	a.m[offset] = 1
	a.clusterNext = offset + 1
	return offset
}

// freeCluster returns the first slot of the first run of free slots that makes a
// cluster, 0 if there is none.
func (a *swapArea) freeCluster() uint64 {
	run := uint64(0)
	for at := a.lowest; at <= a.highest; at++ {
		if a.m[at] != 0 {
			run = 0
			continue
		}
		if run++; run == swapfileCluster {
			return at + 1 - swapfileCluster
		}
	}
	return 0
}

// swapDuplicate counts one more user of an entry, and reports false if the entry is
// free or no entry at all (swap_duplicate). A count that would overflow is stuck
// for good, as in Linux.
func (s *System) swapDuplicate(t *sched.Task, e x86.SwapEntry) bool {
	return s.swapDup(t, e, 0)
}

// swapDup is swapDuplicate for a user that is there already (hold 0), or not yet (1).
func (s *System) swapDup(t *sched.Task, e x86.SwapEntry, hold uint64) bool {
	sw := &s.swap
	ok := false
	sw.lock.Lock(t)
	t.WriteOf(sw, "swap_map")
	if a := sw.areas[e.Type]; a != nil && e.Offset != 0 && e.Offset < a.max && a.m[e.Offset] != 0 {
		if a.m[e.Offset] < swapMapMax {
			a.m[e.Offset]++
		}
		sw.held.RawAdd(hold)
		ok = true
	}
	sw.lock.Unlock(t)
	return ok
}

// areaOf returns the area of an entry that somebody has counted; an entry that is
// free is an oops (swap_info_get, which takes the lock too).
//
// Preconditions:
//   - swap_lock is held
func (s *System) areaOf(t *sched.Task, e x86.SwapEntry, who string) *swapArea {
	t.ReadOf(&s.swap, "swap_map")
	a := s.swap.areas[e.Type]
	if a == nil || e.Offset == 0 || e.Offset >= a.max || a.m[e.Offset] == 0 {
		t.Oops("%s: swap entry %d:%#x is not in use", who, e.Type, e.Offset)
	}
	return a
}

// entryFree drops a user and returns how many are left (swap_entry_free).
//
// Preconditions:
//   - swap_lock is held
func (s *System) entryFree(t *sched.Task, a *swapArea, offset uint64) uint16 {
	t.WriteOf(&s.swap, "swap_map")
	if a.m[offset] == swapMapMax {
		return swapMapMax
	}
	a.m[offset]--
	n := a.m[offset]
	if n == 0 {
		a.lowest = min(a.lowest, offset)
		a.highest = max(a.highest, offset)
		a.inuse--
		sw := &s.swap
		if sw.next < len(sw.order) && a.prio > sw.order[sw.next].prio {
			for i, o := range sw.order {
				if o == a {
					sw.next = i
				}
			}
		}
		sw.nr.Add(t.C, sw.obj, 1)
	}
	return n
}

// swapFree drops a user of an entry (swap_free).
func (s *System) swapFree(t *sched.Task, e x86.SwapEntry) {
	sw := &s.swap
	sw.lock.Lock(t)
	s.entryFree(t, s.areaOf(t, e, "swap_free"), e.Offset)
	sw.lock.Unlock(t)
}

// unheld drops the count of a user of an entry that is not there any more, or never
// was: the cache's, or a look-up's.
func (s *System) unheld(t *sched.Task, e x86.SwapEntry) {
	sw := &s.swap
	sw.lock.Lock(t)
	s.entryFree(t, s.areaOf(t, e, "swap_free"), e.Offset)
	sw.held.RawAdd(^uint64(0))
	sw.lock.Unlock(t)
}

// pageSwapcount returns how many users the entry of a page in the swap cache has,
// the cache apart (page_swapcount).
//
// Preconditions:
//   - p is locked and in the swap cache
func (s *System) pageSwapcount(t *sched.Task, p *page.Page) int {
	sw := &s.swap
	e := x86.PTE(p.Private).Swap()
	sw.lock.Lock(t)
	n := int(s.areaOf(t, e, "page_swapcount").m[e.Offset]) - 1
	sw.lock.Unlock(t)
	return n
}

// racySwapcount is pageSwapcount for who has not locked the page: by now its entry may be
// nobody's, which has no users (swap_info_get).
func (s *System) racySwapcount(t *sched.Task, p *page.Page) int {
	sw := &s.swap
	e := x86.PTE(p.RacyPrivate()).Swap()
	n := 0
	sw.lock.Lock(t)
	t.ReadOf(sw, "swap_map")
	if a := sw.areas[e.Type]; a != nil && e.Offset != 0 && e.Offset < a.max && a.m[e.Offset] != 0 {
		n = int(a.m[e.Offset]) - 1
	}
	sw.lock.Unlock(t)
	return n
}

// ReuseSwapPage reports whether the pte that led to the anonymous page p, or is about
// to, is its only user, counting ptes and swap entries: reuse_swap_page. References
// are not counted. A page that is alone leaves the swap cache, unless it is being
// written: then it stays there, writable.
//
// Preconditions:
//   - p is locked
func (s *System) ReuseSwapPage(t *sched.Task, p *page.Page) bool {
	n := s.Pages.MapRefs(t, p)
	if n <= 1 && p.Has(page.SwapCache) {
		n += s.pageSwapcount(t, p)
		if n == 1 && !s.Pages.TestFlag(t, p, page.Writeback) {
			s.deleteFromSwapCache(t, p)
			s.Pages.SetFlag(t, p, page.Dirty)
		}
	}
	return n == 1
}

// tryToFreeSwap takes p out of the swap cache if no pte needs its entry, and reports
// whether it did (try_to_free_swap).
//
// Preconditions:
//   - p is locked
func (s *System) tryToFreeSwap(t *sched.Task, p *page.Page) bool {
	if !p.Has(page.SwapCache) || s.Pages.TestFlag(t, p, page.Writeback) || s.pageSwapcount(t, p) != 0 {
		return false
	}
	s.deleteFromSwapCache(t, p)
	s.Pages.SetFlag(t, p, page.Dirty)
	return true
}

// freeSwapAndCache drops a swap entry that leaves a page table, and the page in the
// swap cache with it if that was the last user (free_swap_and_cache). A page that is
// locked or being written stays for reclaim to find.
//
// Preconditions:
//   - the ptl of the entry is held
func (s *System) freeSwapAndCache(t *sched.Task, pte x86.PTE) {
	sw, pm := &s.swap, s.Pages
	e := pte.Swap()
	var p *page.Page
	sw.lock.Lock(t)
	if s.entryFree(t, s.areaOf(t, e, "free_swap_and_cache"), e.Offset) == 1 {
		p = s.findSwapCache(t, e)
		if p != nil && !pm.TrylockPage(t, p) {
			pm.Put(t, p)
			p = nil
		}
	}
	sw.lock.Unlock(t)
	if p == nil {
		return
	}
	if pm.TestFlag(t, p, page.SwapCache) && !pm.TestFlag(t, p, page.Writeback) &&
		(!pm.Mapped(t, p) || s.vmSwapFull(t)) {
		s.deleteFromSwapCache(t, p)
		pm.SetFlag(t, p, page.Dirty)
	}
	pm.UnlockPage(t, p)
	pm.Put(t, p)
}

// validSwaphandles returns the slots around an entry that are worth reading with it: n
// of them from first on, 0 if it is alone (valid_swaphandles).
func (s *System) validSwaphandles(t *sched.Task, e x86.SwapEntry) (first uint64, n int) {
	sw := &s.swap
	if sw.cluster == 0 {
		return 0, 0
	}
	base := e.Offset >> sw.cluster << sw.cluster
	end := base + 1<<sw.cluster
	base = max(base, 1) // slot 0 is the header
	sw.lock.Lock(t)
	a := sw.areas[e.Type]
	if a == nil {
		sw.lock.Unlock(t)
		return 0, 0
	}
	end = min(end, a.max)
	for at := e.Offset + 1; at < end && a.m[at] != 0; at++ {
		n++
	}
	for first = e.Offset; first > base && a.m[first-1] != 0; first-- {
		n++
	}
	sw.lock.Unlock(t)
	if n > 0 {
		n++
	}
	return first, n
}
