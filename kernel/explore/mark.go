package explore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Mark is a switch that can be found again in a program that has changed: it is known by
// what happens there, and not only by its place in the run.
//
//	cpu 0 is about to make its 2nd "pte read" of "pte 1:0x10000" (in gup_pte_range):
//	it is stopped, and cpu 1 goes on, with "lock" of "mmap_sem 3" (in dup_mm)
type Mark struct {
	// At is the decision in the run that was recorded.
	At uint64
	// Stop is who would go on by the default rule.
	Stop ActorID
	// Before is what it is about to do.
	Before Action
	// Nth counts, from 1, how often it has come to do that to that object.
	Nth int
	// Rank and Kind find the place where objects have other numbers, as locks, words and
	// frames have after a change of the program: the object is the Rank-th of its kind that
	// the actor touches, and it is the Kind-th time that it does this to any of the kind.
	Rank, Kind int
	// Go is who takes over, and With what it then does.
	Go   ActorID
	With Action
}

// Action is an operation on an object, with names for people.
type Action struct {
	Op   x86.Op
	Obj  x86.ObjID
	Name string // of the object
	Func string // that makes it, as the kernel spells it
}

// String describes the action.
func (a Action) String() string {
	name := a.Name
	if name == "" {
		name = objText(a.Obj)
	}
	s := strings.TrimSpace(fmt.Sprintf("%s %s", a.Op, name))
	if a.Func != "" {
		s += " (in " + a.Func + ")"
	}
	return s
}

// String describes the mark in a line.
func (m *Mark) String() string {
	return fmt.Sprintf("%s is stopped before %s, time %d, and %s goes on with %s", m.Stop, m.Before, m.Nth, m.Go, m.With)
}

// kindOf is an object without the numbers that an unrelated change of the program gives
// another value to: a page-table entry is itself, of a page only the word is left, of a
// frame the sector, of other numbered things the class.
func kindOf(o x86.ObjID) x86.ObjID {
	switch o.Class() {
	case x86.ClassPage, x86.ClassFrame:
		return x86.Obj(o.Class(), o.ID()&7)
	case x86.ClassPTE, x86.ClassCPU, x86.ClassNone:
		return o
	}
	return x86.Obj(o.Class(), 0)
}

// deed is an action of an actor, to count.
type deed struct {
	who ActorID
	op  x86.Op
	obj x86.ObjID
	any bool // obj is a kind
}

// deeds remembers what actors have done.
type deeds struct {
	times map[deed]int
	ranks map[deed]int // op is none: the rank of obj among its kind; with any: how many ranks
}

func newDeeds() deeds { return deeds{map[deed]int{}, map[deed]int{}} }

func (d *deeds) count(a *sched.Actor) {
	who := actorOf(a)
	d.times[deed{who, a.Op, a.Obj, false}]++
	d.times[deed{who, a.Op, kindOf(a.Obj), true}]++
	if d.ranks[deed{who: who, obj: a.Obj}] == 0 {
		many := deed{who: who, obj: kindOf(a.Obj), any: true}
		d.ranks[many]++
		d.ranks[deed{who: who, obj: a.Obj}] = d.ranks[many]
	}
}

// next returns what a mark says of the action that a is about to take.
func (d *deeds) next(a *sched.Actor) (nth, rank, kind int) {
	who := actorOf(a)
	rank = d.ranks[deed{who: who, obj: a.Obj}]
	if rank == 0 {
		rank = d.ranks[deed{who: who, obj: kindOf(a.Obj), any: true}] + 1
	}
	return d.times[deed{who, a.Op, a.Obj, false}] + 1, rank, d.times[deed{who, a.Op, kindOf(a.Obj), true}] + 1
}

// marker follows switches and describes them as marks.
type marker struct {
	script
	done  deeds
	marks []Mark
}

// Begin implements sched.Strategy.
func (m *marker) Begin(cpus int) {
	m.script.Begin(cpus)
	m.done, m.marks = newDeeds(), nil
}

// Pick implements sched.Strategy.
func (m *marker) Pick(ch *sched.Choice) int {
	at, next := m.n, m.next
	i := m.script.Pick(ch)
	if m.next > next && i != Default(ch) {
		stop, to := &ch.Enabled[Default(ch)], &ch.Enabled[i]
		nth, rank, kind := m.done.next(stop)
		m.marks = append(m.marks, Mark{
			At: at, Stop: actorOf(stop), Before: Action{Op: stop.Op, Obj: stop.Obj}, Nth: nth, Rank: rank, Kind: kind,
			Go: actorOf(to), With: Action{Op: to.Op, Obj: to.Obj},
		})
	}
	m.done.count(&ch.Enabled[i])
	return i
}

// Marks runs the schedule and describes its switches so that they can be found again.
// The names are those that o gives.
func Marks(t Target, spec Spec, o CaptureOptions) []Mark {
	_, rec := Record(t, spec.Strategy())
	m := &marker{script: script{switches: rec.Switches()}}
	o.Snapshot, o.Bytes, o.Describe = nil, nil, nil
	story := capture1(t, &fair{inner: m}, o)
	for i := range m.marks {
		k := &m.marks[i]
		for j := range story.Steps {
			s := &story.Steps[j]
			switch {
			case s.At == k.At && !s.Resumes:
				k.With.Name, k.With.Func = s.Object, s.Func
			case s.At > k.At && k.Before.Func == "" && s.ObjID == k.Before.Obj && s.OpID == k.Before.Op && (s.CPU == k.Stop.CPU()):
				k.Before.Name, k.Before.Func = s.Object, s.Func
			}
		}
	}
	return m.marks
}

// follow makes the switches of marks where it finds them.
type follow struct {
	marks []Mark
	how   []Found // by mark
	then  sched.Strategy
	order []Decision // events in the order to be kept where the default rule takes one
	n     uint64
	next  int
	fired []bool // by event of order
	done  deeds
	found []uint64 // decisions at which marks were found
	other []string // where the actor that took over did something else
}

// Begin implements sched.Strategy.
func (f *follow) Begin(cpus int) {
	f.n, f.next, f.done, f.found, f.other = 0, 0, newDeeds(), nil, nil
	f.fired = make([]bool, len(f.order))
	if f.then != nil {
		f.then.Begin(cpus)
	}
}

// Pick implements sched.Strategy.
func (f *follow) Pick(ch *sched.Choice) int {
	i := f.pick(ch)
	if a := &ch.Enabled[i]; a.CPU < 0 {
		if k := f.place(a); k < len(f.fired) {
			f.fired[k] = true
		}
	}
	f.done.count(&ch.Enabled[i])
	f.n++
	return i
}

// place is where an event stands in the order: the first that did the same to the same
// object, or to one of the kind, and has not been.
func (f *follow) place(a *sched.Actor) int {
	kind := len(f.order)
	for k := range f.order {
		d := &f.order[k]
		switch {
		case f.fired[k] || d.Op != a.Op:
		case d.Obj == a.Obj:
			return k
		case kind == len(f.order) && kindOf(d.Obj) == kindOf(a.Obj):
			kind = k
		}
	}
	return kind
}

// usual is the default rule, which takes events in the order to be kept, if there is one.
func (f *follow) usual(ch *sched.Choice) int {
	best := Default(ch)
	if ch.Enabled[best].CPU >= 0 || len(f.order) == 0 {
		return best
	}
	at := f.place(&ch.Enabled[best])
	for i := range ch.Enabled {
		if k := f.place(&ch.Enabled[i]); k < at {
			best, at = i, k
		}
	}
	return best
}

func (f *follow) pick(ch *sched.Choice) int {
	i := f.usual(ch)
	if f.next == len(f.marks) {
		if f.then != nil {
			return f.then.Pick(ch)
		}
		return i
	}
	m := &f.marks[f.next]
	if !f.here(m, &ch.Enabled[i]) {
		return i
	}
	to := f.successor(ch, m)
	if to < 0 {
		return i
	}
	a := &ch.Enabled[to]
	if a.Op != m.With.Op || kindOf(a.Obj) != kindOf(m.With.Obj) {
		f.other = append(f.other, fmt.Sprintf("switch %d: recorded: %s: %s\n%*sprogram: %s", f.next+1, m.Go, m.With, 10, "",
			Decision{Actor: actorOf(a), Op: a.Op, Obj: a.Obj}))
	}
	f.next++
	f.found = append(f.found, f.n)
	return to
}

// here reports whether the actor that would go on is about to do what the mark says.
func (f *follow) here(m *Mark, a *sched.Actor) bool {
	if m.Stop.CPU() != a.CPU || a.Op != m.Before.Op {
		return false
	}
	nth, rank, kind := f.done.next(a)
	same := kindOf(a.Obj) == kindOf(m.Before.Obj)
	switch f.how[f.next] {
	case ByRank:
		return same && nth == m.Nth && rank == m.Rank
	case ByKind:
		return same && kind == m.Kind
	}
	return a.Obj == m.Before.Obj && nth == m.Nth
}

// successor is who takes over: the same CPU, or the event that does the same.
func (f *follow) successor(ch *sched.Choice, m *Mark) int {
	if m.Go.CPU() >= 0 {
		return find(ch, m.Go)
	}
	best, quality := -1, 0
	for i := range ch.Enabled {
		a := &ch.Enabled[i]
		q := 0
		switch {
		case a.CPU >= 0 || a.Op != m.With.Op || a.Obj.Class() != m.With.Obj.Class():
			continue
		case a.Obj == m.With.Obj && actorOf(a) == m.Go:
			q = 4
		case a.Obj == m.With.Obj:
			q = 3
		case kindOf(a.Obj) == kindOf(m.With.Obj):
			q = 2
		default:
			q = 1
		}
		if q > quality {
			best, quality = i, q
		}
	}
	return best
}

// Found says how the place of a mark was found.
type Found uint8

// The ways, the safest first.
const (
	ByObject Found = iota // the same object, as often as recorded
	ByRank                // the object of its kind that the actor touches as the same one
	ByKind                // any object of the kind
	maxFound
)

// String describes the way.
func (f Found) String() string {
	return [...]string{"the same object", "an object of the same kind, in the same order", "an object of the same kind"}[f]
}

// Followed is a run along a list of marks.
type Followed struct {
	Observation
	// Spec is the run as switches at places of this program.
	Spec      Spec
	Recording *Recording
	// Found are the decisions at which marks were found, in their order; there are fewer
	// than marks if one was not.
	Found []uint64
	// How says of each mark how it was found.
	How []Found
	// Other describes where the actor that took over did another thing than recorded.
	Other []string
	// Lost is set if a mark was not found.
	Lost *LostMark
}

// LostMark says that a program does not come to where a mark was.
type LostMark struct {
	// Index counts marks from 0.
	Index int
	Mark  Mark
	// Program is what the actor to be stopped did since the previous mark: at most the
	// last steps, of which Made says how many there were.
	Program []Decision
	Made    int
}

// Error shows both sides.
func (l *LostMark) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replay diverges at switch %d\n  recorded: %s is about to %s, time %d (at decision %d)\n", l.Index+1, l.Mark.Stop, l.Mark.Before, l.Mark.Nth, l.Mark.At)
	fmt.Fprintf(&b, "  program:  %s never is in that place, or %s cannot go on there; it made %d steps since the switch before", l.Mark.Stop, l.Mark.Go, l.Made)
	for i, d := range l.Program {
		head := "            the last of them: "
		if i > 0 {
			head = "                              "
		}
		b.WriteString("\n" + head + d.String())
	}
	return b.String()
}

// Follow runs a target along marks. Each is looked for behind the one before: first where
// its actor comes to the same object as often as was recorded, then, if that place does
// not come, in the ways of Found. Where a mark is not found the result says so,
// and the run is the one along those before it.
//
// After the last mark the run goes on by then; nil is the default rule.
func Follow(t Target, marks []Mark, then func() sched.Strategy) *Followed {
	return followInOrder(t, marks, nil, then)
}

// followInOrder is Follow that also keeps the order of events: where the default rule
// takes one, it takes the one that is next in the order.
func followInOrder(t Target, marks []Mark, order []Decision, then func() sched.Strategy) *Followed {
	how := make([]Found, len(marks))
	use := len(marks)
	var lost *LostMark
	for {
		f := &follow{marks: marks[:use], how: how, order: order}
		if then != nil {
			f.then = then()
		}
		obs, rec := Record(t, &fair{inner: f})
		n := len(f.found)
		if n == use {
			return &Followed{Observation: obs, Spec: Spec{Kind: KindSwitches, Switches: rec.Switches()}, Recording: rec,
				Found: f.found, How: slices.Clone(how[:use]), Other: f.other, Lost: lost}
		}
		if how[n]++; how[n] < maxFound {
			continue
		}
		lost, use = &LostMark{Index: n, Mark: marks[n]}, n
		from := uint64(0)
		if n > 0 {
			from = f.found[n-1]
		}
		for _, d := range rec.Decisions[from:] {
			if d.Actor == marks[n].Stop {
				lost.Made++
				lost.Program = append(lost.Program, d)
			}
		}
		lost.Program = lost.Program[max(0, len(lost.Program)-3):]
	}
}
