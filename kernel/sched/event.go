package sched

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Event is something a device or a timer does at a moment of its own choosing.
// Fire runs on the device's side: it may move data by DMA, raise interrupt
// vectors and add further events. It must not take kernel locks, wake tasks or
// pass schedule points; that is what the interrupt handler is for.
type Event interface {
	Fire(m *Machine, tr *trace.CPU)
	// Op and Obj say what the step touches, for dependency and diagrams.
	Op() x86.Op
	Obj() x86.ObjID
	// Name is what diagrams call the device and the step.
	Name() string
}

// pendingEvent is an event and when it is due.
type pendingEvent struct {
	at  uint64 // cycles
	seq uint64
	ev  Event
	// chain is Actor.Chain
	chain uint64
}

// eventQueue is a heap of events ordered by due time, then by insertion.
type eventQueue struct {
	lock x86.RawSpin
	heap []pendingEvent // protected by lock
	seq  uint64         // protected by lock
	next atomic.Uint64  // due time of the first event, ^0 when there is none
}

const never = ^uint64(0)

func (p *pendingEvent) before(q *pendingEvent) bool {
	return p.at < q.at || p.at == q.at && p.seq < q.seq
}

func (q *eventQueue) add(at uint64, ev Event, chain uint64) {
	q.lock.Lock()
	q.seq++
	q.heap = append(q.heap, pendingEvent{at, q.seq, ev, chain})
	i := len(q.heap) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !q.heap[i].before(&q.heap[p]) {
			break
		}
		q.heap[i], q.heap[p] = q.heap[p], q.heap[i]
		i = p
	}
	q.next.Store(q.heap[0].at)
	q.lock.Unlock()
}

// removeAt takes out element i. Called with the lock held.
func (q *eventQueue) removeAt(i int) pendingEvent {
	e := q.heap[i]
	n := len(q.heap) - 1
	q.heap[i] = q.heap[n]
	q.heap[n] = pendingEvent{}
	q.heap = q.heap[:n]
	for i < n {
		l, least := 2*i+1, i
		if l < n && q.heap[l].before(&q.heap[least]) {
			least = l
		}
		if l+1 < n && q.heap[l+1].before(&q.heap[least]) {
			least = l + 1
		}
		if least == i {
			break
		}
		q.heap[i], q.heap[least] = q.heap[least], q.heap[i]
		i = least
	}
	for i > 0 && i < n {
		p := (i - 1) / 2
		if !q.heap[i].before(&q.heap[p]) {
			break
		}
		q.heap[i], q.heap[p] = q.heap[p], q.heap[i]
		i = p
	}
	if n == 0 {
		q.next.Store(never)
	} else {
		q.next.Store(q.heap[0].at)
	}
	return e
}

// popDue takes the first event if it is due at time now.
func (q *eventQueue) popDue(now uint64) (pendingEvent, bool) {
	q.lock.Lock()
	if len(q.heap) == 0 || q.heap[0].at > now {
		q.lock.Unlock()
		return pendingEvent{}, false
	}
	e := q.removeAt(0)
	q.lock.Unlock()
	return e, true
}

// nextAt returns the due time of the first event, or never.
func (q *eventQueue) nextAt() uint64 {
	if n := q.next.Load(); n != 0 {
		return n
	}
	q.lock.Lock()
	defer q.lock.Unlock() // no points inside: cannot be cut
	if len(q.heap) == 0 {
		return never
	}
	return q.heap[0].at
}

// AddEvent schedules ev to happen ns virtual nanoseconds from now (in the Free
// regime: at any later step).
func (m *Machine) AddEvent(ns uint64, ev Event) { m.addEvent(m.nowCycles()+m.cost.NSToCycles(ns), ev) }

// addEvent schedules ev for a time in cycles.
func (m *Machine) addEvent(at uint64, ev Event) {
	var chain uint64
	if m.det {
		chain = m.det1.newChain()
	}
	m.events.add(at, ev, chain)
	if m.det {
		m.det1.horizon = 0
		return
	}
	m.attendEvent(at)
}

// newChain names a new event: see Actor.Chain.
func (d *detState) newChain() uint64 {
	if d.firing {
		d.added++
		return d.chain | (d.added-1)<<48 // the first takes its place
	}
	d.adds[d.last+1]++
	return uint64(d.last+2)<<32 | d.adds[d.last+1]
}

// PendingEvents returns how many device events and timers are outstanding.
func (m *Machine) PendingEvents() int {
	m.events.lock.Lock()
	n := len(m.events.heap)
	m.events.lock.Unlock()
	return n
}

// EachEvent calls fn for the outstanding device events and timers in the order in which
// they were added, which is that of seq: for snapshots of a machine that stands still.
func (m *Machine) EachEvent(fn func(seq uint64, ev Event)) {
	m.events.lock.Lock()
	pending := slices.Clone(m.events.heap)
	m.events.lock.Unlock()
	slices.SortFunc(pending, func(a, b pendingEvent) int { return cmp.Compare(a.seq, b.seq) })
	for _, p := range pending {
		fn(p.seq, p.ev)
	}
}

// Timer wakes a task at a virtual time.
type Timer struct {
	m    *Machine
	c    *cpu
	t    *Task
	obj  x86.ObjID
	done atomic.Bool
}

// StartTimer arms a timer that wakes t, on the CPU it runs on, after ns.
func (t *Task) StartTimer(ns uint64) *Timer {
	tm := &Timer{m: t.M, c: t.M.cpus[t.C.ID], t: t, obj: x86.Obj(x86.ClassTimer, uint64(t.ID))}
	t.C.Point(x86.OpEvent, tm.obj)
	now := t.M.nowCycles()
	if !t.M.det {
		now = max(now, t.C.Now()) // machine time may be behind the task's own clock
	}
	t.M.addEvent(now+t.M.cost.NSToCycles(ns), tm)
	return tm
}

// Cancel makes the timer do nothing when it expires.
func (tm *Timer) Cancel() {
	tm.m.Touch(tm.obj, x86.AccWrite)
	tm.done.Store(true)
}

// Expired reports whether the timer has gone off.
func (tm *Timer) Expired() bool {
	tm.m.Touch(tm.obj, x86.AccRead)
	return tm.done.Load()
}

// Fire raises the timer interrupt.
func (tm *Timer) Fire(*Machine, *trace.CPU) {
	if tm.done.Load() {
		return
	}
	tm.m.Touch(x86.CPUPartObj(tm.c.ID, x86.CPUTimers), x86.AccWrite)
	tm.c.expiredLock.Lock()
	tm.c.expired = append(tm.c.expired, tm)
	tm.c.expiredLock.Unlock()
	tm.c.Raise(x86.VecTimer)
}

// Op implements Event.
func (tm *Timer) Op() x86.Op { return x86.OpEvent }

// Obj implements Event.
func (tm *Timer) Obj() x86.ObjID { return tm.obj }

// Name implements Event.
func (tm *Timer) Name() string { return "timer of " + tm.t.Name }

// runExpiredTimers is the timer interrupt: it wakes the sleepers.
func runExpiredTimers(t *Task) {
	c := t.M.cpus[t.C.ID]
	c.Touch(x86.CPUPartObj(c.ID, x86.CPUTimers), x86.AccWrite)
	for {
		c.expiredLock.Lock()
		if len(c.expired) == 0 {
			c.expiredLock.Unlock()
			return
		}
		tm := c.expired[0]
		c.expired = append(c.expired[:0], c.expired[1:]...)
		c.expiredLock.Unlock()
		t.C.Touch(tm.obj, x86.AccWrite)
		if tm.done.CompareAndSwap(false, true) {
			t.C.Trace.Inc(trace.EmuTimers)
			t.M.Wake(t, tm.t)
		}
	}
}

// SleepFor sleeps for ns of virtual time, or until a signal. It reports whether
// the time passed in full.
func (t *Task) SleepFor(ns uint64) bool {
	tm := t.StartTimer(ns)
	for {
		t.SetState(TaskInterruptible)
		if tm.Expired() {
			t.SetState(TaskRunning)
			return true
		}
		if t.SignalPending() {
			t.SetState(TaskRunning)
			tm.Cancel()
			return false
		}
		t.waitObj = tm.obj
		t.Schedule()
	}
}
