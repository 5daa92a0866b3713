package sched

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
)

// asleep makes a task that has been on a CPU and waits, on a machine that does not run.
func asleep(m *Machine, cpu int) *Task {
	t := m.NewTask(TaskOptions{Name: "sleeper"}, func(*Task) {})
	t.cpuID.Store(int32(cpu))
	return t
}

// idleAt puts the CPUs into the state in which they look for quiet.
func idleAt(m *Machine) {
	for _, c := range m.cpus {
		c.isIdle.Store(true)
	}
}

// TestQuietIsNotSeenWhileAWakeUpIsUnderWay steps through the window: CPU 1 is in the
// middle of waking a task when CPU 2 begins to look and sees CPU 0 idle. Then the task
// reaches CPU 0, which begins to run it, and CPU 1 goes idle before CPU 2 looks at it.
func TestQuietIsNotSeenWhileAWakeUpIsUnderWay(t *testing.T) {
	m := boot(t, Options{CPUs: 3})
	idleAt(m)
	sleeper := asleep(m, 1)
	c0, c1 := m.cpus[0], m.cpus[1]
	c1.isIdle.Store(false)
	waker := m.NewTask(TaskOptions{Name: "waker"}, func(*Task) {})
	waker.C = &c1.CPU

	c0.rq.lock.Lock() // the waker stops where it queues the task
	woken := make(chan struct{})
	go func() { m.wake(waker, sleeper, true); close(woken) }()
	for sleeper.cpuID.Load() != 0 {
		runtime.Gosched()
	}
	m.par.seenIdle = func(cpu int) {
		if cpu != 0 {
			return
		}
		// CPU 0 has noticed the task in its queue before the waker could tell it.
		c0.rq.push(sleeper)
		c0.wakeFromIdle()
		c0.rq.pop()
		c0.rq.lock.Unlock()
		<-woken
		c0.rq.lock.Lock()
		c0.rq.pop() // the waker's own push, the same task
		c0.rq.lock.Unlock()
		c0.TakePending()
		c1.isIdle.Store(true)
	}
	m.advance(m.cpus[2])
	assert.False(t, m.stop.Load(), "taken for quiet while CPU 0 runs a task")
}

// TestQuietIsNotSeenWhileACPULeavesIdleness: CPU 0 takes the task off its queue between
// the look at its flag and the look at its queue; CPU 1, which gave it, goes idle.
func TestQuietIsNotSeenWhileACPULeavesIdleness(t *testing.T) {
	m := boot(t, Options{CPUs: 2})
	idleAt(m)
	c0 := m.cpus[0]
	m.par.seenIdle = func(cpu int) {
		if cpu == 0 {
			c0.wakeFromIdle()
		}
	}
	m.advance(m.cpus[1])
	assert.False(t, m.stop.Load(), "taken for quiet while CPU 0 is busy")
	m.par.seenIdle = nil
	c0.isIdle.Store(true)
	m.advance(m.cpus[1])
	assert.True(t, m.stop.Load(), "not found quiet with nothing to do")
}

// TestGracePeriodSeesACPUGoIdle: a grace period that begins after a CPU has passed its last
// quiescent state and before it says that it is idle must not wait for that CPU.
func TestGracePeriodSeesACPUGoIdle(t *testing.T) {
	m := boot(t, Options{CPUs: 2})
	idleAt(m)
	c0, c1 := m.cpus[0], m.cpus[1]
	c1.isIdle.Store(false)
	caller := m.NewTask(TaskOptions{Name: "caller"}, func(*Task) {})
	caller.C = &c0.CPU
	m.rcuQuiescent(c1)
	done := false
	m.CallRCU(caller, func(*Task) { done = true })
	m.rcuQuiescent(c0)
	assert.False(t, done)
	m.par.seenIdle = func(int) { m.stop.Store(true) } // ends the wait
	func() {
		defer func() { _ = recover() }() // idleWait yields when the machine stops
		m.idleWait(c1, c1.idle)
	}()
	assert.True(t, done, "the grace period waits for an idle CPU")
}

// TestQuietIsQuiet has machines go quiet again and again while tasks wake each other, sleep,
// are pulled by idle CPUs and wait for grace periods, with looks for quiet that take
// long. A machine that is found quiet too early reports a deadlock.
func TestQuietIsQuiet(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for round := range rounds {
		m := boot(t, Options{CPUs: 4})
		m.par.seenIdle = func(int) { runtime.Gosched() }
		count := pingPong(m, 60)
		w := m.NewWorkqueue("events")
		var sum x86.Word32
		obj := m.NewObj(x86.ClassWord)
		for i := range 5 {
			spawn(m, fmt.Sprint("mixed", i), func(t *Task) {
				for k := range 12 {
					switch (i + k) % 3 {
					case 0:
						t.SleepFor(uint64(1 + k%3*1000))
					case 1:
						w.Queue(t, func(t *Task) { sum.Add(t.C, obj, 1) })
					case 2:
						var done x86.Word32
						t.M.CallRCU(t, func(by *Task) { done.Poke(1); t.M.Wake(by, t) })
						for t.SetState(TaskUninterruptible); done.Peek() == 0; t.SetState(TaskUninterruptible) {
							t.Schedule()
						}
						t.SetState(TaskRunning)
					}
				}
			})
		}
		r := m.Run()
		require.NoError(t, r.Err(), "round %d: %s", round, r.Detail)
		assert.Equal(t, [2]int{60, 60}, *count)
		assert.EqualValues(t, 20, sum.Peek())
		m.Shutdown()
	}
}

// A deadlock report says who holds what a task waits for, and that a task is runnable.
func TestDeadlockReportNamesHolders(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: Timed})
	lock := x86.Obj(x86.ClassLock, 77)
	spawn(m, "holder", func(t *Task) {
		t.Held[0] = HeldLock{Obj: lock, Name: "a lock"}
		t.NumHeld = 1
		t.SetState(TaskUninterruptible)
		t.WaitingOn(x86.Obj(x86.ClassWord, 42))
		t.Schedule()
	})
	spawn(m, "waiter", func(t *Task) {
		t.SetState(TaskUninterruptible)
		t.WaitingOn(lock)
		t.Schedule()
	})
	r := m.Run()
	assert.Equal(t, Deadlock, r.Reason)
	assert.Contains(t, r.Detail, "waiter: state D, waits for lock 77, which is held by task 1, holds no locks")
	assert.Contains(t, r.Detail, "holder: state D, waits for word 42, holds a lock")
}
