package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Huge pages: Linux 2.6.29 mm/hugetlb.c. They come out of pools that are filled ahead of
// time, one pool for each size (struct hstate):
//
//	buddy --alloc_fresh--> pool, count 0 --alloc_huge_page--> in use
//	  ^                     |   ^                               |
//	  |   nr_hugepages less |   +------- last put_page ---------+
//	  +---------------------+            (free_huge_page)       |
//	  +------------------ last put_page, surplus ---------------+
//
// What distinguishes them from small pages: they are compound pages, so every reference
// is the head's; there is no rmap and no count of mappings; they never leave memory; and
// their ptes, which are PMD or PUD entries, are all under the address space's
// page_table_lock. Faults are serialised by one mutex for the whole machine.
//
//	hugetlb.go        the pools                hugetlb_fault.go  hugetlb_fault
//	hugetlb_resv.go   reservations             hugetlb_cow.go    hugetlb_cow
//	hugetlbfs.go      inodes, mmap, truncate   hugetlb_map.go    fork, unmap, mprotect
//	hugetlb_gup.go    get_user_pages

// The sizes of huge pages.
const (
	HugePage2M = x86.PMDSize
	HugePage1G = x86.PUDSize
)

// hstate is the pool of one size of huge pages.
type hstate struct {
	size  uint64 // in bytes; immutable
	order int    // log2 of its small pages; immutable
	level int    // of the entries that map them; immutable

	// free lists the pages that wait, the next one to go last (hugepage_freelists).
	// This and what follows is protected by hugetlb_lock; reports look without.
	free []x86.PFN
	// total is nr_huge_pages: pages that exist, in use or not. surplus are those of them
	// beyond what nr_hugepages asked for, overcommit how many of these there may be.
	total, surplus, overcommit uint64
	// surplusNode is surplus without those that are still being allocated
	// (surplus_huge_pages_node).
	surplusNode uint64
	// resv is how many of the free pages are promised to mappings.
	resv uint64
	// max is what nr_hugepages says (max_huge_pages).
	max uint64
	// heads are all pages of the pool: for invariants.
	heads []x86.PFN

	astrayLock x86.RawSpin
	// astray is what files and mappings are still promised less resv: 0 but where 2.6.29 uses
	// a promise up twice, or not at all; see strayed. For invariants. Protected by astrayLock.
	astray int64
}

// pages returns how many small pages make one.
func (h *hstate) pages() int { return 1 << h.order }

// mask clears the offset in a huge page.
func (h *hstate) mask() uint64 { return ^(h.size - 1) }

// gigantic reports that the buddy allocator cannot make such pages.
func (h *hstate) gigantic() bool { return h.order >= page.MaxOrder }

// persistent is the pool without its surplus (persistent_huge_pages).
func (h *hstate) persistent() uint64 { return h.total - h.surplus }

// hugetlbState is what the machine knows of huge pages.
type hugetlbState struct {
	// lock is hugetlb_lock. It is irq-safe, as in later kernels: the last
	// reference may go in the interrupt that ends a transfer, and 2.6.29, which leaves
	// interrupts enabled, could then deadlock.
	lock lock.SpinLock
	// instantiation is hugetlb_instantiation_mutex: one fault at a time.
	instantiation lock.Mutex
	hstates       [2]hstate // 2 MiB, 1 GiB
}

func (hs *hugetlbState) init(s *System) {
	hs.lock.Init(s.M, lock.Hugetlb)
	hs.instantiation.Init(s.M, lock.HugetlbInstantiation)
	hs.hstates = [2]hstate{
		{size: HugePage2M, order: x86.PMDShift - x86.PageShift, level: x86.LevelPMD},
		{size: HugePage1G, order: x86.PUDShift - x86.PageShift, level: x86.LevelPUD},
	}
	s.Pages.OnLastPut(page.DtorHuge, s.freeHugePage)
}

// sizeToHstate returns the pool of a size, nil if there is none (size_to_hstate). Zero is
// the default size.
func (s *System) sizeToHstate(size uint64) *hstate {
	if size == 0 {
		size = HugePage2M
	}
	for i := range s.huge.hstates {
		if h := &s.huge.hstates[i]; h.size == size {
			return h
		}
	}
	return nil
}

// pageHstate returns the pool that a huge page belongs to (page_hstate).
func (s *System) pageHstate(head *page.Page) *hstate {
	return s.sizeToHstate(x86.PageSize << head.Order())
}

// BootHugePages puts n pages of the given size into their pool (hugepagesz= and hugepages=
// on the kernel's command line) and returns how many there was room for. It is the only
// way to get pages of 1 GiB. Nothing may be running.
func (s *System) BootHugePages(size uint64, n int) int {
	h := s.sizeToHstate(size)
	for i := range n {
		p := s.Pages.AllocBoot(h.order, "hugetlb_hstate_alloc_pages")
		if p == nil {
			return i
		}
		if !h.gigantic() {
			s.M.Trace().CPU(0).Add(trace.HTLBBuddyAllocSuccess, 1)
		}
		s.Pages.SetDtor(p, page.DtorHuge)
		h.heads = append(h.heads, s.Pages.PFN(p))
		h.free = append(h.free, s.Pages.PFN(p))
		h.total++
		h.max = h.total
	}
	return n
}

// enqueueHugePage puts a page without references into the pool. The caller holds
// hugetlb_lock.
func (s *System) enqueueHugePage(h *hstate, p *page.Page) { h.free = append(h.free, s.Pages.PFN(p)) }

// dequeueHugePage takes a page out of the pool; nil if it is empty. The caller holds
// hugetlb_lock.
func (s *System) dequeueHugePage(h *hstate) *page.Page {
	n := len(h.free)
	if n == 0 {
		return nil
	}
	p := s.Pages.Page(h.free[n-1])
	h.free = h.free[:n-1]
	return p
}

// dequeueHugePageVMA is dequeueHugePage for a fault in v, which gets nothing that is
// promised to others (dequeue_huge_page_vma). A mapping with a reservation uses it up,
// unless avoidReserve is set. The caller holds hugetlb_lock.
func (s *System) dequeueHugePageVMA(h *hstate, v *VMA, avoidReserve bool) *page.Page {
	if (avoidReserve || !v.hasReserves()) && uint64(len(h.free)) == h.resv {
		return nil
	}
	p := s.dequeueHugePage(h)
	if p != nil && !avoidReserve {
		h.decrementResv(v)
	}
	return p
}

// updateAndFreePage gives a page without references back to the buddy allocator
// (update_and_free_page). The caller holds hugetlb_lock.
func (s *System) updateAndFreePage(t *sched.Task, h *hstate, p *page.Page) {
	h.total--
	pfn := s.Pages.PFN(p)
	for i, head := range h.heads {
		if head == pfn {
			last := len(h.heads) - 1
			h.heads[i] = h.heads[last]
			h.heads = h.heads[:last]
			break
		}
	}
	s.Pages.SetDtor(p, page.DtorFree)
	s.Pages.FreeCompound(t, p)
}

// freeHugePage is the destructor of huge pages: the last reference has gone. The page
// returns to the pool, or to the buddy allocator while there is a surplus. Linux 2.6.29
// mm/hugetlb.c:free_huge_page. It may run in an interrupt.
func (s *System) freeHugePage(t *sched.Task, head *page.Page) {
	if s.hooks&HookPageFree != 0 {
		s.policy.PageFree(t, head)
	}
	s.Pages.Recycle(t, head)
	h := s.pageHstate(head)
	off := s.huge.lock.LockIRQSave(t)
	t.WriteOf(&s.huge, "hugetlb")
	if h.surplusNode != 0 && !h.gigantic() {
		s.updateAndFreePage(t, h, head)
		h.surplus--
		h.surplusNode--
	} else {
		s.enqueueHugePage(h, head)
	}
	s.huge.lock.UnlockIRQRestore(t, off)
}

// allocHugeBlock takes a block for a new huge page from the buddy allocator. It waits if it
// may: the caller holds no spinlock.
func (s *System) allocHugeBlock(t *sched.Task, h *hstate, site string) *page.Page {
	return s.Pages.Alloc(t, page.GFPHighUser|page.GFPComp|page.GFPRepeat, h.order, site)
}

// allocFreshHugePage adds a page to the pool and reports whether it could
// (alloc_fresh_huge_page, prep_new_huge_page).
func (s *System) allocFreshHugePage(t *sched.Task, h *hstate) bool {
	if h.gigantic() {
		return false
	}
	p := s.allocHugeBlock(t, h, "alloc_fresh_huge_page")
	if p == nil {
		t.C.Trace.Inc(trace.HTLBBuddyAllocFail)
		return false
	}
	t.C.Trace.Inc(trace.HTLBBuddyAllocSuccess)
	s.Pages.SetDtor(p, page.DtorHuge)
	s.huge.lock.LockIRQ(t)
	t.WriteOf(&s.huge, "hugetlb")
	h.total++
	h.heads = append(h.heads, s.Pages.PFN(p))
	s.huge.lock.UnlockIRQ(t)
	s.Pages.Put(t, p) // free it into the pool
	return true
}

// allocBuddyHugePage makes a surplus page, without references and in no list, if the
// administrator allows one more; nil if not (alloc_buddy_huge_page). It counts as
// allocated before it is, so that two tasks cannot exceed the limit together.
func (s *System) allocBuddyHugePage(t *sched.Task, h *hstate) *page.Page {
	if h.gigantic() {
		return nil
	}
	l := &s.huge.lock
	l.LockIRQ(t)
	if h.surplus >= h.overcommit {
		l.UnlockIRQ(t)
		return nil
	}
	h.total++
	h.surplus++
	l.UnlockIRQ(t)
	p := s.allocHugeBlock(t, h, "alloc_buddy_huge_page")
	l.LockIRQ(t)
	if p != nil {
		s.Pages.SetRefs(t, p, 0) // it is the pool's now and has no users
		s.Pages.SetDtor(p, page.DtorHuge)
		h.surplusNode++
		h.heads = append(h.heads, s.Pages.PFN(p))
		t.C.Trace.Inc(trace.HTLBBuddyAllocSuccess)
	} else {
		h.total--
		h.surplus--
		t.C.Trace.Inc(trace.HTLBBuddyAllocFail)
	}
	l.UnlockIRQ(t)
	return p
}

// gatherSurplusPages promises delta more free pages, and makes as many surplus pages as
// that takes: all or none (gather_surplus_pages). ENOMEM if it cannot.
//
// Preconditions:
//   - hugetlb_lock is held, interrupts were enabled; it is dropped and taken again
func (s *System) gatherSurplusPages(t *sched.Task, h *hstate, delta uint64) error {
	l := &s.huge.lock
	needed := int64(h.resv+delta) - int64(len(h.free))
	if needed <= 0 {
		h.resv += delta
		return nil
	}
	var made []*page.Page
	err := error(unix.ENOMEM)
	for needed > 0 {
		l.UnlockIRQ(t)
		short := false
		for ; needed > 0 && !short; needed-- {
			p := s.allocBuddyHugePage(t, h)
			if short = p == nil; !short {
				made = append(made, p)
			}
		}
		l.LockIRQ(t)
		if short {
			needed = 0 // of these: all go
			goto free
		}
		// The others may have changed meanwhile.
		needed = int64(h.resv+delta) - int64(len(h.free)+len(made))
	}
	needed += int64(len(made))
	h.resv += delta
	err = nil
free:
	// The last one made is the first on the list.
	for ; needed > 0 && len(made) > 0; needed-- {
		s.enqueueHugePage(h, made[len(made)-1])
		made = made[:len(made)-1]
	}
	if len(made) > 0 {
		l.UnlockIRQ(t)
		for ; len(made) > 0; made = made[:len(made)-1] {
			s.freeHugePage(t, made[len(made)-1])
		}
		l.LockIRQ(t)
	}
	return err
}

// returnUnusedSurplusPages takes a promise back, and gives the surplus pages that were made
// for it back to the buddy allocator (return_unused_surplus_pages). The caller holds
// hugetlb_lock.
func (s *System) returnUnusedSurplusPages(t *sched.Task, h *hstate, unused uint64) {
	h.resv -= unused
	if h.gigantic() {
		return
	}
	for n := min(unused, h.surplus); n > 0 && h.surplusNode != 0; n-- {
		p := s.dequeueHugePage(h)
		if p == nil {
			return
		}
		s.updateAndFreePage(t, h, p)
		h.surplus--
		h.surplusNode--
	}
}

// adjustPoolSurplus counts a page as surplus, or no longer, and reports whether it did
// (adjust_pool_surplus). The caller holds hugetlb_lock.
func (h *hstate) adjustPoolSurplus(less bool) bool {
	switch {
	case less && h.surplusNode == 0, !less && h.surplusNode >= h.total:
		return false
	case less:
		h.surplus--
		h.surplusNode--
	default:
		h.surplus++
		h.surplusNode++
	}
	return true
}

// SetNrHugepages makes the pool of a size count pages large, as far as it can, and returns
// how large it then is: a write to /proc/sys/vm/nr_hugepages, or to the file of another
// size in sysfs. Pages in use stay and become surplus. The pool of 1 GiB pages does not
// change. Linux 2.6.29 mm/hugetlb.c:set_max_huge_pages. EINVAL: no such size.
//
// Preconditions:
//   - the task may sleep and holds no lock
func (s *System) SetNrHugepages(t *sched.Task, size, count uint64) (uint64, error) {
	h := s.sizeToHstate(size)
	if h == nil {
		return 0, unix.EINVAL
	}
	if h.gigantic() {
		return h.max, nil
	}
	l := &s.huge.lock
	l.LockIRQ(t)
	for h.surplus != 0 && count > h.persistent() && h.adjustPoolSurplus(true /* less */) {
	}
	ok := true
	for ok && count > h.persistent() {
		// The lock is dropped: nobody promised that the pool is what it was.
		l.UnlockIRQ(t)
		ok = s.allocFreshHugePage(t, h)
		l.LockIRQ(t)
	}
	if ok {
		least := max(count, h.resv+h.total-uint64(len(h.free)))
		for least < h.persistent() {
			p := s.dequeueHugePage(h)
			if p == nil {
				break
			}
			s.updateAndFreePage(t, h, p)
		}
		for count < h.persistent() && h.adjustPoolSurplus(false /* less */) {
		}
	}
	n := h.persistent()
	h.max = n
	l.UnlockIRQ(t)
	return n, nil
}

// SetNrOvercommitHugepages says how many surplus pages of a size there may be: a write to
// /proc/sys/vm/nr_overcommit_hugepages (hugetlb_overcommit_handler). EINVAL: no such size.
func (s *System) SetNrOvercommitHugepages(t *sched.Task, size, n uint64) error {
	h := s.sizeToHstate(size)
	if h == nil {
		return unix.EINVAL
	}
	s.huge.lock.LockIRQ(t)
	t.WriteOf(&s.huge, "hugetlb")
	h.overcommit = n
	s.huge.lock.UnlockIRQ(t)
	return nil
}

// HugePool is the state of a pool: what /proc/meminfo and sysfs show of it.
type HugePool struct {
	Size uint64 // of a page in bytes
	// Total, Free, Reserved and Surplus are HugePages_Total and so on. Overcommit is
	// nr_overcommit_hugepages, Max nr_hugepages.
	Total, Free, Reserved, Surplus, Overcommit, Max uint64
}

// HugePools returns the pools, 2 MiB first. While the machine runs it is approximate.
func (s *System) HugePools() []HugePool {
	out := make([]HugePool, len(s.huge.hstates))
	for i := range out {
		out[i] = s.huge.hstates[i].peek()
	}
	return out
}

// peek looks without the lock.
//
//go:norace
func (h *hstate) peek() HugePool {
	return HugePool{Size: h.size, Total: h.total, Free: uint64(len(h.free)), Reserved: h.resv,
		Surplus: h.surplus, Overcommit: h.overcommit, Max: h.max}
}

// hugetlbTotalPages is how many small pages the default pool holds
// (hugetlb_total_pages).
//
//go:norace
func (s *System) hugetlbTotalPages() uint64 {
	h := &s.huge.hstates[0]
	return h.total << h.order
}
