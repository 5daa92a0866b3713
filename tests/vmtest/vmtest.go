package vmtest

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// VM is a machine that belongs to a test.
type VM struct {
	*kernel.Machine
	tb    testing.TB
	again string // how to see this run again
}

// New boots a machine, which is checked and shut down when the test ends. A machine that
// cannot be had fails the test with the reason. When the test has failed, how to run it
// again in the same schedule is logged.
//
// In the free regime without a strategy, the schedule is the one that the environment
// variable COWLAB_SCHEDULE names, or else the random one of seed 1.
func New(tb testing.TB, o kernel.Options) *VM {
	tb.Helper()
	vm := &VM{tb: tb}
	switch {
	case o.Regime == sched.Timed:
		vm.again = "the timed regime repeats exactly; run it again with\n  " + explore.TestCommand(tb.Name(), ".")
	case o.Regime == sched.Parallel:
		vm.again = "the parallel regime does not repeat; try again with\n  " + explore.TestCommand(tb.Name(), ".") + " -count 100"
	case o.Strategy == nil:
		spec, err := asked(tb)
		if err != nil {
			tb.Fatalf("vmtest: %v", err)
		}
		if spec == nil {
			spec = &explore.Spec{Kind: explore.KindRandom, Seed: 1}
		}
		o.Strategy = spec.Strategy()
		tok := explore.Token{Target: tb.Name(), Policy: policyName(o), Spec: *spec}
		vm.again = "run this schedule again with\n  " + tok.Command()
	}
	m, err := kernel.Boot(o)
	if err != nil {
		tb.Fatalf("vmtest: %v", err)
	}
	vm.Machine = m
	tb.Cleanup(vm.close)
	return vm
}

// Run runs fn as the machine's first process until everything has ended, and fails the
// test if that is not how it ends: on a deadlock, a BUG, a process killed by a signal, a
// task that blocks in Go. It may be called again. Programs that are meant to end badly are
// for Machine.Run, which only returns the outcome.
//
// Fatal, FailNow and Skip in fn end the machine and then the test.
func (vm *VM) Run(fn func(*kernel.Thread)) *kernel.Outcome {
	vm.tb.Helper()
	out := vm.Machine.Run(fn)
	if out.Reason == sched.Exited {
		// A user function has called FailNow or SkipNow, which could only end its
		// own coroutine. Now the test's goroutine ends too.
		runtime.Goexit()
	}
	if err := failure(out); err != "" {
		vm.tb.Fatalf("vmtest: %s", err)
	}
	return out
}

// failure says what was wrong with a run, "" if nothing was.
func failure(out *kernel.Outcome) string {
	err := out.Err()
	if err == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(strings.TrimSpace(err.Error()))
	if d := strings.TrimSpace(out.Detail); !strings.Contains(b.String(), d) {
		b.WriteString("\n" + d)
	}
	for _, v := range out.Victims {
		fmt.Fprintf(&b, "\nmemory ran out: process %d (%s) was killed with %d pages mapped and %d free",
			v.PID, v.Name, v.Pages, v.FreePages)
	}
	return b.String()
}

// close checks the machine and shuts it down.
func (vm *VM) close() {
	vm.tb.Helper()
	for _, problem := range problems(vm.Machine) {
		vm.tb.Errorf("vmtest: %s", problem)
	}
	vm.Shutdown()
	if vm.tb.Failed() && vm.again != "" {
		vm.tb.Logf("vmtest: %s", vm.again)
	}
}

// problems lists violated invariants and leaks of a machine that has come to rest; one
// that was stopped in the middle has neither.
func problems(m *kernel.Machine) []string {
	if !m.AtRest() {
		return nil
	}
	var out []string
	for _, err := range m.Check() {
		out = append(out, "invariant: "+err.Error())
	}
	for _, l := range m.Leaks() {
		out = append(out, "leak: "+l)
	}
	return out
}

func policyName(o kernel.Options) string {
	if o.Policy == nil {
		return "stock"
	}
	return o.Policy.Name()
}
