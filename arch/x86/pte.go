package x86

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// PTE is the value of a page-table entry of any level, as the hardware defines
// it: twelve flag bits, a 40-bit frame number, and no-execute on top. Linux
// 2.6.29 arch/x86/include/asm/pgtable.h.
type PTE uint64

// The flags.
const (
	PtePresent  PTE = 1 << 0
	PteRW       PTE = 1 << 1
	PteUser     PTE = 1 << 2
	PtePWT      PTE = 1 << 3
	PtePCD      PTE = 1 << 4
	PteAccessed PTE = 1 << 5
	PteDirty    PTE = 1 << 6
	PtePSE      PTE = 1 << 7 // at PMD level: a 2 MiB leaf
	PteGlobal   PTE = 1 << 8
	PteSpecial  PTE = 1 << 9 // software: no struct Page stands behind the entry
	PteNX       PTE = 1 << 63

	// PteFile marks a nonlinear file entry where Present is clear.
	PteFile = PteDirty
	// PteProtNone marks a mapped page without any access where Present is clear.
	PteProtNone = PteGlobal

	// PTEFlagsMask has the bits that are not the frame number.
	PTEFlagsMask = ^ptePFNMask

	ptePFNMask PTE = (1<<52 - 1) &^ (1<<PageShift - 1)

	// PTETable is what an entry that points to a lower table carries: all
	// permissions are left to the leaf. Linux 2.6.29 _PAGE_TABLE.
	PTETable = PtePresent | PteRW | PteUser | PteAccessed | PteDirty

	// PTEChangeMask has the bits that Modify keeps. Linux 2.6.29 _PAGE_CHG_MASK.
	PTEChangeMask = ptePFNMask | PtePCD | PtePWT | PteSpecial | PteAccessed | PteDirty
)

// NoPFN is a frame number that no memory has.
const NoPFN = ^PFN(0)

// MkPTE makes an entry that maps pfn with the given flags.
func MkPTE(pfn PFN, prot PTE) PTE { return PTE(pfn)<<PageShift | prot&PTEFlagsMask }

// None reports whether the entry is empty.
func (e PTE) None() bool { return e == 0 }

// Present reports whether a page is mapped, in the kernel's sense: a PROT_NONE
// page is present although the hardware must not use it.
func (e PTE) Present() bool { return e&(PtePresent|PteProtNone) != 0 }

// HWPresent reports whether the hardware may use the entry.
func (e PTE) HWPresent() bool { return e&PtePresent != 0 }

// Write reports the RW bit.
func (e PTE) Write() bool { return e&PteRW != 0 }

// Dirty reports the D bit.
func (e PTE) Dirty() bool { return e&PteDirty != 0 }

// Young reports the A bit.
func (e PTE) Young() bool { return e&PteAccessed != 0 }

// User reports the US bit.
func (e PTE) User() bool { return e&PteUser != 0 }

// Special reports that no struct Page stands behind the entry.
func (e PTE) Special() bool { return e&PteSpecial != 0 }

// Huge reports a leaf above the last level.
func (e PTE) Huge() bool { return e&PtePSE != 0 }

// ProtNone reports a mapped page that nobody may touch.
func (e PTE) ProtNone() bool { return e&(PtePresent|PteProtNone) == PteProtNone }

// PFN returns the frame number, or NoPFN if the entry names a frame beyond any
// memory that can be emulated.
func (e PTE) PFN() PFN {
	n := uint64(e&ptePFNMask) >> PageShift
	if n > uint64(NoPFN) {
		return NoPFN
	}
	return PFN(n)
}

// Flags returns everything but the frame number.
func (e PTE) Flags() PTE { return e & PTEFlagsMask }

// MkWrite sets RW.
func (e PTE) MkWrite() PTE { return e | PteRW }

// WrProtect clears RW.
func (e PTE) WrProtect() PTE { return e &^ PteRW }

// MkDirty sets D.
func (e PTE) MkDirty() PTE { return e | PteDirty }

// MkClean clears D.
func (e PTE) MkClean() PTE { return e &^ PteDirty }

// MkYoung sets A.
func (e PTE) MkYoung() PTE { return e | PteAccessed }

// MkOld clears A.
func (e PTE) MkOld() PTE { return e &^ PteAccessed }

// MkSpecial marks the entry as having no struct Page.
func (e PTE) MkSpecial() PTE { return e | PteSpecial }

// MkHuge makes the entry a leaf above the last level.
func (e PTE) MkHuge() PTE { return e | PtePSE }

// Modify replaces the protection and keeps frame, A and D. Linux 2.6.29
// pte_modify: a huge entry's PSE bit must be part of prot.
func (e PTE) Modify(prot PTE) PTE { return e&PTEChangeMask | prot&^PTEChangeMask }

// String prints the entry as a page-table dump does.
func (e PTE) String() string {
	switch {
	case e.None():
		return "none"
	case e.IsSwap():
		s := e.Swap()
		return fmt.Sprintf("swap %d:%#x", s.Type, s.Offset)
	case e.IsFile():
		return fmt.Sprintf("file %#x", e.FileOffset())
	}
	b := []byte("--------")
	for i, f := range [...]struct {
		bit  PTE
		char byte
	}{{PteRW, 'W'}, {PteUser, 'U'}, {PteAccessed, 'A'}, {PteDirty, 'D'}, {PtePSE, 'H'},
		{PteGlobal, 'G'}, {PteSpecial, 'S'}, {PteNX, 'X'}} {
		if e&f.bit != 0 {
			b[i] = f.char
		}
	}
	if e.ProtNone() {
		b[5] = 'N'
	}
	return fmt.Sprintf("pfn %#x %s", uint64(e&ptePFNMask)>>PageShift, b)
}

// SwapEntry says where a page that is not in memory is: a swap area and a slot
// in it.
type SwapEntry struct {
	Type   uint8  // swap area, 5 bits
	Offset uint64 // slot, 55 bits
}

// The layout of a swap entry in a PTE: Linux 2.6.29
// arch/x86/include/asm/pgtable_64.h. The type fits between Present and File,
// the offset begins above ProtNone.
const (
	SwapTypeBits    = 5
	swapTypeShift   = 1
	swapOffsetShift = 9
)

// IsSwap reports an entry that names a swap slot (or a page being migrated).
func (e PTE) IsSwap() bool { return e != 0 && e&(PtePresent|PteProtNone|PteFile) == 0 }

// PteSwpExclusive marks, for policies of later kernels, the entry of a page that belongs to
// one address space alone (Linux 5.19 _PAGE_SWP_EXCLUSIVE). 2.6.29 leaves the bit clear.
const PteSwpExclusive = PtePSE

// SwpExclusive reports the mark of a swap entry.
func (e PTE) SwpExclusive() bool { return e.IsSwap() && e&PteSwpExclusive != 0 }

// SwpMkExclusive sets it.
func (e PTE) SwpMkExclusive() PTE { return e | PteSwpExclusive }

// SwpClearExclusive clears it.
func (e PTE) SwpClearExclusive() PTE { return e &^ PteSwpExclusive }

// Swap decodes a swap entry.
func (e PTE) Swap() SwapEntry {
	return SwapEntry{
		Type:   uint8(e>>swapTypeShift) & (1<<SwapTypeBits - 1),
		Offset: uint64(e) >> swapOffsetShift,
	}
}

// MkSwapPTE encodes a swap entry. Slot 0 of area 0 would be an empty entry;
// Linux keeps slot 0 for the swap header.
func MkSwapPTE(s SwapEntry) PTE {
	return PTE(s.Type&(1<<SwapTypeBits-1))<<swapTypeShift | PTE(s.Offset)<<swapOffsetShift
}

// IsFile reports an entry of a nonlinear file mapping that is not in memory.
func (e PTE) IsFile() bool { return e&(PtePresent|PteProtNone) == 0 && e&PteFile != 0 }

// FileOffset decodes the page offset of a nonlinear file entry.
func (e PTE) FileOffset() uint64 { return uint64(e&ptePFNMask) >> PageShift }

// MkFilePTE encodes a nonlinear file entry. The offset has at most 40 bits.
func MkFilePTE(off uint64) PTE { return PTE(off)<<PageShift&ptePFNMask | PteFile }

// PTERef is the place of an entry: a word in a frame that serves as a page
// table. It is a value; the zero value refers to nothing.
//
// Every method but Peek and Poke passes a schedule point before it acts. Who
// may write is the kernel's business (the ptl); the hardware walker sets A and
// D at any time, which is why read-modify-write forms exist.
type PTERef struct {
	p *uint64
	// Obj names the entry in schedule points.
	Obj ObjID
}

// NewPTERef refers to entry index (0..511) of the table in frame table. A frame
// that does not exist is a Nonsense panic.
func NewPTERef(mem *Memory, table PFN, index int, obj ObjID) PTERef {
	if !mem.Valid(table) {
		panic(Nonsense{What: "page table", Frame: uint64(table), Obj: obj})
	}
	return PTERef{p: mem.entry(table, index), Obj: obj}
}

// entry is the address of an entry; table must be valid.
func (m *Memory) entry(table PFN, index int) *uint64 {
	return (*uint64)(unsafe.Add(m.Frame(table), uintptr(index&(EntriesPerTable-1))*8))
}

// IsNil reports whether the reference refers to nothing.
func (r PTERef) IsNil() bool { return r.p == nil }

// Index returns the entry's place in its table, 0..511.
func (r PTERef) Index() int { return int(uintptr(unsafe.Pointer(r.p))>>3) & (EntriesPerTable - 1) }

// Next refers to the following entry of the same table. The caller knows that
// there is one; obj names it.
func (r PTERef) Next(obj ObjID) PTERef {
	return PTERef{p: (*uint64)(unsafe.Add(unsafe.Pointer(r.p), 8)), Obj: obj}
}

// Load reads the entry.
func (r PTERef) Load(c *CPU) PTE {
	c.Point(OpPTERead, r.Obj)
	return PTE(atomic.LoadUint64(r.p))
}

// Peek reads the entry without a point: for invariants, traces and where the
// caller has just passed the point itself.
func (r PTERef) Peek() PTE { return PTE(atomic.LoadUint64(r.p)) }

// Set writes the entry with a plain store (set_pte). What A and D the hardware
// set since the entry was read is lost, so the entry should not be live for
// other CPUs, or its old value should not matter.
func (r PTERef) Set(c *CPU, e PTE) {
	c.now += c.opCost[OpPTEWrite]
	if c.now >= c.limit.Load() && r.slowSet(c, e) {
		return
	}
	storePTEWord(r.p, uint64(e))
}

// slowSet is the slow path of Set's point; it reports whether the store went into a
// store buffer.
//
//go:noinline
func (r PTERef) slowSet(c *CPU, e PTE) bool {
	c.hook.Point(c, OpPTEWrite, r.Obj)
	if c.sb == nil {
		return false
	}
	c.buffer(unsafe.Pointer(r.p), 8, uint64(e), OpPTEWrite, r.Obj)
	return true
}

// Poke writes the entry without a point: for tables nobody else can see yet.
func (r PTERef) Poke(e PTE) { storePTEWord(r.p, uint64(e)) }

// Xchg swaps the entry (ptep_get_and_clear with e zero) and returns the old one.
func (r PTERef) Xchg(c *CPU, e PTE) PTE {
	c.Point(OpPTERMW, r.Obj)
	return PTE(atomic.SwapUint64(r.p, uint64(e)))
}

// CAS replaces the entry if it is still old.
func (r PTERef) CAS(c *CPU, old, e PTE) bool {
	c.Point(OpPTERMW, r.Obj)
	return atomic.CompareAndSwapUint64(r.p, uint64(old), uint64(e))
}

// SetWrprotect clears RW with a locked and, without a flush (ptep_set_wrprotect).
func (r PTERef) SetWrprotect(c *CPU) {
	c.Point(OpPTERMW, r.Obj)
	atomic.AndUint64(r.p, ^uint64(PteRW))
}

// TestAndClearYoung clears A and reports whether it was set
// (ptep_test_and_clear_young).
func (r PTERef) TestAndClearYoung(c *CPU) bool {
	c.Point(OpPTERMW, r.Obj)
	if PTE(atomic.LoadUint64(r.p))&PteAccessed == 0 {
		return false
	}
	return PTE(atomic.AndUint64(r.p, ^uint64(PteAccessed)))&PteAccessed != 0
}
