package policy_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// raceCell is a row of docs/exhaustive.md: one race under one policy, searched as far as
// the row says.
type raceCell struct {
	workload, policy string
	// preemptions bounds a depth-first search; -1 means partial-order reduction,
	// which has no bound.
	preemptions int
	// worst is the verdict that there is besides safe; empty if there is none.
	worst string
	// long cells take more than two seconds.
	long bool
}

// unbounded is partial-order reduction.
const unbounded = -1

var raceCells = []raceCell{
	{"read_fork", "stock", 1, "lost-read", false},
	{"read_fork", "pg_gup", unbounded, "", true},
	{"read_fork", "pg_dontcow", 3, "", true},
	{"read_fork", "directio_sem", unbounded, "", false},
	{"read_fork", "pin_copy", unbounded, "lost-read", true},
	{"read_fork", "dio_pin", unbounded, "", true},
	{"read_fork", "dio_pin", 3, "", true},

	{"driver_fork", "stock", unbounded, "lost-read", false},
	{"driver_fork", "pg_gup", unbounded, "", false},
	{"driver_fork", "pg_dontcow", unbounded, "", false},
	{"driver_fork", "directio_sem", unbounded, "lost-read", false},
	{"driver_fork", "pin_copy", unbounded, "", true},
	{"driver_fork", "dio_pin", unbounded, "", true},

	{"write_store", "stock", unbounded, "leak-to-disk", true},
	{"write_store", "pg_gup", unbounded, "", true},
	{"write_store", "pg_dontcow", unbounded, "", true},
	{"write_store", "directio_sem", unbounded, "", true},
	{"write_store", "pin_copy", unbounded, "", true},
	{"write_store", "dio_pin", unbounded, "", true},

	{"write_shared", "pg_gup", 2, "", true},
	{"write_shared", "pg_dontcow", 2, "", true},
	{"write_shared", "directio_sem", 2, "", true},
	{"write_shared", "dio_pin", 2, "", true},

	{"write_inflight", "stock", unbounded, "leak-to-disk", true},
	{"write_inflight", "pg_gup", unbounded, "", false},
	{"write_inflight", "pg_dontcow", unbounded, "", false},
	{"write_inflight", "directio_sem", unbounded, "", false},
	{"write_inflight", "pin_copy", unbounded, "", false},
	{"write_inflight", "dio_pin", unbounded, "", false},

	{"driver_store", "stock", unbounded, "leak-to-child", false},
	{"driver_store", "pg_gup", unbounded, "", true},
	{"driver_store", "pg_dontcow", unbounded, "", true},
	{"driver_store", "directio_sem", unbounded, "", true},
	{"driver_store", "pin_copy", unbounded, "", false},
	{"driver_store", "dio_pin", unbounded, "", false},
}

// row runs the search and returns the row of the table as far as it is the same on every host,
// and the time that it took.
func (c *raceCell) row(t *testing.T, hosts *kernel.Hosts) (string, time.Duration) {
	t.Helper()
	w := workload.Lookup(c.workload)
	target := *matrix.Target(w, w.Values(true), policy.Lookup(c.policy), hosts)
	begin := time.Now()
	var r *explore.Report
	var bound string
	if c.preemptions == unbounded {
		out, err := explore.Reduce(context.Background(), target, explore.ReduceOptions{})
		require.NoError(t, err)
		require.True(t, out.Complete)
		require.Zero(t, out.Clocked)
		r, bound = &out.Report, fmt.Sprintf("all | %d | %d", out.Schedules, out.Classes)
	} else {
		out, err := explore.Exhaust(context.Background(), target, explore.ExhaustOptions{Preemptions: c.preemptions, Cut: true})
		require.NoError(t, err)
		require.True(t, out.Complete)
		r, bound = &out.Report, fmt.Sprintf("%d preemptions | %d | %d", c.preemptions, out.Schedules, out.Classes)
	}
	took := time.Since(begin)
	safe := r.ByVerdict[explore.Safe]
	verdict := "safe"
	if c.worst == "" {
		assert.Equal(t, r.Schedules, safe, "%v", r.ByVerdict)
	} else {
		n := r.ByVerdict[c.worst]
		assert.NotZero(t, n)
		assert.Equal(t, r.Schedules, safe+n, "%v", r.ByVerdict)
		verdict = fmt.Sprintf("%s in %d", c.worst, n)
	}
	return fmt.Sprintf("| %s | `%s` | %s | %d | %s |", c.workload, c.policy, bound, r.States, verdict), took
}

// TestRacesExhaustively decides the two races for the rows that promise something about them,
// and compares with docs/exhaustive.md, whose rows it prints. With -long it does all of them.
func TestRacesExhaustively(t *testing.T) {
	if policy.Race {
		t.Skip("long searches of one goroutine")
	}
	text, err := os.ReadFile("../../docs/exhaustive.md")
	require.NoError(t, err)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for i := range raceCells {
		c := &raceCells[i]
		if c.long && !policy.Long() {
			assert.Contains(t, string(text), fmt.Sprintf("\n| %s | `%s` |", c.workload, c.policy))
			continue
		}
		row, took := c.row(t, hosts)
		assert.True(t, strings.Contains(string(text), "\n"+row), "docs/exhaustive.md has another row for %s under %s", c.workload, c.policy)
		t.Logf("%s %.1f |", row, took.Seconds())
	}
}
