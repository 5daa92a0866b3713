package cli

import (
	"flag"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/spec"
	"github.com/cowlab/cowlab/tests/workload"
)

// scenarioPrefix stands before the name of a scenario that a workload has too.
const scenarioPrefix = "scenario:"

// searched is what explore and why search: a workload with its parameters, or a scenario.
type searched struct {
	workload *workload.Workload
	values   workload.Values
	scenario *scenarios.Scenario // if workload is nil
}

// findProgram looks up what is to be searched. A workload's name comes before a scenario's.
func findProgram(name string) (*searched, error) {
	if w := workload.Lookup(name); w != nil {
		return &searched{workload: w, values: w.Values(true)}, nil
	}
	_, random := spec.Seed(name)
	known := strings.HasPrefix(name, scenarioPrefix) || strings.HasSuffix(name, scenarios.Suffix)
	for _, n := range scenarios.Names() {
		known = known || n == name
	}
	if !known && !random {
		if like := nearest(name, workloadNames()); like == "" {
			if like = nearest(name, scenarios.Names()); like != "" {
				return nil, usagef("neither a workload nor a scenario is called %q (did you mean %q?); cowlab list and cowlab litmus -list show them", name, like)
			}
		}
		_, err := findWorkload(name)
		return nil, usagef("%v, and scenarios, which cowlab litmus -list shows", err)
	}
	s, err := findScenario(name)
	if err != nil {
		return nil, err
	}
	return &searched{scenario: s}, nil
}

// defineTuning defines the flags of a scenario, unless it is a workload that is searched,
// which has them among its parameters.
func defineTuning(fs *flag.FlagSet, w *workload.Workload) params {
	vals := params{}
	if w == nil {
		vals["tso"] = fs.Int64("tso", 0, "1: each CPU has a store buffer, so that the search also chooses when stores become visible")
		vals["fail"] = fs.Int64("fail", 0, "how many allocations of memory may fail, at any moment")
		vals["reclaim"] = fs.Int64("reclaim", 0, "how many pages may be reclaimed, at any moment")
		vals["races"] = fs.Int64("races", 0, "1: look for data races of the kernel in each schedule")
	}
	return vals
}

// tune reads the flags that were given; bare is for scenarios.
func (s *searched) tune(fs *flag.FlagSet, vals, tuning params, bare bool) error {
	if s.workload != nil {
		vals.read(fs, s.values)
		if err := s.workload.Validate(s.values); err != nil {
			return usagef("%v", err)
		}
		return nil
	}
	var parts []string
	fs.Visit(func(f *flag.Flag) {
		if tuning.has(f.Name) {
			parts = append(parts, f.Name+"="+f.Value.String())
		}
	})
	if bare {
		parts = append(parts, "bare=1")
	}
	if err := s.parse(strings.Join(parts, ",")); err != nil {
		return usagef("%v", err)
	}
	return nil
}

// parse reads parameters as text: those of the workload's small form, or a scenario's tuning.
func (s *searched) parse(text string) (err error) {
	if s.workload != nil {
		s.values, err = s.workload.Parse(text, true)
		return err
	}
	t, err := scenarios.ParseTuning(text)
	s.scenario = s.scenario.Tuned(t)
	return err
}

// reducible reports whether schedules may be left out as equivalent to others.
func (s *searched) reducible() bool { return s.workload != nil || s.scenario.Reducible() }

// params are the parameters that differ from the small form's, as text.
func (s *searched) params() string {
	if s.workload != nil {
		return s.workload.Format(s.values, true)
	}
	return s.scenario.Tuning().String()
}

func (s *searched) name() string {
	if s.workload != nil {
		return s.workload.Name
	}
	return s.scenario.TokenName()
}

func (s *searched) title() string { return strings.TrimSpace(s.name() + " " + s.params()) }

func (s *searched) target(p mm.Policy, hosts *kernel.Hosts) *explore.Target {
	if s.workload != nil {
		return matrix.Target(s.workload, s.values, p, hosts)
	}
	return s.scenario.Target(p, hosts)
}

// judged is target with verdicts that tell what is safe.
func (s *searched) judged(p mm.Policy, hosts *kernel.Hosts) *explore.Target {
	t := s.target(p, hosts)
	if s.workload == nil {
		t = s.scenario.Judged(t)
	}
	return t
}

// wrong reports whether a run that ended with a verdict is worth a token.
func (s *searched) wrong(verdict string) bool {
	if s.workload == nil && scenarios.IsState(verdict) {
		return s.scenario.Wrong(verdict)
	}
	return verdict != explore.Safe
}
