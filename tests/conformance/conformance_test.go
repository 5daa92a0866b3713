package conformance

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

var rewrite = flag.Bool("rewrite", false, "record testdata anew")

// TestStock checks every case on every kind of page against what stands beside it.
func TestStock(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range All() {
		for _, k := range here(t) {
			if !c.RunsOn(k) {
				continue
			}
			t.Run(c.Name+", "+k.Name, func(t *testing.T) {
				want, why, _ := strings.Cut(c.Expect(k.Name), ": ")
				assert.Contains(t, []string{string(Pass), string(Fail)}, want)
				if want == string(Fail) {
					assert.Regexp(t, `[a-z]+_[a-z_]+`, why, "it names a function of 2.6.29")
				}
				got, err := Execute(t.Context(), c, k, timed(policy.Lookup("stock"), hosts))
				require.NoError(t, err)
				assert.Equal(t, want, string(got.Verdict), "%s; %s", got.Detail, why)
			})
		}
	}
}

// here returns the kinds whose machines can be had: those with race-detector builds are
// small, which is no place for a gigabyte.
func here(t *testing.T) (ks []*Kind) {
	for _, k := range Kinds() {
		var o kernel.Options
		if k.Options != nil {
			k.Options(&o, 1)
		}
		var size *x86.SizeError
		if err := o.Validate(); errors.As(err, &size) {
			t.Logf("not here: %s: %v", k.Name, err)
			continue
		}
		ks = append(ks, k)
	}
	return ks
}

const golden = "testdata/cow.txt"

// TestRecorded runs every case under every policy, and compares with what was seen when
// the table was recorded.
func TestRecorded(t *testing.T) {
	if testing.Short() {
		t.Skip("every case under every policy")
	}
	o := Options{Policies: policy.All(), Cases: All(), Kinds: here(t)}
	table, err := Run(t.Context(), o)
	require.NoError(t, err)
	if len(o.Kinds) < len(Kinds()) {
		return // the table has more columns
	}
	var got, md bytes.Buffer
	require.NoError(t, WriteText(&got, table, false /* explain */))
	require.NoError(t, WriteMarkdown(&md, table))
	if *rewrite {
		require.NoError(t, os.WriteFile(golden, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got.String(), "to record it anew: go test ./tests/conformance -rewrite")
	checkReadme(t, md.String())
}

// checkReadme compares the table in the README with what was run just now.
func checkReadme(t *testing.T, want string) {
	const readme = "../../README.md"
	const begin, end = "<!-- cow -->\n", "<!-- /cow -->"
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	require.True(t, ok, "README has no %q", begin)
	got, tail, ok := strings.Cut(rest, end)
	require.True(t, ok, "README has no %q", end)
	if *rewrite {
		require.NoError(t, os.WriteFile(readme, []byte(head+begin+want+end+tail), 0o644))
		return
	}
	assert.Equal(t, want, got)
}

// TestTwice: a cell is the same in every run of it.
func TestTwice(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range All() {
		for _, k := range Kinds()[:3] {
			if !c.RunsOn(k) {
				continue
			}
			var seen []Result
			for range 2 {
				r, err := Execute(t.Context(), c, k, timed(policy.Lookup("pg_gup"), hosts))
				require.NoError(t, err)
				seen = append(seen, r)
			}
			assert.Equal(t, seen[0], seen[1], "%s on %s", c.Name, k.Name)
		}
	}
}

// TestAnySchedule: the processes of a case go in lock-step, so stock shows the same in
// any schedule; where something races, a case that passes does so in all of them.
func TestAnySchedule(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range All() {
		seeds := uint64(2)
		switch {
		case testing.Short():
			seeds = 1
		case c.Races:
			seeds = 40
		}
		for _, k := range here(t) {
			if !c.RunsOn(k) || k.Steps > 0 {
				continue // what takes many steps is the same code as on 2 MiB
			}
			want, _, _ := strings.Cut(c.Expect(k.Name), ": ")
			may := []string{want}
			if c.Races {
				may = append(may, string(Pass))
			}
			for seed := range seeds {
				o := timed(policy.Lookup("stock"), hosts)
				o.Regime, o.Strategy = sched.Free, sched.NewRandom(seed)
				got, err := Execute(t.Context(), c, k, o)
				require.NoError(t, err, "%s, seed %d", c.Name, seed)
				assert.Contains(t, may, string(got.Verdict), "%s on %s, seed %d: %s; again: go test ./tests/conformance -run '^TestAnySchedule$'",
					c.Name, k.Name, seed, got.Detail)
			}
		}
	}
}

// Names are unique, short enough for a table, and begin with what -cases takes.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range All() {
		id, _, ok := strings.Cut(c.Name, ": ")
		assert.True(t, ok && !seen[id], c.Name)
		seen[id] = true
		for _, kind := range c.On {
			assert.True(t, known(kind), "%s: %s", c.Name, kind)
		}
		for kind := range c.Stock {
			assert.True(t, kind == "" || known(kind), "%s: %s", c.Name, kind)
		}
	}
	assert.Equal(t, 14, len(Match(All(), "COW ?"))+len(Match(All(), "cow 1?: *")))
	assert.Len(t, Match(All(), "cow 1"), 1)
	assert.Empty(t, Match(All(), "cow"))
	assert.Empty(t, Match(All(), "["))
}

// Pages of 1 GiB take part wherever those of 2 MiB do, as "cowlab cow -h" says.
func TestBothSizesOfHugePages(t *testing.T) {
	for _, c := range All() {
		for _, name := range []string{"hugetlb", "hugetlbfs"} {
			assert.Equal(t, slices.Contains(c.On, name+"2M"), slices.Contains(c.On, name+"1G"), "%s on %s", c.Name, name)
		}
	}
}

// registered returns the kind of that name.
func registered(name string) (*Kind, bool) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, true
		}
	}
	return nil, false
}

func known(kind string) bool {
	_, ok := registered(kind)
	return ok
}

// A kind that is not in the state it promises breaks its cases: they are never skipped,
// and never pass.
func TestUnpreparedKindIsBroken(t *testing.T) {
	k := *Kinds()[1]
	k.Prepare = func(e *Env) { e.swapOut(); e.Load8(e.Mem); e.swapOutCheck(0) }
	got, err := Execute(t.Context(), All()[0], &k, timed(nil, nil))
	require.NoError(t, err)
	assert.Equal(t, Broken, got.Verdict)
}

// What ends the machine is a verdict, and what a program cannot do is one too.
func TestVerdicts(t *testing.T) {
	base := Kinds()[0]
	for _, c := range []struct {
		want workload.Verdict
		run  func(e *Env)
	}{
		{Pass, func(*Env) {}},
		{Fail, func(e *Env) { e.same("it", []byte{1}, []byte{2}) }},
		{Broken, func(e *Env) { e.must("munmap", e.Munmap(1, 1)) }},
		{Broken, func(e *Env) { e.fork(func(c *kernel.Thread) { c.Load8(0) })() }},
		{Broken, func(e *Env) { e.Load8(0) }},
		{workload.Deadlock, func(e *Env) { e.event().wait(e.Thread) }},
		{workload.Livelock, func(e *Env) {
			for {
				e.Load8(e.Mem)
			}
		}},
		{workload.Leak, func(e *Env) { e.pin(kernel.RegisterOptions{}) }},
		{workload.Bug, func(e *Env) { e.Task().Warn("no") }},
	} {
		got, err := Execute(t.Context(), &Case{Name: "x: y", Run: c.run}, base, timed(nil, nil))
		require.NoError(t, err)
		assert.Equal(t, c.want, got.Verdict, got.Detail)
		assert.Contains(t, Verdicts(), got.Verdict)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Execute(ctx, All()[0], base, timed(nil, nil))
	assert.ErrorIs(t, err, context.Canceled)
}

// The text groups the policies that show the same, and says where evidence was seen.
func TestText(t *testing.T) {
	cells := func(p, v1, d1, v2, d2 string) []matrix.Cell {
		return []matrix.Cell{
			{Policy: p, Workload: "cow 3: vmsplice() + unmap in child", Params: "pages=base", Verdict: workload.Verdict(v1), Detail: d1},
			{Policy: p, Workload: "cow 3: vmsplice() + unmap in child", Params: "pages=swap", Verdict: workload.Verdict(v2), Detail: d2},
		}
	}
	table := &matrix.Table{}
	table.Cells = append(table.Cells, cells("one", "fail", "x", "fail", "x")...)
	table.Cells = append(table.Cells, cells("two", "pass", "", "fail", "x")...)
	table.Cells = append(table.Cells, cells("three", "fail", "x", "fail", "y")...)
	for i := range 12 {
		table.Cells = append(table.Cells, cells(fmt.Sprintf("policy_%d", i), "pass", "", "pass", "")...)
	}
	var b strings.Builder
	require.NoError(t, WriteText(&b, table, true /* explain */))
	assert.Equal(t, `cow 3: vmsplice() + unmap in child
    base      swap      policy
    fail      fail      one, three
                          x
                          three on swap: y
    pass      fail      two
                          x
    pass      pass      policy_0, policy_1, policy_2, policy_3, policy_4, policy_5, policy_6,
                        policy_7, policy_8, policy_9, policy_10, policy_11
    2.6.29, base: do_wp_page: reuse_swap_page counts one mapping, and not the pipe's reference, so
    the page is re-used
    2.6.29, swap: do_swap_page finds the page in the swap cache, and reuse_swap_page counts one
    entry, and not the pipe's reference, so the page is re-used

PASSED     base    swap
one        0 of 1  0 of 1
two        1 of 1  0 of 1
three      0 of 1  0 of 1
`, b.String()[:strings.Index(b.String(), "policy_0   ")])
}

func TestJSONRoundTrip(t *testing.T) {
	o := Options{Policies: []mm.Policy{policy.Lookup("stock"), policy.Lookup("pg_gup")}, Cases: Match(All(), "cow 3"), Kinds: Kinds()[:2]}
	table, err := Run(t.Context(), o)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, table.WriteJSON(&b))
	back, err := ReadJSON(&b)
	require.NoError(t, err)
	assert.Len(t, back.Cells, 4)
	assert.Empty(t, Differences(table, back, o.Kinds))
	back.Cells[0].Verdict = Pass
	assert.Equal(t, []string{"stock on cow 3: vmsplice() + unmap in child pages=base: fail, expected pass"}, Differences(table, back, o.Kinds))
	table.Cells = table.Cells[1:2] // stock on swap
	assert.Len(t, Differences(table, back, o.Kinds), 1, "expected and not run")
	assert.Empty(t, Differences(table, back, o.Kinds[1:]), "of another kind")
	_, err = matrix.ReadJSON(strings.NewReader(`{"cells":[{"policy":"p","workload":"w","verdict":"pass"}]}`))
	assert.ErrorContains(t, err, "no verdict", "the matrix has other words")
}

// An interrupted run keeps the cells that were finished.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := Options{Policies: policy.All()[:4], Cases: All(), Kinds: here(t)}
	o.Progress = func(what string, done float64) {
		if strings.HasSuffix(what, o.Cases[2].Name) {
			cancel()
		}
	}
	table, err := Run(ctx, o)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []string{o.Cases[0].Name, o.Cases[1].Name}, names(table.Cells, caseOf))
	var b strings.Builder
	require.NoError(t, WriteText(&b, table, true /* explain */))
	require.NoError(t, WriteText(&b, &matrix.Table{}, true /* explain */), "nothing at all")
}
