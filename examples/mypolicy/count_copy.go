package main

import (
	"github.com/cowlab/cowlab/mm"
)

// countCopy is the simplest idea one may have: when fork meets an anonymous page that has
// more references than mappings, somebody else holds it, perhaps for I/O, so the child gets
// a copy at once and the parent keeps its page writable. No flag, no lock.
//
// It embeds mm.Stock, which is Linux 2.6.29, and overrides what its patch would edit.
type countCopy struct{ mm.Stock }

// Name is what tables and tokens call the policy.
func (countCopy) Name() string { return "count_copy" }

// Hooks lists the methods that are overridden; for all others stock's code runs inline.
func (countCopy) Hooks() mm.HookSet { return mm.HookForkRange | mm.HookForkPTE }

// Claims is what the matrix holds the policy to.
func (countCopy) Claims() mm.Guarantee { return mm.Forward | mm.AIO | mm.OtherPins }

// About is for cowlab list and cowlab explain.
func (countCopy) About() mm.About {
	return mm.About{
		Row: -1, Title: "fork copies pages with more references than mappings", Who: "you", When: "today", Lines: "-",
		Changes: []string{"fork: for an anonymous page whose count exceeds its map count, copy for the child at once"},
		Claims:  "the forward race, as long as the pin is older than the fork",
		Open:    "gup-fast between the look at the counts and the write protection",
	}
}

// ForkBegin runs before fork walks a mapping. A page that was just faulted in waits on a list
// of its CPU for the LRU, which holds a reference: without this every fresh page would be
// taken for pinned (those on other CPUs' lists still are).
func (countCopy) ForkBegin(f *mm.Fork) { f.Src.Sys.Pages.LRUAddDrain(f.T) }

// ForkPTE is copy_one_pte. ForkStop has ForkBreak called for the same entry.
func (countCopy) ForkPTE(f *mm.Fork) mm.ForkNext {
	sys := f.Src.Sys
	f.Page = sys.NormalPage(f.SrcVMA, f.PTE)
	if p := f.Page; p != nil && p.Anon() && f.SrcVMA.Flags.IsCOW() && sys.Pages.Refs(f.T, p) > sys.Pages.MapRefs(f.T, p) {
		return mm.ForkStop
	}
	return f.CopyOnePTE()
}

// ForkBreak copies, with the page-table locks dropped for the allocation, and returns
// with neither held.
func (countCopy) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := f.CopyToChild("count_copy")
	f.Unlock()
	return next
}
