package x86

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cowlab/cowlab/kernel/trace"
)

// PFN numbers a physical page frame from 0.
type PFN uint32

// Page and sector geometry.
const (
	PageShift  = 12
	PageSize   = 1 << PageShift
	PageMask   = ^uint64(PageSize - 1) // clears the offset within a page
	SectorSize = 512                   // what a device moves, and a point covers, at a time

	sectorsPerPage = PageSize / SectorSize
)

// Nonsense is what the hardware panics with when an address of physical memory
// makes no sense: an entry names a frame that does not exist, a device is told
// to write beyond memory. Real hardware would raise a machine check or a
// reserved-bit fault, or quietly do harm; here it is an oops.
type Nonsense struct {
	What  string // what was being done
	Frame uint64 // the frame number as found, which may exceed a PFN
	Obj   ObjID  // the entry that named it, or zero
}

// Error describes the nonsense.
func (n Nonsense) Error() string {
	if n.Obj.Class() == ClassPTE {
		mm, level, va := SplitPTEObj(n.Obj)
		return fmt.Sprintf("x86: %s: no frame %#x (address space %d, level %d, address %#x)",
			n.What, n.Frame, mm, level, va)
	}
	return fmt.Sprintf("x86: %s: no frame %#x", n.What, n.Frame)
}

// MemoryOptions describes a machine's physical memory.
type MemoryOptions struct {
	// Bytes is the size of memory, a multiple of 4 KiB, at least 1 MiB.
	Bytes uint64
}

// Memory is the physical memory of one machine: frames 0 to Frames()-1 and an
// array with one record for each. Both begin zero and cost the host only what
// is touched.
//
// The frames are one flat stretch of host memory, on purpose. A device or a
// stale translation that uses a frame after it was freed and handed out again
// hits whatever is there now, a page table included, as on a real machine.
type Memory struct {
	base    unsafe.Pointer // frame 0; immutable until Release
	nframes uint64         // immutable until Release
	b       *backing       // nil after Release
	host    *Host          // immutable

	pages     unsafe.Pointer // the page array, nil before PageArray; immutable afterwards
	pageShift uint           // log2 of a record's size; immutable afterwards
}

// Frames returns the number of frames.
func (m *Memory) Frames() uint64 { return m.nframes }

// Valid reports whether the frame exists.
func (m *Memory) Valid(pfn PFN) bool { return uint64(pfn) < m.nframes }

// Frame returns the host address of a frame. The frame must be valid: this is
// the hottest line of the emulator and does not check.
func (m *Memory) Frame(pfn PFN) unsafe.Pointer {
	return unsafe.Add(m.base, uintptr(pfn)<<PageShift)
}

// Bytes returns a frame's 4096 bytes as a slice that aliases it. Where devices
// or other CPUs may be at work, use the copying methods.
func (m *Memory) Bytes(pfn PFN) []byte {
	if !m.Valid(pfn) {
		panic(Nonsense{What: "bytes of a frame", Frame: uint64(pfn)})
	}
	return unsafe.Slice((*byte)(m.Frame(pfn)), PageSize)
}

// PageArray returns a zero array with one record of size bytes for each frame;
// size must be a power of two. The array is made once: later calls return the
// same one and must ask for the same size. It must hold no Go pointers, and
// records of frames never passed to Touch must stay zero, because Release only
// cleans the others.
func (m *Memory) PageArray(size uintptr) unsafe.Pointer {
	if size == 0 || size&(size-1) != 0 {
		panic(fmt.Sprintf("x86: page array records of %d bytes: not a power of two", size))
	}
	if m.pages != nil {
		if size != 1<<m.pageShift {
			panic(fmt.Sprintf("x86: page array asked for twice, with records of %d and %d bytes", 1<<m.pageShift, size))
		}
		return m.pages
	}
	m.pageShift = uint(lowestBit(uint64(size)))
	m.pages = m.b.pageArray(m.nframes, size)
	return m.pages
}

// PageIndex returns the frame whose record in the page array p points to.
func (m *Memory) PageIndex(p unsafe.Pointer) PFN {
	return PFN((uintptr(p) - uintptr(m.pages)) >> m.pageShift)
}

// Touch tells that frames [pfn, pfn+n) leave the region that was never used:
// they and their records may be written from now on, and Release will clean
// them. It reports false, and marks nothing, when the host cannot hold the
// frames that are new: the allocator then is out of memory. Touching again is
// harmless. Anybody may call it.
func (m *Memory) Touch(pfn PFN, n int) bool {
	if n <= 0 {
		return true
	}
	if uint64(pfn)+uint64(n) > m.nframes {
		panic(Nonsense{What: "touching frames", Frame: uint64(pfn) + uint64(n) - 1})
	}
	fresh := m.b.countFresh(uint64(pfn), uint64(n))
	if fresh > 0 && !m.host.reserve(fresh) {
		return false
	}
	// Somebody else may have touched some of them meanwhile.
	if got := m.b.mark(uint64(pfn), uint64(n)); got != fresh {
		m.host.resident.Add(int64(got) - int64(fresh))
	}
	return true
}

// touchOne is Touch for a single frame that the hardware is about to write
// although the allocator never handed it out. It cannot fail: the write happens.
func (m *Memory) touchOne(pfn PFN) {
	if !m.touched(pfn) {
		m.touchNew(pfn)
	}
}

//go:noinline
func (m *Memory) touchNew(pfn PFN) { m.host.resident.Add(int64(m.b.mark(uint64(pfn), 1))) }

// EachTouched calls fn with the contents of every frame that may have been written, in
// ascending order. The machine must stand still.
func (m *Memory) EachTouched(fn func(pfn PFN, b []byte)) {
	for pfn := PFN(0); uint64(pfn) < m.nframes; pfn++ {
		if m.b.touched[pfn>>6] == 0 {
			pfn |= 63
		} else if m.touched(pfn) {
			fn(pfn, m.Bytes(pfn))
		}
	}
}

// Prefault makes the host allocate frames [pfn, pfn+n) now, so that the first
// touch of each is not timed. The contents stay zero. It is Touch otherwise.
func (m *Memory) Prefault(pfn PFN, n int) bool {
	if !m.Touch(pfn, n) {
		return false
	}
	if n > 0 {
		m.b.ram.populate(uintptr(pfn)<<PageShift, uintptr(n)<<PageShift)
	}
	return true
}

// Release gives the memory back to its host, cleaned, for the next machine.
// Nothing may use it, or pointers into it, afterwards.
func (m *Memory) Release() {
	b := m.b
	if b == nil {
		return
	}
	m.b, m.base, m.nframes, m.pages = nil, nil, 0, nil
	m.host.recycle(b)
}

// ClearPage clears a frame on behalf of the kernel. In the deterministic
// regimes it does so by sectors with a point before each; in the parallel
// regime in one move. The caller must not be preempted meanwhile.
func (m *Memory) ClearPage(c *CPU, pfn PFN) {
	if !m.Valid(pfn) {
		panic(Nonsense{What: "clearing a page", Frame: uint64(pfn)})
	}
	c.Trace.Inc(trace.EmuPageClears)
	p := m.Frame(pfn)
	if !c.Det {
		c.Point(OpCopyWrite, FrameObj(pfn, 0))
		c.Charge(c.Cost.ClearPage)
		zero(p, PageSize)
		return
	}
	left := c.Cost.ClearPage
	for s := uint64(0); s < sectorsPerPage; s++ {
		share := left / (sectorsPerPage - s)
		left -= share
		c.Charge(share)
		c.Point(OpCopyWrite, FrameObj(pfn, s*SectorSize))
		zero(unsafe.Add(p, s*SectorSize), SectorSize)
	}
}

// CopyPage copies a frame on behalf of the kernel, in the manner of ClearPage:
// in the deterministic regimes each sector is read after one point and written
// after another, so the copy of a page under DMA can be torn between sectors.
func (m *Memory) CopyPage(c *CPU, dst, src PFN) {
	if !m.Valid(dst) || !m.Valid(src) {
		panic(Nonsense{What: "copying a page", Frame: uint64(max(dst, src))})
	}
	c.Trace.Inc(trace.EmuPageCopies)
	d, s := m.Frame(dst), m.Frame(src)
	if !c.Det {
		c.Point(OpCopyWrite, FrameObj(dst, 0))
		c.Charge(c.Cost.CopyPage)
		move(d, s, PageSize)
		return
	}
	var buf [SectorSize]byte
	left := c.Cost.CopyPage
	for i := uint64(0); i < sectorsPerPage; i++ {
		share := left / (sectorsPerPage - i)
		left -= share
		off := i * SectorSize
		c.Charge(share)
		c.Point(OpCopyRead, FrameObj(src, off))
		move(unsafe.Pointer(&buf), unsafe.Add(s, off), SectorSize)
		c.Point(OpCopyWrite, FrameObj(dst, off))
		move(unsafe.Add(d, off), unsafe.Pointer(&buf), SectorSize)
	}
}

// ClearHuge clears n frames of a huge page on behalf of the kernel, with a point
// for each frame and not for each sector: 2 MiB would be 4096 of them. Frames that
// were never written are known to be zero and cost the host nothing. The caller must
// not be preempted meanwhile.
func (m *Memory) ClearHuge(c *CPU, pfn PFN, n int) {
	if uint64(pfn)+uint64(n) > m.nframes {
		panic(Nonsense{What: "clearing a huge page", Frame: uint64(pfn)})
	}
	for f := pfn; f < pfn+PFN(n); f++ {
		c.Trace.Inc(trace.EmuPageClears)
		c.Point(OpCopyWrite, FrameObj(f, 0))
		c.Charge(c.Cost.ClearPage)
		if m.touched(f) {
			zero(m.Frame(f), PageSize)
		}
	}
}

// CopyHuge copies n frames of a huge page on behalf of the kernel. In the deterministic
// regimes each frame is read after one point and written after another, so the copy
// of a page under DMA can be torn between frames, and not within them.
func (m *Memory) CopyHuge(c *CPU, dst, src PFN, n int) {
	if uint64(max(dst, src))+uint64(n) > m.nframes {
		panic(Nonsense{What: "copying a huge page", Frame: uint64(max(dst, src))})
	}
	var buf [PageSize]byte
	for i := range PFN(n) {
		c.Trace.Inc(trace.EmuPageCopies)
		d, s := m.Frame(dst+i), m.Frame(src+i)
		if c.Det {
			c.Point(OpCopyRead, FrameObj(src+i, 0))
		}
		if !m.touched(src+i) && !m.touched(dst+i) { // zeroes onto zeroes
			c.Point(OpCopyWrite, FrameObj(dst+i, 0))
			c.Charge(c.Cost.CopyPage)
			continue
		}
		m.touchOne(dst + i)
		if !c.Det {
			c.Point(OpCopyWrite, FrameObj(dst+i, 0))
			c.Charge(c.Cost.CopyPage)
			move(d, s, PageSize)
			continue
		}
		move(unsafe.Pointer(&buf), s, PageSize)
		c.Point(OpCopyWrite, FrameObj(dst+i, 0))
		c.Charge(c.Cost.CopyPage)
		move(d, unsafe.Pointer(&buf), PageSize)
	}
}

// touched reports whether a frame may have been written since the machine was made.
func (m *Memory) touched(pfn PFN) bool {
	return atomic.LoadUint64(&m.b.touched[pfn>>6])>>(pfn&63)&1 != 0
}

// ReadFrame copies from a frame, starting at byte off of it, into a kernel
// buffer; WriteFrame the other way. They are how the kernel looks at page-cache
// contents while devices and user mappings may be at work: in the deterministic
// regimes each sector is a point. The range may run on into the frames that
// follow.
func (m *Memory) ReadFrame(c *CPU, pfn PFN, off uint64, dst []byte) {
	m.access(c, OpCopyRead, pfn, off, dst)
}

// WriteFrame copies a kernel buffer into a frame; see ReadFrame.
func (m *Memory) WriteFrame(c *CPU, pfn PFN, off uint64, src []byte) {
	m.access(c, OpCopyWrite, pfn, off, src)
}

func (m *Memory) access(c *CPU, op Op, pfn PFN, off uint64, buf []byte) {
	p := m.span("kernel access", pfn, off, len(buf))
	for done := 0; done < len(buf); {
		n := len(buf) - done
		at := off + uint64(done)
		if c.Det {
			n = min(n, int(SectorSize-at%SectorSize))
		}
		c.Charge(c.Cost.CopyBytes16 * uint64(n+15) / 16)
		c.Point(op, FrameObj(pfn+PFN(at>>PageShift), at))
		if q, b := unsafe.Add(p, done), unsafe.Pointer(&buf[done]); op == OpCopyRead {
			move(b, q, n)
		} else {
			m.touchSpan(pfn, at, n)
			move(q, b, n)
		}
		done += n
	}
}

// DMAWrite is a device writing memory: bytes go to the frame from byte off of
// it on, and into the frames that follow. The device side has no CPU and passes
// no point; whoever emulates the device makes each sector a step of its own. An
// address outside memory is a Nonsense panic.
func (m *Memory) DMAWrite(pfn PFN, off uint64, src []byte) {
	p := m.span("DMA write", pfn, off, len(src))
	if len(src) > 0 {
		m.touchSpan(pfn, off, len(src))
		move(p, unsafe.Pointer(unsafe.SliceData(src)), len(src))
	}
}

// DMARead is a device reading memory; see DMAWrite.
func (m *Memory) DMARead(pfn PFN, off uint64, dst []byte) {
	p := m.span("DMA read", pfn, off, len(dst))
	if len(dst) > 0 {
		move(unsafe.Pointer(unsafe.SliceData(dst)), p, len(dst))
	}
}

// span checks that n bytes from byte off of pfn lie in memory and returns
// their host address.
func (m *Memory) span(what string, pfn PFN, off uint64, n int) unsafe.Pointer {
	size := m.nframes << PageShift
	at := uint64(pfn) << PageShift
	if at >= size || off > size-at || uint64(n) > size-at-off {
		panic(Nonsense{What: what, Frame: uint64(pfn) + off>>PageShift})
	}
	return unsafe.Add(m.base, at+off)
}

// touchSpan marks the frames of a write that did not go through the allocator.
func (m *Memory) touchSpan(pfn PFN, off uint64, n int) {
	last := pfn + PFN((off+uint64(n)-1)>>PageShift)
	for f := pfn + PFN(off>>PageShift); f <= last; f++ {
		m.touchOne(f)
	}
}
