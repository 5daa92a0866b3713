package hygiene

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFidelityNamesTheFunctions: FIDELITY.md has a row for each function of the list.
func TestFidelityNamesTheFunctions(t *testing.T) {
	text, err := os.ReadFile("../../FIDELITY.md")
	require.NoError(t, err)
	list, err := os.ReadFile("testdata/linux_functions.txt")
	require.NoError(t, err)
	rows := map[string]bool{}     // words in backquotes of the first column
	table, states := false, false // within a table; it has a column for states
	word := regexp.MustCompile(`[A-Za-z_0-9]+`)
	checked := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "|") {
			table = false
			continue
		}
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !table {
			table, states = true, len(cells) == 4 && cells[2] == "state"
			continue
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		for i, part := range strings.Split(cells[0], "`") {
			if i%2 == 1 {
				for _, w := range word.FindAllString(part, -1) {
					rows[w] = true
				}
			}
		}
		if states && assert.GreaterOrEqual(t, len(cells), 3, line) {
			checked++
			assert.Contains(t, []string{"modelled", "simplified", "different", "not modelled"}, cells[2], "the state of %s", cells[0])
		}
	}
	assert.Greater(t, checked, 150)
	n := 0
	for line := range strings.Lines(string(list)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, name := range strings.Fields(line) {
			n++
			assert.True(t, rows[name], "FIDELITY.md has no row for %s", name)
		}
	}
	assert.Greater(t, n, 150)
}
