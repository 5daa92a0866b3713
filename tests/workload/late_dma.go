package workload

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// lateDMA is a process whose memory a driver has registered for a device, as
// InfiniBand's does, long before anything is transferred. The process goes on to fork
// and to store; the device writes and reads whenever it likes. No lock around an
// operation helps here (thread lines 6177-6185, 6409, 6526-6532): the pin has no end
// that fork could wait for.
func lateDMA() *Workload {
	return withHuge(&Workload{
		Name:  "late_dma",
		Title: "a driver registers memory; the process forks and stores; the device transfers much later",
		Group: OtherUsers,
		Lines: "6177-6185, 6409, 6526-6532",
		Params: []Param{
			{Name: "pages", Usage: "pages registered", Default: 32, Small: 1, Min: 1, Max: 1 << 12, Amount: true},
			{Name: "forks", Usage: "forks, each with a transfer in both directions", Default: 20, Small: 1, Min: 1, Max: 1 << 16, Amount: true},
			{Name: "fast", Usage: "1: registered by get_user_pages_fast", Max: 1},
			{Name: "get", Usage: "1: takes plain references, as drivers did before FOLL_PIN", Max: 1},
			{Name: "advice", Usage: "what the program does about it: 1 MADV_DONTFORK, 2 MADV_DONTCOW (1300-1316)", Max: 2},
		},
		Variants: []string{"fast=0", "fast=1", "get=1", "advice=1", "advice=2"},
		NeedsFor: func(v Values) mm.Guarantee {
			if v["get"] == 1 {
				return mm.Forward | mm.Reverse | mm.OtherPins
			}
			return mm.Forward | mm.Reverse
		},
		Memory: func(v Values) uint64 { return uint64(v["pages"])*3<<x86.PageShift + 4<<20 },
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main:      lateMain,
	}, func(v Values) int64 { return v["pages"] }, "huge=1", "huge=1,fast=1", "huge=1,get=1", "huge=1,advice=1", "huge=1,advice=2")
}

// Where in each page who works: the process in sector 0, the device writes sector 1,
// the child stores to sector 2, which the device reads.
const (
	lateStore = 0
	lateDMAed = x86.SectorSize
	lateChild = 2 * x86.SectorSize
	childByte = 0xee
)

func lateMain(t *kernel.Thread, r *Run) {
	n := r.Values.Int("pages")
	size := uint64(n) << x86.PageShift
	buf := r.mapBuffer(t, size)
	t.Fill(buf, size, 0)
	kind := mm.PinLongterm // which is a plain reference where the policy knows no other
	if r.Values["get"] == 1 {
		kind = mm.PinGet
	}
	reg, err := t.RegisterMemory(buf, size, kernel.RegisterOptions{Write: true, Fast: r.Values["fast"] == 1, Kind: kind})
	if r.failed(err, "register") {
		return
	}
	switch r.Values["advice"] {
	case 1:
		r.failed(t.Madvise(buf, r.bufferLength(size), mm.MadvDontFork), "madvise")
	case 2:
		r.failed(t.Madvise(buf, r.bufferLength(size), mm.MadvDontCOW), "madvise")
	}
	r.begin()
	for i := range r.Values.Int("forks") {
		if r.over() {
			break
		}
		lateRound(t, r, reg, buf, n, byte(i%200+1))
	}
	r.failed(t.UnregisterMemory(reg), "unregister")
	r.unmapBuffer(t, buf, size)
}

func lateRound(t *kernel.Thread, r *Run, reg *kernel.Registration, buf uint64, n int, mark byte) {
	word := t.MustMmapShared(x86.PageSize)
	transferred := word
	each := func(fn func(off uint64)) {
		for i := range uint64(n) {
			fn(i << x86.PageShift)
		}
	}
	want := bytes.Repeat([]byte{mark}, 8)
	device := t.Go("device", func(t *kernel.Thread) {
		each(func(off uint64) { r.failed(t.DeviceWrite(reg, off+lateDMAed, want), "device write") })
	})
	pid, err := t.Fork(func(c *kernel.Thread) {
		if r.Values["advice"] == 1 {
			awaitWord(c, transferred) // it does not have the memory
			c.Exit(0)
		}
		before := make([][]byte, 0, n)
		each(func(off uint64) { before = append(before, c.Bytes(buf+off+lateDMAed, 8)) })
		awaitWord(c, transferred)
		each(func(off uint64) {
			r.compare(ChildChanged, "child's memory", int64(off+lateDMAed), before[off>>x86.PageShift], c.Bytes(buf+off+lateDMAed, 8))
			c.Store8(buf+off+lateChild, childByte)
		})
		c.Exit(0)
	})
	each(func(off uint64) { t.Store8(buf+off+lateStore, mark) })
	r.failed(t.Join(device), "join")
	each(func(off uint64) {
		r.compare(LostRead, "registered memory", int64(off+lateDMAed), want, t.Bytes(buf+off+lateDMAed, 8))
	})
	setWord(t, transferred)
	if !r.failed(err, "fork") {
		_, _, err := t.Wait(pid)
		r.failed(err, "wait")
	}
	each(func(off uint64) {
		var got [1]byte
		r.failed(t.DeviceRead(reg, off+lateChild, got[:]), "device read")
		r.compare(LeakToDisk, "device", int64(off+lateChild), []byte{0}, got[:])
	})
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}
