package cli

import (
	"os"
	"path/filepath"
	"regexp"
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
