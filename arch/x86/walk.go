package x86

import (
	"sync/atomic"
	"unsafe"

	"github.com/cowlab/cowlab/kernel/trace"
)

// The geometry of four-level translation: nine bits of the address at each level.
const (
	IndexBits       = 9
	EntriesPerTable = 1 << IndexBits

	PMDShift = PageShift + IndexBits
	PUDShift = PMDShift + IndexBits
	PGDShift = PUDShift + IndexBits

	PMDSize = 1 << PMDShift // 2 MiB: what one PMD entry translates
	PUDSize = 1 << PUDShift // 1 GiB
	PGDSize = 1 << PGDShift // 512 GiB

	PMDMask = ^uint64(PMDSize - 1)
	PUDMask = ^uint64(PUDSize - 1)
	PGDMask = ^uint64(PGDSize - 1)

	// TaskSize is the end of user addresses. Linux 2.6.29 TASK_SIZE64: the
	// lower canonical half less a guard page.
	TaskSize = 0x7ffffffff000
)

// The levels, as PTEObj counts them.
const (
	LevelPTE = iota
	LevelPMD
	LevelPUD
	LevelPGD
	NumLevels
)

// PTEIndex returns the place in a last-level table of the entry for va.
func PTEIndex(va uint64) int { return int(va>>PageShift) & (EntriesPerTable - 1) }

// PMDIndex is PTEIndex for the level above.
func PMDIndex(va uint64) int { return int(va>>PMDShift) & (EntriesPerTable - 1) }

// PUDIndex is PTEIndex two levels above.
func PUDIndex(va uint64) int { return int(va>>PUDShift) & (EntriesPerTable - 1) }

// PGDIndex is PTEIndex for the top level.
func PGDIndex(va uint64) int { return int(va>>PGDShift) & (EntriesPerTable - 1) }

// LevelIndex is PTEIndex for any level.
func LevelIndex(va uint64, level int) int {
	return int(va>>(PageShift+IndexBits*uint(level))) & (EntriesPerTable - 1)
}

// LevelSize returns how many bytes an entry of the level translates.
func LevelSize(level int) uint64 { return 1 << (PageShift + IndexBits*uint(level)) }

// FaultCode is the error code of a page fault, as the processor pushes it.
type FaultCode uint8

// The bits of a fault code, and its special values.
const (
	// FaultProt: the page was present and did not permit the access.
	FaultProt FaultCode = 1 << 0
	// FaultWrite: the access was a write.
	FaultWrite FaultCode = 1 << 1
	// FaultUser: the access came from user mode.
	FaultUser FaultCode = 1 << 2
	// FaultAlign is no page fault: a locked operation on an address that is not
	// a multiple of its size.
	FaultAlign FaultCode = 1 << 6
	// NoFault: the access went through.
	NoFault FaultCode = 0xff
)

// String prints the code as oops messages do.
func (f FaultCode) String() string {
	switch f {
	case NoFault:
		return "none"
	case FaultAlign:
		return "alignment"
	}
	s := "read"
	if f&FaultWrite != 0 {
		s = "write"
	}
	if f&FaultUser != 0 {
		s = "user " + s
	} else {
		s = "kernel " + s
	}
	if f&FaultProt != 0 {
		return s + ", protection"
	}
	return s + ", not present"
}

// Walk is the hardware page walk: what the processor does when the TLB has no
// entry that permits the access. It reads one entry of each level, sets A in
// those it uses and D in the leaf of a write, puts the translation in the TLB
// and returns the leaf and how many bytes it maps (4 KiB, 2 MiB or 1 GiB). If the
// access is not permitted, it returns the code of the page fault and drops
// what the TLB knew of the address.
//
//   - RW and US are combined over all levels; RW binds the kernel too, since
//     Linux runs with CR0.WP set. NX is not looked at: only data is accessed.
//   - A and D are set with a locked compare-and-exchange of the whole entry; if
//     the entry changed since it was read the walk begins again, so that a bit
//     is never set in an entry that no longer permits the access.
//   - An instruction is not interrupted within its walk. What the kernel builds
//     on that (a table may be freed once every CPU has taken the flush
//     interrupt) holds here because interrupts are delivered after the walk
//     only. The caller must therefore look its translation up again.
//   - An entry that names a frame which does not exist and a misaligned large
//     leaf are Nonsense panics.
func (c *CPU) Walk(va uint64, write, user bool) (entry PTE, size uint64, ec FaultCode) {
	c.Trace.Inc(trace.EmuTLBMiss)
	c.now += c.Cost.TLBMiss
	if leaf, ok := c.walkFast(va, write, user); ok {
		if leaf.User() {
			c.fillSmall(va, leaf)
		}
		return leaf, PageSize, NoFault
	}
	off := c.IRQSave()
	for {
		var again bool
		if entry, size, ec, again = c.walkOnce(va, write, user); !again {
			break
		}
		c.Trace.Inc(trace.EmuPTEWalkRetries)
	}
	if ec == NoFault {
		if entry.User() {
			c.fill(va, entry, size)
		}
	} else {
		c.TLB.drop(va)
	}
	c.IRQRestore(off)
	return entry, size, ec
}

// walkFast is the walk where nothing is in its way: no point is due within it,
// a 4 KiB page is mapped, permits the access, and has its A and D bits. It
// charges what walkOnce would, and declines everything else.
func (c *CPU) walkFast(va uint64, write, user bool) (leaf PTE, ok bool) {
	now := c.now + NumLevels*c.opCost[OpPTERead]
	if now >= c.limit.Load() || va >= TaskSize || !c.Mem.Valid(c.CR3) {
		return 0, false
	}
	base, size := c.Mem.base, c.Mem.nframes<<PageShift
	const used = PtePresent | PteAccessed
	e := c.walkRead(base, uint64(c.CR3)<<PageShift, va>>PGDShift)
	if e&(used|PtePSE) != used || uint64(e&ptePFNMask) >= size {
		return 0, false
	}
	perm := e
	e = c.walkRead(base, uint64(e&ptePFNMask), va>>PUDShift)
	if e&(used|PtePSE) != used || uint64(e&ptePFNMask) >= size {
		return 0, false
	}
	perm &= e
	e = c.walkRead(base, uint64(e&ptePFNMask), va>>PMDShift)
	if e&(used|PtePSE) != used || uint64(e&ptePFNMask) >= size {
		return 0, false
	}
	perm &= e
	e = c.walkRead(base, uint64(e&ptePFNMask), va>>PageShift)
	if uint64(e&ptePFNMask) >= size {
		return 0, false
	}
	e &^= (PteRW | PteUser) &^ perm
	want := used
	if write {
		want |= PteRW | PteDirty
	}
	if user {
		want |= PteUser
	}
	if e&want != want {
		return 0, false
	}
	c.now = now
	return e, true
}

// walkRead reads the entry with the given number, modulo the table's size.
func (c *CPU) walkRead(base unsafe.Pointer, table, index uint64) PTE {
	return PTE(atomic.LoadUint64((*uint64)(unsafe.Add(base, table|index&(EntriesPerTable-1)<<3))))
}

// walkOnce makes one pass. The User and RW bits of the entry it returns are
// those of all levels combined.
func (c *CPU) walkOnce(va uint64, write, user bool) (leaf PTE, size uint64, ec FaultCode, again bool) {
	ec = 0
	want := PtePresent
	if write {
		ec |= FaultWrite
		want |= PteRW
	}
	if user {
		ec |= FaultUser
		want |= PteUser
	}
	if va >= TaskSize {
		return 0, 0, ec, false
	}
	mem, table := c.Mem, c.CR3
	perm := PteRW | PteUser
	for level := LevelPGD; ; level-- {
		obj := PTEObj(c.Space, level, va)
		if !mem.Valid(table) {
			panic(Nonsense{What: "page walk, table", Frame: uint64(table), Obj: obj})
		}
		p := mem.entry(table, LevelIndex(va, level))
		c.Point(OpPTERead, obj)
		e := PTE(atomic.LoadUint64(p))
		if !e.HWPresent() {
			return 0, 0, ec, false
		}
		perm &= e
		if level != LevelPTE && !e.Huge() {
			if !e.Young() && !c.setBits(p, obj, e, PteAccessed) {
				return 0, 0, 0, true
			}
			if table = e.PFN(); table == NoPFN {
				panic(Nonsense{What: "page walk", Frame: uint64(e&ptePFNMask) >> PageShift, Obj: obj})
			}
			continue
		}
		if (perm|PtePresent)&want != want {
			return 0, 0, ec | FaultProt, false
		}
		size = LevelSize(level)
		if level == LevelPTE {
			if !mem.Valid(e.PFN()) {
				panic(Nonsense{What: "page walk, page", Frame: uint64(e&ptePFNMask) >> PageShift, Obj: obj})
			}
		} else {
			c.checkHuge(e, level, obj)
		}
		bits := PteAccessed
		if write {
			bits |= PteDirty
		}
		if e&bits != bits {
			if !c.setBits(p, obj, e, bits) {
				return 0, 0, 0, true
			}
			e |= bits
		}
		return e&^(PteRW|PteUser) | perm, size, NoFault, false
	}
}

// setBits sets A, and perhaps D, in an entry that still reads e.
func (c *CPU) setBits(p *uint64, obj ObjID, e, bits PTE) bool {
	c.Point(OpPTERMW, obj)
	if !atomic.CompareAndSwapUint64(p, uint64(e), uint64(e|bits)) {
		return false
	}
	if e&bits&PteAccessed == 0 {
		c.Trace.Inc(trace.EmuHWSetAccessed)
	}
	if bits&^e&PteDirty != 0 {
		c.Trace.Inc(trace.EmuHWSetDirty)
	}
	return true
}

// checkHuge panics unless e is a sane 2 MiB or 1 GiB leaf.
func (c *CPU) checkHuge(e PTE, level int, obj ObjID) {
	pfn := e.PFN()
	last := PFN(LevelSize(level)>>PageShift) - 1
	switch {
	case level > LevelPUD:
		panic(Nonsense{What: "page walk, large leaf above the PUD", Frame: uint64(pfn), Obj: obj})
	case pfn&last != 0:
		panic(Nonsense{What: "page walk, misaligned large leaf", Frame: uint64(pfn), Obj: obj})
	case pfn == NoPFN || !c.Mem.Valid(pfn+last):
		panic(Nonsense{What: "page walk, large page", Frame: uint64(e&ptePFNMask) >> PageShift, Obj: obj})
	}
}

// PeekWalk translates va in the tables under pgd without points, costs or A and
// D bits: for invariants and assertions. It returns the leaf, with RW and User
// combined over the levels, and its size, or zero if nothing the hardware could
// use maps va. Frames that do not exist count as not mapping.
func (m *Memory) PeekWalk(pgd PFN, va uint64) (leaf PTE, size uint64) {
	if va >= TaskSize {
		return 0, 0
	}
	perm := PteRW | PteUser
	for level, table := LevelPGD, pgd; m.Valid(table); level-- {
		e := PTE(atomic.LoadUint64(m.entry(table, LevelIndex(va, level))))
		if !e.HWPresent() {
			break
		}
		perm &= e
		if level == LevelPTE || e.Huge() {
			return e&^(PteRW|PteUser) | perm, LevelSize(level)
		}
		table = e.PFN()
	}
	return 0, 0
}
