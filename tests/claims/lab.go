package claims

import (
	"context"
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// Lab is what experiments are made with. It remembers its searches: claims share them.
type Lab struct {
	ctx   context.Context
	o     Options
	hosts *kernel.Hosts
	seen  map[string]*Race
	// made are the searches that the experiment under way has asked for.
	made []*Race
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
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	return &Lab{ctx: ctx, o: o, hosts: hosts, seen: map[string]*Race{}}
}

// Policy returns the policy with a name.
func (l *Lab) Policy(name string) mm.Policy {
	p := Policy(l.o.Policies, name)
	if p == nil {
		fail("there is no policy %q", name)
	}
	return p
}

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
	c, err := l.TryCount(pol, m, prog)
	if err != nil {
		fail("%s: %w", pol.Name(), err)
	}
	return c
}

// TryCount is Count for a program that the policy may not survive: the error is the
// machine's.
func (l *Lab) TryCount(pol mm.Policy, m Machine, prog Program) (Cost, error) {
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
	if err == nil && c.Counters == nil {
		fail("%s: the program measured nothing", pol.Name())
	}
	return c, err
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
