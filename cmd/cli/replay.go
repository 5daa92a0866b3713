package cli

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

func runReplay(e *env, args []string) error {
	fs := newFlags(e, "replay", "TOKEN", `Replay a schedule exactly: print the verdict, the evidence and the interleaving.`)
	minimise := fs.Bool("min", false, "first minimise the schedule to its fewest context switches, and print the new token")
	draw := fs.Bool("diagram", true, "draw the interleaving")
	all := fs.Bool("all", false, "draw every step, not only those that matter to more than one side")
	times := fs.Int("times", 1, "replay so often and compare the final states")
	tracePath := fs.String("trace", "", "write a trace for Perfetto (Chrome JSON) to `file`")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 {
		return usagef("replay wants a token, as matrix prints them")
	}
	if *times < 1 {
		return usagef("-times is %d, must be at least 1", *times)
	}
	tok, err := explore.ParseToken(pos[0])
	if err != nil {
		return usagef("%v", err)
	}
	w, v, p, err := e.resolve(tok)
	if err != nil {
		return err
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	target := matrix.Target(w, v, p, hosts)
	if *minimise {
		bar := newProgress(e)
		min, err := explore.Shrink(e.ctx, *target, tok.Spec, explore.ShrinkOptions{})
		bar.clear()
		if err != nil {
			return err
		}
		tok = target.Token(min.Spec)
		fmt.Fprintf(e.stdout, "minimised to %d switches: %s\n\n", len(min.Spec.Switches), tok)
	}
	first := target.Run(tok.Spec.Strategy(), nil)
	for i := 1; i < *times; i++ {
		if again := target.Run(tok.Spec.Strategy(), nil); again.State != first.State || again.Verdict != first.Verdict {
			return fmt.Errorf("%w: replay %d ended in state %016x (%s), the first in %016x (%s)",
				errDiffer, i+1, again.State, again.Verdict, first.State, first.Verdict)
		}
		if e.ctx.Err() != nil {
			return e.ctx.Err()
		}
	}
	fmt.Fprintf(e.stdout, "%s under %s: %s\n", w.Name, p.Name(), first.Verdict)
	if first.Detail != "" {
		fmt.Fprintf(e.stdout, "  %s\n", first.Detail)
	}
	fmt.Fprintf(e.stdout, "  %d schedule points, state %016x", first.Steps, first.State)
	if *times > 1 {
		fmt.Fprintf(e.stdout, ", the same %d times", *times)
	}
	fmt.Fprintln(e.stdout)
	if *draw {
		fmt.Fprintf(e.stdout, "\n%s", drawSchedule(target, tok.Spec, *all))
	}
	if *tracePath != "" {
		return traceSchedule(w, v, p, hosts, tok.Spec, *tracePath)
	}
	return nil
}

// resolve looks up what a token names.
func (e *env) resolve(tok explore.Token) (*workload.Workload, workload.Values, mm.Policy, error) {
	w, err := findWorkload(tok.Target)
	if err != nil {
		return nil, nil, nil, err
	}
	p, err := e.findPolicy(tok.Policy)
	if err != nil {
		return nil, nil, nil, err
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
		return nil, nil, nil, usagef("token: %v", err)
	}
	return w, v, p, nil
}

// drawSchedule runs the schedule once more, keeps its steps and draws them.
func drawSchedule(target *explore.Target, s explore.Spec, all bool) string {
	story := matrix.Tell(target, s)
	o := explore.DiagramOptions{NoHead: true}
	if all {
		o.Show = func(*explore.Step) bool { return true }
		o.MaxRows = 1 << 30
	}
	return story.Legend + "\n\n" + story.Diagram(o)
}

func traceSchedule(w *workload.Workload, v workload.Values, p mm.Policy, hosts *kernel.Hosts, s explore.Spec, path string) error {
	var terr error
	_, err := workload.Execute(w, workload.Options{
		Policy: p, Values: v, Small: true, Regime: sched.Free, Strategy: s.Strategy(), Events: true, Hosts: hosts,
		Done: func(m *kernel.Machine) { terr = writeTrace(path, m) },
	})
	if err != nil {
		return err
	}
	return terr
}
