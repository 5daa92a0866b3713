package sched

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// drainSeq is where the numbers begin that stand for store buffers among the events of
// a Choice: far beyond those of real events, and the same in every run.
const drainSeq = 1 << 40

// DrainSeq is Actor.Seq of the actor that lets the oldest store of a CPU's buffer
// become visible.
func DrainSeq(cpu int) uint64 { return drainSeq + uint64(cpu) }

// DrainChain is Actor.Chain of that actor.
func DrainChain(cpu int) uint64 { return 1<<62 | uint64(cpu) }

// drain is the step of a store buffer, as observers see it.
type drain struct {
	cpu int
	op  x86.Op
	obj x86.ObjID
}

// Op and Obj implement Event.
func (d *drain) Op() x86.Op     { return d.op }
func (d *drain) Obj() x86.ObjID { return d.obj }

// Name implements Event.
func (d *drain) Name() string { return fmt.Sprintf("buffer %d", d.cpu) }

// Fire implements Event. It is never queued: the machine drains the buffer itself.
func (d *drain) Fire(*Machine, *trace.CPU) {}

// drains lists the store buffers that are not empty.
func (m *Machine) drains(en []Actor) []Actor {
	for i, c := range m.cpus {
		if op, obj, ok := c.OldestStore(); ok {
			en = append(en, Actor{CPU: -1, Seq: DrainSeq(i), Chain: DrainChain(i), Op: op, Obj: obj})
		}
	}
	return en
}

// show makes memory what the given CPU sees of it, or with -1 what everybody sees.
func (m *Machine) show(cpu int) {
	if m.view == cpu {
		return
	}
	if m.view >= 0 {
		m.cpus[m.view].HideStores()
	}
	if m.view = cpu; cpu >= 0 {
		m.cpus[cpu].ShowStores()
	}
}

// drainOne lets the oldest store of a buffer become visible.
func (m *Machine) drainOne(cpu int) {
	c := m.cpus[cpu]
	m.show(-1)
	m.det1.steps++
	if m.observer != nil {
		d := &drain{cpu: cpu}
		d.op, d.obj, _ = c.OldestStore()
		m.observer.Device(m.det1.steps, d)
	}
	c.DrainOne()
}

// drainAll empties all buffers: the machine stands still, and whoever looks at it sees
// what was stored.
func (m *Machine) drainAll() {
	m.show(-1)
	for _, c := range m.cpus {
		c.Drain()
	}
}
