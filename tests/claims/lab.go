package claims

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// Lab is what experiments are made with. It remembers its searches: claims share them.
type Lab struct {
	ctx   context.Context
	o     Options
	hosts *kernel.Hosts
	seen  map[string]*Race
	// searched is whether the experiment under way has asked for a search.
	searched bool
	// tell, if not nil, hears now and then how far a long search is.
	tell func(what string)
}

func newLab(ctx context.Context, o Options, hosts *kernel.Hosts) *Lab {
	if o.Schedules == 0 {
		o.Schedules = DefaultSchedules
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Policies == nil {
		o.Policies = policy.All()
	}
	return &Lab{ctx: ctx, o: o, hosts: hosts, seen: map[string]*Race{}}
}

// bound says how far searches look.
func (l *Lab) bound() string {
	if l.o.Deep {
		return "every schedule with at most two preemptions"
	}
	return fmt.Sprintf("%d schedules a search", l.o.Schedules)
}

// Policy returns the policy with a name.
func (l *Lab) Policy(name string) mm.Policy {
	p := Policy(l.o.Policies, name)
	if p == nil {
		fail("there is no policy %q", name)
	}
	return p
}

// Race is what a search of one workload under one policy found.
type Race struct {
	Policy, Workload, Params string
	report                   *explore.Report
	bound                    string
}

// Search searches the small form of a workload, with parameters as "a=0", under a policy.
func (l *Lab) Search(pol, work, params string) *Race {
	return l.SearchFor(l.o.Schedules, pol, work, params)
}

// SearchFor is Search with a bound of its own, for what is rarer than most.
func (l *Lab) SearchFor(schedules uint64, pol, work, params string) *Race {
	l.searched = true
	key := fmt.Sprint(pol, " ", work, " ", params, " ", schedules)
	if r := l.seen[key]; r != nil {
		return r
	}
	w := workload.Lookup(work)
	if w == nil {
		fail("there is no workload %q", work)
	}
	v, err := w.Parse(params, true)
	if err != nil {
		fail("%w", err)
	}
	r := l.explore(*matrix.Target(w, v, l.Policy(pol), l.hosts), schedules, "", true)
	r.Policy, r.Workload, r.Params = pol, work, params
	l.seen[key] = r
	return r
}

// Explore searches a program of the experiment's own.
func (l *Lab) Explore(t explore.Target) *Race {
	l.searched = true
	r := l.explore(t, l.o.Schedules, "", false)
	r.Policy, r.Workload = t.Policy, t.Name
	return r
}

// explore searches a target: to the end, or to the first schedule that shows first. With
// Deep what no schedule of the portfolio shows is searched to the end as well; cut says
// whether schedules that repeat others may be left out then.
func (l *Lab) explore(t explore.Target, schedules uint64, first workload.Verdict, cut bool) *Race {
	if l.o.Deep && first == "" {
		return l.exhaust(t, 2, cut)
	}
	o := explore.Options{Schedules: schedules, Seed: l.o.Seed, Workers: l.o.Workers}
	if first != "" {
		o.StopAtFirst, o.Bad = true, func(v string) bool { return v == string(first) }
	}
	rep, err := explore.Search(l.ctx, t, o)
	if err != nil {
		fail("%w", err)
	}
	r := &Race{report: rep}
	r.must(t)
	if l.o.Deep && !r.Found(first) {
		return l.exhaust(t, 2, cut)
	}
	r.bound = fmt.Sprintf("%d schedules", rep.Schedules)
	return r
}

// Name says what was searched.
func (r *Race) Name() string {
	s := r.Policy + " on " + r.Workload
	if r.Params != "" {
		s += " " + r.Params
	}
	return s
}

// Count is how many schedules had a verdict as their gravest.
func (r *Race) Count(v workload.Verdict) uint64 { return r.report.ByVerdict[string(v)] }

// Found reports whether any schedule had it.
func (r *Race) Found(v workload.Verdict) bool { return r.Count(v) > 0 }

// Safe reports whether no schedule showed anything.
func (r *Race) Safe() bool { return r.report.ByVerdict[explore.Safe] == r.report.Schedules }

// Evidence says what was found, gravest first, with a token if there is something to
// replay.
func (r *Race) Evidence() Evidence {
	for _, v := range append(workload.Verdicts(), readOnly) {
		if v != workload.Safe && r.Found(v) {
			return r.evidence(v)
		}
	}
	return Evidence{Text: fmt.Sprintf("%s: nothing in %s", r.Name(), r.bound)}
}

// evidence is the evidence for one verdict.
func (r *Race) evidence(v workload.Verdict) Evidence {
	n := r.Count(v)
	if n == 0 {
		return Evidence{Text: fmt.Sprintf("%s: no %s in %s", r.Name(), v, r.bound)}
	}
	e := Evidence{Text: fmt.Sprintf("%s: %s in %d of %s", r.Name(), v, n, r.bound)}
	if w := r.report.Witness(string(v)); w != nil {
		e.Token = w.Token.String()
	}
	return e
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

// exhaustive reports whether every schedule within the bound that is stated was run.
func (r *Race) exhaustive() bool { return strings.HasPrefix(r.bound, "all ") }

// Shows is the part that says that a verdict can be.
func (r *Race) Shows(v workload.Verdict) Part { return Exists(r.Found(v), r) }

// ShowsAny is the part that says that something can go wrong.
func (r *Race) ShowsAny() Part { return Exists(r.Any(), r) }

// Never is the part that says that nothing can: confirmed to the bound of the search.
func (r *Race) Never() Part { return Fact(r.Safe()) }

// Program is a program whose cost is asked for: it calls measure once, around what
// counts; the rest is set-up.
type Program func(t *kernel.Thread, measure func(func()))

// Cost is what the measured part of a program took.
type Cost struct {
	// NS is virtual time in nanoseconds, as the thread that measured saw it.
	NS uint64
	// Counters are the changes of the machine's counters, indexed by trace.Counter.
	Counters []uint64
}

// Of returns one counter.
func (c Cost) Of(k trace.Counter) uint64 { return c.Counters[k] }

// Machine is what a program runs on: the zero value is one CPU and 32 MiB.
type Machine struct {
	Options kernel.Options // Regime, Policy, Cost and Hosts are the lab's
	Model   *x86.CostModel // nil: the default
}

// Count runs a program in the timed regime under a policy and returns what its measured
// part cost. The same program costs the same each time.
func (l *Lab) Count(pol string, m Machine, prog Program) Cost {
	return l.CountUnder(l.Policy(pol), m, prog)
}

// CountUnder is Count for a policy that is a variation of the experiment's own.
func (l *Lab) CountUnder(pol mm.Policy, m Machine, prog Program) Cost {
	if l.ctx.Err() != nil {
		fail("%w", l.ctx.Err())
	}
	o := m.Options
	o.Regime, o.Policy, o.Cost, o.Hosts = sched.Timed, pol, m.Model, l.hosts
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	if o.Memory == 0 {
		o.Memory = 32 << 20
	}
	machine, err := kernel.Boot(o)
	if err != nil {
		fail("%w", err)
	}
	defer machine.Shutdown()
	var c Cost
	err = machine.Run(func(t *kernel.Thread) {
		prog(t, func(fn func()) {
			before, from := machine.Trace().Snapshot(), t.ClockGettime()
			fn()
			c.NS = t.ClockGettime() - from
			c.Counters = machine.Trace().Snapshot()
			for i := range c.Counters {
				c.Counters[i] -= before[i]
			}
		})
	}).Err()
	if err != nil {
		fail("%s: %w", pol.Name(), err)
	}
	if c.Counters == nil {
		fail("%s: the program measured nothing", pol.Name())
	}
	return c
}

// Compared is a comparison of times that was made with each constant of the cost model as
// it is, and scaled by half either way.
type Compared struct {
	// Ratio is a's time over b's with the default constants; Low and High are the least
	// and the greatest over all variations.
	Ratio, Low, High float64
	// LowAt and HighAt say with which constant these were seen.
	LowAt, HighAt string
}

// Compare measures two sides under the default cost model and under every variation, and
// returns the ratio of their times. Each side is asked with the model to use.
func (l *Lab) Compare(a, b func(model *x86.CostModel) Cost) Compared {
	base := x86.DefaultCost()
	ratio := func(m *x86.CostModel) float64 { return float64(a(m).NS) / float64(max(b(m).NS, 1)) }
	c := Compared{Ratio: ratio(base), LowAt: "the default", HighAt: "the default"}
	c.Low, c.High = c.Ratio, c.Ratio
	for _, name := range base.Names() {
		for _, f := range []float64{0.5, 1.5} {
			if l.ctx.Err() != nil {
				fail("%w", l.ctx.Err())
			}
			m, err := base.Scale(name, f)
			if err != nil {
				fail("%w", err)
			}
			if m == *base {
				continue
			}
			r := ratio(&m)
			at := fmt.Sprintf("%s times %g", name, f)
			if r < c.Low {
				c.Low, c.LowAt = r, at
			}
			if r > c.High {
				c.High, c.HighAt = r, at
			}
		}
	}
	return c
}

// Above reports whether the ratio is above x, whatever constant is varied.
func (c Compared) Above(x float64) bool { return c.Low > x }

// Below reports whether it is below x.
func (c Compared) Below(x float64) bool { return c.High < x }

// Judge is the verdict on "the ratio is above x" (or below, if above is false): depends, on
// a constant, if it does not survive the variations.
func (c Compared) Judge(x float64, above bool) (Verdict, string) {
	switch {
	case c.Above(x) == above && (c.Above(x) || c.Below(x)):
		return Confirmed, ""
	case c.Above(x) || c.Below(x):
		return Refuted, ""
	}
	return Depends, fmt.Sprintf("the constants of the cost model: %.2f with %s, %.2f with %s", c.Low, c.LowAt, c.High, c.HighAt)
}

// Evidence says the ratio.
func (c Compared) Evidence(what string) Evidence {
	return Evidence{Text: fmt.Sprintf("%s: %.3g (%.3g to %.3g over the cost model's variations)", what, c.Ratio, c.Low, c.High)}
}
