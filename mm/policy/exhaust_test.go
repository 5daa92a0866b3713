package policy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
)

// TestC1Exhaustively decides C1 for every schedule with at most two preemptions: with the
// second look at the pte there is no lost read among them, without it one preemption is
// enough.
func TestC1Exhaustively(t *testing.T) {
	bound := 2
	if Race {
		bound = 1
	}
	for _, c := range []struct {
		policy mm.Policy
		bound  int
		lost   bool
	}{
		{PGGUP{}, bound, false},
		{PGDontCOW{}, bound, false},
		{PGGUP{noRecheck: true}, 1, true},
		{Stock{}, 1, true},
		{PinCopy{}, bound, false},
		{NewDIOPin(), bound, false},
		{PinCopy{noSeq: true}, 2, true}, // write_protect_seq: the fix of 5.11
	} {
		if Race && c.bound > bound {
			continue
		}
		r, err := explore.Exhaust(context.Background(), c1Target(c.policy), explore.ExhaustOptions{Preemptions: c.bound})
		require.NoError(t, err)
		require.True(t, r.Complete)
		t.Logf("%+v: all %d schedules with at most %d preemptions: %v, %d final states", c.policy, r.Schedules, c.bound, r.ByVerdict, r.States)
		if c.lost {
			assert.NotZero(t, r.ByVerdict["lost-read"])
		} else {
			assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		}
	}
}
