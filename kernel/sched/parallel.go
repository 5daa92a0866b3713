package sched

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// parState is what the parallel regime needs beside the CPUs.
type parState struct {
	clock        atomic.Uint64 // machine time in cycles, never decreasing
	lastProgress atomic.Uint64 // value of achieved when progressAt was set
	progressAt   atomic.Uint64 // machine time of the last progress seen
	firing       atomic.Int32  // CPUs in the middle of firing an event
	// moves counts what may end a CPU's idleness; see advance.
	moves atomic.Uint64
	// seenIdle is called when a look for quiet has seen CPU number cpu idle: tests let
	// other CPUs move between two looks. Nil but in tests; immutable while running.
	seenIdle func(cpu int)

	spins      int    // rounds of a busy wait before it yields; immutable
	quantum    uint64 // cycles between two slow points; immutable
	yieldEvery uint64 // slow points between two yields; immutable
}

const (
	// quantum is how many cycles may pass between two slow points of a busy CPU,
	// crowdedQuantum where there are more CPUs than host cores.
	quantum, crowdedQuantum = 20_000, 8_000
	// yieldEvery is how many slow points a CPU passes before it lets other
	// goroutines run. Where CPUs outnumber the host's cores, a CPU that never
	// yields holds up everybody who waits for a CPU that is not running, so each
	// slow point yields (crowdedYieldEvery). Where they do not, a yield is rarely of
	// use to anybody, and with a core idle it wakes that core, which takes the CPU
	// over with cold caches.
	yieldEvery, crowdedYieldEvery = 256, 1
	// lag is how far machine time, by which devices work, may stay behind the fastest CPU, in
	// cycles; that CPU yields first. The slowest one may be one that the host does not run: a
	// disk that waited for it would finish nothing, while the fastest sends it all of memory.
	lag = 300_000
	// spinsIdle and spinsCrowded are how many rounds a busy wait makes before it
	// lets other goroutines run: where every CPU has a host core, the one waited
	// for is most likely running, and a flush takes some hundred nanoseconds; where
	// they have not, it may well need this core.
	spinsIdle, spinsCrowded = 64, 16
	// parkAfter is how many fruitless rounds an idle CPU makes before it parks.
	parkAfter = 64
)

// parTime computes machine time: the least clock of the CPUs that are busy, but see lag.
func (m *Machine) parTime() uint64 {
	least := never
	for _, c := range m.cpus {
		if c.isIdle.Load() {
			continue
		}
		if p := c.pub.Load(); p < least {
			least = p
		}
	}
	if least == never {
		return m.par.clock.Load()
	}
	return m.passTime(least)
}

// passTime has machine time reach at least to, and returns it.
func (m *Machine) passTime(to uint64) uint64 {
	old := m.par.clock.Load()
	for to > old && !m.par.clock.CompareAndSwap(old, to) {
		old = m.par.clock.Load()
	}
	return max(old, to)
}

// pointParallel is the slow path of a schedule point.
func (m *Machine) pointParallel(xc *x86.CPU) {
	c := m.cpus[xc.ID]
	t := c.cur
	if t.unwinding {
		return
	}
	if m.dying.Load() {
		t.unwinding = true
		panic(unwind{})
	}
	if m.stop.Load() {
		t.yield()
		c = m.cpus[t.C.ID]
		xc = &c.CPU
	}
	now := xc.Now()
	if now < c.due {
		// Only attention was asked for.
		xc.SetLimit(c.due)
		m.attend(c, t)
		return
	}
	if time := m.par.clock.Load(); now < time {
		now = time // the host ran others: the time has been stolen from this CPU
		xc.SetNow(now)
	}
	c.pub.Store(now)
	time := m.parTime()
	if now > time+lag {
		for i := 0; i < 8 && xc.Pending() == 0 && now > m.parTime()+lag; i++ {
			runtime.Gosched()
		}
		time = m.passTime(now - lag)
	}
	if m.events.nextAt() <= time {
		m.fireDue(c, time)
	}
	c.points++
	c.beat.Store(c.points)
	if c.points%m.par.yieldEvery == 0 {
		runtime.Gosched()
	}
	if c.points%1024 == 0 {
		m.checkProgress(c, time)
	}
	if now >= c.sliceEnd && t != c.idle && c.rq.n.Load() > 0 {
		c.needResched.Store(true)
	}
	limit := now + m.par.quantum
	if t != c.idle && c.sliceEnd > now && c.sliceEnd < limit {
		limit = c.sliceEnd
	}
	c.due = limit
	xc.SetLimit(limit)
	m.attend(c, t)
}

// attend takes c's interrupts and reschedules if that is due. The limit has been set
// before, so that attention raised meanwhile is not lost.
func (m *Machine) attend(c *cpu, t *Task) {
	if c.Pending() != 0 && !c.IRQsDisabled() {
		m.Interrupts(&c.CPU)
	} else if c.needResched.Load() {
		t.preemptCheck()
	}
	if m.rcu.n.Load() != 0 {
		m.rcuUser(m.cpus[t.C.ID])
	}
	if m.stop.Load() {
		t.C.Attention()
	}
}

// achieved sums what the CPUs have achieved.
func (m *Machine) achieved() (n uint64) {
	for _, c := range m.cpus {
		n += c.achieved.Peek()
	}
	return n
}

// fireDue lets the events happen that are due at machine time.
func (m *Machine) fireDue(c *cpu, time uint64) bool {
	fired := false
	m.par.firing.Add(1)
	m.par.moves.Add(1)
	for {
		e, ok := m.events.popDue(time)
		if !ok {
			break
		}
		e.ev.Fire(m, c.Trace)
		fired = true
	}
	m.par.firing.Add(-1)
	return fired
}

// attendEvent makes CPUs notice an event added at time at: parked ones must
// look again, because they may be the ones to fire it.
func (m *Machine) attendEvent(uint64) {
	for _, c := range m.cpus {
		if c.parked.Load() {
			select {
			case c.park <- struct{}{}:
			default:
			}
			return
		}
	}
}

// spinParallel is one round of a busy wait.
func (m *Machine) spinParallel(xc *x86.CPU, obj x86.ObjID, spins int) {
	c := m.cpus[xc.ID]
	t := c.cur
	if m.dying.Load() {
		if t.unwinding {
			// A deferred function of a task that is being cut waits for something:
			// it will never come.
			panic(unwind{})
		}
		t.unwinding = true
		panic(unwind{})
	}
	if m.stop.Load() {
		c.waiting, c.waitObj = true, obj // for the report
		t.yield()
		c = m.cpus[t.C.ID]
		c.waiting = false
		return
	}
	xc.Charge(m.cost.Pause)
	c.pub.Store(xc.Now())
	if spins == 1 {
		xc.Trace.Inc(trace.EmuSpinWaits)
	}
	if xc.Pending() != 0 && !xc.IRQsDisabled() {
		m.Interrupts(xc)
		return
	}
	if spins > m.par.spins {
		m.spinAgain(c, t, spins-m.par.spins)
	}
}

// idleWait is one round of an idle CPU: it fires due events, lets time jump when
// everybody is idle, and parks after a while.
func (m *Machine) idleWait(c *cpu, t *Task) {
	for i := 0; ; i++ {
		if m.dying.Load() {
			t.unwinding = true
			panic(unwind{})
		}
		if m.stop.Load() {
			t.yield()
			return
		}
		if c.Pending() != 0 || c.rq.n.Load() > 0 {
			c.wakeFromIdle()
			return
		}
		c.isIdle.Store(true)
		if c.Pending() != 0 || c.rq.n.Load() > 0 {
			continue
		}
		if m.rcuAwaits(c) {
			// A grace period that began when this CPU was not idle yet.
			c.leaveIdle()
			m.rcuQuiescent(c)
			continue
		}
		if m.advance(c) {
			continue
		}
		if i < parkAfter {
			runtime.Gosched()
			if m.pull(c) {
				c.wakeFromIdle()
				return
			}
			continue
		}
		c.parked.Store(true)
		if c.Pending() == 0 && c.rq.n.Load() == 0 && !m.stop.Load() && !m.dying.Load() && !m.canAdvance() {
			<-c.park
		}
		c.parked.Store(false)
		i = 0
	}
}

func (c *cpu) wakeFromIdle() {
	c.SetNow(c.m.parTime())
	c.pub.Store(c.Now())
	c.leaveIdle()
}

// leaveIdle says that the CPU is not idle any more, before it does anything that
// others could see. The count comes second: see Machine.advance.
func (c *cpu) leaveIdle() {
	c.isIdle.Store(false)
	c.m.par.moves.Add(1)
}

func (m *Machine) allIdle() bool {
	for _, c := range m.cpus {
		if !c.isIdle.Load() || c.Pending() != 0 || c.rq.n.Load() > 0 {
			return false
		}
		if m.par.seenIdle != nil {
			m.par.seenIdle(c.ID)
		}
	}
	return true
}

// canAdvance reports whether time may pass: an event is due, or all are idle.
func (m *Machine) canAdvance() bool {
	at := m.events.nextAt()
	return at != never && at <= m.parTime() || m.allIdle()
}

// advance lets due events happen. When every CPU is idle it moves time to the
// next event, and when there is none the machine is quiet.
//
// CPUs are looked at one after the other, and while the second is looked at a third may
// give the first one work and go idle itself. So each end of a CPU's idleness is
// counted in par.moves, and the looks are worth something only if that stands still.
// What makes it enough is the order:
//
//   - a CPU that leaves idleness says so, then counts, and only then takes an interrupt
//     or a task off its queue (leaveIdle);
//   - who queues a task for a CPU or raises an interrupt does that first, and then ends
//     the CPU's idleness for it if it is idle (resched, Kick);
//   - events are fired between two changes of par.firing, which is looked at too.
//
// Suppose all are seen idle, and the first has work nevertheless. It came after the look
// at the first, from a CPU that was busy then and was seen idle later. Between, the
// giver ended the first one's idleness or found it ended: both are counted within the
// looks. To count what is going to happen, before it happens, would not do: the count
// may be read, and the first CPU seen idle, between the two.
func (m *Machine) advance(c *cpu) bool {
	at := m.events.nextAt()
	if at <= m.parTime() {
		return m.fireDue(c, m.parTime())
	}
	moves := m.par.moves.Load()
	if m.par.firing.Load() != 0 || !m.allIdle() {
		return false
	}
	at = m.events.nextAt()
	if m.par.firing.Load() != 0 || m.par.moves.Load() != moves {
		return false
	}
	if at == never {
		// Nobody runs, nothing is pending, and nothing will be.
		m.stopRun()
		return true
	}
	old := m.par.clock.Load()
	if at > old {
		m.par.clock.CompareAndSwap(old, at)
	}
	return m.fireDue(c, m.parTime())
}

// checkProgress stops a machine whose time passes without anything getting done.
func (m *Machine) checkProgress(c *cpu, time uint64) {
	p := m.achieved()
	if m.par.lastProgress.Swap(p) != p {
		m.par.progressAt.Store(time)
		return
	}
	// time may be from before another CPU noted progress.
	if at := m.par.progressAt.Load(); time > at && time-at > m.cost.NSToCycles(m.opts.LivelockNS) {
		m.fail(&Result{Reason: Livelock}) // Run describes it, when the other CPUs have stopped
	}
}

// stopRun makes the CPU loops return.
func (m *Machine) stopRun() {
	m.stop.Store(true)
	for _, c := range m.cpus {
		c.Attention()
		if !m.det {
			select {
			case c.park <- struct{}{}:
			default:
			}
		}
	}
}

// runParallel runs every CPU on a goroutine of its own until the machine stops.
func (m *Machine) runParallel() {
	m.par.progressAt.Store(m.par.clock.Load())
	for _, c := range m.cpus {
		for len(c.park) > 0 {
			<-c.park
		}
	}
	var wg sync.WaitGroup
	for _, c := range m.cpus {
		wg.Go(func() {
			for !m.stop.Load() {
				co := c.cur.co
				co.resume()
				exited := co.goexited // not after release: task and coroutine may be another CPU's then
				c.release()
				if exited {
					return
				}
			}
		})
	}
	wg.Wait()
}
