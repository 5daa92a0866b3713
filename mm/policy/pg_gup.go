package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// PGGUP is row 2: Andrea Arcangeli's patch of 16 March 2009 (thread lines
// 4326-5189).
//
// Whoever takes a reference by get_user_pages marks the anonymous page with PG_gup.
// fork write-protects the parent's pte as ever, and then looks: if the page is
// marked and has more references than mappings, somebody may be doing I/O on it, so
// the child gets a copy at once and the parent its write bit back. Against gup-fast,
// which takes no lock, the order decides: gup-fast marks, then reads the pte again;
// fork write-protects, then tests the mark. One of them sees the other.
type PGGUP struct {
	mm.Stock
	// noRecheck takes gup-fast's second look at the pte out, noCopy fork's copy,
	// noForce the write fault before a page is handed out: the deciding lines, for
	// mutants.
	noRecheck, noCopy, noForce bool
	// noBarrier takes the barriers out, and plainFlag sets the mark with a plain store
	// instead of a locked instruction; see TestBarriersOfC1.
	noBarrier, plainFlag bool
}

// pageGUP is PG_gup. It stays set until the page is freed.
const pageGUP = page.Policy0

// Name implements mm.Policy.
func (PGGUP) Name() string { return "pg_gup" }

// Hooks implements mm.Policy.
func (PGGUP) Hooks() mm.HookSet {
	return mm.HookFollow | mm.HookFastTake | mm.HookForkPTE | mm.HookGUPVMA | mm.HookFollowHuge | mm.HookFastHuge | mm.HookForkHuge
}

// Claims implements mm.Policy.
func (PGGUP) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins | mm.Hugetlb | mm.Snapshot
}

// About implements mm.Policy.
func (PGGUP) About() mm.About {
	return mm.About{
		Row: 2, Title: "a flag on pages that get_user_pages handed out; fork copies those still referenced",
		Who: "Andrea Arcangeli", When: "16 March 2009", Lines: "4326-5189",
		Changes: []string{
			"fork: for a writable pte of an anonymous page, write-protect it, barrier, then test PG_gup and page_count against mapcount; if pinned, flush, copy for the child now, and make the parent's pte writable again",
			"get_user_pages: an anonymous page whose pte is not writable is faulted for writing, also for a read; PG_gup is set under the ptl",
			"gup-fast: get_page, set PG_gup, barrier, read the pte again; a read of an anonymous page can never pass the comparison and always goes the slow way",
			"huge pages: get_user_pages always as for a write; gup-fast requires RW and does the same for each small page; fork copies whatever has PG_gup, references or not",
		},
		Claims: "both directions of the race, for all users of get_user_pages, huge pages included",
		Open:   "gup-fast is shut out of read-only anonymous ranges; a copy that runs out of memory leaks its references; a read pin of read-only anonymous memory never returns, nor does mlock of it; fork of a huge page over a cached one leaves that page locked; a pinned page that reclaim has unmapped is shared (docs/findings.md)",
	}
}

// FastTake is gup_pte_range's inner part.
//
// The comparison is the patch's: for a write the mask holds RW and the pte must
// still be present, user, writable and not special. For a read the mask does not
// hold RW, so the left side never has it and the right side always does: a read of
// an anonymous page is refused even where the pte is writable.
func (p PGGUP) FastTake(f *mm.Fast, ref x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	pages.GetAs(f.T, pg, page.RefPin)
	if !pg.Anon() {
		return true
	}
	if !pages.TestFlag(f.T, pg, pageGUP) {
		if p.plainFlag {
			pg.Flags.Store(f.T.C, x86.PageObj(pages.PFN(pg), x86.PageFlags), pg.Flags.Peek()|1<<pageGUP)
		} else {
			pages.SetFlag(f.T, pg, pageGUP)
		}
	}
	if !p.noBarrier {
		f.T.C.Fence()
	}
	if !p.noRecheck && ref.Load(f.T.C)&(f.Mask|x86.PteSpecial) != f.Mask|x86.PteRW {
		pages.PutAs(f.T, pg, page.RefPin)
		return false
	}
	return true
}

// Follow is follow_page's part under FOLL_GET.
func (p PGGUP) Follow(g *mm.GUP, pte x86.PTE, pg *page.Page) mm.FollowNext {
	if !pg.Anon() {
		return mm.FollowTake
	}
	if !pte.Write() && !p.noForce {
		g.Foll |= mm.FollWrite
		return mm.FollowFault
	}
	pages := g.MM.Sys.Pages
	if !pages.TestFlag(g.T, pg, pageGUP) {
		pages.SetFlag(g.T, pg, pageGUP)
	}
	return mm.FollowTake
}

// ForkPTE is copy_one_pte for a present pte.
func (p PGGUP) ForkPTE(f *mm.Fork) mm.ForkNext {
	t, sys := f.T, f.Src.Sys
	pages := sys.Pages
	pte := f.PTE
	if f.SrcVMA.Flags&mm.VMShared != 0 {
		pte = pte.MkClean()
	}
	pte = pte.MkOld()
	protect := f.SrcVMA.Flags.IsCOW() && pte.Write()
	if protect {
		// gup-fast may take a reference after this, but then it finds the pte
		// write-protected when it looks again.
		f.SrcPTE.SetWrprotect(t.C)
		t.C.Trace.Inc(trace.EmuForkWrprotect)
	}
	forceCOW := false
	if pg := sys.NormalPage(f.SrcVMA, pte); pg != nil {
		f.AddMapping(pg)
		f.Page = pg
		if protect && pg.Anon() {
			if !p.noBarrier {
				t.C.Fence()
			}
			if pages.TestFlag(t, pg, pageGUP) && !p.noCopy {
				forceCOW = p.pinned(f, pg)
			}
		}
	}
	if protect {
		pte = pte.WrProtect()
		if forceCOW {
			// Other CPUs may still store through writable TLB entries; the copy must
			// be one instant of the page.
			sys.FlushTLBPage(t, f.SrcVMA, f.Addr)
			return mm.ForkStop
		}
	}
	f.DstPTE.Set(t.C, pte)
	return mm.ForkGo
}

// pinned tells whether somebody besides the mappings and the swap cache holds the
// page. A page lock that is busy counts as pinned.
func (PGGUP) pinned(f *mm.Fork, pg *page.Page) bool {
	t, pages := f.T, f.Src.Sys.Pages
	if !pages.TrylockPage(t, pg) {
		return true
	}
	if n := pages.MapRefs(t, pg); n != 2 {
		t.Oops("pg_gup: page_mapcount is %d in copy_one_pte, not 2", n)
	}
	mapped := pages.MapRefs(t, pg)
	if pages.TestFlag(t, pg, page.SwapCache) {
		mapped++
	}
	pinned := pages.Refs(t, pg) != mapped
	pages.UnlockPage(t, pg)
	return pinned
}

// ForkBreak is the part of copy_pte_range behind its loop: fork_pre_cow, and the
// parent's write bit.
func (p PGGUP) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := p.preCOW(f)
	// Whatever fork_pre_cow met, the entry that is there now gets the write bit: the
	// patch does not ask whether it is still present.
	f.SrcPTE.Set(f.T.C, f.SrcPTE.Load(f.T.C).MkWrite())
	f.Unlock()
	return next
}

// preCOW is fork_pre_cow. It drops both ptls and takes them again.
//
// When no page can be allocated it leaves behind the reference and the map count
// that copy_one_pte took, and its own reference.
func (PGGUP) preCOW(f *mm.Fork) mm.ForkNext {
	t, sys := f.T, f.Src.Sys
	pages := sys.Pages
	srcPTE, dstPTE := f.SrcPTE.Load(t.C), f.DstPTE.Load(t.C)
	old := f.Page
	pages.Get(t, old)
	f.Unlock()
	fresh := pages.Alloc(t, page.GFPHighUser, 0, "fork_pre_cow")
	if fresh == nil {
		f.Lock()
		return mm.ForkNoMem
	}
	sys.CowUserPage(t, fresh, old)
	f.Lock()
	// The source may have been unmapped by reclaim meanwhile; it cannot have been
	// COWed, because fork holds mmap_sem for writing.
	if f.SrcPTE.Load(t.C) != srcPTE || f.DstPTE.Load(t.C) != dstPTE {
		pages.Put(t, old)
		pages.Put(t, fresh)
		f.DropMapping(old)
		return mm.ForkAgain
	}
	f.DropMapping(old)
	pages.Put(t, old)
	f.SetChildPage(fresh)
	return mm.ForkGo
}
