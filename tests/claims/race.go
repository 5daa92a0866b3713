package claims

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// Race is what searches of one program under one policy found: a sample of its schedules, all
// schedules within a bound, or one after the other.
type Race struct {
	Policy, Workload, Params string
	asked                    workload.Verdict
	searches                 []search
}

// search is one of them.
type search struct {
	*explore.Report
	kind    kind
	bound   string // what was run, to go behind "in"
	limit   uint64 // how many schedules it was allowed; 0 if those were all that there are
	through int    // of those in order: the preemptions up to which every schedule was run
	classes uint64 // of equivalent schedules; 0 if they were not told apart
}

// kind says what the schedules of a search are.
type kind int

const (
	sampled    kind = iota // some
	exhaustive             // all that there are within the bound that is stated
	eachClass              // one of each class of equivalent schedules, all of them
	answered               // in order, until one answered what was asked
	cutShort               // meant to be all, and ended before
)

// Name says what was searched.
func (r *Race) Name() string {
	s := r.Policy + " on " + r.Workload
	if r.Params != "" {
		s += " " + r.Params
	}
	return s
}

// anything is asked for where each verdict but safe is an answer.
const anything workload.Verdict = ""

// Found reports whether any schedule had a verdict as its gravest.
func (r *Race) Found(v workload.Verdict) bool {
	return slices.ContainsFunc(r.searches, func(s search) bool { return count(s.Report, v) > 0 })
}

// count is how many schedules of a report had a verdict as their gravest.
func count(r *explore.Report, v workload.Verdict) uint64 {
	if v == anything {
		return r.Schedules - r.ByVerdict[explore.Safe]
	}
	return r.ByVerdict[string(v)]
}

// Any reports whether any schedule showed something.
func (r *Race) Any() bool { return r.Found(anything) }

// Safe reports whether no schedule showed anything.
func (r *Race) Safe() bool { return !r.Any() }

// witness is the first schedule that showed a verdict, nil if none did.
func (r *Race) witness(v workload.Verdict) *explore.Witness {
	for _, s := range r.searches {
		if w := s.Witness(string(v)); w != nil {
			return w
		}
	}
	return nil
}

// must fails the experiment if the program itself did not work in some schedule: that is no
// verdict on a policy.
func (r *Race) must(t *explore.Target) {
	for _, bad := range []workload.Verdict{matrix.Broken, explore.Panicked} {
		if w := r.witness(bad); w != nil {
			fail("%s under %s: %s: %s (%s)", t.Name, t.Policy, bad, w.Detail, w.Token)
		}
	}
}

// bound says what was run, to go behind "in".
func (r *Race) bound() string {
	var all []string
	for _, s := range r.searches {
		all = append(all, s.bound)
	}
	return strings.Join(all, " and in ")
}

// exhaustive reports whether every schedule within a bound that is stated was run.
func (r *Race) exhaustive() bool {
	return slices.ContainsFunc(r.searches, func(s search) bool { return s.kind == exhaustive || s.kind == eachClass })
}

// Evidence says what was found, gravest first, with a token if there is something to
// replay.
func (r *Race) Evidence() Evidence {
	for _, v := range append(workload.Verdicts(), readOnly) {
		if v != workload.Safe && r.Found(v) {
			return r.evidence(v)
		}
	}
	return Evidence{Text: fmt.Sprintf("%s: nothing in %s", r.Name(), r.bound())}
}

// evidence is the evidence for one verdict.
func (r *Race) evidence(v workload.Verdict) Evidence {
	for _, s := range r.searches {
		if n := count(s.Report, v); n > 0 {
			return Evidence{Text: fmt.Sprintf("%s: %s in %d of %s", r.Name(), v, n, s.bound), Token: r.witness(v).Token.String()}
		}
	}
	return Evidence{Text: fmt.Sprintf("%s: no %s in %s", r.Name(), v, r.bound())}
}

// Evidences is the evidence of several searches.
func Evidences(rs ...*Race) []Evidence {
	var out []Evidence
	for _, r := range rs {
		out = append(out, r.Evidence())
	}
	return out
}

// If returns confirmed if everything said is so, and else refuted: for what is counted, and
// for what a schedule disproves. What a search only did not find is for Settle.
func If(all ...bool) Verdict {
	for _, ok := range all {
		if !ok {
			return Refuted
		}
	}
	return Confirmed
}

// Part is one of the things that a claim says, and what was seen of it.
type Part struct{ seen Verdict }

// Fact is a part that was counted, or that a schedule has disproved if it is not so.
func Fact(ok bool) Part { return Part{If(ok)} }

// Exists is a part that says that something can be: ok is whether one of the searches found it. If
// none did, that refutes it only if all of them were exhaustive.
func Exists(ok bool, searches ...*Race) Part {
	switch {
	case ok:
		return Part{Confirmed}
	case len(searches) == 0 || slices.ContainsFunc(searches, func(r *Race) bool { return !r.exhaustive() }):
		return Part{NotFound}
	}
	return Part{Refuted}
}

// Settle is the verdict on a claim that says all of its parts: refuted if one is, and else not
// found if one was not.
func Settle(parts ...Part) Verdict {
	for _, v := range []Verdict{Refuted, NotFound} {
		if slices.Contains(parts, Part{v}) {
			return v
		}
	}
	return Confirmed
}

// Shows is the part that says that a verdict can be.
func (r *Race) Shows(v workload.Verdict) Part { return Exists(r.Found(v), r) }

// ShowsAny is the part that says that something can go wrong.
func (r *Race) ShowsAny() Part { return r.Shows(anything) }

// Never is the part that says that nothing can: confirmed to the bound of the search.
func (r *Race) Never() Part { return Fact(r.Safe()) }

// within sums up how far searches that found nothing looked.
func within(rs []*Race) string {
	if len(rs) == 0 {
		return "there are none"
	}
	least, most := uint64(math.MaxUint64), uint64(0)
	through := deepPreemptions
	for _, r := range rs {
		var n uint64
		reach := -1
		for _, s := range r.searches {
			n += s.Schedules
			if s.kind == exhaustive {
				reach = s.through
			}
		}
		least, most, through = min(least, n), max(most, n), min(through, reach)
	}
	s := fmt.Sprintf("%d searches of %d to %d schedules", len(rs), least, most)
	if least == most {
		s = fmt.Sprintf("%d searches of %d schedules", len(rs), most)
	}
	if through >= 0 {
		s += fmt.Sprintf(", all of those with at most %s among them", preemptions(through))
	}
	return s
}

// bounds says how far the searches of an experiment looked.
func bounds(made []*Race, o *Options) string {
	if len(made) == 0 {
		return "counted in the timed regime"
	}
	if !o.Deep {
		return asked(made)
	}
	how := map[string]int{} // searches
	var order []string
	var schedules, classes uint64
	for _, r := range made {
		for _, s := range r.searches {
			schedules += s.Schedules
			classes += s.classes
		}
		h := r.settled()
		if how[h] == 0 {
			order = append(order, h)
		}
		how[h]++
	}
	slices.Sort(order)
	var parts []string
	for _, h := range order {
		parts = append(parts, fmt.Sprintf("%d %s", how[h], h))
	}
	s := fmt.Sprintf("searches: %s; %d schedules", strings.Join(parts, ", "), schedules)
	if classes > 0 {
		s += fmt.Sprintf(", %d equivalence classes told apart", classes)
	}
	return s
}

// settled says in what way a search with Deep came to its end.
func (r *Race) settled() string {
	limit := uint64(0)
	for _, s := range r.searches {
		switch s.kind {
		case eachClass:
			return "exhaustive over all schedules"
		case exhaustive:
			return "exhaustive to " + preemptions(s.through)
		case cutShort:
			limit = s.limit
		}
	}
	if r.Found(r.asked) {
		return "answered by a schedule"
	}
	return fmt.Sprintf("not ended within %d schedules", limit)
}

// asked says how many schedules the searches of an experiment were meant to have, those
// aside that ran all that there are.
func asked(made []*Race) string {
	least, most := uint64(math.MaxUint64), uint64(0)
	for _, r := range made {
		limit := uint64(0)
		for _, s := range r.searches {
			limit = max(limit, s.limit)
		}
		if limit > 0 {
			least, most = min(least, limit), max(most, limit)
		}
	}
	switch {
	case most == 0:
		return "all schedules"
	case least == most:
		return fmt.Sprintf("%d schedules a search", most)
	}
	return fmt.Sprintf("%d to %d schedules a search", least, most)
}

// preemptions says so many of them.
func preemptions(n int) string {
	if n == 1 {
		return "1 preemption"
	}
	return fmt.Sprintf("%d preemptions", n)
}
