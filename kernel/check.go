package kernel

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Check returns what is wrong with the machine, all invariants of pages, page tables,
// rmap, TLBs and processes. The machine must be at rest: between runs, the last one
// quiet. See mm.System.CheckRest for the list.
func (m *Machine) Check() []error {
	if m.down {
		return nil
	}
	errs := append(m.sys.CheckRest(), m.checkProcesses()...)
	if m.last != nil && m.last.Reason == sched.Quiet {
		errs = append(errs, m.fs.CheckPipes(true /* rest */)...)
	}
	return errs
}

// CheckStep is Check for any step of a deterministic machine, from a sched.Observer:
// what a held lock excuses is left out.
func (m *Machine) CheckStep() []error {
	return append(append(m.sys.Check(), m.pages.CheckStep()...), m.fs.CheckPipes(false /* rest */)...)
}

// checkProcesses checks what holds of processes at rest: all have ended and been
// released, and nobody waits in a futex queue.
func (m *Machine) checkProcesses() (errs []error) {
	if m.last != nil && m.last.Reason != sched.Quiet {
		return nil // they were stopped in the middle of something
	}
	for _, p := range m.Processes() {
		if p.space == nil && p.live > 0 && p.parent == &m.root && p.threads[0].fn != nil {
			continue // made by Start, to run in the next Run
		}
		errs = append(errs, fmt.Errorf("kernel: process %d (%s) is left, state %d, %d threads", p.pid, p.name, p.state, p.live))
	}
	for i := range m.futexes {
		if w := m.futexes[i].head; w != nil {
			errs = append(errs, fmt.Errorf("kernel: thread %d is left in a futex queue", w.t.tid))
		}
	}
	if c := m.root.child; c != nil && m.findLocked(c.pid) == nil {
		errs = append(errs, fmt.Errorf("kernel: process %d has a parent but no number", c.pid))
	}
	return errs
}

// Leaks lists what is still allocated though every process has ended: address spaces,
// page caches, pages. It runs the machine for a moment, to empty the per-CPU caches
// and to make idle CPUs let go of the address spaces they borrow. The last run must
// have been quiet.
func (m *Machine) Leaks() []string {
	if m.down {
		return nil
	}
	task := m.sched.NewTask(sched.TaskOptions{Name: "leaks"}, func(t *sched.Task) {
		for cpu := range m.sched.CPUs() {
			m.pages.LRUAddDrainCPU(t, cpu)
		}
		m.sys.DropKSM(t)
		m.sys.DropSwapCache(t)
		m.sys.DropLazy(t)
	})
	m.sys.InitTask(task, nil)
	m.sched.Start(nil, task)
	m.last = m.sched.Run()
	switch err := m.last.Err(); {
	case m.last.Reason == sched.Stopped:
		return nil // somebody stopped the machine just now: nothing can be said
	case err != nil:
		return []string{err.Error()}
	}
	return append(m.sys.Leaks(), m.sys.SwapLeaks()...)
}
