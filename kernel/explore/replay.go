package explore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Decision is one choice of a run: who took the step, and which one it was.
type Decision struct {
	Actor ActorID
	Op    x86.Op
	Obj   x86.ObjID
	// Departs is set when the default rule would have chosen somebody else.
	Departs bool
	// Preempts is set when the CPU that made the previous step could have gone on
	// and another CPU was chosen.
	Preempts bool
}

// String describes the decision.
func (d Decision) String() string { return fmt.Sprintf("%s: %s %s", d.Actor, d.Op, objText(d.Obj)) }

// Recording is the list of a run's decisions.
type Recording struct {
	Decisions []Decision
}

// Hash sums up the path that the run took: two runs with the same hash made the
// same steps in the same order.
func (r *Recording) Hash() uint64 {
	var h xxhash.Digest
	h.Reset()
	for i := range r.Decisions {
		d := &r.Decisions[i]
		var b [17]byte
		for k := range 8 {
			b[k], b[8+k] = byte(d.Actor>>(8*k)), byte(d.Obj>>(8*k))
		}
		b[16] = byte(d.Op)
		h.Write(b[:])
	}
	return h.Sum64()
}

// Switches returns the schedule as departures from the default rule. A run of
// these switches makes the same decisions.
func (r *Recording) Switches() []Switch {
	var s []Switch
	for i := range r.Decisions {
		if r.Decisions[i].Departs {
			s = append(s, Switch{uint64(i), r.Decisions[i].Actor})
		}
	}
	return s
}

// Cost is how hard a schedule is to follow; less is better, in the order of the fields.
type Cost struct {
	// Departures from the default rule: what a token has to list.
	Departures int
	// Turns are the times that another actor took over.
	Turns int
	// Decisions is the length of the run.
	Decisions int
}

// Cost returns the cost of the recorded schedule.
func (r *Recording) Cost() Cost {
	c := Cost{Decisions: len(r.Decisions)}
	for i := range r.Decisions {
		if r.Decisions[i].Departs {
			c.Departures++
		}
		if i > 0 && r.Decisions[i].Actor != r.Decisions[i-1].Actor {
			c.Turns++
		}
	}
	return c
}

// Less reports whether c is better than d.
func (c Cost) Less(d Cost) bool {
	if c.Departures != d.Departures {
		return c.Departures < d.Departures
	}
	if c.Turns != d.Turns {
		return c.Turns < d.Turns
	}
	return c.Decisions < d.Decisions
}

// Recorder passes a strategy's choices on and keeps them.
type Recorder struct {
	follower
	inner sched.Strategy
	rec   Recording
	// each, if set, sees every choice and the index picked.
	each func(ch *sched.Choice, i int)
}

// NewRecorder returns a recorder of s.
func NewRecorder(s sched.Strategy) *Recorder { return &Recorder{inner: s} }

// Recording returns what was recorded so far.
func (r *Recorder) Recording() *Recording { return &r.rec }

// Begin implements sched.Strategy.
func (r *Recorder) Begin(cpus int) {
	r.reset()
	r.rec.Decisions = r.rec.Decisions[:0]
	r.inner.Begin(cpus)
}

// Pick implements sched.Strategy.
func (r *Recorder) Pick(ch *sched.Choice) int {
	r.fix(ch)
	i := r.inner.Pick(ch)
	a := &ch.Enabled[i]
	r.took(a)
	d := Decision{Actor: actorOf(a), Op: a.Op, Obj: a.Obj}
	if len(ch.Enabled) > 1 {
		def := Default(ch)
		d.Departs = i != def
		d.Preempts = a.CPU >= 0 && i != def && ch.Enabled[def].CPU == ch.Last
	}
	r.rec.Decisions = append(r.rec.Decisions, d)
	if r.each != nil {
		r.each(ch, i)
	}
	return i
}

// Record runs a target under a strategy and returns the observation and the decisions.
func Record(t Target, s sched.Strategy) (Observation, *Recording) {
	r := NewRecorder(s)
	obs := t.once(r, nil)
	return obs, &r.rec
}

// Divergence is the first place where a program did not do what was recorded.
type Divergence struct {
	// At counts decisions from zero.
	At uint64
	// Want is the recorded decision; HaveWant is false when the recording had ended.
	Want     Decision
	HaveWant bool
	// Enabled is what the program could do instead; empty when it had ended.
	Enabled []sched.Actor
	// Before are the last decisions on which both agree, oldest first.
	Before []Decision
}

// Error shows both sides.
func (d *Divergence) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replay diverges at decision %d\n", d.At)
	for _, p := range d.Before {
		fmt.Fprintf(&b, "  both:     %s\n", p)
	}
	if d.HaveWant {
		fmt.Fprintf(&b, "  recorded: %s\n", d.Want)
	} else {
		b.WriteString("  recorded: the end\n")
	}
	if len(d.Enabled) == 0 {
		b.WriteString("  program:  the end")
	}
	for i := range d.Enabled {
		a := &d.Enabled[i]
		head := "  program: "
		if i > 0 {
			head = "       or: "
		}
		fmt.Fprintf(&b, "%s %s", head, Decision{Actor: actorOf(a), Op: a.Op, Obj: a.Obj})
		if i < len(d.Enabled)-1 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Replayer makes recorded decisions again, and checks at each that the program
// offers the same actor with the same operation on the same object. After the
// first divergence it follows the default rule.
type Replayer struct {
	follower
	rec      *Recording
	n        int
	diverged *Divergence
	// prefix is set when the run may go on after the end of the recording.
	prefix bool
}

// NewReplayer returns a replayer of a whole run.
func NewReplayer(r *Recording) *Replayer { return &Replayer{rec: r} }

// NewPrefix returns a replayer after whose end the run goes on by the default rule.
func NewPrefix(r *Recording) *Replayer { return &Replayer{rec: r, prefix: true} }

// Begin implements sched.Strategy.
func (r *Replayer) Begin(int) {
	r.reset()
	r.n, r.diverged = 0, nil
}

// Pick implements sched.Strategy.
func (r *Replayer) Pick(ch *sched.Choice) int {
	r.fix(ch)
	i := r.pick(ch)
	r.took(&ch.Enabled[i])
	return i
}

func (r *Replayer) pick(ch *sched.Choice) int {
	if r.diverged != nil {
		return r.leave(ch)
	}
	if r.n >= len(r.rec.Decisions) {
		if r.prefix {
			return Default(ch)
		}
		r.diverge(ch.Enabled)
		return r.leave(ch)
	}
	want := &r.rec.Decisions[r.n]
	i := find(ch, want.Actor)
	if i < 0 || ch.Enabled[i].Op != want.Op || ch.Enabled[i].Obj != want.Obj {
		r.diverge(ch.Enabled)
		return r.leave(ch)
	}
	r.n++
	return i
}

// leave takes the turn from the running CPU if it can, because a stopped
// machine ends when its CPU gives way.
func (r *Replayer) leave(ch *sched.Choice) int {
	for i := range ch.Enabled {
		if c := ch.Enabled[i].CPU; c >= 0 && c != ch.Last {
			return i
		}
	}
	return Default(ch)
}

func (r *Replayer) diverge(enabled []sched.Actor) {
	d := &Divergence{At: uint64(r.n), Enabled: slices.Clone(enabled)}
	if r.n < len(r.rec.Decisions) {
		d.Want, d.HaveWant = r.rec.Decisions[r.n], true
	}
	d.Before = slices.Clone(r.rec.Decisions[max(0, r.n-3):r.n])
	r.diverged = d
}

// Err returns nil if the run, which has ended, was the recorded one, and a *Divergence otherwise.
func (r *Replayer) Err() error {
	if r.diverged == nil && r.n < len(r.rec.Decisions) {
		r.diverge(nil)
	}
	if r.diverged == nil {
		return nil
	}
	return r.diverged
}

// stopper stops the machine at the first step after a divergence.
type stopper struct{ r *Replayer }

// Step implements sched.Observer.
func (s stopper) Step(_ uint64, t *sched.Task, _ x86.Op, _ x86.ObjID) {
	if s.r.diverged != nil {
		t.M.Stop("the program is not the one that was recorded")
	}
}

// Device implements sched.Observer.
func (stopper) Device(uint64, sched.Event) {}

// Replay runs a recorded schedule again and checks every step. It stops at the
// first divergence, which is then the error; the observation is that of the
// run as far as it went.
func Replay(t Target, rec *Recording) (Observation, error) {
	r := NewReplayer(rec)
	obs := t.once(r, stopper{r})
	return obs, r.Err()
}

// objText names an object without its machine.
func objText(o x86.ObjID) string {
	if o == 0 {
		return ""
	}
	if o.Class() == x86.ClassLock {
		return lock.Namer(o.ID())
	}
	return new(sched.Machine).ObjName(o)
}
