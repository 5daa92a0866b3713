package spec

import (
	"fmt"
	"slices"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// Model is what a program means: which events there are, which of them come before which, and
// what each writes where. It knows nothing of pages, page tables, references or pins' pages.
type Model struct {
	s *scenarios.Scenario
	// Vague says why the bytes of the program are not predicted, if they are not: two threads
	// race about whether memory is there, or a thread is killed. Empty if they are.
	Vague string
	// Terms are what a state shows and the model knows, in a fixed order.
	Terms []*Term

	events []event
	order  *order
	procs  map[string]*proc
	cells  map[string][]int64 // tracked offsets of each mapping, and of "disk"
	pages  map[string]int64   // of mappings
	shared map[string]bool
	writes map[cell][]*write
	every  []*write
	pins   map[string]*pin
	splice map[string][]span // by pipe
	marks  map[change][]mark
	fails  bool // allocations fail
	swaps  bool // reclaim may unmap
	huge   bool // some memory is of huge pages
	stuck  bool // somebody may wait for what never happens
	origin [256]origin
	forks  map[string]int // by child: the event
}

// event is an operation, or a transfer that goes on behind it.
type event struct {
	col *scenarios.Column
	op  *scenarios.Op // nil for the begin, the end, and the ends of columns
}

// The events that every program has.
const (
	begin = 0 // before everything
	end   = 1 // after everything
)

// proc is a process.
type proc struct {
	name    string // of its first column
	parent  *proc
	columns []*scenarios.Column
	exits   bool
	maps    map[string]bool // that it has, at some time
}

// cell is a byte that the model follows. Memory that processes share, and the disk, belong to
// nobody.
type cell struct {
	proc, name string
	off        int64
}

// write puts a value into a cell: a constant, or what another cell holds at that time.
type write struct {
	at     int
	to     cell
	sure   bool // it happens, and is the whole of what happens
	val    Set
	from   *cell        // copied, if not nil
	device bool         // I/O or a device wrote it
	needs  mm.Guarantee // what a policy promises who promises that it arrives
}

// pin is memory that a device uses.
type pin struct {
	at   int
	proc *proc
	name string
	off  int64
	foll bool // FOLL_PIN
}

// span is a byte that has been put into a pipe.
type span struct {
	at   int
	proc *proc
	from cell
}

// change is something that happens to a mapping as a whole; mark is when and what.
type change struct{ proc, name string }
type mark struct {
	at   int
	what string // munmap, mremap, none, r, rw, dontfork, dofork, dontneed, mmap, mlock
}

// origin is where a value comes from first.
type origin struct {
	device bool
	proc   string // who stored it
}

// NewModel works out what a program means.
func NewModel(s *scenarios.Scenario) *Model {
	m := &Model{
		s: s, procs: map[string]*proc{}, cells: map[string][]int64{}, pages: map[string]int64{}, shared: map[string]bool{},
		writes: map[cell][]*write{}, pins: map[string]*pin{}, splice: map[string][]span{}, marks: map[change][]mark{},
		fails: len(s.Fails) > 0, forks: map[string]int{},
	}
	m.processes()
	m.arrange()
	m.track()
	m.changes()
	m.inherit()
	// Pins first: a device's column may stand before that of who has pinned.
	for _, pins := range []bool{true, false} {
		for i, e := range m.events {
			if e.op != nil && pins == (e.op.Verb == "pin") {
				m.effect(i)
			}
		}
	}
	m.solve()
	m.outlook()
	return m
}

// vague gives up on the bytes of a program.
func (m *Model) vague(format string, args ...any) {
	if m.Vague == "" {
		m.Vague = fmt.Sprintf(format, args...)
	}
}

// processes finds out who belongs to whom.
func (m *Model) processes() {
	root := ""
	for _, c := range m.s.Columns {
		name := c.Name.Text
		switch c.Role {
		case scenarios.Device:
			continue
		case scenarios.Thread:
			if root == "" {
				root = name
			}
			name = root
		case scenarios.Within:
			name = c.In.Text
		}
		p := m.procs[name]
		if p == nil {
			p = &proc{name: name, maps: map[string]bool{}}
			m.procs[name] = p
		}
		p.columns = append(p.columns, c)
		for _, op := range c.Rows {
			if op != nil && op.Verb == "exit" {
				p.exits = true
				if c.Role != scenarios.Child {
					m.vague("%s exits, and the other threads of its process with it", c.Name.Text)
				}
			}
		}
	}
	for _, p := range m.procs {
		if p.exits && len(p.columns) > 1 {
			m.vague("%s exits, and the other threads of its process with it", p.name)
		}
	}
}

// procOf returns the process of a column; nil for a device.
func (m *Model) procOf(c *scenarios.Column) *proc {
	for _, p := range m.procs {
		if slices.Contains(p.columns, c) {
			return p
		}
	}
	return nil
}

// procNamed returns the process of the column of that name.
func (m *Model) procNamed(column string) *proc {
	for _, c := range m.s.Columns {
		if c.Name.Text == column {
			return m.procOf(c)
		}
	}
	return nil
}

// before reports whether event a comes before b, apart whether neither comes before the other.
func (m *Model) before(a, b int) bool { return m.order.before(a, b) }
func (m *Model) apart(a, b int) bool {
	return a != b && !m.before(a, b) && !m.before(b, a)
}

// track chooses the bytes to follow: the first of each sector, and what is named singly.
func (m *Model) track() {
	add := func(name string, off int64) {
		if !slices.Contains(m.cells[name], off) {
			m.cells[name] = append(m.cells[name], off)
		}
	}
	mapping := func(name string, pages int64, shared bool) {
		m.pages[name], m.shared[name] = pages, shared
		for off := int64(0); off < pages<<x86.PageShift; off += x86.SectorSize {
			add(name, off)
		}
	}
	for _, p := range m.s.Maps {
		mapping(p.Name.Text, p.Pages, p.Shared)
	}
	for off := int64(0); off < m.s.Machine.Disk; off += x86.SectorSize {
		add("disk", off)
	}
	pins := map[string]*scenarios.Place{}
	for _, e := range m.events {
		if e.op == nil {
			continue
		}
		switch e.op.Verb {
		case "mmap":
			mapping(e.op.Args[0].Word, e.op.Args[1].Num.N, e.op.Has("shared"))
		case "pin":
			pins[e.op.Args[0].Word] = e.op.Args[1].Place
		case "swapout", "reclaim":
			m.swaps = true
		case "madvise":
			m.swaps = m.swaps || e.op.Has("pageout")
		}
	}
	for _, e := range m.events {
		if e.op == nil || e.op.Place == nil || e.op.Place.Len != 1 {
			continue
		}
		name, off := e.op.Place.Name, e.op.Place.Off
		if p := pins[name]; p != nil && (e.op.Verb == scenarios.OpDMARead || e.op.Verb == scenarios.OpDMAWrite) {
			name, off = p.Name, off+p.Off
		}
		add(name, off)
	}
	m.swaps = m.swaps && m.s.Machine.Swap != 0
	m.huge = slices.ContainsFunc(m.s.Maps, func(x scenarios.Map) bool { return x.Huge })
	for name := range m.cells {
		slices.Sort(m.cells[name])
	}
}

// in returns the cells of a place of a process.
func (m *Model) in(p *proc, pl *scenarios.Place) []cell {
	return m.within(p, pl.Name, pl.Off, pl.Len)
}

func (m *Model) within(p *proc, name string, off, length int64) []cell {
	var out []cell
	for _, o := range m.cells[name] {
		if o >= off && o < off+length {
			out = append(out, m.cell(p, name, o))
		}
	}
	return out
}

// cell returns a byte of a process's memory.
func (m *Model) cell(p *proc, name string, off int64) cell {
	if m.shared[name] || p == nil {
		return cell{"", name, off}
	}
	return cell{p.name, name, off}
}

// followed reports whether a byte is one that the model follows.
func (m *Model) followed(c cell) bool {
	_, ok := slices.BinarySearch(m.cells[c.name], c.off)
	return ok
}

// changes notes what happens to mappings as a whole.
func (m *Model) changes() {
	for i, e := range m.events {
		if e.op == nil || e.col == nil || e.col.Role == scenarios.Device {
			continue
		}
		p := m.procOf(e.col)
		what, name := e.op.Verb, ""
		for _, a := range e.op.Args {
			if a.Place != nil {
				name = a.Place.Name
			}
		}
		switch what {
		case "munmap", "mlock":
		case "mremap", "mmap":
			name = e.op.Args[0].Word
		case "mprotect", "madvise":
			what = e.op.Args[len(e.op.Args)-1].Word
		case "vfork":
			m.vague("vfork is not modelled")
			continue
		default:
			continue
		}
		switch what {
		case "munmap", "none", "r", "rw", "dontfork", "dofork":
			if pl := e.op.Args[0].Place; pl.Off != 0 || pl.Len != m.pages[name]<<x86.PageShift {
				m.vague("%s of a part of a mapping is not modelled", what)
			}
		}
		k := change{p.name, name}
		m.marks[k] = append(m.marks[k], mark{i, what})
	}
}

// marked returns the events that do one of some things to a mapping.
func (m *Model) marked(p *proc, name string, what ...string) []int {
	var out []int
	for _, k := range m.marks[change{p.name, name}] {
		if slices.Contains(what, k.what) {
			out = append(out, k.at)
		}
	}
	return out
}

// last says which of some kinds of marks holds at an event: the last one before it. It is
// "" if there is none, and "?" if that is a race.
func (m *Model) last(p *proc, name string, at int, what ...string) string {
	found, when := "", -1
	for _, k := range m.marks[change{p.name, name}] {
		if !slices.Contains(what, k.what) || k.at == at || m.before(at, k.at) {
			continue
		}
		if m.apart(k.at, at) || when >= 0 && m.apart(k.at, when) {
			return "?"
		}
		if when < 0 || m.before(when, k.at) {
			found, when = k.what, k.at
		}
	}
	if found == "" && p.parent != nil && !slices.Contains(what, "mmap") {
		return m.last(p.parent, name, m.forks[p.name], what...)
	}
	if found == "" && slices.Contains(what, "r") {
		for _, d := range m.s.Maps {
			if d.Name.Text == name && d.ReadOnly {
				return "r"
			}
		}
	}
	return found
}
