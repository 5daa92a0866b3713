package policy

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/vmtest"
)

// c1Variants are the policies that C1's program is run under besides those that have a name.
var c1Variants = [...]mm.Policy{
	PGGUP{noRecheck: true}, PGGUP{noBarrier: true}, PGGUP{plainFlag: true}, PGGUP{plainFlag: true, noBarrier: true},
	PinCopy{noSeq: true}, PinCopy{follPin: follPin{noBarrier: true}},
}

// c1Name is what tokens call a policy: each variant has a name of its own.
func c1Name(p mm.Policy) string {
	name := p.Name()
	add := func(without bool, suffix string) {
		if without {
			name += suffix
		}
	}
	switch p := p.(type) {
	case PGGUP:
		add(p.noRecheck, "_one_look") // which is what claims call it
		add(p.plainFlag, "_plain_store")
		add(p.noBarrier, "_no_barrier")
	case PinCopy:
		add(p.noSeq, "_no_seq")
		add(p.noBarrier, "_no_barrier")
	}
	return name
}

// c1Of is the target that a token names.
func c1Of(t *testing.T, tok explore.Token) explore.Target {
	t.Helper()
	for _, p := range append(All(), c1Variants[:]...) {
		for _, tso := range []bool{false, true} {
			if target := c1TargetOn(p, sched.Options{TSO: tso}); target.Token(tok.Spec).String() == tok.String() {
				return target
			}
		}
	}
	t.Fatalf("%s: no policy and no variant of one that C1's program runs under is called %q, or the parameters are others", tok, tok.Policy)
	return explore.Target{}
}

// replayC1 replays the token that the environment holds, and draws it, if it is for TestC1.
// As every replay by a test, it fails if something goes wrong in the schedule.
func replayC1(t *testing.T) bool {
	t.Helper()
	tok, err := vmtest.Asked()
	require.NoError(t, err)
	if tok == nil || tok.Target != "TestC1" {
		return false
	}
	target := c1Of(t, *tok)
	obs := target.Run(tok.Spec.Strategy(), nil)
	t.Logf("%d schedule points, state %016x\n%s", obs.Steps, obs.State,
		captureC1(target, tok.Spec).Diagram(explore.DiagramOptions{Show: racing}))
	if obs.Verdict != explore.Safe {
		t.Fatalf("%s: %s", obs.Verdict, obs.Detail)
	}
	return true
}

// c1Token is the token in what was printed about a schedule of C1's program.
func c1Token(t *testing.T, text string) string {
	t.Helper()
	m := regexp.MustCompile(`COWLAB_SCHEDULE=(cl1\S+) go test -run '\^TestC1\$' \./mm/policy`).FindStringSubmatch(text)
	require.NotNil(t, m, text)
	return m[1]
}

// TestC1Replays pins that what is printed beside a schedule of C1's program replays it in
// another process: the drawing in testdata, and a schedule of CPUs with store buffers under
// a variant of a policy.
func TestC1Replays(t *testing.T) {
	if Race {
		t.Skip("builds without the race detector run it")
	}
	replay := func(token string) string {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestC1$", "-test.v")
		cmd.Env = append(os.Environ(), explore.ScheduleVar+"="+token)
		out, err := cmd.CombinedOutput()
		assert.Error(t, err, "nothing goes wrong in it:\n%s", out)
		return string(out)
	}
	drawn, err := os.ReadFile("testdata/c1.txt")
	require.NoError(t, err)
	out := replay(c1Token(t, string(drawn)))
	for _, line := range strings.Split(strings.TrimSpace(string(drawn)), "\n") {
		assert.Contains(t, out, strings.TrimRight(line, " "), "the drawing")
	}
	buffered := c1TargetOn(PGGUP{noRecheck: true}, sched.Options{TSO: true})
	found, err := explore.Search(context.Background(), buffered, explore.Options{Schedules: 3000, Seed: 1, StopAtFirst: true})
	require.NoError(t, err)
	lost := found.Witness("lost-read")
	require.NotNil(t, lost)
	tok := lost.Token
	first := replay(c1Token(t, tok.Command()))
	assert.Contains(t, first, "lost-read: want 0xaa, found 0x0")
	state := regexp.MustCompile(`state [0-9a-f]{16}`)
	require.NotEmpty(t, state.FindString(first))
	assert.Equal(t, state.FindString(first), state.FindString(replay(tok.String())))
	tok.Policy = "pg_gup_two_looks"
	assert.Contains(t, replay(tok.String()), `no policy and no variant of one that C1's program runs under is called "pg_gup_two_looks"`)
}

// TestC1Names pins that no two policies of C1's program have one name in tokens.
func TestC1Names(t *testing.T) {
	seen := map[string]mm.Policy{}
	for _, p := range append(All(), c1Variants[:]...) {
		assert.Nil(t, seen[c1Name(p)], "%+v and %+v", seen[c1Name(p)], p)
		seen[c1Name(p)] = p
	}
}
