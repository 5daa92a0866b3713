package sched

import (
	"sync/atomic"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// rcuState is classic RCU: a grace period is over when every CPU that was busy
// at its start has passed a context switch or gone idle. Read sides only disable
// preemption (kernel/lock).
type rcuState struct {
	lock    x86.RawSpin
	waiting []rcuCallback // protected by lock
	n       atomic.Int32  // len(waiting); written with lock, read without
}

// rcuObj stands for grace periods in the checker of races: no word has this number.
const rcuObj = x86.ObjID(x86.ClassWord)<<56 | 1<<56 - 1

type rcuCallback struct {
	need uint64 // CPUs that have yet to pass a quiescent state
	fn   func(*Task)
}

// CallRCU calls fn after a grace period, on the stack of whichever task
// completes it. fn must not sleep.
func (m *Machine) CallRCU(t *Task, fn func(*Task)) {
	var need uint64
	t.C.Touch(x86.CPUPartObj(0, x86.CPURCU), x86.AccWrite)
	m.rcu.lock.Lock()
	m.rcu.n.Store(int32(len(m.rcu.waiting) + 1))
	for i, c := range m.cpus {
		c.Touch(x86.CPUPartObj(i, x86.CPUIdle), x86.AccRead)
		if !c.curIsIdle() || c.ID == t.C.ID {
			need |= 1 << i
		}
	}
	m.rcu.waiting = append(m.rcu.waiting, rcuCallback{need, fn})
	m.rcu.lock.Unlock()
}

// rcuAwaits reports whether a grace period waits for c. A CPU asks after it has said that
// it is idle, and CallRCU says that there is a callback before it looks who is idle:
// one of the two sees the other. Parallel regime.
func (m *Machine) rcuAwaits(c *cpu) bool {
	if m.rcu.n.Load() == 0 {
		return false
	}
	awaits := false
	m.rcu.lock.Lock()
	for _, cb := range m.rcu.waiting {
		awaits = awaits || cb.need>>c.ID&1 != 0
	}
	m.rcu.lock.Unlock()
	return awaits
}

// rcuUser notes the quiescent state of a CPU that is in user code, as the timer tick
// does: a task that never enters the kernel must not hold up a grace period.
func (m *Machine) rcuUser(c *cpu) {
	t := c.cur
	if !t.User || t.inIRQ > 0 {
		return
	}
	if m.rcu.n.Load() == 0 {
		c.Touch(x86.CPUPartObj(0, x86.CPURCU), x86.AccRead)
		return
	}
	t.User = false
	m.rcuQuiescent(c)
	t.User = true
}

// rcuQuiescent notes a quiescent state of c and runs the callbacks it completes.
func (m *Machine) rcuQuiescent(c *cpu) {
	if m.rcu.n.Load() == 0 {
		c.Touch(x86.CPUPartObj(0, x86.CPURCU), x86.AccRead)
		return
	}
	c.Touch(x86.CPUPartObj(0, x86.CPURCU), x86.AccWrite)
	if h := m.happens; h != nil {
		h.release(c.cur, rcuObj)
	}
	bit := uint64(1) << c.ID
	var ready []rcuCallback
	m.rcu.lock.Lock()
	kept := m.rcu.waiting[:0]
	for _, cb := range m.rcu.waiting {
		if cb.need &^= bit; cb.need == 0 {
			ready = append(ready, cb)
		} else {
			kept = append(kept, cb)
		}
	}
	m.rcu.waiting = kept
	m.rcu.n.Store(int32(len(kept)))
	m.rcu.lock.Unlock()
	for _, cb := range ready {
		c.Trace.Inc(trace.EmuRCUGrace)
		c.cur.Acquired(rcuObj)
		cb.fn(c.cur)
	}
}
