package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// MapcountUnshare is row 23: Andrea Arcangeli's tree of 2021 ("COW: restore full accuracy in
// page reuse", copy-on-read faults), on top of a kernel that has row 20.
//
// The write fault asks the counts of mappings and swap entries again, as 2.6.29 did, so
// nothing is copied away from under a pin that nobody shares. What made that rule
// leak, a read pin of a shared page, is closed where the pin is taken: a page with more
// than one mapping is first unshared, by a read fault that copies. Huge pages too
// ("hugetlbfs: COR: copy-on-read fault", "gup_must_unshare(): enable hugetlbfs").
type MapcountUnshare struct {
	follPin
	noUnshare bool // takes the unsharing fault out: the deciding line, for mutants
}

// Name implements mm.Policy.
func (MapcountUnshare) Name() string { return "mapcount_unshare" }

// Hooks implements mm.Policy.
func (MapcountUnshare) Hooks() mm.HookSet {
	return follPinHooks | mm.HookFollow | mm.HookReclaim | mm.HookFollowHuge | mm.HookHugeWP | mm.HookHugeRmap
}

// Claims implements mm.Policy.
func (MapcountUnshare) Claims() mm.Guarantee {
	return mm.Reverse | mm.AIO | mm.UnderSwap
}

// About implements mm.Policy.
func (MapcountUnshare) About() mm.About {
	return mm.About{
		Row: 23, Title: "reuse by map count, and read pins of shared pages unshare first",
		Who: "Andrea Arcangeli", When: "2021, in his own tree and a distribution's", Lines: "-",
		Changes: []string{
			"get_user_pages: a read pin, plain or FOLL_PIN, of an anonymous page whose mappings and swap entries are more than one, through a read-only pte, takes a copy-on-read fault first; gup-fast goes the slow way",
			"COW fault: reuse by map count plus swap count, as 2.6.29; a copy-on-read fault decides alike and maps its copy read-only",
			"huge pages: the same, by their map count",
			"fork, FOLL_PIN, reclaim: as pin_copy",
		},
		Claims: "no pin taken after a fork shows later stores of others, and no pin that nobody shares loses its page",
		Open:   "a page that vmsplice took before a fork and that was unmapped is the other side's to write; O_DIRECT takes plain references, so its forward race is open. Known to us by the titles and texts of the commits only; the second look after the pte is cleared (two long-term readers and an exiting child) is not modelled",
	}
}

// mustUnshare is gup_must_unshare: !can_read_pin_swap_page.
func (p MapcountUnshare) mustUnshare(t *sched.Task, sys *mm.System, pte x86.PTE, pg *page.Page) bool {
	return !p.noUnshare && pg.Anon() && !pte.Write() && sys.MapSwapCount(t, pg) > 1
}

// Follow is follow_page_pte's part.
func (p MapcountUnshare) Follow(g *mm.GUP, pte x86.PTE, pg *page.Page) mm.FollowNext {
	if g.Foll&mm.FollWrite == 0 && p.mustUnshare(g.T, g.MM.Sys, pte, pg) {
		g.Foll |= mm.FollUnshare
		return mm.FollowFault
	}
	return mm.FollowTake
}

// FastTake is gup_pte_range's inner part.
func (p MapcountUnshare) FastTake(f *mm.Fast, ref x86.PTERef, pte x86.PTE, pg *page.Page) bool {
	if !p.follPin.FastTake(f, ref, pte, pg) {
		return false
	}
	if !f.Write && p.mustUnshare(f.T, f.MM.Sys, pte, pg) {
		p.Put(f.T, pg, f.Kind, 1)
		return false
	}
	return true
}

// ForkPTE is copy_present_pte.
func (p MapcountUnshare) ForkPTE(f *mm.Fork) mm.ForkNext {
	pg := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	if pg != nil && needsCopy(f, pg) {
		return copyPresentPage(f, pg)
	}
	return sharePTE(f)
}

// ForkBegin and ForkEnd are row 20's: the tree stands on 5.10, whose fork shares huge pages
// whether they are pinned or not.
func (p MapcountUnshare) ForkBegin(f *mm.Fork) { PinCopy{follPin: p.follPin}.ForkBegin(f) }

// ForkEnd implements mm.Policy.
func (p MapcountUnshare) ForkEnd(f *mm.Fork) { PinCopy{follPin: p.follPin}.ForkEnd(f) }

// HugeAnonNew implements mm.Policy: 5.10 counts the mappings of huge pages.
func (MapcountUnshare) HugeAnonNew(*sched.Task, *page.Page, *mm.VMA) {}

// HugeWP is hugetlb_cow's decision, for copy-on-read faults too.
func (MapcountUnshare) HugeWP(f *mm.Fault) mm.WPNext {
	if f.MM.Sys.Pages.MapRefs(f.T, f.Page) == 1 && hugeAnon(f.Page) {
		return mm.WPReuse
	}
	return mm.WPCopyPage
}

// mustUnshareHuge is gup_must_unshare for a huge page.
func (p MapcountUnshare) mustUnshareHuge(t *sched.Task, pages *page.Map, pte x86.PTE, head *page.Page) bool {
	return !p.noUnshare && hugeAnon(head) && !pte.Write() && pages.MapRefs(t, head) > 1
}

// FollowHuge is follow_hugetlb_page's part.
func (p MapcountUnshare) FollowHuge(g *mm.GUP, pte x86.PTE, head *page.Page) mm.FollowNext {
	if g.Foll&mm.FollWrite == 0 && p.mustUnshareHuge(g.T, g.MM.Sys.Pages, pte, head) {
		g.Foll |= mm.FollUnshare
		return mm.FollowFault
	}
	return mm.FollowTake
}

// FastHuge is gup_huge_pmd.
func (p MapcountUnshare) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	n = p.follPin.FastHuge(f, ref, pte, head, n)
	if n > 0 && !f.Write && p.mustUnshareHuge(f.T, f.MM.Sys.Pages, pte, head) {
		p.Put(f.T, head, f.Kind, n)
		return 0
	}
	return n
}

// SwapAdd is shrink_page_list's test, as in row 20.
func (MapcountUnshare) SwapAdd(t *sched.Task, pg *page.Page) bool {
	return !maybePinned(t, mm.SystemOf(t).Pages, pg)
}
