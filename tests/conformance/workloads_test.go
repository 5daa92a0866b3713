package conformance

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestOtherPins searches the small forms of the workloads with other users of
// get_user_pages. No lock around direct I/O helps them (claim C14), 2.6.29's disclosure
// needs no luck at all (C35), and what a program can do about a driver works.
func TestOtherPins(t *testing.T) {
	const safe = workload.Safe
	hosts := kernel.NewHosts()
	defer hosts.Close()
	n := uint64(250)
	if testing.Short() {
		n = 60
	}
	for _, c := range []struct {
		policy, workload, params string
		want                     workload.Verdict
		always                   bool // in every schedule
	}{
		{"stock", "late_dma", "", workload.LostRead, false},
		{"stock", "late_dma", "fast=1", workload.LostRead, false},
		{"stock", "late_dma", "advice=1", safe, true},
		{"stock", "late_dma", "advice=2", safe, true},
		{"directio_sem", "late_dma", "fast=1", workload.LostRead, false},
		{"pg_gup", "late_dma", "fast=1", safe, true},
		{"pg_dontcow", "late_dma", "fast=1", safe, true},
		{"stock", "vmsplice", "side=0", workload.LeakToChild, true},
		{"stock", "vmsplice", "side=1", workload.LeakToChild, true},
		{"stock", "vmsplice", "side=2", workload.LeakToChild, true},
		{"stock", "vmsplice", "side=3", workload.LeakToChild, true},
		{"pg_gup", "vmsplice", "side=3", safe, true},
		{"pg_dontcow", "vmsplice", "side=3", safe, true},
		{"directio_sem", "vmsplice", "side=1", workload.LeakToChild, true},
		{"directio_sem", "vmsplice", "side=2", safe, true},
		{"stock", "ptrace_peek", "", safe, true},
		{"pg_dontcow", "ptrace_peek", "", safe, true},
	} {
		t.Run(c.policy+" on "+c.workload+" "+c.params, func(t *testing.T) {
			w := workload.Lookup(c.workload)
			v, err := w.Parse(c.params, true)
			require.NoError(t, err)
			target := matrix.Target(w, v, policy.Lookup(c.policy), hosts)
			r, err := explore.Search(context.Background(), *target, explore.Options{Schedules: n, Seed: 1})
			require.NoError(t, err)
			if c.always {
				assert.Equal(t, r.Schedules, r.ByVerdict[string(c.want)], "%v", r.ByVerdict)
			} else {
				assert.NotZero(t, r.ByVerdict[string(c.want)], "%v", r.ByVerdict)
			}
			for _, wit := range r.Witnesses {
				if t.Failed() || wit.Verdict == matrix.Broken {
					t.Errorf("%s: %s\ncowlab replay %s", wit.Verdict, wit.Detail, wit.Token)
				}
			}
		})
	}
}

// TestOtherPinsParallel runs the default forms under stock once each in the parallel
// regime: the programs themselves work.
func TestOtherPinsParallel(t *testing.T) {
	for _, name := range []string{"late_dma", "vmsplice", "ptrace_peek"} {
		w := workload.Lookup(name)
		variants := w.Variants
		if len(variants) == 0 {
			variants = []string{""}
		}
		for _, params := range variants {
			v, err := w.Parse(params, false)
			require.NoError(t, err)
			out, err := workload.Execute(w, workload.Options{Values: v})
			require.NoError(t, err)
			assert.Empty(t, out.Problems, "%s %s", name, params)
			for _, f := range out.Findings {
				assert.True(t, f.Verdict.Corrupts(), "%s %s: %s: %s", name, params, f.Verdict, f)
			}
		}
	}
}
