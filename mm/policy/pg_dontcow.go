package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// PGDontCOW is row 5: Nick Piggin's third patch, 16 March 2009 16:01 (thread lines
// 5329-5946).
//
// Every page that get_user_pages hands out of a COW mapping is first un-COWed, by a
// write fault, and marked PG_dontcow for the rest of its life. A marked page is never
// shared by fork: fork shares and write-protects it as ever, and un-shares it at once
// in the child. The parent's pte stays write-protected until its next store reuses
// the page. gup-fast takes anonymous pages only if they are marked, with no barrier
// and no second look.
type PGDontCOW struct {
	mm.Stock
	// noDecow takes fork's un-sharing out, noForce the write fault before a page is
	// handed out: the deciding lines, for mutants.
	noDecow, noForce bool
}

// pageDontCOW is PG_dontcow.
const pageDontCOW = page.Policy0

// Name implements mm.Policy.
func (PGDontCOW) Name() string { return "pg_dontcow" }

// Hooks implements mm.Policy.
func (PGDontCOW) Hooks() mm.HookSet {
	return mm.HookGUPVMA | mm.HookTaken | mm.HookFastTake | mm.HookForkPTE | mm.HookWP
}

// Claims implements mm.Policy.
func (PGDontCOW) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins
}

// About implements mm.Policy.
func (PGDontCOW) About() mm.About {
	return mm.About{
		Row: 5, Title: "pages that were ever pinned are marked for life and never shared by fork",
		Who: "Nick Piggin", When: "16 March 2009, third version", Lines: "5329-5946",
		Changes: []string{
			"fork: shares and write-protects, then un-shares a marked page at once in the child; tried again when the child's pte changed meanwhile",
			"get_user_pages: in a COW mapping, faults for writing also for a read, and marks what it hands out",
			"gup-fast: an anonymous page must be marked; no barrier, no second look",
			"COW fault: asserts that a marked page is reused",
		},
		Claims: "both directions of the race for small pages",
		Open:   "no hugetlb code; the child's copy is made while other CPUs may still store through stale TLB entries; copies for life what was pinned once, or locked by mlock; a read pin of untouched memory is a BUG, and a marked page that reclaim has unmapped is shared by fork and trips the patch's assertion; so does a store while a fork that got no memory is taken back (docs/findings.md)",
	}
}

// FastTake is gup_pte_range's inner part.
func (PGDontCOW) FastTake(f *mm.Fast, _ x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	if pg.Anon() && !pages.TestFlag(f.T, pg, pageDontCOW) {
		return false
	}
	pages.GetAs(f.T, pg, page.RefPin)
	return true
}

// GUPVMA decides whether the VMA's pages are to be un-COWed. The patch's line stands
// behind the branch for hugetlb.
func (p PGDontCOW) GUPVMA(g *mm.GUP) mm.GUPNext {
	g.Data = 0
	if g.Want && g.VMA.Flags.IsCOW() && g.VMA.Flags&mm.VMHugetlb == 0 {
		g.Data = 1
		if !p.noForce {
			g.Foll |= mm.FollWrite
		}
	}
	return mm.GUPGo
}

// AccessWrite implements mm.Policy: the patch has access_process_vm ask for no
// write access, poke or not (thread line 5826), because COW is broken anyway. It is not
// in a shared mapping, which a poke then writes to without permission; and where nobody
// has touched anonymous memory yet, FOLL_ANON and FOLL_WRITE meet in follow_page, which
// is a BUG. The latter happens to every pin for reading.
func (PGDontCOW) AccessWrite() bool { return false }

// Taken marks a page of a COW mapping.
func (PGDontCOW) Taken(g *mm.GUP, pg *page.Page) {
	pages := g.MM.Sys.Pages
	if g.Data != 0 && !pages.TestFlag(g.T, pg, pageDontCOW) {
		pages.SetFlag(g.T, pg, pageDontCOW)
	}
}

// WP is do_wp_page's decision with the patch's assertion.
func (PGDontCOW) WP(f *mm.Fault) mm.WPNext {
	next := f.LockAndReuse()
	if next == mm.WPCopyPage && f.MM.Sys.Pages.TestFlag(f.T, f.Page, pageDontCOW) {
		f.T.Warn("pg_dontcow: VM_BUG_ON: do_wp_page does not reuse a PG_dontcow page at %#x", f.Addr)
	}
	return next
}

// ForkPTE is copy_one_pte.
func (p PGDontCOW) ForkPTE(f *mm.Fork) mm.ForkNext {
	f.Page = f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	next := f.CopyOnePTE()
	if f.Page != nil && f.Src.Sys.Pages.TestFlag(f.T, f.Page, pageDontCOW) && !p.noDecow {
		return mm.ForkStop
	}
	return next
}

// ForkBreak is copy_pte_range's decow label and decow_one_pte: it breaks COW in the
// child, whose ptl alone is held where that begins.
func (PGDontCOW) ForkBreak(f *mm.Fork) mm.ForkNext {
	t, sys := f.T, f.Src.Sys
	pages := sys.Pages
	f.SrcPTL.Unlock(t)
	f.FlushRSS()

	pte := f.DstPTE.Load(t.C)
	old := f.Page
	switch {
	case !pte.Present() || pte.Write():
		t.Oops("pg_dontcow: child's pte at %#x is %v", f.Addr, pte)
	case !old.Anon():
		t.Oops("pg_dontcow: marked page at %#x is not anonymous", f.Addr)
	}
	pages.Get(t, old)
	f.DstPTL.Unlock(t)
	if mm.AnonVMAPrepare(t, f.DstVMA) != nil {
		pages.Put(t, old)
		return mm.ForkNoMem
	}
	fresh := sys.AllocUserPage(t, "decow_one_pte")
	if fresh == nil {
		pages.Put(t, old)
		return mm.ForkNoMem
	}
	sys.CowUserPage(t, fresh, old)

	f.DstPTL.Lock(t)
	if f.DstPTE.Load(t.C) != pte {
		// Reclaim was here: give back whatever the child's entry holds now, and copy
		// the pte once more.
		sys.ZapPTE(t, f.DstVMA, f.Addr, f.DstPTE)
		f.DstPTL.Unlock(t)
		pages.Put(t, fresh)
		pages.Put(t, old)
		return mm.ForkAgain
	}
	sys.PtepClearFlushNotify(t, f.DstVMA, f.Addr, f.DstPTE)
	f.SetChildPage(fresh)
	f.DropMapping(old)
	pages.Put(t, old)
	f.FlushRSS()
	f.DstPTL.Unlock(t)
	return mm.ForkGo
}
