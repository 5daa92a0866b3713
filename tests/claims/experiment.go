package claims

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

// experiment is a program that only a claim asks for. It is a scenario's text where that
// can say it, else Go.
type experiment struct {
	// name is what tokens call it.
	name string
	// text is a scenario.
	text string
	// cut says that an exhaustive search may leave out what follows a decision that another
	// schedule has come to: the test of it compares with all schedules.
	cut bool
	// options describe the machine, and run is the program, of one in Go.
	options kernel.Options
	run     func(t *kernel.Thread, p *play)
}

// experiments are all there are.
func experiments() []experiment {
	var all []experiment
	for _, group := range [][]experiment{raceExperiments(), userExperiments(), swapExperiments(), stayExperiments(), hugeExperiments()} {
		all = append(all, group...)
	}
	return all
}

// cuttable reports whether an experiment is one of those that say cut.
func cuttable(name string) bool {
	e, _, err := lookup(name)
	return err == nil && e.cut
}

// Names returns the names of the experiments, which tokens of claims may carry.
func Names() []string {
	var out []string
	for _, e := range experiments() {
		out = append(out, e.name)
	}
	return out
}

// Target returns what a token names, if it is an experiment of this package.
func Target(tok explore.Token, policies []mm.Policy, hosts *kernel.Hosts) (*explore.Target, error) {
	p := Policy(policies, tok.Policy)
	if p == nil {
		return nil, fmt.Errorf("there is no policy %q", tok.Policy)
	}
	t, err := target(tok.Target, p, hosts)
	if err != nil {
		return nil, err
	}
	if got, want := fmt.Sprint(tok.Params), fmt.Sprint(t.Params); got != want {
		return nil, fmt.Errorf("%s has changed since the token was made: its parameters are %s, not %s", tok.Target, want, got)
	}
	return t, nil
}

// Scenario returns an experiment that is told as a scenario, nil if it is a program in Go.
func Scenario(name string) (*scenarios.Scenario, error) {
	_, s, err := lookup(name)
	return s, err
}

// target makes an experiment, or a scenario that ships, something to explore.
func target(name string, p mm.Policy, hosts *kernel.Hosts) (*explore.Target, error) {
	e, s, err := lookup(name)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return e.program(p, hosts), nil
	}
	return s.Target(p, hosts), nil
}

// lookup finds an experiment in Go, or one that is a scenario, among the experiments or the
// scenarios that ship.
func lookup(name string) (experiment, *scenarios.Scenario, error) {
	for _, e := range experiments() {
		if e.name != name {
			continue
		}
		if e.run != nil {
			return e, nil, nil
		}
		s, err := scenarios.Parse(name, "cowlab "+name+"\n"+e.text)
		return e, s, err
	}
	s, err := scenarios.Lookup(name)
	return experiment{}, s, err
}

// Describe says in text what an experiment runs.
func Describe(name string) (string, error) {
	_, s, err := lookup(name)
	if err != nil {
		return "", err
	}
	if s == nil {
		return fmt.Sprintf("experiment %s of cowlab claims, a program in Go\n", name), nil
	}
	return s.Print(), nil
}

// Traced runs an experiment once with events, and hands the machine to done when it has
// come to rest.
func Traced(name string, p mm.Policy, hosts *kernel.Hosts, st sched.Strategy, done func(*kernel.Machine)) error {
	e, s, err := lookup(name)
	switch {
	case err != nil:
		return err
	case s != nil:
		s.RunTraced(p, hosts, st, done)
	default:
		e.once(p, hosts, st, nil, done)
	}
	return nil
}

// play is an experiment in Go being run.
type play struct {
	gate            *explore.Gate
	verdict, detail string
}

// begin ends the set-up.
func (p *play) begin() { p.gate.Open() }

// see reports what was seen, if it was; the first counts.
func (p *play) see(v workload.Verdict, seen bool, detail string) {
	if seen && p.verdict == explore.Safe {
		p.verdict, p.detail = string(v), detail
	}
}

// must reports a call that should have worked, and whether it did.
func (p *play) must(err error, call string) bool {
	if err != nil {
		p.verdict, p.detail = "broken", fmt.Sprintf("%s: %v", call, err)
	}
	return err == nil
}

// program makes an experiment in Go something to explore.
func (e experiment) program(p mm.Policy, hosts *kernel.Hosts) *explore.Target {
	return &explore.Target{Name: e.name, Policy: p.Name(), Run: func(s sched.Strategy, ob sched.Observer) explore.Observation {
		return e.once(p, hosts, s, ob, nil)
	}}
}

// once runs an experiment in Go; with done, which gets the machine at the end, it records events.
func (e experiment) once(p mm.Policy, hosts *kernel.Hosts, s sched.Strategy, ob sched.Observer, done func(*kernel.Machine)) explore.Observation {
	pl := &play{gate: explore.NewGate(s), verdict: explore.Safe}
	o := e.options
	o.CPUs, o.Regime, o.Strategy, o.Policy, o.Hosts = 2, sched.Free, pl.gate, p, hosts
	o.Events = done != nil
	o.NoStack, o.Watchdog, o.StepLimit = true, sched.NoWatchdog, 100_000
	if o.Memory == 0 {
		o.Memory = 2 << 20
	}
	m, err := kernel.Boot(o)
	if err != nil {
		return explore.Observation{Verdict: explore.Panicked, Detail: err.Error()}
	}
	defer m.Shutdown()
	m.CheckSteps(64, ob)
	out := m.Run(func(t *kernel.Thread) { e.run(t, pl) })
	if done != nil {
		done(m)
	}
	obs := explore.Observation{Verdict: pl.verdict, Detail: pl.detail, Steps: out.Steps, Result: out.Result}
	switch v := explore.VerdictOf(out.Result); {
	case v != "":
		obs.Verdict, obs.Detail = v, out.Detail
		if out.Oops != nil {
			obs.Detail = out.Oops.Error()
		}
	case len(out.Bugs) > 0:
		obs.Verdict, obs.Detail = string(workload.Bug), out.Bugs[0].Msg
	case obs.Verdict == explore.Safe:
		if errs := m.Check(); len(errs) > 0 {
			obs.Verdict, obs.Detail = string(workload.Bug), "invariant: "+errs[0].Error()
		} else if leaks := m.Leaks(); len(leaks) > 0 {
			obs.Verdict, obs.Detail = string(workload.Leak), leaks[0]
		}
	}
	var h explore.StateHash
	h.PutString("verdict", obs.Verdict)
	h.PutUint("points", out.Steps)
	h.PutUint("ns", out.NS)
	obs.State = h.Sum()
	return obs
}

// swapDisk is a disk to swap to.
func swapDisk() kernel.Disk { return kernel.Disk{Name: "swap", Size: 64 << 12, Swap: true} }
