package sched

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// accounts is the timed regime's bookkeeping of cache lines: a directory that
// knows, for each line touched, which CPU wrote it last and who has read it
// since. It is keyed by object, never by host address, so that it is the same in
// every run.
type accounts struct {
	lines map[uint64]line
}

type line struct {
	owner   int8   // CPU that wrote last, -1 nobody
	sharers uint64 // CPUs that hold the line
}

func newAccounts() *accounts { return &accounts{lines: make(map[uint64]line)} }

// lineOf maps an object to its cache line: a struct Page fills one line, and
// eight page-table entries share one.
func lineOf(o x86.ObjID) uint64 {
	switch o.Class() {
	case x86.ClassPage, x86.ClassPTE:
		return uint64(o) >> 3 << 3
	case x86.ClassFrame, x86.ClassCPU, x86.ClassTask, x86.ClassTimer, x86.ClassDev, x86.ClassBuffer, x86.ClassInject, x86.ClassNone:
		return 0 // user data, and what is not memory
	}
	return uint64(o)
}

// account counts an operation and charges the transfer of its cache line.
func (m *Machine) account(c *cpu, op x86.Op, obj x86.ObjID) {
	tr := c.Trace
	if op.Locked() {
		tr.Inc(trace.EmuAtomics)
	}
	if op == x86.OpFence {
		tr.Inc(trace.EmuFences)
	}
	key := lineOf(obj)
	if key == 0 || op == x86.OpWait || op == x86.OpYield {
		return
	}
	l, seen := m.acct.lines[key]
	if !seen {
		l.owner = -1
	}
	bit := uint64(1) << c.ID
	if op.Writes() {
		if l.sharers&^bit != 0 {
			tr.Inc(trace.EmuLineTransfers)
			c.Charge(m.cost.LineTransfer)
		}
		l.owner, l.sharers = int8(c.ID), bit
	} else if l.sharers&bit == 0 {
		if l.owner >= 0 {
			tr.Inc(trace.EmuLineTransfers)
			c.Charge(m.cost.LineTransfer)
		}
		l.sharers |= bit
	}
	m.acct.lines[key] = l
}
