package mutants

import (
	"context"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// TestMutantsAreFound searches for each mutant, and searches the kernel that it was made
// from for as many schedules.
func TestMutantsAreFound(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, m := range All() {
		t.Run(m.Name, func(t *testing.T) {
			r, err := explore.Search(context.Background(), m.Target(false, hosts), explore.Options{
				Schedules: 20_000, Seed: 1, StopAtFirst: true})
			require.NoError(t, err)
			w := r.FirstBad()
			if assert.NotNil(t, w, "not found") {
				t.Logf("schedule %d: %s: %.300s", w.Schedule+1, w.Verdict, w.Detail)
			}
			r, err = explore.Search(context.Background(), m.Target(true, hosts), explore.Options{
				Schedules: 150, Seed: 1, StopAtFirst: true})
			require.NoError(t, err)
			if w := r.FirstBad(); w != nil {
				t.Errorf("the kernel itself: schedule %d: %s: %s", w.Schedule+1, w.Verdict, w.Detail)
			}
		})
	}
}

var (
	table = flag.Bool("table", false, "measure the portfolio against plain random and print the table")
	seeds = flag.Int("seeds", 5, "searches for each entry of the table")
	limit = flag.Uint64("limit", 50_000, "schedules after which a search gives up")
)

// TestTable prints the table of the package comment's command; without -table it only
// checks that one row comes out as measured.
func TestTable(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	all, n, most := All(), *seeds, *limit
	if !*table {
		all, n, most = []*Mutant{Lookup("munmap frees before it flushes")}, 2, 3000
	}
	var rows []Row
	for _, m := range all {
		r := Row{Mutant: m}
		var err error
		r.Portfolio, err = m.Take(context.Background(), hosts, explore.Portfolio, n, most)
		require.NoError(t, err)
		r.Random, err = m.Take(context.Background(), hosts, explore.RandomOnly, n, most)
		require.NoError(t, err)
		assert.Equal(t, n, r.Portfolio.Found, "%s: the portfolio must find it", m.Name)
		rows = append(rows, r)
	}
	text := Table(rows)
	assert.Equal(t, len(rows)+2, strings.Count(text, "\n"))
	t.Logf("\n%s", text)
}

// TestTableIsOfTheseMutants compares docs/mutants.md with the mutants there are.
func TestTableIsOfTheseMutants(t *testing.T) {
	text, err := os.ReadFile("../../docs/mutants.md")
	require.NoError(t, err)
	var rows []string
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, line)
		}
	}
	all := All()
	require.Len(t, rows, len(all)+1, "rows, with the head")
	for i, m := range all {
		assert.True(t, strings.HasPrefix(rows[i+1], "| "+m.Name+" | `"+m.Where+"` |"), "row %d is of %q: %s", i+1, m.Name, rows[i+1])
	}
}
