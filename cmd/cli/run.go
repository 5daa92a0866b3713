package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// runFlags are the flags of run that are not a workload's parameters.
type runFlags struct {
	policy, regime, strategy, disk, trace *string
	failSite                              *string
	failAt                                *int
	small, verbose                        *bool
	cpus, depth, runs                     *int
	seed                                  *uint64
	duration                              *time.Duration
	boot                                  func(*kernel.Machine) // what else is done before the run; nil: nothing
}

func defineRunFlags(fs *flag.FlagSet) *runFlags {
	return &runFlags{
		policy:   fs.String("policy", "stock", "the policy's `name`"),
		regime:   fs.String("regime", "parallel", "parallel, timed or free"),
		strategy: fs.String("strategy", "random", "free regime: random or pct"),
		disk:     fs.String("disk", "", "use the disk image at `path` instead of a disk made for the run; what the workload writes is in it afterwards"),
		trace:    fs.String("trace", "", "write a trace for Perfetto (Chrome JSON) to `file`"),
		failSite: fs.String("failsite", "", "make an allocation fail that the kernel asks for at this `site`, do_wp_page for example; list: run once without and print the sites"),
		failAt:   fs.Int("failat", 1, "which allocation of -failsite fails, counted from 1 on; -N: all from the Nth on"),
		small:    fs.Bool("small", false, "run the small form, as searches do"),
		verbose:  fs.Bool("v", false, "print every counter, zeros included, /proc/meminfo and what the OOM killer said; with more than one run, the counters' sums"),
		cpus:     fs.Int("cpus", 0, "processors; 0 means the workload's own number"),
		depth:    fs.Int("depth", 3, "pct: number of ordering constraints to look for"),
		runs:     fs.Int("runs", 1, "run so often and count the verdicts"),
		seed:     fs.Uint64("seed", 1, "free regime: seed of the strategy; run n has seed+n-1"),
		duration: fs.Duration("duration", 0, "run again and again for so long (90s, 10m) and count the verdicts"),
	}
}

const runAbout = `Parallel runs are as fast as the host allows and differ from one another; timed and
free ones repeat exactly. It exits with 0 whatever the verdict is.`

func runRun(e *env, args []string) error {
	if len(args) == 0 || args[0] == "" || args[0][0] == '-' {
		if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			runHelp(e)
			return nil
		}
		return usagef("run wants a workload first; there are %s", list(workloadNames()))
	}
	w, err := findWorkload(args[0])
	if err != nil {
		return err
	}
	fs := newFlags(e, "run "+w.Name, "[flags]", "")
	f := defineRunFlags(fs)
	vals := defineParams(fs, w, false)
	fs.Usage = func() {
		isParam := vals.has
		usageHead(e.stdout, fs.Name(), "[flags]", sentence(w.Title)+"\n"+runAbout)
		printFlags(e.stdout, "Parameters of "+w.Name, fs, isParam)
		printFlags(e.stdout, "Flags", fs, func(name string) bool { return !isParam(name) })
	}
	if _, err := parse(fs, args[1:], 0); err != nil {
		return err
	}
	o, err := f.options(e)
	if err != nil {
		return err
	}
	if name := firstGiven(fs, "strategy", "seed", "depth"); name != "" && o.Regime != sched.Free {
		return usagef("-%s is for -regime free, and this is the %s one", name, o.Regime)
	}
	o.Values = w.Values(*f.small)
	repeat := false
	vals.read(fs, o.Values)
	fs.Visit(func(fl *flag.Flag) {
		repeat = repeat || fl.Name == "runs" || fl.Name == "duration"
		if fl.Name == "duration" && fs.Lookup("runs").Value.String() == fs.Lookup("runs").DefValue {
			*f.runs = 0 // no bound
		}
	})
	if err := w.Validate(o.Values); err != nil {
		return usagef("%v", err)
	}
	if err := w.CheckRegime(o.Values, o.Regime); err != nil {
		return usagef("%v", err)
	}
	if repeat {
		return e.soak(w, o, f)
	}
	if *f.failSite == "" {
		return e.execute(w, o, f)
	}
	return e.executeFailing(w, o, f)
}

// executeFailing is execute with -failsite. Which sites there are a run without failures says.
func (e *env) executeFailing(w *workload.Workload, o workload.Options, f *runFlags) error {
	var names []string
	var calls map[string]int
	probe := o
	probe.Image, probe.Events, probe.Strategy = "", false, f.newStrategy(0)
	probe.Done = func(m *kernel.Machine) { names, calls = m.AllocSites() }
	if _, err := e.booted(w, probe, (*kernel.Machine).CountAllocs); err != nil {
		return err
	}
	if *f.failSite == "list" {
		for _, n := range names {
			fmt.Fprintf(e.stdout, "%-24s %d\n", n, calls[n])
		}
		return e.ctx.Err()
	}
	if calls[*f.failSite] == 0 {
		return usagef("%s asks for memory at no site %q%s; -failsite list prints them", w.Name, *f.failSite, didYouMean(*f.failSite, names))
	}
	f.boot = func(m *kernel.Machine) { m.FailAt(*f.failSite, *f.failAt) }
	return e.execute(w, o, f)
}

func runHelp(e *env) {
	fs := newFlags(e, "run", "WORKLOAD [flags]", "")
	defineRunFlags(fs)
	usageHead(e.stdout, "run", "WORKLOAD [flags]", `Run one workload under one policy and say what happened.
`+runAbout+`

A workload's parameters are flags too: cowlab run WORKLOAD -h shows them.
The workloads are `+list(workloadNames())+".")
	printFlags(e.stdout, "Flags", fs, nil)
	usageExamples(e.stdout, []string{
		"cowlab run dma_thread -a 512 -w 40",
		"cowlab run dma_thread -runs 100",
		"cowlab run forkscrew -policy pg_gup -duration 10m",
		"cowlab run forkscrewreverse -disk disk.img -regime timed",
		"cowlab run forkscrew -trace trace.json",
	})
}

// options turns flags into workload options.
func (f *runFlags) options(e *env) (workload.Options, error) {
	o := workload.Options{Small: *f.small, CPUs: *f.cpus, Image: *f.disk, Events: *f.trace != ""}
	switch {
	case o.CPUs < 0 || o.CPUs > sched.MaxCPUs:
		return o, usagef("-cpus is %d, must be 1 to %d, or 0 for the workload's own number", o.CPUs, sched.MaxCPUs)
	case *f.runs < 1:
		return o, usagef("-runs is %d, must be at least 1", *f.runs)
	case *f.duration < 0:
		return o, usagef("-duration is %v, must not be negative", *f.duration)
	case *f.trace != "" && (*f.runs > 1 || *f.duration > 0):
		return o, usagef("-trace is for a single run, not for -runs or -duration")
	case *f.failSite != "" && (*f.runs > 1 || *f.duration > 0):
		return o, usagef("-failsite is for a single run, not for -runs or -duration")
	case *f.failAt == 0:
		return o, usagef("-failat is 0, must be a number from 1 on, or -N for all from the Nth on")
	case *f.failAt != 1 && *f.failSite == "":
		return o, usagef("-failat is for -failsite, which says where")
	case *f.depth < 1 || *f.depth > 9:
		return o, usagef("-depth is %d, must be 1 to 9", *f.depth)
	}
	p, err := e.findPolicy(*f.policy)
	if err != nil {
		return o, err
	}
	o.Policy = p
	if err := oneOf("regime", *f.regime, "parallel", "timed", "free"); err != nil {
		return o, err
	}
	if err := oneOf("strategy", *f.strategy, "random", "pct"); err != nil {
		return o, err
	}
	switch *f.regime {
	case "timed":
		o.Regime = sched.Timed
	case "free":
		o.Regime = sched.Free
		o.Strategy = f.newStrategy(0)
	}
	return o, nil
}

// newStrategy makes the strategy of run n, counted from 0; nil unless the regime is free.
func (f *runFlags) newStrategy(n uint64) sched.Strategy {
	switch {
	case *f.regime != "free":
		return nil
	case *f.strategy == "pct":
		return sched.NewPCT(*f.seed+n, *f.depth, 1000)
	}
	return sched.NewRandom(*f.seed + n)
}

// once runs the workload and stops it if the command is interrupted.
func (e *env) once(w *workload.Workload, o workload.Options) (*workload.Outcome, error) {
	return e.booted(w, o, nil)
}

// booted is once, and calls boot, if there is one, with the machine before it runs.
func (e *env) booted(w *workload.Workload, o workload.Options, boot func(*kernel.Machine)) (*workload.Outcome, error) {
	var stop func() bool
	o.Booted = func(m *kernel.Machine) {
		if boot != nil {
			boot(m)
		}
		stop = context.AfterFunc(e.ctx, func() { m.Stop("interrupted") })
	}
	out, err := workload.Execute(w, o)
	if stop != nil {
		stop()
	}
	return out, err
}

// execute runs the workload once and prints what happened.
func (e *env) execute(w *workload.Workload, o workload.Options, f *runFlags) error {
	var tr *traceFile
	if *f.trace != "" {
		var err error
		if tr, err = newTrace(*f.trace); err != nil {
			return err
		}
		o.Done = tr.write
	}
	out, err := e.booted(w, o, f.boot)
	if tr != nil {
		err = tr.close(err)
	}
	if out == nil {
		return err
	}
	printOutcome(e.stdout, w, o, out, *f.verbose)
	if err == nil && tr != nil {
		fmt.Fprintf(e.stdout, "\ntrace written to %s (open it at ui.perfetto.dev)\n", *f.trace)
	}
	if err == nil {
		err = e.ctx.Err()
	}
	return err
}

// heading names what is run.
func heading(w *workload.Workload, o workload.Options) string {
	s := w.Name
	if params := w.Format(o.Values, o.Small); params != "" {
		s += " " + params
	}
	if o.Small {
		s += ", small form"
	}
	if o.Image != "" {
		s += " on " + o.Image
	}
	return fmt.Sprintf("%s, policy %s, %s regime", s, o.Policy.Name(), o.Regime)
}

func printOutcome(w io.Writer, wl *workload.Workload, o workload.Options, out *workload.Outcome, verbose bool) {
	verdict := string(out.Verdict)
	if out.Result.Reason == sched.Stopped {
		verdict = "interrupted"
		if out.Verdict != workload.Safe {
			verdict += ", so far " + string(out.Verdict)
		}
	}
	fmt.Fprintf(w, "%s: %s\n", heading(wl, o), verdict)
	printFindings(w, out)
	for _, pr := range out.Problems {
		fmt.Fprintf(w, "  problem: %s\n", indented(pr, "    "))
	}
	if err := out.Result.Err(); err != nil && len(out.Findings) == 0 && out.Result.Reason != sched.Stopped {
		fmt.Fprintf(w, "  %s\n", indented(err.Error(), "    "))
	}
	fmt.Fprintln(w, "\nwhat happened")
	printSummary(w, out)
	fmt.Fprintf(w, "  %-16s %s", "virtual time", virtual(out.NS))
	if o.Regime != sched.Timed {
		fmt.Fprint(w, " (an estimate: only the timed regime's is exact)")
	}
	if o.Regime != sched.Parallel {
		fmt.Fprintf(w, "\n  %-16s %d, final state %016x", "schedule points", out.Points, matrix.State(out))
	}
	fmt.Fprintln(w, "\n\ncounters")
	printCounters(w, out.Counters, verbose)
	if verbose {
		printMemory(w, out)
	}
}

// printMemory prints /proc/meminfo at the end, and what the OOM killer said.
func printMemory(w io.Writer, out *workload.Outcome) {
	fmt.Fprintf(w, "\nmeminfo at the end\n  %s\n", indented(strings.TrimSuffix(out.Meminfo, "\n"), "  "))
	for _, v := range out.Victims {
		text := v.Report
		if text == "" { // its own fault failed, and no killer ran
			text = v.String()
		}
		fmt.Fprintf(w, "\nout of memory\n  %s\n", indented(strings.TrimSuffix(text, "\n"), "  "))
	}
}

// printFindings prints what was wrong; the same thing seen again is counted.
func printFindings(w io.Writer, out *workload.Outcome) {
	seen := map[string]int{}
	var order []string
	for _, f := range out.Findings {
		line := fmt.Sprintf("%s: %s", f.Verdict, indented(f.String(), "    "))
		if seen[line]++; seen[line] == 1 {
			order = append(order, line)
		}
	}
	for _, line := range order {
		fmt.Fprintf(w, "  %s", line)
		if n := seen[line]; n > 1 {
			fmt.Fprintf(w, " (%d times or more)", n)
		}
		fmt.Fprintln(w)
	}
}

// printSummary prints the counters that tell a run, in words.
func printSummary(w io.Writer, out *workload.Outcome) {
	n := func(c trace.Counter) uint64 { return out.Counters[c] }
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "  %-16s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("forks", "%d: %d page-table entries copied, %d write-protected, %d pages copied at once",
		n(trace.EmuFork), n(trace.EmuForkPages), n(trace.EmuForkWrprotect), n(trace.EmuForkCopies))
	line("write faults", "%d pages copied, %d re-used; %d page faults in all",
		n(trace.EmuWPCopy), n(trace.EmuWPReuse), n(trace.PGFault))
	line("pins", "%d pages by gup-fast, %d by get_user_pages (after gup-fast gave up %d times)",
		n(trace.EmuGUPFastPages), n(trace.EmuGUPSlowPages), n(trace.EmuGUPFastFallback))
	line("disk", "%d direct requests, %d bytes moved by DMA, %d sectors into frames that were free",
		n(trace.EmuDIORequests), n(trace.EmuDMABytes), n(trace.EmuDMAFreed))
	line("interrupts", "%d sent to other CPUs; TLBs flushed %d times as a whole, %d times for one page",
		n(trace.EmuIPISent), n(trace.EmuTLBFlushAll), n(trace.EmuTLBFlushOne))
	if d, waits := n(trace.EmuPolicyOverrides), n(trace.EmuPolicyWaits); d+waits > 0 {
		line("policy", "decided otherwise than stock %d times, made somebody wait %d times", d, waits)
	}
	if warned, refused := n(trace.EmuPolicyWarnings), n(trace.EmuPolicyRefusals); warned+refused > 0 {
		line("policy", "warned %d times, turned down %d requests", warned, refused)
	}
}

func printCounters(w io.Writer, counters []uint64, verbose bool) {
	for i, c := range counters {
		if c != 0 || verbose {
			fmt.Fprintf(w, "  %-32s %d\n", trace.Counter(i), int64(c))
		}
	}
}

// virtual prints virtual time exactly, and readably if it is long.
func virtual(ns uint64) string {
	if ns < 1_000_000 {
		return fmt.Sprintf("%d ns", ns)
	}
	return fmt.Sprintf("%d ns (%.3g s)", ns, float64(ns)/1e9)
}
