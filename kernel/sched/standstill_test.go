package sched

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
)

// lockWord is the least of a spinlock.
type lockWord struct {
	w   x86.SpinWord
	obj x86.ObjID
}

func (l *lockWord) lock(t *Task) {
	t.PreemptDisable()
	for n := 1; !l.w.TryLock(); n++ {
		t.C.SpinWait(l.obj, n)
	}
}

func (l *lockWord) unlock(t *Task) {
	l.w.Release(t.C, l.obj)
	t.PreemptEnable()
}

// TestSpinningForEverIsADeadlock has tasks wait busily for what never comes: neither the limit of
// virtual time nor the watchdog, both out of reach, is needed to see it.
func TestSpinningForEverIsADeadlock(t *testing.T) {
	for name, tasks := range map[string]func(a, b *lockWord, met *x86.Word32) []func(*Task){
		"itself": func(a, _ *lockWord, _ *x86.Word32) []func(*Task) {
			return []func(*Task){func(t *Task) { a.lock(t); a.lock(t) }}
		},
		"holder has ended": func(a, _ *lockWord, _ *x86.Word32) []func(*Task) {
			return []func(*Task){
				func(t *Task) { a.w.TryLock() },
				func(t *Task) { t.SleepFor(1000); a.lock(t) },
			}
		},
		"holder sleeps": func(a, _ *lockWord, _ *x86.Word32) []func(*Task) {
			return []func(*Task){
				func(t *Task) { a.w.TryLock(); t.SetState(TaskUninterruptible); t.Schedule() },
				func(t *Task) { t.SleepFor(1000); a.lock(t) },
				func(t *Task) { t.SleepFor(2000); a.lock(t) },
			}
		},
		"each other": func(a, b *lockWord, met *x86.Word32) []func(*Task) {
			half := func(first, second *lockWord) func(*Task) {
				return func(t *Task) {
					first.lock(t)
					met.AddReturn(t.C, a.obj, 1)
					for n := 1; met.Peek() < 2; n++ {
						t.C.SpinWait(a.obj, n)
					}
					second.lock(t)
				}
			}
			return []func(*Task){half(a, b), half(b, a)}
		},
		"a spinner of user code": func(a, _ *lockWord, _ *x86.Word32) []func(*Task) {
			return []func(*Task){func(t *Task) {
				t.User = true
				for n := 1; ; n++ {
					t.C.SpinWait(a.obj, n)
				}
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := boot(t, Options{CPUs: 3, LivelockNS: 1 << 60, Watchdog: 1000 * time.Hour})
			a, b := &lockWord{obj: m.NewObj(x86.ClassLock)}, &lockWord{obj: m.NewObj(x86.ClassLock)}
			for _, fn := range tasks(a, b, &x86.Word32{}) {
				spawn(m, "waiter", fn)
			}
			r := m.Run()
			assert.Equal(t, Deadlock, r.Reason)
			assert.Contains(t, r.Detail, "runs waiter, which spins on "+m.ObjName(a.obj))
		})
	}
}

// TestABusyWaitThatEndsIsNoDeadlock: the one waited for sleeps, and is woken by a timer; or has
// to be taken off the queue of the CPU that waits.
func TestABusyWaitThatEndsIsNoDeadlock(t *testing.T) {
	for name, tasks := range map[string]func(m *Machine, a *lockWord){
		"a timer": func(m *Machine, a *lockWord) {
			spawn(m, "holder", func(t *Task) { a.w.TryLock(); t.SleepFor(2_000_000); a.w.Release(t.C, a.obj) })
			spawn(m, "waiter", func(t *Task) { t.SleepFor(1000); a.lock(t); a.unlock(t) })
		},
		"another queue": func(m *Machine, a *lockWord) {
			m.Start(nil, m.NewTask(TaskOptions{Name: "waiter", CPU: 1}, func(t *Task) {
				a.w.TryLock()
				m.Start(t, m.NewTask(TaskOptions{Name: "holder", CPU: 1}, func(t *Task) { a.w.Release(t.C, a.obj) }))
				a.lock(t)
				a.unlock(t)
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := boot(t, Options{CPUs: 2, LivelockNS: 1 << 60})
			tasks(m, &lockWord{obj: m.NewObj(x86.ClassLock)})
			assert.NoError(t, m.Run().Err())
		})
	}
}

// waits steps through what a CPU in a long busy wait tells the others.
type waits struct{ c *cpu }

func (w waits) round() { w.c.spin.rounds.Add(1) }

// TestStandstillNeedsEverybody steps through looks of CPU 0 at a machine whose CPU 2 is idle.
func TestStandstillNeedsEverybody(t *testing.T) {
	for _, c := range []struct {
		name string
		// between happens between the two looks, at in the middle of the first.
		between, at func(m *Machine, c1 waits)
		want        bool
	}{
		{"both wait", func(_ *Machine, c1 waits) { c1.round(); c1.round() }, nil, true},
		{"not run by the host", func(*Machine, waits) {}, nil, false},
		{"one round", func(_ *Machine, c1 waits) { c1.round() }, nil, false},
		{"waits for something else", func(_ *Machine, c1 waits) { c1.c.spin.begin(true); c1.round(); c1.round() }, nil, false},
		{"interrupt", func(_ *Machine, c1 waits) { c1.round(); c1.c.spin.interrupted(); c1.round() }, nil, false},
		{"event", func(m *Machine, c1 waits) { c1.round(); c1.round(); m.AddEvent(1<<40, &drain{}) }, nil, false},
		{"an event happens", func(m *Machine, c1 waits) { c1.round(); c1.round(); m.par.firing.Add(1) }, nil, false},
		{"the idle CPU moves", func(m *Machine, c1 waits) {
			c1.round()
			c1.round()
			m.cpus[2].wakeFromIdle()
			m.cpus[2].isIdle.Store(true)
		}, nil, false},
		{"it moves while it is looked at", func(m *Machine, c1 waits) { c1.round(); c1.round() },
			func(m *Machine, _ waits) { m.cpus[2].wakeFromIdle(); m.cpus[2].isIdle.Store(true) }, false},
		{"a task to be taken over", func(m *Machine, c1 waits) { c1.round(); c1.round(); c1.c.rq.push(asleep(m, 1)) }, nil, false},
		{"a task that cannot be", func(m *Machine, c1 waits) {
			c1.round()
			c1.round()
			q := asleep(m, 1)
			q.preempted = true
			c1.c.rq.push(q)
		}, nil, true},
		{"not pinned, and a task", func(m *Machine, c1 waits) {
			c1.round()
			c1.round()
			q := asleep(m, 1)
			q.preempted = true
			m.cpus[0].rq.push(q)
		}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := boot(t, Options{CPUs: 3})
			c0, c1 := m.cpus[0], waits{m.cpus[1]}
			c0.isIdle.Store(false)
			c1.c.isIdle.Store(false)
			c0.spin.begin(false)
			c1.c.spin.begin(true)
			if c.at != nil {
				m.par.seenIdle = func(cpu int) {
					if cpu == 2 {
						c.at(m, c1)
					}
				}
			}
			assert.False(t, c0.still.look(m), "one look is not enough")
			waits{c0}.round()
			waits{c0}.round()
			c.between(m, c1)
			assert.Equal(t, c.want, c0.still.look(m))
		})
	}
}

// TestStepsOfTheWatchdog: a busy wait is no step, unless an event is pending for which it may be.
func TestStepsOfTheWatchdog(t *testing.T) {
	m := boot(t, Options{CPUs: 2})
	c := m.cpus[0]
	c.isIdle.Store(false)
	before := m.stepsSeen()
	c.pub.Store(1000)
	m.parTime()
	c.spin.rounds.Add(1)
	assert.Equal(t, before, m.stepsSeen())
	m.AddEvent(1<<40, &drain{})
	before = m.stepsSeen()
	c.pub.Store(2000)
	m.parTime()
	assert.NotEqual(t, before, m.stepsSeen())
}
