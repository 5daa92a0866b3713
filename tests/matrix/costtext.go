package matrix

import (
	"fmt"
	"strings"
)

// figures are the costs of a cell under their headings.
var figures = []struct {
	head, brief string
	of          func(*Costs) uint64
}{
	{"ATOMICS", "atomics", func(c *Costs) uint64 { return c.Atomics }},
	{"FENCES", "fences", func(c *Costs) uint64 { return c.Fences }},
	{"LINES", "lines", func(c *Costs) uint64 { return c.LineTransfers }},
	{"COPIES", "copies", func(c *Costs) uint64 { return c.PageCopies }},
	{"FAULTS", "faults", func(c *Costs) uint64 { return c.Faults }},
	{"IPIS", "ipis", func(c *Costs) uint64 { return c.IPIs }},
	{"MEMORY", "memory", func(c *Costs) uint64 { return c.Memory }},
	{"FORK", "", func(c *Costs) uint64 { return c.ForkNS }},
	{"NS", "", func(c *Costs) uint64 { return c.NS }},
}

// printCosts prints a table for each column that has costs, beside the verdicts, and nothing
// if none has.
func (t *Table) printCosts(p *printer) {
	_, columns := t.axes()
	head := []string{"POLICY", "VERDICT"}
	for _, f := range figures {
		head = append(head, f.head)
	}
	for _, col := range columns {
		lines := [][]string{head}
		for i := range t.Cells {
			c := &t.Cells[i]
			if c.Costs == nil || (column{c.Workload, c.Params}) != col {
				continue
			}
			line := []string{c.Policy, c.words()}
			for _, f := range figures {
				line = append(line, fmt.Sprint(f.of(c.Costs)))
			}
			if c.Costs.Ended != "" {
				line[len(line)-1] += " until " + c.Costs.Ended
			}
			lines = append(lines, line)
		}
		if len(lines) == 1 {
			continue
		}
		p.line("costs of %s", col)
		widths := widthsOf(lines)
		for _, line := range lines {
			p.line("%s", row(line, widths, 1))
		}
		p.line("")
	}
	if len(t.Rows) == 0 || len(t.Cells) == 0 || t.Cells[0].Costs == nil {
		return
	}
	lines := [][]string{{"POLICY", "FORK"}}
	for _, r := range t.Rows {
		lines = append(lines, []string{r.Policy, r.fork(" us")})
	}
	p.line("fork with a direct read of 1 ms in flight")
	widths := widthsOf(lines)
	for _, line := range lines {
		p.line("%s", row(line, widths, gap))
	}
	p.line("")
}

// comparable are the columns whose runs have come to rest under every policy: sums over them
// can be compared.
func (t *Table) comparable() (out []column) {
	policies, columns := t.axes()
	for _, c := range columns {
		ok := true
		for _, p := range policies {
			cell := t.Cell(p, c.workload, c.params)
			ok = ok && cell != nil && cell.Costs != nil && cell.Costs.Ended == ""
		}
		if ok {
			out = append(out, c)
		}
	}
	return out
}

// costSums are the costs of each policy in a line; empty if there are none.
func (t *Table) costSums() map[string]string {
	columns := t.comparable()
	if len(columns) == 0 {
		return nil
	}
	policies, _ := t.axes()
	out := map[string]string{}
	for _, p := range policies {
		var words []string
		for _, f := range figures {
			if f.brief == "" {
				continue
			}
			sum := uint64(0)
			for _, c := range columns {
				sum += f.of(t.Cell(p, c.workload, c.params).Costs)
			}
			words = append(words, fmt.Sprintf("%s %d", f.brief, sum))
		}
		for _, r := range t.Rows {
			if r.Policy == p {
				words = append(words, "fork "+r.fork("us"))
			}
		}
		out[p] = strings.Join(words, " ")
	}
	return out
}

// costNote says what the lines of costs are.
func (t *Table) costNote() string {
	return fmt.Sprintf("costs: sums over the %d columns that come to rest under every policy; memory: pages at the peak;\nfork: with a direct read of 1 ms in flight", len(t.comparable()))
}
