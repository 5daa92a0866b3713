package policytest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/vmtest"
	"github.com/cowlab/cowlab/tests/workload"
)

// schedule is what a check runs: a cell as the check tunes it, in one order of its steps.
type schedule struct {
	cell *cell
	tune func(*workload.Options)
	spec explore.Spec
	// extra are the parameters of tokens that say how the cell is tuned, where the check
	// alone does not.
	extra []explore.Param
}

// The parameters of tokens that say which allocation fails. No workload has such ones.
const siteParam, nthParam = "failsite", "failat"

// shrinkRuns bounds the minimising of one schedule.
const shrinkRuns = 400

// explain tells a schedule, minimised: what replays it, and the interleaving. The policy may
// be one that no command knows, so that it is the test that replays.
func (s *suite) explain(test string, c schedule) string {
	target, spec := *s.target(c.cell, c.tune), c.spec
	if least, err := explore.Shrink(s.ctx, target, spec, explore.ShrinkOptions{Runs: shrinkRuns}); err == nil {
		target, spec = least.Target, least.Spec
	}
	tok := target.Token(spec)
	tok.Params = append(slices.Clone(tok.Params), c.extra...)
	return fmt.Sprintf("run it alone with\n  %s=%s %s\n%s", explore.ScheduleVar, tok, explore.TestCommand(test, "."), drawn(&target, spec))
}

// drawn is the interleaving of a schedule.
func drawn(t *explore.Target, spec explore.Spec) string {
	story, text := matrix.Tell(t, spec), ""
	if story.Legend != "" {
		text = "\n" + story.Legend + "\n"
	}
	return text + "\n" + story.Diagram(explore.DiagramOptions{NoHead: true})
}

// asked returns the token that the environment holds, nil if it is not of this policy in one of
// the workloads.
func (s *suite) asked() (*explore.Token, error) {
	tok, err := vmtest.Asked()
	if tok == nil || tok.Policy != s.p.Name() || s.workload(tok.Target) == nil {
		return nil, err
	}
	return tok, nil
}

func (s *suite) workload(name string) *workload.Workload {
	i := slices.IndexFunc(s.o.Workloads, func(w *workload.Workload) bool { return w.Name == name })
	if i < 0 {
		return nil
	}
	return s.o.Workloads[i]
}

// of is the schedule of a check that a token names.
func (s *suite) of(check string, tok *explore.Token) (schedule, error) {
	out := schedule{spec: tok.Spec}
	var params []string
	site, nth := "", 0
	for _, p := range tok.Params {
		switch p.Key {
		case siteParam:
			site = p.Value
		case nthParam:
			n, err := strconv.Atoi(p.Value)
			if err != nil {
				return out, fmt.Errorf("token: %s is %q, must be a number", nthParam, p.Value)
			}
			nth = n
		default:
			params = append(params, p.Key+"="+p.Value)
		}
	}
	w, text := s.workload(tok.Target), strings.Join(params, ",")
	values, err := w.Parse(text, true)
	if err != nil {
		return out, fmt.Errorf("token: %w", err)
	}
	out.cell = &cell{w, text, values}
	switch check {
	case "invariants":
		out.tune = everyStep
	case "no_memory":
		out.tune = failing(site, nth)
	}
	return out, nil
}

// everyStep has every invariant checked at every step, as far as 5,000 go.
func everyStep(o *workload.Options) { o.CheckEvery, o.StepLimit = 1, 5_000 }

// failing has allocations fail: as page.Map.FailAt has it.
func failing(site string, nth int) func(*workload.Options) {
	return func(o *workload.Options) { o.Booted = func(m *kernel.Machine) { m.Pages().FailAt(site, nth) } }
}

// replay runs the schedule of a check that a token names, and draws it. As every replay by a test, it
// fails if something goes wrong in it.
func (s *suite) replay(t *testing.T, check string, tok *explore.Token) {
	t.Helper()
	if !slices.Contains([]string{"races", "invariants", "no_memory"}, check) {
		t.Skip("this check runs no schedule alone")
	}
	c, err := s.of(check, tok)
	if err != nil {
		t.Fatal(err)
	}
	target := s.target(c.cell, c.tune)
	obs := target.Run(c.spec.Strategy(), nil)
	t.Logf("%d schedule points\n%s", obs.Steps, drawn(target, c.spec))
	if !s.excused(c.cell, obs.Verdict) {
		t.Fatalf("%s: %s", obs.Verdict, obs.Detail)
	}
}
