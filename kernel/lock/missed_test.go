package lock

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// A waiter whose condition holds when nothing can happen any more has missed a wake-up;
// one whose condition does not has nobody to blame. Both sleep on.
func TestMissedWakeUpIsReported(t *testing.T) {
	for _, o := range []sched.Options{{CPUs: 2, Regime: sched.Free}, {CPUs: 1, Regime: sched.Timed}} {
		m := boot(t, o)
		var q WaitQueue
		var flag, other x86.Word32
		q.Init(m)
		woke := 0
		wait := func(name string, w *x86.Word32) {
			spawn(m, name, func(t *sched.Task) {
				q.WaitEvent(t, func() bool { return w.Peek() != 0 })
				woke++
			})
		}
		wait("forgotten", &flag)
		wait("patient", &other)
		spawn(m, "setter", func(t *sched.Task) {
			for len(q.tasks) < 2 {
				t.Point(x86.OpYield, 0)
				t.Schedule()
			}
			flag.Store(t.C, q.Obj(), 1) // and no Wake
		})
		r := m.Run()
		assert.Equal(t, sched.Deadlock, r.Reason)
		assert.Regexp(t, `task \d+ forgotten missed a wake-up: what it waits for at wait queue \d+ holds`, r.Detail)
		assert.NotContains(t, r.Detail, "patient missed")
		assert.Contains(t, r.Detail, "patient")
		assert.Zero(t, woke)
	}
}
