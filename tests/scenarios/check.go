package scenarios

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// checker finds what a scenario means, and what in it means nothing.
type checker struct {
	s      *Scenario
	maps   map[string]int64 // bytes
	later  map[string]bool  // mapped by mmap
	pins   map[string]int64 // bytes
	pipes  map[string]bool
	regs   map[string]map[string]bool // by column
	cols   map[string]*Column
	sets   map[string]bool
	awaits map[string]Pos
	meets  map[int64][]*Column
	meetAt map[int64]Pos
	pages  int64 // of all mappings
}

func (s *Scenario) errorf(p Pos, format string, args ...any) error {
	return &Error{File: s.file, Pos: p, Msg: fmt.Sprintf(format, args...)}
}

// check resolves names. The error is an *Error.
func (s *Scenario) check() error {
	c := &checker{
		s: s, maps: map[string]int64{}, later: map[string]bool{}, pins: map[string]int64{}, pipes: map[string]bool{},
		regs: map[string]map[string]bool{}, cols: map[string]*Column{}, sets: map[string]bool{}, awaits: map[string]Pos{},
		meets: map[int64][]*Column{}, meetAt: map[int64]Pos{},
	}
	for _, step := range []func() error{c.names, c.processes, c.declarations, c.operations, c.meetings, c.settings, c.condition} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// names enters what the head declares.
func (c *checker) names() error {
	s := c.s
	if len(s.Maps) > maxMaps {
		return s.errorf(s.Maps[maxMaps].Name.Pos, "more than %d mappings", maxMaps)
	}
	seen := map[string]bool{"disk": true}
	once := func(n Name) error {
		if seen[n.Text] {
			return s.errorf(n.Pos, "%q is taken, expected another name", n.Text)
		}
		seen[n.Text] = true
		return nil
	}
	for _, m := range s.Maps {
		if err := once(m.Name); err != nil {
			return err
		}
		if c.pages += m.Pages; c.pages > maxPages {
			return s.errorf(m.Name.Pos, "more than %d pages in all", maxPages)
		}
		if m.Huge && s.Machine.Huge == 0 {
			return s.errorf(m.Name.Pos, "the machine has no huge pages, expected \"machine huge=2\" or the like")
		}
		c.maps[m.Name.Text] = m.Pages * m.pageBytes()
	}
	for _, p := range s.Pipes {
		if err := once(p); err != nil {
			return err
		}
		c.pipes[p.Text] = true
	}
	for _, col := range s.Columns {
		if err := once(col.Name); err != nil {
			return err
		}
		c.cols[col.Name.Text] = col
		c.regs[col.Name.Text] = map[string]bool{}
	}
	return nil
}

// processes finds which column belongs to which process.
func (c *checker) processes() error {
	s := c.s
	var root *proc
	for _, col := range s.Columns {
		switch col.Role {
		case Thread:
			if root == nil {
				root = &proc{name: col.Name.Text}
			}
			col.proc = root
			root.columns = append(root.columns, col)
		case Child:
			col.proc = &proc{name: col.Name.Text, columns: []*Column{col}}
		}
	}
	if root == nil {
		return s.errorf(s.Columns[0].Name.Pos, "there is no thread, expected a column without \"child\", \"in\" or \"device\"")
	}
	for _, col := range s.Columns {
		if col.Role != Within {
			continue
		}
		of := c.cols[col.In.Text]
		if of == nil || of.Role != Child {
			return s.errorf(col.In.Pos, "%q is no child, expected the name of a column that is one", col.In.Text)
		}
		col.proc = of.proc
		of.proc.columns = append(of.proc.columns, col)
	}
	for _, col := range s.Columns {
		for _, op := range col.Rows {
			if op == nil || op.Verb != "fork" && op.Verb != "vfork" || col.Role == Device {
				continue
			}
			a := op.Args[0]
			child := c.cols[a.Word]
			switch {
			case child == nil || child.Role != Child:
				return s.errorf(a.Pos, "%q is no child, expected the name of a column that is one", a.Word)
			case child.forks != nil:
				return s.errorf(a.Pos, "%q is forked in line %d already, expected one fork for each child", a.Word, child.forks.Pos.Line)
			}
			child.forks = op
			child.proc.parent, child.proc.vfork = col.proc, op.Verb == "vfork"
		}
	}
	for _, col := range s.Columns {
		if col.Role != Child {
			continue
		}
		if col.forks == nil {
			return s.errorf(col.Name.Pos, "nobody forks %q, expected \"fork %s\" in another column", col.Name.Text, col.Name.Text)
		}
		p := col.proc
		for n := 0; p != root; p = p.parent {
			if n++; p.parent == nil || n > len(s.Columns) {
				return s.errorf(col.Name.Pos, "%q is never forked, what forks it descends from it; expected a fork in another process", col.Name.Text)
			}
		}
	}
	return nil
}

// declarations enters what operations name: registers, pins, mappings, events.
func (c *checker) declarations() error {
	for _, col := range c.s.Columns {
		for _, op := range col.Rows {
			if op == nil {
				continue
			}
			if n := op.Dst; n.Text != "" {
				if _, ok := c.maps[n.Text]; ok || c.cols[n.Text] != nil || c.pipes[n.Text] || n.Text == "disk" {
					return c.s.errorf(n.Pos, "%q is taken, expected another name for a register", n.Text)
				}
				c.regs[col.Name.Text][n.Text] = true
			}
			switch op.Verb {
			case "mmap":
				n, pages := op.Args[0], op.Args[1].Num
				if pages.N < 1 || pages.N > maxPages {
					return c.s.errorf(pages.Pos, "%s pages, expected 1 to %d", pages.Text, maxPages)
				}
				if _, ok := c.maps[n.Word]; ok || c.cols[n.Word] != nil || c.pipes[n.Word] || n.Word == "disk" {
					return c.s.errorf(n.Pos, "%q is taken, expected another name", n.Word)
				}
				if c.pages += pages.N; c.pages > maxPages {
					return c.s.errorf(pages.Pos, "more than %d pages in all", maxPages)
				}
				c.maps[n.Word], c.later[n.Word] = pages.N<<x86.PageShift, true
			case "set":
				c.sets[op.Args[0].Word] = true
			case "await":
				c.awaits[op.Args[0].Word] = op.Args[0].Pos
			case opBarrier:
				n := op.Value
				if slices.Contains(c.meets[n.N], col) {
					return c.s.errorf(n.Pos, "@%s stands in column %s twice, expected another number", n.Text, col.Name.Text)
				}
				c.meets[n.N] = append(c.meets[n.N], col)
				c.meetAt[n.N] = n.Pos
			}
		}
	}
	for _, col := range c.s.Columns {
		for _, op := range col.Rows {
			if op == nil || op.Verb != "pin" {
				continue
			}
			a := op.Args[0]
			_, taken := c.pins[a.Word]
			_, mapped := c.maps[a.Word]
			if taken || mapped || c.cols[a.Word] != nil || c.pipes[a.Word] || a.Word == "disk" {
				return c.s.errorf(a.Pos, "%q is taken, expected another name for the pin", a.Word)
			}
			if err := c.memory(op.Args[1].Place); err != nil {
				return err
			}
			c.pins[a.Word] = op.Args[1].Place.Len
		}
	}
	return nil
}

// operations checks each cell.
func (c *checker) operations() error {
	for _, col := range c.s.Columns {
		ended := false
		for _, op := range col.Rows {
			if op == nil {
				continue
			}
			if ended {
				return c.s.errorf(op.Pos, "this comes after exit, expected nothing more in column %s", col.Name.Text)
			}
			ended = op.Verb == "exit"
			if err := c.operation(col, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) operation(col *Column, op *Op) error {
	s := c.s
	if col.Role == Device {
		allowed := op.verb != nil && op.verb.device || op.Verb == opDMARead || op.Verb == opDMAWrite || op.Verb == opBarrier || op.Verb == opSample
		if !allowed {
			return s.errorf(op.Pos, "a device cannot do that, expected dma, unpin, hold, release, set, await, @ or a function")
		}
	}
	switch op.Verb {
	case opStore, opDMAWrite, opPoke:
		if op.Value.N < 0 || op.Value.N > 255 {
			return s.errorf(op.Value.Pos, "%s is no byte, expected 0 to 255", op.Value.Text)
		}
	}
	switch op.Verb {
	case opStore, opLoad:
		return c.own(op.Place)
	case opDMARead, opDMAWrite:
		return c.pin(op.Place)
	case opPeek, opPoke:
		if op.Place.Column == "" || op.Place.form != single {
			return s.errorf(op.Place.Pos, "expected a byte of another process, as C:A[0]")
		}
		return c.memory(op.Place)
	case opSample:
		return c.term(op.Term, col)
	case opBarrier:
		return nil
	}
	for i, sl := range fitted(op) {
		a := &op.Args[i]
		if sl == "PLACE" {
			if err := c.own(a.Place); err != nil {
				return err
			}
		}
	}
	return c.verb(op)
}

// fitted returns the kinds of an operation's arguments.
func fitted(op *Op) []string {
	var kinds []string
	for _, a := range op.Args {
		switch {
		case a.Place != nil:
			kinds = append(kinds, "PLACE")
		case a.Num.Text != "":
			kinds = append(kinds, "NUM")
		default:
			kinds = append(kinds, "NAME")
		}
	}
	return kinds
}

// verb checks what only some verbs ask for.
func (c *checker) verb(op *Op) error {
	s := c.s
	switch op.Verb {
	case "pread", "pwrite", "io_read", "io_write", "hold", "release":
		if s.Machine.Disk == 0 {
			return s.errorf(op.Pos, "the machine has no disk, expected \"machine disk=4K\" or the like")
		}
	case "ksm":
		if !s.Machine.KSM {
			return s.errorf(op.Pos, "the machine has no KSM, expected \"machine ksm\"")
		}
		if n := op.Args[0].Num; n.N < 1 || n.N > 8 {
			return s.errorf(n.Pos, "%s passes, expected 1 to 8", n.Text)
		}
	case "madvise":
		if op.Args[1].Word == "mergeable" && !s.Machine.KSM {
			return s.errorf(op.Pos, "the machine has no KSM, expected \"machine ksm\"")
		}
	case "swapout":
		if s.Machine.Swap == 0 {
			return s.errorf(op.Pos, "the machine has no swap, expected \"machine swap=64K\" or the like")
		}
	case "pause":
		if n := op.Args[0].Num; n.N < 1 || n.N > 1000 {
			return s.errorf(n.Pos, "%s steps, expected 1 to 1000", n.Text)
		}
	case "unpin":
		if _, ok := c.pins[op.Args[0].Word]; !ok {
			return s.errorf(op.Args[0].Pos, "nobody pins %q, expected %s", op.Args[0].Word, oneOf(keys(c.pins), "a pin"))
		}
	case "vmsplice", "pipe_read":
		if !c.pipes[op.Args[0].Word] {
			return s.errorf(op.Args[0].Pos, "there is no pipe %q, expected %s", op.Args[0].Word, oneOf(keys(c.pipes), "\"pipe NAME\" at the head and its name"))
		}
		if op.Verb == "pipe_read" && (op.Args[1].Num.N < 1 || op.Args[1].Num.N > 64<<10) {
			return s.errorf(op.Args[1].Pos, "%s bytes, expected 1 to 64K", op.Args[1].Num.Text)
		}
	case "mremap":
		if _, ok := c.maps[op.Args[0].Word]; !ok {
			return s.errorf(op.Args[0].Pos, "there is no mapping %q, expected %s", op.Args[0].Word, oneOf(keys(c.maps), "a mapping"))
		}
	case "wait":
		child := c.cols[op.Args[0].Word]
		if child == nil || child.Role != Child {
			return s.errorf(op.Args[0].Pos, "%q is no child, expected the name of a column that is one", op.Args[0].Word)
		}
		if !endsByExit(child) {
			return s.errorf(op.Args[0].Pos, "%s would never end, expected \"exit\" at the end of its column", child.Name.Text)
		}
	}
	return nil
}

func endsByExit(c *Column) bool {
	for i := len(c.Rows) - 1; i >= 0; i-- {
		if c.Rows[i] != nil {
			return c.Rows[i].Verb == "exit"
		}
	}
	return false
}

// own checks memory of the column's own process.
func (c *checker) own(p *Place) error {
	if p.Column != "" {
		return c.s.errorf(p.Pos, "expected memory of the column's own process, without \"%s:\"", p.Column)
	}
	return c.memory(p)
}

// memory checks a place in a mapping and fills in its length.
func (c *checker) memory(p *Place) error {
	size, ok := c.maps[p.Name]
	if !ok {
		return c.s.errorf(p.Pos, "there is no mapping %q, expected %s", p.Name, oneOf(keys(c.maps), "\"map NAME 1 page private\" at the head and its name"))
	}
	if p.Column != "" {
		if col := c.cols[p.Column]; col == nil || col.Role == Device {
			return c.s.errorf(p.Pos, "%q has no memory, expected the name of a column that is a thread or a child", p.Column)
		}
	}
	return c.within(p, size)
}

// pin checks a place in a pin.
func (c *checker) pin(p *Place) error {
	size, ok := c.pins[p.Name]
	if !ok || p.Column != "" {
		return c.s.errorf(p.Pos, "nobody pins %q, expected %s", p.Name, oneOf(keys(c.pins), "\"pin NAME ...\" in a column and its name"))
	}
	return c.within(p, size)
}

func (c *checker) within(p *Place, size int64) error {
	if p.Len < 0 {
		p.Len = size - p.Off
	}
	if p.Off >= size || p.Len > size-p.Off {
		return c.s.errorf(p.Pos, "%s has %s bytes, expected a place within", p.Name, numberText(size))
	}
	return nil
}

// meetings checks what columns wait for.
func (c *checker) meetings() error {
	for _, n := range keys(c.meets) {
		if len(c.meets[n]) < 2 {
			return c.s.errorf(c.meetAt[n], "@%d stands in one column only, expected it in another one, too", n)
		}
	}
	for _, e := range keys(c.awaits) {
		if !c.sets[e] {
			return c.s.errorf(c.awaits[e], "%q never happens, expected \"set %s\" in another column", e, e)
		}
	}
	return nil
}

// settings checks what memory and disk begin with.
func (c *checker) settings() error {
	s := c.s
	for _, in := range s.Inits {
		if in.Value.N < 0 || in.Value.N > 255 {
			return s.errorf(in.Value.Pos, "%s is no byte, expected 0 to 255", in.Value.Text)
		}
		if err := c.bytes(in.Place); err != nil {
			return err
		}
	}
	for _, f := range s.Faults {
		if f.Place.Name != "disk" {
			return s.errorf(f.Place.Pos, "expected bytes of the disk, as disk[0:512]")
		}
		if err := c.bytes(f.Place); err != nil {
			return err
		}
	}
	return nil
}

// bytes checks a place of the head: of the disk, or of a mapping that exists then.
func (c *checker) bytes(p *Place) error {
	if p.Name == "disk" && p.Column == "" {
		if c.s.Machine.Disk == 0 {
			return c.s.errorf(p.Pos, "the machine has no disk, expected \"machine disk=4K\" or the like")
		}
		return c.within(p, c.s.Machine.Disk)
	}
	if c.later[p.Name] {
		return c.s.errorf(p.Pos, "%q is not mapped at the beginning", p.Name)
	}
	return c.own(p)
}

// condition checks the terms of the condition, and the policies.
func (c *checker) condition() error {
	var err error
	eachTerm(c.s.Cond.Expr, func(t *Term) {
		if err == nil {
			err = c.term(t, nil)
		}
	})
	eachCompare(c.s.Cond.Expr, func(x *Compare) {
		if err == nil {
			err = c.s.byteRange(x)
		}
	})
	for _, t := range c.s.Show {
		if err == nil {
			err = c.term(t, nil)
		}
	}
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, e := range c.s.Expects {
		if seen[e.Policy.Text] {
			return c.s.errorf(e.Policy.Pos, "%q has a line already, expected one for each policy", e.Policy.Text)
		}
		seen[e.Policy.Text] = true
	}
	return nil
}

// term checks a term of a condition, or of a column.
func (c *checker) term(t *Term, col *Column) error {
	s := c.s
	switch t.Func {
	case "counter":
		if _, ok := trace.CounterByName(t.Word.Text); !ok {
			return s.errorf(t.Word.Pos, "there is no counter %q, expected one as \"cowlab run\" prints them, as pgfault or emu_cow_copy", t.Word.Text)
		}
		return nil
	case "segv":
		if x := c.cols[t.Word.Text]; x == nil || x.Role == Device {
			return s.errorf(t.Word.Pos, "%q is no thread, expected the name of a column that is one", t.Word.Text)
		}
		return nil
	}
	for _, p := range t.Args {
		if _, ok := c.pins[p.Name]; ok && p.Column == "" {
			if err := c.pin(p); err != nil {
				return err
			}
			continue
		}
		if p.Column == "" && (col == nil || col.Role == Device) {
			return s.errorf(p.Pos, "whose %s? Expected a column before it, as %s:%s", p.Name, s.Columns[0].Name.Text, p.Name)
		}
		if err := c.memory(p); err != nil {
			return err
		}
	}
	p := t.Place
	switch {
	case p == nil:
		return nil
	case p.Name == "disk" && p.Column == "":
		return c.bytes(p)
	case p.Column == "":
		return s.errorf(p.Pos, "whose %s? Expected a column before it, as %s:%s", p.Name, s.Columns[0].Name.Text, p.Name)
	case p.form == whole && c.regs[p.Column][p.Name]:
		t.Column, t.Reg, t.Place = p.Column, p.Name, nil
		return nil
	}
	if _, ok := c.maps[p.Name]; !ok && c.cols[p.Column] != nil {
		return s.errorf(p.Pos, "column %s has no register %q and nobody a mapping of that name, expected %s", p.Column, p.Name,
			oneOf(append(keys(c.regs[p.Column]), keys(c.maps)...), "one of them"))
	}
	return c.memory(p)
}

// eachTerm calls fn for the terms of an expression, from left to right.
func eachTerm(e Expr, fn func(*Term)) {
	eachCompare(e, func(c *Compare) {
		fn(c.X)
		if c.Y != nil {
			fn(c.Y)
		}
	})
}

// eachCompare calls fn for the comparisons of an expression, from left to right.
func eachCompare(e Expr, fn func(*Compare)) {
	switch e := e.(type) {
	case *And:
		eachCompare(e.X, fn)
		eachCompare(e.Y, fn)
	case *Or:
		eachCompare(e.X, fn)
		eachCompare(e.Y, fn)
	case *Not:
		eachCompare(e.X, fn)
	case *Compare:
		fn(e)
	}
}

// byteRange rejects comparisons of a byte with what no byte can be: they ask nothing.
func (s *Scenario) byteRange(c *Compare) error {
	if c.Y == nil {
		return nil
	}
	for _, t := range [][2]*Term{{c.X, c.Y}, {c.Y, c.X}} {
		if n := t[1].Number; t[0].Place != nil && n != nil && (n.N < 0 || n.N > 255) {
			return s.errorf(n.Pos, "%s is no byte, expected 0 to 255", n.Text)
		}
	}
	return nil
}

// keys returns the keys of a map in order.
func keys[K int64 | string, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// oneOf lists names for an error; none is what is said if there are none.
func oneOf(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, " or ")
}
