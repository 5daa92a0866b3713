package policy

import "github.com/cowlab/cowlab/mm"

// WPCopy is row 19: Linux 5.9, commit 09854ba94c6a ("do_wp_page() simplification").
//
// A write fault reuses an anonymous page only if the one reference to it is the pte's.
// Whatever else there is, a pin, the swap cache, a pagevec, means a copy: nobody
// who holds the page ever sees a later store. The price is the other error: a page
// that nobody shares is copied away from under a pin. do_swap_page goes by the counts of
// mappings and entries, as it did (until 5.18). The commit leaves hugetlb_cow alone, which here
// is 2.6.29's and goes by the references; 5.9's went by the map count.
type WPCopy struct {
	mm.Stock
	byMapCount bool // decides as 2.6.29 does: the deciding line, for mutants
}

// Name implements mm.Policy.
func (WPCopy) Name() string { return "wp_copy" }

// Hooks implements mm.Policy.
func (WPCopy) Hooks() mm.HookSet { return mm.HookWP }

// Claims implements mm.Policy.
func (WPCopy) Claims() mm.Guarantee { return mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins }

// About implements mm.Policy.
func (WPCopy) About() mm.About {
	return mm.About{
		Row: 19, Title: "a write fault reuses a page only if its one reference is the pte's",
		Who: "Linus Torvalds", When: "Linux 5.9, August 2020", Lines: "09854ba94c6a",
		Changes: []string{
			"COW fault: copies if page_count is not 1, if the page lock is busy, or if either count is not 1 under the lock; never sleeps for the lock",
		},
		Claims: "no pin shows what the other side of a fork stores later, either way round",
		Open:   "the forward race; a pin of a page that nobody shares loses it when its pte was write-protected for another reason (swap, mprotect, a child that is gone)",
	}
}

// WP is do_wp_page's decision.
func (p WPCopy) WP(f *mm.Fault) mm.WPNext {
	if p.byMapCount {
		return f.LockAndReuse()
	}
	return wpReuseSole(f)
}

// wpReuseSole reuses the page if nothing but the faulting pte refers to it: the test
// of Linux 5.9 to 5.17.
//
// Preconditions:
//   - the ptl is held, and stays so
func wpReuseSole(f *mm.Fault) mm.WPNext {
	t, pages := f.T, f.MM.Sys.Pages
	if pages.Refs(t, f.Page) != 1 || !pages.TrylockPage(t, f.Page) {
		return mm.WPCopyPage
	}
	next := mm.WPReuse
	if pages.MapRefs(t, f.Page) != 1 || pages.Refs(t, f.Page) != 1 {
		next = mm.WPCopyPage
	}
	pages.UnlockPage(t, f.Page)
	return next
}
