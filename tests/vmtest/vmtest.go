package vmtest

import (
	"runtime"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
)

// VM is a machine that belongs to a test.
type VM struct {
	*kernel.Machine
	tb testing.TB
}

// New boots a machine, which is checked and shut down when the test ends. A machine that
// cannot be had fails the test with the reason.
//
// In the free regime without a strategy, the schedule is the one that the environment
// variable COWLAB_SCHEDULE names, or else the random one of seed 1.
func New(tb testing.TB, o kernel.Options) *VM {
	tb.Helper()
	if o.Regime == sched.Free && o.Strategy == nil {
		spec, err := scheduleFromEnv(tb)
		if err != nil {
			tb.Fatalf("vmtest: %v", err)
		}
		if spec != nil {
			o.Strategy = spec.Strategy()
		}
	}
	m, err := kernel.Boot(o)
	if err != nil {
		tb.Fatalf("vmtest: %v", err)
	}
	vm := &VM{Machine: m, tb: tb}
	tb.Cleanup(vm.close)
	return vm
}

// Run runs fn as the machine's first process until everything has ended, and fails the
// test if that is not how it ends: on a deadlock, a BUG, a process killed by a signal.
// It may be called again.
func (vm *VM) Run(fn func(*kernel.Thread)) *kernel.Outcome {
	vm.tb.Helper()
	out := vm.Machine.Run(fn)
	if out.Reason == sched.Exited {
		// A user function has called FailNow, which could only end its own
		// coroutine. Now the test's goroutine ends too.
		runtime.Goexit()
	}
	if err := out.Err(); err != nil {
		vm.tb.Fatalf("vmtest: %v\n%s", err, out.Detail)
	}
	return out
}

// close checks the machine and shuts it down.
func (vm *VM) close() {
	vm.tb.Helper()
	for _, problem := range problems(vm.Machine) {
		vm.tb.Errorf("vmtest: %s", problem)
	}
	vm.Shutdown()
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
