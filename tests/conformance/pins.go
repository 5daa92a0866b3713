package conformance

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Pins returns the cases about pins, forks and debuggers: gVisor's, and what the thread
// asks of a fix beside its race.
func Pins() []*Case {
	shares := func(what string) string {
		return "fail: copy_one_pte shares the pinned page; the parent's store makes do_wp_page copy, and the device " + what
	}
	hugeShares := func(what string) string {
		return "copy_hugetlb_page_range shares the pinned page; the parent's store makes hugetlb_cow copy, and the device " + what
	}
	return []*Case{
		{Name: "gvisor 1: the middle of three pages pinned for writing, fork twice", On: anon, Pages: 3,
			Stock: onHuge(shares("writes to the children's page"), hugeShares("writes to the children's page")),
			Run:   func(e *Env) { forkTwice(e, true /* write */) }},
		{Name: "gvisor 2: the middle of three pages pinned for reading, fork twice", On: anon, Pages: 3,
			Stock: onHuge(shares("reads the old page"), hugeShares("reads the old page")),
			Run:   func(e *Env) { forkTwice(e, false /* write */) }},
		{Name: "gvisor 3: a COW page pinned for reading", On: anon,
			Stock: Stock{"": "fail: gup_pte_range takes the page that the child shares; the parent's store makes do_wp_page copy",
				"swap": "fail: " + backed, "swapcache": "fail: " + backed, "hugetlb2M": "fail: gup_huge_pmd takes the shared page; " + hugePin, "hugetlb1G": "fail: gup_huge_pud takes the shared page; " + hugePin},
			Run: cowPageForReading},
		{Name: "pin 1: a COW page pinned for reading, the child stores", On: anon,
			Stock: always("pass"), Run: cowPageChildStores},
		{Name: "pin 2: memory that nobody has touched pinned for reading", On: append([]string{"base"}, huge...),
			Stock: onHuge("fail: follow_page has FOLL_ANON and hands out ZERO_PAGE; the store then maps a page of its own",
				"follow_hugetlb_page hands out ZERO_PAGE where huge_zeropage_ok says so; the store then maps a page of its own"),
			Run: untouchedForReading},
		{Name: "pin 3: a read-only mapping pinned for reading", On: anon, Stock: always("pass"), Run: readOnlyForReading},
		{Name: "pin 4: after unpin the page goes back to COW", On: small, Stock: always("pass"),
			Run: func(e *Env) { backToCOW(e, true /* drain */) }},
		{Name: "pin 5: after unpin the page goes back to COW, though it sits in a pagevec", On: small, Stock: always("pass"),
			Run: func(e *Env) { backToCOW(e, false /* drain */) }},
		{Name: "peek 1: a debugger looks at and changes a read-only mapping", On: small, Stock: always("pass"), Run: peekReadOnly},
		{Name: "peek 2: copies that a debugger's look at eight shared pages makes", On: small, Pages: 8,
			Stock: always("pass"), Run: peekCopies},
	}
}

// forkTwice: the middle one of three pages is pinned; the process forks two children,
// stores to all three pages, and the device works. Of very large pages the beginnings take part.
func forkTwice(e *Env, write bool) {
	first, size := e.Mem, e.pagePlace()
	middle, last, half := first+e.Kind.Size, first+2*e.Kind.Size, size/2
	r, err := e.RegisterMemory(middle, size, kernel.RegisterOptions{Write: write, Fast: true})
	if !e.must("pin", err) {
		return
	}
	over := e.event()
	child := func(c *kernel.Thread) {
		over.wait(c)
		seen := e.look(c, e.Mem)
		e.same("a child's memory", bytes.Repeat([]byte{oldByte}, len(seen)), seen)
	}
	one := e.fork(child)
	two := e.fork(child)
	e.Fill(first, size, newByte)
	e.Fill(last, size, newByte)
	e.Fill(middle, half, newByte)
	want := append(bytes.Repeat([]byte{newByte}, int(half)), bytes.Repeat([]byte{oldByte}, int(half))...)
	if write {
		copy(want[half:], bytes.Repeat([]byte{0x55}, int(half)))
		e.must("device write", e.DeviceWrite(r, half, want[half:]))
	}
	over.signal(e.Thread)
	one()
	two()
	if write {
		e.same("the memory", want, e.Bytes(middle, int(size)))
	}
	got := make([]byte, size)
	e.must("device read", e.DeviceRead(r, 0, got))
	e.same("the device", want, got)
	e.unpin(r)
}

// cowPageForReading: a page that is shared by fork is pinned for reading, and then its
// owner stores: the device must see it.
func cowPageForReading(e *Env) {
	over := e.event()
	reap := e.fork(func(c *kernel.Thread) { over.wait(c) })
	roPin(e, kernel.RegisterOptions{Fast: true})
	over.signal(e.Thread)
	reap()
}

// cowPageChildStores: as before, but the child stores: the device must not see that. (It
// would once the owner has unmapped the page: that is cow 6.)
func cowPageChildStores(e *Env) {
	pinned := e.event()
	reap := e.fork(func(c *kernel.Thread) {
		pinned.wait(c)
		e.modify(c)
	})
	r := e.pin(kernel.RegisterOptions{Fast: true})
	old := e.look(e.Thread, e.Mem)
	pinned.signal(e.Thread)
	reap()
	e.deviceSees(old, r)
	e.unpin(r)
}

// untouchedForReading: a read pin comes before the first store. The device must see the
// store.
func untouchedForReading(e *Env) {
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	e.Mem = e.Kind.Map(e, 1)
	roPin(e, kernel.RegisterOptions{Fast: true})
}

// readOnlyForReading: a page that the process may not write to, and nobody shares, is
// pinned for reading. That must end, and find the page.
func readOnlyForReading(e *Env) {
	e.must("mprotect", e.Mprotect(e.Mem, e.Size, mm.ProtRead))
	r := e.pin(kernel.RegisterOptions{Fast: true})
	e.deviceSees(e.look(e.Thread, e.Mem), r)
	e.unpin(r)
}

// ones is a word of memory that nobody has modified.
const ones = 0x0101010101010101

// peekReadOnly: a debugger looks at such a page and sets a breakpoint in it.
func peekReadOnly(e *Env) {
	ready, poked := e.event(), e.event()
	pid, err := e.Fork(func(c *kernel.Thread) {
		e.must("mprotect", c.Mprotect(e.Mem, e.Size, mm.ProtRead))
		ready.signal(c)
		poked.wait(c)
		e.same("the tracee's memory", []byte{0xcc, oldByte}, c.Bytes(e.Mem+8, 2))
		c.Exit(0)
	})
	if !e.must("fork", err) {
		return
	}
	ready.wait(e.Thread)
	v, err := e.PtracePeek(pid, e.Mem+8)
	if e.must("peek", err) && v != ones {
		e.fail("the debugger saw %#x", v)
	}
	e.must("poke", e.PtracePoke(pid, e.Mem+8, ones-0x01+0xcc))
	poked.signal(e.Thread)
	_, _, err = e.Wait(pid)
	e.must("wait", err)
	e.same("the debugger's own memory", []byte{oldByte}, e.Bytes(e.Mem+8, 1))
}

// backToCOW: once nobody has the page pinned any more, fork shares it like any other. A
// new page sits in a pagevec for a while, which has a reference too: with drain set the
// pagevecs are emptied first.
func backToCOW(e *Env, drain bool) {
	r := e.pin(kernel.RegisterOptions{Write: true, Fast: true})
	e.fork(func(*kernel.Thread) {})()
	e.unpin(r)
	e.modify(e.Thread)
	if drain {
		pages := e.Machine().Pages()
		_ = e.Kernel(func(task *sched.Task) error {
			for cpu := range e.Machine().Sched().CPUs() {
				pages.LRUAddDrainCPU(task, cpu)
			}
			return nil
		})
	}
	before := e.count(trace.EmuForkCopies)
	ready, over := e.event(), e.event()
	reap := e.fork(func(c *kernel.Thread) {
		ready.signal(c)
		over.wait(c)
		e.same("the child's memory", bytes.Repeat([]byte{newByte}, int(e.Size)), e.look(c, e.Mem))
	})
	ready.wait(e.Thread)
	if n := e.count(trace.EmuForkCopies) - before; n > 0 {
		e.fail("fork copied %d pages that nobody has pinned", n)
	}
	e.fill(e.Thread, 0x33)
	over.signal(e.Thread)
	reap()
}

// peekCopies counts what a look at shared pages costs. It passes with any number: the
// number is the result.
func peekCopies(e *Env) {
	ready, over := e.event(), e.event()
	pid, err := e.Fork(func(c *kernel.Thread) {
		ready.signal(c)
		over.wait(c)
		c.Exit(0)
	})
	if !e.must("fork", err) {
		return
	}
	ready.wait(e.Thread)
	before := e.count(trace.EmuCOWCopy)
	for at := e.Mem; at < e.Mem+e.Size; at += x86.PageSize {
		v, err := e.PtracePeek(pid, at)
		if e.must("peek", err) && v != ones {
			e.fail("the debugger saw %#x", v)
		}
	}
	e.note("%d copies", e.count(trace.EmuCOWCopy)-before)
	over.signal(e.Thread)
	_, _, err = e.Wait(pid)
	e.must("wait", err)
}
