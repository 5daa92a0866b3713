package sched

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
)

// TestLivelockIsAStateSeenAgain has two tasks give way to each other for ever: the state
// comes back, long before the limit of points. A task that gets anywhere, or waits for an
// event, is none.
func TestLivelockIsAStateSeenAgain(t *testing.T) {
	const limit = 300_000
	for _, c := range []struct {
		name string
		loop func(t *Task, n int)
		seen bool
	}{
		{"polite", func(t *Task, n int) {}, true},
		{"stores", func(t *Task, n int) { t.M.Mem().Bytes(3)[n>>10&1023] = byte(n >> 5) }, false},
		{"achieves", func(t *Task, n int) {
			if n%5000 == 0 {
				t.Progress()
			}
		}, false},
		{"waits", func(t *Task, n int) {
			if n == 0 {
				t.M.AddEvent(1<<40, &drain{})
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The last task keeps running, so that no pending event is ever chosen.
			m := boot(t, Options{CPUs: 2, Regime: Free, StepLimit: limit, Strategy: turns{}})
			m.Mem().Touch(3, 1)
			obj := m.NewObj(x86.ClassWord)
			for range 2 {
				spawn(m, "polite", func(t *Task) {
					for n := 0; ; n++ {
						c.loop(t, n)
						t.Point(x86.OpRead, obj)
					}
				})
			}
			r := m.Run()
			assert.Equal(t, Livelock, r.Reason)
			if c.seen {
				assert.Contains(t, r.Detail, "was seen again")
				assert.Contains(t, r.Detail, "about to read word")
				assert.Less(t, r.Steps, uint64(limit/2))
			} else {
				assert.NotContains(t, r.Detail, "was seen again")
			}
		})
	}
}

// turns lets the CPUs take turns, and no event ever happen.
type turns struct{}

func (turns) Begin(int) {}

func (turns) Pick(ch *Choice) int {
	for i, a := range ch.Enabled {
		if a.CPU >= 0 && a.CPU != ch.Last {
			return i
		}
	}
	return 0
}
