package matrix_test

import (
	"bytes"
	"context"
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
			Schedules: 20, Seed: 1, Workers: 1, Costs: costs,
		})
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, tab.WriteText(&b))
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
