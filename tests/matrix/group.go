package matrix

import (
	"fmt"
	"slices"

	"github.com/cowlab/cowlab/tests/workload"
)

// Sum is one policy on one group of columns.
type Sum struct {
	// Verdict is the gravest of the cells.
	Verdict workload.Verdict
	// Covered is set unless the policy promises nothing against what was seen, in any
	// of the cells with that verdict.
	Covered bool
	// Safe and Columns count cells.
	Safe, Columns int
}

// Sum sums up the cells of a policy in a group; ok is false if there are none.
func (t *Table) Sum(policy, group string) (s Sum, ok bool) {
	s.Verdict = workload.Safe
	for i := range t.Cells {
		c := &t.Cells[i]
		if c.Policy != policy || c.Group != group {
			continue
		}
		s.Columns++
		covered := !slices.Contains(c.Also, workload.NotCovered)
		switch {
		case c.Verdict == workload.Safe:
			s.Safe++
		case c.Verdict.Graver(s.Verdict):
			s.Verdict, s.Covered = c.Verdict, covered
		case c.Verdict == s.Verdict:
			s.Covered = s.Covered || covered
		}
	}
	return s, s.Columns > 0
}

// groups lists the groups that the table has cells of, in the order of tables.
func (t *Table) groups() (out []string) {
	has := func(g string) bool { return slices.ContainsFunc(t.Cells, func(c Cell) bool { return c.Group == g }) }
	for _, g := range append(workload.Groups(), "") {
		if has(g) {
			out = append(out, g)
		}
	}
	return out
}

// of is the part of the table that is in a group.
func (t *Table) of(group string) *Table {
	return t.where(func(c *Cell) bool { return c.Group == group })
}

// where is the part of the table for which keep holds.
func (t *Table) where(keep func(*Cell) bool) *Table {
	out := &Table{Cells: []Cell{}}
	for i := range t.Cells {
		if keep(&t.Cells[i]) {
			out.Cells = append(out.Cells, t.Cells[i])
		}
	}
	policies, _ := out.axes()
	for _, r := range t.Rows {
		if slices.Contains(policies, r.Policy) {
			out.Rows = append(out.Rows, r)
		}
	}
	return out
}

// Only is the part of the table that has to do with these policies, workloads and groups; an
// empty list is all of them. The error says what the table has not.
func (t *Table) Only(policies, workloads, groups []string) (*Table, error) {
	for _, x := range []struct {
		what  string
		names []string
		of    func(*Cell) string
	}{
		{"policy", policies, func(c *Cell) string { return c.Policy }},
		{"workload", workloads, func(c *Cell) string { return c.Workload }},
		{"group", groups, func(c *Cell) string { return c.Group }},
	} {
		for _, n := range x.names {
			if !slices.ContainsFunc(t.Cells, func(c Cell) bool { return x.of(&c) == n }) {
				return nil, fmt.Errorf("the table has no %s %s", x.what, n)
			}
		}
	}
	in := func(names []string, name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	return t.where(func(c *Cell) bool {
		return in(policies, c.Policy) && in(workloads, c.Workload) && in(groups, c.Group)
	}), nil
}
