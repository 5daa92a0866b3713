package sched

import (
	"sync/atomic"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// detState is what the deterministic regimes need beside the CPUs.
type detState struct {
	steps   uint64              // points passed
	since   uint64              // step from which StepLimit counts
	next    int                 // CPU whose coroutine the driver resumes; -1: choose
	last    int                 // CPU that made the last step
	time    uint64              // clock of whoever acts
	horizon uint64              // timed: the running CPU may go on until its clock reaches this
	choice  Choice              // scratch for the strategy
	stalled bool                // somebody blocked in Go
	clocked bool                // Result.Clocked
	firing  bool                // an event happens
	chain   uint64              // its chain
	added   uint64              // events that it has added
	adds    [MaxCPUs + 1]uint64 // events added by each CPU, and at boot; their numbers within chains
	live    livelock            // of points without progress
	beat    atomic.Uint64       // changes while steps are made, for the watchdog
}

// Actor is somebody who can take the next step: a CPU or a pending event.
type Actor struct {
	// CPU is the processor's number, or -1 for an event.
	CPU int
	// Seq identifies an event: events are numbered in the order they were added.
	Seq uint64
	// Chain names an event, and those that it adds in turn, by who added the first and
	// how many he had added before: unlike Seq, the same in schedules that differ only
	// in the order of steps that have nothing to do with each other.
	Chain uint64
	// Held is set when the operation is to take a spinlock that somebody holds: the step
	// would find that, and wait. A search that knows what a wait is may leave it out. So it is
	// before an operation that waits until the store buffer is empty: the step would empty
	// it, as the buffer does in steps of its own.
	Held bool
	// Wants is set when the operation is to take a spinlock, held or not.
	Wants bool
	// Op and Obj say what the step will do.
	Op  x86.Op
	Obj x86.ObjID
	// Rare is how much rarer than other steps random strategies let this one happen; zero
	// means no rarer.
	Rare int
}

// Choice is what a Strategy decides: which of the enabled actors steps next.
type Choice struct {
	// Step counts points from the start.
	Step uint64
	// Last is the CPU that made the previous step, or -1.
	Last int
	// Run counts the calls of Machine.Run. Between two decisions of different runs the machine
	// was at rest: what was done before that came before everything that is done after it.
	Run uint64
	// Enabled lists the actors, CPUs first, in a fixed order. Never empty.
	Enabled []Actor
	// Foot is what the previous step touched beside its operation. It must not be kept.
	Foot *x86.Footprint
}

// Strategy chooses schedules in the Free regime.
type Strategy interface {
	// Begin is called once for each machine.
	Begin(cpus int)
	// Pick returns an index into ch.Enabled; Cut ends the run.
	Pick(ch *Choice) int
}

// Cut is what a Strategy returns for a schedule that need not be run to its end. The
// machine's Result has Reason Stopped.
const Cut = -1

// Observer is told of every step of a deterministic run just before it happens,
// on the stack of the task that performs it (or, for an event, of any).
type Observer interface {
	Step(step uint64, t *Task, op x86.Op, obj x86.ObjID)
	Device(step uint64, ev Event)
}

// SetObserver installs the observer of a deterministic machine. Not while it runs.
func (m *Machine) SetObserver(o Observer) { m.observer = o }

// Point is the slow path of x86.CPU.Point; see x86.Hook.
func (m *Machine) Point(xc *x86.CPU, op x86.Op, obj x86.ObjID) {
	if !m.det {
		m.pointParallel(xc)
		return
	}
	if m.dying.Load() {
		return
	}
	c := m.cpus[xc.ID]
	d := &m.det1
	want := xc.Want
	d.steps++
	if d.steps&1023 == 0 {
		d.beat.Store(d.steps)
		if m.stop.Load() { // from outside: nobody is chosen any more
			d.next = -1
			c.cur.yield()
		}
		m.checkLivelock(c)
	}
	if d.steps-d.since > m.opts.StepLimit {
		m.failFrom(c, &Result{Reason: Livelock, Detail: m.livelockReport()})
	}
	c.op, c.obj, c.drains = op, obj, op.Drains()
	xc.Trace.Inc(trace.EmuSchedPoints)
	if m.acct != nil {
		m.account(c, op, obj)
	}
	m.dispatch(c)
	for m.irqDue(xc) && !m.dying.Load() {
		if m.foot != nil {
			m.foot.Interrupted = true
		}
		m.Interrupts(xc)
		// The interrupted operation is a step of its own: what the handler did, an
		// acknowledgement say, may let others act before it.
		c.op, c.obj, c.drains = op, obj, op.Drains()
		xc.Want = want
		m.dispatch(c)
	}
	if m.opts.TSO && op.Drains() {
		xc.Drain()
	}
	if xc.Now() >= c.sliceEnd && c.cur != c.idle && c.queued() {
		c.needResched.Store(true)
		c.cur.preemptCheck()
	}
	m.rcuUser(c)
	if m.happens != nil {
		m.happens.step(c.cur, op, obj)
	}
	if m.observer != nil {
		if m.foot != nil {
			m.foot.Void = true
		}
		m.observer.Step(d.steps, c.cur, op, obj)
		if m.foot != nil {
			m.foot.Void, m.foot.Watched = false, true
		}
	}
}

// held reports whether the CPU wants a lock that is taken, and has nothing else to do; or is
// at a barrier with stores in its buffer.
func (c *cpu) held() bool {
	wait := c.drains && c.Buffered() > 0 || c.Want != nil && c.Want.Locked()
	return wait && (c.Pending() == 0 || c.IRQsDisabled())
}

// irqDue reports whether an interrupt is to be taken before anything else.
func (m *Machine) irqDue(xc *x86.CPU) bool {
	if xc.IRQsDisabled() {
		return false
	}
	xc.Touch(x86.CPUObj(xc.ID), x86.AccRead)
	return xc.Pending() != 0
}

// Touch is x86.CPU.Touch for what is not a CPU: devices.
func (m *Machine) Touch(obj x86.ObjID, how x86.Access) { m.cpus[0].Touch(obj, how) }

// Wrote enables the CPUs that wait for obj.
func (m *Machine) Wrote(xc *x86.CPU, obj x86.ObjID) {
	xc.Touch(obj, x86.AccAdd) // waking twice is waking once
	for _, c := range m.cpus {
		if c.waiting && c.waitObj == obj {
			c.SetNow(xc.Now() + m.cost.LineTransfer)
			m.unwait(c)
		}
	}
}

func (m *Machine) unwait(c *cpu) {
	c.waiting = false
	c.SetNow(m.det1.time)
	m.det1.horizon = 0
}

// SpinWait disables the CPU until obj is written or it has an interrupt to take.
func (m *Machine) SpinWait(xc *x86.CPU, obj x86.ObjID, spins int) {
	if !m.det {
		m.spinParallel(xc, obj, spins)
		return
	}
	c := m.cpus[xc.ID]
	if m.dying.Load() {
		c.cur.unwinding = true
		panic(unwind{})
	}
	xc.Touch(obj, x86.AccRead)
	if !m.irqDue(xc) {
		c.waiting, c.waitObj = true, obj
		c.op, c.obj, c.drains = x86.OpWait, obj, false
		m.det1.horizon = 0
		if c.cur != c.idle {
			xc.Trace.Inc(trace.EmuSpinWaits)
		}
		m.dispatch(c)
	}
	if m.irqDue(xc) {
		m.Interrupts(xc)
		xc.Touch(obj, x86.AccRead) // the handler's last step goes on with a look at what is waited for
	}
	c.cur.Acquired(obj)
}

// dispatch lets others act until c is chosen. It runs on c's current coroutine.
func (m *Machine) dispatch(c *cpu) {
	d := &m.det1
	if !c.waiting && c.Now() < d.horizon {
		d.time = c.Now() // timed: nobody else is due before c
		return
	}
	switch n := m.choose(); {
	case n == c.ID:
		d.last = n
		return
	default:
		d.next = n // -1 when nobody can act: the driver looks why
		c.cur.yield()
	}
}

// choose lets pending events happen until a CPU's turn comes, and returns the
// CPU, or -1 if nobody is enabled.
func (m *Machine) choose() int {
	if m.opts.Regime == Timed {
		return m.chooseTimed()
	}
	d := &m.det1
	for {
		if m.opts.TSO {
			m.show(-1) // whether a lock is held is what everybody sees
		}
		en := d.choice.Enabled[:0]
		for i, c := range m.cpus {
			if !c.waiting {
				en = append(en, Actor{CPU: i, Op: c.op, Obj: c.obj, Held: c.held(), Wants: c.Want != nil})
			}
		}
		q := &m.events
		for i := range q.heap {
			e := &q.heap[i]
			en = append(en, Actor{CPU: -1, Seq: e.seq, Chain: e.chain, Op: e.ev.Op(), Obj: e.ev.Obj()})
		}
		if m.opts.TSO {
			en = m.drains(en)
		}
		en = m.offered(en)
		d.choice.Enabled = en
		if len(en) == 0 {
			return -1
		}
		d.choice.Step, d.choice.Last = d.steps, d.last
		i := 0
		if !m.probing {
			i = m.opts.Strategy.Pick(&d.choice)
		}
		m.foot.Reset()
		if i == Cut {
			m.fail(&Result{Reason: Stopped, Detail: "cut by the strategy"})
			return -1
		}
		a := en[i]
		if m.opts.TSO {
			m.show(a.CPU)
		}
		switch {
		case a.CPU >= 0:
			d.time = m.cpus[a.CPU].Now()
			return a.CPU
		case a.Seq >= offerSeq:
			m.accept(&a)
		case a.Seq >= drainSeq:
			m.drainOne(int(a.Seq - drainSeq))
		default:
			d.chain, d.added, d.firing = a.Chain, 0, true
			m.fireSeq(a.Seq)
			d.firing = false
		}
	}
}

// chooseTimed picks the CPU with the least clock, after all events due before it.
func (m *Machine) chooseTimed() int {
	d := &m.det1
	for {
		best, second := -1, never
		var least uint64
		for i, c := range m.cpus {
			if c.waiting {
				continue
			}
			switch now := c.Now(); {
			case best < 0:
				best, least = i, now
			case now < least:
				best, least, second = i, now, least
			case now < second:
				second = now
			}
		}
		at := m.events.nextAt()
		if best < 0 && at == never {
			return -1
		}
		if best < 0 || at <= least {
			if e, ok := m.events.popDue(at); ok {
				d.time = max(d.time, e.at)
				m.fire(e)
			}
			continue
		}
		d.time = least
		d.horizon = min(second, at)
		return best
	}
}

func (m *Machine) fireSeq(seq uint64) {
	for i := range m.events.heap {
		if m.events.heap[i].seq == seq {
			m.fire(m.events.removeAt(i))
			return
		}
	}
}

func (m *Machine) fire(e pendingEvent) {
	m.det1.steps++
	if m.observer != nil {
		m.observer.Device(m.det1.steps, e.ev)
	}
	e.ev.Fire(m, m.trace.Device())
}

// runDet is the driver of the deterministic regimes.
func (m *Machine) runDet() {
	d := &m.det1
	d.next = -1
	for !m.stop.Load() {
		if d.next < 0 {
			if d.next = m.choose(); d.next < 0 {
				return
			}
		}
		c := m.cpus[d.next]
		d.last, d.next = d.next, -1
		t := c.cur
		t.co.resume()
		c.release()
		if t.co != nil && t.co.goexited {
			return
		}
	}
}
