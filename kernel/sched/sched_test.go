package sched

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

var testHost = x86.NewHost()

// boot makes a machine of 1 MiB and shuts it down with the test.
func boot(t testing.TB, o Options) *Machine {
	t.Helper()
	mem, err := testHost.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	o.Mem = mem
	m, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { m.Shutdown(); mem.Release() })
	return m
}

// regimes runs fn as a subtest in each regime, on n CPUs.
func regimes(t *testing.T, n int, fn func(t *testing.T, o Options)) {
	t.Run("parallel", func(t *testing.T) { fn(t, Options{CPUs: n}) })
	t.Run("timed", func(t *testing.T) { fn(t, Options{CPUs: n, Regime: Timed}) })
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("free/seed=%d", seed), func(t *testing.T) {
			fn(t, Options{CPUs: n, Regime: Free, Strategy: NewRandom(seed)})
		})
	}
	t.Run("free/pct", func(t *testing.T) {
		fn(t, Options{CPUs: n, Regime: Free, Strategy: NewPCT(7, 3, 200)})
	})
}

func spawn(m *Machine, name string, fn func(*Task)) *Task {
	t := m.NewTask(TaskOptions{Name: name}, fn)
	m.Start(nil, t)
	return t
}

func TestTasksRunToTheEnd(t *testing.T) {
	regimes(t, 4, func(t *testing.T, o Options) {
		m := boot(t, o)
		var n x86.Word32
		obj := m.NewObj(x86.ClassWord)
		for i := range 20 {
			spawn(m, fmt.Sprint("t", i), func(t *Task) {
				for range 50 {
					n.Add(t.C, obj, 1)
				}
			})
		}
		r := m.Run()
		require.NoError(t, r.Err())
		assert.EqualValues(t, 1000, n.Peek())
	})
}

func TestRunAgainAfterQuiet(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		ran := 0
		for range 5 {
			spawn(m, "again", func(t *Task) { t.SleepFor(1000); ran++ })
			require.NoError(t, m.Run().Err())
		}
		assert.Equal(t, 5, ran)
	})
}

func TestSleepLetsVirtualTimePass(t *testing.T) {
	for _, o := range []Options{{CPUs: 2}, {CPUs: 2, Regime: Timed}} {
		m := boot(t, o)
		var before, after uint64
		spawn(m, "sleeper", func(t *Task) {
			before = m.cost.CyclesToNS(t.C.Now())
			t.SleepFor(5_000_000)
			after = m.cost.CyclesToNS(t.C.Now())
		})
		require.NoError(t, m.Run().Err())
		assert.GreaterOrEqual(t, after-before, uint64(4_999_999))
	}
}

// pingPong makes two tasks wake each other n times through state words.
func pingPong(m *Machine, n int) *[2]int {
	var tasks [2]*Task
	var turn x86.Word32
	obj := m.NewObj(x86.ClassWord)
	var count [2]int
	for i := range 2 {
		tasks[i] = m.NewTask(TaskOptions{Name: fmt.Sprint("pp", i)}, func(t *Task) {
			for range n {
				for {
					t.SetState(TaskUninterruptible)
					if turn.Load(t.C, obj) == int32(i) {
						break
					}
					t.Schedule()
				}
				t.SetState(TaskRunning)
				count[i]++
				turn.Store(t.C, obj, int32(1-i))
				m.Wake(t, tasks[1-i])
			}
		})
	}
	m.Start(nil, tasks[0])
	m.Start(nil, tasks[1])
	return &count
}

func TestNoWakeUpIsLost(t *testing.T) {
	for _, cpus := range []int{1, 2} {
		regimes(t, cpus, func(t *testing.T, o Options) {
			m := boot(t, o)
			count := pingPong(m, 200)
			require.NoError(t, m.Run().Err())
			assert.Equal(t, [2]int{200, 200}, *count)
		})
	}
}

func TestLostWakeUpIsADeadlock(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		spawn(m, "forgotten", func(t *Task) {
			t.SetState(TaskUninterruptible)
			t.WaitingOn(x86.Obj(x86.ClassWord, 42))
			t.Schedule()
		})
		r := m.Run()
		assert.Equal(t, Deadlock, r.Reason)
		assert.Contains(t, r.Detail, "forgotten")
		assert.Contains(t, r.Detail, "word 42")
	})
}

func TestEndlessLoopIsALivelock(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: Free, StepLimit: 5000})
	spawn(m, "loop", func(t *Task) {
		for {
			t.Point(x86.OpYield, 0)
		}
	})
	r := m.Run()
	assert.Equal(t, Livelock, r.Reason)
}

func TestParallelLivelockIsFound(t *testing.T) {
	m := boot(t, Options{CPUs: 2, LivelockNS: 1_000_000})
	spawn(m, "loop", func(t *Task) {
		for {
			t.Point(x86.OpYield, 0)
		}
	})
	assert.Equal(t, Livelock, m.Run().Reason)
}

// What the tasks are in the middle of is described when they have stopped: until then it changes. The race
// detector is the judge of that.
func TestParallelLivelockIsDescribedAtRest(t *testing.T) {
	m := boot(t, Options{CPUs: 3, LivelockNS: 1_000_000})
	for i := range 3 {
		spawn(m, fmt.Sprint("loop ", i), func(t *Task) {
			for n := uint64(1); ; n++ {
				t.WaitingOn(x86.Obj(x86.ClassWord, n))
				t.C.Charge(1000) // time passes quickly
				t.Point(x86.OpYield, 0)
			}
		})
	}
	r := m.Run()
	assert.Equal(t, Livelock, r.Reason)
	assert.Contains(t, r.Detail, "no system call came to an end in 1000000 ns")
	for i := range 3 {
		assert.Contains(t, r.Detail, fmt.Sprint("loop ", i))
	}
}

func TestOopsIsAResult(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		spawn(m, "bad", func(t *Task) { t.Oops("page %d is wrong", 7) })
		spawn(m, "other", func(t *Task) { t.SleepFor(1 << 40) })
		r := m.Run()
		assert.Equal(t, Oopsed, r.Reason)
		require.NotNil(t, r.Oops)
		assert.Contains(t, r.Oops.Error(), "page 7 is wrong")
		assert.Contains(t, r.Oops.Stack, "sched_test.go")
	})
}

func TestGoPanicIsAResult(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Regime: Free})
	spawn(m, "nil", func(t *Task) { var p *Task; p.Name = "x" })
	r := m.Run()
	assert.Equal(t, Panicked, r.Reason)
	assert.Contains(t, r.Detail, "nil pointer")
}

func TestGoexitInAUserFunction(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		cleaned := false
		spawn(m, "failing", func(t *Task) {
			defer func() { cleaned = true }()
			t.SleepFor(10)
			runtime.Goexit()
		})
		r := m.Run()
		assert.Equal(t, Exited, r.Reason)
		assert.Equal(t, "failing", r.Task)
		assert.True(t, cleaned)
	})
}

func TestShutdownRunsDeferredFunctions(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: Free})
	unwound := 0
	for range 3 {
		spawn(m, "stuck", func(t *Task) {
			defer func() { unwound++; t.Point(x86.OpYield, 0) }()
			t.SetState(TaskUninterruptible)
			t.Schedule()
		})
	}
	assert.Equal(t, Deadlock, m.Run().Reason)
	m.Shutdown()
	assert.Equal(t, 3, unwound)
}

// trail records the steps of a run.
type trail struct{ steps []string }

func (r *trail) Step(n uint64, t *Task, op x86.Op, obj x86.ObjID) {
	r.steps = append(r.steps, fmt.Sprint(n, t.C.ID, t.Name, op, uint64(obj)))
}

func (r *trail) Device(n uint64, ev Event) { r.steps = append(r.steps, fmt.Sprint(n, ev.Name())) }

func TestDeterministicRegimesRepeatExactly(t *testing.T) {
	run := func(o Options) ([]string, uint64) {
		m := boot(t, o)
		rec := &trail{}
		m.SetObserver(rec)
		pingPong(m, 20)
		spawn(m, "sleeper", func(t *Task) { t.SleepFor(3000) })
		r := m.Run()
		require.NoError(t, r.Err())
		return rec.steps, r.NS
	}
	a, na := run(Options{CPUs: 2, Regime: Free, Strategy: NewRandom(5)})
	b, nb := run(Options{CPUs: 2, Regime: Free, Strategy: NewRandom(5)})
	c, _ := run(Options{CPUs: 2, Regime: Free, Strategy: NewRandom(6)})
	assert.Equal(t, a, b)
	assert.Equal(t, na, nb)
	assert.NotEqual(t, a, c, "another seed gives another schedule")
	a, na = run(Options{CPUs: 2, Regime: Timed})
	b, nb = run(Options{CPUs: 2, Regime: Timed})
	assert.Equal(t, a, b)
	assert.Equal(t, na, nb)
}

func TestInterruptWaitsForTheFlag(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		var got, armed x86.Word32
		obj := m.NewObj(x86.ClassWord)
		m.RegisterIRQ(x86.VecCall, func(t *Task) {
			got.Store(t.C, obj, 1)
			t.C.Wrote(obj)
		})
		target := m.NewTask(TaskOptions{Name: "target", CPU: 1}, func(t *Task) {
			t.C.IRQDisable()
			armed.Store(t.C, obj, 1)
			t.C.Wrote(obj)
			for range 100 {
				t.Point(x86.OpYield, 0)
				if got.Peek() != 0 {
					t.Oops("interrupt taken while disabled")
				}
			}
			t.C.IRQEnable()
			for n := 1; got.Peek() == 0; n++ {
				t.C.SpinWait(obj, n)
			}
		})
		sender := m.NewTask(TaskOptions{Name: "sender", CPU: 2}, func(t *Task) {
			for n := 1; armed.Peek() == 0; n++ {
				t.C.SpinWait(obj, n)
			}
			t.C.SendIPI(m.CPU(0), x86.VecCall)
		})
		m.Start(nil, target)
		m.Start(nil, sender)
		require.NoError(t, m.Run().Err())
		assert.EqualValues(t, 1, got.Peek())
	})
}

func TestPreemptionByTimeSlice(t *testing.T) {
	for _, o := range []Options{{CPUs: 1}, {CPUs: 1, Regime: Timed}} {
		o.SliceNS = 20_000
		m := boot(t, o)
		var order []string
		for _, name := range []string{"a", "b"} {
			spawn(m, name, func(t *Task) {
				t.User = true
				for range 5000 {
					t.C.Charge(50)
					t.Point(x86.OpLoad, 0)
					if n := len(order); n == 0 || order[n-1] != name {
						order = append(order, name)
					}
				}
			})
		}
		require.NoError(t, m.Run().Err())
		assert.Greater(t, len(order), 4, "the two tasks must alternate: %v", order)
	}
}

func TestIdleCPUPullsWork(t *testing.T) {
	m := boot(t, Options{CPUs: 4, Regime: Timed})
	cpus := map[int]bool{}
	for range 8 {
		task := m.NewTask(TaskOptions{Name: "w", CPU: 1}, func(t *Task) {
			for range 100 {
				t.C.Charge(1000)
				t.Point(x86.OpYield, 0)
				cpus[t.C.ID] = true
			}
		})
		m.Start(nil, task)
	}
	require.NoError(t, m.Run().Err())
	assert.Greater(t, len(cpus), 1)
}

func TestWorkqueueAndRCU(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		w := m.NewWorkqueue("events")
		done := 0
		var grace x86.Word32 // grace periods end on every CPU
		obj := m.NewObj(x86.ClassWord)
		spawn(m, "producer", func(t *Task) {
			for range 10 {
				w.Queue(t, func(*Task) { done++ })
				t.M.CallRCU(t, func(t *Task) { grace.Add(t.C, obj, 1) })
				t.SleepFor(100)
			}
		})
		require.NoError(t, m.Run().Err())
		assert.Equal(t, 10, done)
		assert.EqualValues(t, 10, grace.Peek())
	})
}

func TestEventHeapOrder(t *testing.T) {
	var q eventQueue
	r := rng(3)
	for range 500 {
		q.add(r.next()%97, &Timer{}, 0)
	}
	last := pendingEvent{}
	for range 500 {
		e, ok := q.popDue(never)
		require.True(t, ok)
		assert.False(t, e.before(&last))
		last = e
	}
	assert.Equal(t, uint64(never), q.nextAt())
}

func TestTimedCountsLineTransfers(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: Timed})
	count := pingPong(m, 100)
	require.NoError(t, m.Run().Err())
	require.Equal(t, 100, count[0])
	assert.Greater(t, m.Trace().Sum(trace.EmuLineTransfers), uint64(100))
}

func TestMachinesDoNotLeakCoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	h := &Host{}
	for seed := range uint64(200) {
		m := boot(t, Options{CPUs: 2, Regime: Free, Strategy: NewRandom(seed), Host: h})
		pingPong(m, 3)
		require.NoError(t, m.Run().Err())
		m.Shutdown()
	}
	h.Close()
	assert.Less(t, runtime.NumGoroutine(), before+50)
}

func BenchmarkContextSwitch(b *testing.B) {
	for _, o := range []Options{{CPUs: 1}, {CPUs: 1, Regime: Timed, StepLimit: 1 << 60}} {
		b.Run("regime="+o.Regime.String(), func(b *testing.B) {
			m := boot(b, o)
			pingPong(m, b.N)
			b.ResetTimer()
			if err := m.Run().Err(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkPoint(b *testing.B) {
	for _, o := range []Options{{CPUs: 1}, {CPUs: 1, Regime: Timed, StepLimit: 1 << 60}, {CPUs: 1, Regime: Free, StepLimit: 1 << 60}} {
		b.Run("regime="+o.Regime.String(), func(b *testing.B) {
			m := boot(b, o)
			spawn(m, "p", func(t *Task) {
				for b.Loop() {
					t.Point(x86.OpRead, 0)
				}
			})
			if err := m.Run().Err(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// TestGracePeriodDoesNotWaitForUserCode pins that a CPU that only runs user code passes
// quiescent states: a grace period once never ended beside it.
func TestGracePeriodDoesNotWaitForUserCode(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		// End, and fail, if it never does. A host that does not run the updater's CPU for a
		// while makes much of the other's time pass.
		o.StepLimit, o.LivelockNS = 100_000, 5_000_000_000
		m := boot(t, o)
		var over x86.Word32
		obj := m.NewObj(x86.ClassWord)
		busy := m.NewTask(TaskOptions{Name: "busy", CPU: 1}, func(t *Task) {
			t.User = true
			for over.Peek() == 0 {
				t.Point(x86.OpLoad, 0)
			}
			t.User = false
		})
		m.Start(nil, busy)
		m.Start(nil, m.NewTask(TaskOptions{Name: "updater", CPU: 2}, func(t *Task) {
			t.SleepFor(1000)
			t.M.CallRCU(t, func(t *Task) { over.Store(t.C, obj, 1) })
		}))
		require.NoError(t, m.Run().Err())
	})
}

// TestStopEndsADeterministicRun stops a machine whose only CPU never lets anybody else
// run, watched and unwatched.
func TestStopEndsADeterministicRun(t *testing.T) {
	for _, o := range []Options{
		{CPUs: 1, Regime: Timed, StepLimit: 1 << 60},
		{CPUs: 1, Regime: Free, StepLimit: 1 << 60, Watchdog: NoWatchdog},
	} {
		m := boot(t, o)
		begun := make(chan struct{})
		spawn(m, "loop", func(t *Task) {
			close(begun)
			for range 200_000_000 { // an end, and a failure, if Stop does nothing
				t.Point(x86.OpYield, 0)
				t.Progress() // or it would be a livelock
			}
		})
		go func() { <-begun; m.Stop("enough") }()
		r := m.Run()
		assert.Equal(t, Stopped, r.Reason)
		assert.Equal(t, "enough", r.Detail)
	}
}
