package x86

import (
	"fmt"
	"math"
	"math/bits"
	"reflect"
)

// CostModel is the price list of the timed regime: cycles of a reference
// processor, a 2.93 GHz quad-core of the Nehalem generation, the machine of
// 2009. The model is a sum of constants, not a pipeline: it orders designs by
// the expensive things they do (locked operations, line transfers, interrupts,
// copies) and claims nothing finer. A verdict drawn from it is only worth
// stating if it survives each constant being scaled by half either way, which
// is what Scale is for.
//
// Each field names its source:
//
//   - IORM: Intel 64 and IA-32 Architectures Optimization Reference Manual,
//     the Nehalem chapter's cache and latency tables;
//   - Fog: A. Fog, Instruction Tables, the Nehalem list;
//   - Molka: D. Molka et al., Memory Performance and Cache Coherency Effects on
//     an Intel Nehalem Multiprocessor System, PACT 2009 (a 2.93 GHz part);
//   - Baumann: A. Baumann et al., The Multikernel, SOSP 2009, section on TLB
//     shootdown;
//   - estimate: of the right size, from published lmbench-style figures for the
//     generation, but no single table says it. These are the first to vary.
//
// The figures are those the sources are commonly quoted for. They have not been
// checked against the printed tables entry by entry; do that before relying on
// one of them alone.
//
// All fields but GHz are in cycles.
type CostModel struct {
	// GHz is the reference clock; it only matters where cycles meet device time.
	GHz float64

	// PointBase is added at every schedule point: the instructions around the
	// operation. At least 1, so that a clock always advances. Estimate.
	PointBase uint64
	// Load is a user load that hits the first-level cache. IORM: 4 cycles.
	Load uint64
	// Store is a user store, retired into the store buffer. Fog: 1 a cycle.
	Store uint64
	// PTERead is the read of one page-table entry, by the walker or by the
	// kernel, from the first-level cache. IORM: 4 cycles.
	PTERead uint64
	// PTEWrite is a plain store of an entry. Fog: 1 a cycle.
	PTEWrite uint64
	// Read is the read of a shared kernel word in the first-level cache. IORM: 4 cycles.
	Read uint64
	// Write is a plain store of a shared kernel word. Fog: 1 a cycle.
	Write uint64
	// Locked is a locked read-modify-write of a line that is already ours.
	// Fog: about 20 (xchg with memory, and lock-prefixed forms alike).
	Locked uint64
	// Fence is mfence with an empty store buffer. Fog: 23.
	Fence uint64
	// LineTransfer is a line fetched in modified state from another core's
	// cache on the same die. Molka: 28 ns, 83 cycles; a second socket is
	// about 300.
	LineTransfer uint64
	// TLBMiss is a hardware walk besides the reads of its entries, which are
	// charged as PTERead each. IORM: a second-level TLB hit costs 7; with four
	// warm reads the walk comes to about 30. Estimate.
	TLBMiss uint64
	// Invlpg drops one translation. Baumann: 95 to 320.
	Invlpg uint64
	// CR3 is a load of the top-level table register, which drops everything;
	// refilling is charged where it happens. Estimate.
	CR3 uint64
	// IPI is the sender's part of an interrupt to another CPU: two writes of the
	// local interrupt controller, uncached. Estimate.
	IPI uint64
	// IRQ is entry to and exit from an interrupt on the receiving CPU.
	// Baumann: about 800.
	IRQ uint64
	// Trap is a page-fault exception and the return from it, without the
	// kernel's work. Estimate.
	Trap uint64
	// Syscall is entry and exit by syscall and sysret. Estimate, lmbench's null
	// call less its C library.
	Syscall uint64
	// Switch is a switch of stacks and registers between two tasks and the
	// scheduler's own work, the CR3 load apart. Estimate, lmbench lat_ctx of two
	// empty processes.
	Switch uint64
	// Pause is one round of a spin loop. Fog: pause, 9 to 11.
	Pause uint64
	// Wake is the enqueueing of a task, locks apart. Estimate.
	Wake uint64
	// CopyPage copies 4 KiB between lines of the last-level cache. Molka: 23.9
	// GB/s of reads and about 17 GB/s of writes there, together 1,200 cycles;
	// from memory it is nearer 2,200.
	CopyPage uint64
	// ClearPage clears 4 KiB. Molka: the write half of the above.
	ClearPage uint64
	// CopyBytes16 is the copy of 16 bytes to or from user memory that is warm
	// in the first-level cache. IORM: one 16-byte load and store a cycle.
	CopyBytes16 uint64
}

// DefaultCost returns the reference model, a copy the caller may change before
// the machine is made.
func DefaultCost() *CostModel {
	return &CostModel{
		GHz:          2.93,
		PointBase:    1,
		Load:         4,
		Store:        1,
		PTERead:      4,
		PTEWrite:     1,
		Read:         4,
		Write:        1,
		Locked:       20,
		Fence:        23,
		LineTransfer: 83,
		TLBMiss:      14,
		Invlpg:       200,
		CR3:          250,
		IPI:          300,
		IRQ:          800,
		Trap:         600,
		Syscall:      150,
		Switch:       1500,
		Pause:        10,
		Wake:         200,
		CopyPage:     1200,
		ClearPage:    600,
		CopyBytes16:  1,
	}
}

// ops makes the table that Point charges from. Operations whose cost depends
// on more than their kind (TLB flushes, page copies, context switches) charge it
// themselves.
func (m *CostModel) ops() (t [NumOps]uint64) {
	t[OpLoad] = m.Load
	t[OpStore] = m.Store
	t[OpPTERead] = m.PTERead
	t[OpPTEWrite] = m.PTEWrite
	t[OpPTERMW] = m.Locked
	t[OpRead] = m.Read
	t[OpWrite] = m.Write
	t[OpRMW] = m.Locked
	t[OpAdd] = m.Locked
	t[OpLock] = m.Locked
	t[OpReadLock] = m.Locked
	t[OpUnlock] = m.Write
	t[OpIPI] = m.IPI
	t[OpIPIAck] = m.Locked
	t[OpWake] = m.Wake
	t[OpFence] = m.Fence
	for i := range t {
		t[i] += m.PointBase
	}
	return t
}

// Names lists the constants, as Scale takes them, in the order of the fields.
func (m *CostModel) Names() []string {
	t := reflect.TypeFor[CostModel]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Name
	}
	return names
}

// Scale returns a copy of the model with one constant multiplied by factor,
// rounded to the nearest cycle; a constant that is not zero stays at least 1.
// The factor must be positive and finite, and the name one of Names.
func (m *CostModel) Scale(name string, factor float64) (CostModel, error) {
	out := *m
	if !(factor > 0) || math.IsInf(factor, 0) {
		return out, fmt.Errorf("x86: cost factor %v of %q is not positive and finite", factor, name)
	}
	f := reflect.ValueOf(&out).Elem().FieldByName(name)
	if !f.IsValid() {
		return out, fmt.Errorf("x86: no cost constant %q", name)
	}
	if f.Kind() == reflect.Float64 {
		f.SetFloat(f.Float() * factor)
		return out, nil
	}
	old := f.Uint()
	v := uint64(math.Round(float64(old) * factor))
	if old > 0 && v == 0 {
		v = 1
	}
	f.SetUint(v)
	return out, nil
}

// kHz is the clock as an integer, so that conversions are exact and the same
// on every host.
func (m *CostModel) kHz() uint64 {
	k := uint64(math.Round(m.GHz * 1e6))
	if k == 0 {
		return 1
	}
	return k
}

// CyclesToNS converts cycles to nanoseconds, rounding down; it saturates.
func (m *CostModel) CyclesToNS(cycles uint64) uint64 { return mulDiv(cycles, 1e6, m.kHz()) }

// NSToCycles converts nanoseconds to cycles, rounding up, so that converting
// back never falls short of the moment asked for; it saturates.
func (m *CostModel) NSToCycles(ns uint64) uint64 {
	k := m.kHz()
	c := mulDiv(ns, k, 1e6)
	if c != math.MaxUint64 && m.CyclesToNS(c) < ns {
		c++
	}
	return c
}

func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return math.MaxUint64
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}
