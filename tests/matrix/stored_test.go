package matrix_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

var allTokens = flag.Bool("tokens", false, "replay every token of the stored matrix, and not one in ten")

// storedTable is tests/testdata/matrix.json, from which the README's table is made.
func storedTable(t *testing.T) *matrix.Table {
	t.Helper()
	f, err := os.Open("../testdata/matrix.json")
	require.NoError(t, err)
	defer f.Close()
	table, err := matrix.ReadJSON(f)
	require.NoError(t, err)
	return table
}

// TestStoredTokens: every cell of the stored matrix that is not safe has a token, and the
// token replays to the verdict. Without -tokens it is one in ten, and the first of each
// verdict.
func TestStoredTokens(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	seen := map[workload.Verdict]bool{}
	replayed := 0
	for i, c := range storedTable(t).Cells {
		if c.Verdict == workload.Safe {
			continue
		}
		where := fmt.Sprintf("%s on %s %s", c.Policy, c.Workload, c.Params)
		if !assert.NotEmpty(t, c.Token, "%s: %s", where, c.Verdict) || !*allTokens && i%10 != 0 && seen[c.Verdict] {
			continue
		}
		seen[c.Verdict] = true
		tok, err := explore.ParseToken(c.Token)
		require.NoError(t, err, where)
		w, p := workload.Lookup(tok.Target), policy.Lookup(tok.Policy)
		require.NotNil(t, w, where)
		require.NotNil(t, p, where)
		v, err := w.Parse(c.Params, true)
		require.NoError(t, err, where)
		target := matrix.Target(w, v, p, hosts)
		assert.Equal(t, target.Token(tok.Spec).String(), c.Token, where)
		obs := target.Run(tok.Spec.Strategy(), nil)
		assert.Equal(t, string(c.Verdict), obs.Verdict, "%s: %s", where, c.Token)
		replayed++
	}
	assert.Greater(t, replayed, 20)
}

// TestStoredMatrixIsWhole: the stored matrix has a cell for every policy and every column,
// each says how it was established, and none is left to the parallel regime.
func TestStoredMatrixIsWhole(t *testing.T) {
	table := storedTable(t)
	columns := workload.Columns(workload.All(), nil)
	assert.Len(t, table.Cells, len(policy.All())*len(columns))
	for _, v := range columns {
		assert.Contains(t, workload.Groups(), v.Group(), v.Name)
		for _, p := range policy.All() {
			c := table.Cell(p.Name(), v.Name, v.Params)
			if !assert.NotNil(t, c, "%s on %s %s", p.Name(), v.Name, v.Params) {
				continue
			}
			assert.Equal(t, v.Group(), c.Group)
			assert.NotEmpty(t, c.Bound)
			assert.NotZero(t, c.Schedules)
			assert.Contains(t, []matrix.How{matrix.Witness, matrix.Exhaustive, matrix.Schedules}, c.How)
			assert.Equal(t, c.Verdict == workload.Safe, c.How != matrix.Witness)
		}
	}
}
