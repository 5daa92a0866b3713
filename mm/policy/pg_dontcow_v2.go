package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// PGDontCOWV2 is row 4: Nick Piggin's second patch, 14 March 2009 (thread lines
// 2374-3063).
//
// A page is marked, not a VMA: get_user_pages breaks COW of what it hands out of a COW
// mapping, and marks whatever it hands out, pages of files included. fork shares and
// write-protects as ever, and un-shares a marked page at once in the child. gup-fast takes
// marked pages only; that this shuts files out that nobody has pinned yet, its author
// called stupid (3304), and row 5 asks PageAnon.
//
// Between copying the pte and un-sharing the child's page both ptls are free, and the
// patch does not expect reclaim there: an entry that is a swap entry by then is passed over
// and stays shared, one that changes during the copy is a BUG. And as in row 3,
// decow_one_pte puts the old page once too few.
type PGDontCOWV2 struct {
	mm.Stock
	// noDecow takes fork's un-sharing out: the deciding line, for mutants.
	noDecow bool
}

// Name implements mm.Policy.
func (PGDontCOWV2) Name() string { return "pg_dontcow_v2" }

// Hooks implements mm.Policy.
func (PGDontCOWV2) Hooks() mm.HookSet {
	return mm.HookGUPVMA | mm.HookTaken | mm.HookFastTake | mm.HookForkPTE | mm.HookWP
}

// Claims implements mm.Policy.
func (PGDontCOWV2) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins
}

// About implements mm.Policy.
func (PGDontCOWV2) About() mm.About {
	return mm.About{
		Row: 4, Title: "pages that were ever pinned are marked; fork un-shares them in the child",
		Who: "Nick Piggin", When: "14 March 2009, second version", Lines: "2374-3063",
		Changes: []string{
			"fork: shares and write-protects, then un-shares a marked page at once in the child; a BUG if the child's pte changes meanwhile",
			"get_user_pages: in a COW mapping, unless internal, faults for writing also for a read; marks every page that it hands out",
			"gup-fast: only marked pages, of files too",
			"COW fault: asserts that a marked page is reused",
		},
		Claims: "both directions of the race for small pages",
		Open:   "gup-fast never takes a page of a file that slow get_user_pages has not handed out before (3304); reclaim in the middle of fork is not expected; copies what was locked by mlock; each page copied at fork leaks a reference (docs/findings.md)",
	}
}

// GUPVMA decides whether the VMA's pages are to be un-COWed; the patch's lines stand
// behind the branch for hugetlb.
func (PGDontCOWV2) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Flags&mm.GUPInternal == 0 && g.VMA.Flags.IsCOW() && g.VMA.Flags&mm.VMHugetlb == 0 {
		g.Foll |= mm.FollWrite
	}
	return mm.GUPGo
}

// Taken marks a page, whatever it is.
func (PGDontCOWV2) Taken(g *mm.GUP, pg *page.Page) { g.MM.Sys.Pages.SetFlag(g.T, pg, pageDontCOW) }

// FastTake is gup_pte_range's test.
func (PGDontCOWV2) FastTake(f *mm.Fast, _ x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	if !pages.TestFlag(f.T, pg, pageDontCOW) {
		return false
	}
	pages.GetAs(f.T, pg, page.RefPin)
	return true
}

// WP is do_wp_page's decision with the patch's assertion.
func (PGDontCOWV2) WP(f *mm.Fault) mm.WPNext {
	next := f.LockAndReuse()
	if next == mm.WPCopyPage && f.MM.Sys.Pages.TestFlag(f.T, f.Page, pageDontCOW) {
		f.T.Warn("pg_dontcow_v2: VM_BUG_ON: do_wp_page does not reuse a PG_dontcow page at %#x", f.Addr)
	}
	return next
}

// ForkPTE is copy_one_pte.
func (p PGDontCOWV2) ForkPTE(f *mm.Fork) mm.ForkNext {
	f.Page = f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	next := f.CopyOnePTE()
	if f.Page != nil && f.Src.Sys.Pages.TestFlag(f.T, f.Page, pageDontCOW) && !p.noDecow {
		return mm.ForkStop
	}
	return next
}

// ForkBreak is copy_pte_range's decow label, decow_page_range for one page, and
// decow_one_pte.
func (p PGDontCOWV2) ForkBreak(f *mm.Fork) mm.ForkNext {
	t, sys, v := f.T, f.Src.Sys, f.DstVMA
	pages := sys.Pages
	f.Unlock()
	t.CondResched()
	if !v.Flags.IsCOW() {
		t.Oops("pg_dontcow_v2: decow_page_range of %#x, which is no COW mapping", f.Addr)
	}
	f.DstPTL.Lock(t)
	pte := f.DstPTE.Load(t.C)
	var old *page.Page
	if pte.Present() && !pte.Write() {
		old = sys.NormalPage(v, pte)
	}
	if old == nil || !old.Anon() {
		f.DstPTL.Unlock(t)
		return mm.ForkGo
	}
	if !pages.TestFlag(t, old, pageDontCOW) {
		t.Warn("pg_dontcow_v2: WARN_ON: decow_one_pte of an unmarked page at %#x", f.Addr)
	}
	pages.Get(t, old)
	f.DstPTL.Unlock(t)
	var fresh *page.Page
	if mm.AnonVMAPrepare(t, v) == nil {
		fresh = sys.AllocUserPage(t, "decow_one_pte")
	}
	if fresh == nil {
		pages.Put(t, old)
		return mm.ForkNoMem
	}
	sys.CowUserPage(t, fresh, old)

	f.DstPTL.Lock(t)
	if f.DstPTE.Load(t.C) != pte {
		t.Oops("pg_dontcow_v2: decow_one_pte: the child's pte at %#x has changed", f.Addr)
	}
	sys.PtepClearFlushNotify(t, v, f.Addr, f.DstPTE)
	f.SetChildPage(fresh)
	f.Anon-- // the child's count has the old page already
	sys.PageRemoveRmap(t, old)
	pages.Relabel(t, old, page.RefMap, page.RefTemp, 1) // nobody's from here on
	pages.Put(t, old)
	f.DstPTL.Unlock(t)
	return mm.ForkGo
}
