package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

func runReplay(e *env, args []string) error {
	fs := newFlags(e, "replay", "TOKEN|FILE [flags]", `Replay a schedule exactly: print the verdict, the evidence and the interleaving.

What is replayed is a token, a file of switches (-switches), or a bundle (-bundle). A file
of switches is followed in a program that has changed, too: its switches are looked for by
what happens there. A bundle is first compared step by step, and the first step that is
another one is shown with both sides.

The diagram has a column for each processor and one for devices, a bar for interrupts, and
follows the page whose contents went two ways. A '*' marks where a processor was left
although it could have gone on.`,
		"cowlab replay TOKEN -min                    the fewest context switches that do it",
		"cowlab replay TOKEN -html race.html         to look at in a browser",
		"cowlab replay TOKEN -bundle failure.zip     everything about it in one file",
		"cowlab replay TOKEN -upto 300 -continue random/7")
	minimise := fs.Bool("min", false, "first minimise the schedule to its fewest context switches, then the program to the least that shows it, and print the new token")
	draw := fs.Bool("diagram", true, "draw the interleaving")
	all := fs.Bool("all", false, "draw every step, not only those on the page that went wrong")
	width := fs.Int("width", 0, "columns of the diagram; 0 means 44 for each lane")
	asJSON := fs.Bool("json", false, "print the whole run as one JSON object instead: its verdict, every step, those drawn marked \"shown\", and the state at each")
	times := fs.Int("times", 1, "replay so often and compare the final states; exit 1 if they differ")
	tracePath := fs.String("trace", "", "write a trace for Perfetto (Chrome JSON) to `file`")
	htmlPath := fs.String("html", "", "write one self-contained HTML page with a slider over the steps to `file`")
	bundlePath := fs.String("bundle", "", "write everything about the run (token, switches, steps, diagram, HTML, traces) to one zip `file`")
	switchPath := fs.String("switches", "", "write the context switches, as places that can be found again, to `file`")
	goOn := fs.String("continue", "", "leave the schedule behind its last switch and go on by `strategy`: default, random/SEED, pct/SEED")
	upto := fs.Uint64("upto", 0, "with -continue: leave the token's schedule after so many `decisions`")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 {
		return usagef("replay wants a token, as matrix and litmus print them, or a file of switches, or a bundle")
	}
	if *times < 1 {
		return usagef("-times is %d, must be at least 1", *times)
	}
	if *width < 0 || *width > maxWidth {
		return usagef("-width is %d, must be 0 to %d", *width, maxWidth)
	}
	s, err := e.openSchedule(pos[0], *goOn, *upto)
	if err != nil {
		return err
	}
	defer s.close()
	if *minimise {
		if err := e.minimise(s); err != nil {
			return err
		}
	}
	first, err := e.repeat(s.target, s.tok, *times)
	if err != nil {
		return err
	}
	var story *matrix.Story // takes far longer than the run: told only to who wants it
	if *draw || *asJSON || *htmlPath != "" || *bundlePath != "" {
		story = matrix.Tell(s.target, s.tok.Spec)
	}
	var written []string
	for _, out := range []struct {
		flag, path, what string
		write            func(w io.Writer) error
	}{
		{"-html", *htmlPath, "HTML written to %s (open it in a browser)", func(w io.Writer) error {
			return story.HTML(w, explore.DiagramOptions{NoHead: true, Width: *width})
		}},
		{"-trace", *tracePath, "trace written to %s (open it at ui.perfetto.dev)", func(w io.Writer) error {
			return s.events(func(m *kernel.Machine) error { return trace.WritePerfetto(w, m.Trace().Events(), m.View()) })
		}},
		{"-switches", *switchPath, "switches written to %s (cowlab replay finds them again)", func(w io.Writer) error {
			return s.switchFile(first.Verdict).Write(w)
		}},
		{"-bundle", *bundlePath, "everything written to %s", func(w io.Writer) error { return writeBundle(w, s, story) }},
	} {
		if out.path == "" {
			continue
		}
		if err := writeFile(out.flag, out.path, out.write); err != nil {
			return err
		}
		written = append(written, fmt.Sprintf(out.what, out.path))
	}
	if *asJSON {
		if err := story.JSON(e.stdout); err != nil {
			return err
		}
		return s.differs
	}
	e.showRun(s, first, *times)
	if *draw {
		o := explore.DiagramOptions{NoHead: true, Width: *width}
		if *all {
			o.Show, o.MaxRows = func(*explore.Step) bool { return true }, 1<<30
		}
		e.showStory(story, o)
	}
	if len(written) > 0 {
		fmt.Fprintf(e.stdout, "\n%s\n", strings.Join(written, "\n"))
	}
	return s.differs
}

// maxWidth bounds the columns of a diagram; more is a slip of the finger.
const maxWidth = 10_000

// showRun prints how the schedule was found and what a run of it saw.
func (e *env) showRun(s *schedule, first explore.Observation, times int) {
	for _, n := range s.notes {
		fmt.Fprintf(e.stdout, "%s\n", n)
	}
	if len(s.notes) > 0 {
		fmt.Fprintln(e.stdout)
	}
	fmt.Fprintf(e.stdout, "%s under %s: %s\n", s.title, s.policy.Name(), first.Verdict)
	if first.Detail != "" {
		fmt.Fprintf(e.stdout, "  %s\n", indented(first.Detail, "  "))
	}
	fmt.Fprintf(e.stdout, "  %d schedule points, state %016x", first.Steps, first.State)
	if times > 1 {
		fmt.Fprintf(e.stdout, ", the same %d times", times)
	}
	fmt.Fprintln(e.stdout)
}

// showStory draws a schedule.
func (e *env) showStory(story *matrix.Story, o explore.DiagramOptions) {
	if story.Legend != "" {
		fmt.Fprintf(e.stdout, "\n%s\n", story.Legend)
	}
	fmt.Fprintf(e.stdout, "\n%s", story.Diagram(o))
}

// minimise makes the schedule an easier one with the same verdict, of a program that has
// less to do if that is enough.
func (e *env) minimise(s *schedule) error {
	bar := newProgress(e)
	bar.show("minimising", 0)
	target, o := *s.target, explore.ShrinkOptions{}
	if s.shrinking != nil {
		target, o = s.shrinking(target.Run(s.tok.Spec.Strategy(), nil).Verdict)
	}
	least, err := explore.Shrink(e.ctx, target, s.tok.Spec, o)
	bar.clear()
	if err != nil {
		return err
	}
	s.tok = least.Token
	if s.named, err = e.resolve(s.tok, s.hosts); err != nil {
		return err
	}
	how := "complete"
	if !least.Complete {
		how = "cut short"
	}
	if less := least.Smaller; less > 0 && s.shrinking != nil {
		s.notes = append(s.notes, fmt.Sprintf("what is left of the program, %d cuts later:\n", less))
		s.notes = append(s.notes, program(s.named))
	}
	s.notes = append(s.notes, fmt.Sprintf("minimised from %d context switches to %d in %d runs (%s): %s",
		least.Before.Departures, least.After.Departures, least.Runs, how, s.tok))
	return e.ctx.Err()
}

// program is what the schedule is of, in text.
func program(n *named) string {
	var b strings.Builder
	if err := n.describe(&b); err != nil {
		return err.Error() + "\n"
	}
	return b.String()
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

// title is a workload with the parameters that differ from the small form's.
func title(w *workload.Workload, v workload.Values) string {
	return strings.TrimSpace(w.Name + " " + w.Format(v, true))
}

// indented indents all lines but the first, and drops blanks at the end.
func indented(text, by string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// writeFile writes a file for a flag, whose name errors begin with.
func writeFile(flag, path string, write func(w io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	err = write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}
