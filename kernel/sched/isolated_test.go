package sched

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
)

// An isolated CPU runs what was started there, and nothing else, however idle it is.
func TestIsolatedCPU(t *testing.T) {
	for seed := range uint64(20) {
		m := boot(t, Options{CPUs: 3, Isolated: 1, Regime: Free, Strategy: NewRandom(seed)})
		var on [3]int
		for range 6 {
			m.Start(nil, m.NewTask(TaskOptions{Name: "anywhere"}, func(t *Task) {
				for range 5 {
					on[t.C.ID]++
					t.SleepFor(1000)
				}
			}))
		}
		own := 0
		m.Start(nil, m.NewTask(TaskOptions{Name: "there", CPU: 3}, func(t *Task) {
			for range 5 {
				if t.C.ID == 2 {
					own++
				}
				t.SleepFor(1000)
				t.Point(x86.OpYield, 0)
			}
		}))
		require.NoError(t, m.Run().Err())
		assert.Zero(t, on[2], "seed %d", seed)
		assert.Equal(t, 30, on[0]+on[1])
		assert.Equal(t, 5, own)
	}
	_, err := New(Options{CPUs: 1, Isolated: 1})
	assert.ErrorContains(t, err, "Isolated is 1, must be less than CPUs")
}
