package scenarios

import (
	"fmt"
	"strings"
)

// Print writes a scenario in its canonical form. What it prints parses to the same
// scenario. Comments other than those at the head are gone.
func (s *Scenario) Print() string {
	var b strings.Builder
	if s.Story != "" {
		lines := strings.Split(s.Story, "\n")
		for i := range lines {
			if i > 0 {
				lines[i] = strings.TrimRight(" * "+lines[i], " ")
			}
		}
		fmt.Fprintf(&b, "(* %s *)\n\n", strings.Join(lines, "\n"))
	}
	fmt.Fprintf(&b, "cowlab %s\n\"%s\"\n", s.Name, s.Doc)
	b.WriteByte('\n')
	s.printHead(&b)
	s.printTable(&b)
	fmt.Fprintf(&b, "\n%s %s\n", s.Cond.Quant, s.Cond.Expr.exprString(0))
	if len(s.Show) > 0 {
		var terms []string
		for _, t := range s.Show {
			terms = append(terms, t.String())
		}
		fmt.Fprintf(&b, "show %s\n", strings.Join(terms, ", "))
	}
	width := 0
	for _, e := range s.Expects {
		width = max(width, len(e.Policy.Text))
	}
	for _, e := range s.Expects {
		fmt.Fprintf(&b, "expect %-*s %s", width, e.Policy.Text, e.Quant)
		for _, a := range e.Also {
			fmt.Fprintf(&b, " %s", a.Text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (s *Scenario) printHead(b *strings.Builder) {
	m := s.Machine
	var parts []string
	for _, f := range []struct {
		name string
		v    int64
	}{{"cpus", m.CPUs}, {"memory", m.Memory}, {"disk", m.Disk}, {"swap", m.Swap}, {"huge", m.Huge}, {"reclaim", m.Reclaim}} {
		if f.v != 0 {
			parts = append(parts, f.name+"="+numberText(f.v))
		}
	}
	if m.KSM {
		parts = append(parts, "ksm")
	}
	if m.TSO {
		parts = append(parts, "tso")
	}
	if parts != nil {
		fmt.Fprintf(b, "machine %s\n", strings.Join(parts, " "))
	}
	for _, m := range s.Maps {
		fmt.Fprintf(b, "map %s %s\n", m.Name.Text, mapText(m))
	}
	for _, p := range s.Pipes {
		fmt.Fprintf(b, "pipe %s\n", p.Text)
	}
	for _, in := range s.Inits {
		fmt.Fprintf(b, "init %s = %s\n", in.Place, in.Value.Text)
	}
	for _, f := range s.Faults {
		dir := "read"
		if f.Write {
			dir = "write"
		}
		fmt.Fprintf(b, "error %s %s\n", dir, f.Place)
	}
	for _, f := range s.Fails {
		fmt.Fprintf(b, "fail %s %s\n", f.Site.Text, f.Nth.Text)
	}
	if s.Search != 0 {
		fmt.Fprintf(b, "search %d\n", s.Search)
	}
	b.WriteByte('\n')
}

func mapText(m Map) string {
	pages, kind := "pages", "private"
	if m.Pages == 1 {
		pages = "page"
	}
	if m.Shared {
		kind = "shared"
	}
	if m.File {
		kind += " file"
	}
	if m.Huge {
		kind += " huge"
	}
	if m.ReadOnly {
		kind += " ro"
	}
	return fmt.Sprintf("%d %s %s", m.Pages, pages, kind)
}

func (s *Scenario) printTable(b *strings.Builder) {
	rows := 0
	widths := make([]int, len(s.Columns))
	cells := make([][]string, len(s.Columns))
	for i, c := range s.Columns {
		rows = len(c.Rows)
		cells[i] = append(cells[i], c.header())
		for _, op := range c.Rows {
			text := ""
			if op != nil {
				text = op.String()
			}
			cells[i] = append(cells[i], text)
		}
		for _, t := range cells[i] {
			widths[i] = max(widths[i], len(t))
		}
	}
	for r := range rows + 1 {
		for i := range cells {
			sep := " | "
			if i == len(cells)-1 {
				sep = " ;\n"
			}
			if i == 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(b, "%-*s%s", widths[i], cells[i][r], sep)
		}
	}
}

func (c *Column) header() string {
	switch c.Role {
	case Child:
		return c.Name.Text + " child"
	case Within:
		return c.Name.Text + " in " + c.In.Text
	case Device:
		return c.Name.Text + " device"
	}
	return c.Name.Text
}

// String writes an operation as it stands in a cell.
func (o *Op) String() string {
	dst := ""
	if o.Dst.Text != "" {
		dst = o.Dst.Text + " = "
	}
	switch o.Verb {
	case opStore:
		return fmt.Sprintf("%s = %s", o.Place, o.Value.Text)
	case opDMAWrite:
		return fmt.Sprintf("dma %s = %s", o.Place, o.Value.Text)
	case opPoke:
		return fmt.Sprintf("poke %s = %s", o.Place, o.Value.Text)
	case opLoad:
		return dst + o.Place.String()
	case opDMARead:
		return dst + "dma " + o.Place.String()
	case opPeek:
		return dst + "peek " + o.Place.String()
	case opSample:
		return dst + o.Term.String()
	case opBarrier:
		return "@" + o.Value.Text
	}
	parts := []string{dst + o.Verb}
	for _, a := range o.Args {
		switch {
		case a.Place != nil:
			parts = append(parts, a.Place.String())
		case a.Num.Text != "":
			parts = append(parts, a.Num.Text)
		default:
			parts = append(parts, a.Word)
		}
	}
	return strings.Join(parts, " ")
}

// String writes a place as scenarios do.
func (p *Place) String() string {
	name := p.Name
	if p.Column != "" {
		name = p.Column + ":" + name
	}
	switch p.form {
	case single:
		return fmt.Sprintf("%s[%s]", name, numberText(p.Off))
	case slice:
		return fmt.Sprintf("%s[%s:%s]", name, numberText(p.Off), numberText(p.Off+p.Len))
	}
	return name
}

// String writes a term as scenarios do.
func (t *Term) String() string {
	switch {
	case t.Number != nil:
		return t.Number.Text
	case t.Reg != "":
		return t.Column + ":" + t.Reg
	case t.Place != nil:
		return t.Place.String()
	case t.Word.Text != "":
		return fmt.Sprintf("%s(%s)", t.Func, t.Word.Text)
	case t.Args == nil:
		return t.Func
	}
	var args []string
	for _, p := range t.Args {
		args = append(args, p.String())
	}
	return fmt.Sprintf("%s(%s)", t.Func, strings.Join(args, ", "))
}

// The precedences of operators, for parentheses.
const (
	precOr = iota + 1
	precAnd
	precNot
)

func parens(s string, inner, outer int) string {
	if inner < outer {
		return "(" + s + ")"
	}
	return s
}

func (e *Or) exprString(prec int) string {
	return parens(e.X.exprString(precOr)+` \/ `+e.Y.exprString(precOr+1), precOr, prec)
}

func (e *And) exprString(prec int) string {
	return parens(e.X.exprString(precAnd)+` /\ `+e.Y.exprString(precAnd+1), precAnd, prec)
}

func (e *Not) exprString(int) string { return "~" + e.X.exprString(precNot+1) }

func (e *Compare) exprString(prec int) string {
	if e.Op == "" {
		return e.X.String()
	}
	return parens(e.X.String()+" "+e.Op+" "+e.Y.String(), precNot, prec)
}

// String writes the condition without its quantifier.
func (c Cond) String() string { return c.Expr.exprString(0) }
