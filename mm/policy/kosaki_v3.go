package policy

import (
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// KosakiV3 is row 17: KOSAKI Motohiro's "IO pinning (get_user_pages()) vs fork race fix", third
// version, six patches to linux-mm of 14 April 2009, after the thread.
//
// Whoever has memory written holds fork off, whoever has it read need not: row 10's semaphore is
// held by direct I/O that reads from a file, from direct_io_worker to dio_complete, and by
// nobody else. Against the reverse race reuse_swap_page, which do_wp_page and do_swap_page ask,
// lets a page be reused only if the mapping's is its one reference; who stores to a page that
// a pipe or a device reads gets the copy. So that this does not meet a page under its own
// process's I/O, try_to_unmap_one leaves a page of the swap cache alone that has more
// references than mappings, swap cache and reclaim: the test of 2.6.7, in its old place
// before the pte is cleared. "I don't think this is safe against a concurrent gup_fast()"
// (Nick Piggin, the same day).
//
// There the test stands before that of VM_LOCKED too; here behind it and behind the look at
// the accessed bit, where nothing else comes of it. The patches for NFS, for the ring of
// asynchronous I/O, for bios that map user memory and for net-DMA (iovlock.c, which takes the
// semaphore) have nothing to change on this machine.
type KosakiV3 struct {
	mm.Stock
	noSem   bool // takes the semaphore out: a deciding line, for mutants
	noCount bool // lets pages be reused by their counts of mappings: another
	noTest  bool // lets reclaim unmap what is pinned: the third
}

// Name implements mm.Policy.
func (KosakiV3) Name() string { return "kosaki_v3" }

// Hooks implements mm.Policy.
func (KosakiV3) Hooks() mm.HookSet {
	return mm.HookMM | mm.HookForkLock | mm.HookPin | mm.HookWP | mm.HookSwapIn | mm.HookReclaim
}

// Claims implements mm.Policy: also that vmsplice is fixed, to which Nick Piggin agreed.
func (KosakiV3) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.UnderSwap
}

// About implements mm.Policy.
func (KosakiV3) About() mm.About {
	return mm.About{
		Row: 17, Title: "fork waits for direct reads; references count for reuse, and for reclaim before it clears a pte",
		Who: "KOSAKI Motohiro", When: "14 April 2009, third version", Lines: "-",
		Changes: []string{
			"fork: takes mm_pinned_sem for writing, before mmap_sem",
			"direct I/O that writes to memory: holds mm_pinned_sem for reading from direct_io_worker to dio_complete; whoever completes releases it",
			"COW fault, swap-in: reuse_swap_page wants page_count to be 1 too",
			"reclaim: try_to_unmap leaves the pte of a page alone that has more references than its mappings, the swap cache and reclaim; compared before the pte is cleared",
			"no early de-COW: get_user_pages and gup-fast are as in 2.6.29",
		},
		Claims: "both directions of the race for O_DIRECT, asynchronous I/O included, and vmsplice",
		Open:   "other drivers that write to memory take no lock; gup-fast can take its reference between the comparison and the clearing of the pte; mprotect to read-only and back makes a store copy the page away from its own pin; hugetlb has neither test",
	}
}

// MMInit is mm_init's init_rwsem.
func (KosakiV3) MMInit(t *sched.Task, m *mm.MM) {
	s := &lock.RWSem{}
	s.Init(t.M, lock.PinnedSem)
	m.PolicyData = s
}

// ForkLock is dup_mmap's first line.
func (p KosakiV3) ForkLock(t *sched.Task, parent *mm.MM) error {
	if !p.noSem {
		pinnedSem(parent).DownWrite(t)
	}
	return nil
}

// ForkUnlock is dup_mmap's last line.
func (p KosakiV3) ForkUnlock(t *sched.Task, parent *mm.MM) {
	if !p.noSem {
		pinnedSem(parent).UpWrite(t)
	}
}

// holds reports whether the operation takes the semaphore: rw == READ.
func (p KosakiV3) holds(u *mm.PinUser) bool {
	return !p.noSem && u.Kind == mm.UserDirectIO && u.Write
}

// PinBegin is direct_io_worker's part.
func (p KosakiV3) PinBegin(u *mm.PinUser) error {
	if p.holds(u) {
		u.MM.MMGrab(u.T)
		pinnedSem(u.MM).DownReadNonOwner(u.T)
	}
	return nil
}

// PinEnd is dio_complete's part.
func (p KosakiV3) PinEnd(t *sched.Task, u *mm.PinUser) {
	if p.holds(u) {
		pinnedSem(u.MM).UpReadNonOwner(t)
		u.MM.MMDrop(t)
	}
}

// WP is do_wp_page's call of reuse_swap_page.
func (p KosakiV3) WP(f *mm.Fault) mm.WPNext { return reuseByCount(f, !p.noCount) }

// SwapIn is do_swap_page's.
func (p KosakiV3) SwapIn(f *mm.Fault) bool {
	if p.noCount {
		return p.Stock.SwapIn(f)
	}
	return WPPageCountReuse{}.SwapIn(f)
}

// UnmapBefore is try_to_unmap_one's test, before ptep_clear_flush.
func (p KosakiV3) UnmapBefore(u *mm.Unmap) bool {
	pages := mm.SystemOf(u.T).Pages
	const cacheAndReclaim = 2
	return p.noTest || !pages.TestFlag(u.T, u.Page, page.SwapCache) ||
		pages.Refs(u.T, u.Page) == pages.MapRefs(u.T, u.Page)+cacheAndReclaim
}
