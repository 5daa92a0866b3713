package policy_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// TestScenariosSeeMutants takes the deciding lines out: what a scenario's schedules show
// changes from what the file expects of the policy.
func TestScenariosSeeMutants(t *testing.T) {
	few, one := scenarios.Strategy{Schedules: 60, Seed: 1}, scenarios.Strategy{Exhaustive: true, Preemptions: 1}
	for _, c := range []struct {
		mutant, scenario string
		st               scenarios.Strategy
		was, is          string
	}{
		{"pg_gup without the second look at the pte", "S7", one, "Never", "Sometimes"},
		{"pg_gup without the copy at fork", "S1", few, "Never", "Always"},
		{"pg_dontcow without the copy at fork", "gvisor-write-pin", few, "Never", "Always"},
		{"directio_sem without the semaphore", "aio-forward", few, "Never", "Sometimes"},
		{"pg_gup without the forced write fault", "S5", few, "Never", "Always"},
		{"pg_dontcow without the forced write fault", "cow-09", few, "Never", "Always"},
		{"directio_sem without the forced write fault", "S5", few, "Never", "Always"},
	} {
		t.Run(c.mutant+" in "+c.scenario, func(t *testing.T) {
			if policy.Race && c.st.Exhaustive {
				t.Skip("a long search of one goroutine; builds without the race detector run it")
			}
			m := policy.Mutants[c.mutant]
			require.NotNil(t, m)
			s, err := scenarios.Lookup(c.scenario)
			require.NoError(t, err)
			hosts := kernel.NewHosts()
			defer hosts.Close()
			o, err := s.Observe(context.Background(), m, hosts, c.st)
			require.NoError(t, err)
			assert.Equal(t, c.is, o.Observation, "%s", o.Bound)
			o, err = s.Observe(context.Background(), policy.Lookup(m.Name()), hosts, c.st)
			require.NoError(t, err)
			assert.Equal(t, c.was, o.Observation, "%s", o.Bound)
		})
	}
}

// TestMmapSemIsHeldByDirectIOOnly pins that the row without the deadlock takes mmap_sem in
// gup-fast's slow half for drivers, whatever they call their pins: without it the look-up runs
// beside mremap, and a page is mapped where rmap does not look.
func TestMmapSemIsHeldByDirectIOOnly(t *testing.T) {
	s, err := scenarios.Parse("driver", `cowlab driver
"a driver pins while another thread moves the memory"
map A 1 page private
init A = 1
P0                                   | P1       ;
r = pin h A[0:512] write fast pin    | mremap A ;
never bug`)
	require.NoError(t, err)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	o, err := s.Observe(context.Background(), policy.Lookup("mmap_sem_dio_fixed"), hosts, scenarios.Strategy{Schedules: 60, Seed: 1})
	require.NoError(t, err)
	assert.Equal(t, "Never", o.Observation, "%v", o.States)
}

// TestDontCOWSharesSwapEntries pins that a fork of MADV_DONTCOW memory asks the policy about swap
// entries: it shares them as any fork does, and an entry that says "exclusive" in two
// processes makes one page exclusive twice.
func TestDontCOWSharesSwapEntries(t *testing.T) {
	s, err := scenarios.Parse("dontcow-swapped", `cowlab dontcow-swapped
"memory with MADV_DONTCOW is swapped out, forked and stored to"
machine swap=64K
map A 1 page private
init A = 1
P0                | C child ;
madvise A dontcow |         ;
s = swapout A     |         ;
fork C            |         ;
A[512] = 19       |         ;
never bug \/ C:A[512] != 1`)
	require.NoError(t, err)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, name := range []string{"stock", "anon_exclusive"} {
		o, err := s.Observe(context.Background(), policy.Lookup(name), hosts, scenarios.Strategy{Schedules: 20, Seed: 1})
		require.NoError(t, err)
		assert.Equal(t, "Never", o.Observation, "%s: %v", name, o.States)
	}
}
