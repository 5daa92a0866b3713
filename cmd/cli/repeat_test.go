package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/claims"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// endless is how many points a run has that ends as a livelock: drawing it takes a while, so
// other processes are not asked to.
const endless = 100_000

var repeats = flag.Int("repeats", 0, "replay each token of TestTokensRepeat so often, in each kind of process, one built with -race among them; 0 means a few times and no such build")

// someTokens returns tokens of every kind: of the stored table one for each strategy and
// verdict and one for huge pages; of scenarios, of claims, of a schedule
// told by its switches.
func someTokens(t *testing.T) []string {
	t.Helper()
	var out []string
	text, err := os.ReadFile("../../tests/testdata/matrix.json")
	require.NoError(t, err)
	var table struct {
		Cells []struct{ Workload, Params, Verdict, Token string }
	}
	require.NoError(t, json.Unmarshal(text, &table))
	seen, verdicts := map[string]bool{}, map[string]bool{}
	huge := regexp.MustCompile(`huge=1`)
	for _, c := range table.Cells {
		if c.Token == "" {
			continue
		}
		tok, err := explore.ParseToken(c.Token)
		require.NoError(t, err)
		key := string(rune(tok.Spec.Kind)) + " " + c.Verdict
		if huge.MatchString(c.Params) {
			key = "huge"
			if *repeats > 0 {
				key += c.Workload
			}
		}
		if !seen[key] {
			seen[key], verdicts[c.Verdict] = true, true
			out = append(out, c.Token)
		}
	}
	for _, v := range []string{"lost-read", "leak-to-disk", "bug", "deadlock", "livelock", "leak", "refused"} {
		assert.True(t, verdicts[v], "the stored table has no token with verdict %s", v)
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, name := range []string{"S7", "S1-huge", "S10", "SB", "dma-thread"} {
		s, err := scenarios.Lookup(name)
		require.NoError(t, err)
		o, err := s.Observe(context.Background(), policy.Lookup("stock"), hosts, scenarios.Strategy{Schedules: 40, Seed: 1})
		require.NoError(t, err)
		for i, st := range o.States {
			if i > 1 && *repeats == 0 {
				break
			}
			out = append(out, st.Token)
		}
	}
	programs := 0
	for i, name := range claims.Names() {
		tok := explore.Token{Target: name, Policy: "pg_gup", Spec: explore.Spec{Kind: explore.KindPOS, Seed: uint64(i + 1)}}
		if _, err := claims.Target(tok, policy.All(), hosts); err == nil { // those told as scenarios have a digest in their tokens
			programs++
			if programs%3 == 1 {
				out = append(out, tok.String())
			}
		}
	}
	assert.Positive(t, programs, "no claim is a program")
	return append(out,
		explore.Token{Target: "pin_fork", Policy: "directio_sem", Spec: explore.Spec{Kind: explore.KindSwitches, Switches: []explore.Switch{{At: 30, To: explore.CPUActor(1)}}}}.String(),
		explore.Token{Target: "dma_thread", Policy: "pg_gup", Spec: explore.Spec{Kind: explore.KindPCT, Depth: 3, Length: 1000, Seed: 7}}.String())
}

// A token of each scenario that ships is that scenario's, though it may be called as a workload is.
func TestTokensOfScenarios(t *testing.T) {
	e, _, _ := newEnv()
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, name := range scenarios.Names() {
		sc, err := scenarios.Lookup(name)
		require.NoError(t, err)
		want := sc.Target(policy.Lookup("stock"), hosts).Token(explore.Spec{Kind: explore.KindRandom, Seed: 1})
		s, err := e.openSchedule(want.String(), "", 0)
		if assert.NoError(t, err) {
			assert.Equal(t, want, s.target.Token(want.Spec))
			s.close()
		}
	}
}

// A token ends in the same state every time in this process, and in other processes,
// whatever the number of host threads. With -repeats 1000 that is so many times in each, and in a
// process with the race detector.
func TestTokensRepeat(t *testing.T) {
	t.Parallel()
	n, commands := 3, [][]string{{"cowlab", "GOMAXPROCS=1"}, {"cowlab", "GOMAXPROCS=2"}}
	if testing.Short() {
		n = 2
	}
	if *repeats > 0 {
		n = *repeats
		if _, err := exec.LookPath("gcc"); err == nil {
			bin := filepath.Join(t.TempDir(), "cowlab-race")
			build := exec.Command("go", "build", "-race", "-o", bin, "../../cmd/cowlab")
			build.Env = append(os.Environ(), "CGO_ENABLED=1")
			text, err := build.CombinedOutput()
			require.NoError(t, err, "%s", text)
			commands = append(commands, []string{bin, "GOMAXPROCS=1"}, []string{bin, "GOMAXPROCS=2"})
		} else {
			t.Log("no gcc: not with the race detector")
		}
	}
	state := regexp.MustCompile(`state ([0-9a-f]+)(?:, the same [0-9]+ times)?\n`)
	tokens := someTokens(t)
	for i, text := range tokens {
		e, _, _ := newEnv()
		s, err := e.openSchedule(text, "", 0)
		require.NoError(t, err, "%s", text)
		first := s.target.Run(s.tok.Spec.Strategy(), nil)
		for range n - 1 {
			if first.Steps > endless && *repeats == 0 {
				break
			}
			again := s.target.Run(s.tok.Spec.Strategy(), nil)
			require.Equal(t, first.State, again.State, "%s", text)
			require.Equal(t, first.Verdict, again.Verdict, "%s", text)
		}
		s.close()
		for k, c := range commands {
			if first.Steps > endless || *repeats == 0 && (i%len(commands) != k || first.Steps > 1500) {
				continue // in short, every other token in each, and only what is soon drawn
			}
			cmd := exec.Command(c[0], "replay", text, "-diagram=false", "-times", fmt.Sprint(n))
			cmd.Env = append(os.Environ(), c[1])
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%v %s: %s", c, text, out)
			m := state.FindSubmatch(out)
			require.NotNil(t, m, "%s", out)
			assert.Equal(t, fmt.Sprintf("%016x", first.State), string(m[1]), "%s with %v", text, c)
		}
		if *repeats > 0 {
			t.Logf("%d of %d: %s, %d points, state %016x", i+1, len(tokens), text, first.Steps, first.State) // it takes long
		}
	}
	t.Logf("%d tokens, %d times each in %d kinds of process", len(tokens), n, 1+len(commands))
}
