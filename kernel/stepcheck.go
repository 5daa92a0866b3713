package kernel

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// invariantWatch is an observer that checks invariants as a deterministic machine goes.
type invariantWatch struct {
	m     *Machine
	every uint64
	inner sched.Observer
	last  x86.ObjID // what the previous step touched
	n     uint64
}

// CheckSteps makes a deterministic machine check itself while it runs: the page that a
// step touched right after it, and everything at every n-th step. What a held lock
// excuses is left out. A violation is an oops of the task at whose step it shows. inner,
// which may be nil, is told of the steps first. Before the first Run.
func (m *Machine) CheckSteps(n uint64, inner sched.Observer) {
	m.sched.SetObserver(&invariantWatch{m: m, every: n, inner: inner})
}

// Step implements sched.Observer.
func (c *invariantWatch) Step(step uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	if c.inner != nil {
		c.inner.Step(step, t, op, obj)
	}
	last := c.last
	c.last = 0
	if op.Writes() {
		c.last = obj
	}
	if last != 0 {
		c.touched(t, last)
	}
	if c.n++; c.n%c.every == 0 {
		for _, err := range c.m.CheckStep() {
			t.Oops("invariant, before %v of %s: %v", op, c.m.sched.ObjName(obj), err)
		}
	}
}

// touched checks the page that an operation on o concerned.
func (c *invariantWatch) touched(t *sched.Task, o x86.ObjID) {
	var pfn x86.PFN
	switch o.Class() {
	case x86.ClassPage:
		pfn = x86.PFN(o.ID() >> 3)
	case x86.ClassPTE:
		id, level, va := x86.SplitPTEObj(o)
		if level != x86.LevelPTE {
			return
		}
		pte := c.m.sys.PeekPTEOf(id, va)
		if !pte.Present() {
			return
		}
		pfn = pte.PFN()
	default:
		return
	}
	if !c.m.mem.Valid(pfn) {
		return
	}
	if err := c.m.sys.CheckPage(pfn); err != nil {
		t.Oops("invariant, after an operation on %s: %v", c.m.sched.ObjName(o), err)
	}
}

// Device implements sched.Observer.
func (c *invariantWatch) Device(step uint64, ev sched.Event) {
	if c.inner != nil {
		c.inner.Device(step, ev)
	}
}
