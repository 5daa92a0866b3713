package x86

import (
	"math"
	"testing"

	"github.com/cowlab/cowlab/kernel/trace"
)

// rig is a machine of a few CPUs without a scheduler.
type rig struct {
	t    testing.TB
	mem  *Memory
	tr   *trace.Trace
	cpus []*CPU
	next PFN // next free frame
	pgd  PFN

	// onPoint, onIRQ stand in for the scheduler; nil does nothing.
	onPoint func(c *CPU, op Op, obj ObjID)
	onIRQ   func(c *CPU, v Vector)
	points  []pointSeen // when record is set
	record  bool
}

type pointSeen struct {
	op  Op
	obj ObjID
}

func (r *rig) Point(c *CPU, op Op, obj ObjID) {
	if r.record {
		r.points = append(r.points, pointSeen{op, obj})
	}
	if r.onPoint != nil {
		r.onPoint(c, op, obj)
	}
	if !c.IRQsDisabled() {
		r.Interrupts(c)
	}
}
func (r *rig) Wrote(*CPU, ObjID)         {}
func (r *rig) SpinWait(*CPU, ObjID, int) {}
func (r *rig) Kick(*CPU)                 {}
func (r *rig) Interrupts(c *CPU) {
	for !c.IRQsDisabled() {
		v, ok := c.TakePending()
		if !ok {
			return
		}
		c.SetIRQsDisabled(true)
		if r.onIRQ != nil {
			r.onIRQ(c, v)
		}
		c.SetIRQsDisabled(false)
	}
}

// newRig makes CPUs on memory of the given size. det makes every point slow,
// as in the deterministic regimes; otherwise none is.
func newRig(t testing.TB, cpus int, bytes uint64, det, account bool) *rig {
	t.Helper()
	mem, err := newHost(16<<30, 8<<30).NewMemory(MemoryOptions{Bytes: bytes})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, mem: mem, tr: trace.New(cpus, trace.Options{}), next: 1}
	r.pgd = r.frame()
	for i := range cpus {
		c := new(CPU)
		c.Init(i, det, account, mem, DefaultCost(), r.tr.CPU(i), r)
		if !det {
			c.SetLimit(math.MaxUint64)
		}
		c.CR3, c.Space = r.pgd, 1
		r.cpus = append(r.cpus, c)
	}
	return r
}

func (r *rig) frame() PFN {
	if !r.mem.Touch(r.next, 1) {
		r.t.Fatal("out of memory")
	}
	r.next++
	return r.next - 1
}

// entry returns the entry for va at the level, making tables above it.
func (r *rig) entry(va uint64, level int) PTERef {
	table := r.pgd
	for l := LevelPGD; l > level; l-- {
		ref := NewPTERef(r.mem, table, LevelIndex(va, l), PTEObj(1, l, va))
		if ref.Peek().None() {
			ref.Poke(MkPTE(r.frame(), PTETable))
		}
		table = ref.Peek().PFN()
	}
	return NewPTERef(r.mem, table, LevelIndex(va, level), PTEObj(1, level, va))
}

const userRW = PtePresent | PteRW | PteUser

// mapPage maps va to a new frame.
func (r *rig) mapPage(va uint64, prot PTE) PFN {
	pfn := r.frame()
	r.entry(va, LevelPTE).Poke(MkPTE(pfn, prot))
	return pfn
}

func (r *rig) peek(pfn PFN, off uint64) uint64 {
	var b [8]byte
	r.mem.DMARead(pfn, off, b[:])
	v := uint64(0)
	for i := range b {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func (r *rig) load(c *CPU, va uint64, size int) uint64 {
	r.t.Helper()
	v, ec := c.Load(va, size)
	if ec != NoFault {
		r.t.Fatalf("load %#x: %v", va, ec)
	}
	return v
}

func (r *rig) store(c *CPU, va uint64, size int, v uint64) {
	r.t.Helper()
	if ec := c.Store(va, size, v); ec != NoFault {
		r.t.Fatalf("store %#x: %v", va, ec)
	}
}

// nonsense runs fn and returns the Nonsense it panics with.
func nonsense(t testing.TB, fn func()) (n Nonsense) {
	t.Helper()
	defer func() {
		t.Helper()
		var ok bool
		if n, ok = recover().(Nonsense); !ok {
			t.Fatal("no Nonsense")
		}
	}()
	fn()
	return n
}
