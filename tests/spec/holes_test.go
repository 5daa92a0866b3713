package spec

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/vmtest"
)

var rewrite = flag.Bool("rewrite", false, "record the drawings anew")

// TestHoles: each hole that random programs found first, in its smallest program, is called
// what docs/findings.md says, is Known, and is drawn in testdata in the schedule with the
// fewest switches. Under a policy that has not got it, it is not there.
func TestHoles(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range []struct {
		finding                      int
		scenario, policy, safe, says string
		schedules                    uint64
	}{
		{30, "mprotect-fork", "pg_gup", "pg_dontcow", "lost-read: P0:A[512] is 0x1, allowed 0x64", 20},
		{31, "write-in-flight", "gup_cow_break", "wp_copy", "leak-to-disk: disk[0] is 0x7, allowed 0x1", 300},
		{32, "whole-page-store", "dio_page_multiple", "directio_sem", "lost-read: P0:A[512] is 0x1, allowed 0xd0", 100},
		{33, "given-up", "dio_range_lock_fixed", "directio_sem", "child-changed: C:A[0] is 0xd0, allowed 0x7", 300},
		{35, "moved-range", "dio_range_lock_fixed", "directio_sem", "lost-read: P0:A[512] is 0x1, allowed 0xd0", 200},
		{40, "swap-in-pinned", "pinned_ptes_after", "wp_page_count_reuse", "leak-to-child: C:r is 0x3, allowed 0x1", 20},
		{40, "swap-in-spliced", "pinned_ptes_after", "wp_page_count_reuse", "leak-to-child: P0:r is 0x3, allowed 0x1", 20},
		{42, "dio-sleeps", "dio_range_lock", "dio_range_lock_fixed", "deadlock: nothing can happen any more", 4000},
		{34, "mmput-in-interrupt", "dio_range_lock_fixed", "", "bug: BUG: mmput of the last user of address space", 3000},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			s, err := scenarios.Lookup(c.scenario)
			if err != nil {
				s, err = scenarios.Load("testdata/" + c.scenario + scenarios.Suffix)
			}
			require.NoError(t, err)
			p := bare(t, s)
			target := p.Target(policy.Lookup(c.policy), hosts)
			target.Name, target.Params = t.Name(), append([]explore.Param{{Key: explore.InParam, Value: "tests/spec"}}, target.Params...)
			if replayHole(t, target) {
				return
			}
			is := func(verdict string) bool {
				return Broken(verdict) && strings.HasPrefix(c.says, string(word(verdict))+":")
			}
			rep, err := explore.Search(context.Background(), *target, explore.Options{Schedules: c.schedules, Seed: 1, StopAtFirst: true, Bad: is})
			require.NoError(t, err)
			var bad *explore.Witness
			for i, w := range rep.Witnesses {
				if is(w.Verdict) {
					bad = &rep.Witnesses[i]
				}
			}
			require.NotNil(t, bad, "%s under %s: nothing in %d schedules", c.scenario, c.policy, rep.Schedules)
			assert.Contains(t, bad.Detail, c.says, c.scenario)
			assert.Equal(t, c.finding, p.known(policy.Lookup(c.policy), hosts, bad), "%s: %s", c.scenario, bad.Verdict)
			least, err := explore.Shrink(context.Background(), *target, bad.Spec, explore.ShrinkOptions{Runs: 300})
			require.NoError(t, err)
			drawing := matrix.Tell(target, least.Spec).Diagram(explore.DiagramOptions{Width: 120, MaxRows: 45})
			file := "testdata/" + c.scenario + ".txt"
			if *rewrite {
				require.NoError(t, os.WriteFile(file, []byte(drawing), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), drawing, "to record it anew: go test ./tests/spec -run TestHoles -rewrite")
			if c.safe == "" {
				return
			}
			rep, err = explore.Search(context.Background(), *p.Target(policy.Lookup(c.safe), hosts), explore.Options{Schedules: min(c.schedules, 60), Seed: 1})
			require.NoError(t, err)
			for _, w := range rep.Witnesses {
				assert.NotEqual(t, strings.TrimPrefix(w.Verdict, unpromised), strings.TrimPrefix(bad.Verdict, unpromised), "%s under %s", c.scenario, c.safe)
			}
		})
	}
}

// bare is a scenario without its own question: the model asks.
func bare(t *testing.T, s *scenarios.Scenario) *Program {
	t.Helper()
	c := s.With(func(c *scenarios.Scenario) { c.Show, c.Story, c.Search = nil, "", 0 })
	require.NotNil(t, c, s.Name)
	text := c.Print()
	for _, q := range []string{"never", "sometimes", "always"} {
		text, _, _ = strings.Cut(text, "\n"+q+" ")
	}
	plain, err := scenarios.Parse(s.Name, text+"\nnever bug\n")
	require.NoError(t, err, s.Name)
	p, err := NewProgram(plain)
	require.NoError(t, err, s.Name)
	return p
}

// replayHole replays the token that the environment holds, and draws it, if it is for this
// test: the programs here are the scenarios' without what they ask, which only this test has.
// As every replay by a test, it fails if something goes wrong in the schedule.
func replayHole(t *testing.T, target *explore.Target) bool {
	t.Helper()
	tok, err := vmtest.Asked()
	require.NoError(t, err)
	if tok == nil || tok.Target != t.Name() {
		return false
	}
	require.Equal(t, target.Token(tok.Spec), *tok, "the program has changed since the token was made")
	obs := target.Run(tok.Spec.Strategy(), nil)
	t.Logf("%d schedule points, state %016x\n%s", obs.Steps, obs.State, matrix.Tell(target, tok.Spec).Diagram(explore.DiagramOptions{}))
	if Broken(obs.Verdict) {
		t.Fatalf("%s: %s", obs.Verdict, obs.Detail)
	}
	return true
}

// TestHolesReplay pins that the command above each drawing replays it in another process.
func TestHolesReplay(t *testing.T) {
	if race {
		t.Skip("builds without the race detector run it")
	}
	for name, says := range map[string]string{
		"write-in-flight": "disk[0] is 0x7, allowed 0x1", "mmput-in-interrupt": "mmput of the last user of address space",
	} {
		drawn, err := os.ReadFile("testdata/" + name + ".txt")
		require.NoError(t, err)
		m := regexp.MustCompile(`COWLAB_SCHEDULE=(cl1\S+) go test -run '(\S+)' \./tests/spec\n`).FindStringSubmatch(string(drawn))
		require.NotNil(t, m, "%s", drawn)
		cmd := exec.Command(os.Args[0], "-test.run", m[2], "-test.v")
		cmd.Env = append(os.Environ(), explore.ScheduleVar+"="+m[1])
		out, err := cmd.CombinedOutput()
		assert.Error(t, err, "nothing goes wrong in it")
		assert.Contains(t, string(out), says)
	}
}
