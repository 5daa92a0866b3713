package policy_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// search searches a workload's small form under a policy with n schedules.
func search(t *testing.T, name, params string, p mm.Policy, n uint64) *explore.Report {
	t.Helper()
	return explores(t, name, params, p, explore.Options{Schedules: n, Seed: 1})
}

// searchFor is search that ends with the first schedule that shows v.
func searchFor(t *testing.T, name string, p mm.Policy, v workload.Verdict, n uint64) *explore.Report {
	t.Helper()
	return explores(t, name, "", p, explore.Options{Schedules: n, Seed: 1, StopAtFirst: true,
		Bad: func(verdict string) bool { return verdict == string(v) }})
}

func explores(t *testing.T, name, params string, p mm.Policy, o explore.Options) *explore.Report {
	t.Helper()
	w := workload.Lookup(name)
	v, err := w.Parse(params, true)
	require.NoError(t, err)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	r, err := explore.Search(context.Background(), *matrix.Target(w, v, p, hosts), o)
	require.NoError(t, err)
	for _, bad := range r.Witnesses {
		if bad.Verdict != explore.Safe {
			how := "a mutant's: no command replays it"
			if p == policy.Lookup(p.Name()) {
				how = bad.Token.Command()
			}
			t.Logf("%s on %s: %s: %s in %d of %d schedules (%s)", p.Name(), name, bad.Verdict, bad.Detail,
				r.ByVerdict[bad.Verdict], r.Schedules, how)
		}
	}
	return r
}

// TestMutantsCorrupt takes the deciding line out of each fix: the corruption must come
// back. The fix itself must stay safe on the same schedules.
func TestMutantsCorrupt(t *testing.T) {
	for _, c := range []struct {
		mutant, workload string
		want             workload.Verdict
		schedules        uint64
		itself           workload.Verdict // what the policy itself shows besides safe, if anything
	}{
		{"pg_gup without the second look at the pte", "pin_fork", workload.LostRead, 6000, ""},
		{"pg_gup without the copy at fork", "forkscrew", workload.LostRead, 1500, ""},
		{"pg_gup without the copy at fork", "dma_thread", workload.LostRead, 1500, ""},
		{"pg_dontcow without the copy at fork", "forkscrew", workload.LostRead, 1500, ""},
		{"pg_dontcow without the copy at fork", "dma_thread", workload.LostRead, 1500, ""},
		{"directio_sem without the semaphore", "forkscrew", workload.LostRead, 1500, ""},
		{"directio_sem without the semaphore", "dma_thread", workload.LostRead, 1500, ""},
		{"pg_gup without the forced write fault", "forkscrewreverse", workload.LeakToDisk, 1500, ""},
		{"pg_dontcow without the forced write fault", "forkscrewreverse", workload.LeakToDisk, 1500, ""},
		{"directio_sem without the forced write fault", "forkscrewreverse", workload.LeakToDisk, 1500, ""},
		{"pg_gup_v1 without the second look at the pte", "pin_fork", workload.LostRead, 6000, ""},
		{"pg_gup_v1 without the copy at fork", "forkscrew", workload.LostRead, 600, ""},
		{"vm_dontcow_fixed without the child's copies", "forkscrew", workload.ChildChanged, 600, ""},
		{"pg_dontcow_v2 without the copy at fork", "forkscrew", workload.LostRead, 600, workload.Leak},
		{"directio_sem_v1 without the semaphore", "dma_thread", workload.LostRead, 1500, ""},
		{"wp_page_count without the count", "forkscrewreverse", workload.LeakToDisk, 600, ""},
		{"pinned_ptes_after without the count", "forkscrewreverse", workload.LeakToDisk, 600, ""},
		{"dio_range_lock_fixed without the retry", "dma_thread", workload.LostRead, 1500, workload.Livelock},
		{"mmap_sem_dio_fixed without the semaphore", "dma_thread", workload.LostRead, 1500, ""},
		{"fork_lock without the lock", "forkscrew", workload.LostRead, 600, ""},
		{"directed_cow without the direction", "dma_thread", workload.LostRead, 1500, ""},
		{"fork_lock_lookup without the lock", "pin_fork", workload.LostRead, 6000, ""},
		{"dio_page_multiple without the refusal", "dma_thread", workload.LostRead, 1500, workload.Refused},
		{"kosaki_v3 without the semaphore", "forkscrew", workload.LostRead, 600, ""},
		{"kosaki_v3 without the count", "forkscrewreverse", workload.LeakToDisk, 600, ""},
		{"kosaki_v3 without the test when unmapping", "swap_pin", workload.LostRead, 600, ""},
		{"gup_cow_break without the forced write fault", "forkscrewreverse", workload.LeakToDisk, 1500, ""},
		{"wp_copy by map count", "forkscrewreverse", workload.LeakToDisk, 1500, ""},
		{"pin_copy without the copy at fork", "late_dma", workload.LostRead, 600, ""},
		{"anon_exclusive without the copy at fork", "late_dma", workload.LostRead, 600, ""},
		{"dio_pin without the copy at fork", "forkscrew", workload.LostRead, 600, ""},
		{"mapcount_unshare without unsharing", "vmsplice", workload.LeakToChild, 600, ""},
		{"vm_nocow without the copy at fork", "forkscrew", workload.LostRead, 600, ""},
		{"sentry_pin_copy without the copy at fork", "forkscrew", workload.LostRead, 600, ""},
		{"sentry_pin_copy without the forced write fault", "forkscrewreverse", workload.LeakToDisk, 1500, ""},
	} {
		t.Run(c.mutant+" on "+c.workload, func(t *testing.T) {
			if policy.Race && c.schedules > 1500 {
				t.Skip("a long search of one goroutine; builds without the race detector run it")
			}
			m := policy.Mutants[c.mutant]
			require.NotNil(t, m)
			r := searchFor(t, c.workload, m, c.want, c.schedules)
			assert.NotZero(t, r.ByVerdict[string(c.want)])
			n := min(c.schedules/3, 500)
			if policy.Race {
				n /= 10
			}
			r = search(t, c.workload, "", policy.Lookup(m.Name()), n)
			assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe]+r.ByVerdict[string(c.itself)], "the policy itself")
		})
	}
}

// TestMatrixReportsMutants has the matrix itself judge a mutant of each fix: where one
// preemption is enough, on every schedule that has no more.
func TestMatrixReportsMutants(t *testing.T) {
	for mutant, name := range map[string]string{
		"pg_gup without the second look at the pte": "pin_fork",
		"pg_dontcow without the copy at fork":       "forkscrew",
		"directio_sem without the semaphore":        "forkscrew",
	} {
		o := matrix.Options{
			Policies: []mm.Policy{policy.Mutants[mutant]}, Workloads: []*workload.Workload{workload.Lookup(name)},
			Groups: []string{workload.ForwardRace}, Exhaustive: true, Preemptions: 1,
		}
		if policy.Race && mutant != "directio_sem without the semaphore" {
			continue // a long search of one goroutine
		}
		if name == "pin_fork" {
			o.Exhaustive, o.Schedules, o.Seed = false, 6000, 1
		}
		table, err := matrix.Run(context.Background(), o)
		require.NoError(t, err)
		require.Len(t, table.Cells, 1)
		c := table.Cells[0]
		assert.Equal(t, workload.LostRead, c.Verdict, "%s: %s", mutant, c.Bound)
		assert.NotEmpty(t, c.Token)
	}
}

// TestStockCorrupts checks that the workloads show what the thread says of 2.6.29.
func TestStockCorrupts(t *testing.T) {
	stock := policy.Lookup("stock")
	for _, c := range []struct {
		workload string
		want     workload.Verdict
	}{
		{"dma_thread", workload.LostRead},
		{"forkscrew", workload.LostRead},
		{"forkscrew", workload.ChildChanged},
		{"forkscrewreverse", workload.LeakToDisk},
	} {
		r := searchFor(t, c.workload, stock, c.want, 1000)
		assert.NotZero(t, r.ByVerdict[string(c.want)], "%s: %s", c.workload, c.want)
	}
	n := uint64(500)
	if policy.Race {
		n = 50
	}
	r := search(t, "dma_thread", "a=0", stock, n)
	assert.Zero(t, r.ByVerdict[string(workload.LostRead)], "aligned buffers do not lose the parent's read")
}

// TestTokensReplay runs a witness of each kind again, many times: the same state.
func TestTokensReplay(t *testing.T) {
	stock := policy.Lookup("stock")
	w := workload.Lookup("forkscrew")
	hosts := kernel.NewHosts()
	defer hosts.Close()
	target := matrix.Target(w, w.Values(true), stock, hosts)
	r, err := explore.Search(context.Background(), *target, explore.Options{Schedules: 300, Seed: 1})
	require.NoError(t, err)
	for _, wit := range r.Witnesses {
		tok, err := explore.ParseToken(wit.Token.String())
		require.NoError(t, err)
		for range 50 {
			obs := target.Run(tok.Spec.Strategy(), nil)
			require.Equal(t, wit.State, obs.State)
			require.Equal(t, wit.Verdict, obs.Verdict)
		}
	}
}
