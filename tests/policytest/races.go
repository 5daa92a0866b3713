package policytest

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// stepLimit is when a run is given up as a livelock. The small forms take one to five
// thousand points.
const stepLimit = 40_000

// target makes a cell something to explore, under the policy with its hooks watched.
func (s *suite) target(c *cell, tune func(*workload.Options)) *explore.Target {
	return matrix.TargetWith(c.w, c.values, contract{s.p}, s.hosts, func(o *workload.Options) {
		o.StepLimit = stepLimit
		o.Watchdog = 0 // every run: this is where policies are new
		if tune != nil {
			tune(o)
		}
	})
}

// rarest is the workload in which gup-fast meets fork between two of its steps, and rarely how
// many times as many schedules it takes to see that: without its second look at the pte
// pg_gup loses a read in one of a few thousand.
const (
	rarest = "pin_fork"
	rarely = 100
)

// races searches schedules of every cell.
func (s *suite) races() (out []Problem) {
	for _, c := range s.cells(true) {
		t, n := s.target(&c, nil), s.o.Schedules
		switch {
		case c.values["huge"] == 1:
			n = max(n/4, 1) // each takes some times as long
		case c.w.Name == rarest && !s.o.Short:
			n *= rarely
		}
		r, err := explore.Search(s.ctx, *t, explore.Options{Schedules: uint64(n), Seed: s.o.Seed})
		if err != nil {
			s.gaveUp(err)
			return append(out, Problem{Where: c.String(), Says: err.Error()})
		}
		for _, w := range r.Witnesses {
			if s.excused(&c, w.Verdict) {
				continue
			}
			says := fmt.Sprintf("%s in %d of %d schedules: %s", w.Verdict, r.ByVerdict[w.Verdict], r.Schedules, w.Detail)
			if v := workload.Verdict(w.Verdict); v.Corrupts() {
				says += fmt.Sprintf(" (Claims promises that this does not happen: %#x)", uint32(c.w.Requires(c.values)))
			}
			out = append(out, Problem{Where: c.String(), Says: says, schedule: &schedule{cell: &c, spec: w.Token.Spec}})
		}
	}
	return out
}

// excused reports whether a policy may show a verdict: bytes may be wrong where it does not
// promise that they are right.
func (s *suite) excused(c *cell, verdict string) bool {
	if verdict == explore.Safe {
		return true
	}
	return known(verdict) && workload.Verdict(verdict).Corrupts() && !c.w.Promised(s.p, c.values)
}

// known reports whether a verdict is one of package workload's.
func known(verdict string) bool {
	for _, v := range workload.Verdicts() {
		if string(v) == verdict {
			return true
		}
	}
	return false
}

// invariants checks every invariant at every step of one schedule of each workload, as far
// as 5,000 steps go. What the program itself finds is for races.
func (s *suite) invariants() (out []Problem) {
	for _, c := range s.cells(false) {
		t := s.target(&c, everyStep)
		spec := explore.Spec{Kind: explore.KindRandom, Seed: s.o.Seed}
		obs := t.Run(spec.Strategy(), nil)
		if s.gaveUp(obs.Result.Stuck()) != nil {
			return out
		}
		if obs.Verdict == string(workload.Bug) {
			out = append(out, Problem{Where: c.String(), Says: obs.Verdict + ": " + obs.Detail, schedule: &schedule{cell: &c, tune: everyStep, spec: spec}})
		}
	}
	return out
}

// seeds is how many schedules are compared where equality is asked for.
const seeds = 2

// specs are the schedules that comparisons are made with.
func (s *suite) specs() (out []explore.Spec) {
	n := uint64(seeds)
	if s.o.Short {
		n = 1
	}
	for i := range n {
		out = append(out, explore.Spec{Kind: explore.KindRandom, Seed: s.o.Seed + i})
	}
	return out
}

// plain runs a cell under the policy itself and returns a digest of how it ended.
func (s *suite) plain(c *cell, p mm.Policy, st sched.Strategy, ob sched.Observer, tune func(*workload.Options)) (uint64, *workload.Outcome, error) {
	o := workload.Options{Policy: p, Values: c.values, Small: true, Regime: sched.Free, Strategy: st, Observer: ob, Hosts: s.hosts, StepLimit: stepLimit}
	if tune != nil {
		tune(&o)
	}
	if err := s.gaveUp(nil); err != nil {
		return 0, nil, err
	}
	out, err := workload.Execute(c.w, o)
	if err != nil {
		s.gaveUp(err)
		return 0, nil, err
	}
	got, put := out.Counters[trace.EmuNrFollPinAcquired], out.Counters[trace.EmuNrFollPinReleased]
	if out.Result.Reason == sched.Quiet && got != put {
		return 0, nil, fmt.Errorf("%d pages were pinned and %d unpinned", got, put)
	}
	return matrix.State(out), out, nil
}
