package matrix

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cowlab/cowlab/tests/workload"
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

// mark stands behind a verdict that the policy does not promise to prevent, footnote
// explains it.
const (
	mark     = "*"
	footnote = "* the policy does not promise to prevent this"
)

// marked reports whether a cell of the table needs the footnote.
func (t *Table) marked() bool {
	return slices.ContainsFunc(t.Cells, func(c Cell) bool { return slices.Contains(c.Also, workload.NotCovered) })
}

// more stands in a large table for the verdicts behind the gravest.
const (
	more     = "+"
	moreNote = "+ not the only thing that was seen"
)

// shortened reports whether a cell of the table has something left out.
func (t *Table) shortened() bool {
	return t.large() && slices.ContainsFunc(t.Cells, func(c Cell) bool { return strings.Contains(c.words(true), more) })
}

// large says that neither the policies nor the workloads fit side by side with all that
// was seen.
func (t *Table) large() bool {
	policies, columns := t.axes()
	return len(policies) > narrow && len(columns) > narrow
}

// words is a cell's verdicts in a table; short leaves all but the gravest out.
func (c *Cell) words(short bool) string {
	s := string(c.Verdict)
	var also []string
	for _, v := range c.Also {
		if v != workload.NotCovered {
			also = append(also, string(v))
		}
	}
	switch {
	case len(also) > 0 && short:
		s += more
	case len(also) > 0:
		s += " (" + strings.Join(also, ", ") + ")"
	}
	if slices.Contains(c.Also, workload.NotCovered) {
		s += mark
	}
	return s
}

// grid lays the table out: a line of headings, then a line for each policy or, where
// there are more workloads than policies, for each workload. A text line has only so
// much room.
func (t *Table) grid(policy func(string) string) (lines [][]string) {
	policies, columns := t.axes()
	short := t.large()
	word := func(p string, c column) string {
		if cell := t.Cell(p, c.workload, c.params); cell != nil {
			return cell.words(short)
		}
		return "-"
	}
	if len(columns) <= len(policies) || len(columns) <= narrow {
		head := []string{"policy"}
		for _, c := range columns {
			head = append(head, c.String())
		}
		lines = append(lines, head)
		for _, p := range policies {
			line := []string{policy(p)}
			for _, c := range columns {
				line = append(line, word(p, c))
			}
			lines = append(lines, line)
		}
		return lines
	}
	head := []string{"workload"}
	for _, p := range policies {
		head = append(head, policy(p))
	}
	lines = append(lines, head)
	for _, c := range columns {
		line := []string{c.String()}
		for _, p := range policies {
			line = append(line, word(p, c))
		}
		lines = append(lines, line)
	}
	return lines
}

// narrow is how many workloads fit side by side.
const narrow = 5

// WriteText writes the table and the evidence for every cell.
func (t *Table) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i, line := range t.grid(func(p string) string { return p }) {
		if i == 0 {
			line[0] = strings.ToUpper(line[0])
		}
		fmt.Fprintln(tw, strings.Join(line, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if t.marked() {
		fmt.Fprintln(w, footnote)
	}
	if t.shortened() {
		fmt.Fprintln(w, moreNote)
	}
	fmt.Fprintln(w)
	if err := t.writeCosts(w); err != nil {
		return err
	}
	for _, c := range t.Cells {
		fmt.Fprintf(w, "%s on %s: %s\n", c.Policy, column{c.Workload, c.Params}, c.words(false))
		if c.Detail != "" {
			fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(strings.TrimSpace(c.Detail), "\n", "\n    "))
		}
		if c.Token != "" {
			fmt.Fprintf(w, "    cowlab replay %s\n", c.Token)
		}
		if c.Bound != "" {
			fmt.Fprintf(w, "    searched: %s\n", c.Bound)
		}
	}
	return nil
}

// WriteMarkdown writes the table alone, for a README.
func (t *Table) WriteMarkdown(w io.Writer) error {
	for i, line := range t.grid(func(p string) string { return "`" + p + "`" }) {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | ")); err != nil {
			return err
		}
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(line)))
		}
	}
	if t.marked() {
		fmt.Fprintf(w, "\n\\%s\n", footnote)
	}
	if t.shortened() {
		fmt.Fprintf(w, "\n\\%s\n", moreNote)
	}
	return nil
}

// WriteJSON writes one object with the field "cells".
func (t *Table) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(t)
}

// ReadJSON reads what WriteJSON wrote.
func ReadJSON(r io.Reader) (*Table, error) { return ReadVerdicts(r, workload.Verdicts()) }

// ReadVerdicts is ReadJSON for a table of the same form with other verdicts.
func ReadVerdicts(r io.Reader, verdicts []workload.Verdict) (*Table, error) {
	var t Table
	d := json.NewDecoder(r)
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("not a stored matrix: %w", err)
	}
	if t.Cells == nil {
		return nil, fmt.Errorf("not a stored matrix: no field \"cells\"")
	}
	for i := range t.Cells {
		c := &t.Cells[i]
		switch {
		case c.Policy == "" || c.Workload == "":
			return nil, fmt.Errorf("not a stored matrix: cell %d names no policy or no workload", i+1)
		case !slices.Contains(verdicts, c.Verdict):
			return nil, fmt.Errorf("not a stored matrix: %s on %s: %q is no verdict", c.Policy, column{c.Workload, c.Params}, c.Verdict)
		}
	}
	return &t, nil
}

// Differences compares the verdicts of the table with expected ones, cell by cell. A cell
// that was expected but not run is a difference only if its policy and workload were.
func (t *Table) Differences(want *Table) []string {
	var diffs []string
	for _, c := range t.Cells {
		switch w := want.Cell(c.Policy, c.Workload, c.Params); {
		case w == nil:
			diffs = append(diffs, fmt.Sprintf("%s on %s: %s, but nothing was expected", c.Policy, column{c.Workload, c.Params}, c.Verdict))
		case w.Verdict != c.Verdict:
			diffs = append(diffs, fmt.Sprintf("%s on %s: %s, expected %s", c.Policy, column{c.Workload, c.Params}, c.Verdict, w.Verdict))
		}
	}
	policies, columns := t.axes()
	ran := func(workload string) bool {
		return slices.ContainsFunc(columns, func(c column) bool { return c.workload == workload })
	}
	for _, w := range want.Cells {
		if t.Cell(w.Policy, w.Workload, w.Params) == nil && slices.Contains(policies, w.Policy) && ran(w.Workload) {
			diffs = append(diffs, fmt.Sprintf("%s on %s: not run, expected %s", w.Policy, column{w.Workload, w.Params}, w.Verdict))
		}
	}
	return diffs
}
