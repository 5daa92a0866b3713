package scenarios

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
)

// TestNobodySpinsWhereAChildWaits: fork puts a child on the CPU of a column that sleeps just then. When
// that column is through it must not wait for the child by spinning, as columns of a bare run
// do, because the child could never run (sched.Task.Crowded): it would be a deadlock.
func TestNobodySpinsWhereAChildWaits(t *testing.T) {
	s, err := Lookup("reverse-race-sync") // its write sleeps while the other thread forks
	require.NoError(t, err)
	n := uint64(40)
	if race {
		n = 4
	}
	rep, err := explore.Search(context.Background(), *s.Tuned(Tuning{Bare: true}).Target(policy.Lookup("stock"), newHosts(t)),
		explore.Options{Schedules: n, Seed: 1, Workers: 1})
	require.NoError(t, err)
	for _, w := range rep.Witnesses {
		assert.Empty(t, Endings(w.Verdict), "%s: %s", w.Token, w.Detail)
	}
}
