package matrix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// evidence is what was seen of one verdict.
type evidence struct {
	detail string
	token  string // empty if it was seen in the parallel regime only
	hits   uint64 // schedules
}

// runCell establishes one cell, and tells part how far it is.
func runCell(ctx context.Context, w workload.Variant, p mm.Policy, hosts *kernel.Hosts, o *Options, part func(float64)) (*Cell, error) {
	c := &Cell{Policy: p.Name(), Workload: w.Name, Params: w.Params, Group: w.Group(), Verdict: workload.Safe, Also: []workload.Verdict{}}
	small, err := w.Parse(w.Params, true)
	if err != nil {
		return c, err
	}
	if o.Costs || o.RowCosts {
		if c.Costs, err = CostsOf(w.Workload, small, p, hosts); err != nil {
			return c, err
		}
	}
	target := Target(w.Workload, small, p, hosts)
	seen := map[workload.Verdict]evidence{}
	var bounds []string
	if o.Schedules > 0 || o.Exhaustive {
		bound, err := c.search(ctx, target, o, part, seen)
		if err != nil {
			return c, err
		}
		bounds = append(bounds, bound)
	}
	ran, hits, err := c.parallel(ctx, w, p, hosts, o, part, seen)
	if err != nil {
		return c, err
	}
	if ran > 0 {
		bounds = append(bounds, fmt.Sprintf("%d of %d parallel runs showed something", hits, ran))
	}
	if o.Schedules > 0 {
		if err := hunt(ctx, target, o, seen); err != nil {
			return c, err
		}
		if err := c.rare(ctx, target, o, seen); err != nil {
			return c, err
		}
	}
	if len(seen) == 0 && o.Complete > 0 && o.Schedules > 0 && !o.Exhaustive && ctx.Err() == nil {
		bound, err := c.complete(ctx, target, o, seen)
		if err != nil {
			return c, err
		}
		if bound != "" {
			bounds = append(bounds, bound)
		}
	}
	c.Bound = strings.Join(bounds, ", ")
	c.judge(seen)
	if c.Verdict.Corrupts() && !w.Promised(p, small) {
		c.Also = append(c.Also, workload.NotCovered)
	}
	return c, nil
}

// judge fills in the verdict from what was seen.
func (c *Cell) judge(seen map[workload.Verdict]evidence) {
	for _, v := range workload.Verdicts() {
		e, ok := seen[v]
		if !ok {
			continue
		}
		if c.Verdict == workload.Safe {
			c.Verdict, c.Detail, c.Token, c.Hits = v, e.detail, e.token, e.hits
		} else {
			c.Also = append(c.Also, v)
		}
	}
	switch {
	case c.Token != "":
		c.How = Witness
	case c.Verdict != workload.Safe || c.Schedules == 0:
		c.How = Runs
	case c.Preemptions != nil:
		c.How = Exhaustive
	default:
		c.How = Schedules
	}
}

// schedules is how many schedules a cell is searched with.
func (o *Options) schedules(group string) uint64 {
	const share = 4 // of a search of huge pages: see Options.Schedules
	if group == workload.Hugetlb {
		return uint64(max(1, o.Schedules/share))
	}
	return uint64(o.Schedules)
}

// searched is what part of a cell is done when its search is: the rest are runs in the parallel regime.
const searched = 0.9

// search searches the small form, and says how far.
func (c *Cell) search(ctx context.Context, t *explore.Target, o *Options, part func(float64), seen map[workload.Verdict]evidence) (bound string, err error) {
	var rep *explore.Report
	if o.Exhaustive {
		r, err := explore.Exhaust(ctx, *t, explore.ExhaustOptions{
			Preemptions: o.Preemptions, Workers: o.Workers,
			Progress: func(c explore.Covered) { part(searched * c.Share) },
		})
		if err != nil {
			return "", err
		}
		rep, bound = &r.Report, fmt.Sprintf("all %d schedules with at most %d preemptions", r.Schedules, r.Preemptions)
		if r.Complete {
			c.Preemptions = &o.Preemptions
		} else {
			bound = fmt.Sprintf("interrupted after %d schedules with at most %d preemptions", r.Schedules, r.Preemptions)
		}
	} else {
		rep, err = explore.Search(ctx, *t, explore.Options{
			Schedules: o.schedules(c.Group), Seed: o.Seed, Workers: o.Workers, Every: 100,
			Progress: func(p explore.Progress) { part(searched * float64(p.Done) / float64(p.Planned)) },
			Enough:   stuck,
		})
		if err != nil {
			return "", err
		}
		bound = fmt.Sprintf("%d schedules of %d points (median)", rep.Schedules, rep.StepsMedian)
		if rep.Interrupted {
			bound = fmt.Sprintf("interrupted after %d of %d schedules", rep.Schedules, rep.Planned)
		}
	}
	return bound, c.take(t, rep, seen)
}

// stuck says that a search need not go on: every schedule so far is a livelock, which takes a
// hundred times as long as another schedule, and so were all that measure the program.
func stuck(r *explore.Report) bool {
	return r.Schedules == explore.Probes && r.ByVerdict[string(workload.Livelock)] == r.Schedules
}

// complete searches a cell in which nothing was seen with every schedule of at most one
// preemption, if there are few, and says how far; nothing if there are more.
func (c *Cell) complete(ctx context.Context, t *explore.Target, o *Options, seen map[workload.Verdict]evidence) (bound string, err error) {
	preemptions := 1
	r, err := explore.Exhaust(ctx, *t, explore.ExhaustOptions{
		Preemptions: preemptions, Schedules: o.Complete, GiveUp: true, Workers: o.Workers,
	})
	if err != nil || !r.Complete {
		return "", err
	}
	c.Preemptions = &preemptions
	return fmt.Sprintf("exhaustive: %d schedules, <= %d preemption", r.Schedules, preemptions), c.take(t, &r.Report, seen)
}

// take enters what a search has found, and how many schedules it was.
func (c *Cell) take(t *explore.Target, rep *explore.Report, seen map[workload.Verdict]evidence) error {
	c.Schedules = rep.Schedules
	for _, wit := range rep.Witnesses {
		if wit.Verdict == explore.Safe {
			continue
		}
		v := workload.Verdict(wit.Verdict)
		if !slices.Contains(workload.Verdicts(), v) {
			return fmt.Errorf("%s under %s: %s: %s (%s)", t.Name, t.Policy, wit.Verdict, wit.Detail, wit.Token)
		}
		n := rep.ByVerdict[wit.Verdict]
		seen[v] = evidence{fmt.Sprintf("%s; in %d of %d schedules", wit.Detail, n, rep.Schedules), wit.Token.String(), n}
	}
	return nil
}

// parallel runs the default size so often as asked, and says how often that was, and in
// how many runs there was something to see.
func (c *Cell) parallel(ctx context.Context, w workload.Variant, p mm.Policy, hosts *kernel.Hosts, o *Options, part func(float64), seen map[workload.Verdict]evidence) (ran, hits int, err error) {
	full, err := w.Parse(w.Params, false)
	if err != nil {
		return 0, 0, err
	}
	before := 0.0
	if o.Schedules > 0 || o.Exhaustive {
		before = searched
	}
	for i := range o.Parallel {
		if ctx.Err() != nil {
			break
		}
		part(before + (1-before)*float64(i)/float64(o.Parallel))
		out, err := parallel(ctx, w.Workload, full, p, hosts)
		if err != nil {
			return ran, hits, err
		}
		if out.Result.Reason == sched.Stopped && out.Verdict == workload.Safe {
			break // interrupted: it says nothing
		}
		ran++
		if out.Verdict != workload.Safe {
			hits++
		}
		for _, f := range out.Findings {
			if _, ok := seen[f.Verdict]; !ok {
				seen[f.Verdict] = evidence{detail: f.String() + "; parallel regime"}
			}
		}
		if len(out.Problems) > 0 && out.Verdict == workload.Safe && ctx.Err() == nil {
			return ran, hits, fmt.Errorf("%s under %s: %s", w.Name, p.Name(), strings.Join(out.Problems, "; "))
		}
	}
	return ran, hits, nil
}

// hunted is how many times as many schedules are searched for a token of a verdict that the
// parallel regime has shown.
const hunted = 20

// hunt looks for the tokens that seen lacks.
func hunt(ctx context.Context, t *explore.Target, o *Options, seen map[workload.Verdict]evidence) error {
	for _, v := range workload.Verdicts() {
		e, ok := seen[v]
		if !ok || e.token != "" || ctx.Err() != nil {
			continue
		}
		rep, err := explore.Search(ctx, *t, explore.Options{
			Schedules: hunted * uint64(o.Schedules), Seed: o.Seed + 1, Workers: o.Workers, StopAtFirst: true,
			Bad: func(verdict string) bool { return verdict == string(v) },
		})
		if err != nil {
			return err
		}
		for _, wit := range rep.Witnesses {
			if wit.Verdict == string(v) {
				seen[v] = evidence{e.detail + fmt.Sprintf("; and in one of %d schedules more", rep.Schedules), wit.Token.String(), 1}
			}
		}
	}
	return nil
}

// parallel runs the default size once.
func parallel(ctx context.Context, w *workload.Workload, v workload.Values, p mm.Policy, hosts *kernel.Hosts) (*workload.Outcome, error) {
	var stop func() bool
	out, err := workload.Execute(w, workload.Options{
		Policy: p, Values: v, Regime: sched.Parallel, Hosts: hosts, ForceHooks: true,
		Booted: func(m *kernel.Machine) {
			stop = context.AfterFunc(ctx, func() { m.Stop("interrupted") })
		},
	})
	if stop != nil {
		stop()
	}
	return out, err
}
