package mm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// pinRig is a machine with a memory manager, for the tests of pins, rmap and
// invariants.
type pinRig struct {
	t testing.TB
	m *sched.Machine
	s *System
}

type pinOptions struct {
	cpus    int
	bytes   uint64 // zero means 8 MiB
	regime  sched.Regime
	seed    uint64
	choose  sched.Strategy // nil means random, from seed
	preempt sched.Preempt
	steps   uint64
	policy  Policy
	force   bool
	ksm     bool
}

func newPinRig(t testing.TB, o pinOptions) *pinRig {
	if o.bytes == 0 {
		o.bytes = 8 << 20
	}
	host := x86.NewHost()
	mem, err := host.NewMemory(x86.MemoryOptions{Bytes: o.bytes})
	require.NoError(t, err)
	if o.choose == nil {
		o.choose = sched.NewRandom(o.seed)
	}
	m, err := sched.New(sched.Options{CPUs: o.cpus, Regime: o.regime, Strategy: o.choose,
		Preempt: o.preempt, StepLimit: o.steps, Mem: mem, CheckLocks: o.regime != sched.Parallel})
	require.NoError(t, err)
	s, err := NewSystem(m, page.NewMap(m, mem), Options{Policy: o.policy, ForceHooks: o.force, KSM: o.ksm})
	require.NoError(t, err)
	t.Cleanup(func() {
		m.Shutdown()
		mem.Release()
		host.Close()
	})
	return &pinRig{t: t, m: m, s: s}
}

// start makes a task with its own user reference of mm (nil for a kernel thread).
// Its address space goes when it returns.
func (r *pinRig) start(by *sched.Task, name string, cpu int, mm *MM, fn func(*sched.Task)) *sched.Task {
	t := r.m.NewTask(sched.TaskOptions{Name: name, CPU: cpu + 1}, func(t *sched.Task) {
		fn(t)
		ExitMM(t)
	})
	r.s.InitTask(t, mm)
	r.m.Start(by, t)
	return t
}

// user runs fn in a new address space on CPU 0, and whatever it starts, to the end.
func (r *pinRig) user(fn func(t *sched.Task, mm *MM)) *sched.Result {
	r.start(nil, "user", 0, nil, func(t *sched.Task) {
		mm, err := r.s.NewMM(t)
		require.NoError(r.t, err)
		mm.MmapBase = 0x7f0000000000
		mm.ActivateMM(t)
		fn(t, mm)
	})
	return r.m.Run()
}

// run is user for what must end well, with nothing left behind.
func (r *pinRig) run(fn func(t *sched.Task, mm *MM)) {
	r.t.Helper()
	res := r.user(fn)
	require.NoError(r.t, res.Err(), res.Detail)
	r.clean()
}

// oops is user for what must end in a BUG that says text.
func (r *pinRig) oops(text string, fn func(t *sched.Task, mm *MM)) {
	r.t.Helper()
	res := r.user(fn)
	require.Equal(r.t, sched.Oopsed, res.Reason, res.Detail)
	require.Contains(r.t, res.Detail, text)
}

// clean wants a machine whose processes have ended to be as it was at boot.
func (r *pinRig) clean() {
	r.t.Helper()
	require.Empty(r.t, r.s.CheckRest())
	r.start(nil, "cleaner", 0, nil, func(t *sched.Task) {
		r.s.DropLazy(t)
		r.s.Pages.DrainAll(t)
	})
	require.NoError(r.t, r.m.Run().Err())
	require.Empty(r.t, r.s.Leaks())
	require.Empty(r.t, r.s.Pages.Check())
}

// sound wants no invariant violated now. It is called by tasks of deterministic
// machines, and by the only task of any.
func (r *pinRig) sound() {
	r.t.Helper()
	require.Empty(r.t, r.s.Check())
}

// mmap maps n pages of private anonymous memory, or otherwise as the flags say.
func (r *pinRig) mmap(t *sched.Task, mm *MM, n int, prot Prot, flags MapFlags) uint64 {
	return r.mmapAt(t, mm, 0, n, prot, flags)
}

func (r *pinRig) mmapAt(t *sched.Task, mm *MM, addr uint64, n int, prot Prot, flags MapFlags) uint64 {
	if flags&MapShared == 0 {
		flags |= MapPrivate
	}
	if addr != 0 {
		flags |= MapFixed
	}
	addr, err := SysMmap(t, mm, MmapRequest{Addr: addr, Len: uint64(n) << x86.PageShift, Prot: prot,
		Flags: flags | MapAnonymous}, 0)
	require.NoError(r.t, err)
	return addr
}

const (
	protRW = ProtRead | ProtWrite
	pgSize = uint64(x86.PageSize)
)

// store writes v at addr as the task's user code does; the error says what signal
// a process would get.
func store(t *sched.Task, addr, v uint64) error {
	for {
		ec := t.C.Store(addr, 8, v)
		if ec == x86.NoFault {
			return nil
		}
		if sig, ok := DoPageFault(t, CurrentMM(t), t.C.CR2, ec); !ok {
			return fmt.Errorf("signal %v at %#x", sig.Signo, addr)
		}
	}
}

// load reads the word at addr.
func load(t *sched.Task, addr uint64) (uint64, error) {
	for {
		v, ec := t.C.Load(addr, 8)
		if ec == x86.NoFault {
			return v, nil
		}
		if sig, ok := DoPageFault(t, CurrentMM(t), t.C.CR2, ec); !ok {
			return 0, fmt.Errorf("signal %v at %#x", sig.Signo, addr)
		}
	}
}

func (r *pinRig) store(t *sched.Task, addr, v uint64) { require.NoError(r.t, store(t, addr, v)) }

func (r *pinRig) load(t *sched.Task, addr uint64) uint64 {
	v, err := load(t, addr)
	require.NoError(r.t, err)
	return v
}

// fill stores a word in each of n pages.
func (r *pinRig) fill(t *sched.Task, addr uint64, n int, v uint64) {
	for i := range uint64(n) {
		r.store(t, addr+i*pgSize, v+i)
	}
}

// slow is get_user_pages with mmap_sem around it.
func slow(t *sched.Task, mm *MM, addr uint64, n int, flags GUPFlags, pages []*page.Page) (int, error) {
	mm.MmapSem.DownRead(t)
	got, err := GetUserPages(t, mm, addr, n, flags, PinGet, pages)
	mm.MmapSem.UpRead(t)
	return got, err
}

// fork starts a child process that runs fn on the given CPU.
func (r *pinRig) fork(t *sched.Task, mm *MM, cpu int, fn func(*sched.Task, *MM)) {
	child, err := r.s.DupMM(t, mm)
	require.NoError(r.t, err)
	r.start(t, "child", cpu, child, func(t *sched.Task) { fn(t, child) })
}

// pageAt returns the page that mm maps at addr, nil if none.
func (r *pinRig) pageAt(mm *MM, addr uint64) *page.Page {
	if e := mm.PeekPTE(addr); e.Present() {
		return r.s.Pages.Page(e.PFN())
	}
	return nil
}

// refs returns a page's references less those of pagevecs.
func (r *pinRig) refs(t *sched.Task, p *page.Page) int {
	r.s.Pages.LRUAddDrain(t)
	return r.s.Pages.Refs(t, p)
}

// until yields until cond holds.
func until(t *sched.Task, cond func() bool) {
	for !cond() {
		t.C.Point(x86.OpYield, 0)
		t.Schedule()
	}
}
