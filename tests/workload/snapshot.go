package workload

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// snapshotWriter is a program that saves its state as databases do: it forks, the child
// writes the memory to a file by O_DIRECT, and the parent goes on. The file must be what
// memory was when fork returned. All pins are for reading, of pages that fork has just
// shared: a policy that breaks COW for every pin copies the whole image (thread line
// 9082); emu_cow_copy counts them.
func snapshotWriter() *Workload {
	return withHuge(&Workload{
		Name:  "snapshot",
		Title: "fork, and the child writes the image by O_DIRECT while the parent goes on storing",
		Group: ReverseRace,
		Lines: "9082",
		Params: []Param{
			{Name: "pages", Usage: "pages of the image", Default: 1024, Small: 2, Min: 1, Max: 1 << 16},
			{Name: "rounds", Usage: "how many images", Default: 6, Small: 1, Min: 1, Max: 1 << 16},
		},
		Needs:  mm.Reverse,
		Memory: func(v Values) uint64 { return uint64(v["pages"])*3<<x86.PageShift + 6<<20 },
		CPUs:   4, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(v Values) int64 { return v["pages"] << x86.PageShift },
		Writes:    true,
		Main:      snapshotMain,
	}, func(v Values) int64 { return v["pages"] }, "huge=1")
}

func snapshotMain(t *kernel.Thread, r *Run) {
	size := uint64(r.Values["pages"]) << x86.PageShift
	image := r.mapBuffer(t, size)
	for i := int64(0); i < r.Values["rounds"] && !r.over(); i++ {
		now, later := byte(2*i+1), byte(2*i+2)
		t.Fill(image, size, now)
		r.begin()
		pid, err := t.Fork(func(c *kernel.Thread) {
			writeAll(c, r, image, int(size))
			c.Exit(0)
		})
		if r.failed(err, "fork") {
			return
		}
		t.Fill(image, size, later)
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
		r.compare(LeakToDisk, "image", 0, bytes.Repeat([]byte{now}, int(size)), r.image(0, int(size)))
		r.compare(LostRead, "parent's memory", 0, bytes.Repeat([]byte{later}, int(size)), t.Bytes(image, int(size)))
	}
	r.unmapBuffer(t, image, size)
}

// writeAll writes memory to the beginning of the disk.
func writeAll(t *kernel.Thread, r *Run, addr uint64, size int) {
	fd, err := t.Open(r.Disk, fs.ORdwr|fs.ODirect)
	if r.failed(err, "open") {
		return
	}
	for done := 0; done < size; {
		n, err := t.Pwrite(fd, addr+uint64(done), size-done, int64(done))
		if r.failed(err, "write") || n == 0 {
			break
		}
		done += n
	}
	r.failed(t.Close(fd), "close")
}

// tornCopy asks whether what the child has is one instant of the parent's memory (thread
// lines 1923, 2120, and 3570-3585 for two pages). A thread of the parent stores a
// number to one word and then to another. At every instant the first is at least the
// second; if the child sees it the other way round, its memory was copied while the
// thread went on, through a stale TLB entry perhaps. It can only happen where fork
// copies, so the first page is pinned. A huge page is copied small page by small page: its two words are at
// the ends of the huge one.
func tornCopy() *Workload {
	return withHuge(&Workload{
		Name:  "torn",
		Title: "a thread stores to two words in order while another forks; a pinned page is copied",
		Group: Semantics,
		Lines: "1923, 2120, 3570-3585",
		Params: []Param{
			{Name: "stores", Usage: "stores to each word during one fork", Default: 4000, Small: 60, Min: 1, Max: 1 << 24},
			{Name: "forks", Usage: "forks", Default: 40, Small: 1, Min: 1, Max: 1 << 16},
			{Name: "apart", Usage: "0: both words in one page, at its ends; 1: in two pages, as a list and its new node (the C library's race in fork)", Max: 1},
			{Name: "pin", Usage: "0: nobody has a pin", Default: 1, Small: 1, Max: 1},
		},
		Variants: []string{"", "apart=1", "apart=1,pin=0"},
		NeedsFor: func(v Values) mm.Guarantee {
			if v["apart"] == 1 && v["pin"] == 1 {
				return mm.Nobody // a copy of one page and a view of the other
			}
			return mm.Snapshot
		},
		Memory: func(Values) uint64 { return 4 << 20 },
		CPUs:   3, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main:      tornMain,
	}, func(v Values) int64 { return (1 + v["apart"]) * (mm.HugePage2M >> x86.PageShift) }, "huge=1", "huge=1,apart=1")
}

func tornMain(t *kernel.Thread, r *Run) {
	size, pageSize := uint64(2*x86.PageSize), uint64(x86.PageSize)
	if r.Values["huge"] == 1 {
		pageSize = mm.HugePage2M
		size = uint64(1+r.Values["apart"]) * pageSize
	}
	buf := r.mapBuffer(t, size)
	first, second := buf, buf+pageSize-8
	if r.Values["apart"] == 1 {
		second += pageSize
	}
	t.Store64(first, 0)
	t.Store64(second, 0)
	var reg *kernel.Registration
	if r.Values["pin"] == 1 {
		var err error
		reg, err = t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
		if r.failed(err, "register") {
			return
		}
	}
	r.begin()
	n := uint64(0)
	for range r.Values["forks"] {
		from := n
		n += uint64(r.Values["stores"])
		storer := t.Go("storer", func(t *kernel.Thread) {
			for i := from + 1; i <= n; i++ {
				t.Store64(first, i)
				t.Store64(second, i)
			}
		})
		pid, err := t.Fork(func(c *kernel.Thread) {
			b, a := c.Load64(second), c.Load64(first)
			if b > a {
				r.note(TornSnapshot, "the child's second word is newer than its first")
			}
			c.Exit(0)
		})
		r.failed(t.Join(storer), "join")
		if !r.failed(err, "fork") {
			_, _, err = t.Wait(pid)
			r.failed(err, "wait")
		}
		r.compareWord(LostRead, "parent's first word", 0, n, t.Load64(first))
		r.compareWord(LostRead, "parent's second word", 0, n, t.Load64(second))
		if r.over() {
			break
		}
	}
	if reg != nil {
		r.failed(t.UnregisterMemory(reg), "unregister")
	}
	r.unmapBuffer(t, buf, size)
}
