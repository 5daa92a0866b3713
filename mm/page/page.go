package page

import (
	"github.com/cowlab/cowlab/arch/x86"
)

// Size is the size of a struct Page in bytes: one cache line, so that two CPUs
// that count references of neighbouring pages do not disturb each other.
const Size = 64

// shift is log2(Size).
const shift = 6

// Page describes one physical page frame (struct page). There is one for each
// frame of the machine, in one array (mem_map), whether the frame is used or not.
//
// A Page holds no Go pointers: the collector never looks at the array, and a
// machine with 64 GiB pays only for the part it has used. It is valid when all
// zero: that is a frame which was never allocated.
type Page struct {
	// Flags holds the bits of type Flag. Atomic.
	Flags x86.Word64
	// Count is the number of references (_count); 0 is free, or frozen by
	// FreezeRefs. Atomic.
	Count x86.Word32
	// MapCount is the number of page-table entries that map the page. Linux 2.6.29
	// stores one less; here 0 is unmapped, so that a zero Page is valid. Atomic.
	MapCount x86.Word32
	// Mapping is the handle of what the page belongs to: an address space, or
	// an anon_vma if bit 0 (MappingAnon) is set; 0 is nothing. Protected by the
	// page lock; set without it on pages nobody else can see. A page table keeps its
	// lock in this word and the next two: see Map.PTL.
	Mapping uint64
	// Index is the offset within the mapping, in pages. Protected like Mapping.
	Index uint64
	// Private is the swap entry while the page is in the swap cache, else the
	// buffers of a file system. Protected by the page lock.
	Private uint64
	// next and prev link the page into a free list or an LRU list, by pfn; 0
	// ends a list. Protected by the lock of that list.
	next, prev uint32
	// Policy is the word that policies may use as they like; it is zero when the
	// page is allocated. Atomic.
	Policy x86.Word64
	// head is the pfn of a tail page's head. Immutable while the compound page lives.
	head uint32
	// order is the order of a free block (with flag Buddy; protected by the zone
	// lock) or of a compound page (with flag Head; immutable while it lives).
	order uint8
	// dtor is the number of the compound page's destructor. Protected like order.
	dtor uint8
	_    uint16
}

// MappingAnon is the bit of Page.Mapping that says that the handle is that of
// an anon_vma (PAGE_MAPPING_ANON).
const MappingAnon = 1

// Anon reports whether the page is an anonymous one (PageAnon). No point: a
// page changes sides only while nobody else sees it. Swap-in may be writing the
// same value, or a relative's, at this moment.
//
//go:norace
func (p *Page) Anon() bool { return p.Mapping&MappingAnon != 0 }

// KSM reports whether the page is one that KSM has merged (PageKsm of Linux 2.6.32): an
// anonymous one that no anon_vma leads to. No point: it is one or will never be.
//
//go:norace
func (p *Page) KSM() bool { return p.Mapping == MappingAnon }

// RacyMapping and RacyIndex read the fields for rmap, which has not locked the page: it
// checks what it finds against the ptes.
//
//go:norace
func (p *Page) RacyMapping() uint64 { return p.Mapping }

// RacyIndex is the index; see RacyMapping.
//
//go:norace
func (p *Page) RacyIndex() uint64 { return p.Index }

// RacyPrivate is the private word, for who has not locked the page and can do with an old one.
//
//go:norace
func (p *Page) RacyPrivate() uint64 { return p.Private }

// Has reports whether flag f is set, without a schedule point; see Map.TestFlag.
func (p *Page) Has(f Flag) bool { return p.Flags.Peek()&(1<<f) != 0 }

// Mapped reports whether any page-table entry maps the page (page_mapped),
// without a schedule point; see Map.Mapped.
func (p *Page) Mapped() bool { return p.MapCount.Peek() > 0 }

// SwapBacked reports whether the page goes to swap rather than to a file. Its
// opposite is page_is_file_cache. No point.
func (p *Page) SwapBacked() bool { return p.Has(SwapBacked) }

// Order returns the order of a compound page's head; 0 for any other page.
func (p *Page) Order() int {
	if !p.Has(Head) {
		return 0
	}
	return int(p.order)
}

// Pooled reports whether the page is a huge page that waits in its pool: a compound
// page with a destructor of its own, and without references. No point.
func (p *Page) Pooled() bool { return p.Has(Head) && Dtor(p.dtor) != DtorFree && p.Count.Peek() == 0 }
