package explore

import (
	"fmt"
	"math/bits"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// maxActors is how many actors a run may have: CPUs, and chains of events.
const maxActors = 64

// sleeper is an actor whose next step need not be taken, because schedules in which it
// comes here are explored elsewhere; until a step is taken that depends on it.
type sleeper struct {
	actor   uint8
	touches []x86.Touch // of its next step
	until   int         // first decision at which it no longer sleeps; filled in by the run
}

// race is what a run tells the search: had one of these actors been chosen at a
// decision, two steps could have come in the other order.
type race struct {
	pos  int
	mask uint64
	each bool // all of the actors are needed, not just one
	with int  // position of the second of the two steps
}

// event is a step of a run.
type event struct {
	actor   uint8
	index   int32 // among the actor's steps
	creator int32 // position of the step that added the actor, if this is its first; else -1
	lo, hi  int32 // footprint, in touches
	op      x86.Op
	obj     x86.ObjID
	wants   bool // waits for the lock that it takes
	watched bool // the observer was told of it
	drained bool // emptied its CPU's store buffer, which the buffer could have done before
	rested  bool // the machine was at rest just before
}

// porRun is a strategy that makes the choices of a prefix, then avoids who sleeps, and
// notes what everybody did. It is used again and again.
type porRun struct {
	follower
	prefix  []uint8
	guide   []uint8 // choices to make behind the prefix as long as they can be made
	from    int     // what is new begins here: the last choice of the prefix, or 0
	sleep   []sleeper
	chains  []uint64 // chain of actor cpus+i
	born    []int32  // position of the step that added it
	cpus    int
	events  []event
	enabled []uint64 // who could act, by position
	touches []x86.Touch
	chosen  sched.Actor
	run     uint64 // Choice.Run of the last decision
	foot    *x86.Footprint
	inner   sched.Strategy // who chooses, if not the run itself
	closed  bool           // the gate was closed,
	cutOff  uint64         // which kept these from acting
	blocked bool           // everybody who could act sleeps
	stop    int            // position of the step that ended the run; what follows it, if anything, did not count
	err     error

	analysis
}

// start prepares a run.
func (r *porRun) start(prefix, guide []uint8, sleep []sleeper) {
	r.prefix, r.guide, r.from = prefix, guide, max(0, len(prefix)-1)
	r.sleep = append(r.sleep[:0], sleep...)
	for i := range r.sleep {
		r.sleep[i].until = int(^uint(0) >> 1)
	}
	r.blocked, r.err, r.foot = false, nil, nil
	r.closed, r.cutOff = false, 0
}

// Begin implements sched.Strategy.
func (r *porRun) Begin(cpus int) {
	r.reset()
	r.cpus = cpus
	r.chains, r.born = r.chains[:0], r.born[:0]
	r.events, r.enabled, r.touches = r.events[:0], r.enabled[:0], r.touches[:0]
	if r.inner != nil {
		r.inner.Begin(cpus)
	}
}

// actor numbers an actor of the run.
func (r *porRun) actor(a *sched.Actor) uint8 {
	if a.CPU >= 0 {
		return uint8(a.CPU)
	}
	for i, c := range r.chains {
		if c == a.Chain {
			return uint8(r.cpus + i)
		}
	}
	r.chains = append(r.chains, a.Chain)
	r.born = append(r.born, int32(len(r.events)-1))
	return uint8(r.cpus + len(r.chains) - 1)
}

// close ends the step that was chosen last: its footprint is known now.
func (r *porRun) close() {
	n := len(r.events)
	if n == 0 {
		return
	}
	e := &r.events[n-1]
	e.lo = int32(len(r.touches))
	r.touches = appendFootprint(r.touches, &r.chosen, r.foot)
	e.drained, e.watched = r.foot.Drained, r.foot.Watched
	e.hi = int32(len(r.touches))
	if n-1 < r.from {
		return
	}
	did := r.touches[e.lo:e.hi]
	for i := range r.sleep {
		if s := &r.sleep[i]; s.until > n && dependent(s.touches, did, r.buffers(s.actor, e.actor)) {
			s.until = n
		}
	}
}

// asleep returns who sleeps at a decision.
func (r *porRun) asleep(pos int) (mask uint64) {
	for i := range r.sleep {
		if r.sleep[i].until > pos {
			mask |= 1 << r.sleep[i].actor
		}
	}
	return mask
}

// end tells that the last step that counts is over.
func (r *porRun) end(ch *sched.Choice) {
	r.foot = ch.Foot
	r.close()
	r.foot, r.closed = nil, true
	for i := range ch.Enabled {
		if a := r.actor(&ch.Enabled[i]); !ch.Enabled[i].Held && a != r.events[len(r.events)-1].actor {
			r.cutOff |= 1 << a
		}
	}
}

// Pick implements sched.Strategy.
func (r *porRun) Pick(ch *sched.Choice) int {
	r.fix(ch)
	r.foot = ch.Foot
	r.close()
	n := len(r.events)
	var mask uint64
	pick := -1
	for i := range ch.Enabled {
		a := r.actor(&ch.Enabled[i])
		if a >= maxActors {
			r.err = fmt.Errorf("explore: more than %d actors (CPUs, requests and timers) in one run: too many for partial-order reduction", maxActors)
			return sched.Cut
		}
		if !ch.Enabled[i].Held {
			mask |= 1 << a
		}
		if n < len(r.prefix) && a == r.prefix[n] {
			pick = i
		}
	}
	switch {
	case r.inner != nil:
		if pick = r.inner.Pick(ch); pick == sched.Cut {
			r.foot = nil // the last step has been entered
			return pick
		}
	case n < len(r.prefix):
		if pick < 0 {
			r.err = fmt.Errorf("explore: the program did not repeat itself: actor %d cannot act at decision %d", r.prefix[n], n)
			return sched.Cut
		}
	case mask == 0:
		pick = Default(ch) // a deadlock of spinlocks: let them find out
		mask = 1 << r.actor(&ch.Enabled[pick])
	default:
		awake := mask &^ r.asleep(n)
		if k := n - len(r.prefix); k < len(r.guide) && awake>>r.guide[k]&1 != 0 {
			awake = 1 << r.guide[k]
		} else {
			r.guide = nil
		}
		pick = r.choose(ch, awake)
		if pick < 0 {
			r.blocked = true
			return sched.Cut
		}
	}
	rested := n > 0 && ch.Run != r.run
	r.run = ch.Run
	r.chosen = ch.Enabled[pick]
	r.took(&r.chosen)
	r.enabled = append(r.enabled, mask)
	r.events = append(r.events, event{actor: r.actor(&r.chosen), op: r.chosen.Op, obj: r.chosen.Obj, wants: r.chosen.Wants && !r.chosen.Held, rested: rested})
	return pick
}

// choose follows the default rule among some actors; -1 if there is none.
func (r *porRun) choose(ch *sched.Choice, among uint64) int {
	first := -1
	for i := range ch.Enabled {
		a := &ch.Enabled[i]
		if among>>r.actor(a)&1 == 0 {
			continue
		}
		if a.CPU >= 0 && a.CPU == ch.Last {
			return i
		}
		if first < 0 {
			first = i // CPUs come first
		}
	}
	return first
}

// analysis is what a run finds out about the order of its steps.
type analysis struct {
	actors  int
	partner []int8    // of each actor: its store buffer, or the CPU whose buffer it is; -1: none
	clocks  []int32   // of each event: how many steps of each actor come before it or are it
	where   [][]int32 // positions of each actor's steps
	objects map[x86.ObjID]int32
	lasts   []int32 // for each object, access and actor: 1 + index of the last such step
	rest    []int32 // how many steps of each actor came before the machine was last at rest
	pred    []int32 // scratch: 1 + index of the latest step of each actor that this one depends on
	direct  []int32 // positions of races: the first step, the second
	races   []race
	sums    []uint64 // class of what comes before each position
	class   uint64
}

// clock returns the clock of the step at a position.
func (r *porRun) clock(p int) []int32 { return r.clocks[p*r.actors : (p+1)*r.actors] }

// finish looks for races among the new part of the run, once it has ended. abrupt says
// that it did not end by itself: then the last step kept everybody else from acting.
func (r *porRun) finish(abrupt bool) {
	if r.foot != nil && !r.blocked && r.err == nil {
		r.close()
	}
	n := len(r.events)
	r.stop = n - 1
	if r.foot != nil && r.foot.Void {
		// The observer looked, as the last step began, at what the step of which it had been told before
		// did: that ended the run.
		for r.stop = max(0, n-2); r.stop > 0 && !r.events[r.stop].watched; r.stop-- {
		}
	}
	switch {
	case n == 0:
		return
	case r.closed:
		abrupt = r.cutOff != 0
	case abrupt:
		r.cutOff = r.enabled[n-1] &^ (1 << r.events[n-1].actor)
	}
	r.actors = r.cpus + len(r.chains)
	r.pair()
	if cap(r.clocks) < n*r.actors {
		r.clocks = make([]int32, 2*n*r.actors)
	}
	r.clocks = r.clocks[:n*r.actors]
	for len(r.where) < r.actors {
		r.where = append(r.where, nil)
	}
	for i := range r.where {
		r.where[i] = r.where[i][:0]
	}
	if r.objects == nil {
		r.objects = make(map[x86.ObjID]int32)
	}
	clear(r.objects)
	r.lasts = r.lasts[:0]
	r.pred = append(r.pred[:0], make([]int32, r.actors)...)
	r.rest = append(r.rest[:0], make([]int32, r.actors)...)
	r.races, r.direct = r.races[:0], r.direct[:0]
	for pos := range r.events {
		r.order(pos, abrupt && pos == n-1)
	}
	for pos := r.from; pos < n; pos++ {
		r.early(pos)
	}
	for i := 0; i < len(r.direct); i += 2 {
		r.reverse(int(r.direct[i]), int(r.direct[i+1]))
	}
	if abrupt {
		r.races = append(r.races, race{pos: n - 1, mask: r.cutOff & r.enabled[n-1], each: true})
	}
	r.class = r.classHash()
}

// order finds what the step at a position comes after, and which of that directly.
func (r *porRun) order(pos int, last bool) {
	e := &r.events[pos]
	a, na := int(e.actor), r.actors
	e.index = int32(len(r.where[a]))
	e.creator = -1
	if a >= r.cpus && e.index == 0 {
		e.creator = r.born[a-r.cpus]
	}
	pred, partner := r.pred, int(r.partner[a])
	clear(pred)
	for _, t := range r.touches[e.lo:e.hi] {
		o, ok := r.objects[t.Obj]
		if !ok {
			o = int32(len(r.lasts))
			r.objects[t.Obj] = o
			for range 3 * na {
				r.lasts = append(r.lasts, 0)
			}
		}
		row := r.lasts[o : int(o)+3*na]
		for how := range x86.AccWrite + 1 {
			if !how.Conflicts(t.How) {
				continue
			}
			for b, i := range row[int(how)*na : (int(how)+1)*na] {
				if b != partner || ofBuffer(&t) {
					pred[b] = max(pred[b], i)
				}
			}
		}
	}
	for _, t := range r.touches[e.lo:e.hi] {
		r.lasts[int(r.objects[t.Obj])+int(t.How)*na+a] = e.index + 1
	}
	if last {
		for b := range pred {
			pred[b] = int32(len(r.where[b]))
		}
	}
	if e.rested {
		for b := range r.rest {
			r.rest[b] = int32(len(r.where[b]))
		}
	}
	own := r.clock(pos)
	copy(own, r.rest)
	join := func(p int) {
		for b, v := range r.clock(p) {
			own[b] = max(own[b], v)
		}
	}
	if e.index > 0 {
		join(int(r.where[a][e.index-1]))
	}
	if e.creator >= 0 {
		join(int(e.creator))
	}
	pred[a] = 0
	if pos >= r.from {
		for b, i := range pred {
			if i <= own[b] || b == partner || !r.unordered(pred, b, b, i) {
				continue
			}
			at := r.where[b][i-1]
			handed := e.wants && r.events[at].op == x86.OpUnlock && r.events[at].obj == e.obj
			if !handed && !r.enables(pred, b, int(at), a) {
				r.direct = append(r.direct, at, int32(pos))
			}
			if handed {
				if o, k := r.acquired(b, int(at)); k > own[o] && r.unordered(pred, o, b, k) {
					r.direct = append(r.direct, r.where[o][k-1], int32(pos))
				}
			}
		}
	}
	for b, i := range pred {
		if i > 0 {
			join(int(r.where[b][i-1]))
		}
	}
	own[a] = e.index + 1
	r.where[a] = append(r.where[a], int32(pos))
}

// unordered reports whether step number i of actor b comes before the step in hand
// directly: not through a step of another actor that does, too, but for actor by.
func (r *porRun) unordered(pred []int32, b, by int, i int32) bool {
	for c, k := range pred {
		if k > 0 && c != b && c != by && r.clock(int(r.where[c][k-1]))[b] >= i {
			return false
		}
	}
	return true
}

// enables reports whether the step at a position let actor a act, who could not before, and
// nobody else did since: then a's next step cannot come before it.
func (r *porRun) enables(pred []int32, b, at, a int) bool {
	if r.enabled[at]>>a&1 != 0 {
		return false
	}
	if n := len(r.where[a]); n > 0 && int(r.where[a][n-1]) > at {
		return false // it has been let on since
	}
	for c, k := range pred {
		if k > 0 && c != b && int(r.where[c][k-1]) > at {
			return false
		}
	}
	return true
}

// acquired returns who took the lock that actor b releases at a position, and 1 + the index
// of the step. Who waits for a spinlock is not run, so the order of a release and the next
// acquisition cannot be reversed; that of the two acquisitions can. A store buffer
// releases what its CPU took.
func (r *porRun) acquired(b, at int) (actor int, k int32) {
	if b >= r.cpus && r.partner[b] >= 0 {
		b = int(r.partner[b])
	}
	obj := r.events[at].obj
	for i := len(r.where[b]) - 1; i >= 0; i-- {
		if p := r.where[b][i]; int(p) < at && r.events[p].op == x86.OpLock && r.events[p].obj == obj {
			return b, int32(i + 1)
		}
	}
	return b, 0
}

// reverse enters the race of the steps at i and j: who would have to be chosen at i for
// them to come in the other order. That takes the steps behind i that do not come after
// it, and j; of those, whose first step comes after no other of them can begin.
func (r *porRun) reverse(i, j int) {
	ei := &r.events[i]
	before := func(c []int32, e *event) bool { return c[e.actor] > e.index }
	var first [maxActors]int32
	var in uint64
	for c := range r.actors {
		k := r.after(c, i)
		if k < 0 || k > j {
			continue
		}
		if k != j && before(r.clock(k), ei) {
			continue
		}
		first[c] = int32(k)
		in |= 1 << c
	}
	var initials uint64
	for m := in; m != 0; m &= m - 1 {
		c := bits.TrailingZeros64(m)
		clock := r.clock(int(first[c]))
		free := true
		for o := in &^ (1 << c); o != 0; o &= o - 1 {
			if d := bits.TrailingZeros64(o); before(clock, &r.events[first[d]]) {
				free = false
				break
			}
		}
		if free {
			initials |= 1 << c
		}
	}
	if initials &= r.enabled[i]; initials != 0 {
		for k := range r.races {
			if r.races[k].pos == i && r.races[k].mask == initials {
				return
			}
		}
		r.races = append(r.races, race{pos: i, mask: initials, with: j})
	}
}

// way returns the actors of the steps that put the second step of a race before the
// first: those between them that do not come after the first, and the second. That of
// actor a, which may begin, is left out: it has been taken.
func (r *porRun) way(c *race, a uint8) (way []uint8) {
	first := &r.events[c.pos]
	for k := c.pos + 1; k <= c.with; k++ {
		if k < c.with && r.clock(k)[first.actor] > first.index {
			continue
		}
		if r.events[k].actor == a && a != maxActors {
			a = maxActors
			continue
		}
		way = append(way, r.events[k].actor)
	}
	return way
}

// after returns the position of an actor's first step behind a position, or -1.
func (r *porRun) after(actor, pos int) int {
	w := r.where[actor]
	lo, hi := 0, len(w)
	for lo < hi {
		if m := (lo + hi) / 2; int(w[m]) <= pos {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == len(w) {
		return -1
	}
	return int(w[lo])
}

// classHash sums up which steps were taken, and in which partial order: it is the same for
// two runs if and (but for collisions) only if one is the other with independent
// steps swapped.
func (r *porRun) classHash() (sum uint64) {
	var keys [maxActors]uint64
	for a := range r.actors {
		keys[a] = uint64(a + 1)
		if a >= r.cpus {
			keys[a] = r.chains[a-r.cpus] ^ 1<<63
		}
		keys[a] = mix(keys[a], 0)
	}
	r.sums = r.sums[:0]
	for pos := range r.events {
		h := keys[r.events[pos].actor]
		var s uint64
		for b, v := range r.clock(pos) {
			if v > 0 {
				s += mix(keys[b], uint64(v))
			}
		}
		r.sums = append(r.sums, sum)
		sum += mix(h, s)
	}
	return sum
}
