package x86

import (
	"sync/atomic"

	"github.com/cowlab/cowlab/kernel/trace"
)

// Vector numbers an interrupt. The vectors are bits of one pending word.
type Vector uint8

// The vectors. Linux 2.6.29 arch/x86/include/asm/irq_vectors.h has eight
// INVALIDATE_TLB vectors, one per sender slot; so do we.
const (
	VecFlush0     Vector = iota // .. VecFlush0+NumFlushVectors-1
	VecReschedule Vector = iota + NumFlushVectors - 1
	VecCall
	VecTimer
	VecBlock   // block-device completion
	VecReclaim // reclaim is to begin with a page: see sched.Machine.Offer
	NumVectors
)

// NumFlushVectors is the number of TLB-flush sender slots.
const NumFlushVectors = 8

// CPU is one emulated processor: its clock, its interrupt state and its TLB.
// Only the goroutine or coroutine that currently runs the CPU may touch the
// fields marked "owner".
type CPU struct {
	// now is the cycle clock. Owner.
	now uint64
	// limit is the clock value at which the slow path of Point is due; zero
	// asks for attention at once. Atomic: written by the owner, zeroed by anybody.
	limit atomic.Uint64
	// opCost is the price of each operation in cycles. Immutable.
	opCost [NumOps]uint64
	// hook is the scheduler. Immutable.
	hook Hook

	// ID numbers the CPU from 0. Immutable.
	ID int
	// Det is set in the deterministic regimes. Immutable.
	Det bool
	// Account is set where operations and cache-line transfers are counted
	// (the timed regime). Immutable.
	Account bool

	// irqOff is set while interrupts are disabled. Owner.
	irqOff bool
	// pending has a bit for each raised vector. Atomic.
	pending atomic.Uint64

	// Want is the lock word that the CPU is about to take, while it stands at the point
	// before that: a search need not try until it is free. Owner.
	Want *SpinWord

	// Foot collects what steps touch; nil unless a search wants to know. Immutable.
	Foot *Footprint

	// sb is the store buffer, nil in a machine without. Owner.
	sb *storeBuffer

	// Mem is the machine's physical memory. Immutable.
	Mem *Memory
	// Cost is the machine's cost model. Immutable.
	Cost *CostModel
	// Trace holds this CPU's counters and events. Owner.
	Trace *trace.CPU
	// TLB is this CPU's translation cache. Owner.
	TLB TLB
	// CR3 is the frame of the active top-level table. Owner.
	CR3 PFN
	// CR2 is the address of the last page fault. Good until the next point. Owner.
	CR2 uint64
	// Space numbers the active address space, for ObjIDs of its entries. Owner.
	Space uint32

	_ [64]byte // the next CPU's clock must not share our cache line
}

// Init prepares a CPU. It must be called once, before the CPU runs.
func (c *CPU) Init(id int, det, account bool, mem *Memory, cost *CostModel, tr *trace.CPU, hook Hook) {
	c.ID, c.Det, c.Account = id, det, account
	c.Mem, c.Cost, c.Trace, c.hook = mem, cost, tr, hook
	c.opCost = cost.ops()
	c.now = 0
	c.limit.Store(0)
	c.pending.Store(0)
	c.irqOff = false
	c.TLB.init(mem)
	c.CR2, c.CR3, c.Space = 0, 0, 0
}

// Now returns the CPU's clock in cycles.
func (c *CPU) Now() uint64 { return c.now }

// SetNow moves the clock forward to t; it never moves it back.
func (c *CPU) SetNow(t uint64) {
	if t > c.now {
		c.now = t
	}
}

// SetLimit sets the clock value at which the owner wants its next slow point.
// Pending attention raised concurrently is not lost if the caller looks at
// Pending after the call.
func (c *CPU) SetLimit(t uint64) { c.limit.Store(t) }

// Attention makes the CPU's next point a slow one. Anybody may call it.
func (c *CPU) Attention() { c.limit.Store(0) }

// Raise sets vector v pending on the target and kicks it. It is the device
// side of an interrupt: no cost is charged and no point passed.
func (c *CPU) Raise(v Vector) {
	c.Touch(CPUObj(c.ID), AccAdd)
	c.pending.Or(1 << v)
	c.limit.Store(0)
	c.hook.Kick(c)
}

// SendIPI sends vector v from c to target, through the local APIC: a point, a
// charge, an event and a counter, then Raise.
func (c *CPU) SendIPI(target *CPU, v Vector) {
	c.Point(OpIPI, CPUObj(target.ID))
	c.Trace.Inc(trace.EmuIPISent)
	c.Trace.Event(trace.EvIPISend, c.now, uint64(target.ID), uint64(v), 0)
	target.Raise(v)
}

// CPUObj names a CPU's interrupt word.
func CPUObj(id int) ObjID { return Obj(ClassCPU, uint64(id)) }

// Pending returns the raised vectors.
func (c *CPU) Pending() uint64 { return c.pending.Load() }

// TakePending clears one raised vector, the lowest, and returns it.
func (c *CPU) TakePending() (Vector, bool) {
	p := c.pending.Load()
	if p == 0 {
		c.Touch(CPUObj(c.ID), AccRead)
		return 0, false
	}
	c.Touch(CPUObj(c.ID), AccWrite)
	v := lowestBit(p)
	c.pending.And(^(uint64(1) << v))
	return Vector(v), true
}

// IRQsDisabled reports whether the interrupt flag is clear.
func (c *CPU) IRQsDisabled() bool { return c.irqOff }

// SetIRQsDisabled changes the interrupt flag without delivering anything. It is
// for the interrupt entry and exit path.
func (c *CPU) SetIRQsDisabled(off bool) { c.irqOff = off }

// IRQDisable clears the interrupt flag (cli).
func (c *CPU) IRQDisable() { c.irqOff = true }

// IRQEnable sets the interrupt flag (sti) and takes what is pending.
func (c *CPU) IRQEnable() {
	c.irqOff = false
	c.Touch(CPUObj(c.ID), AccRead)
	if c.pending.Load() != 0 {
		c.hook.Interrupts(c)
	}
}

// IRQSave clears the interrupt flag and returns whether it was clear before.
func (c *CPU) IRQSave() (off bool) {
	off = c.irqOff
	c.irqOff = true
	return off
}

// IRQRestore undoes IRQSave.
func (c *CPU) IRQRestore(off bool) {
	if !off {
		c.IRQEnable()
	}
}

// SpinWait waits, as a spinning CPU does, until obj may have changed. spins is
// how often the caller has been here for the same wait.
func (c *CPU) SpinWait(obj ObjID, spins int) { c.hook.SpinWait(c, obj, spins) }

// Fence is a full memory barrier (mfence), smp_mb() in the kernel's words.
func (c *CPU) Fence() { c.Point(OpFence, 0) }
