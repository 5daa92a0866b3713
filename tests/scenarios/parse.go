package scenarios

import (
	"fmt"
	"slices"
	"strings"
)

// Parse reads a scenario. file is what errors call it. The error, if any, is an *Error.
func Parse(file, text string) (*Scenario, error) {
	tokens, comments, err := lex(file, text)
	if err != nil {
		return nil, err
	}
	p := &parser{file: file, tokens: tokens, s: &Scenario{file: file}}
	for _, c := range comments {
		p.s.Story = strings.TrimSpace(p.s.Story + "\n\n" + tidy(c))
	}
	if err := p.scenario(); err != nil {
		return nil, err
	}
	if err := p.s.check(); err != nil {
		return nil, err
	}
	return p.s, nil
}

// tidy strips each line of a comment of its blanks and stars.
func tidy(c string) string {
	lines := strings.Split(strings.TrimSpace(c), "\n")
	for i := range lines {
		l := strings.TrimSpace(lines[i])
		if i > 0 && (l == "*" || strings.HasPrefix(l, "* ")) {
			l = strings.TrimSpace(l[1:])
		}
		lines[i] = l
	}
	return strings.Join(lines, "\n")
}

// parser reads tokens by recursive descent.
type parser struct {
	file   string
	tokens []token
	at     int
	s      *Scenario
	depth  int
}

// maxDepth bounds how deep conditions nest.
const maxDepth = 100

// The bounds of a scenario.
const (
	maxColumns = 8
	maxRows    = 64
	maxMaps    = 16
	maxPages   = 128
	maxHuge    = 8 // pages of 2 MiB
)

func (p *parser) errorf(pos Pos, format string, args ...any) error {
	return &Error{File: p.file, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

// expected is the error for a token that is not what it should be.
func (p *parser) expected(what string) error {
	t := p.peek()
	return p.errorf(t.pos, "found %s, expected %s", t, what)
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != tokEOF {
		p.at++
	}
	return t
}

// is reports whether the next token is that word or punctuation.
func (p *parser) is(text string) bool {
	t := p.peek()
	return (t.kind == tokWord || t.kind == tokPunct) && t.text == text
}

func (p *parser) accept(text string) bool {
	if p.is(text) {
		p.next()
		return true
	}
	return false
}

func (p *parser) newlines() {
	for p.peek().kind == tokNewline {
		p.next()
	}
}

// endLine wants the end of a line.
func (p *parser) endLine(or string) error {
	switch p.peek().kind {
	case tokNewline, tokEOF:
		p.newlines()
		return nil
	}
	if or != "" {
		or += " or "
	}
	return p.expected(or + "the end of the line")
}

func (p *parser) name(what string) (Name, error) {
	t := p.peek()
	if t.kind != tokWord {
		return Name{}, p.expected(what)
	}
	p.next()
	return Name{t.text, t.pos}, nil
}

func (p *parser) number(what string) (Number, error) {
	t := p.peek()
	if t.kind != tokNumber {
		return Number{}, p.expected(what)
	}
	p.next()
	return Number{t.text, t.num, t.pos}, nil
}

// the settings that may come before the table.
var settings = []string{"machine", "map", "pipe", "init", "error", "fail", "search"}

func (p *parser) scenario() error {
	p.newlines()
	if !p.accept("cowlab") {
		return p.expected(`"cowlab" and the scenario's name`)
	}
	n, err := p.name("the scenario's name")
	if err != nil {
		return err
	}
	p.s.Name = n.Text
	if err := p.endLine(""); err != nil {
		return err
	}
	if p.peek().kind == tokString {
		p.s.Doc = p.next().text
		if err := p.endLine(""); err != nil {
			return err
		}
	} else {
		return p.expected("a line in quotes that says what the scenario asks")
	}
	for {
		t := p.peek()
		if t.kind != tokWord {
			return p.expected("a setting (" + strings.Join(settings, ", ") + ") or the names of the columns")
		}
		if !slices.Contains(settings, t.text) {
			break
		}
		p.next()
		if err := p.setting(t); err != nil {
			return err
		}
		if err := p.endLine(""); err != nil {
			return err
		}
	}
	if err := p.table(); err != nil {
		return err
	}
	return p.tail()
}

func (p *parser) setting(t token) error {
	switch t.text {
	case "machine":
		return p.machine()
	case "map":
		return p.mapping()
	case "pipe":
		n, err := p.name("the pipe's name")
		p.s.Pipes = append(p.s.Pipes, n)
		return err
	case "init":
		pl, err := p.place()
		if err != nil {
			return err
		}
		if !p.accept("=") {
			return p.expected(`"=" and the byte that it holds`)
		}
		v, err := p.number("the byte that it holds, 0 to 255")
		p.s.Inits = append(p.s.Inits, Init{pl, v})
		return err
	}
	if t.text == "search" {
		v, err := p.number("how many schedules it takes to see what happens")
		if err == nil && (v.N < 1 || v.N > 1<<20) {
			err = p.errorf(v.Pos, "%s schedules, expected 1 to 1M", v.Text)
		}
		p.s.Search = uint64(max(v.N, 0))
		return err
	}
	if t.text == "fail" {
		return p.allocFail()
	}
	f := Fault{}
	switch {
	case p.accept("write"):
		f.Write = true
	case p.accept("read"):
	default:
		return p.expected(`"read" or "write"`)
	}
	pl, err := p.place()
	f.Place = pl
	p.s.Faults = append(p.s.Faults, f)
	return err
}

// allocFail reads which allocation fails.
func (p *parser) allocFail() error {
	n, err := p.name(`the site that asks for memory, as do_wp_page, or "any"`)
	if err != nil {
		return err
	}
	v, err := p.number("which of its allocations fails, from 1")
	if err == nil && (v.N < 1 || v.N > 1<<10) {
		err = p.errorf(v.Pos, "%s, expected 1 to 1K", v.Text)
	}
	p.s.Fails = append(p.s.Fails, AllocFail{n, v})
	return err
}

func (p *parser) machine() error {
	m := &p.s.Machine
	fields := []struct {
		name string
		v    *int64
	}{{"cpus", &m.CPUs}, {"memory", &m.Memory}, {"disk", &m.Disk}, {"swap", &m.Swap}, {"huge", &m.Huge}, {"reclaim", &m.Reclaim}}
	seen := map[string]bool{}
	for n := 0; p.peek().kind == tokWord || n == 0; n++ {
		switch {
		case p.accept("ksm"):
			m.KSM = true
			continue
		case p.accept("tso"):
			m.TSO = true
			continue
		}
		i := slices.IndexFunc(fields, func(f struct {
			name string
			v    *int64
		}) bool {
			return p.is(f.name)
		})
		if i < 0 {
			return p.expected(`"cpus=", "memory=", "disk=", "swap=", "huge=", "reclaim=", "ksm" or "tso"`)
		}
		if seen[fields[i].name] {
			return p.errorf(p.peek().pos, "%s stands here for the second time, expected it once", fields[i].name)
		}
		seen[fields[i].name] = true
		p.next()
		if !p.accept("=") {
			return p.expected(`"=" and a number`)
		}
		v, err := p.number("a number")
		if err != nil {
			return err
		}
		if err := p.machineLimit(fields[i].name, v); err != nil {
			return err
		}
		*fields[i].v = v.N
	}
	return nil
}

func (p *parser) machineLimit(name string, v Number) error {
	lo, hi, multiple := int64(4<<10), int64(1<<20), int64(512)
	switch name {
	case "cpus":
		lo, hi, multiple = 1, 8, 1
	case "huge":
		lo, hi, multiple = 1, maxHuge, 1
	case "reclaim":
		lo, hi, multiple = 1, MaxReclaim, 1
	case "memory":
		lo, hi, multiple = 1<<20, 64<<20, 4<<10
	case "swap":
		lo, multiple = 12<<10, 4<<10
	}
	if v.N < lo || v.N > hi || v.N%multiple != 0 {
		s := fmt.Sprintf("expected %s to %s", numberText(lo), numberText(hi))
		if multiple > 1 {
			s += fmt.Sprintf(", a multiple of %s", numberText(multiple))
		}
		return p.errorf(v.Pos, "%s is %s, %s", name, v.Text, s)
	}
	return nil
}

func (p *parser) mapping() error {
	n, err := p.name("the mapping's name")
	if err != nil {
		return err
	}
	m := Map{Name: n}
	v, err := p.number("how many pages it has")
	if err != nil {
		return err
	}
	if v.N < 1 || v.N > maxPages {
		return p.errorf(v.Pos, "%s pages, expected 1 to %d", v.Text, maxPages)
	}
	m.Pages = v.N
	if !p.accept("pages") && !p.accept("page") {
		return p.expected(`"page" or "pages"`)
	}
	switch {
	case p.accept("shared"):
		m.Shared = true
	case p.accept("private"):
		m.File = p.accept("file")
	default:
		return p.expected(`"private" or "shared"`)
	}
	if m.Huge = p.accept("huge"); m.Huge && m.File {
		return p.errorf(v.Pos, "%s is a huge mapping of a file, expected one of the two: a file here has small pages", m.Name.Text)
	}
	m.ReadOnly = p.accept("ro")
	p.s.Maps = append(p.s.Maps, m)
	return nil
}

// place reads memory: [COLUMN:]NAME, NAME[OFF], NAME[FROM:TO].
func (p *parser) place() (*Place, error) {
	n, err := p.name("memory, as A, A[0] or A[0:512]")
	if err != nil {
		return nil, err
	}
	pl := &Place{Pos: n.Pos, Name: n.Text, Len: -1}
	if p.accept(":") {
		m, err := p.name("memory, as A, A[0] or A[0:512]")
		if err != nil {
			return nil, err
		}
		pl.Column, pl.Name = n.Text, m.Text
	}
	return pl, p.index(pl)
}

func (p *parser) index(pl *Place) error {
	if !p.accept("[") {
		return nil
	}
	pl.form = slice
	if !p.is(":") {
		v, err := p.number(`a number or ":"`)
		if err != nil {
			return err
		}
		pl.Off = v.N
		if p.accept("]") {
			pl.form, pl.Len = single, 1
			return nil
		}
	}
	if !p.accept(":") {
		return p.expected(`":" or "]"`)
	}
	if !p.is("]") {
		v, err := p.number(`a number or "]"`)
		if err != nil {
			return err
		}
		if pl.Len = v.N - pl.Off; pl.Len <= 0 {
			return p.errorf(v.Pos, "the range ends at %s, expected more than %s", v.Text, numberText(pl.Off))
		}
	}
	if !p.accept("]") {
		return p.expected(`"]"`)
	}
	return nil
}

// table reads the columns.
func (p *parser) table() error {
	for {
		c, err := p.header(len(p.s.Columns) == 0)
		if err != nil {
			return err
		}
		p.s.Columns = append(p.s.Columns, c)
		if len(p.s.Columns) > maxColumns {
			return p.errorf(c.Name.Pos, "more than %d columns", maxColumns)
		}
		if p.accept(";") {
			break
		}
		if !p.accept("|") {
			return p.expected(`"|" and another column, or ";"`)
		}
	}
	for rows := 0; ; rows++ {
		p.newlines()
		t := p.peek()
		if t.kind == tokEOF || t.kind == tokWord && isQuant(t.text) {
			return nil
		}
		if rows == maxRows {
			return p.errorf(t.pos, "more than %d rows", maxRows)
		}
		if err := p.row(); err != nil {
			return err
		}
	}
}

// header reads a column's name and role. Where the first one is wrong, a setting may have
// been meant.
func (p *parser) header(first bool) (*Column, error) {
	n, err := p.name("a column's name")
	if err != nil {
		return nil, err
	}
	c := &Column{Name: n}
	switch {
	case p.accept("child"):
		c.Role = Child
	case p.accept("device"):
		c.Role = Device
	case p.accept("in"):
		c.Role = Within
		c.In, err = p.name("the child that it is a thread of")
	}
	if !p.is("|") && !p.is(";") && err == nil {
		what := `"child", "device", "in" and a child's name, "|" or ";"`
		if first {
			what += fmt.Sprintf(" after the column %q (it is no setting: those are %s)", n.Text, strings.Join(settings, ", "))
		}
		err = p.expected(what)
	}
	return c, err
}

func (p *parser) row() error {
	from := p.peek().pos
	for i, c := range p.s.Columns {
		op, err := p.cell()
		if err != nil {
			return err
		}
		c.Rows = append(c.Rows, op)
		last := i == len(p.s.Columns)-1
		p.newlines()
		switch {
		case last && p.accept(";"), !last && p.accept("|"):
		case last && p.is("|"):
			return p.errorf(p.peek().pos, "a cell too many, expected \";\": there are %d columns", len(p.s.Columns))
		case !last && p.is(";"):
			return p.errorf(p.peek().pos, "the row that begins in line %d has %d cells, expected %d", from.Line, i+1, len(p.s.Columns))
		case last:
			return p.expected(`";" at the end of the row`)
		default:
			return p.expected(`"|" and the next cell`)
		}
	}
	return nil
}

// cell reads an operation, or nothing.
func (p *parser) cell() (*Op, error) {
	p.newlines()
	t := p.peek()
	if t.kind == tokPunct && (t.text == "|" || t.text == ";") {
		return nil, nil
	}
	op := &Op{Pos: t.pos}
	if p.accept("@") {
		op.Verb = opBarrier
		v, err := p.number("the number of the meeting point")
		op.Value = v
		return op, err
	}
	if t.kind != tokWord {
		return nil, p.expected("an operation")
	}
	if v := verbByName(t.text); v != nil {
		p.next()
		return op, p.arguments(op, v)
	}
	switch t.text {
	case "dma":
		p.next()
		return op, p.stores(op, opDMAWrite)
	case "poke":
		p.next()
		return op, p.stores(op, opPoke)
	}
	return op, p.assignment(op)
}

// arguments reads what follows a verb.
func (p *parser) arguments(op *Op, v *verb) error {
	op.Verb, op.verb = v.name, v
	for _, s := range v.slots() {
		t := p.peek()
		a := Arg{Pos: t.pos}
		var err error
		switch s.kind {
		case "NAME":
			var n Name
			n, err = p.name(s.wants())
			a.Word = n.Text
		case "NUM":
			if s.optional && t.kind != tokNumber {
				continue
			}
			a.Num, err = p.number(s.wants())
		case "PLACE":
			a.Place, err = p.place()
		default:
			if t.kind == tokWord && slices.Contains(s.words, t.text) {
				a.Word = p.next().text
			} else if s.optional {
				continue
			} else {
				err = p.expected(s.wants())
			}
		}
		if err != nil {
			return err
		}
		op.Args = append(op.Args, a)
	}
	if !p.atCellEnd() {
		return p.expected(fmt.Sprintf("the end of the cell after %q", strings.TrimSpace(v.name+" "+v.pattern)))
	}
	return nil
}

// atCellEnd reports whether a cell ends here.
func (p *parser) atCellEnd() bool {
	t := p.peek()
	return t.kind == tokNewline || t.kind == tokEOF || t.kind == tokPunct && (t.text == "|" || t.text == ";")
}

// stores reads PLACE = NUM.
func (p *parser) stores(op *Op, verb string) (err error) {
	op.Verb = verb
	if op.Place, err = p.place(); err != nil {
		return err
	}
	if !p.accept("=") {
		return p.expected(`"=" and the byte to store`)
	}
	op.Value, err = p.number("the byte to store, 0 to 255")
	return err
}

// assignment reads a store, or what gives a register its value.
func (p *parser) assignment(op *Op) error {
	from := p.at
	left, err := p.place()
	if err != nil {
		return err
	}
	if !p.accept("=") {
		if left.form == whole && left.Column == "" {
			switch Quant(left.Name) {
			case Never, Sometimes, Always:
				return p.errorf(left.Pos, "found %q among the rows, expected \";\" at the end of the row before it", left.Name)
			}
			return p.errorf(left.Pos, "%q is no operation, expected one (%s, dma, poke) or \"=\" after it", left.Name, strings.Join(verbNames(), ", "))
		}
		return p.expected(`"=" and the byte to store`)
	}
	t := p.peek()
	if t.kind == tokNumber {
		p.at = from
		return p.stores(op, opStore)
	}
	if left.form != whole || left.Column != "" {
		return p.expected("the byte to store, 0 to 255")
	}
	op.Dst = Name{left.Name, left.Pos}
	switch {
	case p.accept("dma"):
		op.Verb = opDMARead
		op.Place, err = p.place()
		return err
	case p.accept("peek"):
		op.Verb = opPeek
		op.Place, err = p.place()
		return err
	}
	if t.kind != tokWord {
		return p.expected("a number, memory, an operation or a function")
	}
	if v := verbByName(t.text); v != nil {
		if v.result == "" {
			return p.errorf(t.pos, "%q has no result, expected it without \"%s =\"", v.name, left.Name)
		}
		p.next()
		return p.arguments(op, v)
	}
	if p.tokens[p.at+1].text == "(" { // there is an EOF token at least
		op.Verb = opSample
		op.Term, err = p.term()
		return err
	}
	op.Verb = opLoad
	op.Place, err = p.place()
	return err
}
