package mm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// rigOptions describe a bare machine.
type rigOptions struct {
	sched.Options
	mm    Options
	bytes uint64
}

// rig is a bare machine with a memory manager and nothing above it.
type rig struct {
	tb  testing.TB
	m   *sched.Machine
	mem *x86.Memory
	s   *System
}

var testHost = x86.NewHost()

// boot makes a machine; it is shut down at the end of the test.
func boot(tb testing.TB, o rigOptions) *rig {
	tb.Helper()
	if o.bytes == 0 {
		o.bytes = 16 << 20
	}
	mem, err := testHost.NewMemory(x86.MemoryOptions{Bytes: o.bytes})
	require.NoError(tb, err)
	o.Mem = mem
	m, err := sched.New(o.Options)
	require.NoError(tb, err)
	s, err := NewSystem(m, page.NewMap(m, mem), o.mm)
	require.NoError(tb, err)
	m.RegisterNamer(x86.ClassLock, lock.Namer)
	r := &rig{tb: tb, m: m, mem: mem, s: s}
	tb.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	if r.mem != nil {
		r.m.Shutdown()
		r.mem.Release()
		r.mem = nil
	}
}

// run starts fn as the first task, in an address space of its own, and runs the
// machine until everybody has ended.
func (r *rig) run(fn func(u *user)) {
	r.tb.Helper()
	r.start(fn)
	res := r.m.Run()
	require.NoError(r.tb, res.Err(), "%s", res.Detail)
	require.Empty(r.tb, r.m.Bugs())
}

func (r *rig) start(fn func(u *user)) {
	init := r.m.NewTask(sched.TaskOptions{Name: "init"}, func(t *sched.Task) {
		m, err := r.s.NewMM(t)
		if err != nil {
			t.Oops("no memory for init: %v", err)
		}
		r.s.spawn(t, "parent", m, fn)
	})
	r.m.Start(nil, init)
}

// end checks that nothing is left: run after run.
func (r *rig) end() {
	r.tb.Helper()
	var leaks []string
	done := r.m.NewTask(sched.TaskOptions{Name: "reaper"}, func(t *sched.Task) {
		r.s.DropLazy(t)
		for i := range r.m.CPUs() {
			r.s.Pages.LRUAddDrainCPU(t, i)
		}
	})
	r.m.Start(nil, done)
	res := r.m.Run()
	require.NoError(r.tb, res.Err(), "%s", res.Detail)
	leaks = r.s.Leaks()
	require.Empty(r.tb, leaks)
	require.Empty(r.tb, r.s.CheckRest())
	if l := r.s.Pages.Ledger(); l != nil {
		require.Empty(r.tb, l.Findings())
	}
	require.Zero(r.tb, r.sum(trace.NrAnonPages))
	require.Zero(r.tb, r.sum(trace.NrPageTablePages))
}

func (r *rig) sum(c trace.Counter) int64 { return r.m.Trace().Gauge(c) }

// user is a task in user mode.
type user struct {
	t  *sched.Task
	s  *System
	mm *MM
}

// segv is what an access panics with that a test did not expect to fail.
type segv struct{ SigInfo }

func (v segv) Error() string {
	return fmt.Sprintf("signal %v code %d at %#x", v.Signo, v.Code, v.Addr)
}

// spawn starts a task in m, whose user reference it takes over.
func (s *System) spawn(t *sched.Task, name string, m *MM, fn func(u *user)) *sched.Task {
	return s.spawnOn(t, 0, name, m, fn)
}

// spawnOn is spawn on a CPU, counted from 1; 0 leaves it to the scheduler.
func (s *System) spawnOn(t *sched.Task, cpu int, name string, m *MM, fn func(u *user)) *sched.Task {
	n := s.M.NewTask(sched.TaskOptions{Name: name, CPU: cpu}, func(t *sched.Task) {
		t.User = true
		fn(&user{t, s, m})
		t.User = false
		ExitMM(t)
	})
	s.InitTask(n, m)
	s.M.Start(t, n)
	return n
}

// tryStore stores n bytes, taking faults until it succeeds or a signal ends it.
func (u *user) tryStore(va uint64, n int, v uint64) (SigInfo, bool) {
	for {
		ec := u.t.C.Store(va, n, v)
		if ec == x86.NoFault {
			return SigInfo{}, true
		}
		if sig, ok := DoPageFault(u.t, u.mm, u.t.C.CR2, ec); !ok {
			return sig, false
		}
	}
}

func (u *user) tryLoad(va uint64, n int) (uint64, SigInfo, bool) {
	for {
		v, ec := u.t.C.Load(va, n)
		if ec == x86.NoFault {
			return v, SigInfo{}, true
		}
		if sig, ok := DoPageFault(u.t, u.mm, u.t.C.CR2, ec); !ok {
			return 0, sig, false
		}
	}
}

func (u *user) store(va, v uint64) {
	if sig, ok := u.tryStore(va, 8, v); !ok {
		panic(segv{sig})
	}
}

func (u *user) load(va uint64) uint64 {
	v, sig, ok := u.tryLoad(va, 8)
	if !ok {
		panic(segv{sig})
	}
	return v
}

// kernel runs fn as a system call would.
func (u *user) kernel(fn func(t *sched.Task)) {
	u.t.User = false
	fn(u.t)
	u.t.Progress()
	u.t.User = true
}

// mmap maps private anonymous memory, read-write unless told otherwise.
func (u *user) mmap(pages int, o ...MmapRequest) uint64 {
	req := MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous}
	if len(o) > 0 {
		req = o[0]
	}
	req.Len = uint64(pages) << x86.PageShift
	var addr uint64
	u.kernel(func(t *sched.Task) {
		var err error
		if addr, err = SysMmap(t, u.mm, req, 0); err != nil {
			t.Oops("mmap: %v", err)
		}
	})
	return addr
}

func (u *user) munmap(addr uint64, pages int) {
	u.kernel(func(t *sched.Task) {
		if err := SysMunmap(t, u.mm, addr, uint64(pages)<<x86.PageShift); err != nil {
			t.Oops("munmap: %v", err)
		}
	})
}

// fork starts fn in a copy of the address space and returns what to wait on.
func (u *user) fork(fn func(u *user)) *lock.Completion {
	done, err := u.tryFork(fn)
	if err != nil {
		u.t.Oops("fork: %v", err)
	}
	return done
}

func (u *user) tryFork(fn func(u *user)) (*lock.Completion, error) {
	done := new(lock.Completion)
	done.Init(u.s.M)
	var err error
	u.kernel(func(t *sched.Task) {
		var m *MM
		if m, err = u.s.DupMM(t, u.mm); err == nil {
			u.s.spawn(t, "child", m, func(c *user) {
				fn(c)
				c.exit(done)
			})
		}
	})
	return done, err
}

// exit gives the address space up and then tells whoever waits.
func (u *user) exit(done *lock.Completion) {
	u.kernel(func(t *sched.Task) {
		ExitMM(t)
		done.Complete(t)
	})
}

// thread starts fn in the same address space.
func (u *user) thread(name string, fn func(u *user)) *lock.Completion {
	return u.threadOn(0, name, fn)
}

func (u *user) threadOn(cpu int, name string, fn func(u *user)) *lock.Completion {
	done := new(lock.Completion)
	done.Init(u.s.M)
	u.kernel(func(t *sched.Task) {
		u.mm.MMGet(t)
		u.s.spawnOn(t, cpu, name, u.mm, func(c *user) {
			fn(c)
			c.exit(done)
		})
	})
	return done
}

// otherCPU is the number, from 1, of a CPU that the task does not run on.
func (u *user) otherCPU() int { return (u.t.C.ID+1)%u.s.M.CPUs() + 1 }

func (u *user) wait(done *lock.Completion) { u.kernel(func(t *sched.Task) { done.Wait(t) }) }

// regimes runs a test in each regime, with the given number of CPUs.
func regimes(t *testing.T, cpus int, fn func(t *testing.T, o rigOptions)) {
	for _, reg := range []sched.Regime{sched.Timed, sched.Free, sched.Parallel} {
		t.Run(reg.String(), func(t *testing.T) {
			o := rigOptions{}
			o.CPUs, o.Regime = cpus, reg
			fn(t, o)
		})
	}
}
