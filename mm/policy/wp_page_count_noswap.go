package policy

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// WPPageCountNoSwap is row 8: Linus Torvalds' answer of 17 March 2009 to what is wrong with
// row 7 (thread lines 8181-8207): a page that somebody has pinned is not put into the swap
// cache, so it is never unmapped.
//
// The test compares page_count with page_mapped, which is one or zero, where page_mapcount
// was meant, and it forgets that whoever reclaims the page holds a reference himself; its
// author says that he did not check. A page that reclaim looks at has at least two
// references and at most "one mapping", so the test always refuses: under this row no
// anonymous page ever goes to swap. Fixed compares the count with the mappings and the one
// reference of reclaim, and is row wp_page_count_noswap_fixed.
//
// A page that is in the swap cache already when it is pinned is not helped (8291).
type WPPageCountNoSwap struct {
	WPPageCount
	// Fixed compares as meant.
	Fixed bool
	// noTest takes the test out: the deciding line, for mutants.
	noTest bool
}

// Name implements mm.Policy.
func (p WPPageCountNoSwap) Name() string {
	if p.Fixed {
		return "wp_page_count_noswap_fixed"
	}
	return "wp_page_count_noswap"
}

// Hooks implements mm.Policy.
func (p WPPageCountNoSwap) Hooks() mm.HookSet { return p.WPPageCount.Hooks() | mm.HookReclaim }

// Claims implements mm.Policy.
func (p WPPageCountNoSwap) Claims() mm.Guarantee { return p.WPPageCount.Claims() | mm.UnderSwap }

// About implements mm.Policy.
func (p WPPageCountNoSwap) About() mm.About {
	a := mm.About{
		Row: 8, Title: "row 7, and pages with more references than page_mapped stay out of swap",
		Who: "Linus Torvalds", When: "17 March 2009", Lines: "8181-8207",
		Changes: []string{
			"fork, direct I/O, COW fault: row 7",
			"reclaim: add_to_swap refuses a page whose page_count is greater than page_mapped",
		},
		Claims: "as row 7, and that reclaim does not get between a page and its pin",
		Open:   "as row 7 without swap: asynchronous I/O, other users for the forward race; the comparison refuses every page that reclaim looks at, so that nothing is swapped out at all (docs/findings.md)",
	}
	if p.Fixed {
		a.Title = "row 8 with the comparison it means"
		a.Changes[1] = "reclaim: add_to_swap refuses a page with more references than mappings and reclaim's own"
		a.Open = "as row 7 without swap; a page that was in the swap cache before it was pinned is unmapped as ever (8291); a pin that comes after the test (8464); a store to a page in swap takes it over from who has pinned it (docs/findings.md)"
	}
	return a
}

// SwapAdd is add_to_swap's test. The page is locked and isolated: reclaim has a reference.
func (p WPPageCountNoSwap) SwapAdd(t *sched.Task, pg *page.Page) bool {
	if p.noTest {
		return true
	}
	pages := mm.SystemOf(t).Pages
	if p.Fixed {
		return pages.Refs(t, pg) <= pages.MapRefs(t, pg)+1
	}
	mapped := 0 // page_mapped
	if pages.Mapped(t, pg) {
		mapped = 1
	}
	return pages.Refs(t, pg) <= mapped
}
