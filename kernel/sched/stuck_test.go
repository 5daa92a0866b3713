package sched

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
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

// TestStuckTaskIsToldWithItsStack looks at machines while a task loops, or blocks, in Go; one that sleeps
// in the machine beside it is none of them.
func TestStuckTaskIsToldWithItsStack(t *testing.T) {
	for _, regime := range []Regime{Parallel, Timed, Free} {
		for _, name := range []string{"loopsInGo", "blocksInGo"} {
			t.Run(regime.String()+" "+name, func(t *testing.T) {
				m := boot(t, Options{CPUs: 2, Regime: regime})
				begun, end := make(chan struct{}), make(chan struct{})
				var over atomic.Bool
				sleeper := spawn(m, "sleeper", func(t *Task) { t.SetState(TaskUninterruptible); t.Schedule() })
				spawn(m, "culprit", func(t *Task) {
					if name == "loopsInGo" {
						loopsInGo(begun, &over)
					} else {
						blocksInGo(begun, end)
					}
					t.M.Wake(t, sleeper)
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
				assert.NotContains(t, text, "sched.(*Task).yield")
			})
		}
	}
}

func TestResultStuck(t *testing.T) {
	assert.NoError(t, (*Result)(nil).Stuck())
	assert.NoError(t, (&Result{Reason: Deadlock}).Stuck())
	assert.EqualError(t, (&Result{Reason: Stuck, Detail: "cpu 0\n"}).Stuck(), "stuck: cpu 0")
}
