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

// TestReadmeShowsTheStoredTable keeps the table in the README that of the stored matrix.
func TestReadmeShowsTheStoredTable(t *testing.T) {
	var want bytes.Buffer
	require.NoError(t, stored(t).WriteMarkdown(&want))

	const readme = "../../README.md"
	const begin, end = "<!-- matrix -->\n", "<!-- /matrix -->"
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	require.True(t, ok, "README has no %q", begin)
	got, tail, ok := strings.Cut(rest, end)
	require.True(t, ok, "README has no %q", end)
	if *rewrite {
		require.NoError(t, os.WriteFile(readme, []byte(head+begin+want.String()+end+tail), 0o644))
		return
	}
	assert.Equal(t, want.String(), got)
}
