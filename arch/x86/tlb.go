package x86

import (
	"math/bits"
	"unsafe"

	"github.com/cowlab/cowlab/kernel/trace"
)

// The TLB's size and shape are the emulator's, not Nehalem's (64 and 512
// entries in two levels): what matters is which translations may be stale, and
// a larger cache keeps them longer. No conclusions are drawn from hit rates.
const (
	tlbSmall = 1024 // entries for 4 KiB pages
	tlbLarge = 64   // entries for 2 MiB pages, and for 2 MiB of a 1 GiB page

	// noTag equals no masked address: a masked address has bits 3 to 11 clear.
	noTag = ^uint64(0)
)

// tlbEntry is one translation.
//
// The read and the write tag are apart so that a hit is a single comparison.
// Both hold the page's address, or noTag; the write tag only where RW is set
// and D was set when the entry was filled, because the processor must write D
// to memory before the first store.
type tlbEntry struct {
	rtag uint64
	wtag uint64
	off  uint64 // physical address less virtual address
	pte  uint32 // the low twelve bits of the leaf, RW and User combined over the levels
	gen  uint32 // TLB.gen when the entry was filled
}

// TLB is the translation cache of one CPU: direct-mapped, without tags for
// address spaces, as processors were in 2009. Only its CPU touches it; other
// CPUs ask for a flush by interrupt.
type TLB struct {
	base  unsafe.Pointer // the memory's frame 0
	small [tlbSmall]tlbEntry
	large [tlbLarge]tlbEntry
	// Which entries may hold something: a flush costs what was filled.
	smallUsed [tlbSmall / 64]uint64
	largeUsed uint64
	// largePart has a bit for each entry that is a part of a 1 GiB page: the processor
	// has no entries of that size, as none had in 2009, and flushes all parts at once.
	largePart uint64
	gen       uint32 // number of flushes so far
	ready     bool   // tags have been initialised
}

// init empties the TLB. A TLB that has been in use costs what it holds.
func (t *TLB) init(mem *Memory) {
	t.base, t.gen = nil, 0
	if mem != nil {
		t.base = mem.base
	}
	if t.ready {
		t.flush()
		t.gen = 0
		return
	}
	for i := range t.small {
		t.small[i].rtag, t.small[i].wtag = noTag, noTag
	}
	for i := range t.large {
		t.large[i].rtag, t.large[i].wtag = noTag, noTag
	}
	t.ready = true
}

func (t *TLB) smallAt(va uint64) *tlbEntry { return &t.small[va>>PageShift&(tlbSmall-1)] }
func (t *TLB) largeAt(va uint64) *tlbEntry { return &t.large[va>>PMDShift&(tlbLarge-1)] }

// fill puts a translation in. The leaf was checked by the walker.
func (c *CPU) fill(va uint64, leaf PTE, size uint64) {
	if size == PageSize {
		c.fillSmall(va, leaf)
		return
	}
	t := &c.TLB
	i := va >> PMDShift & (tlbLarge - 1)
	t.largeUsed |= 1 << i
	t.largePart &^= 1 << i
	if size == PUDSize {
		t.largePart |= 1 << i
		leaf += PTE(va & (PUDSize - 1) & PMDMask)
	}
	t.large[i].set(va&PMDMask, leaf, t.gen)
	c.Mem.touchSpan(leaf.PFN(), 0, PMDSize)
}

// fillSmall puts the translation of a 4 KiB page in.
func (c *CPU) fillSmall(va uint64, leaf PTE) {
	t := &c.TLB
	i := va >> PageShift & (tlbSmall - 1)
	t.smallUsed[i>>6] |= 1 << (i & 63)
	t.small[i].set(va&PageMask, leaf, t.gen)
	c.Mem.touchOne(leaf.PFN())
}

func (e *tlbEntry) set(page uint64, leaf PTE, gen uint32) {
	e.rtag, e.wtag = page, noTag
	if leaf&(PteRW|PteDirty) == PteRW|PteDirty {
		e.wtag = page
	}
	e.off = uint64(leaf&ptePFNMask) - page
	e.pte, e.gen = uint32(leaf&(PageSize-1)), gen
}

// drop forgets the translations of va and reports how many there were.
func (t *TLB) drop(va uint64) (n uint64) {
	if e := t.smallAt(va); e.rtag == va&PageMask {
		e.rtag, e.wtag = noTag, noTag
		n++
	}
	if e := t.largeAt(va); e.rtag == va&PMDMask {
		e.rtag, e.wtag = noTag, noTag
		n++
	}
	for m := t.largePart; m != 0; m &= m - 1 {
		if e := &t.large[bits.TrailingZeros64(m)]; e.rtag != noTag && e.rtag&PUDMask == va&PUDMask {
			e.rtag, e.wtag = noTag, noTag
			n++
		}
	}
	return n
}

// flush forgets everything and reports how many translations there were.
func (t *TLB) flush() (n uint64) {
	for w, m := range t.smallUsed {
		if m == 0 {
			continue
		}
		t.smallUsed[w] = 0
		for ; m != 0; m &= m - 1 {
			e := &t.small[w<<6|bits.TrailingZeros64(m)]
			if e.rtag != noTag {
				n++
			}
			e.rtag, e.wtag = noTag, noTag
		}
	}
	for m := t.largeUsed; m != 0; m &= m - 1 {
		e := &t.large[bits.TrailingZeros64(m)]
		if e.rtag != noTag {
			n++
		}
		e.rtag, e.wtag = noTag, noTag
	}
	t.largeUsed, t.largePart = 0, 0
	return n
}

// FlushTLBOne drops what this CPU has cached of va (invlpg). The caller must
// not be preempted meanwhile.
func (c *CPU) FlushTLBOne(va uint64) {
	c.Point(OpFlushTLB, CPUObj(c.ID))
	c.now += c.Cost.Invlpg
	c.TLB.gen++
	c.Trace.Inc(trace.EmuTLBFlushOne)
	c.Trace.Add(trace.EmuTLBFlushed, c.TLB.drop(va))
}

// FlushTLBAll drops everything this CPU has cached, by reloading CR3. The
// caller must not be preempted meanwhile.
func (c *CPU) FlushTLBAll() { c.LoadCR3(c.CR3, c.Space) }

// LoadCR3 switches to the tables under pgd, which belong to the numbered
// address space, and drops everything cached, as the register's write does. The
// caller must not be preempted meanwhile. Frame 0 means no tables: whoever
// hands out frames keeps it zero and unused.
func (c *CPU) LoadCR3(pgd PFN, space uint32) {
	c.Point(OpFlushTLB, CPUObj(c.ID))
	c.now += c.Cost.CR3
	c.CR3, c.Space = pgd, space
	c.TLB.gen++
	c.Trace.Inc(trace.EmuTLBFlushAll)
	c.Trace.Add(trace.EmuTLBFlushed, c.TLB.flush())
}

// TLBEntryInfo is a translation as invariants and tests see it.
type TLBEntryInfo struct {
	VA       uint64 // first address
	Size     uint64 // 4 KiB or 2 MiB, which may be a part of 1 GiB
	PFN      PFN    // first frame
	Flags    PTE    // the leaf's low bits, RW and User combined over the levels
	Writable bool   // a store goes through without a walk
	Gen      uint32 // how many flushes had gone before when it was filled
}

// Snapshot lists what the CPU's TLB holds, in a fixed order.
func (c *CPU) Snapshot() []TLBEntryInfo { return c.AppendTLB(nil) }

// AppendTLB is Snapshot into a buffer of the caller's.
func (c *CPU) AppendTLB(dst []TLBEntryInfo) []TLBEntryInfo {
	t := &c.TLB
	for w, m := range t.smallUsed {
		for ; m != 0; m &= m - 1 {
			if e := &t.small[w<<6|bits.TrailingZeros64(m)]; e.rtag != noTag {
				dst = append(dst, e.info(PageSize))
			}
		}
	}
	for m := t.largeUsed; m != 0; m &= m - 1 {
		if e := &t.large[bits.TrailingZeros64(m)]; e.rtag != noTag {
			dst = append(dst, e.info(PMDSize))
		}
	}
	return dst
}

// TLBGen returns the number of flushes this CPU has made.
func (c *CPU) TLBGen() uint32 { return c.TLB.gen }

func (e *tlbEntry) info(size uint64) TLBEntryInfo {
	return TLBEntryInfo{VA: e.rtag, Size: size, PFN: PFN((e.rtag + e.off) >> PageShift),
		Flags: PTE(e.pte), Writable: e.wtag != noTag, Gen: e.gen}
}

// Lookup returns the cached translation that would serve an access, without a
// walk, a point or a cost: for tests and invariants.
func (c *CPU) Lookup(va uint64, write bool) (TLBEntryInfo, bool) {
	for _, s := range [2]struct {
		e    *tlbEntry
		size uint64
	}{{c.TLB.smallAt(va), PageSize}, {c.TLB.largeAt(va), PMDSize}} {
		tag := s.e.rtag
		if write {
			tag = s.e.wtag
		}
		if tag == va&^(s.size-1) {
			return s.e.info(s.size), true
		}
	}
	return TLBEntryInfo{}, false
}
