package matrix

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

func table() *Table {
	return &Table{Cells: []Cell{
		{Policy: "stock", Workload: "w", Verdict: workload.LostRead, Also: []workload.Verdict{workload.Leak, workload.NotCovered},
			Bound: "9 schedules", Token: "cl1.w", Detail: "two\nlines\n", Group: workload.Swap, How: Witness, Schedules: 9, Hits: 2},
		{Policy: "fix", Workload: "w", Verdict: workload.Safe, Bound: "9 schedules", Group: workload.Swap, How: Schedules, Schedules: 9},
		{Policy: "stock", Workload: "w", Params: "a=0", Verdict: workload.Safe, Group: workload.Swap},
	}}
}

func TestRender(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, table().WriteText(&b, true))
	assert.Equal(t, strings.TrimLeft(`
POLICY  w                w a=0
stock   lost-read+* 2/9  safe
fix     safe 9           -

* the policy does not promise to prevent this
+ not the only thing that was seen
safe N: in N schedules; safe =N: in all that there are within the bound, which are N;
others N/M: in N of M schedules

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
	assert.Equal(t, "| policy | w | w a=0 |\n|---|---|---|\n| `stock` | lost-read+* | safe |\n| `fix` | safe | - |\n\n"+
		"\\* the policy does not promise to prevent this\n\n\\+ not the only thing that was seen\n", b.String())
}

// large is a table of every group, with two columns in each.
func large() *Table {
	t := &Table{}
	for _, g := range workload.Groups() {
		for p := range 3 {
			for w := range 2 {
				c := Cell{Policy: fmt.Sprintf("a_policy_with_a_long_name_%d", p), Workload: fmt.Sprintf("%c%d", g[0], w), Verdict: workload.Safe, Group: g,
					How: Schedules, Schedules: 9, Bound: "9 schedules"}
				if p == 1 && w == 1 {
					c.Verdict, c.Also, c.Token, c.How, c.Hits = workload.LostRead, []workload.Verdict{workload.Leak, workload.NotCovered}, "cl1."+g[:1], Witness, 4
				}
				if p == 2 && w == 0 {
					c.Verdict, c.Token = workload.Deadlock, "cl1.deadlock"
				}
				t.Cells = append(t.Cells, c)
			}
		}
	}
	return t
}

// TestOverview: where there are many columns they are summed up by groups, in the text and
// in the README.
func TestOverview(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, large().WriteText(&b, false))
	text := b.String()
	assert.Contains(t, text, "POLICY               FORWARD  REVERSE")
	assert.Contains(t, text, "a_policy_with_a_long_name_1\n                     lost*1/2 lost*1/2")
	assert.Contains(t, text, "                     dead 1/2 dead 1/2")
	assert.Contains(t, text, "                     safe 2/2 safe 2/2")
	assert.Contains(t, text, "swap, for one: a_policy_with_a_long_name_1 on s1: lost-read\n    cowlab replay cl1.s\n")
	b.Reset()
	require.NoError(t, large().WriteMarkdown(&b))
	assert.Contains(t, b.String(), "| policy | forward race | reverse race | disclosure | swap | hugetlb | other users | semantics | liveness |\n")
	assert.Contains(t, b.String(), "| `a_policy_with_a_long_name_1` | lost-read* 1/2 |")
	assert.Contains(t, b.String(), "| `a_policy_with_a_long_name_2` | deadlock 1/2 |")
}

// TestSumCovered: a broken promise is not hidden behind a cell without one.
func TestSumCovered(t *testing.T) {
	cell := func(w string, also ...workload.Verdict) Cell {
		return Cell{Policy: "p", Workload: w, Verdict: workload.LostRead, Also: also, Group: workload.Swap}
	}
	for _, cells := range [][]Cell{
		{cell("a", workload.NotCovered), cell("b")},
		{cell("b"), cell("a", workload.NotCovered)},
	} {
		s, ok := (&Table{Cells: cells}).Sum("p", workload.Swap)
		assert.True(t, ok)
		assert.Equal(t, Sum{Verdict: workload.LostRead, Covered: true, Columns: 2}, s)
	}
	_, ok := (&Table{}).Sum("p", workload.Swap)
	assert.False(t, ok)
}

// TestWidth: no table is wider than a terminal; that of all policies and workloads is the
// stored one.
func TestWidth(t *testing.T) {
	for _, table := range []*Table{large(), stored(t)} {
		for _, detail := range []bool{false, true} {
			var b bytes.Buffer
			require.NoError(t, table.WriteText(&b, detail))
			text, _, _ := strings.Cut(b.String(), "\n\n"+table.Cells[0].Policy+" on ")
			for _, line := range strings.Split(text, "\n") {
				if !strings.Contains(line, " replay ") {
					assert.LessOrEqual(t, utf8.RuneCountInString(line), width, line)
				}
			}
		}
	}
}

// TestOnly takes a part of a table.
func TestOnly(t *testing.T) {
	got, err := large().Only([]string{"a_policy_with_a_long_name_1"}, nil, []string{workload.Swap})
	require.NoError(t, err)
	require.Len(t, got.Cells, 2)
	assert.Equal(t, "s1", got.Cells[1].Workload)
	got, err = large().Only(nil, []string{"s1"}, nil)
	require.NoError(t, err)
	assert.NotEmpty(t, got.Cells)
	for _, c := range got.Cells {
		assert.Equal(t, "s1", c.Workload)
	}
	_, err = large().Only([]string{"x"}, nil, nil)
	assert.EqualError(t, err, "the table has no policy x")
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
		Groups: []string{workload.ForwardRace}, Schedules: 64, Seed: 1,
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
	require.Len(t, tab.Cells, 2, "huge pages are another group")
	stock := tab.Cell("stock", "forkscrew", "")
	assert.Equal(t, workload.LostRead, stock.Verdict)
	assert.Contains(t, stock.Also, workload.NotCovered, "stock promises nothing")
	assert.NotEmpty(t, stock.Token)
	assert.Equal(t, Witness, stock.How)
	assert.NotZero(t, stock.Hits)
	gup := tab.Cell("pg_gup", "forkscrew", "")
	assert.Equal(t, workload.Safe, gup.Verdict)
	assert.Equal(t, Schedules, gup.How)
	assert.EqualValues(t, 64, gup.Schedules)
	assert.Nil(t, tab.Cell("pg_gup", "dma_thread", ""))
	assert.Contains(t, seen, "stock on forkscrew")
	assert.Less(t, last, 1.0)

	o.Progress = nil
	again, err := Run(ctx, o)
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

// TestRunExhaustive: the bound is part of the cell.
func TestRunExhaustive(t *testing.T) {
	o := Options{
		Policies: []mm.Policy{policy.Stock{}}, Workloads: []*workload.Workload{workload.Lookup("mprotect_pin")},
		Groups: []string{workload.Semantics}, Exhaustive: true, Preemptions: 0,
	}
	tab, err := Run(t.Context(), o)
	require.NoError(t, err)
	c := tab.Cell("stock", "mprotect_pin", "aio=0")
	require.NotNil(t, c)
	assert.Equal(t, Exhaustive, c.How)
	require.NotNil(t, c.Preemptions)
	assert.Zero(t, *c.Preemptions)
	assert.Regexp(t, `^ =[1-9]`, c.count())
}

// TestHunt: what only the parallel regime has shown gets its token from a longer search, if
// the small form shows it at all.
func TestHunt(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	w := workload.Lookup("forkscrew")
	target := Target(w, w.Values(true), policy.Stock{}, hosts)
	seen := map[workload.Verdict]evidence{
		workload.ChildChanged: {detail: "parallel regime"}, workload.LeakToDisk: {detail: "parallel regime"}, workload.LostRead: {token: "cl1.known"},
	}
	require.NoError(t, hunt(t.Context(), target, &Options{Schedules: 10, Seed: 1}, seen))
	assert.Equal(t, "cl1.known", seen[workload.LostRead].token, "that one was known")
	assert.Empty(t, seen[workload.LeakToDisk].token, "nothing is written there")
	tok, err := explore.ParseToken(seen[workload.ChildChanged].token)
	require.NoError(t, err)
	assert.Equal(t, string(workload.ChildChanged), target.Run(tok.Spec.Strategy(), nil).Verdict)
	var c Cell
	c.Verdict = workload.Safe
	c.judge(map[workload.Verdict]evidence{workload.Leak: {}})
	assert.Equal(t, Runs, c.How)
}

// TestRare: cells in which a longer search has met something are searched longer, others are not; what is
// entered is what that finds, with its token. The stored matrix has a witness in each of them.
func TestRare(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	f, err := os.Open("../testdata/matrix.json")
	require.NoError(t, err)
	defer f.Close()
	stored, err := ReadJSON(f)
	require.NoError(t, err)
	w := workload.Lookup("torn")
	values, err := w.Parse("apart=1", true)
	require.NoError(t, err)
	// On small pages these two are torn in one of two schedules, and never.
	torn, whole := Target(w, values, policy.Lookup("pg_dontcow"), hosts), Target(w, values, policy.Stock{}, hosts)
	for _, r := range rarities() {
		for _, p := range r.policies {
			c := stored.Cell(p, r.workload, r.params)
			require.NotNil(t, c, "%s on %s %s", p, r.workload, r.params)
			assert.Equal(t, r.verdict, c.Verdict)
			assert.Equal(t, Witness, c.How)
		}
	}
	r := rarities()[0]
	o := &Options{Schedules: 1, Seed: 1}
	for _, c := range []struct {
		cell   Cell
		target *explore.Target
		found  bool
	}{
		{Cell{Policy: r.policies[0], Workload: r.workload, Params: r.params}, torn, true},
		{Cell{Policy: r.policies[0], Workload: r.workload, Params: r.params}, whole, false},
		{Cell{Policy: r.policies[0], Workload: r.workload, Params: ""}, torn, false},
		{Cell{Policy: "stock", Workload: r.workload, Params: r.params}, torn, false},
	} {
		seen := map[workload.Verdict]evidence{}
		require.NoError(t, c.cell.rare(t.Context(), c.target, o, seen))
		if !c.found {
			assert.Empty(t, seen, "%s on %s %s", c.cell.Policy, c.cell.Workload, c.cell.Params)
			continue
		}
		tok, err := explore.ParseToken(seen[r.verdict].token)
		require.NoError(t, err)
		assert.Equal(t, string(r.verdict), c.target.Run(tok.Spec.Strategy(), nil).Verdict)
	}
}
