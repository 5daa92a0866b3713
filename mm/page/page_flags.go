package page

import (
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Flag is the number of a bit of Page.Flags. Names and order follow Linux
// 2.6.29 include/linux/page-flags.h:enum pageflags.
type Flag uint8

// The page flags. Comments say what protects a flag beyond its being changed
// atomically.
const (
	Locked       Flag = iota // the page lock: see Map.LockPage
	Error                    // I/O failed; page lock
	Referenced               // touched since last looked at by reclaim
	Uptodate                 // contents are valid; set before the page is visible or under its lock
	Dirty                    // contents must be written before the frame is re-used
	LRU                      // on an LRU list; the zone's LRU lock
	Active                   // on an active list, or to be put there; the LRU lock
	Slab                     // belongs to kernel objects
	OwnerPriv1               // for the owner's use
	Arch1                    // for the architecture's use
	Reserved                 // never to be allocated, swapped or freed
	Private                  // Private holds a file system's data (PG_private); page lock
	Writeback                // being written; set under the page lock, cleared by completion
	Head                     // first page of a compound page; immutable while it lives
	Tail                     // other pages of a compound page; immutable while it lives
	SwapCache                // in the swap cache, Private is the entry; page lock and tree lock
	MappedToDisk             // has blocks on disk
	Reclaim                  // to be rotated to the tail of its list when writing ends
	Buddy                    // first page of a free block; the zone lock
	SwapBacked               // goes to swap; set before the page is visible
	Unevictable              // on the unevictable list, or to be put there; the LRU lock
	Mlocked                  // some VM_LOCKED vma maps it
	Policy0                  // four bits for policies
	Policy1
	Policy2
	Policy3
	NumFlags
)

var flagNames = [NumFlags]string{
	"locked", "error", "referenced", "uptodate", "dirty", "lru", "active", "slab", "owner_priv_1",
	"arch_1", "reserved", "private", "writeback", "head", "tail", "swapcache", "mappedtodisk", "reclaim",
	"buddy", "swapbacked", "unevictable", "mlocked", "policy0", "policy1", "policy2", "policy3",
}

// String returns the flag's name as 2.6.29 spells it, in lower case.
func (f Flag) String() string {
	if f < NumFlags {
		return flagNames[f]
	}
	return "flag?"
}

// FlagNames lists the flags that are set in a flags word, separated by bars;
// "-" if there is none.
func FlagNames(flags uint64) string {
	var b strings.Builder
	for f := range NumFlags {
		if flags&(1<<f) != 0 {
			if b.Len() > 0 {
				b.WriteByte('|')
			}
			b.WriteString(flagNames[f])
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

const (
	// compoundFlags tells a part of a compound page from an ordinary page.
	compoundFlags = 1<<Head | 1<<Tail

	// checkAtFree are the flags that a page must not have when it is freed
	// (PAGE_FLAGS_CHECK_AT_FREE).
	checkAtFree = 1<<LRU | 1<<Private | 1<<Locked | 1<<Buddy | 1<<Writeback | 1<<Slab |
		1<<SwapCache | 1<<Active | 1<<Unevictable | 1<<Mlocked | 1<<Reserved

	// checkAtPrep are the flags that a page must not have when it is
	// allocated: any at all (PAGE_FLAGS_CHECK_AT_PREP).
	checkAtPrep = 1<<NumFlags - 1
)

// TestFlag reports whether a flag is set: a visible read, with a point.
func (m *Map) TestFlag(t *sched.Task, p *Page, f Flag) bool {
	return p.Flags.Load(t.C, m.obj(p, x86.PageFlags))&(1<<f) != 0
}

// Test reports whether a flag is set, without a point. It is for flags that
// cannot change under the caller, for assertions and for reports; where another
// CPU may change the flag, use TestFlag.
func (m *Map) Test(p *Page, f Flag) bool { return p.Flags.Peek()&(1<<f) != 0 }

// SetFlag sets a flag atomically (set_bit).
func (m *Map) SetFlag(t *sched.Task, p *Page, f Flag) {
	p.Flags.Or(t.C, m.obj(p, x86.PageFlags), 1<<f)
}

// ClearFlag clears a flag atomically (clear_bit).
func (m *Map) ClearFlag(t *sched.Task, p *Page, f Flag) {
	p.Flags.AndNot(t.C, m.obj(p, x86.PageFlags), 1<<f)
}

// TestAndSet sets a flag atomically and reports whether it was set before.
func (m *Map) TestAndSet(t *sched.Task, p *Page, f Flag) bool {
	return p.Flags.Or(t.C, m.obj(p, x86.PageFlags), 1<<f)&(1<<f) != 0
}

// TestAndClear clears a flag atomically and reports whether it was set before.
func (m *Map) TestAndClear(t *sched.Task, p *Page, f Flag) bool {
	return p.Flags.AndNot(t.C, m.obj(p, x86.PageFlags), 1<<f)&(1<<f) != 0
}

// PokeSet sets a flag without a point and without a locked operation, as the
// kernel's __SetPage functions do. Nobody else may see the page.
func (p *Page) PokeSet(f Flag) { p.Flags.Poke(p.Flags.Peek() | 1<<f) }

// PokeClear is the opposite of PokeSet.
func (p *Page) PokeClear(f Flag) { p.Flags.Poke(p.Flags.Peek() &^ (1 << f)) }
