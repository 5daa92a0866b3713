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

// TestHugePagesFindRoom: what the pages of 2 MiB need besides is the machine's business, however many
// CPUs, each with a zone of its own, a scenario or its tuning asks for.
func TestHugePagesFindRoom(t *testing.T) {
	hosts := newHosts(t)
	for _, machine := range []string{"cpus=1 huge=8", "cpus=4 huge=1", "cpus=8 huge=1", "cpus=8 huge=4"} {
		s, err := Parse("room", "cowlab room\n\"room\"\nmachine "+machine+"\nmap A 1 page private huge\nP0 ;\nA[0] = 1 ;\nnever P0:A[0] != 1")
		require.NoError(t, err)
		for _, tuning := range []Tuning{{}, {Bare: true}} {
			obs := s.Tuned(tuning).Target(policy.Lookup("stock"), hosts).Run(explore.Spec{Kind: explore.KindSwitches}.Strategy(), nil)
			assert.Empty(t, Endings(obs.Verdict), "%s %s: %s", machine, tuning, obs.Detail)
		}
	}
}
