package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// follPin is what Linux 5.6 to 5.11 built so that fork can ask whether somebody may be
// doing I/O on a page; the rows of later kernels embed it.
//
//	FOLL_GET   a small page: 1 reference      a huge page: n
//	FOLL_PIN   a small page: 1024             a huge page: n, and n in its pin count
//
// A page may be pinned if it has 1024 references, or a pin count. That errs on one side
// only. mm.has_pinned says whether the address space ever pinned anything: it is set
// before the first look-up, never cleared, and not inherited. write_protect_seq is odd
// while fork write-protects: a gup-fast that pins and meets it, or sees it change,
// takes nothing and goes the slow way, where mmap_sem makes it wait for fork.
type follPin struct {
	mm.Stock
	// noBarrier takes the barrier behind the odd sequence out; see TestBarriersOfC1.
	noBarrier bool
}

// pinBias is GUP_PIN_COUNTING_BIAS.
const pinBias = 1024

// pinMM is what an address space has of it.
type pinMM struct {
	hasPinned x86.Word32 // mm.has_pinned, MMF_HAS_PINNED. Set once.
	seq       x86.Word32 // write_protect_seq; written by fork, under mmap_sem
	obj       x86.ObjID  // names both; immutable
}

func pinsOf(m *mm.MM) *pinMM { return m.PolicyData.(*pinMM) }

// MMInit implements mm.Policy.
func (follPin) MMInit(t *sched.Task, m *mm.MM) {
	m.PolicyData = &pinMM{obj: t.M.NewObj(x86.ClassWord)}
}

// setHasPinned is mm_set_has_pinned_flag of 5.14: a read first, so that the line stays shared.
// 5.11 stores it each time.
func setHasPinned(t *sched.Task, m *mm.MM) {
	p := pinsOf(m)
	if p.hasPinned.Load(t.C, p.obj) == 0 {
		p.hasPinned.Store(t.C, p.obj, 1)
	}
}

// needsCopy is page_needs_cow_for_dma: fork may not share the page.
func needsCopy(f *mm.Fork, pg *page.Page) bool {
	p := pinsOf(f.Src)
	return f.SrcVMA.Flags.IsCOW() && p.hasPinned.Load(f.T.C, p.obj) != 0 &&
		maybePinned(f.T, f.Src.Sys.Pages, pg)
}

// maybePinned is page_maybe_dma_pinned.
func maybePinned(t *sched.Task, pages *page.Map, pg *page.Page) bool {
	head := pages.Head(pg)
	if head.Order() > 0 {
		return head.Policy.Load(t.C, x86.PageObj(pages.PFN(head), x86.PagePolicy)) > 0
	}
	return pages.Refs(t, pg) >= pinBias
}

// Take is try_grab_page.
func (follPin) Take(t *sched.Task, pg *page.Page, kind mm.PinKind, n int) {
	pages := mm.SystemOf(t).Pages
	head := pages.Head(pg)
	switch {
	case kind == mm.PinGet:
		pages.GetNAs(t, pg, page.RefPin, n)
	case head.Order() > 0:
		// The pin count goes up before anybody can see the references without it.
		head.Policy.Add(t.C, x86.PageObj(pages.PFN(head), x86.PagePolicy), uint64(n))
		pages.GetNAs(t, pg, page.RefPin, n)
	default:
		pages.GetNAs(t, pg, page.RefPin, n*pinBias)
	}
}

// Put is put_page and unpin_user_page.
func (follPin) Put(t *sched.Task, pg *page.Page, kind mm.PinKind, n int) {
	pages := mm.SystemOf(t).Pages
	head := pages.Head(pg)
	switch {
	case kind == mm.PinGet:
		pages.PutNAs(t, pg, page.RefPin, n)
	case head.Order() > 0:
		head.Policy.Add(t.C, x86.PageObj(pages.PFN(head), x86.PagePolicy), -uint64(n))
		pages.PutNAs(t, pg, page.RefPin, n)
	default:
		pages.PutNAs(t, pg, page.RefPin, n*pinBias)
	}
}

// GUPVMA notes that the address space has pinned pages, before the first look-up of
// the slow way.
func (follPin) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Want && g.Kind != mm.PinGet {
		setHasPinned(g.T, g.MM)
	}
	return mm.GUPGo
}

// FastBegin notes it for the fast way, and reads the sequence.
func (follPin) FastBegin(f *mm.Fast) bool {
	if f.Kind == mm.PinGet {
		return true
	}
	setHasPinned(f.T, f.MM)
	p := pinsOf(f.MM)
	f.Data = uint64(p.seq.Load(f.T.C, p.obj))
	return f.Data&1 == 0
}

// FastEnd reads it again: whatever was pinned while fork write-protected is unpinned.
func (follPin) FastEnd(f *mm.Fast) bool {
	if f.Kind == mm.PinGet {
		return true
	}
	p := pinsOf(f.MM)
	return uint64(p.seq.Load(f.T.C, p.obj)) == f.Data
}

// FastTake is gup_pte_range's inner part: the pte has to be the same after the reference
// was taken.
func (p follPin) FastTake(f *mm.Fast, ref x86.PTERef, pte x86.PTE, pg *page.Page) bool {
	p.Take(f.T, pg, f.Kind, 1)
	if ref.Load(f.T.C) != pte {
		p.Put(f.T, pg, f.Kind, 1)
		return false
	}
	return true
}

// FastHuge is gup_huge_pmd: all references at once, and the same second look. Unlike
// try_grab_page, try_grab_compound_head counts the references before the pins.
func (p follPin) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	pages := f.MM.Sys.Pages
	pages.GetNAs(f.T, head, page.RefPin, n)
	if f.Kind != mm.PinGet {
		head.Policy.Add(f.T.C, x86.PageObj(pages.PFN(head), x86.PagePolicy), uint64(n))
	}
	if ref.Load(f.T.C) != pte {
		p.Put(f.T, head, f.Kind, n)
		return 0
	}
	return n
}

// ForkBegin makes the sequence odd.
func (fp follPin) ForkBegin(f *mm.Fork) {
	p := pinsOf(f.Src)
	p.seq.Store(f.T.C, p.obj, p.seq.Peek()+1)
	if !fp.noBarrier {
		f.T.C.Fence()
	}
}

// ForkEnd makes it even again, and gives back a page that was set aside for a copy and
// not needed.
func (follPin) ForkEnd(f *mm.Fork) {
	p := pinsOf(f.Src)
	p.seq.Store(f.T.C, p.obj, p.seq.Peek()+1)
	putPrealloc(f)
}

// putPrealloc gives back what page_copy_prealloc has set aside.
func putPrealloc(f *mm.Fork) {
	if f.Data != 0 {
		f.Src.Sys.Pages.Put(f.T, f.Src.Sys.Pages.Page(x86.PFN(f.Data)))
		f.Data = 0
	}
}

// sharePTE is the end of copy_present_pte for a page that is shared. If a page was set aside
// for it, because it was pinned until a moment ago, that is not kept for another.
func sharePTE(f *mm.Fork) mm.ForkNext {
	next := f.CopyOnePTE()
	putPrealloc(f)
	return next
}

// copyPresentPage is copy_present_page: the child gets a copy now, made under both ptls,
// and the parent's pte stays as it is. The page comes from page_copy_prealloc, for
// which the locks have to go: the first time round there is none (ForkStop).
func copyPresentPage(f *mm.Fork, pg *page.Page) mm.ForkNext {
	if f.Data == 0 {
		return mm.ForkStop
	}
	sys := f.Src.Sys
	fresh := sys.Pages.Page(x86.PFN(f.Data))
	f.Data = 0
	sys.CowUserPage(f.T, fresh, pg)
	f.SetChildPage(fresh)
	return mm.ForkGo
}

// ForkBreak is page_copy_prealloc, after which the same pte is looked at again.
func (follPin) ForkBreak(f *mm.Fork) mm.ForkNext {
	f.Unlock()
	if mm.AnonVMAPrepare(f.T, f.DstVMA) != nil {
		return mm.ForkNoMem
	}
	fresh := f.Src.Sys.AllocUserPage(f.T, "page_copy_prealloc")
	if fresh == nil {
		return mm.ForkNoMem
	}
	f.Data = uint64(f.Src.Sys.Pages.PFN(fresh))
	return mm.ForkAgain
}

// follPinHooks are the hooks of all rows with FOLL_PIN.
const follPinHooks = mm.HookMM | mm.HookGUPVMA | mm.HookFast | mm.HookFastTake | mm.HookFastHuge | mm.HookPut |
	mm.HookForkRange | mm.HookForkPTE
