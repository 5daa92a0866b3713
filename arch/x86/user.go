package x86

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cowlab/cowlab/kernel/trace"
)

// A user access is an instruction: translate, pass a point, touch memory.
//
// The point is where the machine may do something else first: another CPU
// runs, this CPU takes a flush interrupt or even runs another task for a while.
// The translation found before the point must therefore still be in the TLB
// after it, and be the same; otherwise the instruction starts over. Nothing can
// happen between that second look and the move, so the instruction is atomic
// with respect to interrupts, as it is in hardware: a flush that has been
// acknowledged is never followed by an access through what it flushed.
//
// A task that is preempted at a point must go on on the same CPU.

// Load reads size bytes (1, 2, 4 or 8) at va, zero-extended, as an instruction
// in user mode does. Naturally aligned loads are not torn. The code is NoFault,
// or that of a page fault, whose address is then in CR2, and nothing was read.
func (c *CPU) Load(va uint64, size int) (v uint64, ec FaultCode) {
	e := &c.TLB.small[va>>PageShift&(tlbSmall-1)]
	tag := va & (PageMask | uint64(size-1)) // an unaligned address equals no tag
	if e.rtag != tag {
		return c.loadSlow(va, size)
	}
	off := va + e.off
	now := c.now + c.opCost[OpLoad]
	c.now = now
	if now >= c.limit.Load() && !c.stillMapped(OpLoad, va, off) {
		return c.loadSlow(va, size)
	}
	p := unsafe.Add(c.TLB.base, off)
	if size == 8 {
		return load8(p), NoFault
	}
	return loadN(p, size), NoFault
}

// Store writes the low size bytes (1, 2, 4 or 8) of v at va. Naturally aligned
// stores are not torn. If the code is not NoFault, nothing was written, and the
// address of the fault is in CR2.
//
// A store through a write tag does not look at the page table: if the kernel
// took the permission away and has not flushed this CPU yet, the store goes
// through all the same.
func (c *CPU) Store(va uint64, size int, v uint64) FaultCode {
	e := &c.TLB.small[va>>PageShift&(tlbSmall-1)]
	if e.wtag != va&(PageMask|uint64(size-1)) {
		return c.storeSlow(va, size, v)
	}
	off := va + e.off
	now := c.now + c.opCost[OpStore]
	c.now = now
	if now >= c.limit.Load() && !c.mayStore(va, off) {
		return c.storeSlow(va, size, v)
	}
	p := unsafe.Add(c.TLB.base, off)
	if size == 8 {
		store8(p, v)
	} else {
		storeN(p, size, v)
	}
	return NoFault
}

// hit looks va up. off is the physical address.
func (c *CPU) hit(va uint64, write bool) (off uint64, ok bool) {
	e, mask := c.TLB.smallAt(va), PageMask
	for range 2 {
		tag := e.rtag
		if write {
			tag = e.wtag
		}
		if tag == va&mask {
			return va + e.off, true
		}
		e, mask = c.TLB.largeAt(va), PMDMask
	}
	return 0, false
}

// translate looks va up and walks as often as it takes.
func (c *CPU) translate(va uint64, write bool) (off uint64, ec FaultCode) {
	for {
		if off, ok := c.hit(va, write); ok {
			return off, NoFault
		}
		if _, _, ec := c.Walk(va, write, true); ec != NoFault {
			c.CR2 = va // interrupts taken after the walk may have faulted too
			return 0, ec
		}
	}
}

// stillMapped is the slow path of an access's point. It reports whether va,
// which was at physical address off, still is, as far as the TLB knows.
func (c *CPU) stillMapped(op Op, va, off uint64) bool {
	c.hook.Point(c, op, FrameObj(PFN(off>>PageShift), off))
	write := op != OpLoad
	if now, ok := c.hit(va, write); !ok || now != off {
		return false
	}
	if c.Account {
		c.countStale(va, off, write)
	}
	return true
}

// mayStore is stillMapped for Store, which leaves what goes into a store buffer to
// storeSlow.
func (c *CPU) mayStore(va, off uint64) bool {
	return c.sb == nil && c.stillMapped(OpStore, va, off)
}

// pass is the point of an access to n bytes within one page; it reports whether
// the access may go on. Each sector touched has a point of its own.
func (c *CPU) pass(op Op, va, off uint64, n int) bool {
	for end := off + uint64(n); ; {
		c.now += c.opCost[op]
		if c.now >= c.limit.Load() && !c.stillMapped(op, va, off) {
			return false
		}
		next := off&^(SectorSize-1) + SectorSize
		if next >= end || !c.Det {
			return true
		}
		va, off = va+(next-off), next
	}
}

// countStale counts an access that the page table would not allow any more.
func (c *CPU) countStale(va, off uint64, write bool) {
	e, size := c.Mem.PeekWalk(c.CR3, va)
	if size != 0 && e.User() && (e.Write() || !write) &&
		uint64(e.PFN())<<PageShift|va&(size-1) == off {
		return
	}
	if write {
		c.Trace.Inc(trace.EmuStaleTLBStore)
	} else {
		c.Trace.Inc(trace.EmuStaleTLBLoad)
	}
}

func loadN(p unsafe.Pointer, size int) uint64 {
	switch size {
	case 1:
		return load1(p)
	case 2:
		return load2(p)
	case 4:
		return load4(p)
	case 8:
		return load8(p)
	}
	badSize(size)
	return 0
}

func storeN(p unsafe.Pointer, size int, v uint64) {
	switch size {
	case 1:
		store1(p, v)
	case 2:
		store2(p, v)
	case 4:
		store4(p, v)
	case 8:
		store8(p, v)
	default:
		badSize(size)
	}
}

func checkSize(size int) {
	switch size {
	case 1, 2, 4, 8:
	default:
		badSize(size)
	}
}

//go:noinline
func badSize(size int) { panic(fmt.Sprintf("x86: access of %d bytes", size)) }

// loadSlow is Load where the fast path does not apply: the translation is not
// in the small TLB, the address is not aligned, or the translation changed.
func (c *CPU) loadSlow(va uint64, size int) (v uint64, ec FaultCode) {
	checkSize(size)
	if va&(PageSize-1) > PageSize-uint64(size) {
		var b [8]byte
		if ec = c.split(OpLoad, va, b[:size]); ec == NoFault {
			v = load8(unsafe.Pointer(&b))
		}
		return v, ec
	}
	for {
		off, ec := c.translate(va, false)
		if ec != NoFault {
			return 0, ec
		}
		if c.pass(OpLoad, va, off, size) {
			return loadN(unsafe.Add(c.TLB.base, off), size), NoFault
		}
	}
}

func (c *CPU) storeSlow(va uint64, size int, v uint64) FaultCode {
	checkSize(size)
	if va&(PageSize-1) > PageSize-uint64(size) {
		var b [8]byte
		store8(unsafe.Pointer(&b), v)
		return c.split(OpStore, va, b[:size])
	}
	for {
		off, ec := c.translate(va, true)
		if ec != NoFault {
			return ec
		}
		if c.pass(OpStore, va, off, size) {
			p := unsafe.Add(c.TLB.base, off)
			if c.sb != nil {
				c.buffer(p, size, v, OpStore, FrameObj(PFN(off>>PageShift), off))
				return NoFault
			}
			storeN(p, size, v)
			return NoFault
		}
	}
}

// split is an access that crosses into another page. Both pages are translated
// before anything moves, so a fault leaves memory alone.
func (c *CPU) split(op Op, va uint64, b []byte) FaultCode {
	write := op != OpLoad
	next := va&PageMask + PageSize
	n := int(next - va)
	for {
		off, ec := c.translate(va, write)
		if ec != NoFault {
			return ec
		}
		off2, ec := c.translate(next, write)
		if ec != NoFault {
			return ec
		}
		if !c.pass(op, va, off, n) || !c.pass(op, next, off2, len(b)-n) {
			continue
		}
		if now, ok := c.hit(va, write); !ok || now != off {
			continue
		}
		p, q := unsafe.Add(c.TLB.base, off), unsafe.Add(c.TLB.base, off2)
		if write {
			c.Drain()
			move(p, unsafe.Pointer(&b[0]), n)
			move(q, unsafe.Pointer(&b[n]), len(b)-n)
		} else {
			move(unsafe.Pointer(&b[0]), p, n)
			move(unsafe.Pointer(&b[n]), q, len(b)-n)
		}
		return NoFault
	}
}

// ReadBytes copies from user memory at va, as a string instruction or the
// kernel's copy_from_user does. In the parallel regime it is one move for each
// page, in the deterministic regimes one, with a point, for each sector. It
// returns how many bytes were copied; if the code is not NoFault, the fault is
// at va+n and the copy can be resumed there.
func (c *CPU) ReadBytes(va uint64, dst []byte) (n int, ec FaultCode) {
	return c.bulk(OpLoad, va, dst)
}

// WriteBytes copies into user memory at va; see ReadBytes.
func (c *CPU) WriteBytes(va uint64, src []byte) (n int, ec FaultCode) {
	return c.bulk(OpStore, va, src)
}

func (c *CPU) bulk(op Op, va uint64, b []byte) (n int, ec FaultCode) {
	unit := uint64(PageSize)
	if c.Det {
		unit = SectorSize
	}
	for n < len(b) {
		at := va + uint64(n)
		k := min(len(b)-n, int(unit-at&(unit-1)))
		off, ec := c.translate(at, op != OpLoad)
		if ec != NoFault {
			return n, ec
		}
		if !c.pass(op, at, off, k) {
			continue
		}
		c.now += c.Cost.CopyBytes16 * (uint64(k+15) / 16)
		p, q := unsafe.Add(c.TLB.base, off), unsafe.Pointer(&b[n])
		if op == OpLoad {
			move(q, p, k)
		} else {
			c.Drain()
			move(p, q, k)
		}
		n += k
	}
	return n, NoFault
}

// word translates a 32-bit word for a locked instruction and passes its point.
func (c *CPU) word(va uint64) (*uint32, FaultCode) {
	if va&3 != 0 {
		return nil, FaultAlign
	}
	for {
		off, ec := c.translate(va, true)
		if ec != NoFault {
			return nil, ec
		}
		if c.pass(OpRMW, va, off, 4) {
			return (*uint32)(unsafe.Add(c.TLB.base, off)), NoFault
		}
	}
}

// CAS32 is lock cmpxchg on the word at va: it stores new if the word is old,
// and returns what the word was before. The address must be a multiple of 4;
// the code is FaultAlign otherwise. Like the instruction it needs permission to
// write even if it does not.
func (c *CPU) CAS32(va uint64, old, new uint32) (prev uint32, ec FaultCode) {
	p, ec := c.word(va)
	if ec != NoFault {
		return 0, ec
	}
	for {
		if prev = atomic.LoadUint32(p); prev != old {
			return prev, NoFault
		}
		if atomic.CompareAndSwapUint32(p, old, new) {
			return old, NoFault
		}
	}
}

// Xchg32 swaps the word at va with v and returns the old value; see CAS32.
func (c *CPU) Xchg32(va uint64, v uint32) (old uint32, ec FaultCode) {
	p, ec := c.word(va)
	if ec != NoFault {
		return 0, ec
	}
	return atomic.SwapUint32(p, v), NoFault
}

// AddReturn32 adds d to the word at va and returns the new value; see CAS32.
func (c *CPU) AddReturn32(va uint64, d uint32) (v uint32, ec FaultCode) {
	p, ec := c.word(va)
	if ec != NoFault {
		return 0, ec
	}
	return atomic.AddUint32(p, d), NoFault
}
