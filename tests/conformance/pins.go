package conformance

import (
	"bytes"
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Pins returns the cases about pins and forks that do not come from cow.c.
func Pins() []*Case {
	return []*Case{
		{Name: "vmsplice: a child reads a secret that its parent stores later", Stock: "fail: " + reuses,
			Run: secretOfTheParent},
		{Name: "vmsplice: a parent reads a secret that a child drops privileges with", Stock: "fail: " + reuses,
			Run: secretOfTheChild},
		{Name: "wp: a device writes to a page that lost its write bit without fork", Stock: Pass,
			Run: writeBitLost},
		{Name: "pin: the middle of three pages for writing, fork twice",
			Stock: "fail: copy_one_pte shares the pinned page with the first child; the parent's store makes do_wp_page copy, and the device writes to the children's page",
			Run:   func(e *Env) { forkTwice(e, true /* write */) }},
		{Name: "pin: the middle of three pages for reading, fork twice",
			Stock: "fail: copy_one_pte shares the pinned page; the parent's store makes do_wp_page copy, and the device reads the old page",
			Run:   func(e *Env) { forkTwice(e, false /* write */) }},
		{Name: "pin: a COW page for reading",
			Stock: "fail: gup_pte_range takes the page that the child shares; the parent's store makes do_wp_page copy",
			Run:   cowPageForReading},
		{Name: "pin: a COW page for reading, the child stores",
			Stock: Pass, Run: cowPageChildStores},
		{Name: "pin: memory that nobody has touched for reading",
			Stock: "fail: follow_page has FOLL_ANON and hands out ZERO_PAGE; the store then maps a page of its own",
			Run:   untouchedForReading},
		{Name: "pin: a read-only mapping for reading", Stock: Pass, Run: readOnlyForReading},
		{Name: "peek, poke: a read-only mapping", Stock: Pass, Run: peekReadOnly},
		{Name: "pin: after unpin the page goes back to COW", Stock: Pass,
			Run: func(e *Env) { backToCOW(e, true /* drain */) }},
		{Name: "pin: after unpin the page goes back to COW, though it sits in a pagevec", Stock: Pass,
			Run: func(e *Env) { backToCOW(e, false /* drain */) }},
		{Name: "peek: copies that a debugger's look at a shared page makes", Stock: "0 copies", Run: peekCopies},
	}
}

// All returns every case, in the order of the recorded table.
func All() []*Case { return append(Cow(), Pins()...) }

// secretOfTheParent is Arcangeli's reproducer of CVE-2020-29374 on a small page: the
// child gives its mapping up at once and looks at the pipe when the parent has something
// to hide.
func secretOfTheParent(e *Env) {
	const public, secret = "BORING DATA", "THIS IS SECRET"
	ready, stored := e.event(), e.event()
	e.Write(e.Mem, []byte(public))
	reap := e.fork(func(c *kernel.Thread) {
		in, _ := e.splice(c)
		e.must("munmap", c.Munmap(e.Mem, e.Size))
		ready.signal(c)
		stored.wait(c)
		got := e.drain(c, in)
		e.same("the child's pipe", []byte(public), got[:len(public)])
	})
	ready.wait(e.Thread)
	e.Write(e.Mem, []byte(secret))
	stored.signal(e.Thread)
	reap()
}

// secretOfTheChild is the same the other way: a process that starts others for clients
// keeps a page of each in a pipe.
func secretOfTheChild(e *Env) {
	const public, secret = "BORING DATA", "THIS IS SECRET"
	unmapped := e.event()
	e.Write(e.Mem, []byte(public))
	in, _ := e.splice(e.Thread)
	reap := e.fork(func(c *kernel.Thread) {
		unmapped.wait(c)
		c.Write(e.Mem, []byte(secret))
	})
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	unmapped.signal(e.Thread)
	reap()
	got := e.drain(e.Thread, in)
	e.same("the parent's pipe", []byte(public), got[:len(public)])
}

// writeBitLost is page_count_do_wp_page.c: 512 bytes are on their way from a device to
// the start of a page; the page is write-protected meanwhile, by mprotect here and by
// clear_refs there, and its last byte is stored to.
func writeBitLost(e *Env) {
	r := e.pin(kernel.RegisterOptions{Write: true, Fast: true})
	e.protectAndBack(e.Thread)
	e.Store8(e.Mem+e.Size-1, newByte)
	data := bytes.Repeat([]byte{0x55}, x86.SectorSize)
	if r != nil {
		e.must("device write", e.DeviceWrite(r, 0, data))
	}
	e.same("the memory", data, e.Bytes(e.Mem, len(data)))
	e.unpin(r)
}

// forkTwice: the middle one of three pages is pinned; the process forks two children,
// stores to all three pages, and the device works.
func forkTwice(e *Env, write bool) {
	const pages = 3
	three := e.MustMmap(pages * x86.PageSize)
	middle := three + x86.PageSize
	e.Fill(three, pages*x86.PageSize, oldByte)
	e.Mem, e.Size = middle, x86.PageSize
	r := e.pin(kernel.RegisterOptions{Write: write, Fast: true})
	over := e.event()
	child := func(c *kernel.Thread) {
		over.wait(c)
		e.same("a child's memory", bytes.Repeat([]byte{oldByte}, pages*x86.PageSize), c.Bytes(three, pages*x86.PageSize))
	}
	first := e.fork(child)
	second := e.fork(child)
	e.Fill(three, x86.PageSize, newByte)
	e.Fill(three+2*x86.PageSize, x86.PageSize, newByte)
	e.Fill(middle, x86.PageSize/2, newByte)
	if write && r != nil {
		e.must("device write", e.DeviceWrite(r, x86.PageSize/2, bytes.Repeat([]byte{0x55}, x86.PageSize/2)))
	}
	over.signal(e.Thread)
	first()
	second()
	want := append(bytes.Repeat([]byte{newByte}, x86.PageSize/2), bytes.Repeat([]byte{oldByte}, x86.PageSize/2)...)
	if write {
		want = append(want[:x86.PageSize/2], bytes.Repeat([]byte{0x55}, x86.PageSize/2)...)
		e.same("the memory", want, e.Bytes(middle, x86.PageSize))
	}
	e.same("the device", want, e.device(r, x86.PageSize))
	e.unpin(r)
}

// cowPageForReading: a page that is shared by fork is pinned for reading, and then its
// owner stores: the device must see it.
func cowPageForReading(e *Env) {
	over := e.event()
	reap := e.fork(func(c *kernel.Thread) { over.wait(c) })
	r := e.pin(kernel.RegisterOptions{Fast: true})
	e.modify(e.Thread)
	e.same("the device", bytes.Repeat([]byte{newByte}, int(e.Size)), e.device(r, e.Size))
	over.signal(e.Thread)
	reap()
	e.unpin(r)
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
	pinned.signal(e.Thread)
	reap()
	e.same("the device", bytes.Repeat([]byte{oldByte}, int(e.Size)), e.device(r, e.Size))
	e.unpin(r)
}

// untouchedForReading: a read pin comes before the first store. The device must see the
// store.
func untouchedForReading(e *Env) {
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	e.Mem = e.MustMmap(e.Size)
	roPin(e, kernel.RegisterOptions{Fast: true})
}

// readOnlyForReading: a page that the process may not write to, and nobody shares, is
// pinned for reading. That must end, and find the page.
func readOnlyForReading(e *Env) {
	e.must("mprotect", e.Mprotect(e.Mem, e.Size, mm.ProtRead))
	r := e.pin(kernel.RegisterOptions{Fast: true})
	e.same("the device", bytes.Repeat([]byte{oldByte}, int(e.Size)), e.device(r, e.Size))
	e.unpin(r)
}

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
	if e.must("peek", err) && v != 0x0101010101010101 {
		e.fail("the debugger saw %#x", v)
	}
	e.must("poke", e.PtracePoke(pid, e.Mem+8, 0x01010101010101cc))
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
		e.same("the child's memory", bytes.Repeat([]byte{newByte}, int(e.Size)), c.Bytes(e.Mem, int(e.Size)))
	})
	ready.wait(e.Thread)
	if n := e.count(trace.EmuForkCopies) - before; n > 0 {
		e.fail("fork copied %d pages that nobody has pinned", n)
	}
	e.Fill(e.Mem, e.Size, 0x33)
	over.signal(e.Thread)
	reap()
}

// peekCopies counts what a look at shared pages costs, and at pages that are the
// tracee's alone. It passes with any number: the number is the result.
func peekCopies(e *Env) {
	const pages = 8
	many := e.MustMmap(pages * x86.PageSize)
	e.Fill(many, pages*x86.PageSize, oldByte)
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
	for i := range uint64(pages) {
		v, err := e.PtracePeek(pid, many+i*x86.PageSize)
		if e.must("peek", err) && v != 0x0101010101010101 {
			e.fail("the debugger saw %#x", v)
		}
	}
	copies := e.count(trace.EmuCOWCopy) - before
	over.signal(e.Thread)
	_, _, err = e.Wait(pid)
	e.must("wait", err)
	if e.result == "" {
		e.result = fmt.Sprintf("%d copies", copies)
	}
}
