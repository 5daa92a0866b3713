package matrix

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files")

// stored is the table that the bounded search of .ci/run compares with what comes out today.
func stored(t *testing.T) *Table {
	t.Helper()
	f, err := os.Open("../testdata/matrix.json")
	require.NoError(t, err)
	defer f.Close()
	table, err := ReadJSON(f)
	require.NoError(t, err)
	return table
}

// TestReadmeShowsTheStoredTable keeps the tables in the README those of the stored matrix: the
// verdicts, and what the policies cost.
func TestReadmeShowsTheStoredTable(t *testing.T) {
	var verdicts, costs bytes.Buffer
	require.NoError(t, stored(t).WriteMarkdown(&verdicts))
	require.NoError(t, stored(t).WriteCostsMarkdown(&costs))
	readmeHas(t, "matrix", verdicts.String())
	readmeHas(t, "costs", costs.String())
}

// readmeHas compares what stands in the README between the marks of a name.
func readmeHas(t *testing.T, name, want string) {
	t.Helper()
	const readme = "../../README.md"
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
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
