package sched

import (
	"cmp"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// TaskState says whether a task wants to run.
type TaskState int32

// The task states, as TASK_RUNNING and so on.
const (
	TaskRunning TaskState = iota
	TaskInterruptible
	TaskUninterruptible
	TaskKillable
	TaskDead
)

// String returns the letter that ps(1) shows for the state.
func (s TaskState) String() string {
	return [...]string{"R", "S", "D", "K", "X"}[s]
}

// Context is a task's address space, as far as a context switch is concerned.
// Both methods run on the outgoing task's stack with interrupts disabled.
type Context interface {
	// SwitchIn makes the address space the CPU's active one (switch_mm).
	SwitchIn(c *x86.CPU)
	// Lazy tells that the CPU runs on without a user task and only borrows
	// whatever address space is active (enter_lazy_tlb).
	Lazy(c *x86.CPU)
}

// maxHeld is how many locks a task may hold at once.
const maxHeld = 24

// Task is a thread of execution.
type Task struct {
	// C is the CPU the task runs on. It changes at a context switch, so it is
	// re-read after anything that may sleep. Owner.
	C *x86.CPU
	// M is the machine. Immutable.
	M *Machine
	// ID numbers the task from 1; idle tasks have negative numbers. Immutable.
	ID int
	// Name is what reports call the task. Immutable.
	Name string
	// Ctx is the task's own address space, nil for a kernel thread. Owner.
	Ctx Context
	// Local is per-task state of the memory manager. Owner.
	Local any
	// Owner is the kernel's thread object. Immutable after start.
	Owner any
	// User is set while the task executes user code. Owner.
	User bool
	// Held is the lock checker's stack of held locks. Owner.
	Held [maxHeld]HeldLock
	// NumHeld is the number of entries of Held in use. Owner.
	NumHeld int
	// HeldAtIRQ is how many of them the code held that the running interrupt handler
	// interrupted: they are not part of the handler's lock order. Owner.
	HeldAtIRQ int

	event  bool // sleeps until a condition holds, and may be woken to look again. Owner.
	missed bool // the condition held when nothing could happen any more; see probe

	slot  int   // number among all tasks, for clocks. Immutable.
	clock clock // what happened before the task's present; nil without the checker of races. Owner.

	co     *coro
	fn     func(*Task)
	daemon bool

	state      atomic.Int32 // TaskState
	cpuID      atomic.Int32 // the CPU whose run queue the task belongs to; written under that queue's lock
	onRQ       bool         // queued or running; protected by the run queue's lock
	onCPU      atomic.Bool  // its coroutine is being executed
	preempted  bool         // switched out by preemption: stays on its CPU; protected by the run queue's lock
	next       *Task        // run-queue link; protected by the run queue's lock
	preemptOff int          // preempt_count without its interrupt part. Owner.
	inIRQ      int          // depth of interrupt handlers on this stack. Owner.
	sig        atomic.Uint32
	waitObj    x86.ObjID // what the task sleeps on, for reports. Owner.
	unwinding  bool      // the sentinel panic is on its way. Owner.
	ended      bool      // the coroutine's function has returned. Owner.
}

// HeldLock is an entry of a task's stack of held locks; see kernel/lock.
type HeldLock struct {
	Obj   x86.ObjID
	Class uint8
	Read  bool
	Name  string
}

// TaskOptions describe a new task.
type TaskOptions struct {
	// Name is what reports call the task.
	Name string
	// Ctx is the address space; nil for a kernel thread.
	Ctx Context
	// Daemon tasks do not keep the machine from being quiet.
	Daemon bool
	// CPU is where the task starts: 1 is CPU 0; zero lets the scheduler choose.
	CPU int
}

const (
	sigPending = 1 << iota
	sigFatal
)

// NewTask makes a task that will execute fn; it does not run before Start.
func (m *Machine) NewTask(o TaskOptions, fn func(*Task)) *Task {
	t := &Task{M: m, Name: o.Name, Ctx: o.Ctx, daemon: o.Daemon, fn: fn}
	t.state.Store(int32(TaskUninterruptible))
	m.tasksLock.Lock()
	m.nextTask++
	t.ID = m.nextTask
	t.slot = m.slots
	m.slots++
	m.tasks[t.ID] = t
	m.tasksLock.Unlock()
	if !t.daemon {
		m.live.Add(1)
	}
	if m.happens != nil {
		t.tick()
	}
	t.co = m.host.getCoro()
	t.co.fn = t.main
	t.cpuID.Store(int32(o.CPU - 1))
	return t
}

// EachTask calls fn for the tasks that have not ended, by number, idle tasks excepted:
// for snapshots of a machine that stands still.
func (m *Machine) EachTask(fn func(t *Task)) {
	m.tasksLock.Lock()
	tasks := slices.Collect(maps.Values(m.tasks))
	m.tasksLock.Unlock()
	slices.SortFunc(tasks, func(a, b *Task) int { return cmp.Compare(a.ID, b.ID) })
	for _, t := range tasks {
		fn(t)
	}
}

// WaitsFor returns what the task sleeps on, 0 if it does not: for snapshots of a machine
// that stands still.
func (t *Task) WaitsFor() x86.ObjID {
	if t.State() == TaskRunning {
		return 0
	}
	return t.waitObj
}

// Start makes a new task runnable. by is the starter, nil at boot.
func (m *Machine) Start(by, t *Task) {
	if t.cpuID.Load() < 0 {
		t.cpuID.Store(int32(m.leastLoaded()))
	}
	m.wake(by, t, false)
}

func (m *Machine) newIdle(c *cpu) *Task {
	t := &Task{M: m, ID: -1 - c.ID, Name: "swapper", daemon: true}
	t.C = &c.CPU
	t.slot = m.slots
	m.slots++
	if m.happens != nil {
		t.tick()
	}
	t.cpuID.Store(int32(c.ID))
	t.onRQ = true
	t.co = m.host.getCoro()
	t.co.fn = func() {
		t.guard(func() { m.idleLoop(c, t) })
		t.ended = true
	}
	return t
}

// main is the bottom of a task's coroutine.
func (t *Task) main() {
	run := func() {
		t.C.IRQEnable() // the switch to a new task happens with interrupts off (schedule_tail)
		t.fn(t)
	}
	if t.guard(run) {
		t.guard(t.die)
	}
	t.ended = true
}

// unwind is the sentinel that cuts a schedule short.
type unwind struct{}

// guard runs fn and keeps whatever ends it inside this coroutine: the unwinding
// sentinel, an oops, a Go panic, or runtime.Goexit out of a user function. It
// reports whether fn returned.
func (t *Task) guard(fn func()) (normal bool) {
	defer func() {
		if normal {
			return
		}
		r := recover()
		if _, ok := r.(unwind); ok {
			return
		}
		if r != nil {
			t.M.failPanic(t, r, debug.Stack())
			return
		}
		// Goexit: a user function called testing.T.FailNow or the like. It
		// cannot be stopped, and would end whoever resumes this coroutine too;
		// so the coroutine stays here, and Shutdown disposes of it.
		t.unwinding = true
		t.co.goexited = true
		t.M.fail(&Result{Reason: Exited, Task: t.Name})
		t.co.yield(struct{}{})
	}()
	fn()
	return true
}

// die takes the task off its CPU for ever. It returns to the coroutine's pool.
func (t *Task) die() {
	m := t.M
	if t.NumHeld != 0 {
		t.Oops("task exits holding %s", t.heldNames())
	}
	t.state.Store(int32(TaskDead))
	m.tasksLock.Lock()
	delete(m.tasks, t.ID)
	m.tasksLock.Unlock()
	t.C.Trace.Event(trace.EvTaskExit, t.C.Now(), uint64(t.ID), 0, 0)
	t.switchAway(false)
	if !t.daemon {
		m.live.Add(-1)
	}
}

// State returns the task's state.
func (t *Task) State() TaskState { return TaskState(t.state.Load()) }

// SetState announces that the task is about to wait; the caller then tests its
// condition and calls Schedule. A wake-up in between makes Schedule return at once.
//
// Preconditions:
//   - the task holds no host-level lock; see SetStateUnder
func (t *Task) SetState(s TaskState) {
	if t.M.opts.SleepPoints && t.C != nil {
		t.C.Point(x86.OpWrite, t.Obj())
	}
	t.setState(s)
}

// SetStateUnder is SetState for a task that has queued itself under l, which whoever takes
// it off the queue holds too: nobody can find the task there and running.
//
// Preconditions:
//   - the task holds l
func (t *Task) SetStateUnder(l *x86.RawSpin, s TaskState) {
	if !l.Locked() {
		t.Oops("the state is set to %v after the queue's lock was released: a wake-up in between is lost", s)
	}
	t.setState(s)
}

func (t *Task) setState(s TaskState) {
	if t.C != nil {
		t.C.Touch(t.Obj(), x86.AccWrite)
	}
	t.state.Store(int32(s))
}

// Obj names the task's state word.
func (t *Task) Obj() x86.ObjID { return x86.Obj(x86.ClassTask, uint64(t.ID)) }

// WaitingOn records what the task is about to wait for, for deadlock reports.
func (t *Task) WaitingOn(obj x86.ObjID) { t.waitObj = obj }

// Point passes a schedule point on the task's CPU.
func (t *Task) Point(op x86.Op, obj x86.ObjID) { t.C.Point(op, obj) }

// InIRQ reports whether an interrupt handler runs on the task's stack.
func (t *Task) InIRQ() bool { return t.inIRQ > 0 }

// PreemptDisable forbids preemption until the matching PreemptEnable.
func (t *Task) PreemptDisable() { t.preemptOff++ }

// PreemptEnable undoes PreemptDisable, and reschedules if that is due and the
// kernel is preemptible.
func (t *Task) PreemptEnable() {
	t.preemptOff--
	if t.preemptOff == 0 && t.M.opts.Preempt == PreemptFull {
		t.preemptCheck()
	}
}

// PreemptDisabled reports whether the task must not sleep.
func (t *Task) PreemptDisabled() bool { return t.preemptOff > 0 || t.inIRQ > 0 }

// NeedResched reports whether somebody else should run on this CPU.
func (t *Task) NeedResched() bool {
	t.C.Touch(x86.CPUPartObj(t.C.ID, x86.CPUQueue), x86.AccRead)
	return t.M.cpus[t.C.ID].needResched.Load()
}

// Crowded reports whether others wait for this CPU: a task that spins there keeps them from
// running, in the free regime for ever.
func (t *Task) Crowded() bool { return t.M.cpus[t.C.ID].queued() }

// CondResched gives way if that is due (cond_resched).
func (t *Task) CondResched() bool {
	if !t.NeedResched() || t.preemptOff > 0 || t.inIRQ > 0 || t.C.IRQsDisabled() {
		return false
	}
	t.Schedule()
	return true
}

// preemptCheck reschedules at a point where the task may be preempted.
func (t *Task) preemptCheck() {
	c := t.M.cpus[t.C.ID]
	c.Touch(x86.CPUPartObj(c.ID, x86.CPUQueue), x86.AccRead)
	if !c.needResched.Load() || t.preemptOff > 0 || t.inIRQ > 0 || c.IRQsDisabled() || t.unwinding || t == c.idle {
		return
	}
	if t.State() != TaskRunning {
		return // about to sleep anyway; PREEMPT_ACTIVE keeps such a task queued, waiting a moment does the same
	}
	if t.User || t.M.opts.Preempt == PreemptFull {
		t.switchAway(true)
	}
}

// Schedule lets another task run. A task in state TaskRunning stays queued;
// any other waits for Machine.Wake.
//
// Preconditions:
//   - the task holds no spinlock and is not in an interrupt handler
//   - interrupts are enabled
func (t *Task) Schedule() {
	if t.preemptOff > 0 || t.inIRQ > 0 {
		t.Oops("scheduling while atomic: preempt count %d, holding %s", t.preemptOff, t.heldNames())
	}
	if t.unwinding {
		panic(unwind{})
	}
	t.switchAway(false)
}

// switchAway is context_switch: it picks the next task, switches address spaces
// on this stack, and yields to the CPU loop unless nobody else is there to run.
// A dead task returns; its coroutine then ends.
func (t *Task) switchAway(preempt bool) {
	m := t.M
	c := m.cpus[t.C.ID]
	dead := t.State() == TaskDead
	c.IRQDisable()
	if !m.det {
		c.spin.begin(false)
	}
	c.Point(x86.OpSwitch, x86.CPUObj(c.ID))
	c.needResched.Store(false)
	if m.det && t != c.idle && c.Now()-c.pickedAt >= m.cost.NSToCycles(wakeGranNS) {
		m.det1.clocked = true
	}
	next := c.pickNext(t, preempt)
	c.sliceEnd = c.Now() + m.cost.NSToCycles(m.opts.SliceNS)
	c.pickedAt = c.Now()
	m.rcuQuiescent(c)
	if next == t {
		c.IRQEnable()
		return
	}
	c.Trace.Inc(trace.EmuContextSwitches)
	if preempt {
		c.Trace.Inc(trace.EmuContextSwitchesInvoluntary)
	}
	c.Trace.Event(trace.EvSchedSwitch, c.Now(), uint64(max(t.ID, 0)), uint64(max(next.ID, 0)), uint64(t.State()))
	c.Charge(m.cost.Switch)
	if next.Ctx != nil {
		next.Ctx.SwitchIn(&c.CPU)
	} else if t.Ctx != nil {
		t.Ctx.Lazy(&c.CPU)
	}
	t.orders(next)
	next.C = &c.CPU
	c.run(next)
	c.running.Poke(uint64(max(next.ID, 0)))
	c.Trace.Task = uint64(max(next.ID, 0))
	c.prev = t
	if m.det {
		m.det1.next = c.ID
	}
	if dead {
		c.SetIRQsDisabled(false)
		return
	}
	t.yield()
	// Resumed, perhaps on another CPU.
	t.C.IRQEnable()
}

// yield gives the coroutine back to the loop and unwinds if the machine died meanwhile.
func (t *Task) yield() {
	if !t.co.yield(struct{}{}) || t.M.dying.Load() {
		t.unwinding = true
		panic(unwind{})
	}
}

// release is called by the loop after prev's coroutine has yielded.
func (c *cpu) release() {
	p := c.prev
	if p == nil {
		return
	}
	c.prev = nil
	if p.ended && p != c.idle {
		c.m.host.putCoro(p.co)
		p.co = nil
	}
	if p != c.idle && !p.ended {
		c.Touch(p.Obj(), x86.AccWrite) // from here on it may be woken, or stolen, elsewhere
	}
	p.onCPU.Store(false)
}

// Caller names the frames above a schedule point; it is how diagrams learn the
// kernel function that performs a step. skip counts frames as runtime.Callers does.
func Caller(skip int, buf []uintptr) []uintptr {
	return buf[:runtime.Callers(skip+1, buf)]
}
