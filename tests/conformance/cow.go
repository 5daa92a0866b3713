package conformance

import (
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// The cases of Linux tools/testing/selftests/mm/cow.c, anon_test_cases, on a base page. The
// other kinds of page (swapped out, huge) need what the machine has not got yet.

const (
	reuses = "do_wp_page: reuse_swap_page counts one mapping, and not the pipe's reference, so the page is re-used"
	taken  = "follow_page takes the page as it is, shared and read-only; the store then makes do_wp_page copy, and the pin keeps the old page"
)

// Cow returns the cases of cow.c that need no swap, no hugetlb and no huge pages.
func Cow() []*Case {
	ro := kernel.RegisterOptions{Kind: mm.PinLongterm}
	roFast := kernel.RegisterOptions{Kind: mm.PinLongterm, Fast: true}
	return []*Case{
		{Name: "cow 1: Basic COW after fork()", Stock: Pass,
			Run: func(e *Env) { cowInParent(e, false /* protect */) }},
		{Name: "cow 2: Basic COW after fork() with mprotect() optimization", Stock: Pass,
			Run: func(e *Env) { cowInParent(e, true /* protect */) }},
		{Name: "cow 3: vmsplice() + unmap in child", Stock: "fail: " + reuses,
			Run: func(e *Env) { vmspliceInChild(e, false /* protect */) }},
		{Name: "cow 4: vmsplice() + unmap in child with mprotect() optimization",
			Stock: "fail: change_pte_range leaves the pte read-only, then as cow 3: " + reuses,
			Run:   func(e *Env) { vmspliceInChild(e, true /* protect */) }},
		{Name: "cow 5: vmsplice() before fork(), unmap in parent after fork()", Stock: "fail: " + reuses,
			Run: func(e *Env) { vmspliceInParent(e, true /* before */) }},
		{Name: "cow 6: vmsplice() + unmap in parent after fork()", Stock: "fail: " + reuses,
			Run: func(e *Env) { vmspliceInParent(e, false /* before */) }},
		{Name: "cow 7: R/O-mapping a page registered as iouring fixed buffer (a driver's here)", Stock: Pass,
			Run: registeredThenReadOnly},
		{Name: "cow 8: fork() with an iouring fixed buffer (a driver's here)",
			Stock: "fail: copy_one_pte write-protects the pinned page and shares it; the parent's store makes do_wp_page copy, and the pin keeps the old page",
			Run:   registeredThenFork},
		{Name: "cow 9: R/O GUP pin on R/O-mapped shared page", Stock: "fail: " + taken,
			Run: func(e *Env) { roPinOnShared(e, ro) }},
		{Name: "cow 10: R/O GUP-fast pin on R/O-mapped shared page",
			Stock: "fail: gup_pte_range wants PRESENT and USER only, so it takes the shared page; the store makes do_wp_page copy",
			Run:   func(e *Env) { roPinOnShared(e, roFast) }},
		{Name: "cow 11: R/O GUP pin on R/O-mapped previously-shared page", Stock: Pass,
			Run: func(e *Env) { roPinOnPreviouslyShared(e, ro) }},
		{Name: "cow 12: R/O GUP-fast pin on R/O-mapped previously-shared page", Stock: Pass,
			Run: func(e *Env) { roPinOnPreviouslyShared(e, roFast) }},
		{Name: "cow 13: R/O GUP pin on R/O-mapped exclusive page", Stock: Pass,
			Run: func(e *Env) { roPinOnExclusive(e, ro) }},
		{Name: "cow 14: R/O GUP-fast pin on R/O-mapped exclusive page", Stock: Pass,
			Run: func(e *Env) { roPinOnExclusive(e, roFast) }},
	}
}

// cowInParent: the child must not see what the parent stores.
func cowInParent(e *Env, protect bool) {
	ready, modified := e.event(), e.event()
	reap := e.fork(func(c *kernel.Thread) {
		old := c.Bytes(e.Mem, int(e.Size))
		ready.signal(c)
		modified.wait(c)
		e.same("the child's memory", old, c.Bytes(e.Mem, int(e.Size)))
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
		old := c.Bytes(e.Mem, int(e.Size))
		in, _ := e.splice(c)
		e.must("munmap", c.Munmap(e.Mem, e.Size))
		ready.signal(c)
		modified.wait(c)
		e.same("the child's pipe", old, e.drain(c, in))
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
	old := e.Bytes(e.Mem, int(e.Size))
	var in int
	if before {
		in, _ = e.splice(e.Thread)
	}
	reap := e.fork(func(c *kernel.Thread) {
		ready.signal(c)
		unmapped.wait(c)
		e.modify(c)
	})
	ready.wait(e.Thread)
	if !before {
		in, _ = e.splice(e.Thread)
	}
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	unmapped.signal(e.Thread)
	reap()
	e.same("the parent's pipe", old, e.drain(e.Thread, in))
}

// registeredThenReadOnly: a pin for writing must survive that the page becomes
// read-only for a while.
func registeredThenReadOnly(e *Env) {
	r := e.pin(kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
	e.protectAndBack(e.Thread)
	e.modify(e.Thread)
	e.same("the device", e.Bytes(e.Mem, int(e.Size)), e.device(r, e.Size))
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
	e.same("the device", e.Bytes(e.Mem, int(e.Size)), e.device(r, e.Size))
	e.unpin(r)
	over.signal(e.Thread)
	reap()
}

// roPin: what is read through a pin must be what the memory holds, stores after
// the pin included.
func roPin(e *Env, o kernel.RegisterOptions) {
	r := e.pin(o)
	e.modify(e.Thread)
	e.same("the device", e.Bytes(e.Mem, int(e.Size)), e.device(r, e.Size))
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
