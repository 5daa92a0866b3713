package policy

import (
	"context"
	"flag"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
)

var long = flag.Bool("long", false, "exhaustive searches that take a minute each")

// TestC1Exhaustively decides C1 for every schedule: with the second look at the pte there is
// no lost read among them, without it there is. What random searches and bounded
// depth-first search can reach is among the final states.
func TestC1Exhaustively(t *testing.T) {
	for _, c := range []struct {
		policy mm.Policy
		lost   bool
	}{
		{PGGUP{}, false},
		{PGGUP{noRecheck: true}, true},
		{NewDIOPin(), false},
		{PinCopy{}, false},
		{PinCopy{noSeq: true}, true}, // write_protect_seq: the fix of 5.11
	} {
		if _, thread := c.policy.(PGGUP); !thread && !*long {
			continue // some 100,000 interleavings each; TestC1Bounded has them in short
		}
		target := c1Target(c.policy)
		o := explore.ReduceOptions{}
		if Race {
			o.Schedules = 500 // the rest is for builds that are faster
		}
		r, err := explore.Reduce(context.Background(), target, o)
		require.NoError(t, err)
		t.Logf("%+v: %d interleavings, %d equivalence classes: %v, %d final states", c.policy, r.Schedules, r.Classes, r.ByVerdict, r.States)
		assert.Zero(t, r.Clocked)
		if Race {
			continue
		}
		require.True(t, r.Complete)
		assert.Equal(t, r.Schedules, r.Classes)
		if c.lost {
			assert.NotZero(t, r.ByVerdict["lost-read"])
		} else {
			assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		}
		dfs, err := explore.Exhaust(context.Background(), target, explore.ExhaustOptions{Preemptions: 1, Cut: true})
		require.NoError(t, err)
		require.True(t, dfs.Complete)
		all, err := explore.Exhaust(context.Background(), target, explore.ExhaustOptions{Preemptions: 1})
		require.NoError(t, err)
		assert.Equal(t, all.FinalStates(), dfs.FinalStates(), "with one preemption, cut")
		assert.Subset(t, r.FinalStates(), dfs.FinalStates(), "with one preemption")
		t.Logf("one preemption: %d schedules, cut %d", all.Schedules, dfs.Schedules)
		found, err := explore.Search(context.Background(), target, explore.Options{Schedules: 1500, Seed: 3})
		require.NoError(t, err)
		assert.Subset(t, r.FinalStates(), found.FinalStates(), "at random")
	}
}

// TestC1Bounded is the same for later rows, for every schedule with at most two preemptions.
func TestC1Bounded(t *testing.T) {
	if Race {
		t.Skip("long searches of one goroutine")
	}
	for _, c := range []struct {
		policy mm.Policy
		lost   bool
	}{
		{NewDIOPin(), false},
		{PinCopy{noSeq: true}, true},
	} {
		r, err := explore.Exhaust(context.Background(), c1Target(c.policy), explore.ExhaustOptions{Preemptions: 2, Cut: true})
		require.NoError(t, err)
		require.True(t, r.Complete)
		t.Logf("%+v: %d schedules: %v", c.policy, r.Schedules, r.ByVerdict)
		assert.Equal(t, c.lost, r.ByVerdict["lost-read"] > 0)
		assert.Equal(t, !c.lost, r.ByVerdict[explore.Safe] == r.Schedules)
	}
}

// TestC1StepsCommute swaps neighbouring steps of C1 that are taken for independent.
func TestC1StepsCommute(t *testing.T) {
	for _, p := range []mm.Policy{Stock{}, PGGUP{}, PGDontCOW{}} {
		n, err := explore.CheckIndependence(c1Target(p), 1, 25, 4)
		assert.NoError(t, err, "go test ./mm/policy -run TestC1StepsCommute")
		assert.Equal(t, 100, n)
	}
}
