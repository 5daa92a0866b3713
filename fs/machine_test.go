package fs

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// config describes a test machine; the zero value is one CPU, a RAM disk of 1 MiB
// with a pattern on it, and the stock policy.
type config struct {
	sched.Options
	disk   blk.DeviceOptions
	bytes  int // of the disk
	policy mm.Policy
}

// rig is a machine with one disk, /dev/vda.
type rig struct {
	t    testing.TB
	m    *sched.Machine
	mm   *mm.System
	fs   *System
	dev  *blk.Device
	disk []byte // nil if the configuration brought a backing
}

func newRig(t testing.TB, c config) *rig {
	t.Helper()
	host := x86.NewHost()
	mem, err := host.NewMemory(x86.MemoryOptions{Bytes: 16 << 20})
	require.NoError(t, err)
	c.Mem = mem
	m, err := sched.New(c.Options)
	require.NoError(t, err)
	t.Cleanup(func() {
		m.Shutdown()
		mem.Release()
		host.Close()
	})
	m.RegisterNamer(x86.ClassLock, lock.Namer)
	r := &rig{t: t, m: m}
	r.mm, err = mm.NewSystem(m, page.NewMap(m, mem), mm.Options{Policy: c.policy})
	require.NoError(t, err)
	b := blk.NewSystem(m, r.mm.Pages)
	if c.disk.Backing == nil {
		r.disk = make([]byte, max(c.bytes, 1<<20))
		if c.bytes > 0 {
			r.disk = r.disk[:c.bytes]
		}
		for i := range r.disk {
			r.disk[i] = pattern(i)
		}
		c.disk.Backing, err = blk.RAMDiskOf(r.disk)
		require.NoError(t, err)
	}
	r.dev, err = b.AddDevice(c.disk)
	require.NoError(t, err)
	r.fs = New(r.mm, b)
	return r
}

// pattern is byte i of the disk.
func pattern(i int) byte { return byte(i*7 + i>>9*13 + 1) }

// user is a task with an address space.
type user struct {
	t *sched.Task
	r *rig
	m *mm.MM
}

// spawn starts fn as a task in m, whose user reference it takes over. The address
// space goes when fn returns, as in exit.
func (r *rig) spawn(by *sched.Task, cpu int, m *mm.MM, fn func(u *user)) *lock.Completion {
	done := new(lock.Completion)
	done.Init(r.m)
	n := r.m.NewTask(sched.TaskOptions{Name: "user", CPU: cpu + 1}, func(t *sched.Task) {
		fn(&user{t, r, m})
		mm.ExitMM(t)
		done.Complete(t)
	})
	r.mm.InitTask(n, m)
	r.m.Start(by, n)
	return done
}

// start makes the first task, on CPU cpu, in an address space of its own.
func (r *rig) start(cpu int, fn func(u *user)) {
	r.m.Start(nil, r.m.NewTask(sched.TaskOptions{Name: "init", CPU: cpu + 1}, func(t *sched.Task) {
		m, err := r.mm.NewMM(t)
		if err != nil {
			t.Oops("no memory: %v", err)
		}
		r.spawn(t, cpu, m, fn)
	}))
}

func (r *rig) run(fn func(u *user)) *sched.Result {
	r.t.Helper()
	r.start(0, fn)
	return r.finish()
}

// finish runs the machine and checks that nothing is left behind.
func (r *rig) finish() *sched.Result {
	r.t.Helper()
	res := r.m.Run()
	require.NoError(r.t, res.Err(), "%s", res.Detail)
	require.Empty(r.t, r.m.Bugs())
	r.m.Start(nil, r.m.NewTask(sched.TaskOptions{Name: "reaper"}, func(t *sched.Task) {
		r.mm.DropLazy(t)
		for i := range r.m.CPUs() {
			r.mm.Pages.LRUAddDrainCPU(t, i)
		}
	}))
	last := r.m.Run()
	require.NoError(r.t, last.Err(), "%s", last.Detail)
	served, waiting := r.dev.InFlight()
	require.Zero(r.t, served+waiting, "requests left")
	require.Empty(r.t, r.mm.Leaks())
	require.Empty(r.t, r.mm.CheckRest())
	require.Empty(r.t, r.mm.Pages.Check())
	if l := r.mm.Pages.Ledger(); l != nil {
		require.Empty(r.t, l.Findings())
	}
	return res
}

func (r *rig) sum(c trace.Counter) uint64 { return r.m.Trace().Sum(c) }

// mmap maps private anonymous memory.
func (u *user) mmap(pages int) uint64 {
	addr, err := mm.SysMmap(u.t, u.m, mm.MmapRequest{
		Len: uint64(pages) << x86.PageShift, Prot: mm.ProtRead | mm.ProtWrite, Flags: mm.MapPrivate | mm.MapAnonymous,
	}, 0)
	u.must(err)
	return addr
}

func (u *user) munmap(addr uint64, pages int) {
	u.must(mm.SysMunmap(u.t, u.m, addr, uint64(pages)<<x86.PageShift))
}

func (u *user) must(err error) {
	if err != nil {
		u.t.Oops("%v", err)
	}
}

// want stops the machine unless a call ended as it should.
func (u *user) want(what string, n int64, err error, wantN int64, wantErr error) {
	if n != wantN || err != wantErr {
		u.t.Oops("%s: %d, %v; want %d, %v", what, n, err, wantN, wantErr)
	}
}

func (u *user) put(addr uint64, b []byte) {
	if n := copyUser(u.t, addr, b, true); n != len(b) {
		u.t.Oops("store of %d bytes at %#x: %d", len(b), addr, n)
	}
}

func (u *user) get(addr uint64, n int) []byte {
	b := make([]byte, n)
	if k := copyUser(u.t, addr, b, false); k != n {
		u.t.Oops("load of %d bytes at %#x: %d", n, addr, k)
	}
	return b
}

// holds checks that n bytes of memory are those of the disk from pos on.
func (u *user) holds(addr uint64, n, pos int) {
	for i, b := range u.get(addr, n) {
		if want := pattern(pos + i); b != want {
			u.t.Oops("byte %d of %#x is %#x, want %#x", i, addr, b, want)
		}
	}
}

// fill makes n bytes that no pattern of the disk matches for long.
func fill(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed ^ byte(i*31+i>>8)
	}
	return b
}

func (u *user) open(flags OpenFlags) *File {
	f, err := u.r.fs.Open(u.t, "/dev/vda", flags)
	u.must(err)
	return f
}

// extra returns the page behind an address and how many references it has beyond its
// mapping.
func (u *user) extra(addr uint64) (*page.Page, int) {
	var pages [1]*page.Page
	if n, err := mm.GetUserPagesFast(u.t, addr, 1, false, mm.PinGet, pages[:]); n != 1 {
		u.t.Oops("get_user_pages: %v", err)
	}
	p := pages[0]
	n := int(p.Count.Peek()) - int(p.MapCount.Peek()) - 1
	u.r.mm.PutUserPage(u.t, p, mm.PinGet)
	return p, n
}

// drain empties this CPU's pagevecs, whose references would count.
func (u *user) drain() { u.r.mm.Pages.LRUAddDrain(u.t) }

// regimes runs a test on machines of every kind.
func regimes(t *testing.T, cpus, seeds int, fn func(t *testing.T, c config)) {
	for _, reg := range []sched.Regime{sched.Timed, sched.Parallel, sched.Free} {
		n := 1
		if reg == sched.Free {
			n = seeds
		}
		for seed := range n {
			t.Run(fmt.Sprintf("%v/seed=%d", reg, seed), func(t *testing.T) {
				c := config{Options: sched.Options{CPUs: cpus, Regime: reg, CheckLocks: true}}
				if reg == sched.Free {
					c.Strategy = sched.NewRandom(uint64(seed))
					if seed%2 == 1 { // long delays of one side
						c.Strategy = sched.NewPCT(uint64(seed), 4, 3000)
					}
				}
				fn(t, c)
			})
		}
	}
}

// one is a timed machine with one CPU.
func one() config {
	return config{Options: sched.Options{CPUs: 1, Regime: sched.Timed, CheckLocks: true}}
}
