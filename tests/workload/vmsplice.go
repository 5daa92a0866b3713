package workload

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// vmspliceDisclosure is what the thread argues about in lines 75-80 and 341, and what
// became CVE-2020-29374: a process puts a page that it shares with another one into a
// pipe, by reference, and unmaps it. The page is then mapped once only, so the other
// process's next store re-uses it, and whoever reads the pipe reads that store.
func vmspliceDisclosure() *Workload {
	return withHuge(&Workload{
		Name:  "vmsplice",
		Title: "a page in a pipe, unmapped by who put it there; the other process stores; the pipe is read",
		Group: Disclosure,
		Lines: "75-80, 341, 6526-6532",
		Params: []Param{
			{Name: "rounds", Usage: "how often, each time with fresh pages", Default: 200, Small: 1, Min: 1, Max: 1 << 20, Amount: true},
			{Name: "pages", Usage: "pages in the pipe", Default: 16, Small: 1, Min: 1, Max: 16, Amount: true},
			{Name: "side", Usage: "0: the child splices and the parent stores; 1, 2: the parent splices before or after fork; 3: while it forks", Max: 3},
		},
		Variants: []string{"side=0", "side=1", "side=2", "side=3"},
		Needs:    mm.Disclosure | mm.OtherPins,
		Memory:   func(Values) uint64 { return 4 << 20 },
		CPUs:     2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main: func(t *kernel.Thread, r *Run) {
			for i := int64(0); i < r.Values["rounds"] && !r.over(); i++ {
				if r.Values["side"] == 0 {
					spliceInChild(t, r)
				} else {
					spliceInParent(t, r)
				}
			}
		},
	}, func(v Values) int64 { return v["pages"] }, "huge=1", "huge=1,side=1", "huge=1,side=2", "huge=1,side=3")
}

const (
	publicByte = 0x01 // what the memory holds when both have it
	secretByte = 0xff // what the other process stores later
)

// spliceMemory is what both forms begin with: pages that hold the public byte, and
// words for events in shared memory.
func spliceMemory(t *kernel.Thread, r *Run) (buf, size, word uint64) {
	size = uint64(r.Values["pages"]) << x86.PageShift
	buf = r.mapBuffer(t, size)
	word = t.MustMmapShared(x86.PageSize)
	t.Fill(buf, size, publicByte)
	return buf, size, word
}

// intoPipe puts the memory into a pipe and returns its reading end.
func intoPipe(t *kernel.Thread, r *Run, buf, size uint64) (in, out int, ok bool) {
	in, out, err := t.Pipe()
	if r.failed(err, "pipe") {
		return in, out, false
	}
	n, err := t.Vmsplice(out, buf, int(size), 0)
	if err == nil && uint64(n) != size {
		r.broken("vmsplice put only a part into an empty pipe")
	}
	return in, out, !r.failed(err, "vmsplice")
}

// outOfPipe reads the pipe to the end and compares with what was put into it.
func outOfPipe(t *kernel.Thread, r *Run, in, out int, size uint64, who string) {
	r.failed(t.Close(out), "close")
	into := t.MustMmap(size)
	for got := uint64(0); got < size; {
		n, err := t.ReadFD(in, into+got, int(size-got))
		if r.failed(err, "read") || n == 0 {
			break
		}
		got += uint64(n)
	}
	r.compare(LeakToChild, "pipe read by the "+who, 0, bytes.Repeat([]byte{publicByte}, int(size)), t.Bytes(into, int(size)))
	r.failed(t.Close(in), "close")
	r.failed(t.Munmap(into, size), "munmap")
}

// spliceInChild: the child splices and unmaps, the parent stores.
func spliceInChild(t *kernel.Thread, r *Run) {
	buf, size, word := spliceMemory(t, r)
	spliced, stored := word, word+64
	r.begin()
	pid, err := t.Fork(func(c *kernel.Thread) {
		in, out, ok := intoPipe(c, r, buf, size)
		r.unmapBuffer(c, buf, size)
		setWord(c, spliced)
		awaitWord(c, stored)
		if ok {
			outOfPipe(c, r, in, out, size, "child")
		}
		c.Exit(0)
	})
	if !r.failed(err, "fork") {
		awaitWord(t, spliced)
		t.Fill(buf, size, secretByte)
		setWord(t, stored)
		_, _, err := t.Wait(pid)
		r.failed(err, "wait")
	}
	r.unmapBuffer(t, buf, size)
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}

// spliceInParent: the parent splices, before or after it forks or meanwhile, and
// unmaps; the child stores.
func spliceInParent(t *kernel.Thread, r *Run) {
	side := r.Values["side"]
	buf, size, word := spliceMemory(t, r)
	unmapped, result := word, word+64
	var in, out int
	ok := false
	r.begin()
	splice := func(t *kernel.Thread) { in, out, ok = intoPipe(t, r, buf, size) }
	var helper *kernel.Thread
	switch side {
	case 1:
		splice(t)
	case 3:
		helper = t.Go("splicer", splice)
	}
	pid, err := t.Fork(func(c *kernel.Thread) {
		awaitWord(c, unmapped)
		c.Fill(buf, size, secretByte)
		setWord(c, result)
		c.Exit(0)
	})
	if helper != nil {
		r.failed(t.Join(helper), "join")
	}
	if side == 2 {
		splice(t)
	}
	r.unmapBuffer(t, buf, size)
	setWord(t, unmapped)
	if !r.failed(err, "fork") {
		_, _, err := t.Wait(pid)
		r.failed(err, "wait")
	}
	if ok {
		outOfPipe(t, r, in, out, size, "parent")
	}
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}
