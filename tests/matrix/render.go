package matrix

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/tests/workload"
)

// Tables have the policies as rows. There are too many columns for one table, so that there
// are two forms: the overview, whose columns are the groups, and the detail, a table for
// each group, in as many pieces as its columns need, and the evidence for every cell. Neither
// is wider than a terminal.

// width is how wide a text may be, small how many columns of workloads a table may have
// that is not to be an overview.
const (
	width = 100
	small = 8
)

// column is what a column of the table is: a workload with parameters.
type column struct{ workload, params string }

func (c column) String() string {
	if c.params == "" {
		return c.workload
	}
	return c.workload + " " + c.params
}

// axes returns the policies and columns in the order in which they first appear.
func (t *Table) axes() (policies []string, columns []column) {
	seenP, seenC := map[string]bool{}, map[column]bool{}
	for _, c := range t.Cells {
		if !seenP[c.Policy] {
			seenP[c.Policy] = true
			policies = append(policies, c.Policy)
		}
		if k := (column{c.Workload, c.Params}); !seenC[k] {
			seenC[k] = true
			columns = append(columns, k)
		}
	}
	return policies, columns
}

// Cell returns the cell, nil if it is not in the table.
func (t *Table) Cell(policy, workload, params string) *Cell {
	for i := range t.Cells {
		if c := &t.Cells[i]; c.Policy == policy && c.Workload == workload && c.Params == params {
			return c
		}
	}
	return nil
}

// Small reports whether the table has few enough columns to be shown in detail.
func (t *Table) Small() bool {
	_, columns := t.axes()
	return len(columns) <= small
}

// mark stands behind a verdict that the policy does not promise to prevent, more for the
// verdicts behind the gravest.
const (
	mark = "*"
	more = "+"
)

// The notes under tables.
const (
	markNote  = "* the policy does not promise to prevent this"
	moreNote  = "+ not the only thing that was seen"
	countNote = "safe N: in N schedules; safe =N: in all that there are within the bound, which are N;\nothers N/M: in N of M schedules"
	sumNote   = "N/M: N of M columns are safe; the gravest of the others stands before it"
)

// notes are those that cells need.
func (t *Table) notes() (out []string) {
	if slices.ContainsFunc(t.Cells, func(c Cell) bool { return slices.Contains(c.Also, workload.NotCovered) }) {
		out = append(out, markNote)
	}
	if slices.ContainsFunc(t.Cells, func(c Cell) bool { return strings.Contains(c.words(), more) }) {
		out = append(out, moreNote)
	}
	return out
}

// words is a cell's verdict in a table.
func (c *Cell) words() string {
	s := string(c.Verdict)
	if slices.ContainsFunc(c.Also, func(v workload.Verdict) bool { return v != workload.NotCovered }) {
		s += more
	}
	if slices.Contains(c.Also, workload.NotCovered) {
		s += mark
	}
	return s
}

// count says how a cell was established, as briefly as a table has room for.
func (c *Cell) count() string {
	switch c.How {
	case Witness:
		return fmt.Sprintf(" %d/%d", c.Hits, c.Schedules)
	case Exhaustive:
		return fmt.Sprintf(" =%d", c.Schedules)
	case Schedules:
		return fmt.Sprintf(" %d", c.Schedules)
	}
	return ""
}

// all is everything that was seen in a cell.
func (c *Cell) all() string {
	s := string(c.Verdict)
	var also []string
	for _, v := range c.Also {
		if v != workload.NotCovered {
			also = append(also, string(v))
		}
	}
	if len(also) > 0 {
		s += " (" + strings.Join(also, ", ") + ")"
	}
	if slices.Contains(c.Also, workload.NotCovered) {
		s += mark
	}
	return s
}

// grid is a table of the cells: a line of headings, then a line for each policy.
func (t *Table) grid(policy func(string) string, word func(*Cell) string) (lines [][]string) {
	policies, columns := t.axes()
	head := []string{"policy"}
	for _, c := range columns {
		head = append(head, c.String())
	}
	lines = append(lines, head)
	for _, p := range policies {
		line := []string{policy(p)}
		for _, c := range columns {
			if cell := t.Cell(p, c.workload, c.params); cell != nil {
				line = append(line, word(cell))
			} else {
				line = append(line, "-")
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// sums is the overview: a column for each group.
func (t *Table) sums(policy func(string) string, word func(Sum) string) (lines [][]string) {
	policies, _ := t.axes()
	groups := t.groups()
	lines = append(lines, append([]string{"policy"}, groups...))
	for _, p := range policies {
		line := []string{policy(p)}
		for _, g := range groups {
			if s, ok := t.Sum(p, g); ok {
				line = append(line, word(s))
			} else {
				line = append(line, "-")
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// markdown writes a table.
func markdown(w io.Writer, lines [][]string, notes []string) error {
	for i, line := range lines {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | ")); err != nil {
			return err
		}
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(line)))
		}
	}
	for _, n := range notes {
		if strings.HasPrefix(n, mark) || strings.HasPrefix(n, more) {
			n = "\\" + n
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", n); err != nil {
			return err
		}
	}
	return nil
}

// WriteMarkdown writes the table alone, for a README: the cells of a small table, the sums
// of groups of another one.
func (t *Table) WriteMarkdown(w io.Writer) error {
	code := func(p string) string { return "`" + p + "`" }
	if t.Small() {
		return markdown(w, t.grid(code, (*Cell).words), t.notes())
	}
	lines := t.sums(code, func(s Sum) string {
		word := string(s.Verdict)
		if s.Verdict != workload.Safe && !s.Covered {
			word += mark
		}
		return fmt.Sprintf("%s %d/%d", word, s.Safe, s.Columns)
	})
	return markdown(w, lines, []string{sumNote, markNote})
}
