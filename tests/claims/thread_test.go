package claims

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

var rewriteThread = flag.Bool("rewrite", false, "write the verdicts into docs/thread.md")

const threadDoc = "../../docs/thread.md"

// placeOf is where the document has the verdict on a claim: between markers that do not show.
func placeOf(id string) *regexp.Regexp {
	return regexp.MustCompile(`(<!--` + id + `-->)([^<]*)(<!--/-->)`)
}

// TestThreadDocHasTheVerdicts runs every claim and compares with what docs/thread.md says. A
// quarter of the usual schedules will do for the word.
//
//	go test ./tests/claims -run ThreadDoc -rewrite
func TestThreadDocHasTheVerdicts(t *testing.T) {
	if underRace || testing.Short() {
		t.Skip("it runs every claim; the race detector sees nothing new in that")
	}
	text, err := os.ReadFile(threadDoc)
	require.NoError(t, err)
	settled, err := Run(t.Context(), All(), Options{Schedules: DefaultSchedules / 4}, nil)
	require.NoError(t, err)
	for _, s := range settled {
		if !assert.Empty(t, s.Error, s.ID) {
			continue
		}
		w := placeOf(s.ID)
		found := w.FindAllSubmatch(text, -1)
		if !assert.Len(t, found, 1, "%s has no place in docs/thread.md, or several", s.ID) {
			continue
		}
		want := fmt.Sprintf("**%s**", s.Verdict)
		if *rewriteThread {
			text = w.ReplaceAll(text, []byte("${1}"+want+"${3}"))
			continue
		}
		assert.Equal(t, want, string(found[0][2]), "%s: %s; see -rewrite", s.ID, s.On)
		assert.Regexp(t, `(?m)^- `+s.ID+` .*cowlab claims `+s.ID+"`$", string(text), "%s has no line with its command", s.ID)
	}
	if *rewriteThread {
		require.NoError(t, os.WriteFile(threadDoc, text, 0o644))
	}
}

// TestThreadDocsTokensReplay: the schedules that the document names show something.
func TestThreadDocsTokensReplay(t *testing.T) {
	text, err := os.ReadFile(threadDoc)
	require.NoError(t, err)
	tokens := regexp.MustCompile(`cowlab replay (\S+)`).FindAllSubmatch(text, -1)
	require.NotEmpty(t, tokens)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, m := range tokens {
		tok, err := explore.ParseToken(string(m[1]))
		require.NoError(t, err)
		w, p := workload.Lookup(tok.Target), policy.Lookup(tok.Policy)
		require.NotNil(t, w, tok.Target)
		require.NotNil(t, p, tok.Policy)
		v := w.Values(true)
		require.Empty(t, tok.Params, "a token with the small form's own parameters is easier to type")
		got := matrix.Target(w, v, p, hosts).Run(tok.Spec.Strategy(), nil)
		assert.True(t, workload.Verdict(got.Verdict).Corrupts(), "%s: %s", tok, got.Verdict)
	}
}
