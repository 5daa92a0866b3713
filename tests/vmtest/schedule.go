package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/tests/matrix"
)

// htmlVar names the environment variable that holds the file to which the schedule is
// written as a page for browsers.
const htmlVar = "COWLAB_HTML"

// Bound says how far EverySchedule searches.
type Bound struct {
	// Schedules is how many schedules to run; zero means 200.
	Schedules int
	// Seed selects them; another seed gives others.
	Seed uint64
	// Options describe the machine. Regime and Strategy are EverySchedule's; zero
	// Memory means 1 MiB and zero CPUs 2, so that a schedule is quickly run.
	Options kernel.Options
}

// EverySchedule runs fn as the first process of a machine of its own under many schedules
// of the free regime, random ones and such as PCT chooses, and fails the test at the first
// that goes wrong: a failed test, a deadlock, a livelock, a BUG, a process killed by a
// signal, a violated invariant, a leak. The failure says how to run that schedule alone.
//
// fn must depend on nothing but the machine: no host clock, no random numbers, no Go
// variables that survive from one run to the next.
func EverySchedule(tb testing.TB, b Bound, fn func(*kernel.Thread)) {
	tb.Helper()
	if b.Schedules == 0 {
		b.Schedules = 200
	}
	o := b.Options
	o.Regime, o.CheckRaces = sched.Free, true
	if o.Memory == 0 {
		o.Memory = 1 << 20
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.StepLimit == 0 {
		o.StepLimit = 200_000
	}
	if o.Hosts == nil {
		o.Hosts = kernel.NewHosts()
		defer o.Hosts.Close()
	}
	target := explore.Target{Name: tb.Name(), Policy: policyName(o), Run: func(s sched.Strategy, ob sched.Observer) explore.Observation {
		return once(tb, o, s, ob, fn)
	}}
	spec, err := asked(tb)
	if err != nil {
		tb.Fatalf("vmtest: %v", err)
	}
	if spec != nil {
		story := explore.Capture(target, *spec, matrix.CaptureOptions())
		if path := os.Getenv(htmlVar); path != "" {
			if err := writeHTML(path, story); err != nil {
				tb.Errorf("vmtest: %s: %v", htmlVar, err)
			}
		}
		tb.Logf("vmtest: %s\n%s", story.Verdict, story.Diagram(explore.DiagramOptions{}))
		if story.Verdict != explore.Safe {
			tb.Fatalf("vmtest: %s: %s", story.Verdict, story.Detail)
		}
		return
	}
	if b.Schedules < 0 {
		tb.Fatalf("vmtest: Schedules is %d, must not be negative", b.Schedules)
	}
	// One worker: the test's own functions are not made to run at once.
	r, err := explore.Search(context.Background(), target, explore.Options{
		Schedules: uint64(b.Schedules), Seed: b.Seed, Workers: 1, StopAtFirst: true,
	})
	if err != nil {
		tb.Fatalf("vmtest: %v", err)
	}
	if w := r.FirstBad(); w != nil {
		if w.Verdict == skipped {
			tb.SkipNow() // as the program asked
		}
		tb.Fatalf("vmtest: schedule %d of %d: %s: %s\nrun it alone with\n  %s",
			w.Schedule+1, b.Schedules, w.Verdict, w.Detail, w.Token.Command())
	}
}

// writeHTML writes the story as a page.
func writeHTML(path string, story *explore.Story) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = story.HTML(f, explore.DiagramOptions{})
	return errors.Join(err, f.Close())
}

// skipped is the verdict of a run in which the program called Skip.
const skipped = "skipped"

// checkEvery is how often EverySchedule checks every invariant, in steps; the page that a
// step touches is checked after each.
const checkEvery = 64

// once runs fn under one schedule.
func once(tb testing.TB, o kernel.Options, s sched.Strategy, ob sched.Observer, fn func(*kernel.Thread)) explore.Observation {
	failed := tb.Failed()
	o.Strategy = s
	m, err := kernel.Boot(o)
	if err != nil {
		return explore.Observation{Verdict: "error", Detail: err.Error()}
	}
	defer m.Shutdown()
	m.CheckSteps(checkEvery, ob)
	out := m.Run(fn)
	obs := explore.Observation{Verdict: explore.Safe, Steps: out.Steps, Result: out.Result}
	switch err := out.Err(); {
	case tb.Failed() && !failed:
		obs.Verdict, obs.Detail = "failed", "the test's own checks failed"
	case tb.Skipped():
		obs.Verdict = skipped
	case err != nil:
		obs.Verdict, obs.Detail = out.Reason.String(), failure(out)
		if out.Reason == sched.Quiet {
			obs.Verdict = "failed"
		}
	default:
		if p := problems(m); len(p) > 0 {
			obs.Verdict, obs.Detail = "bug", strings.Join(p, "\n")
		}
	}
	var h explore.StateHash
	h.PutString("verdict", obs.Verdict)
	h.PutUint("steps", out.Steps)
	h.PutUint("ns", out.NS)
	obs.State = h.Sum()
	return obs
}

// Asked returns the token that the environment variable COWLAB_SCHEDULE holds, nil if there is
// none. It may be meant for another test: its Target tells.
func Asked() (*explore.Token, error) {
	text := os.Getenv(explore.ScheduleVar)
	if text == "" {
		return nil, nil
	}
	tok, err := explore.ParseToken(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", explore.ScheduleVar, err)
	}
	return &tok, nil
}

// asked returns the one schedule that the environment asks this test to run, nil if none.
func asked(tb testing.TB) (*explore.Spec, error) {
	tok, err := Asked()
	if tok == nil || tok.Target != tb.Name() {
		return nil, err
	}
	return &tok.Spec, nil
}
