package workload

import (
	"bytes"
	"errors"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Programs around one pin that somebody else's system call gets in the way of. Each has
// one page that a driver, or an asynchronous read, is going to write to.

// pinWay says who pins in these programs, and for how long.
var pinWay = Param{Name: "aio", Usage: "1: an asynchronous O_DIRECT read is in flight, instead of a driver's pin", Max: 1}

// inFlight is something that is going to write the page: done lets it, and returns when
// it has.
type inFlight struct{ done func(t *kernel.Thread) }

// pinnedData is what arrives, at pinnedAt of the page.
var pinnedData = bytes.Repeat([]byte{pinnedByte}, x86.SectorSize)

// fillPinned is a disk whose first sector holds it.
func fillPinned(_ Values, disk []byte) { copy(disk, pinnedData) }

// pinPage starts one that writes a sector at pinnedAt of the page at buf.
func pinPage(t *kernel.Thread, r *Run, buf uint64) (inFlight, bool) {
	if r.Values["aio"] == 1 {
		return readInFlight(t, r, buf+pinnedAt)
	}
	reg, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
	if r.failed(err, "register") {
		return inFlight{}, false
	}
	return inFlight{func(t *kernel.Thread) {
		r.failed(t.DeviceWrite(reg, pinnedAt, pinnedData), "device write")
		r.failed(t.UnregisterMemory(reg), "unregister")
	}}, true
}

// pinPageFast is a driver's pin of the page at buf by get_user_pages_fast.
func pinPageFast(t *kernel.Thread, r *Run, buf uint64) (inFlight, bool) {
	reg, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true, Fast: true, Kind: mm.PinLongterm})
	if r.failed(err, "register") {
		return inFlight{}, false
	}
	return inFlight{func(t *kernel.Thread) {
		r.failed(t.DeviceWrite(reg, pinnedAt, pinnedData), "device write")
		r.failed(t.UnregisterMemory(reg), "unregister")
	}}, true
}

// readInFlight submits an asynchronous read of the disk's first sector.
func readInFlight(t *kernel.Thread, r *Run, addr uint64) (inFlight, bool) {
	fd, err := t.Open(r.Disk, fs.ORdonly|fs.ODirect)
	if r.failed(err, "open") {
		return inFlight{}, false
	}
	ctx, err := t.IoSetup(1)
	if r.failed(err, "io_setup") {
		return inFlight{}, false
	}
	_, err = t.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPread, FD: fd, Buf: addr, Len: x86.SectorSize}})
	if r.failed(err, "io_submit") {
		return inFlight{}, false
	}
	return inFlight{func(t *kernel.Thread) {
		ev, err := t.IoGetevents(ctx, 1, 1, -1)
		if !r.failed(err, "io_getevents") && (len(ev) != 1 || ev[0].Res != x86.SectorSize) {
			r.broken("io_getevents: short or failed read")
		}
		r.failed(t.IoDestroy(ctx), "io_destroy")
		r.failed(t.Close(fd), "close")
	}}, true
}

// pinProgram fills in what the programs have in common.
func pinProgram(w Workload) *Workload {
	w.Memory = func(Values) uint64 { return 4 << 20 }
	w.CPUs, w.SmallCPUs = 2, 2
	w.Latency = blk.FastDevice
	w.DiskBytes = func(Values) int64 { return x86.SectorSize }
	w.Fill = fillPinned
	w.Params = append([]Param{{Name: "rounds", Usage: "how often", Default: 50, Small: 1, Min: 1, Max: 1 << 20}}, w.Params...)
	return &w
}

// repeat runs a round as often as the parameter says.
func repeat(round func(t *kernel.Thread, r *Run)) func(t *kernel.Thread, r *Run) {
	return func(t *kernel.Thread, r *Run) {
		for i := int64(0); i < r.Values["rounds"] && !r.over(); i++ {
			round(t, r)
		}
	}
}

// forkTwice is gVisor's first case as a race: a process with a pinned page forks, and its
// child forks again, while the parent stores.
func forkTwice() *Workload {
	return withHuge(pinProgram(Workload{
		Name: "fork_twice", Title: "a pinned page; the child forks a child of its own; the parent stores, the device writes",
		Group: ForwardRace, Lines: "-",
		Params: []Param{pinWay}, Variants: []string{"aio=0", "aio=1"},
		Needs: mm.Forward | mm.OtherPins | mm.AIO,
		Main:  repeat(forkTwiceRound),
	}), onePage, "huge=1", "huge=1,aio=1")
}

func forkTwiceRound(t *kernel.Thread, r *Run) {
	buf := r.mapBuffer(t, x86.PageSize)
	word := t.MustMmapShared(x86.PageSize)
	t.Store64(buf, 1)
	pin, ok := pinPage(t, r, buf)
	if !ok {
		return
	}
	r.begin()
	look := func(c *kernel.Thread, who string) {
		before := c.Bytes(buf+pinnedAt, 8)
		awaitWord(c, word)
		r.compare(ChildChanged, who, pinnedAt, before, c.Bytes(buf+pinnedAt, 8))
	}
	pid, err := t.Fork(func(c *kernel.Thread) {
		grandchild, err := c.Fork(func(g *kernel.Thread) { look(g, "grandchild's page"); g.Exit(0) })
		if !r.failed(err, "fork") {
			look(c, "child's page")
			_, _, err = c.Wait(grandchild)
			r.failed(err, "wait")
		}
		c.Exit(0)
	})
	t.Store64(buf, 2)
	pin.done(t)
	r.compare(LostRead, "pinned page", pinnedAt, pinnedData, t.Bytes(buf+pinnedAt, x86.SectorSize))
	setWord(t, word)
	if !r.failed(err, "fork") {
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	r.unmapBuffer(t, buf, x86.PageSize)
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}

// mprotectPin: a page is pinned, becomes read-only and writable again, and is stored to.
// Nobody shares it: whoever copies it takes it away from under the pin.
func mprotectPin() *Workload {
	return withHuge(pinProgram(Workload{
		Name: "mprotect_pin", Title: "mprotect to read-only and back between a pin and a store, with no fork",
		Group: Semantics, Lines: "8017",
		Params:   []Param{pinWay, {Name: "child", Usage: "1: instead of mprotect, a child comes and goes", Max: 1}},
		Variants: []string{"aio=0", "aio=1", "child=1"},
		Main:     repeat(mprotectPinRound),
	}), onePage, "huge=1", "huge=1,child=1")
}

func mprotectPinRound(t *kernel.Thread, r *Run) {
	buf := r.mapBuffer(t, x86.PageSize)
	t.Store64(buf, 1)
	pin, ok := pinPage(t, r, buf)
	if !ok {
		return
	}
	r.begin()
	if r.Values["child"] == 1 {
		pid, err := t.Fork(func(c *kernel.Thread) { c.Exit(0) })
		if !r.failed(err, "fork") {
			_, _, err = t.Wait(pid)
			r.failed(err, "wait")
		}
	} else {
		r.failed(t.Mprotect(buf, r.bufferLength(x86.PageSize), mm.ProtRead), "mprotect")
		r.failed(t.Mprotect(buf, r.bufferLength(x86.PageSize), mm.ProtRead|mm.ProtWrite), "mprotect")
	}
	t.Store64(buf, 2)
	pin.done(t)
	r.compare(WrongCopy, "pinned page", pinnedAt, pinnedData, t.Bytes(buf+pinnedAt, x86.SectorSize))
	r.compareWord(WrongCopy, "word stored", 0, 2, t.Load64(buf))
	r.unmapBuffer(t, buf, x86.PageSize)
}

// swapPin: reclaim takes the ptes of a page that is pinned, and the process stores to it.
// With no fork at all a policy that asks the references copies it (thread line 7972;
// 8009-8020: a read must come in between); with a fork the entry is shared.
func swapPin() *Workload {
	w := pinProgram(Workload{
		Name: "swap_pin", Title: "reclaim unmaps a pinned page; the process reads it, stores to it, and the device writes",
		Group: Swap, Lines: "7972-8020",
		Params: []Param{
			pinWay,
			{Name: "fork", Usage: "1: forks when the page is in the swap cache", Max: 1},
			{Name: "read", Usage: "0: the first access after reclaim is the store", Default: 1, Small: 1, Max: 1},
			{Name: "race", Usage: "1: the pin comes while reclaim is at work, by get_user_pages_fast", Max: 1},
		},
		Variants: []string{"", "aio=1", "read=0", "race=1", "fork=1", "fork=1,race=1"},
		Needs:    mm.UnderSwap | mm.OtherPins,
		Main:     swapPinMain,
	})
	w.Tune = func(_ Values, o *kernel.Options) {
		o.Disks = append(o.Disks, kernel.Disk{Name: swapDisk, Size: 256 << x86.PageShift, Swap: true})
	}
	return w
}

const swapDisk = "swap"

func swapPinMain(t *kernel.Thread, r *Run) {
	if r.failed(t.Swapon("/dev/"+swapDisk, 0), "swapon") {
		return
	}
	repeat(swapPinRound)(t, r)
}

func swapPinRound(t *kernel.Thread, r *Run) {
	buf := t.MustMmap(x86.PageSize)
	t.Store64(buf, 1)
	var pin inFlight
	var ok bool
	if r.Values["race"] == 1 {
		r.begin()
		pinner := t.Go("pinner", func(t *kernel.Thread) { pin, ok = pinPageFast(t, r, buf) })
		r.failed(t.Madvise(buf, x86.PageSize, mm.MadvPageout), "madvise")
		r.failed(t.Join(pinner), "join")
	} else {
		pin, ok = pinPage(t, r, buf)
		r.begin()
		r.failed(t.Madvise(buf, x86.PageSize, mm.MadvPageout), "madvise")
	}
	if !ok {
		return
	}
	pid, err := 0, error(nil)
	if r.Values["fork"] == 1 {
		pid, err = t.Fork(func(c *kernel.Thread) {
			r.compareWord(ChildChanged, "child's page", 0, 1, c.Load64(buf))
			c.Exit(0)
		})
		r.failed(err, "fork")
	}
	if r.Values["read"] == 1 {
		r.compareWord(LostRead, "page that came back", 0, 1, t.Load64(buf))
	}
	t.Store64(buf, 2)
	pin.done(t)
	r.compare(LostRead, "pinned page", pinnedAt, pinnedData, t.Bytes(buf+pinnedAt, x86.SectorSize))
	r.compareWord(LostRead, "word stored", 0, 2, t.Load64(buf))
	if pid != 0 {
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	r.failed(t.Munmap(buf, x86.PageSize), "munmap")
}

// dmaAfterUnmap: the memory goes away under a pin. What the device writes afterwards
// must not show in anybody's memory, least of all in that of a bystander who was given
// frames meanwhile (thread lines 754-763). There are two: another process, and the one that
// unmapped, on whose CPU's list of free pages the frame would be.
func dmaAfterUnmap() *Workload {
	return withHuge(pinProgram(Workload{
		Name: "unmap_pin", Title: "munmap, or exit, of memory under a pin; a bystander allocates; the device writes",
		Group: OtherUsers, Lines: "754-763",
		Params: []Param{
			pinWay,
			{Name: "exit", Usage: "1: the process exits with its read in flight, 2: with its pin", Max: 2},
			{Name: "pages", Usage: "pages that the bystander takes", Default: 64, Small: 2, Min: 1, Max: 512},
		},
		Variants: []string{"aio=0", "aio=1", "exit=1", "exit=2"},
		Valid: func(v Values) error {
			if v["exit"] == 2 && v["aio"] == 1 {
				return errors.New("unmap_pin: exit=2 is for a driver's pin, aio=0: exit waits for asynchronous I/O (exit=1)")
			}
			return nil
		},
		Main: repeat(unmapPinRound),
	}), onePage, "huge=1", "huge=1,aio=1", "huge=1,exit=2")
}

func unmapPinRound(t *kernel.Thread, r *Run) {
	word := t.MustMmapShared(x86.PageSize)
	size := uint64(r.Values["pages"]) << x86.PageShift
	gone, written := word, word+64
	take := func(t *kernel.Thread) (mine uint64) {
		mine = r.mapBuffer(t, size)
		t.Fill(mine, size, publicByte)
		return mine
	}
	look := func(t *kernel.Thread, mine uint64, whose string) {
		r.compare(ChildChanged, whose, 0, bytes.Repeat([]byte{publicByte}, int(size)), t.Bytes(mine, int(size)))
		r.unmapBuffer(t, mine, size)
	}
	bystander, err := t.Fork(func(c *kernel.Thread) {
		awaitWord(c, gone)
		mine := take(c)
		awaitWord(c, written)
		look(c, mine, "bystander's memory")
		c.Exit(0)
	})
	if r.failed(err, "fork") {
		return
	}
	switch r.Values["exit"] {
	case 1: // which waits for its asynchronous I/O before it unmaps anything
		r.begin()
		pid, err := t.Fork(func(c *kernel.Thread) {
			buf := r.mapBuffer(c, x86.PageSize)
			c.Store64(buf, 1)
			_, _ = readInFlight(c, r, buf+pinnedAt)
			c.Exit(0)
		})
		setWord(t, gone)
		if !r.failed(err, "fork") {
			_, _, err = t.Wait(pid)
			r.failed(err, "wait")
		}
	case 2: // a driver's pin outlives its process
		var pin inFlight
		ok := false
		pid, err := t.Fork(func(c *kernel.Thread) {
			buf := r.mapBuffer(c, x86.PageSize)
			c.Store64(buf, 1)
			pin, ok = pinPage(c, r, buf)
			r.begin()
			c.Exit(0)
		})
		if !r.failed(err, "fork") {
			_, _, err = t.Wait(pid)
			r.failed(err, "wait")
		}
		setWord(t, gone)
		mine := take(t)
		if ok {
			pin.done(t)
		}
		look(t, mine, "new memory of the parent")
	default:
		buf := r.mapBuffer(t, x86.PageSize)
		t.Store64(buf, 1)
		pin, ok := pinPage(t, r, buf)
		r.begin()
		r.unmapBuffer(t, buf, x86.PageSize)
		setWord(t, gone)
		mine := take(t)
		if ok {
			pin.done(t)
		}
		look(t, mine, "new memory of the process")
	}
	setWord(t, written)
	_, _, err = t.Wait(bystander)
	r.failed(err, "wait")
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}
