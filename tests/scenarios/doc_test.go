package scenarios

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/mm/policy"
)

// packageDoc returns the lines of the package comment.
func packageDoc(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var lines []string
	for _, l := range strings.Split(string(text), "\n") {
		if doc, ok := strings.CutPrefix(l, "//"); ok {
			lines = append(lines, strings.TrimPrefix(strings.TrimPrefix(doc, " "), "\t"))
		}
	}
	return lines
}

// The scenario that the package comment explains is the one that ships, and prints what it
// says there.
func TestDocExample(t *testing.T) {
	lines := packageDoc(t)
	from := slices.Index(lines, "cowlab S1")
	to := slices.Index(lines, "expect directio_sem always")
	require.Positive(t, from)
	require.Greater(t, to, from)
	s, err := Parse("doc.go", strings.Join(lines[from:to+1], "\n"))
	require.NoError(t, err)
	shipped, err := Lookup("S1")
	require.NoError(t, err)
	shipped.Story = ""
	assert.Equal(t, shipped.Print(), s.Print())

	var b strings.Builder
	require.NoError(t, observe(t, s, policy.Lookup("stock"), Strategy{Seed: 1}).WriteText(&b))
	from = slices.Index(lines, "Test S1 under stock")
	require.Positive(t, from)
	to = from + slices.Index(lines[from:], "...")
	assert.True(t, strings.HasPrefix(b.String(), strings.Join(lines[from:to], "\n")+"\n"), "%s", b.String())
}

// The package comment has every operation, function and verdict, with the words that the
// tables have.
func TestDocIsComplete(t *testing.T) {
	text := strings.Join(strings.Fields(strings.Join(packageDoc(t), " ")), " ")
	for _, v := range verbs() {
		want := strings.Join(strings.Fields(v.name+" "+v.pattern+" "+v.help), " ")
		assert.Contains(t, text, want)
	}
	for _, f := range funcs {
		assert.Contains(t, text, f.name+"(")
		assert.Contains(t, text, f.help)
	}
	for _, v := range verdictWords {
		assert.Contains(t, text, v)
	}
	for _, s := range settings {
		assert.Contains(t, text, s+" ")
	}
}
