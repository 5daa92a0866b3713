package scenarios

import (
	"context"
	"fmt"
	"slices"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
)

// Minimise looks for the fewest operations of a scenario that still tell two policies
// apart: in some schedule under p the condition holds, in none under safe. It leaves out
// columns, meeting points and single operations, one after the other, as long as searches of
// st find it so and no call fails that should not. What was expected of policies is left
// out, too.
//
// A second policy is needed because most conditions hold of a program that does nothing:
// what a device did not write is not there.
//
// The error is not nil if the whole scenario does not tell them apart.
func (s *Scenario) Minimise(ctx context.Context, p, safe mm.Policy, hosts *kernel.Hosts, st Strategy) (*Scenario, error) {
	if st.Schedules == 0 {
		st.Schedules = s.schedules()
	}
	best := s.without(func(*Scenario) {})
	if best == nil {
		return nil, fmt.Errorf("%s: its canonical form does not parse", s.Name) // a test sees to it that it does
	}
	holds := func(c *Scenario, p mm.Policy) (some, works bool) {
		rep, err := explore.Search(ctx, *c.Target(p, hosts), explore.Options{Schedules: st.Schedules, Seed: st.Seed, Workers: st.Workers})
		works = err == nil
		if works {
			for _, w := range rep.Witnesses {
				some = some || Positive(w.Verdict)
				works = works && !slices.Contains(endings(w.Verdict), "broken")
			}
		}
		return some, works
	}
	if some, works := holds(best, p); !some || !works {
		return nil, fmt.Errorf("%s under %s: %s holds in none of %d schedules", s.Name, p.Name(), best.Cond, st.Schedules)
	}
	if some, _ := holds(best, safe); some {
		return nil, fmt.Errorf("%s: %s holds under %s, too", s.Name, best.Cond, safe.Name())
	}
	shows := func(c *Scenario) bool {
		some, works := holds(c, p)
		if !some || !works {
			return false
		}
		some, works = holds(c, safe)
		return !some && works
	}
	for again := true; again; {
		again = false
		for i := 0; ctx.Err() == nil; i++ {
			cut := best.cuts()
			if i >= len(cut) {
				break
			}
			if c := best.without(cut[i]); c != nil && shows(c) {
				best, again = c, true
				i--
			}
			if st.Progress != nil {
				st.Progress(float64(i+1) / float64(len(cut)))
			}
		}
	}
	return best, ctx.Err()
}

// without returns a copy of the scenario that a function has changed; nil if that is no
// scenario any more.
func (s *Scenario) without(cut func(*Scenario)) *Scenario {
	c, err := Parse(s.file, s.Print())
	if err != nil {
		return nil
	}
	c.Expects = nil
	cut(c)
	for r := 0; len(c.Columns) > 0 && r < len(c.Columns[0].Rows); {
		if slices.ContainsFunc(c.Columns, func(col *Column) bool { return col.Rows[r] != nil }) {
			r++
			continue
		}
		for _, col := range c.Columns {
			col.Rows = slices.Delete(col.Rows, r, r+1)
		}
	}
	if len(c.Columns) == 0 {
		return nil
	}
	c, err = Parse(s.file, c.Print())
	if err != nil {
		return nil
	}
	c.path = s.path
	return c
}

// cuts lists what can be left out: whole columns with what forks them, meeting points,
// single operations.
func (s *Scenario) cuts() []func(*Scenario) {
	var cuts []func(*Scenario)
	meets := map[int64]bool{}
	for i, col := range s.Columns {
		cuts = append(cuts, func(c *Scenario) { c.dropColumn(i) })
		for r, op := range col.Rows {
			switch {
			case op == nil:
			case op.Verb == opBarrier:
				if n := op.Value.N; !meets[n] {
					meets[n] = true
					cuts = append(cuts, func(c *Scenario) { c.dropMeeting(n) })
				}
			default:
				cuts = append(cuts, func(c *Scenario) { c.Columns[i].Rows[r] = nil })
			}
		}
	}
	return cuts
}

func (s *Scenario) dropMeeting(n int64) {
	for _, col := range s.Columns {
		for r, op := range col.Rows {
			if op != nil && op.Verb == opBarrier && op.Value.N == n {
				col.Rows[r] = nil
			}
		}
	}
}

// dropColumn leaves a column out, and the operations and meeting points that need it.
func (s *Scenario) dropColumn(i int) {
	gone := s.Columns[i]
	s.Columns = slices.Delete(s.Columns, i, i+1)
	left := map[int64]int{}
	for _, col := range s.Columns {
		for r, op := range col.Rows {
			switch {
			case op == nil:
			case op.Verb == opBarrier:
				left[op.Value.N]++
			case (op.Verb == "fork" || op.Verb == "vfork" || op.Verb == "wait") && op.Args[0].Word == gone.Name.Text:
				col.Rows[r] = nil
			}
		}
	}
	for n, columns := range left {
		if columns < 2 {
			s.dropMeeting(n)
		}
	}
}
