package conformance

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Andrea Arcangeli's kernel-testcases-for-v5.11, each under its own name. They loop until
// a race is lost; here the processes go in lock-step, so that a case shows the one thing
// that it is about, and the schedules are for the search (TestAnySchedule).
//
// page_count_do_wp_page.bp is a probe for bpftrace and no program. What it looks for, a
// copy that do_wp_page makes of a page that is mapped once, is what page_count_do_wp_page
// ends in.

// Reproducers returns the cases.
func Reproducers() []*Case {
	return []*Case{
		{Name: "page_count_do_wp_page: O_DIRECT read of 512 bytes, the page write-protected meanwhile", On: anon, Races: true,
			Stock: onHuge("pass", "hugetlb_change_protection leaves the pte read-only; "+hugePin),
			Run:   func(e *Env) { subPageRead(e, (*Env).protectThen) }},
		{Name: "page_count_do_wp_page-swap: the same, the page swapped out meanwhile", On: small, Races: true, Stock: always("pass"),
			Run: func(e *Env) { subPageRead(e, (*Env).pageoutThen) }},
		{Name: "page_count_do_wp_page, a driver's pin: the same with registered memory", On: anon,
			Stock: onHuge("pass", "hugetlb_change_protection leaves the pte read-only; "+hugePin),
			Run:   func(e *Env) { registeredRead(e, kernel.RegisterOptions{Write: true, Fast: true}, (*Env).protectThen) }},
		{Name: "io_uring_swap: a fixed buffer (a driver's here), the page swapped out meanwhile", On: small, Stock: always("pass"),
			Run: func(e *Env) {
				registeredRead(e, kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm}, (*Env).pageoutThen)
			}},
		{Name: "io_uring_swap, the race: registered while the page is being swapped out", On: small, Races: true, Stock: always("pass"),
			Run: registeredWhileSwapping},
		{Name: "vfio_swap: a DMA mapping, the page swapped out meanwhile", On: small, Stock: always("pass"),
			Run: func(e *Env) {
				registeredRead(e, kernel.RegisterOptions{Write: true, Umem: true, Kind: mm.PinLongterm}, (*Env).pageoutThen)
			}},
		{Name: "vmsplice-v5.11: a child reads a secret that its parent stores later", On: small,
			Stock: piped(reuses, finds), Run: secretOfTheParent},
		{Name: "vmsplice-v5.11, the other way: a parent reads a secret that a child drops privileges with", On: small,
			Stock: piped(reuses, "get_user_pages has swapped the page in before fork; then in the child, "+reuses), Run: secretOfTheChild},
		{Name: "vmsplice-hugetlb-v5.11: a child reads a secret that its parent stores later", On: huge,
			Stock: always(hugeAlone), Run: secretOfTheParent},
		{Name: "vmsplice-oom: memory that only pipes hold", On: []string{"base"},
			Stock: always("fail: get_iovec_page_array takes references and nobody counts them; exit_mmap and munmap give up what is charged to the process, and the pipe keeps the pages"),
			Run:   pipesKeep},
	}
}

// openDisk opens the disk for direct I/O.
func (e *Env) openDisk() (fd int) {
	fd, err := e.Open(diskPath, fs.ORdwr|fs.ODirect)
	e.must("open", err)
	return fd
}

// subPageRead has 512 bytes on their way from the disk to the start of the page while meanwhile does what
// makes the pte read-only, and the last byte of the page is stored to. The bytes that the
// disk held must be there afterwards. It goes round twice, with other bytes in the memory.
func subPageRead(e *Env, meanwhile func(e *Env)) {
	fd := e.openDisk()
	ctx, err := e.IoSetup(1)
	if !e.must("io_setup", err) {
		return
	}
	for _, before := range []byte{oldByte, newByte} {
		e.Fill(e.Mem, x86.SectorSize, before)
		read := kernel.IOCB{Op: kernel.IOCBCmdPread, FD: fd, Buf: e.Mem, Len: x86.SectorSize, Off: diskSize - x86.SectorSize}
		n, err := e.IoSubmit(ctx, []kernel.IOCB{read})
		e.all("io_submit", n, 1, err)
		meanwhile(e)
		ev, err := e.IoGetevents(ctx, 1, 1, -1)
		if e.must("io_getevents", err) {
			e.all("read", int(ev[0].Res), x86.SectorSize, nil)
		}
		e.same("the memory", make([]byte, x86.SectorSize), e.Bytes(e.Mem, x86.SectorSize))
	}
	e.must("io_destroy", e.IoDestroy(ctx))
}

// protectThen write-protects the page and stores to its last byte. clear_refs does it in
// the original, for soft-dirty bits, which 2.6.29 does not have; mprotect does the same to
// the pte.
func (e *Env) protectThen() {
	e.protectAndBack(e.Thread)
	e.Store8(e.Mem+e.Size-1, newByte)
}

// pageoutThen swaps the pinned page out, if that can be done, looks at it, which maps it
// read-only, and stores to its last byte.
func (e *Env) pageoutThen() {
	e.tryPageout(e.Thread, e.Mem, e.Size)
	last := e.Mem + e.Size - 1
	e.Load8(last)
	e.Store8(last, newByte)
}

// registeredRead is subPageRead with memory that was registered before.
func registeredRead(e *Env, o kernel.RegisterOptions, meanwhile func(e *Env)) {
	r := e.pin(o)
	meanwhile(e)
	e.deviceFills(r)
	e.unpin(r)
}

// deviceFills has the device write a sector, and looks whether it arrived.
func (e *Env) deviceFills(r *kernel.Registration) {
	data := bytes.Repeat([]byte{0x55}, x86.SectorSize)
	if r != nil {
		e.must("device write", e.DeviceWrite(r, 0, data))
	}
	e.same("the memory", data, e.Bytes(e.Mem, len(data)))
}

// registeredWhileSwapping takes the pin while another thread swaps the page out: in some
// schedules between add_to_swap and try_to_unmap, when the page is in the swap cache and
// still mapped.
func registeredWhileSwapping(e *Env) {
	e.useSwap()
	e.Load8(e.Mem)
	other := e.Go("pageout", func(t *kernel.Thread) {
		for range 3 {
			_ = t.Madvise(e.Mem, e.Size, mm.MadvPageout)
		}
	})
	r := e.pin(kernel.RegisterOptions{Write: true, Fast: true, Kind: mm.PinLongterm})
	e.must("join", e.Join(other))
	last := e.Mem + e.Size - 1
	e.Load8(last)
	e.Store8(last, newByte)
	e.deviceFills(r)
	e.unpin(r)
}

// secretOfTheParent is the exploit of CVE-2020-29374: the child gives its mapping up at
// once and looks at the pipe when the parent has something to hide.
func secretOfTheParent(e *Env) {
	const public, secret = "BORING DATA", "THIS IS SECRET"
	ready, stored := e.event(), e.event()
	e.Write(e.Mem, []byte(public))
	if e.Kind.Prepare != nil {
		e.Kind.Prepare(e)
	}
	reap := e.fork(func(c *kernel.Thread) {
		in, n := e.splice(c)
		e.must("munmap", c.Munmap(e.Mem, e.Size))
		ready.signal(c)
		stored.wait(c)
		got := e.drain(c, in, n)
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
	if e.Kind.Prepare != nil {
		e.Kind.Prepare(e)
	}
	in, n := e.splice(e.Thread)
	reap := e.fork(func(c *kernel.Thread) {
		unmapped.wait(c)
		c.Write(e.Mem, []byte(secret))
	})
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	unmapped.signal(e.Thread)
	reap()
	got := e.drain(e.Thread, in, n)
	e.same("the parent's pipe", []byte(public), got[:len(public)])
}

// pipesKeep puts page after page into pipes and unmaps them. What is gone then must be
// charged to somebody: the original goes on until nothing is left.
func pipesKeep(e *Env) {
	const pipes = 4
	used := func() int { return len(e.Machine().Snapshot(nil).Pages) }
	before, mapped := used(), e.MM().AnonRSS.Peek()
	for range pipes {
		_, out, err := e.Pipe()
		e.must("pipe", err)
		a := e.MustMmap(pipePages * x86.PageSize)
		e.Fill(a, pipePages*x86.PageSize, newByte)
		n, err := e.Vmsplice(out, a, pipePages*x86.PageSize, 0)
		e.all("vmsplice", n, pipePages*x86.PageSize, err)
		e.must("munmap", e.Munmap(a, pipePages*x86.PageSize))
	}
	if gone, charged := used()-before, int(e.MM().AnonRSS.Peek()-mapped); gone >= pipes*pipePages && charged < pipes*pipePages {
		e.fail("pipes hold %d pages, and the process is charged for %d", pipes*pipePages, charged)
	}
}
