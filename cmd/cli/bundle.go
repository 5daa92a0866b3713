package cli

import (
	"archive/zip"
	"fmt"
	"io"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/tests/matrix"
)

// The files of a bundle that it is replayed by.
const (
	bundleSwitches = "schedule.switches"
	bundleSteps    = "steps.txt"
)

const bundleReadme = `A run of cowlab, saved with everything about it.

%s under %s: %s

  %s

Replay it, which checks each step against the recorded one:

  cowlab replay THIS-FILE.zip          if the program has changed: says at which step, shows
                                       both sides, and finds the switches again
  cowlab replay %s
  cowlab step THIS-FILE.zip            step by step, in a terminal

  token.txt           the run in one line, for the program that made it
  schedule.switches   its context switches, found again by what happens there
  steps.txt           every decision: who made the step, operation, object
  scenario.txt        what ran: workload, parameters, policy, CPUs
  diagram.txt         the interleaving, a column for each CPU
  viewer.html         the same with a slider: page tables, struct pages, TLBs, bytes
  story.json          the same as data
  trace.json          for ui.perfetto.dev
  trace.txt           as ftrace prints it
`

// writeBundle saves a run as one zip file. The same run makes the same bytes.
func writeBundle(w io.Writer, s *schedule, story *matrix.Story) error {
	z := zip.NewWriter(w)
	var first error
	add := func(name string, write func(io.Writer) error) {
		if first != nil {
			return
		}
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)})
		if err == nil {
			err = write(f)
		}
		first = err
	}
	text := func(format string, args ...any) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := fmt.Fprintf(w, format, args...)
			return err
		}
	}
	detail := story.Detail
	if detail == "" {
		detail = "nothing went wrong"
	}
	add("README.txt", text(bundleReadme, s.title, s.policy.Name(), story.Verdict, indented(detail, "  "), s.tok))
	add("token.txt", text("%s\n", s.tok))
	add(bundleSwitches, s.switchFile(story.Verdict).Write)
	add(bundleSteps, func(w io.Writer) error {
		_, rec := explore.Record(*s.target, s.tok.Spec.Strategy())
		return rec.Write(w)
	})
	add("scenario.txt", func(w io.Writer) error { return writeScenario(w, s) })
	o := explore.DiagramOptions{}
	add("diagram.txt", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s\n\n%s", story.Legend, story.Diagram(o))
		return err
	})
	add("viewer.html", func(w io.Writer) error { return story.HTML(w, o) })
	add("story.json", story.JSON)
	add("trace.json", func(w io.Writer) error {
		return s.events(func(m *kernel.Machine) error { return trace.WritePerfetto(w, m.Trace().Events(), m.View()) })
	})
	add("trace.txt", func(w io.Writer) error {
		return s.events(func(m *kernel.Machine) error { return trace.WriteFtrace(w, m.Trace().Events(), m.View()) })
	})
	if err := z.Close(); first == nil {
		first = err
	}
	return first
}

// events runs the schedule once more with events and hands them on.
func (s *schedule) events(write func(m *kernel.Machine) error) error {
	var werr error
	if err := s.traced(s.tok.Spec.Strategy(), func(m *kernel.Machine) { werr = write(m) }); err != nil {
		return err
	}
	return werr
}

// writeScenario says what ran.
func writeScenario(w io.Writer, s *schedule) error {
	if err := s.describe(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "policy %s\nstrategy %s\n", s.policy.Name(), s.tok.Spec)
	return err
}
