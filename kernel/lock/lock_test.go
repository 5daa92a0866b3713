package lock

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

var testHost = x86.NewHost()

func boot(t testing.TB, o sched.Options) *sched.Machine {
	t.Helper()
	mem, err := testHost.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	o.Mem = mem
	o.CheckLocks = true
	m, err := sched.New(o)
	require.NoError(t, err)
	m.RegisterNamer(x86.ClassLock, Namer)
	t.Cleanup(func() { m.Shutdown(); mem.Release() })
	return m
}

func regimes(t *testing.T, n int, fn func(t *testing.T, m *sched.Machine)) {
	t.Run("parallel", func(t *testing.T) { fn(t, boot(t, sched.Options{CPUs: n})) })
	t.Run("timed", func(t *testing.T) { fn(t, boot(t, sched.Options{CPUs: n, Regime: sched.Timed})) })
	for seed := range uint64(30) {
		t.Run(fmt.Sprintf("free/seed=%d", seed), func(t *testing.T) {
			fn(t, boot(t, sched.Options{CPUs: n, Regime: sched.Free, Strategy: sched.NewRandom(seed)}))
		})
	}
}

func spawn(m *sched.Machine, name string, fn func(*sched.Task)) *sched.Task {
	t := m.NewTask(sched.TaskOptions{Name: name}, fn)
	m.Start(nil, t)
	return t
}

// inside checks that a region is entered as its lock allows. The plain fields are
// what the race detector looks at.
type inside struct{ writers, entries int }

func TestSpinLockExcludes(t *testing.T) {
	regimes(t, 3, func(t *testing.T, m *sched.Machine) {
		var l SpinLock
		l.Init(m, PTL)
		var in inside
		for i := range 6 {
			spawn(m, fmt.Sprint("s", i), func(t *sched.Task) {
				for range 50 {
					l.Lock(t)
					in.writers++
					t.Point(x86.OpYield, 0)
					if in.writers != 1 {
						t.Oops("two holders")
					}
					in.writers--
					in.entries++
					l.Unlock(t)
				}
			})
		}
		require.NoError(t, m.Run().Err())
		assert.Equal(t, 300, in.entries)
	})
}

func TestRWSemExcludesWritersAndSharesReaders(t *testing.T) {
	regimes(t, 3, func(t *testing.T, m *sched.Machine) {
		var s RWSem
		s.Init(m, MmapSem)
		var data, most, reading x86.Word32
		obj := m.NewObj(x86.ClassWord)
		for i := range 6 {
			spawn(m, fmt.Sprint("r", i), func(t *sched.Task) {
				for range 20 {
					if i%3 == 0 {
						s.DownWrite(t)
						v := data.Load(t.C, obj)
						if reading.Peek() != 0 {
							t.Oops("writer among readers")
						}
						data.Store(t.C, obj, v+1)
						s.UpWrite(t)
						continue
					}
					s.DownRead(t)
					n := reading.AddReturn(t.C, obj, 1)
					if n > most.Peek() {
						most.Poke(n)
					}
					t.SleepFor(10)
					reading.AddReturn(t.C, obj, -1)
					s.UpRead(t)
				}
			})
		}
		require.NoError(t, m.Run().Err())
		assert.EqualValues(t, 40, data.Peek())
		assert.True(t, s.Idle())
	})
}

func TestRWSemWriterIsNotStarved(t *testing.T) {
	m := boot(t, sched.Options{CPUs: 2, Regime: sched.Timed})
	var s RWSem
	s.Init(m, MmapSem)
	var order []string
	hold := func(name string, write bool, at, ns uint64) {
		spawn(m, name, func(t *sched.Task) {
			t.SleepFor(at)
			if write {
				s.DownWrite(t)
			} else {
				s.DownRead(t)
			}
			order = append(order, name)
			t.SleepFor(ns)
			if write {
				s.UpWrite(t)
			} else {
				s.UpRead(t)
			}
		})
	}
	hold("r1", false, 0, 1_000_000)
	hold("w", true, 100_000, 1000)
	hold("r2", false, 200_000, 1000)
	require.NoError(t, m.Run().Err())
	assert.Equal(t, []string{"r1", "w", "r2"}, order, "a reader that comes after a waiting writer waits too")
}

func TestKillableWaitGivesUp(t *testing.T) {
	regimes(t, 2, func(t *testing.T, m *sched.Machine) {
		var s RWSem
		s.Init(m, MmapSem)
		var err error // the victim's; for the test when the machine has ended
		var held, over Completion
		held.Init(m)
		over.Init(m)
		victim := m.NewTask(sched.TaskOptions{Name: "victim"}, func(t *sched.Task) {
			held.Wait(t)
			if err = s.DownWriteKillable(t); err == nil {
				s.UpWrite(t)
			}
			over.Complete(t)
		})
		spawn(m, "holder", func(t *sched.Task) {
			s.DownWrite(t)
			held.Complete(t)
			t.SleepFor(1000)
			t.M.Signal(t, victim, true)
			over.Wait(t)
			s.UpWrite(t)
		})
		m.Start(nil, victim)
		require.NoError(t, m.Run().Err())
		assert.ErrorIs(t, err, unix.EINTR)
		assert.True(t, s.Idle())
	})
}

func TestBitLockExcludes(t *testing.T) {
	regimes(t, 3, func(t *testing.T, m *sched.Machine) {
		var b BitWait
		b.Init(m, PageLock)
		var w x86.Word64
		var in inside
		obj := x86.PageObj(5, x86.PageFlags)
		for i := range 5 {
			spawn(m, fmt.Sprint("b", i), func(t *sched.Task) {
				for range 20 {
					b.Lock(t, &w, 1, obj)
					in.writers++
					t.SleepFor(5)
					if in.writers != 1 {
						t.Oops("two holders")
					}
					in.writers--
					in.entries++
					b.Unlock(t, &w, 1, obj)
				}
			})
		}
		require.NoError(t, m.Run().Err())
		assert.Equal(t, 100, in.entries)
		assert.True(t, b.Empty())
	})
}

func TestCompletionAndSynchronizeRCU(t *testing.T) {
	regimes(t, 2, func(t *testing.T, m *sched.Machine) {
		var stop x86.Word32
		var freed, used x86.Word32
		obj := m.NewObj(x86.ClassWord)
		spawn(m, "reader", func(t *sched.Task) {
			for range 20 {
				RCUReadLock(t)
				if stop.Load(t.C, obj) == 0 {
					t.Point(x86.OpYield, 0)
					if freed.Load(t.C, obj) != 0 {
						t.Oops("used after the grace period")
					}
					used.Add(t.C, obj, 1)
				}
				RCUReadUnlock(t)
				t.SleepFor(10)
			}
		})
		spawn(m, "updater", func(t *sched.Task) {
			t.SleepFor(50)
			stop.Store(t.C, obj, 1)
			SynchronizeRCU(t)
			freed.Store(t.C, obj, 1)
		})
		require.NoError(t, m.Run().Err())
	})
}

func oopses(t *testing.T, want string, fn func(m *sched.Machine, t *sched.Task)) {
	t.Helper()
	m := boot(t, sched.Options{CPUs: 1, Regime: sched.Timed})
	spawn(m, "bad", func(t *sched.Task) { fn(m, t) })
	r := m.Run()
	require.Equal(t, sched.Oopsed, r.Reason, "%v", r.Detail)
	assert.Contains(t, r.Oops.Msg, want)
}

func spin(m *sched.Machine, c Class) *SpinLock {
	l := &SpinLock{}
	l.Init(m, c)
	return l
}

func TestCheckerFindsWrongOrder(t *testing.T) {
	oopses(t, "anon_vma taken while ptl is held", func(m *sched.Machine, t *sched.Task) {
		spin(m, PTL).Lock(t)
		spin(m, AnonVMALock).Lock(t)
	})
}

func TestCheckerFindsRecursion(t *testing.T) {
	oopses(t, "already held", func(m *sched.Machine, t *sched.Task) {
		l := spin(m, PTL)
		l.Lock(t)
		l.Lock(t)
	})
}

func TestCheckerFindsUnnestedPair(t *testing.T) {
	oopses(t, "two locks of class anon_vma", func(m *sched.Machine, t *sched.Task) {
		spin(m, AnonVMALock).Lock(t)
		spin(m, AnonVMALock).LockNested(t)
	})
}

func TestCheckerFindsInterruptUnsafety(t *testing.T) {
	oopses(t, "irq-unsafe", func(m *sched.Machine, t *sched.Task) { spin(m, ZoneLock).Lock(t) })
	oopses(t, "irq-unsafe", func(m *sched.Machine, t *sched.Task) {
		l := spin(m, PTL)
		m.RegisterIRQ(x86.VecCall, func(t *sched.Task) { l.Lock(t) })
		t.C.Raise(x86.VecCall)
		t.Point(x86.OpYield, 0)
	})
}

func TestCheckerFindsForeignRelease(t *testing.T) {
	oopses(t, "does not hold it", func(m *sched.Machine, t *sched.Task) {
		l := spin(m, PTL)
		m.Start(t, m.NewTask(sched.TaskOptions{Name: "thief"}, func(t *sched.Task) { l.Unlock(t) }))
		l.Lock(t)
		for range 100 {
			t.Point(x86.OpYield, 0)
		}
		l.Unlock(t)
		t.SleepFor(1000)
	})
}

func TestSleepingUnderASpinLockIsABug(t *testing.T) {
	oopses(t, "scheduling while atomic", func(m *sched.Machine, t *sched.Task) {
		spin(m, PTL).Lock(t)
		t.SleepFor(10)
	})
	oopses(t, "may sleep", func(m *sched.Machine, t *sched.Task) {
		var s RWSem
		s.Init(m, MmapSem)
		spin(m, PTL).Lock(t)
		s.DownRead(t)
	})
}

func TestExitHoldingALockIsABug(t *testing.T) {
	oopses(t, "exits holding ptl", func(m *sched.Machine, t *sched.Task) {
		l := spin(m, PTL)
		l.Lock(t)
		t.PreemptEnable()
	})
}

func TestOrderFileIsAPartialOrder(t *testing.T) {
	_, err := parseOrder("ptl < anon_vma\nanon_vma < ptl\n")
	assert.ErrorContains(t, err, "cycle")
	_, err = parseOrder("ptl < nonesuch\n")
	assert.ErrorContains(t, err, "unknown class")
	_, err = parseOrder("ptl, anon_vma\n")
	assert.ErrorContains(t, err, "want")
	o, err := parseOrder("mmap_sem < page_lock\npage_lock < ptl\n")
	require.NoError(t, err)
	assert.True(t, o.before[MmapSem][PTL], "the order is transitive")
	assert.False(t, o.before[PTL][MmapSem])
}

func TestSpinLockDoesNotAllocate(t *testing.T) {
	m := boot(t, sched.Options{CPUs: 1})
	l := spin(m, PTL)
	var s RWSem
	s.Init(m, MmapSem)
	var n float64
	spawn(m, "a", func(t *sched.Task) {
		n = testing.AllocsPerRun(1000, func() {
			s.DownRead(t)
			l.Lock(t)
			l.Unlock(t)
			s.UpRead(t)
		})
	})
	require.NoError(t, m.Run().Err())
	assert.Zero(t, n)
}

func BenchmarkSpinLock(b *testing.B) {
	for _, check := range []bool{false, true} {
		b.Run(fmt.Sprintf("check=%v", check), func(b *testing.B) {
			mem, err := testHost.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
			require.NoError(b, err)
			m, err := sched.New(sched.Options{CPUs: 1, Mem: mem, CheckLocks: check})
			require.NoError(b, err)
			l := spin(m, PTL)
			spawn(m, "b", func(t *sched.Task) {
				for b.Loop() {
					l.Lock(t)
					l.Unlock(t)
				}
			})
			require.NoError(b, m.Run().Err())
			m.Shutdown()
		})
	}
}
