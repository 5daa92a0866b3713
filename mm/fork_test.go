package mm

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

func TestForkCopyOnWrite(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o rigOptions) {
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(4)
			for i := range uint64(4) {
				u.store(a+i*pg, 10+i)
			}
			before := r.sum(trace.EmuCOWCopy)
			child := u.fork(func(c *user) {
				for i := range uint64(4) {
					if v := c.load(a + i*pg); v != 10+i && i != 0 {
						c.t.Oops("child reads %d in page %d", v, i)
					}
				}
				c.store(a+pg, 99) // copy
				if c.load(a+pg) != 99 {
					c.t.Oops("child lost its store")
				}
			})
			u.wait(child)
			assert.EqualValues(t, 11, u.load(a+pg))
			assert.EqualValues(t, before+1, r.sum(trace.EmuCOWCopy))
			pte := u.mm.PeekPTE(a + 2*pg)
			assert.False(t, pte.Write(), "fork write-protects the parent: %v", pte)
			u.store(a+2*pg, 5)
			assert.EqualValues(t, before+1, r.sum(trace.EmuCOWCopy), "alone again: no copy")
			assert.EqualValues(t, 1, r.sum(trace.EmuCOWReuse))
		})
		assert.EqualValues(t, 4, r.sum(trace.EmuForkPages))
		assert.EqualValues(t, 4, r.sum(trace.EmuForkWrprotect))
		assert.EqualValues(t, 1, r.sum(trace.EmuFork))
		r.end()
	})
}

// One flush for the whole of fork, however many entries it write-protects.
func TestForkFlushesOnce(t *testing.T) {
	o := rigOptions{}
	o.CPUs, o.Regime = 2, sched.Timed
	r := boot(t, o)
	r.run(func(u *user) {
		const n = 700 // two tables
		a := u.mmap(n)
		for i := range uint64(n) {
			u.store(a+i*pg, 1)
		}
		stop := u.mmap(1)
		th := u.threadOn(u.otherCPU(), "other", func(u *user) {
			u.store(stop+8, 1)
			for u.load(stop) == 0 {
				u.load(a)
			}
		})
		for u.load(stop+8) == 0 {
		}
		sent, all, one := r.sum(trace.EmuTLBRemoteFlush), r.sum(trace.EmuTLBFlushAll), r.sum(trace.EmuTLBFlushOne)
		u.kernel(func(t *sched.Task) {
			m, err := u.s.DupMM(t, u.mm)
			if err != nil {
				t.Oops("fork: %v", err)
			}
			m.MMPut(t)
		})
		assert.EqualValues(t, 1, r.sum(trace.EmuTLBRemoteFlush)-sent)
		assert.EqualValues(t, 2, r.sum(trace.EmuTLBFlushAll)-all, "one on each CPU")
		assert.Zero(t, r.sum(trace.EmuTLBFlushOne)-one)
		assert.GreaterOrEqual(t, r.sum(trace.EmuForkPages), int64(n))
		u.store(stop, 1)
		u.wait(th)
	})
	r.end()
}

// W1: until fork's flush, another thread goes on storing through its TLB into a
// page that the child has too. It is legal, and it must be possible.
func TestForkStaleStores(t *testing.T) {
	torn, stale := 0, int64(0)
	for seed := range uint64(40) {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Strategy = 2, sched.Free, sched.NewRandom(seed)
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(2)
			u.store(a, 1)
			u.store(a+8, 0)
			stop := a + pg
			th := u.threadOn(u.otherCPU(), "writer", func(u *user) {
				for i := uint64(1); u.load(stop) == 0; i++ {
					u.store(a+8, i)
				}
			})
			for u.load(a+8) == 0 {
			}
			done := u.fork(func(c *user) {
				// After fork has returned the child's page stands still.
				v := c.load(a + 8)
				for range 20 {
					if w := c.load(a + 8); w != v {
						c.t.Oops("the child's memory changed after fork: %d, then %d", v, w)
					}
				}
			})
			u.wait(done)
			u.store(stop, 1)
			u.wait(th)
		})
		if r.sum(trace.EmuForkPages) > 0 {
			torn++
		}
		stale += r.sum(trace.EmuStaleTLBStore)
		r.end()
		r.close()
	}
	assert.NotZero(t, torn)
	_ = stale // counted in the timed regime only
}

func TestForkSkipsDontCopy(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
	r.run(func(u *user) {
		a, b := u.mmap(1), u.mmap(1, MmapRequest{Addr: 1 << 40, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous})
		u.store(a, 1)
		u.store(b, 2)
		u.mm.findVMA(u.t, b).Flags |= VMDontCopy
		total := u.mm.TotalVM
		u.wait(u.fork(func(c *user) {
			assert.EqualValues(t, 1, c.load(a))
			_, sig, ok := c.tryLoad(b, 8)
			assert.False(t, ok)
			assert.Equal(t, SegvMapErr, sig.Code)
			assert.Equal(t, total-1, c.mm.TotalVM)
		}))
		assert.True(t, u.mm.PeekPTE(b).Write(), "what is not copied is not protected")
	})
	r.end()
}

// Shared anonymous memory is shared, and its ptes are left to faults.
func TestForkShared(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o rigOptions) {
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(2, MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapShared | MapAnonymous})
			u.store(a, 1)
			u.wait(u.fork(func(c *user) {
				if c.load(a) != 1 {
					c.t.Oops("shared memory is not")
				}
				c.store(a, 2)
				c.store(a+pg, 3)
			}))
			assert.EqualValues(t, 2, u.load(a))
			assert.EqualValues(t, 3, u.load(a+pg))
		})
		assert.Zero(t, r.sum(trace.EmuForkPages))
		assert.Zero(t, r.sum(trace.EmuCOWCopy))
		r.end()
	})
}

// Every allocation of a fork is made to fail once: ENOMEM, nothing is left behind,
// and the parent's memory is as it was.
func TestForkOutOfMemory(t *testing.T) {
	for nth := 1; ; nth++ {
		failed := false
		o := rigOptions{}
		o.CPUs, o.Regime = 2, sched.Timed
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(2)
			b := u.mmap(600, MmapRequest{Addr: 1 << 40, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous})
			for _, va := range []uint64{a, a + pg, b, b + 599*pg} {
				u.store(va, va)
			}
			u.s.Pages.FailAt("", nth)
			done, err := u.tryFork(func(c *user) {
				if c.load(b) != b {
					c.t.Oops("child reads %#x", c.load(b))
				}
			})
			failed = r.sum(trace.EmuAllocFailInjected) == 1
			if err != nil {
				assert.ErrorIs(t, err, unix.ENOMEM)
				assert.True(t, failed)
			} else {
				assert.False(t, failed, "allocation %d", nth)
				u.wait(done)
			}
			u.s.Pages.FailNever()
			for _, va := range []uint64{a, a + pg, b, b + 599*pg} {
				assert.Equal(t, va, u.load(va))
				u.store(va, 1)
			}
		})
		r.end()
		r.close()
		if !failed {
			assert.Greater(t, nth, 6)
			return
		}
	}
}

// With somebody waiting for the CPU, fork lets go of its locks every 32 units.
func TestForkLockBreaks(t *testing.T) {
	o := rigOptions{}
	o.Regime, o.SliceNS = sched.Timed, 2000
	r := boot(t, o)
	r.run(func(u *user) {
		a := u.mmap(400)
		for i := range uint64(400) {
			u.store(a+i*pg, i)
		}
		stop := u.mmap(1)
		th := u.thread("other", func(u *user) {
			u.store(stop+8, 1) // a fault during the fork would wait for mmap_sem
			for u.load(stop) == 0 {
				u.t.CondResched()
			}
		})
		for u.load(stop+8) == 0 {
			u.t.CondResched()
		}
		switches := r.sum(trace.EmuContextSwitches)
		child := u.fork(func(c *user) {
			for i := range uint64(400) {
				if c.load(a+i*pg) != i {
					c.t.Oops("page %d is %d", i, c.load(a+i*pg))
				}
			}
		})
		assert.Greater(t, r.sum(trace.EmuContextSwitches)-switches, int64(5))
		u.store(stop, 1)
		u.wait(child)
		u.wait(th)
	})
	r.end()
}

// A write fault that finds the page locked sleeps with nothing held, and looks at
// the entry again.
func TestWriteFaultSleepsOnPageLock(t *testing.T) {
	for _, unmap := range []bool{false, true} {
		t.Run(fmt.Sprint("unmapped meanwhile ", unmap), func(t *testing.T) {
			o := rigOptions{}
			o.CPUs, o.Regime = 2, sched.Timed
			r := boot(t, o)
			r.run(func(u *user) {
				a := u.mmap(2)
				u.store(a, 1)
				u.store(a+pg, 0)
				var m *MM
				u.kernel(func(t *sched.Task) { m, _ = u.s.DupMM(t, u.mm) })
				p := u.s.Pages.Page(u.mm.PeekPTE(a).PFN())
				u.kernel(func(t *sched.Task) {
					u.s.Pages.LockPage(t, p)
					u.s.Pages.DisownLock(t, p) // as for the end of an I/O
				})
				th := u.threadOn(u.otherCPU(), "writer", func(u *user) { u.store(a, 2) })
				u.kernel(func(t *sched.Task) { t.SleepFor(1_000_000) })
				refs := p.Count.Peek()
				assert.EqualValues(t, 2+1+1, refs, "two ptes, the sleeper, a pagevec")
				if unmap {
					u.kernel(func(t *sched.Task) {
						u.mm.MmapSem.DownRead(t)
						u.mm.ZapPageRange(t, u.mm.findVMA(t, a), a, pg)
						u.mm.MmapSem.UpRead(t)
					})
				}
				u.kernel(func(t *sched.Task) { u.s.Pages.UnlockPage(t, p) })
				u.wait(th)
				assert.EqualValues(t, 2, u.load(a))
				u.kernel(func(t *sched.Task) { m.MMPut(t) })
			})
			r.end()
		})
	}
}

// Two threads store to the same shared page at once: both stores must be in the copy
// that comes out, whoever makes it.
func TestCopyOnWriteRace(t *testing.T) {
	for seed := range uint64(80) {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Strategy = 2, sched.Free, sched.NewRandom(seed)
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(1)
			u.store(a, 0)
			var m *MM
			u.kernel(func(t *sched.Task) { m, _ = u.s.DupMM(t, u.mm) })
			th := u.threadOn(u.otherCPU(), "second", func(u *user) {
				u.store(a+8, 1)
				if u.load(a+8) != 1 {
					u.t.Oops("store lost at once")
				}
			})
			u.store(a, 2)
			u.wait(th)
			assert.EqualValues(t, 2, u.load(a))
			assert.EqualValues(t, 1, u.load(a+8))
			assert.EqualValues(t, 1, u.mm.AnonRSS.Peek())
			u.kernel(func(t *sched.Task) { m.MMPut(t) })
		})
		r.end()
		r.close()
	}
}

// reluctant is a strategy that puts off the steps by which a CPU takes an entry away and
// tells others of it, so that much happens just before them.
type reluctant struct{ r *rand.Rand }

func (*reluctant) Begin(int) {}

func (s *reluctant) Pick(ch *sched.Choice) int {
	var eager []int
	for i, a := range ch.Enabled {
		switch a.Op {
		case x86.OpPTERMW, x86.OpFlushTLB, x86.OpIPI:
		default:
			eager = append(eager, i)
		}
	}
	if len(eager) == 0 || s.r.IntN(20) == 0 {
		return s.r.IntN(len(ch.Enabled))
	}
	return eager[s.r.IntN(len(eager))]
}

// One thread of the parent gives the page up by copying it, another goes on reading it
// through its TLB, and the child, as soon as it is alone, writes to the page: what
// the child writes must not be seen by the parent.
func TestCopyOnWriteFlushesBeforeItLetsGo(t *testing.T) {
	for seed := range uint64(60) {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Strategy = 3, sched.Free, &reluctant{rand.New(rand.NewPCG(seed, 5))}
		r := boot(t, o)
		r.run(func(u *user) {
			a, flag := u.mmap(1), u.mmap(1, MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapShared | MapAnonymous})
			u.store(a, 1)
			u.store(flag, 0)
			child := u.fork(func(c *user) {
				for c.load(flag) == 0 {
					c.t.Schedule()
				}
				c.store(a, 100)
			})
			reader := u.threadOn(0, "reader", func(u *user) {
				u.load(a)
				u.store(flag, 1)
				for range 150 {
					if v := u.load(a); v >= 100 {
						u.t.Oops("the parent reads %d, which the child wrote", v)
					}
				}
			})
			for u.load(flag) == 0 {
				u.t.Schedule() // the reader may be waiting for this CPU
			}
			u.store(a, 2)
			u.wait(reader)
			u.wait(child)
			assert.EqualValues(t, 2, u.load(a))
		})
		r.end()
		r.close()
	}
}

// model is a process as a plain byte map: what the machine must agree with.
type model struct {
	pages map[uint64]uint64 // page number -> its word; absent: not mapped
}

func (m *model) clone() *model {
	n := &model{pages: make(map[uint64]uint64, len(m.pages))}
	for k, v := range m.pages {
		n.pages[k] = v
	}
	return n
}

// sorted returns the mapped page numbers in order, so that programs repeat.
func (m *model) sorted() []uint64 { return slices.Sorted(maps.Keys(m.pages)) }

// Random programs of one process tree on one CPU, against byte maps and eager copies.
func TestRandomProgramsAgainstModel(t *testing.T) {
	seeds := uint64(12)
	if race {
		seeds = 3 // one goroutine; every third goes through hooks
	}
	for seed := range seeds {
		o := rigOptions{}
		o.Regime = sched.Timed
		if seed%3 == 0 {
			o.mm.ForceHooks = true
		}
		r := boot(t, o)
		rng := rand.New(rand.NewPCG(seed, 1))
		steps := 0
		r.run(func(u *user) { randomProgram(u, rng, &model{pages: map[uint64]uint64{}}, 0, &steps) })
		r.end()
		r.close()
	}
}

const (
	arena      = 1 << 32
	arenaPages = 1100
)

func randomProgram(u *user, rng *rand.Rand, m *model, depth int, steps *int) {
	for range 60 {
		*steps++
		va := arena + rng.Uint64N(arenaPages)*pg
		k := va / pg
		switch op := rng.IntN(20); {
		case op < 8:
			_, mapped := m.pages[k]
			v := rng.Uint64()
			_, ok := u.tryStore(va, 8, v)
			if ok != mapped {
				u.t.Oops("store at %#x: ok %v, mapped %v", va, ok, mapped)
			}
			if ok {
				m.pages[k] = v
			}
		case op < 13:
			want, mapped := m.pages[k]
			got, _, ok := u.tryLoad(va, 8)
			if ok != mapped || got != want {
				u.t.Oops("load at %#x: %d %v, want %d %v", va, got, ok, want, mapped)
			}
		case op < 15:
			n := rng.Uint64N(200) + 1
			u.mmap(int(n), MmapRequest{Addr: va, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous | MapFixed})
			for i := range n {
				m.pages[k+i] = 0
			}
		case op < 17:
			n := rng.Uint64N(100) + 1
			u.munmap(va, int(n))
			for i := range n {
				delete(m.pages, k+i)
			}
		case op < 18:
			u.kernel(func(t *sched.Task) {
				u.mm.MmapSem.DownRead(t)
				if v := u.mm.findVMA(t, va); v != nil && v.Start <= va {
					n := min(v.End-va, 16*pg)
					u.mm.ZapPageRange(t, v, va, n)
					for i := range n / pg {
						m.pages[k+i] = 0
					}
				}
				u.mm.MmapSem.UpRead(t)
			})
		case depth < 2:
			child := m.clone()
			seed := rng.Uint64()
			done := u.fork(func(c *user) { randomProgram(c, rand.New(rand.NewPCG(seed, 2)), child, depth+1, steps) })
			if rng.IntN(2) == 0 {
				u.wait(done)
			}
		}
	}
	for _, k := range m.sorted() {
		if got, want := u.load(k*pg), m.pages[k]; got != want {
			u.t.Oops("page %#x: %d, want %d", k*pg, got, want)
		}
	}
	if errs := u.s.Check(); depth == 0 && len(errs) > 0 {
		u.t.Oops("%v", errors.Join(errs...))
	}
}

// The same with several CPUs: processes share nothing but pages, so each must agree
// with its own model whatever the others do.
func TestRandomProgramsInParallel(t *testing.T) {
	type how struct {
		regime sched.Regime
		n      uint64
		pre    sched.Preempt
	}
	for _, h := range []how{{sched.Free, 25, sched.PreemptNone}, {sched.Parallel, 30, sched.PreemptFull}, {sched.Timed, 30, sched.PreemptFull}} {
		t.Run(h.regime.String(), func(t *testing.T) {
			for seed := range h.n {
				o := rigOptions{bytes: 32 << 20}
				o.Regime, o.CPUs, o.Preempt, o.CheckLocks = h.regime, 3, h.pre, true
				if h.regime == sched.Free {
					o.Strategy = sched.NewRandom(seed)
				}
				r := boot(t, o)
				steps := 0
				r.start(func(u *user) {
					seeds := rand.New(rand.NewPCG(seed, 9))
					var kids []*lock.Completion
					for range 3 {
						s := seeds.Uint64()
						kids = append(kids, u.fork(func(c *user) {
							n := 0
							randomProgramQuiet(c, rand.New(rand.NewPCG(s, 3)), &n)
						}))
					}
					randomProgramQuiet(u, seeds, &steps)
					for _, k := range kids {
						u.wait(k)
					}
				})
				res := r.m.Run()
				require.NoError(t, res.Err(), "seed %d: %s", seed, res.Detail)
				r.end()
				r.close()
			}
		})
	}
}

// randomProgramQuiet is randomProgram for one of several processes: grandchildren
// are waited for.
func randomProgramQuiet(u *user, rng *rand.Rand, steps *int) {
	m := &model{pages: map[uint64]uint64{}}
	for range 3 {
		*steps++
		va := arena + rng.Uint64N(300)*pg
		n := rng.Uint64N(40) + 1
		u.mmap(int(n), MmapRequest{Addr: va, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous | MapFixed})
		for i := range n {
			m.pages[va/pg+i] = 0
			if rng.IntN(3) > 0 {
				m.pages[va/pg+i] = i + 1
				u.store(va+i*pg, i+1)
			}
		}
		kid := m.clone()
		s := rng.Uint64()
		done := u.fork(func(c *user) {
			r := rand.New(rand.NewPCG(s, 4))
			for _, k := range kid.sorted() {
				want := kid.pages[k]
				if r.IntN(2) == 0 {
					want = r.Uint64()
					c.store(k*pg, want)
				}
				if got := c.load(k * pg); got != want {
					c.t.Oops("child: page %#x: %d, want %d", k*pg, got, want)
				}
			}
		})
		for _, k := range m.sorted() {
			if rng.IntN(2) == 0 {
				m.pages[k] = rng.Uint64()
				u.store(k*pg, m.pages[k])
			}
		}
		if rng.IntN(2) == 0 {
			u.munmap(va, int(n))
			for i := range n {
				delete(m.pages, va/pg+i)
			}
		}
		u.wait(done)
	}
	for _, k := range m.sorted() {
		if got, want := u.load(k*pg), m.pages[k]; got != want {
			u.t.Oops("page %#x: %d, want %d", k*pg, got, want)
		}
	}
}
