package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// runFlags are the flags of run that are not a workload's parameters.
type runFlags struct {
	policy, regime, strategy, disk, trace *string
	small, verbose                        *bool
	cpus, depth                           *int
	seed                                  *uint64
}

func defineRunFlags(fs *flag.FlagSet) *runFlags {
	return &runFlags{
		policy:   fs.String("policy", "stock", "the policy's `name`"),
		regime:   fs.String("regime", "parallel", "parallel, timed or free"),
		strategy: fs.String("strategy", "random", "free regime: random or pct"),
		disk:     fs.String("disk", "", "use the disk image at `path` instead of a disk made for the run"),
		trace:    fs.String("trace", "", "write a trace for Perfetto (Chrome JSON) to `file`"),
		small:    fs.Bool("small", false, "run the small form, as searches do"),
		verbose:  fs.Bool("v", false, "print every counter, zeros included"),
		cpus:     fs.Int("cpus", 0, "processors; 0 means the workload's own number"),
		depth:    fs.Int("depth", 3, "pct: number of ordering constraints to look for"),
		seed:     fs.Uint64("seed", 1, "free regime: seed of the strategy"),
	}
}

func runRun(e *env, args []string) error {
	if len(args) == 0 || args[0] == "" || args[0][0] == '-' {
		if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			fs := newFlags(e, "run", "WORKLOAD [flags]", "Run one workload under one policy and say what happened.\nEach workload's parameters are flags too: cowlab run WORKLOAD -h shows them.")
			defineRunFlags(fs)
			fs.Usage()
			return nil
		}
		return usagef("run wants a workload first; there are %v", workloadNames())
	}
	w, err := findWorkload(args[0])
	if err != nil {
		return err
	}
	fs := newFlags(e, "run "+w.Name, "[flags]", w.Title+".")
	f := defineRunFlags(fs)
	vals := map[string]*int64{}
	for _, p := range w.Params {
		vals[p.Name] = fs.Int64(p.Name, p.Default, fmt.Sprintf("%s (%d in the small form)", p.Usage, p.Small))
	}
	if _, err := parse(fs, args[1:], 0); err != nil {
		return err
	}
	o, err := f.options(e, w)
	if err != nil {
		return err
	}
	o.Values = w.Values(*f.small)
	fs.Visit(func(fl *flag.Flag) {
		if v, ok := vals[fl.Name]; ok {
			o.Values[fl.Name] = *v
		}
	})
	if err := w.Validate(o.Values); err != nil {
		return usagef("%v", err)
	}
	return e.execute(w, o, f)
}

// options turns flags into workload options.
func (f *runFlags) options(e *env, w *workload.Workload) (workload.Options, error) {
	o := workload.Options{Small: *f.small, CPUs: *f.cpus, Image: *f.disk, Events: *f.trace != ""}
	if o.CPUs < 0 || o.CPUs > sched.MaxCPUs {
		return o, usagef("-cpus is %d, must be 1 to %d", o.CPUs, sched.MaxCPUs)
	}
	p, err := e.findPolicy(*f.policy)
	if err != nil {
		return o, err
	}
	o.Policy = p
	switch *f.regime {
	case "parallel":
	case "timed":
		o.Regime = sched.Timed
	case "free":
		o.Regime = sched.Free
		switch *f.strategy {
		case "random":
			o.Strategy = sched.NewRandom(*f.seed)
		case "pct":
			if *f.depth < 1 || *f.depth > 9 {
				return o, usagef("-depth is %d, must be 1 to 9", *f.depth)
			}
			o.Strategy = sched.NewPCT(*f.seed, *f.depth, 1000)
		default:
			return o, usagef("-strategy %q: must be random or pct", *f.strategy)
		}
	default:
		return o, usagef("-regime %q: must be parallel, timed or free", *f.regime)
	}
	return o, nil
}

// execute runs the workload and prints what happened.
func (e *env) execute(w *workload.Workload, o workload.Options, f *runFlags) error {
	var stop func() bool
	o.Booted = func(m *kernel.Machine) {
		stop = context.AfterFunc(e.ctx, func() { m.Stop("interrupted") })
	}
	var terr error
	o.Done = func(m *kernel.Machine) {
		if *f.trace == "" {
			return
		}
		terr = writeTrace(*f.trace, m)
	}
	out, err := workload.Execute(w, o)
	if stop != nil {
		stop()
	}
	if err != nil {
		return err
	}
	printOutcome(e.stdout, w, o, out, *f.verbose)
	if terr != nil {
		return fmt.Errorf("trace: %w", terr)
	}
	if *f.trace != "" {
		fmt.Fprintf(e.stdout, "\ntrace written to %s (open it at ui.perfetto.dev)\n", *f.trace)
	}
	return e.ctx.Err()
}

func writeTrace(path string, m *kernel.Machine) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	err = trace.WritePerfetto(file, m.Trace().Events(), m.View())
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}

func printOutcome(w io.Writer, wl *workload.Workload, o workload.Options, out *workload.Outcome, verbose bool) {
	p := o.Policy
	if p == nil {
		p = mm.Stock{}
	}
	params := wl.Format(o.Values, o.Small)
	if params != "" {
		params = " " + params
	}
	fmt.Fprintf(w, "%s%s under %s, %s regime: %s\n", wl.Name, params, p.Name(), o.Regime, out.Verdict)
	for _, f := range out.Findings {
		fmt.Fprintf(w, "  %s: %s\n", f.Verdict, f)
	}
	for _, pr := range out.Problems {
		fmt.Fprintf(w, "  problem: %s\n", pr)
	}
	if err := out.Result.Err(); err != nil && len(out.Findings) == 0 {
		fmt.Fprintf(w, "  %v\n", err)
	}
	fmt.Fprintf(w, "\nvirtual time %d ns", out.NS)
	if o.Regime != sched.Timed {
		fmt.Fprint(w, " (an estimate: only the timed regime's is exact)")
	}
	if o.Regime != sched.Parallel {
		fmt.Fprintf(w, ", %d schedule points, state %016x", out.Points, matrix.State(out))
	}
	fmt.Fprintln(w, "\n\ncounters")
	for i, c := range out.Counters {
		if c != 0 || verbose {
			fmt.Fprintf(w, "  %-32s %d\n", trace.Counter(i), int64(c))
		}
	}
}
