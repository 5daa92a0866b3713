package workload

import (
	"bytes"
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// forkStorm forks over and over, with and without pins in the memory that fork copies:
// what a policy costs those who never pin, and what it costs those who do. Every
// child must have the memory as it was, and the pins must end up where they were asked
// for.
func forkStorm() *Workload {
	return withHuge(&Workload{
		Name: "fork_storm", Title: "many forks of a process with much memory, some of it pinned",
		Group: Semantics, Lines: "681, 2136",
		Params: []Param{
			{Name: "pages", Usage: "pages of memory", Default: 2048, Small: 3, Min: 1, Max: 1 << 18},
			{Name: "pins", Usage: "pages of these that a driver has pinned", Default: 0, Small: 0, Max: 1 << 18},
			{Name: "forks", Usage: "forks", Default: 50, Small: 2, Min: 1, Max: 1 << 20},
		},
		Variants: []string{"pins=0", "pins=2"},
		Valid: func(v Values) error {
			if v["pins"] > v["pages"] {
				return fmt.Errorf("fork_storm: pins is %d, must not be more than pages, %d", v["pins"], v["pages"])
			}
			return nil
		},
		Needs:  mm.Forward | mm.OtherPins,
		Memory: func(v Values) uint64 { return uint64(v["pages"])*3<<x86.PageShift + 4<<20 },
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main:      forkStormMain,
	}, func(v Values) int64 { return v["pages"] }, "huge=1,pins=0", "huge=1,pins=2")
}

func forkStormMain(t *kernel.Thread, r *Run) {
	pages, pins := uint64(r.Values["pages"]), uint64(r.Values["pins"])
	size := pages << x86.PageShift
	buf := r.mapBuffer(t, size)
	each := func(n uint64, fn func(i, addr uint64)) {
		for i := range n {
			fn(i, buf+i<<x86.PageShift)
		}
	}
	each(pages, func(i, addr uint64) { t.Store64(addr, i) })
	var reg *kernel.Registration
	if pins > 0 {
		var err error
		reg, err = t.RegisterMemory(buf, pins<<x86.PageShift, kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
		if r.failed(err, "register") {
			return
		}
	}
	r.begin()
	for f := range uint64(r.Values["forks"]) {
		pid, err := t.Fork(func(c *kernel.Thread) {
			each(pages, func(i, addr uint64) {
				r.compareWord(ChildChanged, "child's page", i<<x86.PageShift, i+f, c.Load64(addr))
			})
			c.Exit(0)
		})
		if r.failed(err, "fork") {
			break
		}
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
		each(pages, func(i, addr uint64) { t.Store64(addr, i+f+1) })
		mark := []byte{byte(f), byte(f), byte(f), byte(f), byte(f), byte(f), byte(f), byte(f)}
		each(pins, func(i, addr uint64) {
			r.failed(t.DeviceWrite(reg, i<<x86.PageShift+pinnedAt, mark), "device write")
			r.compare(LostRead, "registered memory", int64(i<<x86.PageShift+pinnedAt), mark, t.Bytes(addr+pinnedAt, 8))
		})
		if r.over() {
			break
		}
	}
	if reg != nil {
		r.failed(t.UnregisterMemory(reg), "unregister")
	}
	r.unmapBuffer(t, buf, size)
}

// database is the mix that the thread worried about: threads that read and write by
// O_DIRECT, aligned and not, a process that is forked now and then and goes at once, as
// for exec, and mmap and munmap on the side. Each thread has its own stretch of the
// file and of the buffer, and neighbours share pages of the buffer; one more reads a
// page into a page of its own.
func database() *Workload {
	return withHuge(&Workload{
		Name: "database", Title: "threads do aligned and unaligned direct I/O; forks, mmap and munmap on the side",
		Group: ForwardRace, Lines: "6011-6024, 6191",
		Params: []Param{
			{Name: "w", Usage: "threads that do I/O", Default: 6, Small: 2, Min: 1, Max: 64},
			{Name: "ops", Usage: "operations of each", Default: 60, Small: 1, Min: 1, Max: 1 << 20},
			{Name: "forks", Usage: "forks", Default: 30, Small: 1, Max: 1 << 20},
			{Name: "maps", Usage: "mmap and munmap pairs", Default: 100, Small: 1, Max: 1 << 20},
		},
		Needs:  mm.Forward,
		Memory: func(v Values) uint64 { return uint64(v["w"])*64<<10 + 8<<20 },
		CPUs:   4, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(v Values) int64 { return v["w"]*recordBytes + x86.PageSize },
		Fill: func(_ Values, disk []byte) {
			for i := range disk {
				disk[i] = byte(i/x86.SectorSize) | 0x40
			}
		},
		Writes: true,
		Main:   databaseMain,
	}, func(v Values) int64 { return (v["w"]*recordBytes + x86.PageSize - 1) >> x86.PageShift }, "huge=1")
}

// recordBytes is what each thread reads and writes: not whole pages.
const recordBytes = x86.PageSize + x86.SectorSize

func databaseMain(t *kernel.Thread, r *Run) {
	n := uint64(r.Values["w"])
	size := (n*recordBytes + x86.PageSize - 1) &^ (x86.PageSize - 1)
	buf := r.mapBuffer(t, size)
	t.Fill(buf, size, pattern)
	fd, err := t.Open(r.Disk, fs.ORdwr|fs.ODirect)
	if r.failed(err, "open") {
		return
	}
	r.begin()
	var all []*kernel.Thread
	for w := range n {
		all = append(all, t.Go(fmt.Sprint("worker", w), func(t *kernel.Thread) { databaseWorker(t, r, fd, w, buf+w*recordBytes) }))
	}
	all = append(all, t.Go("mapper", func(t *kernel.Thread) {
		for range r.Values["maps"] {
			at := t.MustMmap(4 * x86.PageSize)
			t.Store64(at, 1)
			r.failed(t.Munmap(at, 4*x86.PageSize), "munmap")
		}
	}))
	all = append(all, t.Go("aligned", func(t *kernel.Thread) { databaseAligned(t, r, fd) }))
	for range r.Values["forks"] {
		pid, err := t.Fork(func(c *kernel.Thread) { c.Exit(0) })
		if r.failed(err, "fork") {
			break
		}
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	for _, w := range all {
		r.failed(t.Join(w), "join")
	}
	r.failed(t.Close(fd), "close")
	r.unmapBuffer(t, buf, size)
}

// databaseAligned reads the last page of the file into a page of its own.
func databaseAligned(t *kernel.Thread, r *Run, fd int) {
	at := r.Values["w"] * recordBytes
	own := t.MustMmap(x86.PageSize)
	for range r.Values["ops"] {
		n, err := t.Pread(fd, own, x86.PageSize, at)
		if r.failed(err, "read") || n != x86.PageSize || r.over() {
			break
		}
		r.compare(LostRead, "aligned page", 0, r.expect(at, x86.PageSize), t.Bytes(own, x86.PageSize))
	}
	r.failed(t.Munmap(own, x86.PageSize), "munmap")
}

// databaseWorker reads its record, checks it, changes it and writes it back.
func databaseWorker(t *kernel.Thread, r *Run, fd int, w, buf uint64) {
	at := int64(w) * recordBytes
	want := append([]byte(nil), r.expect(at, recordBytes)...)
	for op := range r.Values["ops"] {
		n, err := t.Pread(fd, buf, recordBytes, at)
		if r.failed(err, "read") || n != recordBytes {
			return
		}
		got := t.Bytes(buf, recordBytes)
		r.compare(LostRead, fmt.Sprintf("record %d", w), 0, want, got)
		if !bytes.Equal(want, got) {
			return
		}
		mark := byte(op)<<1 | 1
		for i := range want {
			want[i] ^= mark
		}
		t.Write(buf, want)
		n, err = t.Pwrite(fd, buf, recordBytes, at)
		if r.failed(err, "write") || n != recordBytes || r.over() {
			return
		}
		r.compare(LeakToDisk, fmt.Sprintf("record %d in the file", w), 0, want, r.image(at, recordBytes))
	}
}
