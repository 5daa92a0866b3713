package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/claims"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

func runReplay(e *env, args []string) error {
	fs := newFlags(e, "replay", "TOKEN [flags]", `Replay a schedule exactly: print the verdict, the evidence and the interleaving.

The diagram has a column for each processor and one for devices, and follows the page
whose contents went two ways. A '*' marks where a processor was left although it could
have gone on.`)
	minimise := fs.Bool("min", false, "first minimise the schedule to its fewest context switches, and print the new token")
	draw := fs.Bool("diagram", true, "draw the interleaving")
	all := fs.Bool("all", false, "draw every step, not only those on the page that went wrong")
	width := fs.Int("width", 0, "columns of the diagram; 0 means 44 for each lane")
	asJSON := fs.Bool("json", false, "print the whole run as one JSON object instead: its verdict and every step, those drawn marked \"shown\"")
	times := fs.Int("times", 1, "replay so often and compare the final states; exit 1 if they differ")
	tracePath := fs.String("trace", "", "write a trace for Perfetto (Chrome JSON) to `file`")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 {
		return usagef("replay wants a token, as matrix and litmus print them")
	}
	if *times < 1 {
		return usagef("-times is %d, must be at least 1", *times)
	}
	if *width < 0 {
		return usagef("-width is %d, must not be negative", *width)
	}
	tok, err := explore.ParseToken(pos[0])
	if err != nil {
		return usagef("%v", err)
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	named, err := e.resolve(tok, hosts)
	if err != nil {
		return err
	}
	target := named.target
	var note string
	if *minimise {
		if tok, note, err = e.minimise(target, tok); err != nil {
			return err
		}
	}
	first, err := e.repeat(target, tok, *times)
	if err != nil {
		return err
	}
	if *tracePath != "" {
		if err := traceSchedule(named, tok.Spec, *tracePath); err != nil {
			return err
		}
	}
	if *asJSON {
		return matrix.Tell(target, tok.Spec).JSON(e.stdout)
	}
	e.showRun(named, note, first, *times)
	if *draw {
		o := explore.DiagramOptions{Width: *width}
		if *all {
			o.Show, o.MaxRows = func(*explore.Step) bool { return true }, 1<<30
		}
		e.showStory(target, tok.Spec, o)
	}
	if *tracePath != "" {
		fmt.Fprintf(e.stdout, "\ntrace written to %s (open it at ui.perfetto.dev)\n", *tracePath)
	}
	return nil
}

// showRun prints what a replay saw.
func (e *env) showRun(n *named, note string, o explore.Observation, times int) {
	if note != "" {
		fmt.Fprintf(e.stdout, "%s\n\n", note)
	}
	fmt.Fprintf(e.stdout, "%s under %s: %s\n", n.title, n.target.Policy, o.Verdict)
	if o.Detail != "" {
		fmt.Fprintf(e.stdout, "  %s\n", indented(o.Detail, "  "))
	}
	fmt.Fprintf(e.stdout, "  %d schedule points, state %016x", o.Steps, o.State)
	if times > 1 {
		fmt.Fprintf(e.stdout, ", the same %d times", times)
	}
	fmt.Fprintln(e.stdout)
}

// showStory draws a schedule.
func (e *env) showStory(t *explore.Target, s explore.Spec, o explore.DiagramOptions) {
	o.NoHead = true
	story := matrix.Tell(t, s)
	if story.Legend != "" {
		fmt.Fprintf(e.stdout, "\n%s\n", story.Legend)
	}
	fmt.Fprintf(e.stdout, "\n%s", story.Diagram(o))
}

// minimise looks for an easier schedule with the same verdict.
func (e *env) minimise(target *explore.Target, tok explore.Token) (explore.Token, string, error) {
	bar := newProgress(e)
	bar.show("minimising", 0)
	least, err := explore.Shrink(e.ctx, *target, tok.Spec, explore.ShrinkOptions{})
	bar.clear()
	if err != nil {
		return tok, "", err
	}
	tok = target.Token(least.Spec)
	how := "complete"
	if !least.Complete {
		how = "cut short"
	}
	return tok, fmt.Sprintf("minimised from %d context switches to %d in %d runs (%s): %s",
		least.Before.Departures, least.After.Departures, least.Runs, how, tok), e.ctx.Err()
}

// repeat runs the schedule so often and compares how it ends.
func (e *env) repeat(target *explore.Target, tok explore.Token, times int) (explore.Observation, error) {
	bar := newProgress(e)
	defer bar.clear()
	first := target.Run(tok.Spec.Strategy(), nil)
	for i := 1; i < times; i++ {
		if e.ctx.Err() != nil {
			return first, e.ctx.Err()
		}
		bar.show(fmt.Sprintf("replay %d of %d", i+1, times), float64(i)/float64(times))
		if again := target.Run(tok.Spec.Strategy(), nil); again.State != first.State || again.Verdict != first.Verdict {
			return first, fmt.Errorf("%w: replay %d ended in state %016x (%s), the first in %016x (%s)",
				errDiffer, i+1, again.State, again.Verdict, first.State, first.Verdict)
		}
	}
	return first, nil
}

// named is what a token names, ready to be run.
type named struct {
	target *explore.Target
	title  string
	// traced runs it once with events recorded; done gets the machine at rest. Nil: it
	// cannot.
	traced func(s sched.Strategy, done func(*kernel.Machine)) error
}

// resolve looks up what a token names: a workload, a scenario or a scenario's file.
func (e *env) resolve(tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	w := workload.Lookup(tok.Target)
	if w == nil {
		if strings.HasPrefix(tok.Target, "Test") {
			return nil, usagef("the token names a Go test; run it in the test's package:\n  COWLAB_SCHEDULE=%s go test -run '^%s$' .", tok, tok.Target)
		}
		if slices.Contains(claims.Names(), tok.Target) {
			return e.resolveClaim(tok, hosts)
		}
		return e.resolveScenario(tok, hosts)
	}
	p, err := e.findVariant(tok.Policy)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	text := ""
	for i, prm := range tok.Params {
		if i > 0 {
			text += ","
		}
		text += prm.Key + "=" + prm.Value
	}
	v, err := w.Parse(text, true)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	return &named{
		target: matrix.Target(w, v, p, hosts), title: title(w, v),
		traced: func(s sched.Strategy, done func(*kernel.Machine)) error {
			_, err := workload.Execute(w, workload.Options{
				Policy: p, Values: v, Small: true, Regime: sched.Free, Strategy: s, Events: true, Hosts: hosts, Done: done,
			})
			return err
		},
	}, nil
}

// resolveClaim looks up an experiment of a claim.
func (e *env) resolveClaim(tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	t, err := claims.Target(tok, e.policies, hosts)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	return &named{target: t, title: tok.Target}, nil
}

// findVariant is findPolicy for tokens: claims have variants of policies.
func (e *env) findVariant(name string) (mm.Policy, error) {
	if p := claims.Policy(e.policies, name); p != nil {
		return p, nil
	}
	return e.findPolicy(name)
}

// resolveScenario looks up a scenario that a token names.
func (e *env) resolveScenario(tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	file := strings.HasSuffix(tok.Target, scenarios.Suffix)
	if !file && !slices.Contains(scenarios.Names(), tok.Target) {
		_, err := findWorkload(tok.Target)
		return nil, usagef("token: %v", err)
	}
	sc, err := findScenario(tok.Target)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	p, err := e.findVariant(tok.Policy)
	if err == nil {
		err = sc.CheckToken(tok)
	}
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	return &named{
		target: sc.Target(p, hosts), title: tok.Target,
		traced: func(s sched.Strategy, done func(*kernel.Machine)) error {
			sc.RunTraced(p, hosts, s, done)
			return nil
		},
	}, nil
}

// title is a workload with the parameters that differ from the small form's.
func title(w *workload.Workload, v workload.Values) string {
	return strings.TrimSpace(w.Name + " " + w.Format(v, true))
}

// indented indents all lines but the first, and drops blanks at the end.
func indented(text, by string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// traceSchedule runs the schedule once more and records its events.
func traceSchedule(n *named, s explore.Spec, path string) error {
	if n.traced == nil {
		return usagef("-trace is for workloads and scenarios; %s is an experiment of a claim", n.title)
	}
	t, err := newTrace(path)
	if err != nil {
		return err
	}
	return t.close(n.traced(s.Strategy(), t.write))
}
