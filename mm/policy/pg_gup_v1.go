package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// PGGUPV1 is row 1: Andrea Arcangeli's patch as it began the thread, before 11 March
// 2009. Only gup-fast's part of it is quoted (thread line 590); what the thread says of
// the rest (545-548, 619-629, 1915-1926, 3516-3560) is row 2 less what row 2 says it
// added "to fix the reverse race too", and so it is written here.
//
// Whoever takes a reference marks the page with PG_gup; fork write-protects, and copies a
// marked page that has more references than mappings, as row 2 does. A read pin takes the
// page as it is, shared and read-only included: gup-fast compares the pte with the
// caller's own mask, which for a read does not hold RW. So only who writes to pinned
// memory is protected.
//
// So it is with huge pages, which were "fixed too" (3490): row 2 says of its "always assume
// write=1" for them that it is for the reverse race (3556), so here the caller's wish counts.
type PGGUPV1 struct{ PGGUP }

// Name implements mm.Policy.
func (PGGUPV1) Name() string { return "pg_gup_v1" }

// Claims implements mm.Policy.
func (PGGUPV1) Claims() mm.Guarantee { return mm.Forward | mm.AIO | mm.OtherPins }

// About implements mm.Policy.
func (PGGUPV1) About() mm.About {
	return mm.About{
		Row: 1, Title: "row 2 without its care for read pins",
		Who: "Andrea Arcangeli", When: "before 11 March 2009", Lines: "590-612, 3533-3580",
		Changes: []string{
			"fork: as row 2: write-protect, barrier, test PG_gup and page_count against mapcount; copy for the child if pinned",
			"get_user_pages: sets PG_gup under the ptl; a read pin takes a shared page as it is, a huge one too",
			"gup-fast: get_page, set PG_gup, barrier, read the pte again and compare with the caller's mask: RW only for a write",
		},
		Claims: "the forward race, for all users of get_user_pages that write to memory",
		Open:   "the reverse race and every other read pin (2252, 3114, 3516)",
	}
}

// FastTake is gup_pte_range's inner part as quoted in line 590.
func (p PGGUPV1) FastTake(f *mm.Fast, ref x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	pages.GetAs(f.T, pg, page.RefPin)
	if !pg.Anon() {
		return true
	}
	if !pages.TestFlag(f.T, pg, pageGUP) {
		pages.SetFlag(f.T, pg, pageGUP)
	}
	f.T.C.Fence()
	if !p.noRecheck && ref.Load(f.T.C)&(f.Mask|x86.PteSpecial) != f.Mask {
		pages.PutAs(f.T, pg, page.RefPin)
		return false
	}
	return true
}

// Follow is follow_page's part under FOLL_GET: the mark alone.
func (PGGUPV1) Follow(g *mm.GUP, _ x86.PTE, pg *page.Page) mm.FollowNext {
	pages := g.MM.Sys.Pages
	if pg.Anon() && !pages.TestFlag(g.T, pg, pageGUP) {
		pages.SetFlag(g.T, pg, pageGUP)
	}
	return mm.FollowTake
}

// GUPVMA leaves follow_hugetlb_page its parameter write.
func (PGGUPV1) GUPVMA(*mm.GUP) mm.GUPNext { return mm.GUPGo }

// FastHuge is row 2's, with the caller's mask.
func (p PGGUPV1) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	return p.takeHuge(f, ref, pte, head, n, f.Mask)
}
