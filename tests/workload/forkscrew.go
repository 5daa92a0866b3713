package workload

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// forkscrew is Jeff Moyer's program (thread lines 3862-4105): an asynchronous read is
// in flight into one and a half pages of a buffer, the program forks, and then another
// thread reads into the rest of the second page. The second read makes the kernel copy
// the page that the first one is still going to be written to.
func forkscrew() *Workload {
	return withHuge(&Workload{
		Name:  "forkscrew",
		Title: "an asynchronous read in flight, a fork, then an overlapping read",
		Group: ForwardRace,
		Lines: "3862-4105",
		Params: []Param{
			{Name: "a", Usage: "offset of the buffer from a page boundary, in bytes", Default: 512, Small: 512, Min: 0, Max: x86.PageSize, Multiple: x86.SectorSize},
			{Name: "len", Usage: "bytes of each of the two reads", Default: x86.PageSize, Small: x86.PageSize, Min: x86.SectorSize, Max: 1 << 24, Multiple: x86.SectorSize, Amount: true},
			{Name: "rounds", Usage: "how often the program is run", Default: 8, Small: 1, Min: 1, Max: 1 << 20, Amount: true},
		},
		Needs:  mm.Forward | mm.AIO,
		Memory: func(v Values) uint64 { return uint64(v["len"])*8 + 6<<20 },
		CPUs:   4, SmallCPUs: 2,
		Latency:   blk.Disk2009,
		DiskBytes: func(v Values) int64 { return max(v["len"], 3*x86.PageSize) },
		Fill: func(_ Values, disk []byte) {
			// Anything but the buffer's own pattern, and different in every sector.
			for i := range disk {
				disk[i] = byte(i/x86.SectorSize)%40 + 0x40
			}
		},
		Main: func(t *kernel.Thread, r *Run) {
			if r.Values["rounds"] == 1 {
				forkscrewOnce(t, r)
				return
			}
			for i := int64(0); i < r.Values["rounds"] && !r.over(); i++ {
				pid, err := t.Fork(func(c *kernel.Thread) { forkscrewOnce(c, r); c.Exit(0) })
				if r.failed(err, "fork") {
					return
				}
				if _, _, err := t.Wait(pid); r.failed(err, "wait") {
					return
				}
			}
		},
	}, func(v Values) int64 { return (v["a"]+2*v["len"])>>x86.PageShift + 1 }, "huge=1,a=0")
}

// star is forkscrew's pattern.
const star = 0x2a

// screw is the shared state of one run: in the emulated address space, as the
// original's globals are.
type screw struct {
	r        *Run
	fd       int
	buf      uint64 // offset applied
	len      int
	forkLock kernel.Mutex
	forkCond kernel.Cond
	workLock kernel.Mutex
	workCond kernel.Cond
	forkGo   uint64 // word: the first read is submitted
	forked   uint64 // word: the fork has happened
	workGo   uint64 // word: the second worker may read
}

func forkscrewOnce(t *kernel.Thread, r *Run) {
	v := r.Values
	fd, err := t.Open(r.Disk, fs.ORdonly|fs.ODirect)
	if r.failed(err, "open") {
		return
	}
	size := uint64(v["a"]) + 2*uint64(v["len"])
	size = (size + x86.PageSize - 1) &^ (x86.PageSize - 1)
	base, words := r.mapBuffer(t, size), t.MustMmap(x86.PageSize)
	t.Fill(base, size, star)
	s := &screw{
		r: r, fd: fd, buf: base + uint64(v["a"]), len: v.Int("len"),
		forkLock: kernel.Mutex{Addr: words}, forkCond: kernel.Cond{Addr: words + 64},
		workLock: kernel.Mutex{Addr: words + 128}, workCond: kernel.Cond{Addr: words + 192},
		forkGo: words + 256, forked: words + 320, workGo: words + 384,
	}
	r.begin()
	forker := t.Go("forker", s.forker)
	first := t.Go("worker0", s.first)
	second := t.Go("worker1", s.second)
	r.failed(t.Join(forker), "join")
	r.failed(t.Join(first), "join")
	r.failed(t.Join(second), "join")
	r.failed(t.Close(fd), "close")
}

// signal sets a word under a mutex and signals its condition; await waits for it. The
// original signals without a predicate and may hang when a signal comes too early.
func signal(t *kernel.Thread, l *kernel.Mutex, c *kernel.Cond, word uint64) {
	l.Lock(t)
	t.Store32(word, 1)
	c.Broadcast(t)
	l.Unlock(t)
}

func await(t *kernel.Thread, l *kernel.Mutex, c *kernel.Cond, word uint64) {
	l.Lock(t)
	for t.Load32(word) == 0 {
		c.Wait(t, l)
	}
	l.Unlock(t)
}

// forker forks once the first read is in flight. The child looks at its memory, sleeps
// for a second, and looks again: nobody but itself may change it.
func (s *screw) forker(t *kernel.Thread) {
	await(t, &s.forkLock, &s.forkCond, s.forkGo)
	pid, err := t.Fork(func(c *kernel.Thread) {
		before := c.Bytes(s.buf, 2*s.len)
		c.Usleep(1_000_000)
		after := c.Bytes(s.buf, 2*s.len)
		s.r.compare(ChildChanged, "child's buffer", 0, before, after)
		c.Exit(0)
	})
	signal(t, &s.forkLock, &s.forkCond, s.forked)
	if s.r.failed(err, "fork") {
		return
	}
	_, _, err = t.Wait(pid)
	s.r.failed(err, "wait")
}

// first submits the asynchronous read, lets the forker and then the other worker go,
// and checks what has arrived.
func (s *screw) first(t *kernel.Thread) {
	ctx, err := t.IoSetup(1)
	if s.r.failed(err, "io_setup") {
		signal(t, &s.forkLock, &s.forkCond, s.forkGo)
		signal(t, &s.workLock, &s.workCond, s.workGo)
		return
	}
	_, err = t.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPread, FD: s.fd, Buf: s.buf, Len: uint64(s.len), Off: 0}})
	submitted := !s.r.failed(err, "io_submit")
	signal(t, &s.forkLock, &s.forkCond, s.forkGo)
	await(t, &s.forkLock, &s.forkCond, s.forked)
	signal(t, &s.workLock, &s.workCond, s.workGo)
	if submitted {
		ev, err := t.IoGetevents(ctx, 1, 1, -1)
		if !s.r.failed(err, "io_getevents") {
			if len(ev) != 1 || ev[0].Res != int64(s.len) {
				s.r.broken("io_getevents: short or failed read")
			} else {
				s.check(t, 0)
			}
		}
	}
	s.r.failed(t.IoDestroy(ctx), "io_destroy")
}

// second reads into what follows the first buffer.
func (s *screw) second(t *kernel.Thread) {
	await(t, &s.workLock, &s.workCond, s.workGo)
	n, err := t.Pread(s.fd, s.buf+uint64(s.len), s.len, 0)
	if s.r.failed(err, "read") {
		return
	}
	if n != s.len {
		s.r.broken("read: short")
		return
	}
	s.check(t, s.len)
}

func (s *screw) check(t *kernel.Thread, at int) {
	where := "buffer of the first read"
	if at > 0 {
		where = "buffer of the second read"
	}
	s.r.compare(LostRead, where, 0, s.r.expect(0, s.len), t.Bytes(s.buf+uint64(at), s.len))
}
