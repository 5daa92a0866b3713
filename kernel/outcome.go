package kernel

import (
	"errors"
	"fmt"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Exit says how a process ended.
type Exit struct {
	PID    int
	Name   string
	Status Status
	// Root is set for a process that Start or Run made.
	Root bool
	// Fault is the access whose signal ended the process, nil if it was no access;
	// Why says what else the process ended itself for (MustMmap), "" if nothing is known;
	// At is the line of the user function that did either, as "mine_test.go:42".
	Fault *SigError
	Why   string
	At    string
}

// String says in a line how the process ended.
func (e Exit) String() string {
	s := fmt.Sprintf("process %d (%s): ", e.PID, e.Name)
	switch {
	case e.Fault != nil:
		s += fmt.Sprintf("killed by %v", e.Fault)
	case e.Why != "":
		s += fmt.Sprintf("%v: %s", e.Status, e.Why)
	default:
		s += e.Status.String()
	}
	if e.At != "" {
		s += ", in " + e.At
	}
	return s
}

// Outcome is what came of a run.
type Outcome struct {
	// Result says why the machine stopped, and when. Its Reason is sched.Quiet if
	// every task has ended.
	*sched.Result
	// Exits lists, in order, processes that ended during the run: those that Start
	// or Run made, those whose parents had ended before, and those that a signal
	// ended.
	Exits []Exit
	// Ended counts all processes that ended during the run.
	Ended uint64
	// Bugs are assertions that fired without stopping the machine.
	Bugs []sched.Bug
	// Victims are the processes that were killed for want of memory.
	Victims []Victim
}

// maxExits bounds what a machine remembers.
const maxExits = 1 << 16

// Err returns nil if the machine came to rest, no assertion fired, and every process
// that Start or Run made exited with status 0; otherwise it says what went wrong.
// A run that means to kill its processes looks at Result and Exits instead.
func (o *Outcome) Err() error {
	if err := o.Result.Err(); err != nil {
		return err
	}
	var errs []error
	for _, b := range o.Bugs {
		errs = append(errs, fmt.Errorf("assertion in %s: %s", b.Task, b.Msg))
	}
	for _, e := range o.Exits {
		if e.Root && e.Status != 0 {
			errs = append(errs, errors.New(e.String()))
		}
	}
	return errors.Join(errs...)
}

// Status returns how the process with the given number ended; ok is false if the
// outcome does not know.
func (o *Outcome) Status(pid int) (s Status, ok bool) {
	for _, e := range o.Exits {
		if e.PID == pid {
			return e.Status, true
		}
	}
	return 0, false
}

// Start makes a process that will run fn, and returns it. It begins with an empty
// address space, like a program after exec, when the machine runs. When fn returns,
// the process ends with status 0.
//
// It is for whoever made the machine, before Run; a running process makes others
// with Fork.
func (m *Machine) Start(name string, fn func(*Thread)) *Process {
	p := m.newProcess(name, fn)
	p.started = true
	m.attachLocked(p, &m.root)
	th := p.threads[0]
	th.newTask(name, nil)
	m.sched.Start(nil, th.task)
	return p
}

// Run runs the machine until it is quiet or something ends it. A process called init
// that runs fn is made first, unless fn is nil. Run may be called again after a quiet
// run; the machine's memory, disks and counters are as the last run left them. After
// any other outcome it returns that outcome's Result again.
//
// fn, and every function passed to Fork, Vfork and Go, runs on the machine's
// coroutines: it must not block in Go (on channels, mutexes, time.Sleep). It may use
// testing.T, FailNow included; that ends the run with sched.Exited.
func (m *Machine) Run(fn func(*Thread)) *Outcome {
	exits, victims, ended, bugs := len(m.exits), len(m.victims), m.ended, len(m.sched.Bugs())
	r := &sched.Result{Reason: sched.Stopped, Detail: "the machine has been shut down"}
	if !m.down {
		if fn != nil {
			m.Start("init", m.withSwap(fn))
		}
		r = m.sched.Run()
		m.last = r
	}
	return &Outcome{
		Result: r, Exits: m.exits[exits:], Ended: m.ended - ended,
		Bugs: m.sched.Bugs()[bugs:], Victims: m.victims[victims:],
	}
}

// Stop ends a running machine: Run returns with the reason sched.Stopped. For anybody.
func (m *Machine) Stop(why string) { m.sched.Stop(why) }

// recordExitLocked remembers how a process without a parent ended. The caller holds
// tasklist.
func (m *Machine) recordExitLocked(p *Process) {
	if !p.recorded && len(m.exits) < maxExits {
		p.recorded = true
		m.exits = append(m.exits, Exit{PID: p.pid, Name: p.name, Status: p.status, Root: p.started, Fault: p.fault, Why: p.why, At: p.endedAt})
	}
}

// noteExitLocked counts a process that ended, and remembers it if a signal was the
// reason. The caller holds tasklist.
func (m *Machine) noteExitLocked(p *Process) {
	m.ended++
	if p.status.Signaled() {
		m.recordExitLocked(p)
	}
}
