package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// The part of row 2's patch that is about huge pages.
//
// Every huge page that get_user_pages hands out bears PG_gup until its last reference goes,
// and that alone decides in fork: huge pages have no count of mappings to compare with.
// The mark is on the head.

// GUPVMA is what the patch makes of follow_hugetlb_page's parameter write: it is gone, and
// every pin is one for writing. So there is no zero page either, and a pin for reading of
// a mapping that nobody may write to gets a page of its own, writable.
func (p PGGUP) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.VMA.Flags&mm.VMHugetlb != 0 && !p.noForce {
		g.Foll |= mm.FollWrite
	}
	return mm.GUPGo
}

// FollowHuge is follow_hugetlb_page's part.
func (PGGUP) FollowHuge(g *mm.GUP, _ x86.PTE, head *page.Page) mm.FollowNext {
	markGUP(g.MM.Sys.Pages, g.T, head)
	return mm.FollowTake
}

// FastHuge is gup_huge_pmd's and gup_huge_pud's part. The mask holds RW whatever was asked
// for.
func (p PGGUP) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	return p.takeHuge(f, ref, pte, head, n, x86.PtePresent|x86.PteUser|x86.PteRW)
}

// takeHuge is the loop: each small page is a get_page, a barrier and another look at the
// entry. The patch reads the entry once more before it; what has become of it since then, the
// other looks see.
func (p PGGUP) takeHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int, mask x86.PTE) int {
	if pte&mask != mask {
		return 0
	}
	pages := f.MM.Sys.Pages
	for i := range n {
		pages.GetAs(f.T, head, page.RefPin)
		markGUP(pages, f.T, head)
		f.T.C.Fence()
		if !p.noRecheck && ref.Load(f.T.C)&mask != mask {
			pages.PutAs(f.T, head, page.RefPin)
			return i
		}
	}
	return n
}

// ForkHuge is copy_hugetlb_page_range's inner part.
//
// As in the patch, the file's page, which hugetlbfs_pagecache_page returns locked and with
// a reference, is neither unlocked nor put. The parent's entry is set to what it was with
// the parent's page_table_lock dropped; mmap_sem keeps everybody else away.
func (p PGGUP) ForkHuge(f *mm.Fork) mm.ForkNext {
	t, sys, pages := f.T, f.Src.Sys, f.Src.Sys.Pages
	e, force := f.PTE, false
	head := pages.Page(e.PFN())
	pages.GetAs(t, head, page.RefMap)
	if f.SrcVMA.Flags.IsCOW() && e.Write() {
		f.SrcPTE.SetWrprotect(t.C)
		t.C.Trace.Inc(trace.EmuForkWrprotect)
		if !p.noBarrier {
			t.C.Fence()
		}
		force = pages.TestFlag(t, head, pageGUP) && !p.noCopy
		e = f.SrcPTE.Load(t.C)
	}
	orig := f.PTE
	f.DstPTE.Set(t.C, e)
	t.C.Trace.Inc(trace.EmuForkPages)
	f.Unlock()
	if !force {
		return mm.ForkGo
	}
	sys.FlushTLBRange(t, f.SrcVMA, f.Addr, f.Addr+f.SrcVMA.KernelPageSize()) // an atomic copy of the parent's page
	cached := sys.HugePagecachePage(t, f.SrcVMA, f.Addr)
	next := f.HugeCOWChild(e, cached)
	if now := f.SrcPTE.Load(t.C); now != e {
		t.Oops("pg_gup: the huge pte at %#x has changed from %v to %v during fork", f.Addr, e, now)
	}
	f.SrcPTE.Set(t.C, orig)
	return next
}

// markGUP sets PG_gup unless it is set.
func markGUP(pages *page.Map, t *sched.Task, p *page.Page) {
	if !pages.TestFlag(t, p, pageGUP) {
		pages.SetFlag(t, p, pageGUP)
	}
}
