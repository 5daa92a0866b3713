package lock_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
)

// sleepers is a program of two tasks, one of which sleeps until the other is done.
type sleepers struct {
	name  string
	setup func(m *sched.Machine) (sleeper, waker func(*sched.Task))
}

// everyOrder runs the program in every order of its steps, with the beginning of a sleep
// as a step of its own.
func everyOrder(t *testing.T, p sleepers) *explore.Reduced {
	t.Helper()
	memory, coros := x86.NewHost(), &sched.Host{}
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		mem, err := memory.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
		if err != nil {
			panic(err)
		}
		m, err := sched.New(sched.Options{CPUs: 2, Regime: sched.Free, Strategy: s, Mem: mem, Host: coros,
			StepLimit: 10_000, Watchdog: sched.NoWatchdog, SleepPoints: true})
		if err != nil {
			panic(err)
		}
		m.SetObserver(o)
		sleeper, waker := p.setup(m)
		for cpu, fn := range []func(*sched.Task){sleeper, waker} {
			m.Start(nil, m.NewTask(sched.TaskOptions{Name: []string{"sleeper", "waker"}[cpu], CPU: cpu + 1}, fn))
		}
		r := m.Run()
		obs := explore.Observation{Verdict: explore.Safe, Steps: r.Steps, Result: r}
		if v := explore.VerdictOf(r); v != "" {
			obs.Verdict, obs.Detail = v, r.Detail
		}
		m.Shutdown()
		mem.Release()
		return obs
	}
	r, err := explore.Reduce(context.Background(), explore.Target{Name: p.name, Policy: "none", Run: run},
		explore.ReduceOptions{Schedules: 20_000})
	require.NoError(t, err)
	require.True(t, r.Complete, "%s: %d schedules are not all", p.name, r.Schedules)
	return r
}

// twoBits is a table with two words whose waiters share a queue. The waker holds a bit
// of both and gives the other word's back first, which wakes the sleeper for nothing.
func twoBits(wait func(b *lock.BitWait, t *sched.Task, w *x86.Word64, obj x86.ObjID)) func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
	return func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
		b := &lock.BitWait{}
		b.Init(m, lock.PageLock)
		w := new([2]x86.Word64)
		obj := [2]x86.ObjID{x86.Obj(x86.ClassPage, 1), x86.Obj(x86.ClassPage, 2)}
		for !b.SharesQueue(obj[0], obj[1]) {
			obj[1]++
		}
		held := m.NewObj(x86.ClassWord)
		var ready x86.Word32
		sleeper = func(t *sched.Task) {
			for ready.Load(t.C, held) == 0 {
				t.C.SpinWait(held, 1)
			}
			wait(b, t, &w[0], obj[0])
		}
		waker = func(t *sched.Task) {
			b.Lock(t, &w[0], 1, obj[0])
			b.Lock(t, &w[1], 1, obj[1])
			ready.Store(t.C, held, 1)
			t.C.Wrote(held)
			b.Unlock(t, &w[1], 1, obj[1])
			b.Unlock(t, &w[0], 1, obj[0])
		}
		return sleeper, waker
	}
}

// event is a queue that is woken twice, the first time for nothing. wait is called with
// what the sleeper waits for.
func event(wait func(q *lock.WaitQueue, t *sched.Task, cond func() bool)) func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
	return func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
		q, flag := &lock.WaitQueue{}, &x86.Word32{}
		q.Init(m)
		obj := m.NewObj(x86.ClassWord)
		sleeper = func(t *sched.Task) {
			happened := func() bool { t.C.Touch(obj, x86.AccRead); return flag.Peek() != 0 }
			wait(q, t, happened)
			if !happened() {
				t.Oops("the event has not happened: the first wake-up was for nothing")
			}
		}
		waker = func(t *sched.Task) {
			q.Wake(t)
			flag.Store(t.C, obj, 1)
			q.WakeN(t, 1)
		}
		return sleeper, waker
	}
}

// waitWith is wait_event with another prepare_to_wait.
func waitWith(prepare func(q *lock.WaitQueue, t *sched.Task, s sched.TaskState)) func(q *lock.WaitQueue, t *sched.Task, cond func() bool) {
	return func(q *lock.WaitQueue, t *sched.Task, cond func() bool) {
		for prepare(q, t, sched.TaskUninterruptible); !cond(); prepare(q, t, sched.TaskUninterruptible) {
			t.Schedule()
		}
		q.Finish(t)
	}
}

// semaphore has the waker hold a semaphore for writing while the sleeper wants it.
func semaphore(take func(s *lock.RWSem, t *sched.Task)) func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
	return func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
		s := &lock.RWSem{}
		s.Init(m, lock.MmapSem)
		sleeper = func(t *sched.Task) { take(s, t) }
		waker = func(t *sched.Task) {
			s.DownWrite(t)
			s.UpWrite(t)
		}
		return sleeper, waker
	}
}

// done has the waker complete something that the sleeper waits for.
func done(wait func(c *lock.Completion, t *sched.Task)) func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
	return func(m *sched.Machine) (sleeper, waker func(*sched.Task)) {
		c := &lock.Completion{}
		c.Init(m)
		return func(t *sched.Task) { wait(c, t) }, func(t *sched.Task) { c.Complete(t) }
	}
}

// Whoever sleeps is woken, in whatever order the two do their steps, though a first
// wake-up was for somebody else. A task that can be taken off its queue before it has said
// that it sleeps is the one that nobody wakes (Linux 2.6.29 kernel/wait.c:prepare_to_wait
// sets the state under the queue's lock).
func TestEverySleeperIsWoken(t *testing.T) {
	for _, p := range []sleepers{
		{"bit lock", twoBits(func(b *lock.BitWait, t *sched.Task, w *x86.Word64, obj x86.ObjID) {
			b.Lock(t, w, 1, obj)
			b.Unlock(t, w, 1, obj)
		})},
		{"wait for a bit", twoBits(func(b *lock.BitWait, t *sched.Task, w *x86.Word64, obj x86.ObjID) {
			b.WaitClear(t, w, 1, obj)
			t.C.Touch(obj, x86.AccRead)
			if w.Peek()&1 != 0 {
				t.Oops("the bit is still set: it was another word's wake-up")
			}
		})},
		{"event", event((*lock.WaitQueue).WaitEvent)},
		{"event that signals end", event(func(q *lock.WaitQueue, t *sched.Task, cond func() bool) {
			if err := q.WaitEventInterruptible(t, cond); err != nil {
				t.Oops("nobody sent a signal: %v", err)
			}
		})},
		{"prepare, schedule, finish", event(waitWith((*lock.WaitQueue).Prepare))},
		{"completion", done((*lock.Completion).Wait)},
		{"killable completion", done(func(c *lock.Completion, t *sched.Task) {
			if err := c.WaitKillable(t); err != nil {
				t.Oops("nobody killed it: %v", err)
			}
		})},
		{"reader", semaphore(func(s *lock.RWSem, t *sched.Task) { s.DownRead(t); s.UpRead(t) })},
		{"writer", semaphore(func(s *lock.RWSem, t *sched.Task) { s.DownWrite(t); s.UpWrite(t) })},
	} {
		t.Run(p.name, func(t *testing.T) {
			r := everyOrder(t, p)
			assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%v", r.ByVerdict)
			if w := r.FirstBad(); w != nil {
				t.Log(w.Verdict, w.Detail)
			}
			assert.Greater(t, r.Classes, uint64(1), "there is more than one order")
		})
	}
}

// The same search finds the sleeper that nobody wakes if the queue is let go first.
func TestASleeperThatQueuesTooEarlyIsFound(t *testing.T) {
	r := everyOrder(t, sleepers{"late", event(waitWith((*lock.WaitQueue).PrepareLate))})
	assert.NotZero(t, r.ByVerdict[explore.Safe])
	w := r.Witness("deadlock")
	require.NotNil(t, w, "%v", r.ByVerdict)
	assert.Contains(t, w.Detail, "sleeper")
}

// Who takes the state out of the queue's lock is told the first time that anybody sleeps.
func TestStateIsSetUnderTheQueuesLock(t *testing.T) {
	r := everyOrder(t, sleepers{"unlocked", event(waitWith((*lock.WaitQueue).PrepareUnlocked))})
	w := r.FirstBad()
	require.NotNil(t, w, "%v", r.ByVerdict)
	assert.Contains(t, w.Detail, "after the queue's lock was released")
}
