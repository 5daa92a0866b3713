package explore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// interruptedSpin has a CPU spin until a word is set; another sets it, a third interrupts who spins.
func (y *toys) interruptedSpin() explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 3, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var w x86.Word32
			obj, private, after := m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
			m.RegisterIRQ(x86.VecCall, func(t *sched.Task) { t.C.Point(x86.OpWrite, private) })
			start(m, "spinner", 0, func(t *sched.Task) {
				t.C.Point(x86.OpRead, obj)
				for n := 1; w.Peek() == 0; n++ {
					t.C.SpinWait(obj, n)
				}
				t.C.Point(x86.OpWrite, after)
			})
			start(m, "setter", 1, func(t *sched.Task) {
				w.Store(t.C, obj, 1)
				t.C.Wrote(obj)
			})
			start(m, "caller", 2, func(t *sched.Task) { t.C.SendIPI(m.CPU(0), x86.VecCall) })
			return func(*explore.StateHash) (string, string) { return explore.Safe, "" }
		})
	}
	return explore.Target{Name: "interrupted spin", Policy: "none", Run: run}
}

// TestSpinAfterAnInterruptIsALook: a CPU that spins and is interrupted looks at what it waits for in
// the step in which the handler ends. If the footprint of that step does not say so, it passes
// for independent of the store that ends the waiting.
func TestSpinAfterAnInterruptIsALook(t *testing.T) {
	n, err := explore.CheckIndependence(newToys().interruptedSpin(), 1, 200, 20)
	assert.NoError(t, err)
	assert.Positive(t, n)
}
