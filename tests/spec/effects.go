package spec

import (
	"slices"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// put adds a write.
func (m *Model) put(w write) {
	m.writes[w.to] = append(m.writes[w.to], &w)
	m.every = append(m.every, &w)
}

// inherit says what each process has, and what memory holds when it begins.
func (m *Model) inherit() {
	for name, p := range m.procs {
		if p.parent == nil {
			for _, d := range m.s.Maps {
				p.maps[d.Name.Text] = true
				for _, off := range m.cells[d.Name.Text] {
					m.put(write{at: begin, to: m.cell(p, d.Name.Text, off), sure: true, val: only(m.initial(d.Name.Text, off, name))})
				}
			}
		}
	}
	for _, off := range m.cells["disk"] {
		v := m.initial("disk", off, "")
		m.origin[v].device = v != 0
		m.put(write{at: begin, to: cell{"", "disk", off}, sure: true, val: only(v)})
	}
	// Children after their parents.
	done := map[*proc]bool{}
	for again := true; again; {
		again = false
		for _, name := range sorted(m.procs) {
			p := m.procs[name]
			if done[p] || p.parent != nil && !done[p.parent] {
				continue
			}
			done[p], again = true, true
			if p.parent != nil {
				m.born(p)
			}
			for k := range m.marks {
				if k.proc == name && len(m.marked(p, k.name, "mmap")) > 0 {
					p.maps[k.name] = true
				}
			}
		}
	}
}

// initial returns the byte that init gives a place, the last one said; proc is whose it is.
func (m *Model) initial(name string, off int64, proc string) byte {
	v := byte(0)
	for _, in := range m.s.Inits {
		if p := in.Place; p.Name == name && p.Column == "" && off >= p.Off && off < p.Off+p.Len {
			v = byte(in.Value.N)
		}
	}
	m.origin[v].proc = proc
	return v
}

// born gives a child a copy of what its parent has.
func (m *Model) born(p *proc) {
	f := m.forks[p.name]
	for _, name := range sorted(p.parent.maps) {
		if there := m.last(p.parent, name, f, "munmap", "mmap"); there == "munmap" {
			continue
		} else if there == "?" {
			m.vague("%s is mapped or unmapped while %s is forked", name, p.name)
		}
		if late := m.marked(p.parent, name, "mmap"); len(late) > 0 && !m.before(late[0], f) {
			continue
		}
		for _, at := range m.marked(p.parent, name, "mremap") {
			if m.apart(at, f) {
				m.vague("%s moves while %s is forked", name, p.name)
			}
		}
		switch m.last(p.parent, name, f, "dontfork", "dofork") {
		case "dontfork":
			continue
		case "?":
			m.vague("who inherits %s is a race", name)
		}
		p.maps[name] = true
		if m.shared[name] {
			continue
		}
		for _, off := range m.cells[name] {
			from := m.cell(p.parent, name, off)
			m.put(write{at: f, to: m.cell(p, name, off), sure: true, from: &from})
		}
	}
}

// there reports whether a process has memory at an event for sure, and may use it: want is
// "" for looking only, "w" for writing.
func (m *Model) there(p *proc, name string, at int, want string) bool {
	if p == nil || !p.maps[name] {
		return false
	}
	if late := m.marked(p, name, "mmap"); len(late) > 0 && !m.before(late[0], at) {
		return false
	}
	switch m.last(p, name, at, "munmap") {
	case "munmap", "?":
		return false
	}
	for _, k := range m.marked(p, name, "mremap") {
		if m.apart(k, at) {
			return false
		}
	}
	switch m.last(p, name, at, "none", "r", "rw") {
	case "none", "?":
		return false
	case "r":
		return want == ""
	}
	return true
}

// touches says that a thread touches memory; if it may not, it is killed, and the program is vague.
func (m *Model) touches(p *proc, name string, at int, want string) {
	if !m.there(p, name, at, want) {
		m.vague("%s may be killed by touching %s", p.name, name)
	}
}

// kept reports whether a pin taken at one event is of the process's memory still at another:
// nobody has replaced the memory under it.
func (m *Model) kept(p *pin, at int) bool {
	if m.shared[p.name] {
		return true
	}
	for _, k := range m.marked(p.proc, p.name, "munmap", "dontneed") {
		if !m.before(k, p.at) && !m.before(at, k) {
			return false
		}
	}
	return true
}

// swapped adds what a promise must cover if reclaim takes part.
func (m *Model) swapped(g mm.Guarantee) mm.Guarantee {
	if m.swaps {
		return g | mm.UnderSwap
	}
	return g
}

// effect works out what an event writes.
func (m *Model) effect(i int) {
	e := m.events[i]
	op := e.op
	p := m.procOf(e.col)
	sure := !m.fails
	switch op.Verb {
	case scenarios.OpStore:
		m.touches(p, op.Place.Name, i, "w")
		for _, c := range m.in(p, op.Place) {
			m.origin[byte(op.Value.N)] = origin{proc: p.name}
			m.put(write{at: i, to: c, sure: sure || c.proc == p.name, val: only(byte(op.Value.N))})
		}
	case scenarios.OpLoad:
		m.touches(p, op.Place.Name, i, "")
	case scenarios.OpPeek, scenarios.OpPoke:
		m.debug(i, op)
	case "pread", "io_read", "pwrite", "io_write":
		m.transfer(i, p, op)
	case "pin":
		pl := op.Args[1].Place
		want := ""
		if op.Has("write") {
			want = "w"
		}
		if !m.there(p, pl.Name, i, want) {
			m.vague("pin %s may fail", op.Args[0].Word)
		}
		n := &pin{at: i, proc: p, name: pl.Name, off: pl.Off}
		n.foll = op.Has("pin") || op.Has("longterm")
		m.pins[op.Args[0].Word] = n
		for _, o := range m.events {
			if o.op != nil && o.op != op && o.op.Verb == "pin" && o.op.Args[0].Word == op.Args[0].Word {
				m.vague("%s is pinned twice", op.Args[0].Word)
			}
		}
	case scenarios.OpDMAWrite:
		m.dma(i, op)
	case "vmsplice":
		pl := op.Args[1].Place
		m.touches(p, pl.Name, i, "")
		if c := m.cell(p, pl.Name, pl.Off); m.followed(c) {
			m.splice[op.Args[0].Word] = append(m.splice[op.Args[0].Word], span{i, p, c})
		} else {
			m.vague("vmsplice of a byte that is not followed")
		}
	case "madvise":
		pl := op.Args[0].Place
		if !m.there(p, pl.Name, i, "") {
			m.vague("madvise of memory that may not be there")
		}
		if op.Has("dontneed") && !m.shared[pl.Name] {
			locked := len(m.marked(p, pl.Name, "mlock")) > 0
			for _, c := range m.in(p, pl) {
				m.put(write{at: i, to: c, sure: !locked, val: only(0)})
			}
		}
	case "mmap":
		for _, off := range m.cells[op.Args[0].Word] {
			m.put(write{at: i, to: m.cell(p, op.Args[0].Word, off), sure: true, val: only(0)})
		}
	case "mremap", "munmap", "mprotect", "mlock", "munlock":
		name := op.Args[0].Word
		if op.Args[0].Place != nil {
			name = op.Args[0].Place.Name
		}
		for _, k := range m.marked(p, name, "munmap", "mremap", "mmap") {
			if m.apart(k, i) || op.Verb != "mremap" && m.last(p, name, i, "munmap") != "" {
				m.vague("%s of memory that may not be there", op.Verb)
			}
		}
		if !p.maps[name] {
			m.vague("%s of memory that is not there", op.Verb)
		}
	case "swapout":
		if !m.there(p, op.Args[0].Place.Name, i, "") {
			m.vague("swapout of memory that may not be there")
		}
	case "fork":
		for _, k := range m.marks {
			for _, x := range k {
				if x.what == "mremap" && m.apart(x.at, i) && m.procOf(m.events[x.at].col) == p {
					m.vague("memory moves while %s forks", p.name)
				}
			}
		}
	}
}

// debug is ptrace: a word is read, and with poke written as a whole.
func (m *Model) debug(i int, op *scenarios.Op) {
	q := m.procNamed(op.Place.Column)
	if f, ok := m.forks[q.name]; ok && !m.before(f, i) || q.exits || !m.there(q, op.Place.Name, i, "") {
		m.vague("%s may not be there to be looked at", op.Place.Column)
	}
	if op.Verb == scenarios.OpPeek {
		return
	}
	m.origin[byte(op.Value.N)] = origin{proc: q.name}
	for _, c := range m.within(q, op.Place.Name, op.Place.Off&^7, 8) {
		if c.off == op.Place.Off {
			m.put(write{at: i, to: c, sure: !m.fails, val: only(byte(op.Value.N))})
		} else {
			m.put(write{at: i, to: c, from: &c})
		}
	}
}

// transfer is direct I/O, at an instant of its event.
func (m *Model) transfer(i int, p *proc, op *scenarios.Op) {
	read := op.Verb == "pread" || op.Verb == "io_read"
	pl, off := op.Args[0].Place, op.Args[2].Num.N
	want := ""
	if read {
		want = "w"
	}
	asked := i
	if op.Verb == "io_read" || op.Verb == "io_write" {
		asked = i - 1 // its submission
	}
	if !m.there(p, pl.Name, asked, want) {
		m.vague("%s of memory that may not be there", op.Verb)
	}
	sure := !m.fails && op.Dst.Text == "" // who asks for the error gets none that breaks the run
	for _, f := range m.s.Faults {
		sure = sure && f.Write == read
	}
	if !m.shared[pl.Name] {
		for _, k := range m.marked(p, pl.Name, "dontneed", "munmap") {
			sure = sure && !m.apart(k, i)
		}
	}
	needs := mm.Forward
	if !read {
		needs = mm.Reverse
	}
	if op.Verb == "io_read" || op.Verb == "io_write" {
		needs |= mm.AIO
	}
	needs = m.swapped(needs)
	for _, c := range m.in(p, pl) {
		d := cell{"", "disk", off + c.off - pl.Off}
		w := write{at: i, to: c, sure: sure, device: true, needs: needs, from: &d}
		if !read {
			w.to, w.from = d, &c
		}
		if !m.followed(*w.from) {
			w.from, w.val = nil, all
		}
		if m.followed(w.to) {
			m.put(w)
		}
	}
}

// dma is a device's write through a pin: it lands in the memory of who has pinned it.
func (m *Model) dma(i int, op *scenarios.Op) {
	p := m.pins[op.Place.Name]
	if p == nil || !m.ready(op.Place.Name, i) {
		m.vague("the device may write before %s is pinned", op.Place.Name)
		return
	}
	v := byte(op.Value.N)
	m.origin[v] = origin{device: true, proc: p.proc.name}
	for _, c := range m.within(p.proc, p.name, p.off+op.Place.Off, op.Place.Len) {
		m.put(write{at: i, to: c, sure: !m.fails && m.kept(p, i), val: only(v), device: true, needs: m.swapped(p.promise(mm.Forward))})
	}
}

// ready reports whether a pin is there at an event.
func (m *Model) ready(name string, at int) bool {
	p := m.pins[name]
	if p == nil || !m.before(p.at, at) {
		return false
	}
	for j, e := range m.events {
		if e.op != nil && e.op.Verb == "unpin" && e.op.Args[0].Word == name && !m.before(at, j) {
			return false
		}
	}
	return true
}

// sorted returns the keys of a map in order.
func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
