package explore

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Kind is a kind of strategy, as tokens spell it.
type Kind byte

// The kinds.
const (
	KindRandom   Kind = 'r'
	KindPCT      Kind = 'p'
	KindPOS      Kind = 'o'
	KindSwitches Kind = 's'
)

// MaxDepth is the greatest depth of PCT that a Spec may have.
const MaxDepth = 9

// FairBound is how many decisions in a row PCT and switches may give to one CPU
// while somebody else could act; after as many, the others are served first.
// It is part of the meaning of a token.
const FairBound = 4096

// Spec says which strategy to make. It is the part of a token that names the schedule.
type Spec struct {
	Kind Kind
	// Seed is for random, PCT and partial-order sampling.
	Seed uint64
	// Depth and Length are for PCT: the number of ordering constraints looked
	// for, 1 to MaxDepth, and the expected number of points.
	Depth  int
	Length uint64
	// Switches are for KindSwitches, in ascending order.
	Switches []Switch
}

// Strategy makes the strategy. Each run needs a new one.
func (s Spec) Strategy() sched.Strategy {
	switch s.Kind {
	case KindRandom:
		return sched.NewRandom(s.Seed)
	case KindPCT:
		return &fair{inner: sched.NewPCT(s.Seed, s.Depth, s.Length)}
	case KindPOS:
		return newPOS(s.Seed)
	case KindSwitches:
		return &fair{inner: &script{switches: s.Switches}}
	}
	panic(fmt.Sprintf("explore: unknown kind of strategy %q", byte(s.Kind)))
}

// String describes the strategy in words.
func (s Spec) String() string {
	switch s.Kind {
	case KindRandom:
		return fmt.Sprintf("random, seed %#x", s.Seed)
	case KindPCT:
		return fmt.Sprintf("PCT of depth %d over %d points, seed %#x", s.Depth, s.Length, s.Seed)
	case KindPOS:
		return fmt.Sprintf("partial-order sampling, seed %#x", s.Seed)
	case KindSwitches:
		return fmt.Sprintf("%d switches", len(s.Switches))
	}
	return "unknown strategy"
}

// ActorID identifies an actor within a run: even numbers are CPUs (twice the
// number), odd ones events (twice the sequence number and one).
type ActorID uint64

// actorOf identifies a.
func actorOf(a *sched.Actor) ActorID {
	if a.CPU >= 0 {
		return CPUActor(a.CPU)
	}
	return EventActor(a.Seq)
}

// CPUActor identifies a CPU.
func CPUActor(cpu int) ActorID { return ActorID(cpu) << 1 }

// EventActor identifies a device event by its sequence number.
func EventActor(seq uint64) ActorID { return ActorID(seq)<<1 | 1 }

// CPU returns the CPU's number, or -1 for an event.
func (a ActorID) CPU() int {
	if a&1 != 0 {
		return -1
	}
	return int(a >> 1)
}

// String names the actor.
func (a ActorID) String() string {
	if a&1 != 0 {
		return fmt.Sprintf("event %d", uint64(a>>1))
	}
	return fmt.Sprintf("cpu %d", uint64(a>>1))
}

// find returns the index of an actor among the enabled ones, or -1.
func find(ch *sched.Choice, id ActorID) int {
	for i := range ch.Enabled {
		if actorOf(&ch.Enabled[i]) == id {
			return i
		}
	}
	return -1
}

// follower keeps Choice.Last exact: a CPU that is resumed for the first time, or
// in the middle of a task switch, has not told the machine yet that it is its turn.
type follower struct{ last int }

func (f *follower) reset() { f.last = -1 }

func (f *follower) fix(ch *sched.Choice) {
	if f.last >= 0 {
		ch.Last = f.last
	}
}

func (f *follower) took(a *sched.Actor) {
	if a.CPU >= 0 {
		f.last = a.CPU
	}
}

// Default is the rule that schedules without switches follow: the CPU that made
// the last step goes on, else the lowest enabled CPU, else the oldest event.
func Default(ch *sched.Choice) int {
	best := 0
	for i := range ch.Enabled {
		a := &ch.Enabled[i]
		if a.CPU >= 0 && a.CPU == ch.Last {
			return i
		}
		if b := &ch.Enabled[best]; b.CPU < 0 && (a.CPU >= 0 || a.Seq < b.Seq) {
			best = i
		}
	}
	return best // CPUs are listed in ascending order
}

// fair bounds an unfair strategy: a CPU that got FairBound decisions while others
// were enabled is left out of the next FairBound, as long as anybody else is there.
type fair struct {
	follower
	inner  sched.Strategy
	cpu    int // the CPU that runs
	run    int // decisions in a row it got
	banned int // the CPU that is left out
	left   int // for how many more decisions
	ch     sched.Choice
	index  []int
}

// Begin implements sched.Strategy.
func (f *fair) Begin(cpus int) {
	f.reset()
	f.cpu, f.run, f.left = -1, 0, 0
	f.inner.Begin(cpus)
}

// Pick implements sched.Strategy.
func (f *fair) Pick(ch *sched.Choice) int {
	f.fix(ch)
	var i int
	if f.left > 0 {
		f.left--
		i = f.pickOthers(ch)
	} else {
		i = f.inner.Pick(ch)
	}
	f.took(&ch.Enabled[i])
	c := ch.Enabled[i].CPU
	switch {
	case c < 0 || len(ch.Enabled) == 1:
	case c != f.cpu:
		f.cpu, f.run = c, 0
	default:
		if f.run++; f.run >= FairBound {
			f.banned, f.left, f.run = c, FairBound, 0
		}
	}
	return i
}

func (f *fair) pickOthers(ch *sched.Choice) int {
	f.ch.Step, f.ch.Last = ch.Step, ch.Last
	f.ch.Enabled, f.index = f.ch.Enabled[:0], f.index[:0]
	for i := range ch.Enabled {
		if ch.Enabled[i].CPU != f.banned {
			f.ch.Enabled = append(f.ch.Enabled, ch.Enabled[i])
			f.index = append(f.index, i)
		}
	}
	if len(f.index) == 0 {
		return f.inner.Pick(ch)
	}
	return f.index[f.inner.Pick(&f.ch)]
}

// Gate keeps a target's set-up out of the search: until it is opened, choices
// follow the default rule and the wrapped strategy is not asked. Steps are
// then counted from the opening.
//
// A target wraps the strategy it is given, passes the gate to its machine and
// calls Open when the race begins; its token then does not depend on how long
// the set-up takes.
type Gate struct {
	s    sched.Strategy
	rule fair
	open bool
	from uint64
	step uint64
	// closed is set by Close, closing from then to the next choice.
	closed, closing bool
}

// NewGate returns a closed gate before s.
func NewGate(s sched.Strategy) *Gate { return &Gate{s: s, rule: fair{inner: &script{}}} }

// Open lets the strategy decide from the next point on.
func (g *Gate) Open() {
	if !g.closed {
		g.open, g.from = true, g.step
	}
}

// Close ends what is searched: from the next point on the schedule is the default one
// again. A target calls it when nothing that follows can change its verdict, because
// tearing down a program has as many schedules as what went before, and a search
// would have to multiply the two. It closes for good.
func (g *Gate) Close() {
	if g.open {
		g.open, g.closed, g.closing = false, true, true
	}
}

// End is Close for whoever decides by himself from the given choice on, and asks the gate no
// more.
func (g *Gate) End(ch *sched.Choice) {
	g.Close()
	if g.closing {
		g.closing = false
		if e, ok := g.s.(ender); ok {
			e.end(ch)
		}
	}
}

// ender is a strategy that wants to see the choice at which its gate has closed.
type ender interface{ end(ch *sched.Choice) }

// Begin implements sched.Strategy.
func (g *Gate) Begin(cpus int) {
	g.rule.Begin(cpus)
	g.s.Begin(cpus)
}

// Pick implements sched.Strategy.
func (g *Gate) Pick(ch *sched.Choice) int {
	if !g.open {
		if g.closing {
			g.closing = false
			if e, ok := g.s.(ender); ok {
				e.end(ch)
			}
		}
		g.step = ch.Step
		return g.rule.Pick(ch)
	}
	ch.Step -= g.from
	g.rule.fix(ch)
	i := g.s.Pick(ch)
	if i != sched.Cut {
		g.rule.took(&ch.Enabled[i])
	}
	return i
}

// meter passes choices on and remembers how far the run got.
type meter struct {
	sched.Strategy
	steps uint64
}

// Pick implements sched.Strategy.
func (m *meter) Pick(ch *sched.Choice) int {
	m.steps = ch.Step
	return m.Strategy.Pick(ch)
}
