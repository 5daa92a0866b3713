package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// TestDocumentedTokens: every token in the README and in docs replays, and shows something
// under the policy that it names.
func TestDocumentedTokens(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	files = append(files, "../../README.md", "../../CONTRIBUTING.md")
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
			n, err := e.resolve(tok, hosts)
			if !assert.NoError(t, err, "%s: %s", name, s) {
				continue
			}
			obs := n.target.Run(tok.Spec.Strategy(), nil)
			assert.NotEqual(t, explore.Safe, obs.Verdict, "%s: cowlab replay %s", name, s)
		}
	}
	assert.GreaterOrEqual(t, found, 8)
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
