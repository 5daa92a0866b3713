package matrix

import (
	"fmt"
	"io"
	"strings"
)

// GroupCosts are what a group's columns take under a policy: sums over those that come to rest
// under every policy of the table, so that they can be compared between its policies.
type GroupCosts struct {
	Columns int    `json:"columns"`
	Copies  uint64 `json:"copies"` // of 4 KiB
	Atomics uint64 `json:"atomics"`
	Fences  uint64 `json:"fences"`
}

// groupCosts sums the costs of the table's cells, which all have some, by policy and group.
func (t *Table) groupCosts() map[string]map[string]GroupCosts {
	rests := map[column]bool{}
	for _, c := range t.comparable() {
		rests[c] = true
	}
	out := map[string]map[string]GroupCosts{}
	for i := range t.Cells {
		c := &t.Cells[i]
		if out[c.Policy] == nil {
			out[c.Policy] = map[string]GroupCosts{}
		}
		if !rests[column{c.Workload, c.Params}] {
			continue
		}
		g := out[c.Policy][c.Group]
		g.Columns++
		g.Copies += c.Costs.PageCopies
		g.Atomics += c.Costs.Atomics
		g.Fences += c.Costs.Fences
		out[c.Policy][c.Group] = g
	}
	return out
}

// plain is the policy that the others are compared with.
const plain = "stock"

// row returns what a policy costs of itself, nil if the table does not say.
func (t *Table) row(policy string) *Row {
	for i := range t.Rows {
		if t.Rows[i].Policy == policy {
			return &t.Rows[i]
		}
	}
	return nil
}

// more says what a policy takes more than stock in a group: page copies in a column, and
// atomics and fences in percent, or how many times as many if that is twice or more. It is empty if the table cannot tell.
func (t *Table) more(policy, group string) (copies, percent string) {
	r, s := t.row(policy), t.row(plain)
	if r == nil || s == nil {
		return "", ""
	}
	a, b := r.Groups[group], s.Groups[group]
	if a.Columns == 0 || a.Columns != b.Columns || b.Atomics+b.Fences == 0 {
		return "", ""
	}
	diff := float64(int64(a.Copies)-int64(b.Copies)) / float64(a.Columns)
	locked := float64(a.Atomics+a.Fences)/float64(b.Atomics+b.Fences) - 1
	percent = fmt.Sprintf("%+.0f%%", 100*locked)
	if locked >= 1 {
		percent = fmt.Sprintf(" x%.0f", locked+1)
	}
	return strings.TrimSuffix(fmt.Sprintf("%+.1f", diff), ".0"), percent
}

// moreNotes say what the figures of more are.
var moreNotes = []string{
	"beneath, +1+16%: one page copy a column and 16% atomics and fences more than under stock (x3: three",
	"times as many); timed, without columns that do not come to rest under every policy",
}

// costLine is the line of an overview that says what a policy costs in each group; nil if the
// table cannot tell.
func (t *Table) costLine(policy string) []string {
	line, any := []string{""}, false
	for _, g := range t.groups() {
		copies, percent := t.more(policy, g)
		word := ""
		if copies != "" && policy != plain {
			word, any = copies+percent, true
		}
		line = append(line, word)
	}
	if !any {
		return nil
	}
	return line
}

// WriteCostsMarkdown writes what each policy costs, for a README.
func (t *Table) WriteCostsMarkdown(w io.Writer) error {
	groups := t.groups()
	lines := [][]string{append([]string{"policy", "fork, us"}, groups...)}
	for _, r := range t.Rows {
		line := []string{"`" + r.Policy + "`", r.fork("")}
		for _, g := range groups {
			copies, percent := t.more(r.Policy, g)
			if r.Policy == plain {
				x := r.Groups[g]
				copies, percent = fmt.Sprint(x.Copies), fmt.Sprintf("%d + %d", x.Atomics, x.Fences)
			}
			word := "-"
			if copies != "" {
				word = copies + ", " + percent
			}
			line = append(line, word)
		}
		lines = append(lines, line)
	}
	return markdown(w, lines, []string{
		"fork: how long it takes with a direct read of 1 ms in flight. Others: page copies for each column, and atomics with fences in percent (x3: three times as many), more than under `stock`; " +
			"of `stock` itself page copies, atomics and fences, summed over the columns. The small forms are run once in the timed regime; columns that do not come to rest under every policy are left out.",
	})
}
