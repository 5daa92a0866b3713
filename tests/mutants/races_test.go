package mutants

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestWorkloadsDoNotRace runs the small form of every workload under the checker of
// data races, with and without store buffers.
func TestWorkloadsDoNotRace(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, w := range workload.All() {
		for _, p := range []mm.Policy{policy.Stock{}, policy.PGGUP{}} {
			for seed := range uint64(6) {
				var s sched.Strategy = sched.NewRandom(seed)
				if seed%2 == 1 {
					s = sched.NewPCT(seed, 3, 2000)
				}
				out, err := workload.Execute(w, workload.Options{Policy: p, Small: true, Regime: sched.Free, Strategy: s,
					Hosts: hosts, CheckRaces: true, TSO: seed%3 == 2})
				require.NoError(t, err)
				assert.NotContains(t, fmt.Sprint(out.Findings, out.Problems), "data race", "%s under %s, seed %d", w.Name, p.Name(), seed)
			}
		}
	}
}

// TestRaceReport checks what a report says: both accesses, with task, functions and locks.
func TestRaceReport(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	r, err := explore.Search(context.Background(), Lookup("rmap without the anon_vma's lock").Target(false, hosts),
		explore.Options{Schedules: 2000, Seed: 1, StopAtFirst: true})
	require.NoError(t, err)
	w := r.FirstBad()
	require.NotNil(t, w)
	first, _, _ := strings.Cut(w.Detail, "\n")
	assert.Regexp(t, `data race on anon_vma.list: task \S+ (reads|writes) it in \w+ < .*, holding .*; before, not ordered with it: task \S+ (read|wrote) it in \w+ < .*, holding .*`, first)
	assert.Contains(t, first, "tryToUnmapAnon")
	assert.Contains(t, first, "holding anon_vma", "whoever took the lock")
}
