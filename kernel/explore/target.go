package explore

import (
	"fmt"
	"runtime/debug"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Safe is the verdict of a run in which nothing went wrong.
const Safe = "safe"

// Panicked is the verdict of a run whose target panicked in Go: an error of the
// target or of the tool, never of the emulated kernel.
const Panicked = "panic"

// Observation is what a target saw in one run.
type Observation struct {
	// Verdict is one word: Safe, or what went wrong.
	Verdict string
	// Detail is the evidence, in a line or several.
	Detail string
	// Steps is the number of schedule points of the run.
	Steps uint64
	// State is the hash of the final state, made with StateHash. Two runs of the
	// same choices have the same State.
	State uint64
	// Result is how the machine ended. It may be nil.
	Result *sched.Result
}

// Runner runs a program once: it makes a machine in the Free regime with the
// given strategy and observer (nil: none), runs it, and disposes of it.
type Runner func(s sched.Strategy, o sched.Observer) Observation

// Target is a program to be explored.
//
// A run must be a function of the strategy's choices alone: no host clock, no
// host randomness, no iteration over maps that reaches a schedule point.
type Target struct {
	// Name is the workload's or scenario's name.
	Name string
	// Params are its parameters in their canonical order, without defaults.
	Params []Param
	// Policy is the policy's name.
	Policy string
	// Run runs the program once. It is called from several goroutines at once.
	Run Runner
	// Worker, if not nil, is called once for each goroutine of a search and
	// gives it a Runner of its own, which may keep its machine from one run to
	// the next; done disposes of it. Run is then used where one run is wanted.
	Worker func() (run Runner, done func())
	// Smaller, if not nil, returns targets that do less and are otherwise the same:
	// one operation fewer, one round fewer, fewer bytes. Those that leave out the most
	// come first. Each has a token of its own (Params), and a Smaller of its own if there
	// is more to leave out. Shrink looks for the least that still shows the finding.
	Smaller func() []Target
}

// Param is one parameter of a target.
type Param struct{ Key, Value string }

// Token returns the token of the target under the given strategy.
func (t *Target) Token(s Spec) Token {
	return Token{Target: t.Name, Params: t.Params, Policy: t.Policy, Spec: s}
}

// once runs the program with a strategy, in the caller's goroutine.
func (t *Target) once(s sched.Strategy, o sched.Observer) Observation { return guarded(t.Run, s, o) }

// worker returns a Runner for one goroutine and what disposes of it.
func (t *Target) worker() (Runner, func()) {
	if t.Worker != nil {
		return t.Worker()
	}
	return t.Run, func() {}
}

// guarded turns a panic of the runner into an observation: one bad schedule of
// a million must not take the other findings with it.
func guarded(run Runner, s sched.Strategy, o sched.Observer) (obs Observation) {
	defer func() {
		if r := recover(); r != nil {
			obs = Observation{Verdict: Panicked, Detail: fmt.Sprintf("%v\n%s", r, debug.Stack())}
		}
	}()
	return run(s, o)
}

// VerdictOf returns the verdict that a machine's end is by itself, whatever the
// program's own checks say; "" if the machine came to its natural end.
func VerdictOf(r *sched.Result) string {
	if r == nil {
		return ""
	}
	switch r.Reason {
	case sched.Quiet:
		return ""
	case sched.Oopsed:
		return "bug"
	case sched.Panicked:
		return Panicked
	}
	return r.Reason.String()
}
