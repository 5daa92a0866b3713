package claims

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

// effort says how hard to look. The zero value is a sample of the lab's size and, with Deep, then
// all schedules with at most two preemptions.
type effort struct {
	// schedules is the size of the sample, if it is not the lab's.
	schedules uint64
	// first ends the sample with the first schedule that answers.
	first bool
	// inOrder begins with all schedules within the bound, up to a number, with Deep or without; then
	// comes the sample.
	inOrder bool
	// preemptions bounds what is searched with Deep; zero means deepPreemptions.
	preemptions int
	// slow says that a schedule takes ten times as long as others: the limit of Deep is a tenth.
	slow bool
}

// deepPreemptions is what Deep searches to.
const deepPreemptions = 2

// manyMore is how many times as many schedules as a sample has are run in order without Deep.
const manyMore = 10

// inRows is how hard each policy is searched where a claim asks all of them the same: what is asked
// is not rare, so a sample of so many will do, and with Deep all schedules with so many preemptions:
// there are a hundred such searches and more.
func (l *Lab) inRows(schedules uint64, preemptions int) effort {
	return effort{schedules: min(schedules, l.o.Schedules), first: true, preemptions: preemptions}
}

// Search searches the small form of a workload, with parameters as "a=0", under a policy. What is
// asked is whether it shows v: with Deep, what no schedule of a sample answers is searched in
// all schedules within a bound.
func (l *Lab) Search(v workload.Verdict, pol, work, params string) *Race {
	return l.search(v, pol, work, params, effort{})
}

// First is Search up to the first schedule that shows the verdict: for claims that ask only
// whether there is one.
func (l *Lab) First(v workload.Verdict, pol, work, params string) *Race {
	return l.search(v, pol, work, params, effort{first: true})
}

// search is Search with an effort. It is made once.
func (l *Lab) search(v workload.Verdict, pol, work, params string, e effort) *Race {
	key := fmt.Sprint(v, " ", pol, " ", work, " ", params, " ", e)
	r := l.seen[key]
	if r == nil {
		// Cutting is sound for workloads: tests/matrix runs explore.CheckIndependence on them.
		r = l.explore(l.small(pol, work, params), v, e, true)
		r.Policy, r.Workload, r.Params = pol, work, params
		l.seen[key] = r
	}
	l.made = append(l.made, r)
	return r
}

// small is the small form of a workload under a policy.
func (l *Lab) small(pol, work, params string) *explore.Target {
	w := workload.Lookup(work)
	if w == nil {
		fail("there is no workload %q", work)
	}
	values, err := w.Parse(params, true)
	if err != nil {
		fail("%w", err)
	}
	return matrix.Target(w, values, l.Policy(pol), l.hosts)
}

// Ask searches an experiment: one of this package, or a scenario that ships. What its
// condition finds is called v, which is what is asked.
func (l *Lab) Ask(v workload.Verdict, pol, name string) *Race { return l.ask(v, pol, name, effort{}) }

// AskAll is Ask with every schedule that has at most one preemption and, as long as none of them
// shows v, at most two: for the smallest programs, where something that so many are
// enough for cannot hide. Without Deep the number of schedules is bounded as well. What they
// do not answer is asked of a sample besides, because a device that acts before its turn is a preemption too.
func (l *Lab) AskAll(v workload.Verdict, pol, name string) *Race {
	return l.ask(v, pol, name, effort{inOrder: true})
}

// ask is Ask with an effort.
func (l *Lab) ask(v workload.Verdict, pol, name string, e effort) *Race {
	t, err := target(name, l.Policy(pol), l.hosts)
	if err != nil {
		fail("%w", err)
	}
	r := l.explore(judged(*t, v), v, e, cuttable(name))
	r.Policy, r.Workload = pol, name
	l.made = append(l.made, r)
	return r
}

// Explore searches a program of the experiment's own, asking for v.
func (l *Lab) Explore(v workload.Verdict, t *explore.Target) *Race {
	r := l.explore(t, v, effort{}, false)
	r.Policy, r.Workload = t.Policy, t.Name
	l.made = append(l.made, r)
	return r
}

// explore searches a target for v; cut says whether schedules that repeat others may be left out
// where all are searched.
func (l *Lab) explore(t *explore.Target, v workload.Verdict, e effort, cut bool) *Race {
	r := &Race{asked: v}
	ways := []func(){
		func() { l.sample(r, t, v, e) },
		func() { l.exhaust(r, t, v, e, cut) },
	}
	if e.inOrder {
		slices.Reverse(ways)
	}
	ways[0]()
	if (l.o.Deep || e.inOrder) && !r.Found(v) {
		ways[1]()
	}
	return r
}

// sample runs some schedules.
func (l *Lab) sample(r *Race, t *explore.Target, v workload.Verdict, e effort) {
	o := explore.Options{Schedules: e.schedules, Seed: l.o.Seed, Workers: l.o.Workers}
	if o.Schedules == 0 {
		o.Schedules = l.o.Schedules
	}
	if e.first {
		o.Enough = func(r *explore.Report) bool { return count(r, v) > 0 }
	}
	rep, err := explore.Search(l.ctx, *t, o)
	if err != nil {
		fail("%w", err)
	}
	r.searches = slices.Insert(r.searches, 0, search{Report: rep, kind: sampled, limit: o.Schedules, bound: fmt.Sprintf("%d schedules", rep.Schedules)})
	r.must(t)
}

// exhaust runs every schedule within a bound, and those with few preemptions first: once all with at
// most one have been run it goes on only as long as none has shown v.
// With cut it leaves out what follows a decision that
// another schedule has come to, which is sound if what orders the steps of the program is
// known: for workloads and for experiments that say so.
// If a task had its CPU for so long that the clock may have had a say, it is done again without.
func (l *Lab) exhaust(r *Race, t *explore.Target, v workload.Verdict, e effort, cut bool) {
	o := explore.ExhaustOptions{
		Preemptions: e.preemptions, Schedules: l.o.Limit, Cut: cut, Workers: l.o.Workers, Progress: l.covered(t),
		Enough: func(x *explore.Exhausted) bool { return x.Through >= 1 && count(&x.Report, v) > 0 },
	}
	if o.Preemptions == 0 {
		o.Preemptions = deepPreemptions
	}
	switch {
	case !l.o.Deep:
		o.Schedules = manyMore * l.o.Schedules
	case e.slow:
		o.Schedules = max(1, l.o.Limit/10)
	}
	var clocked atClock
	rep, err := explore.Exhaust(l.ctx, clocked.watch(t), o)
	if err == nil && o.Cut && clocked.seen {
		o.Cut = false
		rep, err = explore.Exhaust(l.ctx, *t, o)
	}
	if err != nil {
		fail("%w", err)
	}
	s := reached(rep, v)
	if !rep.Complete {
		s.limit = o.Schedules
	}
	r.searches = append(r.searches, s)
	r.must(t)
}

// reached says how far a search in order has come that was asked for v.
func reached(x *explore.Exhausted, v workload.Verdict) search {
	s := search{Report: &x.Report, kind: cutShort, through: x.Through, classes: x.Classes}
	switch {
	case x.Complete:
		s.kind = exhaustive
	case count(&x.Report, v) > 0:
		s.kind = answered
	}
	more := x.Schedules - x.Within // with one more
	switch {
	case more == 0:
		s.bound = fmt.Sprintf("all %d schedules with at most %s", x.Within, preemptions(x.Through))
	case x.Within == 0:
		s.bound = fmt.Sprintf("the first %d schedules with %s", more, preemptions(0))
	default:
		s.bound = fmt.Sprintf("%d schedules: all %d with at most %s, and the first %d with %s",
			x.Schedules, x.Within, preemptions(x.Through), more, preemptions(x.Through+1))
	}
	if x.Classes > 0 {
		s.bound += fmt.Sprintf(", %d of them cut, %d classes", x.Merged, x.Classes)
	}
	if s.kind == cutShort {
		s.bound += fmt.Sprintf(", not ended: at least %d are left", x.Left)
	}
	return s
}

// atClock watches for runs in which a task had its CPU for so long that the clock may
// have had a say.
type atClock struct {
	lock sync.Mutex
	seen bool
}

// watch returns a target that is watched.
func (c *atClock) watch(t *explore.Target) explore.Target {
	watched := *t
	watched.Run = func(s sched.Strategy, ob sched.Observer) explore.Observation {
		obs := t.Run(s, ob)
		if obs.Result != nil && obs.Result.Clocked {
			c.lock.Lock()
			c.seen = true
			c.lock.Unlock()
		}
		return obs
	}
	return watched
}

// covered passes on how far a search of all schedules is.
func (l *Lab) covered(t *explore.Target) func(explore.Covered) {
	return func(c explore.Covered) {
		if l.tell != nil {
			l.tell(fmt.Sprintf("estimate: %.1f %% of %s under %s, %d schedules", 100*c.Share, t.Name, t.Policy, c.Done))
		}
	}
}

// EachClass searches the small form of a workload to the end, one schedule of each class of
// schedules that differ only in the order of independent steps: for the races that
// workload.Races tells in as few steps as possible.
func (l *Lab) EachClass(pol, work string) *Race {
	t := l.small(pol, work, "")
	o := explore.ReduceOptions{Schedules: l.o.Limit, Workers: l.o.Workers, Progress: l.covered(t)}
	if !l.o.Deep {
		o.Schedules = manyMore * l.o.Schedules
	}
	rep, err := explore.Reduce(l.ctx, *t, o)
	if err != nil {
		fail("%w", err)
	}
	s := search{Report: &rep.Report, kind: cutShort, limit: o.Schedules, classes: rep.Classes}
	switch {
	case rep.Complete && rep.Clocked == 0:
		s.kind, s.limit, s.bound = eachClass, 0, fmt.Sprintf("all schedules: %d interleavings, one of each equivalence class", rep.Schedules)
	case rep.Complete:
		s.bound = fmt.Sprintf("%d interleavings, which need not be all: in %d of them the clock may have had a say", rep.Schedules, rep.Clocked)
	default:
		s.bound = fmt.Sprintf("%d interleavings of different equivalence classes, not ended: at least %d are left", rep.Schedules, rep.Left)
	}
	r := &Race{Policy: pol, Workload: work, searches: []search{s}}
	r.must(t)
	l.made = append(l.made, r)
	return r
}

// judged turns a scenario's states into verdicts: v where the condition holds, else how the
// run ended. Other targets have verdicts already.
func judged(t explore.Target, v workload.Verdict) *explore.Target {
	run := t.Run
	t.Smaller = nil // they have states, not verdicts
	t.Run = func(s sched.Strategy, ob sched.Observer) explore.Observation {
		o := run(s, ob)
		if scenarios.IsState(o.Verdict) {
			o.Verdict = word(o.Verdict, v)
		}
		return o
	}
	return &t
}

// word is a state in one word.
func word(state string, v workload.Verdict) string {
	if scenarios.Positive(state) {
		return string(v)
	}
	ended := scenarios.Endings(state)
	for _, g := range append([]workload.Verdict{matrix.Broken}, workload.Verdicts()...) {
		for _, e := range ended {
			if e == string(g) {
				return e
			}
		}
	}
	return explore.Safe
}
