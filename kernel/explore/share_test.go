package explore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

// TestShareGrowsToOne: the estimate of how much of a search is done never shrinks, is there long before
// the end, and comes to 1 there: no weight is lost, and none is given twice.
func TestShareGrowsToOne(t *testing.T) {
	y := newToys()
	var told []explore.Covered
	hear := func(c explore.Covered) { told = append(told, c) }
	searches := map[string]func() uint64{
		"dpor": func() uint64 {
			r := reduce(t, y.words("a0r1a0w1a0", "a0w1a0r1a0", "r1a2w1"), explore.ReduceOptions{Progress: hear})
			require.True(t, r.Complete)
			return r.Schedules + r.Blocked
		},
		"dfs": func() uint64 {
			return exhaust(t, y.words("a0r1a0w1a0", "a0w1a0r1a0", "r1a2w1"), explore.ExhaustOptions{Preemptions: 3, Progress: hear}).Schedules
		},
		"dfs, cut": func() uint64 {
			return exhaust(t, y.words("a0r1a0w1a0a2w3", "a0w1a0r1a0a2r3", "r1a2w1"), explore.ExhaustOptions{Preemptions: 4, Cut: true, Progress: hear}).Schedules
		},
	}
	for name, search := range searches {
		told = nil
		whole := search()
		require.Greater(t, len(told), 4, name)
		last := explore.Covered{}
		for _, c := range told {
			assert.GreaterOrEqual(t, c.Share, last.Share, name)
			assert.Greater(t, c.Done, last.Done, name)
			last = c
		}
		assert.InDelta(t, 1, last.Share, 1e-9, name)
		assert.Zero(t, last.Left)
		assert.Equal(t, whole, last.Done)
		half := told[len(told)/2]
		t.Logf("%s: %d schedules; half-way it is %.0f %% done", name, whole, 100*half.Share)
		assert.InDelta(t, 0.5, half.Share, 0.49, name)
		assert.Less(t, told[len(told)-2].Share, 1.0, name)
	}
}
