package matrix_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// breakage is a kernel in which a column must not be safe.
type breakage struct {
	workload, params string
	kernel           broken
	verdict          workload.Verdict
}

// breakages are those of the columns in which no policy breaks what the column is about.
var breakages = []breakage{
	{"dma_thread", "a=0", forkTakes, workload.LostRead},
	{"late_dma", "advice=1", noAdvice, workload.LostRead},
	{"late_dma", "advice=2", noAdvice, workload.LostRead},
	{"late_dma", "huge=1,advice=1", noAdvice, workload.LostRead},
	{"late_dma", "huge=1,advice=2", noAdvice, workload.LostRead},
	{"forkscrewreverse", "huge=1", noProtect, workload.LeakToDisk},
	{"snapshot", "huge=1", noProtect, workload.LeakToDisk},
	{"ptrace_peek", "", noProtect, workload.ChildChanged},
	{"unmap_pin", "aio=0", noReference, workload.ChildChanged},
	{"unmap_pin", "aio=1", noReference, workload.ChildChanged},
	{"unmap_pin", "exit=2", noReference, workload.ChildChanged},
	{"unmap_pin", "huge=1", noReference, workload.ChildChanged},
	{"unmap_pin", "huge=1,aio=1", noReference, workload.ChildChanged},
	{"unmap_pin", "huge=1,exit=2", noReference, workload.ChildChanged},
	{"ksm_pin", "", noReference, workload.LostRead},
	{"ksm_pin", "race=1", noReference, workload.LostRead},
	{"ksm_pin", "merged=1", noReference, workload.LostRead},
	{"torn", "huge=1", hastyCopy, workload.TornSnapshot},
	{"torn", "huge=1,apart=1", hastyCopy, workload.TornSnapshot},
	{"fork_storm", "pins=0", forkForgets, workload.ChildChanged},
	{"fork_storm", "huge=1,pins=0", forkForgets, workload.ChildChanged},
	{"readonly_buffer", "kind=3", noPermission, workload.WrongCopy},
	{"readonly_buffer", "huge=1,kind=3", noPermission, workload.WrongCopy},
	{"readonly_buffer", "huge=1", asForWrite, workload.Livelock},
	{"readonly_buffer", "huge=1,forked=1", asForWrite, workload.Livelock},
}

// breaksIt reports whether a verdict is about what a column asks: somebody's bytes; or, where
// nothing else is asked, whether the program comes to its end, and exit to its.
func breaksIt(v workload.Variant, got workload.Verdict) bool {
	ends := []workload.Verdict{workload.Livelock, workload.Deadlock, workload.Bug}
	asked := v.Name == "readonly_buffer" || v.Name == "unmap_pin" && v.Params == "exit=1"
	return got.Corrupts() || asked && slices.Contains(ends, got)
}

// TestEveryColumnCanFail: a column that is safe whatever the kernel does checks nothing. For
// each there is a cell of the stored matrix with a witness of what it asks about, which
// replays, or a broken kernel in which so few schedules show it.
func TestEveryColumnCanFail(t *testing.T) {
	const schedules = 200
	hosts := kernel.NewHosts()
	defer hosts.Close()
	table := storedTable(t)
	left := slices.Clone(breakages)
	for _, v := range workload.Columns(workload.All(), nil) {
		where := fmt.Sprintf("%s %s", v.Name, v.Params)
		values, err := v.Parse(v.Params, true)
		require.NoError(t, err)
		i := slices.IndexFunc(left, func(b breakage) bool { return b.workload == v.Name && b.params == v.Params })
		if i < 0 {
			c := slices.IndexFunc(table.Cells, func(c matrix.Cell) bool {
				return c.Workload == v.Name && c.Params == v.Params && breaksIt(v, c.Verdict)
			})
			if !assert.GreaterOrEqual(t, c, 0, "%s: no policy and no broken kernel shows anything", where) {
				continue
			}
			cell := table.Cells[c]
			tok, err := explore.ParseToken(cell.Token)
			require.NoError(t, err, where)
			obs := matrix.Target(v.Workload, values, policy.Lookup(cell.Policy), hosts).Run(tok.Spec.Strategy(), nil)
			assert.Equal(t, string(cell.Verdict), obs.Verdict, "%s: %s", where, cell.Token)
			continue
		}
		b := left[i]
		left = slices.Delete(left, i, i+1)
		rep, err := explore.Search(context.Background(), *matrix.Target(v.Workload, values, b.kernel, hosts), explore.Options{
			Schedules: schedules, Seed: 1, StopAtFirst: true, Bad: func(got string) bool { return got == string(b.verdict) },
		})
		require.NoError(t, err)
		if assert.NotNil(t, rep.Witness(string(b.verdict)), "%s: %s is not seen with a kernel in which %s: %v", where, b.verdict, b.kernel.what, rep.ByVerdict) {
			t.Logf("%s: %s in schedule %d, in which %s", where, b.verdict, rep.Schedules, b.kernel.what)
		}
	}
	assert.Empty(t, left, "these are no columns")
}
