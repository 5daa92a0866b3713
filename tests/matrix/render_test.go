package matrix

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

func table() *Table {
	return &Table{Cells: []Cell{
		{Policy: "stock", Workload: "w", Verdict: workload.LostRead, Also: []workload.Verdict{workload.Leak, workload.NotCovered},
			Bound: "9 schedules", Token: "cl1.w", Detail: "two\nlines\n"},
		{Policy: "fix", Workload: "w", Verdict: workload.Safe, Bound: "9 schedules"},
		{Policy: "stock", Workload: "w", Params: "a=0", Verdict: workload.Safe},
	}}
}

func TestRender(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, table().WriteText(&b))
	assert.Equal(t, strings.TrimLeft(`
POLICY  w                  w a=0
stock   lost-read (leak)*  safe
fix     safe               -
* the policy does not promise to prevent this

stock on w: lost-read (leak)*
    two
    lines
    cowlab replay cl1.w
    searched: 9 schedules
fix on w: safe
    searched: 9 schedules
stock on w a=0: safe
`, "\n"), b.String())
	b.Reset()
	require.NoError(t, table().WriteMarkdown(&b))
	assert.Equal(t, "| policy | w | w a=0 |\n|---|---|---|\n| `stock` | lost-read (leak)* | safe |\n| `fix` | safe | - |\n\n\\* the policy does not promise to prevent this\n", b.String())
}

// TestLargeTable: where many policies meet many workloads a line is a policy, and a cell
// has room for one verdict.
func TestLargeTable(t *testing.T) {
	var big Table
	for p := range 6 {
		for w := range 6 {
			c := Cell{Policy: fmt.Sprintf("p%d", p), Workload: fmt.Sprintf("w%d", w), Verdict: workload.Safe}
			if p == 1 && w == 2 {
				c.Verdict, c.Also = workload.LostRead, []workload.Verdict{workload.Leak, workload.NotCovered}
			}
			big.Cells = append(big.Cells, c)
		}
	}
	var b bytes.Buffer
	require.NoError(t, big.WriteMarkdown(&b))
	assert.Contains(t, b.String(), "| policy | w0 | w1 | w2 | w3 | w4 | w5 |\n")
	assert.Contains(t, b.String(), "| `p1` | safe | safe | lost-read+* | safe | safe | safe |\n")
	assert.Contains(t, b.String(), moreNote)
	b.Reset()
	require.NoError(t, big.WriteText(&b))
	assert.Contains(t, b.String(), "p1 on w2: lost-read (leak)*\n")
	assert.Contains(t, b.String(), moreNote)
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, table().WriteJSON(&b))
	back, err := ReadJSON(&b)
	require.NoError(t, err)
	assert.Empty(t, table().Differences(back))
	assert.Empty(t, back.Differences(table()))
	for text, want := range map[string]string{
		"":               "EOF",
		"[]":             "cannot unmarshal",
		"{}":             `no field "cells"`,
		`{"cells":[{}]}`: "cell 1 names no policy",
		`{"cells":[{"policy":"p","workload":"w","verdict":"good"}]}`: `p on w: "good" is no verdict`,
	} {
		_, err := ReadJSON(strings.NewReader(text))
		assert.ErrorContains(t, err, want, text)
	}
}

func TestDifferences(t *testing.T) {
	got, want := table(), table()
	got.Cells = got.Cells[:2]
	got.Cells[1].Verdict = workload.Leak
	want.Cells = append(want.Cells, Cell{Policy: "other", Workload: "w", Verdict: workload.Safe})
	assert.Equal(t, []string{
		"fix on w: leak, expected safe",
		"stock on w a=0: not run, expected safe",
	}, got.Differences(want), "what was not asked for is no difference")
	assert.Equal(t, []string{"other on w: safe, but nothing was expected"},
		(&Table{Cells: want.Cells[3:]}).Differences(table()))
}

// The table of a few schedules: tokens for what was found, promises held against, and
// an interrupted run says so.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{
		Policies: []mm.Policy{policy.Stock{}, policy.PGGUP{}}, Workloads: []*workload.Workload{workload.Lookup("forkscrew")},
		Schedules: 64, Seed: 1,
	}
	var seen []string
	last := 0.0
	o.Progress = func(what string, done float64) {
		seen = append(seen, what)
		assert.GreaterOrEqual(t, done, last)
		last = done
	}
	tab, err := Run(ctx, o)
	require.NoError(t, err)
	require.Len(t, tab.Cells, 2)
	stock := tab.Cell("stock", "forkscrew", "")
	assert.Equal(t, workload.LostRead, stock.Verdict)
	assert.Contains(t, stock.Also, workload.NotCovered, "stock promises nothing")
	assert.NotEmpty(t, stock.Token)
	assert.Equal(t, workload.Safe, tab.Cell("pg_gup", "forkscrew", "").Verdict)
	assert.Nil(t, tab.Cell("pg_gup", "dma_thread", ""))
	assert.Contains(t, seen, "stock on forkscrew")
	assert.Less(t, last, 1.0)

	again, err := Run(ctx, o2(o))
	require.NoError(t, err)
	assert.Equal(t, tab, again, "the same seed gives the same table")

	o.Schedules = 1 << 40
	o.Progress = func(_ string, done float64) {
		if done > 0 {
			cancel()
		}
	}
	part, err := Run(ctx, o)
	assert.ErrorIs(t, err, context.Canceled)
	require.Len(t, part.Cells, 1)
	assert.Contains(t, part.Cells[0].Bound, "interrupted after ")
}

// o2 is o without progress.
func o2(o Options) Options {
	o.Progress = nil
	return o
}
