package x86

import (
	"math/bits"
	"runtime"
	"sync/atomic"
)

func lowestBit(v uint64) int { return bits.TrailingZeros64(v) }

// SpinWord is a test-and-set word, the raw material of spinlocks. It knows
// nothing of interrupts, preemption or lock order.
type SpinWord struct{ v atomic.Uint32 }

// TryLock takes the word if it is free.
func (w *SpinWord) TryLock() bool { return w.v.Load() == 0 && w.v.CompareAndSwap(0, 1) }

// Unlock frees the word: a release, which does not order a later load.
func (w *SpinWord) Unlock() { releaseUint32(&w.v, 0) }

// Locked reports whether somebody holds the word.
func (w *SpinWord) Locked() bool { return w.v.Load() != 0 }

// RawSpin is a host-level lock for the scheduler's own data. It is not part of
// the emulated machine: no point, no cost, and it must never be held across
// anything that can pass a point.
type RawSpin struct{ w SpinWord }

// Lock takes the lock, yielding to the Go scheduler while it is busy.
func (l *RawSpin) Lock() {
	for i := 0; !l.w.TryLock(); i++ {
		if i > 64 {
			runtime.Gosched()
		}
	}
}

// Unlock releases the lock.
func (l *RawSpin) Unlock() { l.w.Unlock() }

// Locked reports whether somebody holds the lock: for assertions.
func (l *RawSpin) Locked() bool { return l.w.Locked() }

// Word32 is a shared signed 32-bit word of the emulated kernel. Its methods
// pass a schedule point before they act; obj names the word.
type Word32 struct{ v atomic.Int32 }

// Load reads the word.
func (w *Word32) Load(c *CPU, obj ObjID) int32 { c.Point(OpRead, obj); return w.v.Load() }

// Peek reads the word without a point: for invariants, traces and assertions.
func (w *Word32) Peek() int32 { return w.v.Load() }

// Poke writes the word without a point, as a release: for objects nobody else can
// see yet.
func (w *Word32) Poke(v int32) { releaseInt32(&w.v, v) }

// Store writes the word (a plain store on x86).
func (w *Word32) Store(c *CPU, obj ObjID, v int32) {
	c.Point(OpWrite, obj)
	if c.sb != nil {
		w.slowStore(c, obj, v)
		return
	}
	w.v.Store(v)
}

// Add adds d with a locked instruction whose result is not looked at.
func (w *Word32) Add(c *CPU, obj ObjID, d int32) { c.Point(OpAdd, obj); w.v.Add(d) }

// AddReturn adds d with a locked instruction and returns the new value.
func (w *Word32) AddReturn(c *CPU, obj ObjID, d int32) int32 {
	c.Point(OpRMW, obj)
	return w.v.Add(d)
}

// CAS is lock cmpxchg.
func (w *Word32) CAS(c *CPU, obj ObjID, old, new int32) bool {
	c.Point(OpRMW, obj)
	return w.v.CompareAndSwap(old, new)
}

// AddUnless adds d unless the word is u, and reports whether it did.
func (w *Word32) AddUnless(c *CPU, obj ObjID, d, u int32) bool {
	c.Point(OpRMW, obj)
	for {
		v := w.v.Load()
		if v == u {
			return false
		}
		if w.v.CompareAndSwap(v, v+d) {
			return true
		}
	}
}

// RawAdd adds without a point and returns the new value: for what is only a hint
// or a statistic.
func (w *Word32) RawAdd(d int32) int32 { return w.v.Add(d) }

// Word64 is a shared unsigned 64-bit word of the emulated kernel, with the same
// conventions as Word32.
type Word64 struct{ v atomic.Uint64 }

// Load reads the word.
func (w *Word64) Load(c *CPU, obj ObjID) uint64 { c.Point(OpRead, obj); return w.v.Load() }

// Peek reads the word without a point.
func (w *Word64) Peek() uint64 { return w.v.Load() }

// Poke writes the word without a point, as a release.
func (w *Word64) Poke(v uint64) { releaseUint64(&w.v, v) }

// Store writes the word (a plain store on x86).
func (w *Word64) Store(c *CPU, obj ObjID, v uint64) {
	c.Point(OpWrite, obj)
	if c.sb != nil {
		w.slowStore(c, obj, v)
		return
	}
	w.v.Store(v)
}

// Add adds d with a locked instruction whose result is not looked at.
func (w *Word64) Add(c *CPU, obj ObjID, d uint64) { c.Point(OpAdd, obj); w.v.Add(d) }

// Or sets bits with a locked instruction and returns the old value.
func (w *Word64) Or(c *CPU, obj ObjID, m uint64) (old uint64) {
	c.Point(OpRMW, obj)
	return w.v.Or(m)
}

// AndNot clears bits with a locked instruction and returns the old value.
func (w *Word64) AndNot(c *CPU, obj ObjID, m uint64) (old uint64) {
	c.Point(OpRMW, obj)
	return w.v.And(^m)
}

// Xchg swaps the word with v.
func (w *Word64) Xchg(c *CPU, obj ObjID, v uint64) (old uint64) {
	c.Point(OpRMW, obj)
	return w.v.Swap(v)
}

// CAS is lock cmpxchg.
func (w *Word64) CAS(c *CPU, obj ObjID, old, new uint64) bool {
	c.Point(OpRMW, obj)
	return w.v.CompareAndSwap(old, new)
}

// RawOr sets bits without a point: for what is only a hint or a statistic.
func (w *Word64) RawOr(m uint64) (old uint64) { return w.v.Or(m) }

// RawAndNot clears bits without a point.
func (w *Word64) RawAndNot(m uint64) (old uint64) { return w.v.And(^m) }

// RawAdd adds without a point and returns the new value.
func (w *Word64) RawAdd(d uint64) uint64 { return w.v.Add(d) }

// RawCAS is a compare-and-swap without a point.
func (w *Word64) RawCAS(old, new uint64) bool { return w.v.CompareAndSwap(old, new) }
