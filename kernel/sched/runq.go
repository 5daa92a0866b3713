package sched

import (
	"sync/atomic"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// runQueue is a CPU's queue of runnable tasks that are not running: first in,
// first out, with a time slice.
//
// Its lock is a host-level one. The queue is the scheduler's own business; what
// other CPUs can see of a wake-up is the interrupt and the task's state.
type runQueue struct {
	lock x86.RawSpin
	head *Task        // protected by lock
	tail *Task        // protected by lock
	n    atomic.Int32 // written with lock, read without: a hint
}

func (q *runQueue) push(t *Task) {
	t.next = nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	q.n.Add(1)
}

func (q *runQueue) pop() *Task {
	t := q.head
	if t == nil {
		return nil
	}
	q.head = t.next
	if q.head == nil {
		q.tail = nil
	}
	t.next = nil
	q.n.Add(-1)
	return t
}

// steal takes the first task that may move: one that is not being executed and
// was not switched out in the middle of kernel code.
func (q *runQueue) steal() *Task {
	var before *Task
	for t := q.head; t != nil; before, t = t, t.next {
		t.M.Touch(t.Obj(), x86.AccRead)
		if t.preempted || t.onCPU.Load() {
			continue
		}
		if before == nil {
			return q.pop()
		}
		before.next = t.next
		if q.tail == t {
			q.tail = before
		}
		t.next = nil
		q.n.Add(-1)
		return t
	}
	return nil
}

// pickNext puts prev back if it still wants to run and takes the next task off
// the queue, or the idle task. The chosen task is marked as executing.
func (c *cpu) pickNext(prev *Task, preempt bool) *Task {
	q := &c.rq
	queue, before := x86.CPUPartObj(c.ID, x86.CPUQueue), c.look()
	c.Touch(queue, x86.AccRead)
	q.lock.Lock()
	if prev != c.idle {
		c.Touch(prev.Obj(), x86.AccWrite)
		if prev.State() == TaskRunning || prev.State() == TaskInterruptible && prev.sig.Load() != 0 ||
			prev.State() == TaskKillable && prev.sig.Load()&sigFatal != 0 {
			prev.state.Store(int32(TaskRunning))
			prev.preempted = preempt
			q.push(prev)
		} else {
			prev.onRQ = false
		}
	}
	next := q.pop()
	if next == nil {
		next = c.idle
	}
	if next != prev {
		if next != c.idle || q.head != nil {
			c.Touch(queue, x86.AccWrite)
		}
		c.Touch(next.Obj(), x86.AccWrite)
	}
	next.onCPU.Store(true)
	q.lock.Unlock()
	c.show(before)
	return next
}

// Wake makes t runnable if it waits, and reports whether it did. by is the task
// on whose stack the call is made (in an interrupt handler, the interrupted one).
func (m *Machine) Wake(by, t *Task) bool {
	by.C.Point(x86.OpWake, x86.Obj(x86.ClassTask, uint64(t.ID)))
	by.C.Trace.Inc(trace.EmuWakeups)
	return m.wake(by, t, true)
}

// signalWake wakes t only if it waits in a state that a signal may interrupt:
// interruptibly, or (fatal) killably.
func (m *Machine) signalWake(by, t *Task, fatal bool) {
	s := t.State()
	if s == TaskInterruptible || fatal && s == TaskKillable {
		m.wake(by, t, true)
	}
}

// Signal marks t as having a signal pending (fatal: SIGKILL) and wakes it if it
// waits in a state that such a signal interrupts.
func (m *Machine) Signal(by, t *Task, fatal bool) {
	bits := uint32(sigPending)
	if fatal {
		bits |= sigFatal
	}
	by.C.Point(x86.OpWake, x86.Obj(x86.ClassTask, uint64(t.ID)))
	by.C.Touch(t.sigObj(), x86.AccWrite)
	t.sig.Or(bits)
	m.signalWake(by, t, fatal)
}

// SignalPending reports whether the task has a signal to take.
func (t *Task) SignalPending() bool { t.touchSig(x86.AccRead); return t.sig.Load() != 0 }

func (t *Task) touchSig(how x86.Access) {
	if t.C != nil {
		t.C.Touch(t.sigObj(), how)
	}
}

// sigObj names the task's signal word.
func (t *Task) sigObj() x86.ObjID { return x86.Obj(x86.ClassTask, 1<<40|uint64(t.ID)) }

// FatalSignalPending reports whether the task is being killed.
func (t *Task) FatalSignalPending() bool { t.touchSig(x86.AccRead); return t.sig.Load()&sigFatal != 0 }

// ClearSignal forgets pending signals that are not fatal; the signals themselves
// are the kernel's business.
func (t *Task) ClearSignal() { t.touchSig(x86.AccWrite); t.sig.And(sigFatal) }

func (m *Machine) wake(by, t *Task, preempt bool) bool {
	var home *cpu
	for {
		home = m.cpus[t.cpuID.Load()]
		home.rq.lock.Lock()
		if m.cpus[t.cpuID.Load()] == home {
			break
		}
		home.rq.lock.Unlock()
	}
	m.Touch(t.Obj(), x86.AccWrite)
	s := t.State()
	for s != TaskRunning && s != TaskDead && !t.state.CompareAndSwap(int32(s), int32(TaskRunning)) {
		s = t.State() // it changed its mind at this moment, perhaps to end
	}
	if s == TaskRunning || s == TaskDead {
		home.rq.lock.Unlock()
		return false
	}
	if by != nil {
		by.orders(t)
	}
	if t.onRQ {
		// It is on its way into Schedule, which will find it running.
		home.rq.lock.Unlock()
		traceWake(by, t, home)
		return true
	}
	target := home
	if !t.onCPU.Load() && !home.isolated && !home.available() {
		// Prefer an idle CPU; the home queue's lock keeps t from anybody else.
		for _, c := range m.cpus {
			if !c.isolated && c.available() {
				target = c
				break
			}
		}
	}
	t.onRQ = true
	t.preempted = false
	m.Touch(x86.CPUPartObj(target.ID, x86.CPUQueue), x86.AccWrite)
	before := target.look()
	if target == home {
		home.rq.push(t)
		home.rq.lock.Unlock()
	} else {
		t.cpuID.Store(int32(target.ID))
		home.rq.lock.Unlock()
		target.rq.lock.Lock()
		target.rq.push(t)
		target.rq.lock.Unlock()
	}
	target.show(before)
	traceWake(by, t, target)
	m.resched(by, target, preempt)
	return true
}

// traceWake records a wake-up (trace_sched_wakeup); who is woken at boot has no waker.
func traceWake(by, t *Task, target *cpu) {
	if by != nil {
		by.C.Trace.Event(trace.EvSchedWake, by.C.Now(), uint64(t.ID), uint64(target.ID), 0)
	}
}

// queued reports whether tasks wait for the CPU.
func (c *cpu) queued() bool {
	c.Touch(x86.CPUPartObj(c.ID, x86.CPUQueue), x86.AccRead)
	return c.rq.n.Load() > 0
}

// seen is what other CPUs can see of the CPU's load.
type seen struct{ available, spare bool }

// look returns what others can see now; after a change, show tells a search what of
// it has changed. Nobody looks at the queue itself but its CPU and who wakes a task there.
func (c *cpu) look() seen {
	if !c.m.det {
		return seen{}
	}
	n, idle := c.rq.n.Load(), c.cur == c.idle
	return seen{n == 0 && idle, n > 1 || n == 1 && !idle}
}

func (c *cpu) show(before seen) {
	now := c.look()
	if now.available != before.available {
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUAvailable), x86.AccWrite)
	}
	if now.spare != before.spare {
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUSpare), x86.AccWrite)
	}
}

// spare reports whether the CPU has a task that it cannot run now. A hint.
func (c *cpu) spare() bool {
	if c.m.det {
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUSpare), x86.AccRead)
		return c.look().spare
	}
	n := c.rq.n.Load()
	return n > 1 || n == 1 && !c.isIdle.Load()
}

// run makes t the task that the CPU runs.
func (c *cpu) run(t *Task) {
	before := c.look()
	if c.m.det && (t == c.idle) != (c.cur == c.idle) {
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUIdle), x86.AccWrite)
	}
	c.cur = t
	c.show(before)
}

// load is how many tasks the CPU has: nr_running. A hint.
func (c *cpu) load() int {
	n := int(c.rq.n.Load())
	if !c.curIsIdle() {
		n++
	}
	return n
}

// available reports whether the CPU has nothing to do. A hint.
func (c *cpu) available() bool {
	if c.m.det {
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUAvailable), x86.AccRead)
		return c.look().available
	}
	return c.rq.n.Load() == 0 && c.isIdle.Load()
}

func (c *cpu) curIsIdle() bool {
	if c.m.det {
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUIdle), x86.AccRead)
		return c.cur == c.idle
	}
	return c.isIdle.Load()
}

// wakeGranNS is how long a task runs before a woken one may preempt it.
const wakeGranNS = 1_000_000

// resched makes target look at its run queue: an idle CPU at once, a busy one
// when the running task has had wakeGranNS.
func (m *Machine) resched(by *Task, target *cpu, preempt bool) {
	if !target.curIsIdle() {
		if !preempt {
			return
		}
		if m.det && target.Now()-target.pickedAt < m.cost.NSToCycles(wakeGranNS) {
			return
		}
	}
	target.needResched.Store(true)
	if by != nil && by.C != &target.CPU {
		by.C.SendIPI(&target.CPU, x86.VecReschedule)
		return
	}
	target.Raise(x86.VecReschedule)
}

// leastLoaded chooses the CPU for a new task.
func (m *Machine) leastLoaded() int {
	best, load := 0, int(^uint(0)>>1)
	for i, c := range m.cpus {
		if c.isolated {
			continue
		}
		c.Touch(x86.CPUPartObj(i, x86.CPUQueue), x86.AccRead)
		n := c.load()
		if n < load {
			best, load = i, n
		}
	}
	return best
}

// pull takes a task from the longest queue for an idle CPU. A CPU with one task keeps
// it, even if it has not begun to run it (Linux 2.6.29 kernel/sched.c:load_balance_newidle
// wants nr_running > 1): it has been told, and two idle CPUs would take a task from
// each other for ever.
func (m *Machine) pull(c *cpu) bool {
	var from *cpu
	if c.isolated {
		return false
	}
	for _, o := range m.cpus {
		if o != c && !o.isolated && o.spare() && (from == nil || o.rq.n.Load() > from.rq.n.Load()) {
			from = o
		}
	}
	if from == nil {
		return false
	}
	theirs, ours := from.look(), c.look()
	// While the task is on neither queue, nobody must take the machine for quiet.
	c.leaveIdle()
	c.Touch(x86.CPUPartObj(from.ID, x86.CPUQueue), x86.AccWrite)
	c.Touch(x86.CPUPartObj(c.ID, x86.CPUQueue), x86.AccWrite)
	from.rq.lock.Lock()
	t := from.rq.steal()
	if t != nil {
		t.cpuID.Store(int32(c.ID))
	}
	from.rq.lock.Unlock()
	if t == nil {
		return false
	}
	c.rq.lock.Lock()
	c.rq.push(t)
	c.rq.lock.Unlock()
	from.show(theirs)
	c.show(ours)
	c.Trace.Inc(trace.EmuMigrations)
	return true
}
