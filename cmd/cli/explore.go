package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/scenarios"
)

func runExplore(e *env, args []string) error {
	fs := newFlags(e, "explore", "WORKLOAD|SCENARIO [flags]", `Search the schedules of a workload's small form or of a scenario, and say what can happen in
them.

Strategies:
  portfolio  random, PCT of depth 1 to 4 and partial-order sampling in turn
  random, pct, pos  one of them alone
  dfs        every schedule with at most -preemptions preemptions, but what follows
             a point that another schedule has come to as well
  dpor       one schedule of each class of schedules that differ only in the order
             of independent steps

The last two end by themselves if they can, and say so: "exhaustive". The workloads
read_fork and write_store, which are not in the table, are the two races in as few
steps as possible; docs/exhaustive.md has more of them, and what came out.

A workload's parameters are flags: cowlab explore WORKLOAD -h shows them. Four of them all
have: -tso 1 gives each CPU a store buffer, so that the search also chooses when stores
become visible; with -fail 1 an allocation of memory may fail at any moment; with -reclaim 1
one of the first pages in the order of reclaim may be reclaimed at any moment, on a CPU of
its own and to a swap disk; and -races 1 looks for data races of the kernel in each
schedule, which takes half as long again. Scenarios have these four and no other.

A scenario is named as for cowlab litmus: one that ships by its name, one of yours by a file
that ends in `+scenarios.Suffix+`. A workload of the same name comes first; `+scenarioPrefix+`NAME is the
scenario. What can happen is its final states, "*>" before those in which its condition
holds. Under dfs and dpor its columns start and end together as behind a spinlock, each on a
CPU of its own, so that no sleep and no wake-up is searched; dpor is not for scenarios that hold
disks or look at the machine's state in a column, and dfs does not cut there.`,
		"cowlab explore forkscrew -schedules 20000",
		"cowlab explore read_fork -policy pg_gup -strategy dpor",
		"cowlab explore pin_fork -policy pg_gup -why",
		"cowlab explore pin_fork -strategy dfs -preemptions 1 -format json",
		"cowlab explore pin_fork -policy pg_gup -fail 1",
		"cowlab explore driver_fork -policy pg_gup -reclaim 1",
		"cowlab explore read_fork -strategy dpor -tso 1",
		"cowlab explore SB -strategy dpor -policy pg_gup",
		"cowlab explore "+scenarioPrefix+"forkscrew -strategy dfs -preemptions 1")
	w := mentioned(args)
	if w == nil && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		if _, err := findProgram(args[0]); err != nil { // before its parameters are called unknown flags
			return err
		}
	}
	vals := defineParams(fs, w, true)
	tune := defineTuning(fs, w)
	policy := fs.String("policy", "stock", "`name` of the policy")
	strategy := fs.String("strategy", "portfolio", "portfolio, random, pct, pos, dfs or dpor")
	preemptions := fs.Int("preemptions", 1, "bound of dfs")
	schedules := fs.Int("schedules", 0, "end after so many; 0 means 10000, and no bound for dfs and dpor")
	duration := fs.Duration("duration", 0, "end after so long; 0 means no bound")
	seed := fs.Uint64("seed", 1, "numbers the search; the same seed searches the same schedules")
	workers := fs.Int("workers", 0, "host threads that search; 0 means one for each core")
	form := fs.String("format", "text", "text or json")
	why := fs.Bool("why", false, "show instead the nearest miss, and the operation of the policy that closed it: what goes wrong under stock, tried under -policy; cowlab why has more flags")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 {
		return usagef("explore wants a workload or a scenario; cowlab list and cowlab litmus -list have them")
	}
	if err := oneOf("strategy", *strategy, "portfolio", "random", "pct", "pos", "dfs", "dpor"); err != nil {
		return err
	}
	if err := oneOf("format", *form, "text", "json"); err != nil {
		return err
	}
	if *schedules < 0 || *duration < 0 {
		return usagef("-schedules and -duration must not be negative")
	}
	if err := checkWorkers(*workers); err != nil {
		return err
	}
	if *preemptions < 0 || *preemptions > 100 {
		return usagef("-preemptions is %d, must be 0 to 100", *preemptions)
	}
	if given(fs, "preemptions") && *strategy != "dfs" {
		return usagef("-preemptions bounds -strategy dfs, and the strategy is %s", *strategy)
	}
	for _, name := range []string{"strategy", "duration", "workers", "format"} {
		if *why && given(fs, name) {
			return usagef("-%s is not for -why, which searches in a way of its own", name)
		}
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	p, err := e.findPolicy(*policy)
	if err != nil {
		return err
	}
	prog, err := findProgram(pos[0])
	if err != nil {
		return err
	}
	if w != nil && (prog.workload == nil || prog.workload.Name != w.Name) {
		return usagef("explore: %s stands for %s, and %s is a workload that is named too: one at a time", pos[0], prog.name(), w.Name)
	}
	bare := *strategy == "dfs" || *strategy == "dpor"
	if err := prog.tune(fs, vals, tune, bare && !*why); err != nil {
		return err
	}
	if *strategy == "dpor" && !prog.reducible() {
		return usagef("%s holds disks or looks at the machine's state in a column: dpor does not know what that depends on; -strategy dfs tries every order", pos[0])
	}
	if *why {
		args := []string{pos[0], "-policy", *policy, "-params", prog.params(), "-seed", fmt.Sprint(*seed)}
		if *schedules > 0 {
			args = append(args, "-schedules", fmt.Sprint(*schedules))
		}
		return runWhy(e, args)
	}
	target := prog.target(p, hosts)
	// A schedule's garbage is small and short-lived.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	x := &exploration{
		e: e, target: target, title: prog.title(), params: prog.params(), wrong: prog.wrong, cut: prog.reducible(), strategy: *strategy, preemptions: *preemptions, schedules: uint64(*schedules),
		seed: *seed, workers: *workers, bar: newProgress(e),
	}
	ctx := e.ctx
	if *duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	err = x.search(ctx)
	x.bar.clear()
	if err != nil {
		return err
	}
	if *form == "json" {
		err = x.writeJSON(e.stdout)
	} else {
		err = x.writeText(e.stdout)
	}
	return errors.Join(err, e.ctx.Err())
}

// exploration is a search and what came out of it.
type exploration struct {
	e           *env
	target      *explore.Target
	title       string
	params      string // those that differ from the small form's
	strategy    string
	wrong       func(verdict string) bool
	cut         bool // dfs may leave out what follows where another schedule has been
	preemptions int
	schedules   uint64
	seed        uint64
	workers     int
	bar         *progress

	report *explore.Report
	// bound says how far the search went.
	bound    string
	complete bool
	classes  uint64
}

func (x *exploration) search(ctx context.Context) error {
	begin := time.Now()
	said := func(done uint64) string {
		return fmt.Sprintf("%s: %d schedules, %.0f a second", x.target.Name, done, float64(done)/time.Since(begin).Seconds())
	}
	// How many there are in all nobody knows before the end, unless a bound comes first.
	covered := func(c explore.Covered) {
		if x.schedules > 0 && float64(c.Done) > c.Share*float64(x.schedules) {
			x.bar.show(said(c.Done), float64(c.Done)/float64(x.schedules))
			return
		}
		x.bar.estimate(said(c.Done), c.Share)
	}
	switch x.strategy {
	case "dpor":
		r, err := explore.Reduce(ctx, *x.target, explore.ReduceOptions{Schedules: x.schedules, Workers: x.workers, Progress: covered})
		if err != nil {
			return err
		}
		x.report, x.complete, x.classes = &r.Report, r.Complete, r.Classes
		switch {
		case !r.Complete:
			x.bound = fmt.Sprintf("not exhaustive: %d interleavings, %d equivalence classes, %d runs given up as repetitions, %d decisions known to need another",
				r.Schedules, r.Classes, r.Blocked, r.Left)
		case r.Clocked > 0:
			x.complete = false
			x.bound = fmt.Sprintf("not exhaustive: in %d of %d interleavings a task ran for so long that time may decide who is next", r.Clocked, r.Schedules)
		default:
			x.bound = fmt.Sprintf("exhaustive: %d interleavings, %d equivalence classes", r.Schedules, r.Classes)
		}
	case "dfs":
		r, err := explore.Exhaust(ctx, *x.target, explore.ExhaustOptions{
			Preemptions: x.preemptions, Schedules: x.schedules, Workers: x.workers, Cut: x.cut, Progress: covered,
		})
		if err != nil {
			return err
		}
		x.report, x.complete, x.classes = &r.Report, r.Complete, r.Classes
		x.bound = fmt.Sprintf("exhaustive for at most %d preemptions: %d interleavings, %d of them cut, %d equivalence classes",
			r.Preemptions, r.Schedules, r.Merged, r.Classes)
		if !x.cut {
			x.bound = fmt.Sprintf("exhaustive for at most %d preemptions: %d interleavings", r.Preemptions, r.Schedules)
		}
		if !r.Complete {
			x.bound = fmt.Sprintf("not exhaustive for at most %d preemptions: %d interleavings", r.Preemptions, r.Schedules)
		}
	default:
		if x.schedules == 0 {
			x.schedules = 10_000
		}
		r, err := explore.Search(ctx, *x.target, explore.Options{
			Schedules: x.schedules, Seed: x.seed, Workers: x.workers, Mode: explore.Mode(x.strategy), Every: 100,
			Progress: func(p explore.Progress) { x.bar.show(said(p.Done), float64(p.Done)/float64(p.Planned)) },
		})
		if err != nil {
			return err
		}
		x.report = r
		x.bound = fmt.Sprintf("%d schedules of %d points (median)", r.Schedules, r.StepsMedian)
		if r.Interrupted {
			x.bound += fmt.Sprintf(", interrupted before %d", r.Planned)
		}
	}
	return nil
}

func (x *exploration) writeText(w io.Writer) error {
	r := x.report
	var b strings.Builder
	fmt.Fprintf(&b, "%s under %s, %s: %s\n", x.title, x.target.Policy, x.strategy, x.bound)
	var verdicts []string
	for v := range r.ByVerdict {
		verdicts = append(verdicts, v)
	}
	sort.Strings(verdicts)
	for _, v := range verdicts {
		fmt.Fprintf(&b, "  %-14s %d\n", v, r.ByVerdict[v])
	}
	fmt.Fprintf(&b, "  %d different final states\n", r.States)
	for i := range r.Witnesses {
		wit := &r.Witnesses[i]
		if !x.wrong(wit.Verdict) {
			continue
		}
		detail, _, _ := strings.Cut(wit.Detail, "\n")
		fmt.Fprintf(&b, "\n%s: %s\n  cowlab replay %s\n", wit.Verdict, detail, wit.Token)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// exploreJSON is the form of the verb's JSON.
type exploreJSON struct {
	Workload    string            `json:"workload"`
	Params      string            `json:"params,omitempty"`
	Policy      string            `json:"policy"`
	Strategy    string            `json:"strategy"`
	Bound       string            `json:"bound"`
	Exhaustive  bool              `json:"exhaustive"`
	Schedules   uint64            `json:"schedules"`
	Classes     uint64            `json:"classes,omitempty"`
	States      int               `json:"states"`
	Interrupted bool              `json:"interrupted"`
	Verdicts    map[string]uint64 `json:"verdicts"`
	Witnesses   map[string]string `json:"witnesses"`
}

func (x *exploration) writeJSON(w io.Writer) error {
	r := x.report
	out := exploreJSON{
		Workload: x.target.Name, Params: x.params, Policy: x.target.Policy, Strategy: x.strategy, Bound: x.bound, Exhaustive: x.complete,
		Schedules: r.Schedules, Classes: x.classes, States: r.States, Interrupted: r.Interrupted,
		Verdicts: r.ByVerdict, Witnesses: map[string]string{},
	}
	for i := range r.Witnesses {
		out.Witnesses[r.Witnesses[i].Verdict] = r.Witnesses[i].Token.String()
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
