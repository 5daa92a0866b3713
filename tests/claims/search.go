package claims

import (
	"fmt"
	"sync"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

// First searches the small form of a workload for the first schedule that shows a verdict:
// for claims that ask only whether there is one. With Deep it is still the portfolio that
// goes first, because what is there is found sooner by chance than in order.
func (l *Lab) First(v workload.Verdict, pol, work, params string) *Race {
	return l.firstOf(v, pol, work, params, l.o.Schedules)
}

// firstOf is First with a bound of its own, where many rows are asked the same and what is
// looked for is not rare; the lab's bound holds if it is less.
func (l *Lab) firstOf(v workload.Verdict, pol, work, params string, schedules uint64) *Race {
	l.searched = true
	schedules = min(schedules, l.o.Schedules)
	key := fmt.Sprint("first ", v, " ", pol, " ", work, " ", params, " ", schedules)
	if r := l.seen[key]; r != nil {
		return r
	}
	w := workload.Lookup(work)
	if w == nil {
		fail("there is no workload %q", work)
	}
	values, err := w.Parse(params, true)
	if err != nil {
		fail("%w", err)
	}
	r := l.explore(*matrix.Target(w, values, l.Policy(pol), l.hosts), schedules, v, true)
	r.Policy, r.Workload, r.Params = pol, work, params
	l.seen[key] = r
	return r
}

// Ask searches an experiment: one of this package, or a scenario that ships. What its
// condition finds is called v.
func (l *Lab) Ask(v workload.Verdict, pol, name string) *Race {
	l.searched = true
	return l.ask(v, pol, name, func(t explore.Target) *Race { return l.explore(t, l.o.Schedules, "", false) })
}

// askFirst is Ask until v shows, with a bound of its own, as firstOf has.
func (l *Lab) askFirst(v workload.Verdict, pol, name string, schedules uint64) *Race {
	l.searched = true
	return l.ask(v, pol, name, func(t explore.Target) *Race { return l.explore(t, min(schedules, l.o.Schedules), v, false) })
}

// AskAll is Ask with every schedule that has at most one preemption and, if none of them
// shows anything, at most two: for the smallest programs, where something that so many are
// enough for cannot hide. Without Deep the number of schedules is bounded as well.
func (l *Lab) AskAll(v workload.Verdict, pol, name string) *Race {
	l.searched = true
	return l.ask(v, pol, name, func(t explore.Target) *Race {
		cut := l.o.Deep && cuttable(name)
		r := l.exhaust(t, 1, cut)
		if !r.Any() {
			r = l.exhaust(t, 2, cut)
		}
		return r
	})
}

func (l *Lab) ask(v workload.Verdict, pol, name string, search func(explore.Target) *Race) *Race {
	t, err := target(name, l.Policy(pol), l.hosts)
	if err != nil {
		fail("%w", err)
	}
	r := search(judged(*t, v))
	r.Policy, r.Workload = pol, name
	return r
}

// exhaust runs every schedule within a bound; see every.
func (l *Lab) exhaust(t explore.Target, preemptions int, cut bool) *Race {
	o := explore.ExhaustOptions{Preemptions: preemptions, Cut: cut}
	if !l.o.Deep {
		o.Schedules = 4 * l.o.Schedules
	}
	return l.every(t, o)
}

// every runs every schedule within a bound. With Cut it leaves out what follows a decision that
// another schedule has come to, which is sound if what orders the steps of the program is
// known: for workloads (explore.CheckIndependence is run on them) and for experiments that say so.
// If a task had its CPU for so long that the clock may have had a say, it is done again without.
func (l *Lab) every(t explore.Target, o explore.ExhaustOptions) *Race {
	o.Workers, o.Progress = l.o.Workers, l.covered(&t)
	var lock sync.Mutex
	clocked, run := false, t.Run
	watched := t
	watched.Run = func(s sched.Strategy, ob sched.Observer) explore.Observation {
		obs := run(s, ob)
		if obs.Result != nil && obs.Result.Clocked {
			lock.Lock()
			clocked = true
			lock.Unlock()
		}
		return obs
	}
	rep, err := explore.Exhaust(l.ctx, watched, o)
	if err == nil && o.Cut && clocked {
		o.Cut = false
		rep, err = explore.Exhaust(l.ctx, t, o)
	}
	if err != nil {
		fail("%w", err)
	}
	r := &Race{report: &rep.Report}
	r.must(t)
	s := "s"
	if o.Preemptions == 1 {
		s = ""
	}
	which := "all"
	if !rep.Complete {
		which = "the first"
	}
	r.bound = fmt.Sprintf("%s %d schedules with at most %d preemption%s", which, rep.Schedules, o.Preemptions, s)
	if rep.Merged > 0 {
		r.bound += fmt.Sprintf(", %d of them cut", rep.Merged)
	}
	return r
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
	l.searched = true
	w := workload.Lookup(work)
	if w == nil {
		fail("there is no workload %q", work)
	}
	t := matrix.Target(w, w.Values(true), l.Policy(pol), l.hosts)
	o := explore.ReduceOptions{Workers: l.o.Workers, Progress: l.covered(t)}
	if !l.o.Deep {
		o.Schedules = 10 * l.o.Schedules
	}
	rep, err := explore.Reduce(l.ctx, *t, o)
	if err != nil {
		fail("%w", err)
	}
	r := &Race{Policy: pol, Workload: work, report: &rep.Report}
	r.must(*t)
	r.bound = fmt.Sprintf("%d interleavings", rep.Schedules)
	if rep.Complete && rep.Clocked == 0 {
		r.bound = fmt.Sprintf("all schedules: %d interleavings, one of each equivalence class", rep.Schedules)
	}
	return r
}

// judged turns a scenario's states into verdicts: v where the condition holds, else how the
// run ended. Other targets have verdicts already.
func judged(t explore.Target, v workload.Verdict) explore.Target {
	run := t.Run
	t.Smaller = nil // they have states, not verdicts
	t.Run = func(s sched.Strategy, ob sched.Observer) explore.Observation {
		o := run(s, ob)
		if scenarios.IsState(o.Verdict) {
			o.Verdict = word(o.Verdict, v)
		}
		return o
	}
	return t
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

// must fails the experiment if the program itself did not work in some schedule: that is no
// verdict on a policy.
func (r *Race) must(t explore.Target) {
	for _, bad := range []string{matrix.Broken, explore.Panicked} {
		if w := r.report.Witness(bad); w != nil {
			fail("%s under %s: %s: %s (%s)", t.Name, t.Policy, bad, w.Detail, w.Token)
		}
	}
}

// Any reports whether any schedule showed something.
func (r *Race) Any() bool { return !r.Safe() }
