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
// own, and the disk's interrupts on one more. They are for exhaustive searches and have no row in
// the matrix.
func Races() []*Workload {
	return withMachine([]*Workload{
		readFork(), writeShared(writerApart), writeShared(writeFirst), writeShared(writeBefore),
		driverFork(), driverStore(),
	})
}

func raceMemory(Values) uint64 { return 2 << 20 }

// interruptApart has the disk interrupt a CPU that nobody runs on. On the CPU of a thread the
// interrupt could come between any two of its steps, which multiplies the schedules
// and adds nothing: what it does is what locks and wake-ups order.
func interruptApart(cpu int) func(Values, *kernel.Options) {
	return func(_ Values, o *kernel.Options) { o.Disks[0].Affinity = 1 << cpu }
}

// course holds actors at a start line, so that the search begins with all of them
// ready to go, and at the finish, so that it ends with all of them through. They wait as
// for a spinlock, with interrupts enabled (sleeping and waking would be searched
// too), and come to the finish in no order: each has a word of its own there.
type course struct {
	r           *Run
	ready       x86.Word32 // actors that have not come to the start
	start, done x86.ObjID
	over        x86.Word32 // set when all have come to the finish
	racing      []lane     // the actors but the first
}

// lane is where one actor runs: locked until it is through.
type lane struct {
	word x86.SpinWord
	obj  x86.ObjID
}

func newCourse(t *kernel.Thread, r *Run, n int) *course {
	m := t.Machine().Sched()
	c := &course{r: r, start: m.NewObj(x86.ClassWord), done: m.NewObj(x86.ClassWord), racing: make([]lane, n-1)}
	c.ready.Poke(int32(n))
	for i := range c.racing {
		c.racing[i].obj = m.NewObj(x86.ClassLock)
		c.racing[i].word.TryLock()
	}
	return c
}

// begin waits until all have come. The search begins with the last.
func (c *course) begin(t *kernel.Thread) {
	_ = t.Kernel(func(task *sched.Task) error {
		if c.ready.AddReturn(task.C, c.start, -1) == 0 {
			c.r.begin()
			task.C.Wrote(c.start)
		}
		for n := 1; c.ready.Peek() != 0; n++ {
			task.C.SpinWait(c.start, n)
		}
		return nil
	})
}

// through is the finish of actor i, from 1. It goes on when the first has looked.
func (c *course) through(t *kernel.Thread, i int) {
	_ = t.Kernel(func(task *sched.Task) error {
		l := &c.racing[i-1]
		task.C.Point(x86.OpUnlock, l.obj)
		l.word.Unlock()
		task.C.Wrote(l.obj)
		for n := 1; c.over.Peek() == 0; n++ {
			task.C.SpinWait(c.done, n)
		}
		return nil
	})
}

// end is the finish of the first actor: it waits for all others and looks at the
// outcome. What follows is not searched.
func (c *course) end(t *kernel.Thread, look func()) {
	_ = t.Kernel(func(task *sched.Task) error {
		for i := range c.racing {
			l := &c.racing[i]
			task.C.Want = &l.word
			task.C.Point(x86.OpLock, l.obj)
			task.C.Want = nil
			for n := 1; !l.word.TryLock(); n++ {
				task.C.SpinWait(l.obj, n)
			}
		}
		return nil
	})
	look()
	c.r.end()
	_ = t.Kernel(func(task *sched.Task) error {
		c.over.Poke(1)
		task.C.Wrote(c.done)
		return nil
	})
}

// readFork is the forward race: a direct read of one sector, in another thread a fork
// and a store to the same page.
func readFork() *Workload {
	return &Workload{
		Name:   "read_fork",
		Title:  "one thread reads a sector by O_DIRECT while another forks and stores to the page",
		Group:  ForwardRace,
		Lines:  "3862-4105",
		Needs:  mm.Forward,
		Memory: raceMemory,
		CPUs:   3, SmallCPUs: 3, Tune: interruptApart(2),
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
				c.through(t, 1)
			})
			c.begin(t)
			var child *mm.MM
			r.failed(t.Kernel(func(task *sched.Task) (err error) {
				child, err = t.MM().Sys.DupMM(task, t.MM())
				return err
			}), "fork")
			t.Store64(buf, 1)
			c.end(t, func() { r.compare(LostRead, "buffer", 0, r.expect(0, 1), t.Bytes(buf+pinnedAt, 1)) })
			r.failed(t.Join(reader), "join")
			if child != nil {
				_ = t.Kernel(func(task *sched.Task) error { child.MMPut(task); return nil })
			}
			r.failed(t.Close(fd), "close")
		},
	}
}

// reverseForm says who races in the reverse race.
type reverseForm uint8

const (
	writerApart reverseForm = iota // another thread writes while the parent stores
	writeFirst                     // the parent submits the write, then stores
	writeBefore                    // the write has been submitted when the race begins
)

// writeShared is the reverse race: a direct write of one sector from a page that is
// shared with a child; the parent stores, and so does the child.
func writeShared(form reverseForm) *Workload {
	name := [...]string{"write_shared", "write_store", "write_inflight"}[form]
	title := [...]string{
		"one thread writes a sector by O_DIRECT from a page shared with a child; parent and child store",
		"the parent submits a sector to be written by O_DIRECT from a page shared with a child, and stores; so does the child",
		"a sector is being written by O_DIRECT from a page shared with a child when parent and child store",
	}[form]
	actors := 2
	if form == writerApart {
		actors = 3
	}
	return &Workload{
		Name: name, Title: title, Group: ReverseRace, Lines: "4107-4275",
		Needs:  mm.Reverse,
		Memory: raceMemory,
		CPUs:   actors + 1, SmallCPUs: actors + 1, Tune: interruptApart(actors),
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
			c := newCourse(t, r, actors)
			pid, err := t.Fork(func(t *kernel.Thread) {
				c.begin(t)
				t.Store8(buf, 0xff)
				c.through(t, 1)
				t.Exit(0)
			})
			if r.failed(err, "fork") {
				return
			}
			submit, finish := writeOf(t, r, c, form, fd, buf)
			if form != writeFirst {
				submit(t)
			}
			c.begin(t)
			if form == writeFirst {
				submit(t)
			}
			t.Store8(buf, 0x11)
			c.end(t, func() {})
			finish(t)
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

// writeOf returns what begins the write of a sector and what waits for it. A writer apart
// is begun as a thread.
func writeOf(t *kernel.Thread, r *Run, c *course, form reverseForm, fd int, buf uint64) (submit, finish func(t *kernel.Thread)) {
	if form == writerApart {
		var writer *kernel.Thread
		submit = func(t *kernel.Thread) {
			writer = t.Go("writer", func(t *kernel.Thread) {
				c.begin(t)
				n, err := t.Pwrite(fd, buf, x86.SectorSize, 0)
				if !r.failed(err, "write") && n != x86.SectorSize {
					r.broken("write: short")
				}
				c.through(t, 2)
			})
		}
		return submit, func(t *kernel.Thread) { r.failed(t.Join(writer), "join") }
	}
	ctx, err := t.IoSetup(1)
	r.failed(err, "io_setup")
	submit = func(t *kernel.Thread) {
		_, err := t.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPwrite, FD: fd, Buf: buf, Len: x86.SectorSize, Off: 0}})
		r.failed(err, "io_submit")
	}
	return submit, func(t *kernel.Thread) {
		ev, err := t.IoGetevents(ctx, 1, 1, -1)
		if !r.failed(err, "io_getevents") && (len(ev) != 1 || ev[0].Res != x86.SectorSize) {
			r.broken("io_getevents: short or failed write")
		}
		r.failed(t.IoDestroy(ctx), "io_destroy")
	}
}
