package mm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

func timedRig(t *testing.T, cpus int) *rig {
	o := rigOptions{}
	o.CPUs, o.Regime = cpus, sched.Timed
	return boot(t, o)
}

// spinner starts a thread on another CPU that has va in its TLB, writable, and
// spins until the word there is set.
func (u *user) spinner(va uint64) *lock.Completion {
	th := u.threadOn(u.otherCPU(), "spinner", func(u *user) {
		u.store(va+8, 1)
		for u.load(va) == 0 {
		}
	})
	for u.load(va+8) == 0 {
	}
	return th
}

func TestFlushReachesOtherCPUs(t *testing.T) {
	r := timedRig(t, 2)
	r.run(func(u *user) {
		a := u.mmap(3)
		u.store(a, 0)
		th := u.spinner(a)
		other := u.s.M.CPU(u.otherCPU() - 1)
		assert.EqualValues(t, 3, u.mm.CPUMask.Peek())
		_, hit := other.Lookup(a, true)
		require.True(t, hit)

		u.kernel(func(t *sched.Task) { u.s.FlushTLBMM(t, u.mm) })
		// The spinner goes on at once and fills its TLB again, so look at the counts.
		assert.EqualValues(t, 1, r.sum(trace.EmuTLBRemoteTaken))
		one := r.sum(trace.EmuTLBFlushOne)
		u.kernel(func(t *sched.Task) { u.s.FlushTLBPage(t, u.mm.findVMA(t, a), a+5) })
		assert.EqualValues(t, 2, r.sum(trace.EmuTLBFlushOne)-one, "here and there")
		assert.EqualValues(t, 2, r.sum(trace.EmuTLBRemoteTaken))
		u.kernel(func(t *sched.Task) { u.s.FlushTLBAll(t) })
		assert.EqualValues(t, 3, r.sum(trace.EmuTLBRemoteTaken))
		u.store(a, 1)
		u.wait(th)
	})
	r.end()
}

// A CPU with interrupts off holds the sender up, as gup-fast relies on.
func TestFlushWaitsForInterruptsOff(t *testing.T) {
	r := timedRig(t, 2)
	r.run(func(u *user) {
		a := u.mmap(1)
		u.store(a, 0)
		order := []string{}
		th := u.threadOn(u.otherCPU(), "gup", func(u *user) {
			u.store(a+16, 1)
			u.kernel(func(t *sched.Task) {
				c := t.C
				c.IRQDisable()
				c.Store(a+8, 8, 1) // its TLB has the page
				for range 200 {
					c.Point(x86.OpYield, 0)
				}
				order = append(order, "walked")
				c.IRQEnable()
			})
		})
		for u.load(a+8) == 0 {
		}
		u.kernel(func(t *sched.Task) { u.s.FlushTLBMM(t, u.mm) })
		order = append(order, "flushed")
		u.wait(th)
		assert.Equal(t, []string{"walked", "flushed"}, order)
	})
	r.end()
}

func TestFlushWithInterruptsOffIsABug(t *testing.T) {
	r := timedRig(t, 2)
	r.start(func(u *user) {
		a := u.mmap(1)
		u.store(a, 0)
		u.spinner(a)
		u.t.C.IRQDisable()
		u.s.FlushTLBMM(u.t, u.mm)
	})
	res := r.m.Run()
	assert.Equal(t, sched.Oopsed, res.Reason)
	assert.Contains(t, res.Detail, "interrupts disabled")
}

// A CPU that only borrows the address space leaves it at the first flush, and is
// not disturbed by the second.
func TestLazyCPULeaves(t *testing.T) {
	r := timedRig(t, 2)
	r.run(func(u *user) {
		a := u.mmap(1)
		u.store(a, 0)
		other := u.otherCPU() - 1
		u.wait(u.threadOn(other+1, "short", func(u *user) { u.store(a, 1) }))
		for !lazyOn(u.s, other) {
			u.load(a)
		}
		assert.EqualValues(t, 3, u.mm.CPUMask.Peek())
		refs := u.mm.Refs.Peek()
		assert.EqualValues(t, 2, refs, "the users' and the lazy CPU's")

		u.kernel(func(t *sched.Task) { u.s.FlushTLBMM(t, u.mm) })
		assert.EqualValues(t, 1<<u.t.C.ID, u.mm.CPUMask.Peek())
		assert.Zero(t, u.s.M.CPU(other).CR3)
		sent := r.sum(trace.EmuIPISent)
		u.kernel(func(t *sched.Task) { u.s.FlushTLBMM(t, u.mm) })
		assert.Equal(t, sent, r.sum(trace.EmuIPISent))

		// Coming back it loads the tables again.
		u.wait(u.threadOn(other+1, "again", func(u *user) {
			if u.load(a) != 1 {
				u.t.Oops("wrong page")
			}
			u.store(a, 2)
		}))
		assert.EqualValues(t, 2, u.load(a))
	})
	r.end()
}

func lazyOn(s *System, cpu int) bool {
	_, lazy := s.ActiveMM(cpu)
	return lazy
}

// The address space outlives its users while a CPU borrows it, and its page tables do
// not: the borrower is flushed off them.
func TestLazyCPUKeepsStructure(t *testing.T) {
	r := timedRig(t, 2)
	var m *MM
	r.run(func(u *user) {
		m = u.mm
		u.store(u.mmap(1), 1)
	})
	assert.EqualValues(t, 0, m.Users.Peek())
	assert.EqualValues(t, 1, m.Refs.Peek(), "a CPU borrows it")
	assert.NotZero(t, m.PGD)
	assert.Zero(t, m.NrPTEs)
	r.end()
	assert.Zero(t, m.PGD)
}

// Two CPUs flush each other at the same time, many times over: each serves the
// other's interrupt while it waits.
func TestCrossingFlushes(t *testing.T) {
	for _, cpus := range []int{2, 3, 12} {
		regimes(t, cpus, func(t *testing.T, o rigOptions) {
			r := boot(t, o)
			r.run(func(u *user) {
				a := u.mmap(cpus)
				n := 20
				if o.Regime == sched.Parallel {
					n = 300
				}
				hammer := func(u *user) {
					for range n {
						u.store(a, 1)
						u.kernel(func(t *sched.Task) { u.s.FlushTLBMM(t, u.mm) })
					}
				}
				var ths []*lock.Completion
				for i := range cpus {
					ths = append(ths, u.threadOn(i+1, "hammer", hammer))
				}
				for _, th := range ths {
					u.wait(th)
				}
			})
			r.end()
		})
	}
}

// Pages are freed, and can be another process's, only when no TLB has them: what one
// thread unmaps, another one can no longer reach when munmap has returned.
func TestUnmapFlushesBeforeFree(t *testing.T) {
	for seed := range uint64(40) {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Strategy = 2, sched.Free, sched.NewRandom(seed)
		r := boot(t, o)
		r.run(func(u *user) {
			a, flag := u.mmap(1), u.mmap(1)
			u.store(a, 7)
			u.store(flag, 0)
			th := u.threadOn(u.otherCPU(), "reader", func(u *user) {
				for {
					gone := u.load(flag) != 0
					v, _, ok := u.tryLoad(a, 8)
					if ok && gone {
						u.t.Oops("load %d after munmap returned", v)
					}
					if ok && v != 7 {
						u.t.Oops("load %d: the page is somebody else's", v)
					}
					if gone {
						return
					}
				}
			})
			u.munmap(a, 1)
			// The frame that was freed is likely to be this page's.
			b := u.mmap(1, MmapRequest{Addr: 1 << 40, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous})
			u.store(b, 99)
			u.store(flag, 1)
			u.wait(th)
		})
		r.end()
		r.close()
	}
}

// freeWatch looks at every step for a translation, in any TLB, of a page that is free.
// With several CPUs there must be none at any moment: flushes come first.
type freeWatch struct {
	r   *rig
	buf []x86.TLBEntryInfo
	bad string
}

func (w *freeWatch) Step(step uint64, t *sched.Task, _ x86.Op, _ x86.ObjID) {
	for cpu := range w.r.m.CPUs() {
		w.buf = w.r.m.CPU(cpu).AppendTLB(w.buf[:0])
		for _, e := range w.buf {
			if w.r.s.Pages.Page(e.PFN).Count.Peek() == 0 && w.bad == "" {
				w.bad = fmt.Sprintf("step %d, %s: cpu %d translates %#x to pfn %#x, which is free", step, t.Name, cpu, e.VA, e.PFN)
			}
		}
	}
}

func (*freeWatch) Device(uint64, sched.Event) {}

func TestNoTLBHasAFreePage(t *testing.T) {
	for seed := range uint64(30) {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Strategy = 3, sched.Free, sched.NewRandom(seed)
		r := boot(t, o)
		w := &freeWatch{r: r}
		r.m.SetObserver(w)
		r.run(func(u *user) {
			a := u.mmap(3)
			work := func(u *user) {
				for i := range uint64(6) {
					u.tryStore(a+i%3*pg, 8, i)
				}
			}
			work(u)
			t1, t2 := u.threadOn(0, "first", work), u.threadOn(0, "second", work)
			child := u.fork(work)
			u.munmap(a, 2)
			u.store(a+2*pg, 9)
			u.wait(child)
			u.wait(t1)
			u.wait(t2)
		})
		require.Empty(t, w.bad, "seed %d", seed)
		r.end()
		r.close()
	}
}

func TestNewSystemOnce(t *testing.T) {
	r := boot(t, rigOptions{})
	_, err := NewSystem(r.m, r.s.Pages, Options{})
	assert.Error(t, err)
	assert.Equal(t, "stock", r.s.Policy().Name())
	assert.Zero(t, r.s.Hooks())
}
