package sched

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
)

// loopsInGo passes no point.
func loopsInGo(begun chan<- struct{}, over *atomic.Bool) {
	close(begun)
	for !over.Load() {
	}
}

func blocksInGo(begun chan<- struct{}, end <-chan struct{}) {
	close(begun)
	<-end
}

// TestStuckTaskIsToldWithItsStack looks at machines while a task loops, or blocks, in Go; in the deterministic
// regimes one that is on the other CPU is at a point, and executes nothing.
func TestStuckTaskIsToldWithItsStack(t *testing.T) {
	for _, regime := range []Regime{Parallel, Timed, Free} {
		for _, name := range []string{"loopsInGo", "blocksInGo"} {
			t.Run(regime.String()+" "+name, func(t *testing.T) {
				m := boot(t, Options{CPUs: 2, Regime: regime})
				begun, end := make(chan struct{}), make(chan struct{})
				var over atomic.Bool
				spawn(m, "passer", func(t *Task) {
					for !over.Load() {
						t.Point(x86.OpYield, 0)
						t.Progress()
					}
				})
				spawn(m, "culprit", func(t *Task) {
					if name == "loopsInGo" {
						loopsInGo(begun, &over)
					} else {
						blocksInGo(begun, end)
					}
				})
				ended := make(chan *Result)
				go func() { ended <- m.Run() }()
				<-begun
				text := m.runningTasks()
				over.Store(true)
				close(end)
				<-ended
				assert.Regexp(t, `cpu \d runs task 2 culprit\n    goroutine`, text)
				assert.Contains(t, text, "sched."+name)
				if regime != Parallel {
					assert.Equal(t, 1, strings.Count(text, "goroutine "), "who is at a point executes nothing: %s", text)
				}
			})
		}
	}
}

func TestResultStuck(t *testing.T) {
	assert.NoError(t, (*Result)(nil).Stuck())
	assert.NoError(t, (&Result{Reason: Deadlock}).Stuck())
	assert.EqualError(t, (&Result{Reason: Stuck, Detail: "cpu 0\n"}).Stuck(), "stuck: cpu 0")
}

func TestFirstRunsAreWatched(t *testing.T) {
	var f FirstRuns
	for range watchedRuns {
		assert.Zero(t, f.Watchdog())
	}
	for range 3 {
		assert.EqualValues(t, NoWatchdog, f.Watchdog())
	}
}
