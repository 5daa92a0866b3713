package policy

import (
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// PinnedPTEs is row 9: what Andrea Arcangeli had in 2.6.7 and proposes again (thread lines
// 6823-6852, 8305): row 1's copy at fork, a COW fault that reuses only what has no other
// reference, and, so that such a fault never meets a page under its own process's I/O, a VM
// that leaves the ptes of pages with extra references alone.
//
// Nobody says when the count is compared, and it can change until the pte is cleared and
// the flush has waited for every gup-fast that saw it. After selects the comparison behind
// the flush; without it the count is compared first. Both are rows.
type PinnedPTEs struct {
	PGGUPV1
	// After compares when the pte has been cleared and flushed, and puts it back.
	After bool
	// noTest leaves the ptes to reclaim, noCount lets do_wp_page reuse by mapcount: the
	// deciding lines, for mutants.
	noTest, noCount bool
}

// Name implements mm.Policy.
func (p PinnedPTEs) Name() string {
	if p.After {
		return "pinned_ptes_after"
	}
	return "pinned_ptes_before"
}

// Hooks implements mm.Policy.
func (p PinnedPTEs) Hooks() mm.HookSet { return p.PGGUPV1.Hooks() | mm.HookWP | mm.HookReclaim }

// Claims implements mm.Policy.
func (PinnedPTEs) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins | mm.UnderSwap
}

// About implements mm.Policy.
func (p PinnedPTEs) About() mm.About {
	a := mm.About{
		Row: 9, Title: "references count: for reuse, and for reclaim before it clears a pte",
		Who: "Andrea Arcangeli", When: "16 and 17 March 2009, after Linux 2.6.7", Lines: "6823-6852, 8305-8314",
		Changes: []string{
			"fork, get_user_pages, gup-fast: row 1",
			"COW fault: reuses the page only if page_count is 1",
			"reclaim: try_to_unmap leaves the pte of an anonymous page alone that has more references than ptes, swap cache and reclaim; compared before the pte is cleared",
		},
		Claims: "both directions of the race without un-COWing in get_user_pages",
		Open:   "gup-fast can take its reference between the comparison and the clearing of the pte; mprotect to read-only and back makes a store copy the page away from its own pin; a store to a page in swap takes it over by the counts of mappings and entries, whoever has it pinned (docs/findings.md); hugetlb for the reverse race (6850-6852)",
	}
	if p.After {
		a.Title = "references count: for reuse, and for reclaim when it has cleared and flushed a pte"
		a.Changes[2] = "reclaim: try_to_unmap clears and flushes the pte of an anonymous page, and puts it back if there are more references than ptes, swap cache and reclaim"
		a.Open = "mprotect to read-only and back makes a store copy the page away from its own pin; a store to a page in swap takes it over by the counts of mappings and entries, whoever has it pinned (docs/findings.md); hugetlb for the reverse race (6850-6852); reclaim flushes ptes that it then puts back"
	}
	return a
}

// WP is do_wp_page's decision.
func (p PinnedPTEs) WP(f *mm.Fault) mm.WPNext { return reuseByCount(f, !p.noCount) }

// UnmapBefore is try_to_unmap_one before ptep_clear_flush.
func (p PinnedPTEs) UnmapBefore(u *mm.Unmap) bool { return p.noTest || p.After || !p.pinned(u) }

// Unmap is try_to_unmap_one behind it.
func (p PinnedPTEs) Unmap(u *mm.Unmap) bool { return p.noTest || !p.After || !p.pinned(u) }

// pinned compares the references with those of the ptes, of the swap cache and of reclaim.
func (PinnedPTEs) pinned(u *mm.Unmap) bool {
	if !u.Page.Anon() {
		return false
	}
	pages := mm.SystemOf(u.T).Pages
	known := pages.MapRefs(u.T, u.Page) + 1
	if pages.TestFlag(u.T, u.Page, page.SwapCache) {
		known++
	}
	return pages.Refs(u.T, u.Page) != known
}
