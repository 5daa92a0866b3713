package conformance

import (
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// The cases of Linux tools/testing/selftests/mm/cow.c: anon_test_cases and
// non_anon_test_cases. anon_thp_test_cases need huge pages that are not asked for, which
// 2.6.29 does not have.

// Why 2.6.29 fails. On huge pages these come from reading mm/hugetlb.c.
const (
	reuses = "do_wp_page: reuse_swap_page counts one mapping, and not the pipe's reference, so the page is re-used"
	looked = "the parent has looked at the page before fork, so do_swap_page has mapped it; then in the child, "
	finds  = "do_swap_page finds the page in the swap cache, and reuse_swap_page counts one entry, and not the pipe's reference, so the page is re-used"
	taken  = "follow_page takes the page as it is, shared and read-only; the store then makes do_wp_page copy, and the pin keeps the old page"
	backed = "do_swap_page maps the page read-only for the pin; the store's reuse_swap_page counts the child's swap entry, so do_wp_page copies, and the pin keeps the old page"

	hugeAlone = "pass: hugetlb_cow re-uses a page only if page_count is 1: a pipe's reference makes it copy"
	hugePin   = "hugetlb_cow re-uses a page only if page_count is 1: the pin's reference makes it copy, and the pin keeps the old page"
)

// piped is the Stock of what a pipe discloses.
func piped(base, swap string) Stock {
	return Stock{"": "fail: " + base, "swap": "fail: " + swap, "swapcache": "fail: " + swap, "hugetlb2M": hugeAlone, "hugetlb1G": hugeAlone}
}

// onHuge is the Stock of what passes on small pages and not on huge ones.
func onHuge(base, why string) Stock {
	return Stock{"": base, "hugetlb2M": "fail: " + why, "hugetlb1G": "fail: " + why}
}

// Cow returns the cases of anon_test_cases. A driver's registration stands in for gup_test
// and for the fixed buffers of io_uring.
func Cow() []*Case {
	ro := kernel.RegisterOptions{Kind: mm.PinLongterm}
	roFast := kernel.RegisterOptions{Kind: mm.PinLongterm, Fast: true}
	return []*Case{
		{Name: "cow 1: Basic COW after fork()", On: anon, Stock: always("pass"),
			Run: func(e *Env) { cowInParent(e, false /* protect */) }},
		{Name: "cow 2: Basic COW after fork() with mprotect() optimization", On: anon, Stock: always("pass"),
			Run: func(e *Env) { cowInParent(e, true /* protect */) }},
		{Name: "cow 3: vmsplice() + unmap in child", On: anon, Stock: piped(reuses, finds),
			Run: func(e *Env) { vmspliceInChild(e, false /* protect */) }},
		{Name: "cow 4: vmsplice() + unmap in child with mprotect() optimization", On: anon,
			Stock: piped("change_pte_range leaves the pte read-only, then as cow 3: "+reuses, "change_pte_range leaves a swap entry alone, then as cow 3: "+finds),
			Run:   func(e *Env) { vmspliceInChild(e, true /* protect */) }},
		{Name: "cow 5: vmsplice() before fork(), unmap in parent after fork()", On: anon,
			Stock: piped(reuses, looked+reuses),
			Run:   func(e *Env) { vmspliceInParent(e, true /* before */) }},
		{Name: "cow 6: vmsplice() + unmap in parent after fork()", On: anon, Stock: piped(reuses, looked+reuses),
			Run: func(e *Env) { vmspliceInParent(e, false /* before */) }},
		{Name: "cow 7: R/O-mapping a page registered as iouring fixed buffer (a driver's here)", On: anon,
			Stock: onHuge("pass", "hugetlb_change_protection leaves the pte read-only; "+hugePin),
			Run:   registeredThenReadOnly},
		{Name: "cow 8: fork() with an iouring fixed buffer (a driver's here)", On: anon,
			Stock: onHuge("fail: copy_one_pte write-protects the pinned page and shares it; the parent's store makes do_wp_page copy, and the pin keeps the old page",
				"copy_hugetlb_page_range write-protects the pinned page and shares it; the parent's store makes hugetlb_cow copy, and the pin keeps the old page"),
			Run: registeredThenFork},
		{Name: "cow 9: R/O GUP pin on R/O-mapped shared page", On: anon,
			Stock: Stock{"": "fail: " + taken, "swap": "fail: " + backed, "swapcache": "fail: " + backed, "hugetlb2M": "fail: " + hugePin, "hugetlb1G": "fail: " + hugePin},
			Run:   func(e *Env) { roPinOnShared(e, ro) }},
		{Name: "cow 10: R/O GUP-fast pin on R/O-mapped shared page", On: anon,
			Stock: Stock{"": "fail: gup_pte_range wants PRESENT and USER only, so it takes the shared page; the store makes do_wp_page copy",
				"swap": "fail: gup_pte_range leaves a swap entry to get_user_pages; " + backed, "swapcache": "fail: gup_pte_range leaves a swap entry to get_user_pages; " + backed,
				"hugetlb2M": "fail: gup_huge_pmd takes the shared page; " + hugePin, "hugetlb1G": "fail: gup_huge_pud takes the shared page; " + hugePin},
			Run: func(e *Env) { roPinOnShared(e, roFast) }},
		{Name: "cow 11: R/O GUP pin on R/O-mapped previously-shared page", On: anon, Stock: onHuge("pass", hugePin),
			Run: func(e *Env) { roPinOnPreviouslyShared(e, ro) }},
		{Name: "cow 12: R/O GUP-fast pin on R/O-mapped previously-shared page", On: anon, Stock: onHuge("pass", hugePin),
			Run: func(e *Env) { roPinOnPreviouslyShared(e, roFast) }},
		{Name: "cow 13: R/O GUP pin on R/O-mapped exclusive page", On: anon, Stock: onHuge("pass", hugePin),
			Run: func(e *Env) { roPinOnExclusive(e, ro) }},
		{Name: "cow 14: R/O GUP-fast pin on R/O-mapped exclusive page", On: anon, Stock: onHuge("pass", hugePin),
			Run: func(e *Env) { roPinOnExclusive(e, roFast) }},
	}
}

// CowFile returns the cases of non_anon_test_cases.
func CowFile() []*Case {
	const own = "pass: do_anonymous_page gives a read fault a page of its own, which the store does not replace"
	stock := func(how, howHuge, howGiant string) Stock {
		why := "fail: " + how + " takes the page of the page cache; the store makes do_wp_page copy, and the pin keeps the cache's page"
		const then = " takes the page of the page cache; the store makes hugetlb_cow copy, and the pin keeps the cache's page"
		return Stock{"zero": own, "shmem": why, "hugetlbfs2M": "fail: " + howHuge + then, "hugetlbfs1G": "fail: " + howGiant + then}
	}
	return []*Case{
		{Name: "non-anon 1: Basic COW", On: file, Stock: always("pass"), Run: cowOfFile},
		{Name: "non-anon 2: R/O longterm GUP pin", On: file, Stock: stock("follow_page", "follow_hugetlb_page", "follow_hugetlb_page"),
			Run: func(e *Env) { roPin(e, kernel.RegisterOptions{Kind: mm.PinLongterm}) }},
		{Name: "non-anon 3: R/O longterm GUP-fast pin", On: file, Stock: stock("gup_pte_range", "gup_huge_pmd", "gup_huge_pud"),
			Run: func(e *Env) { roPin(e, kernel.RegisterOptions{Kind: mm.PinLongterm, Fast: true}) }},
	}
}

// cowInParent: the child must not see what the parent stores.
func cowInParent(e *Env, protect bool) {
	ready, modified := e.event(), e.event()
	reap := e.fork(func(c *kernel.Thread) {
		old := e.look(c, e.Mem)
		ready.signal(c)
		modified.wait(c)
		e.same("the child's memory", old, e.look(c, e.Mem))
	})
	ready.wait(e.Thread)
	if protect {
		e.protectAndBack(e.Thread)
	}
	e.modify(e.Thread)
	modified.signal(e.Thread)
	reap()
}

// vmspliceInChild: the child must not read from its pipe what the parent stores.
func vmspliceInChild(e *Env, protect bool) {
	ready, modified := e.event(), e.event()
	reap := e.fork(func(c *kernel.Thread) {
		old := c.Bytes(e.Mem, e.pipeful())
		in, n := e.splice(c)
		e.must("munmap", c.Munmap(e.Mem, e.Size))
		ready.signal(c)
		modified.wait(c)
		e.same("the child's pipe", old, e.drain(c, in, n))
	})
	ready.wait(e.Thread)
	if protect {
		e.protectAndBack(e.Thread)
	}
	e.modify(e.Thread)
	modified.signal(e.Thread)
	reap()
}

// vmspliceInParent: the parent must not read from its pipe what the child stores.
func vmspliceInParent(e *Env, before bool) {
	ready, unmapped := e.event(), e.event()
	old := e.Bytes(e.Mem, e.pipeful())
	var in, n int
	if before {
		in, n = e.splice(e.Thread)
	}
	reap := e.fork(func(c *kernel.Thread) {
		ready.signal(c)
		unmapped.wait(c)
		e.modify(c)
	})
	ready.wait(e.Thread)
	if !before {
		in, n = e.splice(e.Thread)
	}
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	unmapped.signal(e.Thread)
	reap()
	e.same("the parent's pipe", old, e.drain(e.Thread, in, n))
}

// registeredThenReadOnly: a pin for writing must survive that the page becomes
// read-only for a while.
func registeredThenReadOnly(e *Env) {
	r := e.pin(kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
	e.protectAndBack(e.Thread)
	e.modify(e.Thread)
	e.deviceSees(e.look(e.Thread, e.Mem), r)
	e.unpin(r)
}

// registeredThenFork: a pin for writing must survive fork.
func registeredThenFork(e *Env) {
	r := e.pin(kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
	ready, over := e.event(), e.event()
	reap := e.fork(func(c *kernel.Thread) {
		ready.signal(c)
		over.wait(c)
	})
	ready.wait(e.Thread)
	e.modify(e.Thread)
	e.deviceSees(e.look(e.Thread, e.Mem), r)
	e.unpin(r)
	over.signal(e.Thread)
	reap()
}

// roPin: what is read through a pin must be what the memory holds, stores after
// the pin included.
func roPin(e *Env, o kernel.RegisterOptions) {
	r := e.pin(o)
	e.modify(e.Thread)
	e.deviceSees(e.look(e.Thread, e.Mem), r)
	e.unpin(r)
}

func roPinOnShared(e *Env, o kernel.RegisterOptions) {
	ready, over := e.event(), e.event()
	reap := e.fork(func(c *kernel.Thread) {
		ready.signal(c)
		over.wait(c)
	})
	ready.wait(e.Thread)
	roPin(e, o)
	over.signal(e.Thread)
	reap()
}

func roPinOnPreviouslyShared(e *Env, o kernel.RegisterOptions) {
	e.fork(func(*kernel.Thread) {})()
	roPin(e, o)
}

func roPinOnExclusive(e *Env, o kernel.RegisterOptions) {
	e.protectAndBack(e.Thread)
	roPin(e, o)
}

// cowOfFile: a store to the private mapping must not reach the other one.
func cowOfFile(e *Env) {
	old := e.look(e.Thread, e.Other)
	e.modify(e.Thread)
	e.same("the other mapping", old, e.look(e.Thread, e.Other))
}
