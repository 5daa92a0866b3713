package workload

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// forkscrewreverse (thread lines 4107-4275): the buffer is already shared with a child
// when the parent's O_DIRECT write goes out. The parent stores and gets a copy, the
// child stores and, alone with the old page, re-uses it; the device has yet to read it.
// The file may hold the old bytes or the parent's, but never the child's.
func forkscrewreverse() *Workload {
	return withHuge(&Workload{
		Name:  "forkscrewreverse",
		Title: "an O_DIRECT write in flight from memory shared with a child; both store",
		Group: ReverseRace,
		Lines: "4107-4275",
		Params: []Param{
			{Name: "size", Usage: "bytes written", Default: 8 << 20, Small: 2 * x86.PageSize, Min: x86.PageSize, Max: 1 << 30, Multiple: x86.PageSize, Amount: true},
			{Name: "child", Usage: "microseconds before the child stores 0xff", Default: 50_000, Small: 50_000, Max: 1 << 40},
			{Name: "parent", Usage: "microseconds before the parent stores 0x11", Default: 10_000, Small: 10_000, Max: 1 << 40},
		},
		Needs:  mm.Reverse,
		Memory: func(v Values) uint64 { return uint64(v["size"])*3 + 8<<20 },
		CPUs:   4, SmallCPUs: 2,
		Latency:   blk.Disk2009,
		DiskBytes: func(v Values) int64 { return v["size"] },
		Writes:    true,
		Main:      reverseMain,
		Check: func(r *Run) {
			img := r.image(0, r.Values.Int("size"))
			if i := bytes.IndexByte(img, 0xff); i >= 0 {
				r.find(Finding{Verdict: LeakToDisk, Where: "file", Offset: int64(i), Want: 0x11, Got: 0xff,
					Note: "the child's byte is in the file"})
			}
			for i, b := range img {
				if b != 0 && b != 0x11 && b != 0xff {
					r.broken("the file holds a byte that nobody wrote")
					r.find(Finding{Verdict: LeakToDisk, Where: "file", Offset: int64(i), Want: 0x11, Got: int(b), Note: "nobody wrote this"})
					break
				}
			}
		},
	}, func(v Values) int64 { return v["size"] >> x86.PageShift }, "huge=1")
}

func reverseMain(t *kernel.Thread, r *Run) {
	v := r.Values
	size := v.Int("size")
	buffer := r.mapBuffer(t, uint64(size))
	lock := kernel.Mutex{Addr: t.MustMmap(x86.PageSize)}
	t.Fill(buffer, uint64(size), 0)
	fd, err := t.Open(r.Disk, fs.ORdwr|fs.ODirect)
	if r.failed(err, "open") {
		return
	}
	r.begin()
	lock.Lock(t)
	writer := t.Go("writer", func(t *kernel.Thread) {
		lock.Lock(t)
		for done := 0; done < size; {
			n, err := t.Pwrite(fd, buffer+uint64(done), size-done, int64(done))
			if r.failed(err, "write") || n == 0 {
				break
			}
			done += n
		}
		lock.Unlock(t)
	})
	pid, err := t.Fork(func(c *kernel.Thread) {
		c.Usleep(uint64(v["child"]))
		c.Fill(buffer, uint64(size), 0xff)
		c.Exit(0)
	})
	lock.Unlock(t)
	if !r.failed(err, "fork") {
		t.Usleep(uint64(v["parent"]))
		t.Fill(buffer, uint64(size), 0x11)
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	r.failed(t.Join(writer), "join")
	r.failed(t.Close(fd), "close")
}
