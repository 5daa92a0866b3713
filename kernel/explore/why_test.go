package explore_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// twoDevices starts two transfers and waits for both; it goes wrong under the name
// "early" when the first device is first.
func (y *toys) twoDevices(policy string, firstLast bool) explore.Target {
	return explore.Target{Name: "devices", Policy: policy, Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 1, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var a, b, flag x86.Word32
			objA, objB, done := m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
			aFirst := false
			m.RegisterIRQ(x86.VecBlock, func(t *sched.Task) {
				aFirst = aFirst || a.Peek() == 42 && b.Peek() == 0
				bioEndIO(t, &flag, done)
			})
			start(m, "starter", 0, func(t *sched.Task) {
				events := []*dma{{t.C, &a, objA}, {t.C, &b, objB}}
				if firstLast {
					events[0], events[1] = events[1], events[0]
				}
				for _, ev := range events {
					m.AddEvent(1000, ev)
				}
				for n := 1; a.Peek() == 0 || b.Peek() == 0; n++ {
					t.C.SpinWait(done, n)
				}
			})
			return func(*explore.StateHash) (string, string) {
				if aFirst && policy == "early" {
					return "out-of-order", ""
				}
				return explore.Safe, ""
			}
		})
	}}
}

// The nearest miss keeps the order in which devices acted, though the safe program starts
// them in another one; what is safe in every way has no witness.
func TestWhyKeepsTheOrderOfDevices(t *testing.T) {
	y := newToys()
	n, err := explore.Why(context.Background(), y.twoDevices("early", false), y.twoDevices("late", true), explore.WhyOptions{Schedules: 20})
	require.NoError(t, err)
	devices := func(s *explore.Story) (objects []x86.ObjID) {
		for i := range s.Steps {
			if s.Steps[i].CPU == explore.DeviceLane {
				objects = append(objects, s.Steps[i].ObjID)
			}
		}
		return objects
	}
	require.Len(t, devices(n.Witness), 2)
	assert.Equal(t, devices(n.Witness), devices(n.Near))
	byDefault := explore.Capture(y.twoDevices("late", true), explore.Spec{Kind: explore.KindSwitches}, explore.CaptureOptions{})
	require.NotEqual(t, devices(n.Witness), devices(byDefault))
	var text strings.Builder
	n.Write(&text)
	assert.Contains(t, text.String(), "What closed it: no method of the policy is seen")

	_, err = explore.Why(context.Background(), y.twoDevices("late", false), y.twoDevices("late", true), explore.WhyOptions{Schedules: 20})
	var nothing *explore.NoWitness
	assert.ErrorAs(t, err, &nothing)
	_, err = explore.Why(context.Background(), y.twoDevices("early", false), y.twoDevices("early", true), explore.WhyOptions{Schedules: 20})
	var unsafe *explore.Unsafe
	assert.ErrorAs(t, err, &unsafe)
}
