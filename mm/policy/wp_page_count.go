package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// WPPageCount is row 7: Linus Torvalds' patch of 17 March 2009 on top of row 6 (thread
// lines 7703-7748, the idea 6595 and 6786).
//
// do_wp_page reuses a page only if, once it is out of the swap cache, the mapping holds its
// one reference. A page that the other process has pinned is then never taken over: that
// closes the reverse race. A page that is pinned by the one who writes is not reused
// either, and need not be, because row 6 keeps fork away; but a fork is not the only way
// to a read-only pte. When reclaim has unmapped the page, a load maps it back read-only,
// and the store after it copies the page away from under its own device (7972).
type WPPageCount struct {
	DirectIOSemV1
	// noCount takes the test of the count out: the deciding line, for mutants.
	noCount bool
}

// Name implements mm.Policy.
func (WPPageCount) Name() string { return "wp_page_count" }

// Hooks implements mm.Policy.
func (p WPPageCount) Hooks() mm.HookSet { return p.DirectIOSemV1.Hooks() | mm.HookWP }

// Claims implements mm.Policy.
func (WPPageCount) Claims() mm.Guarantee { return mm.Forward | mm.Reverse | mm.Disclosure }

// About implements mm.Policy.
func (WPPageCount) About() mm.About {
	return mm.About{
		Row: 7, Title: "row 6, and a COW fault reuses only what has no other reference",
		Who: "Linus Torvalds", When: "17 March 2009", Lines: "7703-7748",
		Changes: []string{
			"fork, direct I/O: row 6",
			"COW fault: reuses the page if reuse_swap_page says so and page_count is 1 then",
		},
		Claims: "both directions of the race for O_DIRECT",
		Open:   "as row 6: asynchronous I/O, other users for the forward race; when reclaim unmaps a pinned page, a load and a store lose the read without any fork (7972), and so does mprotect to read-only and back; a page that is still in a pagevec is copied for nothing",
	}
}

// WP is do_wp_page's decision.
func (p WPPageCount) WP(f *mm.Fault) mm.WPNext { return reuseByCount(f, !p.noCount) }

// reuseByCount is LockAndReuse with row 7's line.
func reuseByCount(f *mm.Fault, count bool) mm.WPNext {
	if !f.LockPage() {
		return mm.WPRetry
	}
	s := f.MM.Sys
	reuse := false
	if s.ReuseSwapPage(f.T, f.Page) {
		reuse = !count || s.Pages.Refs(f.T, f.Page) == 1
	}
	s.Pages.UnlockPage(f.T, f.Page)
	if reuse {
		return mm.WPReuse
	}
	return mm.WPCopyPage
}

// WPPageCountReuse is the unnumbered variant that Linus Torvalds wrote first: the count is
// tested inside reuse_swap_page (6605, 6786), so do_swap_page asks it too. A store that
// brings a pinned page back from swap then copies it at once, where row 7 still needed a
// load before.
type WPPageCountReuse struct{ WPPageCount }

// Name implements mm.Policy.
func (WPPageCountReuse) Name() string { return "wp_page_count_reuse" }

// Hooks implements mm.Policy.
func (p WPPageCountReuse) Hooks() mm.HookSet { return p.WPPageCount.Hooks() | mm.HookSwapIn }

// About implements mm.Policy.
func (p WPPageCountReuse) About() mm.About {
	a := p.WPPageCount.About()
	a.Title, a.Lines = "row 7 with the count tested inside reuse_swap_page", "6595-6605, 6775-6792"
	a.Changes = append(a.Changes, "swap-in: a write fault maps the page writable only if page_count is 1 too")
	a.Open = "as row 7, and a store alone loses the read when reclaim has unmapped the page"
	return a
}

// SwapIn is do_swap_page's call of reuse_swap_page: the fault's own reference, which is to
// be the mapping's, is the one that may be there.
func (WPPageCountReuse) SwapIn(f *mm.Fault) bool {
	s := f.MM.Sys
	return f.Write && s.ReuseSwapPage(f.T, f.Page) && s.Pages.Refs(f.T, f.Page) == 1
}

// PinReferenced is the unnumbered variant of 8240 on top of row 7: a pin counts as a use of
// the page. gup-fast marks it referenced, as follow_page always has. Reclaim gives such a
// page one more round, and then unmaps it as ever.
type PinReferenced struct{ WPPageCount }

// Name implements mm.Policy.
func (PinReferenced) Name() string { return "pin_referenced" }

// Hooks implements mm.Policy.
func (p PinReferenced) Hooks() mm.HookSet { return p.WPPageCount.Hooks() | mm.HookFastTake }

// About implements mm.Policy.
func (p PinReferenced) About() mm.About {
	a := p.WPPageCount.About()
	a.Title, a.Lines = "row 7, and gup-fast marks what it takes as referenced", "8235-8252"
	a.Changes = append(a.Changes, "gup-fast: marks the page accessed")
	a.Open = "as row 7: reclaim comes one round later"
	return a
}

// FastTake takes the page and marks it.
func (PinReferenced) FastTake(f *mm.Fast, _ x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	pages.GetAs(f.T, pg, page.RefPin)
	pages.MarkPageAccessed(f.T, pg)
	return true
}
