package bench

import (
	"fmt"
	"sync"
	"time"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// machine is one of the lab's machines: booted when it is first used.
type machine struct {
	o kernel.Options
	m *kernel.Machine // nil until used
}

// start boots the machine if that has not been done.
func (x *machine) start() (*kernel.Machine, error) {
	if x.m != nil {
		return x.m, nil
	}
	m, err := kernel.Boot(x.o)
	if err != nil {
		return nil, err
	}
	// A fork of most of memory has to be allowed: what it promises is not used.
	m.MM().SetOvercommit(mm.OvercommitAlways, 0)
	x.m = m
	return m, nil
}

// run makes a process of fn and runs the machine until it is quiet. A run that
// does not end well is an error, and the machine is given up.
func (x *machine) run(fn func(t *kernel.Thread)) error {
	m, err := x.start()
	if err != nil {
		return err
	}
	if err = m.Run(fn).Err(); err != nil {
		x.stop()
	}
	return err
}

// time runs fn and returns what it measured. It panics where run returns an
// error: the harness turns that into the row's note.
func (x *machine) time(fn func(t *kernel.Thread) time.Duration) (d time.Duration) {
	err := x.run(func(t *kernel.Thread) { d = fn(t) })
	if err != nil {
		panic(err)
	}
	return d
}

func (x *machine) stop() {
	if x.m != nil {
		x.m.Shutdown()
		x.m = nil
	}
}

// Sizes of the lab's machines.
const (
	duoMemory   = 512 << 20 // fork's 100,000 pages, the child's tables, and room
	smallMemory = 64 << 20
)

// lab owns the machines. Batches run one after the other: mu is held meanwhile.
type lab struct {
	mu    sync.Mutex
	hosts *kernel.Hosts // immutable
	uni   machine       // protected by mu, like the others
	duo   machine
	quad  machine
	disk  machine
	swap  machine

	said   sync.Mutex // not mu, which a batch that was left behind holds
	points uint64     // median of the last search's schedules; protected by said
}

// newLab describes the machines; none is booted. Prefault says that memory is
// populated at boot, which is right for everything that is timed.
func newLab(hosts *kernel.Hosts, memory uint64, prefault bool, p mm.Policy) *lab {
	l := &lab{hosts: hosts}
	o := kernel.Options{Hosts: hosts, Prefault: prefault, Policy: p}
	of := func(cpus int, memory uint64) machine {
		o := o
		o.CPUs, o.Memory = cpus, memory
		return machine{o: o}
	}
	l.uni, l.duo = of(1, min(memory, smallMemory)), of(2, memory)
	l.quad, l.disk = of(4, min(memory, smallMemory)), of(2, min(memory, smallMemory))
	l.disk.o.Disks = []kernel.Disk{{Name: diskName, Size: diskBytes}}
	instant := blk.Instant()
	l.swap = of(1, min(memory, smallMemory))
	l.swap.o.Disks = []kernel.Disk{{Name: swapName, Size: swapBytes, Swap: true, Latency: &instant}}
	return l
}

// search is the side of the schedules rows: its machines live for one schedule.
func (l *lab) search(workers int) func(n int) time.Duration {
	return func(n int) time.Duration {
		l.mu.Lock()
		defer l.mu.Unlock()
		d, points := search(l.hosts, n, workers)
		l.said.Lock()
		l.points = points
		l.said.Unlock()
		return d
	}
}

// saidOfSchedules says what the figures of the schedules rows are of.
func (l *lab) saidOfSchedules() string {
	l.said.Lock()
	defer l.said.Unlock()
	return fmt.Sprintf("schedules of %d points (median)", l.points)
}

// close shuts the machines down.
func (l *lab) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range []*machine{&l.uni, &l.duo, &l.quad, &l.disk, &l.swap} {
		x.stop()
	}
}

// batch is a row's work on a machine: n units, and the time of the part that
// counts.
type batch func(t *kernel.Thread, n int) time.Duration

// on makes a harness side of a batch.
func (l *lab) on(x *machine, b batch) func(n int) time.Duration {
	return func(n int) time.Duration {
		l.mu.Lock()
		defer l.mu.Unlock()
		return x.time(func(t *kernel.Thread) time.Duration { return b(t, n) })
	}
}

// must ends the batch with an error that the harness shows.
func must(err error, what string) {
	if err != nil {
		panic(fmt.Errorf("%s: %w", what, err))
	}
}
