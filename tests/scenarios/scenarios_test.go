package scenarios

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

func newHosts(t *testing.T) *kernel.Hosts {
	h := kernel.NewHosts()
	t.Cleanup(h.Close)
	return h
}

func observe(t *testing.T, s *Scenario, p mm.Policy, st Strategy) *Observed {
	t.Helper()
	o, err := s.Observe(context.Background(), p, newHosts(t), st)
	require.NoError(t, err)
	return o
}

var everyPolicy = flag.Bool("every-policy", false, "run every scenario under every policy")

// TestObservations runs every scenario under the policies of which its file expects
// something, which must be seen, and under an eighth of the others, in turn (-every-policy:
// all); all of it is what was seen when it was recorded. How often is not recorded: that changes
// with every schedule point.
func TestObservations(t *testing.T) {
	hosts := newHosts(t)
	all, err := All()
	require.NoError(t, err)
	var got bytes.Buffer
	for _, s := range all {
		fmt.Fprintln(&got, s.Name)
		turn := int(xxhash.Sum64String(s.Name) % 8) // of the name, so that a new scenario changes no other's
		expects := map[string]bool{}
		for _, e := range s.Expects {
			expects[e.Policy.Text] = true
		}
		st := Strategy{Schedules: s.Search, Seed: 1}
		switch {
		case race:
			st.Schedules = 1 // data races of the runner show in the first schedule
		case st.Schedules == 0:
			st.Schedules = 24 // there are many policies; who needs more says so
		}
		for j, p := range policy.All() {
			mine := (turn+j)%8 == 0
			if !mine && !*everyPolicy && (race || !expects[p.Name()]) {
				continue
			}
			o, err := s.Observe(context.Background(), p, hosts, st)
			require.NoError(t, err)
			fmt.Fprintf(&got, "    %-16s %s\n", p.Name(), strings.Join(append([]string{o.Observation}, o.Also...), " "))
			assert.NotContains(t, o.Also, "broken", "%s under %s: %v", s.Name, p.Name(), o.States)
			if o.Expected != "" && !race {
				assert.True(t, o.Ok, "%s; %s", o.Difference(), o.Bound)
			}
		}
	}
	if !race && !*everyPolicy {
		golden(t, "testdata/observations.txt", got.String())
	}
}

// Every shipped scenario says what it expects of the policies that were there when it was
// written.
func TestExpectations(t *testing.T) {
	all, err := All()
	require.NoError(t, err)
	for _, s := range all {
		have := map[string]bool{}
		for _, e := range s.Expects {
			have[e.Policy.Text] = true
			assert.NotNil(t, policy.Lookup(e.Policy.Text), "%s expects something of %s, which there is not", s.Name, e.Policy.Text)
		}
		for _, p := range []string{"stock", "pg_gup", "pg_dontcow", "directio_sem"} {
			assert.True(t, have[p], "%s expects nothing of %s", s.Name, p)
		}
	}
}

// less is a policy without some of its hooks: the core runs 2.6.29's code there.
type less struct {
	mm.Policy
	hooks mm.HookSet
}

func (l less) Hooks() mm.HookSet { return l.Policy.Hooks() &^ l.hooks }

// A policy whose deciding hook is taken out is seen through: the observation flips.
func TestMutantsFlip(t *testing.T) {
	if race {
		t.Skip("long searches of machines that one goroutine runs")
	}
	for _, c := range []struct {
		scenario, policy string
		hooks            mm.HookSet
		was, is          string
	}{
		{"S1", "pg_gup", mm.HookForkPTE, "Never", "Always"},
		{"S1", "pg_dontcow", mm.HookForkPTE, "Never", "Always"},
		{"aio-forward", "directio_sem", mm.HookForkLock, "Never", "Sometimes"},
		{"forkscrew", "pg_gup", mm.HookForkPTE, "Never", "Sometimes"},
		{"ro-pin-shared", "pg_gup", mm.HookFollow, "Never", "Always"},
		{"ro-pin-shared", "pg_dontcow", mm.HookGUPVMA, "Never", "Always"},
		{"S5", "directio_sem", mm.HookFast, "Never", "Always"},
		{"aio-fork-waits", "directio_sem", mm.HookForkLock, "Always", "Never"},
		{"peek-shared", "pg_gup", mm.HookFollow, "Always", "Never"},
		{"torn-snapshot", "pg_dontcow", mm.HookForkPTE, "Sometimes", "Never"},
	} {
		s, err := Lookup(c.scenario)
		require.NoError(t, err)
		p := policy.Lookup(c.policy)
		require.NotNil(t, p)
		assert.Equal(t, c.was, observe(t, s, p, Strategy{Seed: 1}).Observation, "%s under %s", c.scenario, c.policy)
		assert.Equal(t, c.is, observe(t, s, less{p, c.hooks}, Strategy{Seed: 1}).Observation, "%s under %s less %b", c.scenario, c.policy, c.hooks)
	}
}

// The same seed gives the same result on any number of workers, and a token repeats the
// state that it stands beside.
func TestRepeats(t *testing.T) {
	s, err := Lookup("S7")
	require.NoError(t, err)
	stock := policy.Lookup("stock")
	one := observe(t, s, stock, Strategy{Schedules: 40, Seed: 3, Workers: 1})
	assert.Equal(t, one, observe(t, s, stock, Strategy{Schedules: 40, Seed: 3, Workers: 3}))
	require.Len(t, one.States, 2)
	target := s.Target(stock, newHosts(t))
	for _, st := range one.States {
		tok, err := explore.ParseToken(st.Token)
		require.NoError(t, err)
		require.NoError(t, s.CheckToken(tok))
		obs := target.Run(tok.Spec.Strategy(), nil)
		assert.Equal(t, st.State, StateOf(obs.Verdict))
		assert.Equal(t, st.Positive, Positive(obs.Verdict))
		assert.Equal(t, obs.State, target.Run(tok.Spec.Strategy(), nil).State)
	}
}

// Every schedule with at most one preemption finds what a sample finds.
func TestExhaustive(t *testing.T) {
	s, err := Lookup("aio-forward")
	require.NoError(t, err)
	o := observe(t, s, policy.Lookup("stock"), Strategy{Exhaustive: true, Preemptions: 0})
	assert.Contains(t, o.Bound, "with at most 0 preemptions")
	assert.Positive(t, o.Positive+o.Negative)
}

// A token is refused when the scenario does something else since; comments and
// expectations are nothing else.
func TestTokenOfAnotherText(t *testing.T) {
	s, err := Lookup("S1")
	require.NoError(t, err)
	tok := s.Target(mm.Stock{}, nil).Token(explore.Spec{Kind: explore.KindRandom})
	text := s.Print()
	same, err := Parse("x", "(* more *)\n"+strings.Replace(text, "expect stock ", "expect other ", 1))
	require.NoError(t, err)
	assert.NoError(t, same.CheckToken(tok))
	other, err := Parse("x", strings.Replace(text, "A[0] = 2", "A[0] = 3", 1))
	require.NoError(t, err)
	assert.ErrorContains(t, other.CheckToken(tok), "has changed since the token was made")
	tok.Params[0].Key = "a"
	assert.ErrorContains(t, s.CheckToken(tok), `no parameter "a"`)
}

// The fewest operations that tell a policy from another one: what is left out of a longer
// program is what it can do without, and nothing else.
func TestMinimise(t *testing.T) {
	s, err := Parse("long", `cowlab long
"S1 with much around it"
map A 2 pages private
init A = 1
 P0 | P1 | C child | D device | G child ;
 A[4K] = 7 | drain | r = A[3] | | A[5] = 6 ;
 pin h A[0:4K] write fast | | | | ;
 fork C | | | pause 3 | ;
 fork G | | | | ;
 A[0] = 2 | | | | ;
 @1 | @1 | | @1 | ;
 | | | dma h[512] = 0x64 | ;
never P0:A[512] != 0x64
`)
	require.NoError(t, err)
	stock, gup := policy.Lookup("stock"), policy.Lookup("pg_gup")
	least, err := s.Minimise(context.Background(), stock, gup, newHosts(t), Strategy{Schedules: 20, Seed: 1})
	require.NoError(t, err)
	var ops []string
	for _, c := range least.Columns {
		for _, op := range c.Rows {
			if op != nil {
				ops = append(ops, op.String())
			}
		}
	}
	require.Len(t, ops, 6, "%s", least.Print())
	assert.Equal(t, "pin h A[0:4K] write fast", ops[0])
	assert.Regexp(t, "^fork [CG]$", ops[1])
	assert.Equal(t, []string{"A[0] = 2", "@1", "@1", "dma h[512] = 0x64"}, ops[2:])

	_, err = s.Minimise(context.Background(), gup, stock, newHosts(t), Strategy{Schedules: 5})
	assert.ErrorContains(t, err, "holds in none of 5 schedules")
	_, err = s.Minimise(context.Background(), stock, stock, newHosts(t), Strategy{Schedules: 5})
	assert.ErrorContains(t, err, "holds under stock, too")
}

// A file is called by its path, in tokens, too.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mine"+Suffix)
	s, err := Lookup("S1")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(s.Print()), 0o644))
	mine, err := Load(path)
	require.NoError(t, err)
	assert.Equal(t, path, mine.Target(mm.Stock{}, nil).Name)
	_, err = Load(dir)
	assert.ErrorContains(t, err, "expected a plain file")
	_, err = Load(filepath.Join(dir, "none"+Suffix))
	assert.ErrorIs(t, err, os.ErrNotExist)
	big := filepath.Join(dir, "big"+Suffix)
	require.NoError(t, os.WriteFile(big, make([]byte, maxText+1), 0o644))
	_, err = Load(big)
	assert.ErrorContains(t, err, "expected a plain file of at most")
	_, err = Lookup("S99")
	assert.Error(t, err)
}
