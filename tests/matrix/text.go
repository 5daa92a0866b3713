package matrix

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/cowlab/cowlab/tests/workload"
)

// brief are the words of an overview, which has room for four letters.
var brief = map[workload.Verdict]string{
	workload.LostRead: "lost", workload.LeakToDisk: "disk", workload.LeakToChild: "pipe", workload.ChildChanged: "chld",
	workload.TornSnapshot: "torn", workload.WrongCopy: "copy", workload.Bug: "bug", workload.Deadlock: "dead",
	workload.Livelock: "live", workload.OOM: "oom", workload.Leak: "leak", workload.Refused: "refd", workload.Safe: "safe",
}

// heads are what an overview calls the groups.
var heads = map[string]string{
	workload.ForwardRace: "FORWARD", workload.ReverseRace: "REVERSE", workload.Disclosure: "DISCLOSE", workload.Swap: "SWAP",
	workload.Hugetlb: "HUGETLB", workload.OtherUsers: "OTHERS", workload.Semantics: "SEMANTIC", workload.Liveness: "LIVENESS",
}

// WriteText writes the table: the overview, or a table for each group and the evidence for
// every cell.
func (t *Table) WriteText(w io.Writer, detail bool) error {
	p := &printer{w: w}
	if detail {
		t.detail(p)
	} else {
		t.overview(p)
	}
	return p.err
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, strings.TrimRight(fmt.Sprintf(format, args...), " ")+"\n")
	}
}

// nameWidth is the width of the column of policies in an overview; a longer name has a
// line of its own.
const nameWidth = 20

// overview prints the sums of groups, with costs if there are any, and how to see more.
func (t *Table) overview(p *printer) {
	costs := t.costSums()
	lines := t.sums(strings.Clone, func(s Sum) string {
		gap := " "
		if s.Verdict != workload.Safe && !s.Covered {
			gap = mark
		}
		return fmt.Sprintf("%-4s%s%d/%d", brief[s.Verdict], gap, s.Safe, s.Columns)
	})
	for i, g := range lines[0] {
		lines[0][i] = strings.ToUpper(g)
		if h := heads[g]; h != "" {
			lines[0][i] = h
		}
	}
	told := false
	all := lines
	for _, line := range lines[1:] {
		if more := t.costLine(line[0]); more != nil {
			all = append(all, more)
		}
	}
	widths := widthsOf(all)
	widths[0] = min(widths[0], nameWidth)
	for i, line := range lines {
		name := line[0]
		if len(name) > nameWidth {
			p.line("%s", name)
			name = ""
		}
		p.line("%s", row(append([]string{name}, line[1:]...), widths, 1))
		if more := t.costLine(line[0]); i > 0 && more != nil {
			p.line("%s", row(more, widths, 1))
			told = true
		}
		if c := costs[line[0]]; i > 0 && c != "" {
			p.line("  %s", c)
		}
	}
	p.line("%s", sumNote)
	for _, n := range moreNotes {
		if told {
			p.line("%s", n)
		}
	}
	p.line("%s", markNote)
	var words []string
	for _, v := range workload.Verdicts() {
		if s := brief[v]; s != "" && s != string(v) {
			words = append(words, s+" "+string(v))
		}
	}
	p.line("%s", strings.Join(words[:5], ", ")+",")
	p.line("%s", strings.Join(words[5:], ", "))
	if len(costs) > 0 {
		p.line("%s", t.costNote())
	}
	p.line("")
	t.examples(p)
}

// examples prints one witness of each group.
func (t *Table) examples(p *printer) {
	for _, g := range t.groups() {
		var worst *Cell
		for i := range t.Cells {
			c := &t.Cells[i]
			if c.Group == g && c.Token != "" && (worst == nil || c.Verdict.Graver(worst.Verdict)) {
				worst = c
			}
		}
		if worst != nil {
			p.line("%s, for one: %s on %s: %s", g, worst.Policy, column{worst.Workload, worst.Params}, worst.Verdict)
			p.line("    cowlab replay %s", worst.Token)
		}
	}
}

// detail prints a table for each group, and the evidence.
func (t *Table) detail(p *printer) {
	groups := t.groups()
	for _, g := range groups {
		part := t.of(g)
		if len(groups) > 1 && g != "" {
			p.line("%s", strings.ToUpper(g))
		}
		part.pieces(p)
	}
	for _, n := range t.notes() {
		p.line("%s", n)
	}
	p.line("%s", countNote)
	p.line("")
	t.printCosts(p)
	for i := range t.Cells {
		t.Cells[i].evidence(p)
	}
}

// pieces prints the table in as many pieces as its width asks for.
func (t *Table) pieces(p *printer) {
	lines := t.grid(strings.Clone, func(c *Cell) string { return c.words() + c.count() })
	lines[0][0] = strings.ToUpper(lines[0][0])
	widths := widthsOf(lines)
	for from := 1; from < len(widths); {
		to, total := from, widths[0]
		for to < len(widths) && (to == from || total+gap+widths[to] <= width) {
			total += gap + widths[to]
			to++
		}
		ws := append(widths[:1:1], widths[from:to]...)
		for _, line := range lines {
			p.line("%s", row(append(line[:1:1], line[from:to]...), ws, gap))
		}
		p.line("")
		from = to
	}
}

// gap is the room between columns.
const gap = 2

// widthsOf are the widths of the columns.
func widthsOf(lines [][]string) []int {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, s := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(s))
		}
	}
	return widths
}

// row lays a line out.
func row(line []string, widths []int, gap int) string {
	var b strings.Builder
	for i, s := range line {
		fmt.Fprintf(&b, "%-*s", widths[i]+gap, s)
	}
	return b.String()
}

// evidence prints what there is to say about the cell.
func (c *Cell) evidence(p *printer) {
	p.line("%s on %s: %s", c.Policy, column{c.Workload, c.Params}, c.all())
	if c.Detail != "" {
		p.line("    %s", strings.ReplaceAll(strings.TrimSpace(c.Detail), "\n", "\n    "))
	}
	if c.Token != "" {
		p.line("    cowlab replay %s", c.Token)
	}
	if c.Bound != "" {
		p.line("    searched: %s", c.Bound)
	}
}
