package matrix

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/cowlab/cowlab/tests/workload"
)

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
