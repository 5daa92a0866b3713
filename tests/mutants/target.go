package mutants

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Mutant is the kernel less one line, and a program that shows it.
type Mutant struct {
	// Name says what is missing; Where is the function of the kernel.
	Name, Where string
	// Break is what is taken out of the memory manager, or Policy of a policy.
	Break  mm.Break
	Policy mm.Policy
	// Whole is the policy with nothing taken out; nil means stock.
	Whole mm.Policy
	// Options describe the machine, but for the above.
	Options kernel.Options
	// Wrong makes a mistake in the program itself (a driver's, say).
	Wrong bool
	// Program is the first process.
	Program func(t *kernel.Thread, r *Run)
}

// Run is one run of a program.
type Run struct {
	// Wrong says that the program is to make its own mistake.
	Wrong bool

	gate  *explore.Gate
	found string
}

// Begin ends the set-up: from here on the search chooses.
func (r *Run) Begin() { r.gate.Open() }

// Bad reports that the program saw what must not be.
func (r *Run) Bad(format string, args ...any) {
	if r.found == "" {
		r.found = fmt.Sprintf(format, args...)
	}
}

// must reports a system call that failed although it should not.
func (r *Run) must(err error) {
	if err != nil {
		r.Bad("system call: %v", err)
	}
}

// checkEvery is how often every invariant is checked, in steps.
const checkEvery = 48

// Target makes the mutant, or with whole set the kernel it was made from, something to
// search.
func (m *Mutant) Target(whole bool, hosts *kernel.Hosts) explore.Target {
	o := m.Options
	o.Regime, o.Hosts, o.NoStack, o.CheckRaces = sched.Free, hosts, true, true
	o.Policy, o.Break = m.Policy, m.Break
	if whole {
		o.Policy, o.Break = m.Whole, 0
	}
	if o.Memory == 0 {
		o.Memory = 1 << 20
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.StepLimit == 0 {
		o.StepLimit = 100_000
	}
	o.Watchdog = sched.NoWatchdog
	return explore.Target{Name: m.Name, Policy: "stock", Run: func(s sched.Strategy, ob sched.Observer) explore.Observation {
		r := &Run{Wrong: m.Wrong && !whole, gate: explore.NewGate(s)}
		o := o
		o.Strategy = r.gate
		return r.once(o, ob, m.Program)
	}}
}

// once boots a machine and runs the program.
func (r *Run) once(o kernel.Options, ob sched.Observer, program func(*kernel.Thread, *Run)) explore.Observation {
	m, err := kernel.Boot(o)
	if err != nil {
		return explore.Observation{Verdict: explore.Panicked, Detail: err.Error()}
	}
	defer m.Shutdown()
	m.CheckSteps(checkEvery, ob)
	out := m.Run(func(t *kernel.Thread) { program(t, r) })
	obs := explore.Observation{Verdict: explore.Safe, Steps: out.Steps, Result: out.Result}
	switch err := out.Err(); {
	case r.found != "":
		obs.Verdict, obs.Detail = "wrong", r.found
	case out.Reason != sched.Quiet:
		obs.Verdict, obs.Detail = explore.VerdictOf(out.Result), out.Detail
	case err != nil:
		obs.Verdict, obs.Detail = "wrong", err.Error()
	case m.AtRest():
		if errs := m.Check(); len(errs) > 0 {
			obs.Verdict, obs.Detail = "invariant", errs[0].Error()
		} else if l := m.Leaks(); len(l) > 0 {
			obs.Verdict, obs.Detail = "leak", l[0]
		}
	}
	var h explore.StateHash
	h.PutString("verdict", obs.Verdict)
	h.PutUint("steps", out.Steps)
	obs.State = h.Sum()
	return obs
}
