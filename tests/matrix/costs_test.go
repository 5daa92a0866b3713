package matrix_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

func costsOf(t *testing.T, p mm.Policy, name string) *matrix.Costs {
	t.Helper()
	hosts := kernel.NewHosts()
	defer hosts.Close()
	w := workload.Lookup(name)
	c, err := matrix.CostsOf(w, w.Values(true), p, hosts)
	require.NoError(t, err)
	return c
}

// TestCostsTellPoliciesApart: pg_gup has barriers that stock has not, a mark costs atomics,
// and twice is the same.
func TestCostsTellPoliciesApart(t *testing.T) {
	stock, gup := costsOf(t, policy.Stock{}, "forkscrew"), costsOf(t, policy.PGGUP{}, "forkscrew")
	assert.Greater(t, gup.Fences, stock.Fences)
	assert.Greater(t, gup.Atomics, stock.Atomics)
	assert.NotZero(t, stock.NS)
	assert.NotZero(t, stock.Faults)
	assert.Empty(t, stock.Ended)
	assert.Equal(t, gup, costsOf(t, policy.PGGUP{}, "forkscrew"))
}

// TestCostsOfADeadlock: a run that does not come to rest says so.
func TestCostsOfADeadlock(t *testing.T) {
	assert.Equal(t, "deadlock", costsOf(t, policy.ForkLock{}, "late_dma").Ended)
}

// TestCostsInTheTable: only on request, and the verdicts are the same.
func TestCostsInTheTable(t *testing.T) {
	run := func(costs bool) (*matrix.Table, string) {
		tab, err := matrix.Run(context.Background(), matrix.Options{
			Policies: []mm.Policy{policy.Stock{}}, Workloads: []*workload.Workload{workload.Lookup("pin_fork")},
			Groups:    []string{workload.ForwardRace},
			Schedules: 20, Seed: 1, Workers: 1, Costs: costs,
		})
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, tab.WriteText(&b, true))
		return tab, b.String()
	}
	with, text := run(true)
	assert.Contains(t, text, "ATOMICS")
	without, text := run(false)
	assert.NotContains(t, text, "ATOMICS")
	require.NotNil(t, with.Cells[0].Costs)
	assert.Nil(t, without.Cells[0].Costs)
	assert.Empty(t, with.Differences(without))
	var b bytes.Buffer
	require.NoError(t, with.WriteJSON(&b))
	back, err := matrix.ReadJSON(&b)
	require.NoError(t, err)
	assert.Equal(t, with, back)
}

// TestCostsAreTheSameAgain: every figure of every policy, twice, to the last digit; in other
// machines and other pools of memory.
func TestCostsAreTheSameAgain(t *testing.T) {
	policies := policy.All()
	if matrix.Race {
		policies = policies[:3] // the timed regime runs on one goroutine
	}
	run := func() *matrix.Table {
		tab, err := matrix.Run(context.Background(), matrix.Options{
			Policies: policies, Workloads: []*workload.Workload{workload.Lookup("forkscrew"), workload.Lookup("pin_fork")},
			Groups: []string{workload.ForwardRace}, Costs: true,
		})
		require.NoError(t, err)
		return tab
	}
	first, again := run(), run()
	assert.Equal(t, first, again)
	assert.Len(t, first.Rows, len(policies))
}

// TestCostsDiffer: where the patches differ the figures do. Nobody but pg_gup's kind pays a
// barrier for each page of a request; who holds a lock over the I/O has fork wait for it.
func TestCostsDiffer(t *testing.T) {
	costs := map[string]*matrix.Costs{}
	for _, name := range []string{"stock", "pg_gup", "pg_dontcow", "directio_sem"} {
		costs[name] = costsOf(t, policy.Lookup(name), "forkscrew")
	}
	assert.Equal(t, costs["stock"].Fences, costs["pg_dontcow"].Fences)
	assert.Greater(t, costs["pg_gup"].Fences, costs["stock"].Fences)
	assert.Greater(t, costs["directio_sem"].ForkNS, 2*costs["stock"].ForkNS)
	for name, c := range costs {
		assert.NotZero(t, c.Memory, name)
		assert.NotZero(t, c.ForkNS, name)
		for other, d := range costs {
			if name != other {
				assert.NotEqual(t, *c, *d, "%s and %s", name, other)
			}
		}
	}
}

// TestExtraMemory checks the peak of memory by hand. A child that only exits: it has
// its tables, and each page that fork copied for it is there twice, small or huge.
func TestExtraMemory(t *testing.T) {
	storm := func(p mm.Policy, params string) uint64 {
		w := workload.Lookup("fork_storm")
		v, err := w.Parse(params, true)
		require.NoError(t, err)
		hosts := kernel.NewHosts()
		defer hosts.Close()
		c, err := matrix.CostsOf(w, v, p, hosts)
		require.NoError(t, err)
		return c.Memory
	}
	for _, name := range []string{"pg_gup", "dio_pin"} {
		p := policy.Lookup(name)
		assert.Equal(t, storm(p, "pins=0,forks=1")+2, storm(p, "pins=2,forks=1"), name)
		const hugePage = 512
		assert.EqualValues(t, hugePage, storm(p, "pins=2,forks=1,huge=1")-storm(p, "pins=0,forks=1,huge=1"), name)
	}
	none := storm(policy.Stock{}, "pins=1,forks=1")
	assert.Equal(t, none+1, storm(policy.PGDontCOW{}, "pins=1,forks=1"), "the page that is pinned")
	assert.Equal(t, none+3, storm(policy.VMDontCOW{}, "pins=1,forks=1"), "all three of the vma")
}

// noFork is a policy whose fork panics.
type noFork struct{ mm.Stock }

func (noFork) Name() string                 { return "no_fork" }
func (noFork) Hooks() mm.HookSet            { return mm.HookForkPTE }
func (noFork) ForkPTE(*mm.Fork) mm.ForkNext { panic("not written yet") }

// A policy under which fork does not end costs the table that figure, and not the table.
func TestForkLatencyFails(t *testing.T) {
	table, err := matrix.Run(t.Context(), matrix.Options{
		Policies: []mm.Policy{noFork{}, policy.Stock{}}, Workloads: []*workload.Workload{workload.Lookup("readonly_buffer")},
		Groups: []string{workload.Liveness}, Schedules: 1, Costs: true,
	})
	require.NoError(t, err)
	require.Len(t, table.Rows, 2)
	assert.Contains(t, table.Rows[0].Failed, "not written yet")
	assert.Empty(t, table.Rows[1].Failed)
	var text, md strings.Builder
	require.NoError(t, table.WriteText(&text, true))
	assert.Regexp(t, `(?m)^no_fork +-$`, text.String())
	assert.Regexp(t, `(?m)^stock +[0-9.]+ us$`, text.String())
	require.NoError(t, table.WriteCostsMarkdown(&md))
	assert.Contains(t, md.String(), "| `no_fork` | - |")
}

// TestForkLatency: behind a lock that is held until the I/O is complete fork waits for the
// device, which takes a millisecond.
func TestForkLatency(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for name, waits := range map[string]bool{"stock": false, "pg_gup": false, "directio_sem": true, "fork_lock": true} {
		ns, err := matrix.ForkLatency(policy.Lookup(name), hosts)
		require.NoError(t, err)
		assert.Equal(t, waits, ns > 900_000, "%s: %d ns", name, ns)
		assert.NotZero(t, ns)
	}
}
