package sched

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Reason says why Run returned.
type Reason uint8

// The reasons.
const (
	Quiet    Reason = iota // every task has ended and nothing is outstanding
	Deadlock               // tasks are left, but nothing can ever happen again
	Livelock               // too much happened without progress
	Oopsed                 // the kernel hit a BUG
	Stopped                // Stop was called
	Exited                 // a user function left by runtime.Goexit (testing.T.FailNow)
	Stuck                  // a task blocks in Go instead of in the emulated kernel, or loops there
	Panicked               // a user function panicked
)

var reasonNames = [...]string{"quiet", "deadlock", "livelock", "oops", "stopped", "exited", "stuck", "panic"}

// String returns the reason in one word.
func (r Reason) String() string { return reasonNames[r] }

// Result is the outcome of Run.
type Result struct {
	Reason Reason
	// Task names the task concerned, if one is.
	Task string
	// Detail explains in several lines; empty for Quiet.
	Detail string
	// Oops is the typed BUG for Oopsed.
	Oops *Oops
	// Steps is how many schedule points a deterministic machine has passed.
	Steps uint64
	// NS is the machine's virtual time in nanoseconds.
	NS uint64
	// Clocked is set when, in the Free regime, a task had a CPU for so long that its
	// time may have decided who runs next.
	Clocked bool
}

// Err returns nil for Quiet and an error that says what happened otherwise.
func (r *Result) Err() error {
	if r == nil || r.Reason == Quiet {
		return nil
	}
	first, _, _ := strings.Cut(r.Detail, "\n")
	if first == "" {
		first = r.Task
	}
	return fmt.Errorf("%s: %s", r.Reason, first)
}

// Bug is an assertion that fired but did not stop the machine: a patch's
// VM_BUG_ON, which a kernel without debugging does not compile in.
type Bug struct {
	Task string
	Msg  string
}

// Oops is a kernel BUG: the typed panic that ends a machine, never the program.
type Oops struct {
	Msg   string
	Task  string
	CPU   int
	Held  string
	Stack string
}

// Error implements error.
func (o *Oops) Error() string {
	return fmt.Sprintf("BUG: %s (task %s, cpu %d, holding %s)", o.Msg, o.Task, o.CPU, o.Held)
}

// Oops stops the machine with a BUG.
func (t *Task) Oops(format string, args ...any) {
	t.C.Trace.Inc(trace.EmuOopses)
	panic(&Oops{Msg: fmt.Sprintf(format, args...), Task: t.Name, CPU: t.C.ID, Held: t.heldNames()})
}

// Warn records an assertion that does not stop the machine.
func (t *Task) Warn(format string, args ...any) {
	m := t.M
	m.resultLock.Lock()
	if len(m.bugs) < 1000 {
		m.bugs = append(m.bugs, Bug{t.Name, fmt.Sprintf(format, args...)})
	}
	n := len(m.bugs)
	m.resultLock.Unlock()
	t.C.Trace.Event(trace.EvOops, t.C.Now(), uint64(n), 0, 0)
}

// OopsText is what an event of kind trace.EvOops tells, in one line: assertion n, from 1, or with
// n 0 the one that stopped the machine. Empty if there is none.
func (m *Machine) OopsText(n uint64) string {
	m.resultLock.Lock()
	defer m.resultLock.Unlock() // no points inside: cannot be cut
	text := ""
	switch {
	case n > 0 && n <= uint64(len(m.bugs)):
		text = m.bugs[n-1].Msg
	case n == 0 && m.result != nil && m.result.Oops != nil:
		text = m.result.Oops.Msg
	case n == 0 && m.result != nil:
		text = m.result.Detail
	}
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// Bugs returns the recorded assertions.
func (m *Machine) Bugs() []Bug {
	m.resultLock.Lock()
	b := append([]Bug(nil), m.bugs...)
	m.resultLock.Unlock()
	return b
}

func (t *Task) heldNames() string {
	if t.NumHeld == 0 {
		return "no locks"
	}
	var b strings.Builder
	for i, h := range t.Held[:t.NumHeld] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(h.Name)
		if h.Read {
			b.WriteString(" (read)")
		}
	}
	return b.String()
}

// fail records the outcome, the first one only, and stops the machine.
func (m *Machine) fail(r *Result) {
	m.resultLock.Lock()
	if m.result == nil {
		m.result = r
	}
	m.resultLock.Unlock()
	m.stopRun()
}

// failFrom is fail for a caller on c's coroutine; it does not return.
func (m *Machine) failFrom(c *cpu, r *Result) {
	m.fail(r)
	m.det1.next = -1
	c.cur.yield()
	panic(unwind{})
}

// failPanic turns a panic that reached the bottom of a coroutine into an outcome.
func (m *Machine) failPanic(t *Task, r any, stack []byte) {
	t.C.Trace.Event(trace.EvOops, t.C.Now(), 0, 0, 0)
	if o, ok := r.(*Oops); ok {
		o.Stack = string(stack)
		m.fail(&Result{Reason: Oopsed, Task: t.Name, Oops: o, Detail: o.Error() + "\n" + o.Stack})
		return
	}
	if n, ok := r.(x86.Nonsense); ok {
		o := &Oops{Msg: n.Error(), Task: t.Name, CPU: t.C.ID, Held: t.heldNames(), Stack: string(stack)}
		m.fail(&Result{Reason: Oopsed, Task: t.Name, Oops: o, Detail: o.Error() + "\n" + o.Stack})
		return
	}
	m.fail(&Result{Reason: Panicked, Task: t.Name, Detail: fmt.Sprintf("panic in task %s: %v\n%s", t.Name, r, stack)})
}

// Stop ends a running machine from outside; Run returns with Reason Stopped.
func (m *Machine) Stop(why string) { m.fail(&Result{Reason: Stopped, Detail: why}) }

// describeTasks lists the tasks that are left, for deadlock reports: what each waits for,
// who holds that, and what could still have moved it. Kernel threads are listed if
// they hold something or are in the middle of something.
func (m *Machine) describeTasks(b *strings.Builder) {
	ids := make([]int, 0, len(m.tasks))
	for id, t := range m.tasks {
		if !t.daemon || t.NumHeld > 0 || t.State() == TaskRunning || t.waitObj.Class() == x86.ClassLock || t.waitObj.Class() == x86.ClassPage {
			ids = append(ids, id)
		}
	}
	sort.Ints(ids)
	for _, id := range ids {
		t := m.tasks[id]
		fmt.Fprintf(b, "  task %d %s: state %s, %s, holds %s\n", t.ID, t.Name, t.State(), m.waitText(t), t.heldNames())
	}
	for _, c := range m.cpus {
		if c.waiting && c.cur != c.idle {
			fmt.Fprintf(b, "  cpu %d runs %s, which spins on %s, holds %s\n",
				c.ID, c.cur.Name, m.ObjName(c.waitObj), c.cur.heldNames())
		}
		if n, p := c.rq.n.Load(), c.Pending(); n > 0 || p != 0 {
			fmt.Fprintf(b, "  cpu %d has %d tasks in its queue and pending interrupts %#x\n", c.ID, n, p)
		}
	}
	if n := m.PendingEvents(); n > 0 {
		fmt.Fprintf(b, "  %d device events and timers are outstanding\n", n)
	}
	m.rcu.lock.Lock()
	for _, cb := range m.rcu.waiting {
		fmt.Fprintf(b, "  a grace period waits for the cpus of mask %#x\n", cb.need)
	}
	m.rcu.lock.Unlock()
}

// waitText says what a task waits for, and who has it if it is a lock that tasks hold.
func (m *Machine) waitText(t *Task) string {
	if t.State() == TaskRunning {
		return fmt.Sprintf("runs or is in the queue of cpu %d", t.cpuID.Load())
	}
	text := "waits for " + m.ObjName(t.waitObj)
	var holders []int
	for id, o := range m.tasks {
		for _, h := range o.Held[:o.NumHeld] {
			if o != t && h.Obj == t.waitObj {
				holders = append(holders, id)
				break
			}
		}
	}
	sort.Ints(holders)
	for i, id := range holders {
		if i == 0 {
			text += ", which is held by"
		} else {
			text += " and"
		}
		text += fmt.Sprintf(" task %d", id)
	}
	return text
}

func (m *Machine) livelockReport() string {
	var b strings.Builder
	if m.det {
		fmt.Fprintf(&b, "no end after %d points, %d ns\n", m.det1.steps, m.Now())
	} else {
		fmt.Fprintf(&b, "no system call came to an end in %d ns of virtual time, and somebody ran\n", m.opts.LivelockNS)
	}
	m.tasksLock.Lock()
	m.describeTasks(&b)
	m.tasksLock.Unlock()
	return b.String()
}

// RegisterNamer tells reports and diagrams how to name the objects of a class.
func (m *Machine) RegisterNamer(c x86.Class, fn func(id uint64) string) { m.namers[c] = fn }

// ObjName names an object for people.
func (m *Machine) ObjName(o x86.ObjID) string {
	if o == 0 {
		return "nothing"
	}
	if fn := m.namers[o.Class()]; fn != nil {
		if s := fn(o.ID()); s != "" {
			return s
		}
	}
	switch o.Class() {
	case x86.ClassCPU:
		return fmt.Sprintf("cpu %d", o.ID())
	case x86.ClassPTE:
		mm, level, va := x86.SplitPTEObj(o)
		return fmt.Sprintf("pte%d of mm %d at %#x", level, mm, va)
	case x86.ClassFrame:
		return fmt.Sprintf("frame %d sector %d", o.ID()>>3, o.ID()&7)
	case x86.ClassPage:
		return fmt.Sprintf("page %d %s", o.ID()>>3, [...]string{"_count", "_mapcount", "flags", "fields", "policy", "", "", ""}[o.ID()&7])
	case x86.ClassTask:
		return fmt.Sprintf("task %d", o.ID())
	case x86.ClassTimer:
		return fmt.Sprintf("timer of task %d", o.ID())
	case x86.ClassLock:
		return fmt.Sprintf("lock %d", o.ID())
	case x86.ClassWait:
		return fmt.Sprintf("wait queue %d", o.ID())
	case x86.ClassDev:
		return fmt.Sprintf("request %d", o.ID())
	case x86.ClassInject:
		return "memory"
	case x86.ClassBuffer:
		return fmt.Sprintf("store buffer %d", o.ID()&0xff)
	}
	return fmt.Sprintf("word %d", o.ID())
}

// DefaultWatchdog is how long a machine may make no step before the watchdog says
// which task blocks in Go. Host time, generous: a loaded host must not trip it.
const DefaultWatchdog = 20 * time.Second

// NoWatchdog runs a deterministic machine on the goroutine that calls Run, unwatched: a
// search over schedules saves a goroutine and a timer for each. A task that blocks in Go
// then blocks Run.
const NoWatchdog = -1

// Run executes the machine until it is quiet or something ends it. It may be
// called again after Quiet, with new tasks started in between.
func (m *Machine) Run() *Result {
	m.resultLock.Lock()
	if r := m.result; r != nil {
		m.resultLock.Unlock()
		return r
	}
	m.resultLock.Unlock()
	m.stop.Store(false)
	m.det1.choice.Run++
	if m.det && m.opts.Watchdog == NoWatchdog {
		m.runDet()
	} else {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if m.det {
				m.runDet()
			} else {
				m.runParallel()
			}
		}()
		m.wait(done)
	}
	if m.foot != nil && !m.det1.stalled {
		m.foot.Over = true
	}
	if m.opts.TSO && !m.det1.stalled {
		m.drainAll()
	}
	m.resultLock.Lock()
	r := m.result
	m.resultLock.Unlock()
	if r != nil && r.Detail == "" && (r.Reason == Livelock || r.Reason == Deadlock) && !m.det1.stalled {
		detail := ""
		if r.Reason == Deadlock {
			detail = m.deadlock()
		} else {
			detail = m.livelockReport()
		}
		m.resultLock.Lock()
		r.Detail = detail
		m.resultLock.Unlock()
	}
	if r == nil {
		r = &Result{Reason: Quiet}
		if m.live.Load() > 0 {
			r.Reason, r.Detail = Deadlock, m.deadlock()
		}
	}
	if m.det && r.Reason == Stuck {
		r.Steps = m.det1.beat.Load() // the loop may still be there
		return r
	}
	r.Steps, r.NS, r.Clocked = m.det1.steps, m.Now(), m.det1.clocked
	return r
}

// wait waits for the loops to return, and watches that they make steps.
func (m *Machine) wait(done chan struct{}) {
	limit := m.opts.Watchdog
	tick := time.NewTimer(limit / watchdogLooks)
	defer tick.Stop()
	var still stillness
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if still.look(m.stepsSeen(), m.achieved()) {
			m.det1.stalled = true
			m.fail(&Result{Reason: Stuck, Detail: fmt.Sprintf(
				"no step for %v: a task blocks in Go (channel, mutex, time.Sleep) instead of in the emulated kernel, or loops for ever and passes no schedule point\n%s",
				limit, m.runningTasks())})
			return
		}
		tick.Reset(limit / watchdogLooks)
	}
}

// watchdogLooks is how often the watchdog looks at a machine before it takes it for stuck.
// A host that runs nothing of this process for a while, be it for minutes, hides
// one look from it and no more: the timer is set again only after that.
const watchdogLooks = 8

// stillness is what the watchdog remembers from look to look.
type stillness struct {
	steps, progress uint64
	looks           int // in a row that have found nothing changed
}

// look notes what a look finds and reports whether it is one too many without a change.
func (s *stillness) look(steps, progress uint64) bool {
	if steps != s.steps || progress != s.progress {
		*s = stillness{steps: steps, progress: progress}
		return false
	}
	s.looks++
	return s.looks == watchdogLooks
}

// stepsSeen sums what the CPUs have done: it changes while anything happens. That a CPU waits
// busily is nothing, or one that spins on what a task will never release would hide that this
// task loops or blocks in Go; but while an event is pending that time passes is something.
// Read without synchronisation on purpose, through counters that are only compared.
func (m *Machine) stepsSeen() uint64 {
	if m.det {
		return m.det1.beat.Load()
	}
	var s uint64
	for _, c := range m.cpus {
		s += c.beat.Load() + c.spin.episode.Load()
	}
	if m.events.nextAt() != never {
		s += m.par.clock.Load()
	}
	return s
}

// Shutdown unwinds everything that is left and gives coroutines back to the
// host. The machine cannot run afterwards. It is safe to call more than once.
func (m *Machine) Shutdown() {
	if m.dying.Swap(true) {
		return
	}
	if m.det1.stalled {
		return // a coroutine is blocked in Go: it cannot be unwound
	}
	m.tasksLock.Lock()
	tasks := make([]*Task, 0, len(m.tasks)+len(m.cpus))
	for _, t := range m.tasks {
		tasks = append(tasks, t)
	}
	m.tasksLock.Unlock()
	for _, c := range m.cpus {
		tasks = append(tasks, c.idle)
	}
	for _, t := range tasks {
		t.discard()
	}
	if m.opts.Regime == Free && (m.result == nil || m.result.Reason != Exited) {
		m.host.putCPUs(m.cpus) // a search makes a machine for each schedule
	}
}

// discard unwinds a suspended task and disposes of its coroutine.
func (t *Task) discard() {
	co := t.co
	if co == nil {
		return
	}
	t.co = nil
	switch {
	case co.goexited:
		go co.stop() // its end is a Goexit, which must not be ours
		return
	case co.fn != nil:
		co.fn = nil // never started
	case !t.ended:
		if t.C == nil {
			t.C = &t.M.cpus[0].CPU
		}
		t.co = co
		co.resume()
		t.co = nil
		if co.goexited {
			go co.stop()
			return
		}
	}
	t.M.host.putCoro(co)
}
