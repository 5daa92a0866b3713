package spec

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// Kind is what a term is.
type Kind uint8

// The kinds.
const (
	Memory Kind = iota // a byte of a process, at the end or loaded
	Disk               // a byte of the disk, at the end
	Device             // what a device has read through a pin
	Pipe               // what came out of a pipe
	Count              // what a call returned
)

// Term is something that a final state shows, and what it may be.
type Term struct {
	// Text is how the state calls it, as "P0:A[0]".
	Text string
	Kind Kind
	// Allowed are the values that it may have; one, unless there is a race about it.
	Allowed Set
	// Count is what a call must have returned, if Kind is Count.
	Count int64

	at    int          // the event that looks
	proc  string       // whose memory it is about; "" for memory that is shared
	cell  cell         // the byte
	needs mm.Guarantee // of what has written it, or of the pin
}

// Racing reports whether more than one value is allowed.
func (t *Term) Racing() bool { return t.Kind != Count && t.Allowed.Len() > 1 }

// String lists what a state may show, a line each.
func (m *Model) String() string {
	var b strings.Builder
	if m.Vague != "" {
		fmt.Fprintf(&b, "not predicted: %s\n", m.Vague)
	}
	for _, t := range m.Terms {
		if t.Kind == Count {
			fmt.Fprintf(&b, "%s = %d\n", t.Text, t.Count)
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", t.Text, t.Allowed)
	}
	return b.String()
}

// solve finds the values of all writes. Copies may copy copies, in a circle where they race:
// sets grow until nothing changes.
func (m *Model) solve() {
	for again := true; again; {
		again = false
		for _, w := range m.every {
			if w.from == nil {
				continue
			}
			if v := w.val.or(m.read(w.at, *w.from)); v != w.val {
				w.val, again = v, true
			}
		}
	}
}

// read returns what a cell may hold at an event: what a write apart from it writes, or one
// before it, unless another that is sure stands in between.
func (m *Model) read(at int, c cell) Set {
	var v Set
	for _, w := range m.visible(at, c) {
		v = v.or(w.val)
	}
	return v
}

// visible lists the writes to a cell that an event may see.
func (m *Model) visible(at int, c cell) []*write {
	var out []*write
	ws := m.writes[c]
	for _, w := range ws {
		if w.at != at && !m.before(at, w.at) && !m.hidden(w, at, ws) {
			out = append(out, w)
		}
	}
	return out
}

func (m *Model) hidden(w *write, at int, ws []*write) bool {
	for _, x := range ws {
		if x != w && x.sure && m.before(w.at, x.at) && m.before(x.at, at) {
			return true
		}
	}
	return false
}

// sources adds up, along the way from where it was first written, what a policy has to promise so that a
// cell holds what it should at an event. arrives is set if a device's write into memory is among
// that, stored if something else may be the first: a store, or what was there at the beginning.
func (m *Model) sources(at int, c cell, seen map[*write]bool) (needs mm.Guarantee, arrives, stored bool) {
	for _, w := range m.visible(at, c) {
		if seen[w] {
			continue
		}
		seen[w] = true
		if w.device && w.to.name != "disk" {
			needs |= w.needs
			arrives = true
			continue
		}
		if w.from == nil {
			stored = true
			continue
		}
		g, a, s := m.sources(w.at, *w.from, seen)
		needs, arrives, stored = needs|g, arrives || a, stored || s
	}
	return needs, arrives, stored
}

// since returns what a cell may hold between two events.
func (m *Model) since(from, at int, c cell) Set {
	v := m.read(from, c)
	for _, w := range m.writes[c] {
		if !m.before(w.at, from) && !m.before(at, w.at) {
			v = v.or(w.val)
		}
	}
	return v
}

// ever returns what a cell may hold at some time.
func (m *Model) ever(c cell) Set {
	var v Set
	for _, w := range m.writes[c] {
		v = v.or(w.val)
	}
	return v
}

// outlook lists what a final state shows.
func (m *Model) outlook() {
	for i, e := range m.events {
		if e.op == nil {
			continue
		}
		op, reg := e.op, ""
		if op.Dst.Text != "" {
			reg = e.col.Name.Text + ":" + op.Dst.Text
		}
		if reg == "" || m.twice(e.col, op) {
			continue
		}
		switch op.Verb {
		case scenarios.OpLoad:
			m.seen(reg, i, m.procOf(e.col), op.Place)
		case scenarios.OpPeek:
			m.seen(reg, i, m.procNamed(op.Place.Column), op.Place)
		case scenarios.OpDMARead:
			m.scanned(reg, i, op)
		case "pipe_read":
			m.piped(reg, i, op)
		case "pread", "pwrite":
			if !m.fails && len(m.s.Faults) == 0 {
				m.Terms = append(m.Terms, &Term{Text: reg, Kind: Count, Count: op.Args[0].Place.Len})
			}
		}
	}
	for _, name := range sorted(m.procs) {
		p := m.procs[name]
		if p.exits {
			continue
		}
		for _, of := range sorted(p.maps) {
			if !m.there(p, of, end, "") {
				continue
			}
			for _, off := range m.cells[of] {
				c := m.cell(p, of, off)
				if m.dull(c) {
					continue
				}
				m.Terms = append(m.Terms, &Term{Text: fmt.Sprintf("%s:%s[%s]", name, of, number(off)), at: end, Allowed: m.read(end, c), proc: c.proc, cell: c})
			}
		}
	}
	for _, off := range m.cells["disk"] {
		if c := (cell{"", "disk", off}); !m.dull(c) {
			m.Terms = append(m.Terms, &Term{Text: fmt.Sprintf("disk[%s]", number(off)), Kind: Disk, at: end, Allowed: m.read(end, c), cell: c, needs: m.crowd(c)})
		}
	}
}

// dull says of a byte that nothing happens to that does not happen to the one before it, too:
// of a transfer of a page two bytes tell as much as eight.
func (m *Model) dull(c cell) bool {
	if c.name == "disk" {
		return len(m.writes[c]) < 2
	}
	if c.off%4096 < 1024 {
		return false
	}
	for _, w := range m.writes[c] {
		if w.at != begin && w.from == nil && w.val != only(0) {
			return false
		}
	}
	return true
}

// twice reports whether a register has two values in a column.
func (m *Model) twice(c *scenarios.Column, op *scenarios.Op) bool {
	for _, o := range c.Rows {
		if o != nil && o != op && o.Dst.Text == op.Dst.Text {
			return true
		}
	}
	return false
}

// seen is a load, or a debugger's look.
func (m *Model) seen(reg string, i int, p *proc, pl *scenarios.Place) {
	c := m.cell(p, pl.Name, pl.Off)
	if pl.Len == 1 && m.followed(c) {
		m.Terms = append(m.Terms, &Term{Text: reg, at: i, Allowed: m.read(i, c), proc: c.proc, cell: c})
	}
}

// scanned is what a device reads: what the owner has in memory; if that may have been replaced, what
// the owner ever had there.
func (m *Model) scanned(reg string, i int, op *scenarios.Op) {
	p := m.pins[op.Place.Name]
	if p == nil || !m.ready(op.Place.Name, i) || op.Place.Len != 1 {
		return
	}
	c := m.cell(p.proc, p.name, p.off+op.Place.Off)
	if !m.followed(c) {
		return
	}
	t := &Term{Text: reg, Kind: Device, at: i, Allowed: m.read(i, c), proc: p.proc.name, cell: c, needs: m.swapped(p.promise(mm.Reverse))}
	if !m.kept(p, i) || m.fails {
		t.Allowed = m.ever(c)
	}
	m.Terms = append(m.Terms, t)
}

// piped is what comes out of a pipe: what the owner of the memory had there at some time since.
func (m *Model) piped(reg string, i int, op *scenarios.Op) {
	in := m.splice[op.Args[0].Word]
	if len(in) != 1 || op.Args[1].Num.N != 1 {
		return
	}
	m.Terms = append(m.Terms, &Term{
		Text: reg, Kind: Pipe, at: i, Allowed: m.since(in[0].at, i, in[0].from), proc: in[0].proc.name, cell: in[0].from,
		needs: m.swapped(mm.Disclosure | mm.OtherPins),
	})
}

// number writes an offset as scenarios do.
func number(n int64) string {
	if n != 0 && n%1024 == 0 {
		return fmt.Sprintf("%dK", n/1024)
	}
	return fmt.Sprint(n)
}
