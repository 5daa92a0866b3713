package sched

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// RegisterIRQ sets the handler of a vector. Handlers run on the interrupted
// task's stack with interrupts disabled; they must not sleep. Boot time only.
func (m *Machine) RegisterIRQ(v x86.Vector, fn func(*Task)) { m.handlers[v] = fn }

// Interrupts delivers every pending interrupt of c, then reschedules if that is
// due and allowed. It is called with interrupts enabled.
func (m *Machine) Interrupts(xc *x86.CPU) {
	c := m.cpus[xc.ID]
	t := c.cur
	if t.unwinding || m.dying.Load() {
		return
	}
	for !xc.IRQsDisabled() {
		if !m.det {
			c.spin.interrupted() // before others can see that it is taken
		}
		v, ok := xc.TakePending()
		if !ok {
			break
		}
		xc.SetIRQsDisabled(true)
		t.inIRQ++
		heldAt := t.HeldAtIRQ
		t.HeldAtIRQ = t.NumHeld
		user := t.User
		t.User = false
		xc.Point(x86.OpIRQ, x86.CPUObj(xc.ID))
		xc.Charge(m.cost.IRQ)
		if v == x86.VecTimer || v == x86.VecBlock || v == x86.VecReclaim {
			xc.Trace.Inc(trace.EmuIRQTaken)
		} else {
			xc.Trace.Inc(trace.EmuIPITaken)
		}
		xc.Trace.Event(trace.EvIRQEnter, xc.Now(), uint64(v), 0, 0)
		if h := m.handlers[v]; h != nil {
			h(t)
		}
		xc.Trace.Event(trace.EvIRQExit, xc.Now(), uint64(v), 0, 0)
		t.User = user
		t.HeldAtIRQ = heldAt
		t.inIRQ--
		xc.SetIRQsDisabled(false)
	}
	if t.inIRQ == 0 {
		t.preemptCheck()
	}
}

// Kick makes target notice pending interrupts even if it sleeps or waits.
func (m *Machine) Kick(xc *x86.CPU) {
	c := m.cpus[xc.ID]
	if m.det {
		if c.waiting && !xc.IRQsDisabled() {
			m.unwait(c)
		}
		m.det1.horizon = 0
		return
	}
	if c.isIdle.Load() {
		// A CPU that becomes idle after this look finds the pending interrupt.
		c.leaveIdle()
	}
	if c.parked.Load() {
		select {
		case c.park <- struct{}{}:
		default:
		}
	}
}

// idleLoop is the body of a CPU's idle task.
func (m *Machine) idleLoop(c *cpu, t *Task) {
	for {
		if c.Pending() != 0 {
			c.leaveIdle() // whoever looks for quiet must see the handlers
			m.Interrupts(&c.CPU)
		}
		c.Touch(x86.CPUPartObj(c.ID, x86.CPUQueue), x86.AccRead)
		if c.rq.n.Load() > 0 || m.pull(c) {
			if !m.det {
				c.wakeFromIdle()
			}
			t.Schedule()
			continue
		}
		m.rcuQuiescent(c)
		if m.det {
			m.SpinWait(&c.CPU, x86.CPUObj(c.ID), 0)
			continue
		}
		m.idleWait(c, t)
	}
}
