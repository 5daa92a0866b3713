package lock

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// TestRacesAreWhatNothingOrders has two tasks write a field. Each way to order them keeps
// the checker quiet in every schedule; with that taken out it reports a race, also where
// the two were far apart.
func TestRacesAreWhatNothingOrders(t *testing.T) {
	type shared struct {
		field int
		spin  SpinLock
		mutex Mutex
		done  Completion
		word  x86.Word32
		obj   x86.ObjID
	}
	write := func(t *sched.Task, s *shared) {
		t.WriteOf(s, "field")
		s.field++
	}
	for _, c := range []struct {
		name          string
		first, second func(t *sched.Task, s *shared, ordered bool)
	}{
		{"spinlock", nil, func(t *sched.Task, s *shared, ordered bool) {
			if ordered {
				s.spin.Lock(t)
			}
			write(t, s)
			if ordered {
				s.spin.Unlock(t)
			}
		}},
		{"mutex", nil, func(t *sched.Task, s *shared, ordered bool) {
			if ordered {
				s.mutex.Lock(t)
			}
			write(t, s)
			if ordered {
				s.mutex.Unlock(t)
			}
		}},
		{"completion", func(t *sched.Task, s *shared, _ bool) {
			write(t, s)
			s.done.Complete(t)
		}, func(t *sched.Task, s *shared, ordered bool) {
			if ordered {
				s.done.Wait(t)
			}
			write(t, s)
		}},
		{"message", func(t *sched.Task, s *shared, ordered bool) {
			if ordered {
				write(t, s)
			}
			s.word.Store(t.C, s.obj, 1)
			if !ordered {
				write(t, s)
			}
		}, func(t *sched.Task, s *shared, _ bool) {
			if s.word.Load(t.C, s.obj) == 1 {
				write(t, s)
			}
		}},
		{"start", func(t *sched.Task, s *shared, ordered bool) {
			if ordered {
				write(t, s)
			}
			t.M.Start(t, t.M.NewTask(sched.TaskOptions{Name: "third"}, func(t *sched.Task) { write(t, s) }))
			if !ordered {
				write(t, s)
			}
		}, func(*sched.Task, *shared, bool) {}},
	} {
		if c.first == nil {
			c.first = c.second
		}
		for _, ordered := range []bool{true, false} {
			races := 0
			for seed := range uint64(20) {
				m := boot(t, sched.Options{CPUs: 2, Regime: sched.Free, Strategy: sched.NewRandom(seed), CheckRaces: true})
				s := &shared{obj: m.NewObj(x86.ClassWord)}
				s.spin.Init(m, PTL)
				s.mutex.Init(m, IMutex)
				s.done.Init(m)
				start := func(name string, fn func(*sched.Task, *shared, bool)) {
					m.Start(nil, m.NewTask(sched.TaskOptions{Name: name}, func(t *sched.Task) { fn(t, s, ordered) }))
				}
				start("first", c.first)
				start("second", c.second)
				r := m.Run()
				if r.Reason == sched.Quiet {
					continue
				}
				require.Equal(t, sched.Oopsed, r.Reason, r.Detail)
				assert.Contains(t, r.Oops.Msg, "data race on field: task ")
				races++
			}
			if ordered {
				assert.Zero(t, races, c.name)
			} else {
				assert.NotZero(t, races, c.name)
			}
		}
	}
}
