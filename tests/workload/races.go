package workload

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Races returns the two races in as few steps as they can be had in: one page, a
// transfer of one sector, one fork, one store by each of those who store, every actor on a CPU of its
// own. They are for exhaustive searches and have no row in the matrix.
func Races() []*Workload { return []*Workload{readFork(), writeShared()} }

// course holds actors at a start line, so that the search begins with all of them
// ready to go, and collects them at the finish. It waits as a spinlock does, with
// interrupts enabled: sleeping and waking would be searched too.
type course struct {
	r             *Run
	ready, racing x86.Word32 // actors that have not come to the start, and to the finish
	start, finish x86.ObjID
}

func newCourse(t *kernel.Thread, r *Run, n int32) *course {
	m := t.Machine().Sched()
	c := &course{r: r, start: m.NewObj(x86.ClassWord), finish: m.NewObj(x86.ClassWord)}
	c.ready.Poke(n)
	c.racing.Poke(n)
	return c
}

// begin waits until all have come. The search begins with the last.
func (c *course) begin(t *kernel.Thread) {
	_ = t.Kernel(func(task *sched.Task) error {
		if c.ready.AddReturn(task.C, c.start, -1) == 0 {
			c.r.begin()
			task.C.Wrote(c.start)
		}
		await32(task, &c.ready, c.start)
		return nil
	})
}

// end waits until all have come. The last looks at the outcome; what follows is not
// searched.
func (c *course) end(t *kernel.Thread, look func()) {
	last := false
	_ = t.Kernel(func(task *sched.Task) error {
		last = c.racing.AddReturn(task.C, c.finish, -1) == 0
		if !last {
			await32(task, &c.racing, c.finish)
		}
		return nil
	})
	if !last {
		return
	}
	look()
	c.r.end()
	_ = t.Kernel(func(task *sched.Task) error {
		task.C.Wrote(c.finish)
		return nil
	})
}

func await32(t *sched.Task, w *x86.Word32, obj x86.ObjID) {
	for n := 1; w.Peek() != 0; n++ {
		t.C.SpinWait(obj, n)
	}
}

// readFork is the forward race: a direct read of one sector, in another thread a fork
// and a store to the same page.
func readFork() *Workload {
	return &Workload{
		Name:   "read_fork",
		Title:  "one thread reads a sector by O_DIRECT while another forks and stores to the page",
		Group:  "forward race",
		Lines:  "3862-4105",
		Needs:  mm.Forward,
		Memory: func(Values) uint64 { return 2 << 20 },
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Fill: func(_ Values, disk []byte) {
			for i := range disk {
				disk[i] = pinnedByte
			}
		},
		Main: func(t *kernel.Thread, r *Run) {
			fd, err := t.Open(r.Disk, fs.ORdonly|fs.ODirect)
			if r.failed(err, "open") {
				return
			}
			buf := t.MustMmap(x86.PageSize)
			t.Store64(buf, 0)
			c := newCourse(t, r, 2)
			reader := t.Go("reader", func(t *kernel.Thread) {
				c.begin(t)
				n, err := t.Pread(fd, buf+pinnedAt, x86.SectorSize, 0)
				if !r.failed(err, "read") && n != x86.SectorSize {
					r.broken("read: short")
				}
				c.end(t, func() { r.lookForRead(t, buf) })
			})
			c.begin(t)
			var child *mm.MM
			r.failed(t.Kernel(func(task *sched.Task) (err error) {
				child, err = t.MM().Sys.DupMM(task, t.MM())
				return err
			}), "fork")
			t.Store64(buf, 1)
			c.end(t, func() { r.lookForRead(t, buf) })
			r.failed(t.Join(reader), "join")
			if child != nil {
				_ = t.Kernel(func(task *sched.Task) error { child.MMPut(task); return nil })
			}
			r.failed(t.Close(fd), "close")
		},
	}
}

// lookForRead compares the buffer's sector with the disk's.
func (r *Run) lookForRead(t *kernel.Thread, buf uint64) {
	r.compare(LostRead, "buffer", 0, r.expect(0, 1), t.Bytes(buf+pinnedAt, 1))
}

// writeShared is the reverse race: a direct write of one sector from a page that is
// shared with a child; the parent stores, and so does the child.
func writeShared() *Workload {
	return &Workload{
		Name:   "write_shared",
		Title:  "one thread writes a sector by O_DIRECT from a page shared with a child; parent and child store",
		Group:  "reverse race",
		Lines:  "4107-4275",
		Needs:  mm.Reverse,
		Memory: func(Values) uint64 { return 2 << 20 },
		CPUs:   3, SmallCPUs: 3,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Writes:    true,
		Main: func(t *kernel.Thread, r *Run) {
			fd, err := t.Open(r.Disk, fs.ORdwr|fs.ODirect)
			if r.failed(err, "open") {
				return
			}
			buf := t.MustMmap(x86.PageSize)
			t.Store64(buf, 0)
			c := newCourse(t, r, 3)
			writer := t.Go("writer", func(t *kernel.Thread) {
				c.begin(t)
				n, err := t.Pwrite(fd, buf, x86.SectorSize, 0)
				if !r.failed(err, "write") && n != x86.SectorSize {
					r.broken("write: short")
				}
				c.end(t, func() {})
			})
			pid, err := t.Fork(func(t *kernel.Thread) {
				c.begin(t)
				t.Store8(buf, 0xff)
				c.end(t, func() {})
				t.Exit(0)
			})
			if r.failed(err, "fork") {
				return
			}
			c.begin(t)
			t.Store8(buf, 0x11)
			c.end(t, func() {})
			r.failed(t.Join(writer), "join")
			_, _, err = t.Wait(pid)
			r.failed(err, "wait")
			r.failed(t.Close(fd), "close")
		},
		Check: func(r *Run) {
			if b := r.image(0, 1)[0]; b != 0 && b != 0x11 {
				r.find(Finding{Verdict: LeakToDisk, Where: "file", Want: 0x11, Got: int(b), Note: "the child's byte is in the file"})
			}
		},
	}
}
