package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// TestDocumentedTokens: every token in the README, in docs and in the drawings that tests
// keep replays, and shows something under the policy that it names; that of a Go test's own
// program says in which package the test is, and there it is. (The toy machines of
// kernel/explore's tests are nothing that the command, or anybody, could be asked for.)
func TestDocumentedTokens(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	files = append(files, "../../README.md", "../../CONTRIBUTING.md")
	for _, dir := range []string{"../../mm/policy", "../../tests/*"} {
		drawings, err := filepath.Glob(dir + "/testdata/*.txt")
		require.NoError(t, err)
		files = append(files, drawings...)
	}
	// A token has five parts at least; "cl1.…" is no token.
	token := regexp.MustCompile(`cl1(\.[A-Za-z0-9_~-]+){2}\.[A-Za-z0-9_.-]*[A-Za-z0-9_-]`)
	e, _, _ := newEnv()
	hosts := kernel.NewHosts()
	defer hosts.Close()
	found := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, s := range token.FindAllString(string(text), -1) {
			found++
			tok, err := explore.ParseToken(s)
			if !assert.NoError(t, err, "%s: %s", name, s) {
				continue
			}
			if tok.OfTest() {
				assert.Contains(t, string(text), tok.Command(), "%s: what replays it", name)
				assert.True(t, hasTest(t, tok), "%s: %s", name, s)
				continue
			}
			n, err := e.resolve(tok, hosts)
			if !assert.NoError(t, err, "%s: %s", name, s) {
				continue
			}
			obs := n.target.Run(tok.Spec.Strategy(), nil)
			assert.NotEqual(t, explore.Safe, obs.Verdict, "%s: cowlab replay %s", name, s)
		}
	}
	assert.GreaterOrEqual(t, found, 14)
}

// hasTest reports whether the test that a token names is where the token says.
func hasTest(t *testing.T, tok explore.Token) bool {
	t.Helper()
	name, _, _ := strings.Cut(tok.Target, "/")
	for _, p := range tok.Params {
		if p.Key != explore.InParam {
			continue
		}
		files, err := filepath.Glob("../../" + p.Value + "/*_test.go")
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			if bytes.Contains(text, []byte("func "+name+"(t *testing.T)")) {
				return true
			}
		}
	}
	return false
}

// TestCounterexamplesOfTheRaces: each row of docs/exhaustive.md with a verdict has a token there, which replays to that
// verdict and cannot be minimised further.
func TestCounterexamplesOfTheRaces(t *testing.T) {
	text, err := os.ReadFile("../../docs/exhaustive.md")
	require.NoError(t, err)
	e, _, _ := newEnv()
	hosts := kernel.NewHosts()
	defer hosts.Close()
	const named = "(?m)^\\| (\\w+) \\| `(\\w+)` \\| "
	shown := map[string]string{} // scenario and policy to verdict
	for _, m := range regexp.MustCompile(named+"([a-z-]+) \\| (\\d+) \\| `cowlab replay (\\S+)` \\|$").FindAllStringSubmatch(string(text), -1) {
		name, verdict := m[1]+" "+m[2], m[3]
		shown[name] = verdict
		tok, err := explore.ParseToken(m[5])
		require.NoError(t, err, name)
		assert.Equal(t, name, tok.Target+" "+tok.Policy)
		n, err := e.resolve(tok, hosts)
		require.NoError(t, err, name)
		least, err := explore.Shrink(t.Context(), *n.target, tok.Spec, explore.ShrinkOptions{})
		require.NoError(t, err, name)
		assert.Equal(t, verdict, least.Observation.Verdict, name)
		assert.Equal(t, m[5], least.Token.String(), "%s: there is a shorter one", name)
		assert.Equal(t, m[4], strconv.Itoa(least.After.Departures), name)
	}
	rows := regexp.MustCompile(named+"[^|]+\\| \\d+ \\| \\d* \\| \\d+ \\| ([a-z-]+)(?: in \\d+)? \\|").FindAllStringSubmatch(string(text), -1)
	assert.Greater(t, len(rows), 30)
	bad := 0
	for _, m := range rows {
		if m[3] != explore.Safe {
			bad++
			assert.Equal(t, m[3], shown[m[1]+" "+m[2]], "the counterexample of %s under %s", m[1], m[2])
		}
	}
	assert.Equal(t, len(shown), bad, "nothing else has one")
}
