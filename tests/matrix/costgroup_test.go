package matrix_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestStoredCosts: the costs in the stored matrix are those that come out today, to the last
// digit. They have nothing to do with what is searched.
func TestStoredCosts(t *testing.T) {
	if matrix.Race {
		t.Skip("the timed regime runs on one goroutine, and every policy on every workload takes minutes")
	}
	tab, err := matrix.Run(context.Background(), matrix.Options{
		Policies: policy.All(), Workloads: workload.All(), RowCosts: true,
	})
	require.NoError(t, err)
	require.Len(t, tab.Rows, len(policy.All()))
	assert.Equal(t, storedTable(t).Rows, tab.Rows, "see CONTRIBUTING.md: the table is stored")
}

// TestGroupCosts checks the sums of a group against the cells that they are sums of, and what
// the overview says of them.
func TestGroupCosts(t *testing.T) {
	run := func(costs bool) *matrix.Table {
		tab, err := matrix.Run(context.Background(), matrix.Options{
			Policies:  []mm.Policy{policy.Stock{}, policy.PGGUP{}, policy.ForkLock{}},
			Workloads: []*workload.Workload{workload.Lookup("late_dma"), workload.Lookup("unmap_pin"), workload.Lookup("pin_fork")},
			Costs:     costs, RowCosts: true,
		})
		require.NoError(t, err)
		return tab
	}
	with, without := run(true), run(false)
	assert.Equal(t, with.Rows, without.Rows)
	want := matrix.GroupCosts{}
	for _, c := range with.Cells {
		if c.Policy == "pg_gup" && c.Workload == "unmap_pin" && c.Group == workload.OtherUsers { // late_dma is a deadlock under fork_lock
			want.Columns++
			want.Copies += c.Costs.PageCopies
			want.Atomics += c.Costs.Atomics
			want.Fences += c.Costs.Fences
		}
	}
	assert.Equal(t, want, with.Rows[1].Groups[workload.OtherUsers])
	assert.Equal(t, 4, want.Columns)
	var b bytes.Buffer
	require.NoError(t, without.WriteText(&b, false))
	assert.Regexp(t, `\n +[+-][0-9.]+[+-][0-9]+% .*\n`, b.String())
	for _, c := range without.Cells {
		assert.Nil(t, c.Costs)
	}
}
