package matrix

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Cell is one policy on one workload.
type Cell struct {
	Policy   string `json:"policy"`
	Workload string `json:"workload"`
	// Params are the parameters that differ from the defaults, as "a=0".
	Params string `json:"params"`
	// Verdict is the gravest thing seen, Also the others.
	Verdict workload.Verdict   `json:"verdict"`
	Also    []workload.Verdict `json:"also"`
	// Bound says how far was searched.
	Bound string `json:"bound"`
	// Token replays the verdict; empty if it was only seen in the parallel regime, or
	// if there is nothing to replay.
	Token string `json:"token"`
	// Detail is the evidence.
	Detail string `json:"detail"`
	// Costs are what the small form takes in the timed regime; nil if nobody asked.
	Costs *Costs `json:"costs,omitempty"`
}

// Table is a result of the matrix.
type Table struct {
	Cells []Cell `json:"cells"`
}

// Options say what to run. The zero value runs nothing.
type Options struct {
	Policies  []mm.Policy
	Workloads []*workload.Workload
	// Schedules is how many schedules of the small form each cell is searched with.
	Schedules int
	// Exhaustive searches every schedule with at most Preemptions preemptions instead.
	Exhaustive  bool
	Preemptions int
	// Seed numbers the searches: the same seed searches the same schedules.
	Seed uint64
	// Parallel is how often the default size is run in the parallel regime.
	Parallel int
	// Costs runs each cell's small form once in the timed regime too. That says what it
	// takes, and has no say in the verdict.
	Costs bool
	// Workers is how many host threads search; zero means GOMAXPROCS.
	Workers int
	// Progress, if not nil, is told what is being done, and how far it is (0 to 1).
	Progress func(what string, done float64)
}

// Run fills the table. When ctx ends, it returns what was found so far with ctx's error.
func Run(ctx context.Context, o Options) (*Table, error) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	type job struct {
		w       *workload.Workload
		variant string
		p       mm.Policy
	}
	var jobs []job
	for _, w := range o.Workloads {
		variants := w.Variants
		if len(variants) == 0 {
			variants = []string{""}
		}
		for _, v := range variants {
			for _, p := range o.Policies {
				jobs = append(jobs, job{w, v, p})
			}
		}
	}
	t := &Table{Cells: []Cell{}}
	for i, j := range jobs {
		if ctx.Err() != nil {
			return t, ctx.Err()
		}
		part := func(done float64) {
			if o.Progress != nil {
				o.Progress(strings.TrimSpace(fmt.Sprintf("%s on %s %s", j.p.Name(), j.w.Name, j.variant)), (float64(i)+done)/float64(len(jobs)))
			}
		}
		part(0)
		c, err := runCell(ctx, j.w, j.variant, j.p, hosts, &o, part)
		if err != nil && !errors.Is(err, context.Canceled) {
			return t, err
		}
		t.Cells = append(t.Cells, *c)
	}
	return t, ctx.Err()
}

// runCell establishes one cell, and tells part how far it is.
func runCell(ctx context.Context, w *workload.Workload, variant string, p mm.Policy, hosts *kernel.Hosts, o *Options, part func(float64)) (*Cell, error) {
	c := &Cell{Policy: p.Name(), Workload: w.Name, Params: variant, Verdict: workload.Safe, Also: []workload.Verdict{}}
	small, err := w.Parse(variant, true)
	if err != nil {
		return c, err
	}
	if o.Costs {
		if c.Costs, err = CostsOf(w, small, p, hosts); err != nil {
			return c, err
		}
	}
	seen := map[workload.Verdict]string{} // verdict -> evidence
	tokens := map[workload.Verdict]string{}
	var bounds []string
	if o.Schedules > 0 || o.Exhaustive {
		rep, bound, err := searchCell(ctx, *Target(w, small, p, hosts), o, part)
		if err != nil {
			return c, err
		}
		for _, wit := range rep.Witnesses {
			if wit.Verdict == explore.Safe {
				continue
			}
			v := workload.Verdict(wit.Verdict)
			if !slices.Contains(workload.Verdicts(), v) {
				return c, fmt.Errorf("%s under %s: %s: %s (%s)", w.Name, p.Name(), wit.Verdict, wit.Detail, wit.Token)
			}
			seen[v] = fmt.Sprintf("%s; in %d of %d schedules", wit.Detail, rep.ByVerdict[wit.Verdict], rep.Schedules)
			tokens[v] = wit.Token.String()
		}
		bounds = append(bounds, bound)
	}
	full, err := w.Parse(variant, false)
	if err != nil {
		return c, err
	}
	hits, ran := 0, 0
	for range o.Parallel {
		if ctx.Err() != nil {
			break
		}
		out, err := parallel(ctx, w, full, p, hosts)
		if err != nil {
			return c, err
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
				seen[f.Verdict] = f.String() + "; parallel regime"
			}
		}
		if len(out.Problems) > 0 && out.Verdict == workload.Safe && ctx.Err() == nil {
			return c, fmt.Errorf("%s under %s: %s", w.Name, p.Name(), strings.Join(out.Problems, "; "))
		}
	}
	if ran > 0 {
		bounds = append(bounds, fmt.Sprintf("%d of %d parallel runs showed something", hits, ran))
	}
	c.Bound = strings.Join(bounds, ", ")
	for _, v := range workload.Verdicts() {
		detail, ok := seen[v]
		if !ok {
			continue
		}
		if c.Verdict == workload.Safe {
			c.Verdict, c.Detail, c.Token = v, detail, tokens[v]
		} else {
			c.Also = append(c.Also, v)
		}
	}
	if c.Verdict.Corrupts() && !w.Promised(p, small) {
		c.Also = append(c.Also, workload.NotCovered)
	}
	return c, nil
}

// searchCell searches the small form, and says how far.
func searchCell(ctx context.Context, t explore.Target, o *Options, part func(float64)) (*explore.Report, string, error) {
	if o.Exhaustive {
		rep, err := explore.Exhaust(ctx, t, explore.ExhaustOptions{
			Preemptions: o.Preemptions, Workers: o.Workers,
			Progress: func(done, left uint64) { part(0.9 * float64(done) / float64(done+left)) },
		})
		if err != nil {
			return nil, "", err
		}
		bound := fmt.Sprintf("all %d schedules with at most %d preemptions", rep.Schedules, rep.Preemptions)
		if !rep.Complete {
			bound = fmt.Sprintf("interrupted after %d schedules with at most %d preemptions", rep.Schedules, rep.Preemptions)
		}
		return &rep.Report, bound, nil
	}
	rep, err := explore.Search(ctx, t, explore.Options{
		Schedules: uint64(o.Schedules), Seed: o.Seed, Workers: o.Workers, Every: 100,
		Progress: func(p explore.Progress) { part(0.9 * float64(p.Done) / float64(p.Planned)) },
	})
	if err != nil {
		return nil, "", err
	}
	bound := fmt.Sprintf("%d schedules of %d points (median)", rep.Schedules, rep.StepsMedian)
	if rep.Interrupted {
		bound = fmt.Sprintf("interrupted after %d of %d schedules", rep.Schedules, rep.Planned)
	}
	return rep, bound, nil
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
