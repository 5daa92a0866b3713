package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
)

// Virtual time. Every operation of a processor advances its clock by what the cost
// model says; a sleep lets time pass without work. In the free regime a sleep
// promises no order: it may end at any later step.

// Nanosleep sleeps for ns of virtual nanoseconds: nanosleep(2). The error is EINTR if
// a signal handler ran before the time was over.
func (t *Thread) Nanosleep(ns uint64) error {
	task := t.enter(SysNanosleep, ns, 0)
	var err error
	if !task.SleepFor(ns) {
		err = unix.EINTR
	}
	t.leave(SysNanosleep, result(0, err))
	return err
}

// Usleep sleeps for us microseconds of virtual time, or until a signal: usleep(3).
func (t *Thread) Usleep(us uint64) { _ = t.Nanosleep(us * 1000) }

// ClockGettime returns the virtual time since boot in nanoseconds, as the clock of
// the thread's processor has it: clock_gettime(2). It never goes back for one thread.
func (t *Thread) ClockGettime() uint64 {
	task := t.enter(SysClockGettime, 0, 0)
	t.lastNS = max(t.lastNS, t.m.sched.Cost().CyclesToNS(task.C.Now()))
	t.leave(SysClockGettime, 0)
	return t.lastNS
}

// Yield lets another thread run, if one waits for this processor: sched_yield(2).
func (t *Thread) Yield() {
	task := t.enter(SysSchedYield, 0, 0)
	task.Schedule()
	t.leave(SysSchedYield, 0)
}

// Compute is ns virtual nanoseconds of work that touches no memory. The thread may be
// preempted meanwhile and takes signals.
func (t *Thread) Compute(ns uint64) {
	cost := t.m.sched.Cost()
	const slice = 10_000
	for {
		if t.task.SignalPending() {
			t.takeSignals()
		}
		k := min(ns, slice)
		t.task.C.Charge(cost.NSToCycles(k))
		t.task.Point(x86.OpYield, 0)
		if ns -= k; ns == 0 {
			return
		}
	}
}
