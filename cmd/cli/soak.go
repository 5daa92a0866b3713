package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/tests/workload"
)

// tally counts what many runs of a workload showed.
type tally struct {
	ran      int
	clean    int                          // showed nothing and had no problem
	broken   int                          // of the others, those whose program did not work
	by       map[workload.Verdict]int     // runs that showed it
	first    map[workload.Verdict]witness // the first of them
	problem  witness                      // the first problem of a run
	counters []uint64                     // sums
}

// witness is a piece of evidence and the run it comes from, counted from 1.
type witness struct {
	run  int
	text string
}

func newTally() *tally {
	return &tally{by: map[workload.Verdict]int{}, first: map[workload.Verdict]witness{}}
}

// add enters a run. One that was interrupted counts only if it showed something.
func (t *tally) add(out *workload.Outcome) {
	stopped := out.Result.Reason == sched.Stopped
	if stopped && out.Verdict == workload.Safe {
		return
	}
	t.ran++
	if t.counters == nil {
		t.counters = make([]uint64, len(out.Counters))
	}
	for i, c := range out.Counters {
		t.counters[i] += c
	}
	seen := map[workload.Verdict]bool{}
	for _, f := range out.Findings {
		if seen[f.Verdict] {
			continue
		}
		seen[f.Verdict] = true
		if t.by[f.Verdict]++; t.by[f.Verdict] == 1 {
			t.first[f.Verdict] = witness{t.ran, f.String()}
		}
	}
	if len(out.Problems) > 0 && !stopped && t.problem.run == 0 {
		t.problem = witness{t.ran, out.Problems[0]}
	}
	switch {
	case len(seen) > 0:
	case len(out.Problems) > 0:
		t.broken++
	default:
		t.clean++
	}
}

// words is the tally in a few words, for progress.
func (t *tally) words() string {
	parts := []string{fmt.Sprintf("%d runs", t.ran)}
	for _, v := range workload.Verdicts() {
		if n := t.by[v]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, v))
		}
	}
	if t.broken > 0 {
		parts = append(parts, fmt.Sprintf("%d broken", t.broken))
	}
	return strings.Join(parts, ", ")
}

// soak runs the workload many times and prints how often what was seen.
func (e *env) soak(w *workload.Workload, o workload.Options, f *runFlags) error {
	o.Hosts = kernel.NewHosts()
	defer o.Hosts.Close()
	t := newTally()
	bar := newProgress(e)
	begin := time.Now()
	var err error
	for n := 0; err == nil && e.ctx.Err() == nil; n++ {
		elapsed := time.Since(begin)
		if *f.runs > 0 && n >= *f.runs || *f.duration > 0 && n > 0 && elapsed >= *f.duration {
			break
		}
		bar.show(t.words(), f.done(n, elapsed))
		o.Strategy = f.newStrategy(uint64(n))
		var out *workload.Outcome
		if out, err = e.once(w, o); err == nil {
			t.add(out)
		}
	}
	bar.clear()
	if t.ran > 0 || err == nil {
		e.printTally(heading(w, o), t, time.Since(begin), f)
	}
	if err == nil {
		err = e.ctx.Err()
	}
	return err
}

// done estimates how far a soak is: whichever bound is nearer.
func (f *runFlags) done(n int, elapsed time.Duration) float64 {
	var d float64
	if *f.runs > 0 {
		d = float64(n) / float64(*f.runs)
	}
	if *f.duration > 0 {
		d = max(d, elapsed.Seconds()/f.duration.Seconds())
	}
	return min(d, 1)
}

func (e *env) printTally(what string, t *tally, elapsed time.Duration, f *runFlags) {
	fmt.Fprintf(e.stdout, "%s: %d runs in %s\n", what, t.ran, elapsed.Round(time.Millisecond))
	where := func(w witness) string {
		if *f.regime == "free" {
			return fmt.Sprintf("run %d, -seed %d", w.run, *f.seed+uint64(w.run)-1)
		}
		return fmt.Sprintf("run %d", w.run)
	}
	for _, v := range workload.Verdicts() {
		if n := t.by[v]; n > 0 {
			w := t.first[v]
			fmt.Fprintf(e.stdout, "  %d of %d runs showed %s\n    first in %s: %s\n", n, t.ran, v, where(w), indented(w.text, "      "))
		}
	}
	fmt.Fprintf(e.stdout, "  %d of %d runs showed nothing\n", t.clean, t.ran)
	if t.problem.run > 0 {
		fmt.Fprintf(e.stdout, "  %d of %d runs did not work\n    first problem in %s: %s\n", t.broken, t.ran, where(t.problem), indented(t.problem.text, "      "))
	}
	if *f.regime == "timed" && t.ran > 1 {
		fmt.Fprintln(e.stdout, "  (runs in the timed regime are all the same)")
	}
	if *f.verbose {
		fmt.Fprintln(e.stdout, "\ncounters, summed")
		printCounters(e.stdout, t.counters, true)
	}
}
