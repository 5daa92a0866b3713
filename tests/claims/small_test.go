package claims

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/spec"
	"github.com/cowlab/cowlab/tests/workload"
)

// inGo are the holes whose program is no scenario: there is nothing that could be left out one by one.
func inGo() map[string]string {
	return map[string]string{
		"claim-c30":        "the experiment of claim C30: the page is grown old first, so that reclaim takes it in the middle of the fork",
		"claim-c32-locked": "scenarios have no private mapping of a file on huge pages",
	}
}

// kept are operations that a scenario could do without, and why it has them.
func kept() map[string]map[string]string {
	const often = "a hole that shows in 3 of 1,500 schedules without any of the three, and in 129 with them; claim C9 asks many rows about it"
	return map[string]map[string]string{
		"torn-snapshot": {"@1": often, "A[8] = 5": often, "pause 60": often},
	}
}

// TestHolesAreSmall: a scenario that keeps a hole has the fewest operations. When a column, a
// meeting point or an operation is left out, the hole no longer shows under one of the rows
// that the scenario is kept for; or it showed in every schedule before and depends on chance then.
// So what is left of an order (a meeting point, a disk on hold) is there to leave nothing to chance. With -long
// each is searched with 400 schedules and the rare one with 6,000: minutes.
func TestHolesAreSmall(t *testing.T) {
	if raceBuild {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	l := newLab(t.Context(), Options{Schedules: DefaultSchedules / 4}, hosts)
	programs, rows := []string{}, map[string][]hole{}
	for _, h := range holes() {
		if workload.Lookup(h.program) == nil {
			if rows[h.program] == nil {
				programs = append(programs, h.program)
			}
			rows[h.program] = append(rows[h.program], h)
		}
	}
	for _, name := range programs {
		_, s, err := lookup(name)
		require.NoError(t, err)
		if s == nil {
			assert.NotEmpty(t, inGo()[name], "%s is no scenario", name)
			continue
		}
		var looks []*look
		for _, h := range rows[name] {
			looks = append(looks, newLook(t, l, h, s))
		}
		small(t, s, looks)
	}
}

// TestRareHolesAreSmall is TestHolesAreSmall for the two holes of row 11 that no claim runs, because one schedule of some hundred
// or thousand shows them; with -long. What is left out can leave a program that runs for
// ever in most schedules, where a run that shows the hole is over soon: no run is given more than patience.
func TestRareHolesAreSmall(t *testing.T) {
	if !*long || raceBuild {
		t.Skip("-args -long searches each smaller program with 20,000 schedules, in minutes; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	l := newLab(t.Context(), Options{Schedules: DefaultSchedules / 4}, hosts)
	for _, k := range []*look{
		{hole: hole{34, "", "dio_range_lock_fixed", "mmput-in-interrupt", rare, workload.Bug}, says: "BUG: mmput of the last user of address space # may sleep, but preemption is disabled"},
		{hole: hole{42, "", "dio_range_lock", "dio-sleeps", rare, workload.Deadlock}},
	} {
		t.Run(k.program, func(t *testing.T) {
			k.l, k.policy, k.ends, k.patience = l, l.Policy(k.hole.policy), true, patience
			s, err := scenarios.Load("../spec/testdata/" + k.program + scenarios.Suffix)
			require.NoError(t, err)
			require.True(t, k.shows(s), "%d. %s", k.number, s.Name)
			small(t, s, []*look{k})
		})
	}
}

// small leaves out what can be left out of a scenario, one after the other.
func small(t *testing.T, s *scenarios.Scenario, looks []*look) {
	for op := range kept()[s.Name] {
		assert.Contains(t, s.Print(), op, "%s has no such operation", s.Name)
	}
	for _, cut := range s.Cuts() {
		c := s.With(cut)
		if c != nil && slices.ContainsFunc(slices.Collect(maps.Keys(kept()[s.Name])), func(op string) bool { return !strings.Contains(c.Print(), op) }) {
			continue
		}
		if c != nil && !slices.ContainsFunc(looks, func(k *look) bool { return !k.shows(c) || k.always(s) && !k.always(c) }) {
			assert.Fail(t, "a hole shows in a smaller program", "%d. %s, of which this is enough:\n%s", looks[0].number, s.Name, c.Print())
		}
	}
}

// look recognises a hole in programs that are smaller than the one it is kept in. How a run
// ended tells, and what it complained of; or, if the condition holds, what the model of
// tests/spec finds wrong with the run, because most conditions hold of a program that does nothing; and
// where that does not know either, a policy under which the condition never holds.
type look struct {
	hole
	l      *Lab
	policy mm.Policy
	ends   bool         // with verdict, and
	says   string       // of a bug
	wrong  spec.Verdict // the model's
	safe   mm.Policy

	patience int // decisions after which a run is given up; 0: never
}

// newLook runs the hole's program to see what tells it.
func newLook(t *testing.T, l *Lab, h hole, s *scenarios.Scenario) *look {
	t.Helper()
	w := l.find(h).witness(h.verdict)
	require.NotNil(t, w, "%d. %s under %s", h.number, h.program, h.policy)
	k := &look{hole: h, l: l, policy: l.Policy(h.policy)}
	o := s.Target(k.policy, l.hosts).Run(w.Spec.Strategy(), nil)
	if len(scenarios.Endings(o.Verdict)) > 0 {
		k.ends, k.says = true, said(o.Detail)
		return k
	}
	require.True(t, holds(o), "%d. %s under %s: %s", h.number, h.program, h.policy, o.Verdict)
	if p := modelled(s); p != nil {
		o = p.Scenario().Target(k.policy, l.hosts).Run(w.Spec.Strategy(), nil)
		if f := p.Model.Judge(o, spec.Promises(k.policy)); f != nil && holds(o) {
			k.wrong = f.Verdict
			return k
		}
	}
	i := slices.IndexFunc(l.o.Policies, func(p mm.Policy) bool {
		return !k.some(s, p, k.schedules(s), func(o explore.Observation) bool { return holds(o) || len(scenarios.Endings(o.Verdict)) > 0 })
	})
	require.GreaterOrEqual(t, i, 0, "%d. %s: nothing tells that the condition is no matter of course", h.number, h.program)
	k.safe = l.o.Policies[i]
	return k
}

// modelled is a scenario with its condition and its model, nil if the model cannot be had.
func modelled(s *scenarios.Scenario) *spec.Program {
	bare := s.With(func(c *scenarios.Scenario) { c.Show = nil })
	if bare == nil {
		return nil
	}
	p, err := spec.NewProgram(bare)
	if err != nil {
		return nil
	}
	return p
}

// schedules bounds a search for the hole in what is left of a scenario.
func (k *look) schedules(s *scenarios.Scenario) uint64 {
	switch {
	case !*long:
		return max(20, s.Search)
	case k.patience > 0:
		return 20_000
	case k.params == rare:
		return 6000
	}
	return 400
}

// certain is how many schedules tell that nothing depends on chance.
const certain = 100

// some reports whether one of n schedules of a scenario is so.
func (k *look) some(s *scenarios.Scenario, p mm.Policy, n uint64, is func(explore.Observation) bool) bool {
	t := s.Target(p, k.l.hosts)
	run := t.Run
	t.Smaller = nil
	t.Run = func(st sched.Strategy, ob sched.Observer) explore.Observation {
		if k.patience > 0 {
			st = &patient{Strategy: st, left: k.patience}
		}
		o := run(st, ob)
		if is(o) {
			o.Verdict = k.program
		} else {
			o.Verdict = explore.Safe
		}
		return o
	}
	rep, err := explore.Search(k.l.ctx, *t, explore.Options{
		Schedules: n, Seed: 1, StopAtFirst: true, Bad: func(v string) bool { return v == k.program },
	})
	return err == nil && rep.ByVerdict[k.program] > 0 // an error is a program that cannot be run
}

// patience is twice the decisions of the longest run of those that showed one of the two rare holes of row 11, in
// 12,000 schedules of each.
const patience = 1200

// patient is a strategy that ends a run which takes too long.
type patient struct {
	sched.Strategy
	left int
}

// Pick implements sched.Strategy.
func (p *patient) Pick(ch *sched.Choice) int {
	if p.left--; p.left < 0 {
		return sched.Cut
	}
	return p.Strategy.Pick(ch)
}

// shows reports whether a scenario has the hole.
func (k *look) shows(s *scenarios.Scenario) bool {
	n := k.schedules(s)
	switch {
	case k.ends:
		return k.some(s, k.policy, n, k.ended)
	case k.wrong != "":
		p := modelled(s)
		return p != nil && k.some(p.Scenario(), k.policy, n, func(o explore.Observation) bool {
			f := p.Model.Judge(o, spec.Promises(k.policy))
			return holds(o) && f != nil && f.Verdict == k.wrong
		})
	}
	return k.some(s, k.policy, n, holds) && !k.some(s, k.safe, n, holds)
}

// always reports whether each schedule of a scenario that has the hole shows it.
func (k *look) always(s *scenarios.Scenario) bool {
	return !k.some(s, k.policy, certain, func(o explore.Observation) bool { return !k.ended(o) && (k.ends || !holds(o)) })
}

// ended reports whether a run ended as the hole's does.
func (k *look) ended(o explore.Observation) bool {
	return k.ends && slices.Contains(scenarios.Endings(o.Verdict), string(k.verdict)) && (k.verdict != workload.Bug || said(o.Detail) == k.says)
}

// holds reports whether a run's condition does.
func holds(o explore.Observation) bool { return scenarios.Positive(o.Verdict) }
