package scenarios

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// less returns the scenario without what its i-th cut leaves out, nil if that is no
// scenario. What states show besides the condition goes too where it speaks of what is gone.
func (s *Scenario) less(i int) *Scenario {
	cuts := s.cuts()
	if i < 0 || i >= len(cuts) {
		return nil
	}
	c := s.without(cuts[i])
	if c == nil {
		if c = s.without(func(c *Scenario) { c.Show = nil; cuts[i](c) }); c == nil {
			return nil
		}
	}
	c.tune, c.whole, c.left = s.tune, s, append(slices.Clone(s.left), i)
	if s.whole != nil {
		c.whole = s.whole
	}
	return c
}

// lessParams is what tokens say of a scenario from which something has been left out.
func (s *Scenario) lessParams() []explore.Param {
	if len(s.left) == 0 {
		return nil
	}
	var parts []string
	for _, i := range s.left {
		parts = append(parts, strconv.Itoa(i))
	}
	return []explore.Param{{Key: lessParam, Value: strings.Join(parts, "_")}}
}

// Operations counts the operations of all columns.
func (s *Scenario) Operations() int {
	n := 0
	for _, c := range s.Columns {
		for _, op := range c.Rows {
			if op != nil {
				n++
			}
		}
	}
	return n
}

// smaller returns the scenario's targets that have less to do, those with the fewest
// operations first.
func (s *Scenario) smaller(p mm.Policy, hosts *kernel.Hosts) []explore.Target {
	var less []*Scenario
	for i := range s.cuts() {
		if c := s.less(i); c != nil {
			less = append(less, c)
		}
	}
	slices.SortStableFunc(less, func(a, b *Scenario) int { return a.Operations() - b.Operations() })
	var out []explore.Target
	for _, c := range less {
		out = append(out, *c.Target(p, hosts))
	}
	return out
}

// Shrinking is how a schedule of a scenario is shrunk that ended with a verdict. The same
// finding is one in which the condition holds too, or which ended in the same way.
//
// Most conditions hold of a program that does nothing: what a device did not write is not
// there. So that the condition holds is the same finding only as long as something tells
// that it is no matter of course: it never does under one of the policies, or else it does
// not in all schedules. Where nothing tells, and where the condition does not hold, no
// operation is left out.
func (s *Scenario) Shrinking(ctx context.Context, t *explore.Target, p mm.Policy, policies []mm.Policy, hosts *kernel.Hosts, verdict string) (explore.Target, explore.ShrinkOptions) {
	out, o := *t, explore.ShrinkOptions{}
	ended := Endings(verdict)
	if slices.Contains(ended, "broken") || len(ended) == 0 && !Positive(verdict) {
		out.Smaller = nil
		return out, o
	}
	o.Same = func(n explore.Observation) bool {
		return Positive(n.Verdict) == Positive(verdict) && slices.Equal(Endings(n.Verdict), ended)
	}
	if len(ended) > 0 {
		return out, o // no program that does nothing ends so
	}
	some := func(s *Scenario, p mm.Policy, n uint64) (holds, fails bool) {
		rep, err := explore.Search(ctx, *s.Target(p, hosts), explore.Options{Schedules: n, Seed: 1})
		if err != nil {
			return true, false
		}
		for _, w := range rep.Witnesses {
			holds = holds || Positive(w.Verdict) || len(Endings(w.Verdict)) > 0
			fails = fails || !Positive(w.Verdict)
		}
		return holds, fails
	}
	tells := func(c *Scenario) bool { _, fails := some(c, p, tellSchedules); return fails }
	for _, safe := range policies {
		if holds, _ := some(s, safe, tellSchedules); !holds {
			tells = func(c *Scenario) bool { holds, _ := some(c, safe, tellSchedules); return !holds }
			break
		}
	}
	o.Keep = func(less *explore.Target) bool {
		c := s.origin().find(less)
		return c != nil && tells(c)
	}
	return out, o
}

// tellSchedules is how many schedules tell whether a condition is a matter of course.
const tellSchedules = 20

// origin is the scenario that nothing has been left out of.
func (s *Scenario) origin() *Scenario {
	if s.whole != nil {
		return s.whole
	}
	return s
}

// find returns the scenario of a target that was made of this one.
func (s *Scenario) find(t *explore.Target) *Scenario {
	c, err := s.ForToken(t.Token(explore.Spec{Kind: explore.KindSwitches}))
	if err != nil {
		return nil
	}
	return c
}

// judgedBy is a target whose runs are safe unless bad says otherwise of their verdict.
func judgedBy(t *explore.Target, bad func(verdict string) bool) *explore.Target {
	c := *t
	c.Smaller = nil
	c.Run = func(st sched.Strategy, o sched.Observer) explore.Observation {
		obs := t.Run(st, o)
		if IsState(obs.Verdict) && !bad(obs.Verdict) {
			obs.Verdict = explore.Safe
		}
		return obs
	}
	return &c
}
