package x86

import (
	"sync/atomic"
	"unsafe"
)

// A processor's stores become visible to others later than to itself: they wait in its
// store buffer. Sewell, Sarkar, Owens, Zappa Nardelli and Myreen, "x86-TSO: a rigorous
// and usable programmer's model for x86 multiprocessors" (CACM 2010):
//
//	CPU 0                                  CPU 1
//	  | stores   ^ loads, from the           | stores   ^
//	  v          | buffer if it is there     v          |
//	[x=1 y=2 .. ]|                         [z=3 ..... ] |
//	  |  oldest  |                           |          |
//	  v  first   |                           v          |
//	+-----------------------------------------------------+
//	|                       memory                        |
//	+-----------------------------------------------------+
//
// A locked instruction, a fence, an interrupt, a context switch wait until the buffer is
// empty. What is not ordered is a store and a later load of something else: the load may
// be done while the store is still in the buffer. That is what smp_mb() is for.
//
// In a machine with the option the buffered stores are those of Word32.Store and
// Word64.Store, of PTERef.Set, of a spinlock's release, and scalar stores of user code.
// Everything else that writes (clearing and copying of frames, string instructions,
// accesses that cross a page) empties the buffer first, so that the order of stores is
// kept; of those a later load cannot be early here. Words of the Go heap that have no
// wrapper are not buffered: they are protected by locks. An inter-processor interrupt is
// sent as an x2APIC sends it, by an instruction that waits for no store.
//
// # How loads find their own stores
//
// Only one CPU acts at a time where there are store buffers. While it acts, its buffered
// stores are in memory, and the values they replace are in the buffer: what it reads is
// what it wrote, at no cost to loads. When another one's turn comes they are taken out
// again. See HideStores and ShowStores.
type storeBuffer struct {
	fifo   []bufferedStore // oldest first
	shown  bool            // the stores are in memory, for their own CPU
	stored uint64          // stores that ever went in
}

// bufferedStore is a store that the other CPUs do not see yet.
type bufferedStore struct {
	p    unsafe.Pointer
	size int
	v    uint64 // what was stored
	old  uint64 // what the others see; while shown
	op   Op
	obj  ObjID
}

// UseStoreBuffer gives the CPU a store buffer. The scheduler must then call HideStores
// and ShowStores around every turn of the CPU. Before the CPU runs.
func (c *CPU) UseStoreBuffer() { c.sb = &storeBuffer{} }

// buffer makes a store of size bytes (1, 2, 4 or 8) at p that only this CPU sees.
//
//go:noinline
func (c *CPU) buffer(p unsafe.Pointer, size int, v uint64, op Op, obj ObjID) {
	c.sb.fifo = append(c.sb.fifo, bufferedStore{p, size, v, loadN(p, size), op, obj})
	c.sb.stored++
	if c.Foot != nil {
		c.Foot.Buffered = obj
		c.Foot.Add(BufferObj(c.ID, c.sb.stored), AccWrite)
	}
	storeN(p, size, v)
}

// Buffered returns how many stores wait in the CPU's buffer.
func (c *CPU) Buffered() int {
	if c.sb == nil {
		return 0
	}
	return len(c.sb.fifo)
}

// OldestStore says what the store is that would leave the buffer first.
func (c *CPU) OldestStore() (op Op, obj ObjID, ok bool) {
	if c.Buffered() == 0 {
		return 0, 0, false
	}
	e := &c.sb.fifo[0]
	return e.op, e.obj, true
}

// HideStores takes the CPU's buffered stores out of memory: somebody else acts next.
func (c *CPU) HideStores() {
	b := c.sb
	b.shown = false
	if b.disturbed() {
		c.emptied()
		return
	}
	for i := len(b.fifo) - 1; i >= 0; i-- {
		e := &b.fifo[i]
		storeN(e.p, e.size, e.old)
	}
}

// disturbed reports that the CPU has written to one of its buffered words without a
// point (Poke and the Raw forms, which stand for locked instructions): then everything
// has left the buffer.
func (b *storeBuffer) disturbed() bool {
	for i := range b.fifo {
		e := &b.fifo[i]
		later := false
		for j := i + 1; j < len(b.fifo) && !later; j++ {
			o := &b.fifo[j]
			later = uintptr(o.p) < uintptr(e.p)+uintptr(e.size) && uintptr(e.p) < uintptr(o.p)+uintptr(o.size)
		}
		if !later && loadN(e.p, e.size) != e.v&(1<<(8*e.size-1)<<1-1) {
			return true
		}
	}
	return false
}

// ShowStores puts them back in: it is the CPU's turn.
func (c *CPU) ShowStores() {
	b := c.sb
	b.shown = true
	for i := range b.fifo {
		e := &b.fifo[i]
		e.old = loadN(e.p, e.size)
		storeN(e.p, e.size, e.v)
	}
}

// DrainOne makes the oldest store visible to everybody, while the buffer is hidden.
func (c *CPU) DrainOne() {
	b := c.sb
	e := b.fifo[0]
	c.Touch(BufferObj(c.ID, 0), AccWrite)
	c.Touch(BufferObj(c.ID, b.stored-uint64(len(b.fifo))+1), AccWrite)
	storeN(e.p, e.size, e.v)
	n := copy(b.fifo, b.fifo[1:])
	b.fifo[n] = bufferedStore{}
	b.fifo = b.fifo[:n]
	c.hook.Wrote(c, e.obj)
}

// Drain waits until the store buffer is empty, as a locked instruction does. It is for
// operations that Drains does not know by their name.
func (c *CPU) Drain() {
	if c.sb != nil {
		c.Touch(BufferObj(c.ID, 0), AccRead)
		c.drain()
	}
}

func (c *CPU) drain() {
	if !c.sb.shown {
		for len(c.sb.fifo) > 0 {
			c.DrainOne()
		}
		return
	}
	c.emptied()
}

// emptied forgets stores that are in memory for good.
func (c *CPU) emptied() {
	b := c.sb
	if len(b.fifo) > 0 && c.Foot != nil {
		c.Foot.Drained = true
		c.Foot.Add(BufferObj(c.ID, 0), AccWrite)
	}
	for i := range b.fifo {
		c.Touch(b.fifo[i].obj, AccWrite)
		c.hook.Wrote(c, b.fifo[i].obj)
		b.fifo[i] = bufferedStore{}
	}
	b.fifo = b.fifo[:0]
}

// Drains reports whether the operation waits until the store buffer is empty. Of those
// that do not, OpUnlock is a plain store in a spinlock; a lock that is released by a
// locked instruction calls Drain.
func (o Op) Drains() bool {
	switch o {
	case OpNone, OpLoad, OpStore, OpPTERead, OpPTEWrite, OpRead, OpWrite, OpUnlock, OpIPI, OpCopyRead, OpDMARead, OpYield:
		return false
	}
	return true
}

// slowStore is Word32.Store and Word64.Store behind their point, where there are buffers.
func (w *Word32) slowStore(c *CPU, obj ObjID, v int32) {
	c.buffer(unsafe.Pointer(w), 4, uint64(uint32(v)), OpWrite, obj)
}

func (w *Word64) slowStore(c *CPU, obj ObjID, v uint64) {
	c.buffer(unsafe.Pointer(w), 8, v, OpWrite, obj)
}

// Release frees the word and tells the regime that obj was written: a plain store.
func (w *SpinWord) Release(c *CPU, obj ObjID) {
	if !c.Det {
		w.Unlock()
		return
	}
	w.releaseDet(c, obj)
}

func (w *SpinWord) releaseDet(c *CPU, obj ObjID) {
	if c.sb != nil {
		c.buffer(unsafe.Pointer(w), 4, 0, OpUnlock, obj)
		return
	}
	w.Unlock()
	c.hook.Wrote(c, obj)
}

// The words that are buffered are moved by loadN and storeN: they have no header.
var _ = [1]struct{}{}[unsafe.Sizeof(SpinWord{})-unsafe.Sizeof(atomic.Uint32{})]
