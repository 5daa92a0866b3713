package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// The part of rows 21 and 22 that is about huge pages (Linux 5.19 mm/hugetlb.c). The mark
// is on the head. Unlike small pages, a write fault goes by the count of mappings: what
// vmsplice holds of a huge page still discloses later stores.

// HugeAnonNew implements mm.Policy: hugepage_add_new_anon_rmap.
func (AnonExclusive) HugeAnonNew(_ *sched.Task, head *page.Page, _ *mm.VMA) {
	head.PokeSet(pageExclusive)
}

// hugeAnon reports whether a huge page is private (PageAnon): it belongs to no file.
func hugeAnon(head *page.Page) bool { return head.Mapping == 0 }

// HugeWP is hugetlb_wp's decision, for unsharing faults too.
func (AnonExclusive) HugeWP(f *mm.Fault) mm.WPNext {
	pages := f.MM.Sys.Pages
	if pages.MapRefs(f.T, f.Page) != 1 || !hugeAnon(f.Page) {
		return mm.WPCopyPage
	}
	if !exclusive(f.T, pages, f.Page) {
		pages.SetFlag(f.T, f.Page, pageExclusive)
	}
	return mm.WPReuse
}

// mustUnshareHuge is gup_must_unshare for a huge entry that is read-only.
func (p AnonExclusive) mustUnshareHuge(t *sched.Task, pages *page.Map, kind mm.PinKind, head *page.Page) bool {
	switch {
	case kind == mm.PinGet || p.noUnshare:
		return false
	case !hugeAnon(head):
		return p.later && kind == mm.PinLongterm
	}
	return !exclusive(t, pages, head)
}

// FollowHuge is follow_hugetlb_page's part.
func (p AnonExclusive) FollowHuge(g *mm.GUP, pte x86.PTE, head *page.Page) mm.FollowNext {
	if g.VMA.Flags.IsCOW() && g.Foll&mm.FollWrite == 0 && !pte.Write() &&
		p.mustUnshareHuge(g.T, g.MM.Sys.Pages, g.Kind, head) {
		g.Foll |= mm.FollUnshare
		return mm.FollowFault
	}
	return mm.FollowTake
}

// FastHuge is gup_huge_pmd: the pins, the entry again, and then whether it may be had.
func (p AnonExclusive) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	n = p.follPin.FastHuge(f, ref, pte, head, n)
	if n > 0 && !f.Write && !pte.Write() && p.mustUnshareHuge(f.T, f.MM.Sys.Pages, f.Kind, head) {
		p.Put(f.T, head, f.Kind, n)
		return 0
	}
	return n
}

// ForkHuge is copy_hugetlb_page_range's inner part with page_try_dup_anon_rmap: an
// exclusive page that may be pinned is copied for the child, and the parent's entry stays
// as it is. The copy comes from what nobody was promised; without one fork fails.
func (p AnonExclusive) ForkHuge(f *mm.Fork) mm.ForkNext {
	t, pages := f.T, f.Src.Sys.Pages
	head := pages.Page(f.PTE.PFN())
	if hugeAnon(head) && exclusive(t, pages, head) {
		if !p.noCopy && needsCopy(f, head) {
			return p.copyHuge(f, head)
		}
		pages.ClearFlag(t, head, pageExclusive)
	}
	f.CopyOneHuge()
	f.Unlock()
	return mm.ForkGo
}

// copyHuge maps the parent's page in the child, read-only, and has it copied at once: with
// two mappings it is nobody's to reuse. Nobody can see the child's entry meanwhile.
func (p AnonExclusive) copyHuge(f *mm.Fork, head *page.Page) mm.ForkNext {
	t, pages := f.T, f.Src.Sys.Pages
	e := f.PTE.WrProtect()
	pages.GetAs(t, head, page.RefMap)
	pages.DupMap(t, head)
	f.DstPTE.Set(t.C, e)
	t.C.Trace.Inc(trace.EmuForkPages)
	f.Unlock()
	return f.HugeCOWChild(e, nil)
}
