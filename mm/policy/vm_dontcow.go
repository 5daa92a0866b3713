package policy

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// VMDontCOW is row 3: Nick Piggin's first patch, 12 March 2009 (thread lines 1377-1891).
//
// The first get_user_pages in a COW mapping turns the whole VMA into one that has no COW
// pages: it takes mmap_sem for writing, copies what is shared, and sets VM_DONTCOW. fork
// leaves the parent of such a VMA writable, and copies the child's pages when all its ptes
// are there. Nothing of the VMA is ever shared again, in the child and its children either.
//
// decow_one_pte was made from do_wp_page, and one line was left behind: do_wp_page puts the
// old page twice, for itself and for the pte that it has replaced; decow_one_pte once. Each
// page that is copied leaves one reference of the old page behind, which is then never
// freed. Fixed puts it, and is row vm_dontcow_fixed.
//
// A hugetlb VMA is converted too, and that takes its pages out: pmd_none_or_clear_bad takes
// the entry of a huge page for a bad one and clears it, without a flush and without putting
// the page. The pin gets a new one, of zeroes. gup-fast, which the patch does not touch for
// huge pages, hands out what is there, so that it needs a pin that goes the slow way.
//
// mlock, whose look-ups do not say that they are internal, holds mmap_sem for writing when the
// conversion gives it back as if it were held for reading (1363).
//
// Left out: copy_page_range's WARN_ON for a copy that failed; make_vma_nocow's mutex, one for the machine, which only orders conversions of
// different address spaces. And do_swap_page marks the page before it locks it, here as it
// maps it: a fault that comes too late does not mark.
type VMDontCOW struct {
	mm.Stock
	// Amended has the corrections that Nick Piggin made in his answer (2003, 2043): the
	// parent's ptes are write-protected after all, so that the copy is one instant of the
	// page, and do_wp_page's assertion is about not reusing a marked page.
	Amended bool
	// Fixed puts the reference that decow_one_pte forgets.
	Fixed bool
	// noDecow takes the child's copies out: the deciding line, for mutants.
	noDecow bool
}

// VM_DONTCOW.
const vmDontCOW = mm.VMPolicy0

// Name implements mm.Policy.
func (p VMDontCOW) Name() string {
	switch {
	case p.Amended:
		return "vm_dontcow_amended"
	case p.Fixed:
		return "vm_dontcow_fixed"
	}
	return "vm_dontcow"
}

// Hooks implements mm.Policy.
func (VMDontCOW) Hooks() mm.HookSet {
	return mm.HookGUPVMA | mm.HookFastTake | mm.HookForkPTE | mm.HookForkVMA | mm.HookWP | mm.HookSwapIn | mm.HookAnonNew
}

// Claims implements mm.Policy.
func (VMDontCOW) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins
}

// About implements mm.Policy.
func (p VMDontCOW) About() mm.About {
	a := mm.About{
		Row: 3, Title: "the first pin ends copy-on-write for the whole VMA",
		Who: "Nick Piggin", When: "12 March 2009, first version", Lines: "1377-1891",
		Changes: []string{
			"get_user_pages: the first pin of a COW mapping takes mmap_sem for writing, copies the present read-only anonymous pages, sets VM_DONTCOW; make_pages_present, access_process_vm and exec's arguments do not",
			"gup-fast: only pages with PG_dontcow, which pages get that appear in such a VMA; file pages are refused too",
			"fork: such a VMA stays writable in the parent; the child's ptes are copied, then its pages, one by one",
			"COW fault: asserts that it is never entered for a marked page",
			"swap-in: marks the page",
		},
		Claims: "both directions of the race, for all users of get_user_pages that do not say they are internal; small pages",
		Open:   "fork copies the whole VMA (2136); the child's copy is not one instant (1923); pages that were writable when the VMA was converted never get gup-fast; a slow pin takes a private mapping of huge pages its pages away; mlock gives back an mmap_sem that it holds for writing; each copied page leaks a reference, and a marked page that was swapped out shared, or mprotected, meets the assertion (docs/findings.md)",
	}
	switch {
	case p.Amended:
		a.Title = "row 3 with the corrections of its author's answer"
		a.Lines = "1377-1891, 2003, 2043"
		a.Changes = append(a.Changes, "amended: the parent is write-protected at fork as ever, and the assertion asks for a marked page that is not reused")
		a.Open = "fork copies the whole VMA (2136); the parent's TLBs are flushed only after the child's copies are made; each copied page leaks a reference"
	case p.Fixed:
		a.Title = "row 3 that does not leak the pages it copies"
		a.Changes = append(a.Changes, "fixed: decow_one_pte puts the old page once more, for the pte that it replaces, as do_wp_page does")
		a.Open = "as row 3, less the leak"
	}
	return a
}

// GUPVMA is __get_user_pages' part, before the branch for hugetlb.
func (p VMDontCOW) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Flags&mm.GUPInternal != 0 || !g.VMA.Flags.IsCOW() || g.VMA.Flags&vmDontCOW != 0 {
		return mm.GUPGo
	}
	t, m := g.T, g.MM
	m.MmapSem.UpRead(t)
	m.MmapSem.DownWrite(t)
	// The VMA may be another one now; that it may begin above the address is not asked.
	ok := true
	if v := m.FindVMA(t, g.Addr); v != nil && v.Flags.IsCOW() && v.Flags&vmDontCOW == 0 {
		ok = p.makeVMANoCOW(t, v)
	}
	m.MmapSem.DowngradeWrite(t)
	if !ok {
		return mm.GUPNoMem
	}
	return mm.GUPLookup
}

// makeVMANoCOW is make_vma_nocow. mmap_sem is held for writing.
func (p VMDontCOW) makeVMANoCOW(t *sched.Task, v *mm.VMA) bool {
	if !p.decowPageRange(t, v) {
		return false
	}
	v.Flags |= vmDontCOW
	return true
}

// decowPageRange is decow_page_range: what the VMA maps, between two notifications. False
// means that there is no memory.
//
// A VMA of huge pages comes here too, as a pin meets this code before the branch for
// hugetlb: its entries are taken for bad ones and cleared (decow_hugetlb_page_range is a
// comment in the patch).
func (p VMDontCOW) decowPageRange(t *sched.Task, v *mm.VMA) bool {
	v.MM.InvalidateRangeStart(t, v.Start, v.End)
	ok := true
	if v.Flags&mm.VMHugetlb != 0 {
		v.ClearBadHuge(t)
	} else {
		ok = p.decowPTERange(t, v)
	}
	v.MM.InvalidateRangeEnd(t, v.Start, v.End)
	return ok
}

// decowPTERange is decow_pte_range for table after table: the entries one after the other, under the
// lock of their table, which it lets go of now and then.
func (p VMDontCOW) decowPTERange(t *sched.Task, v *mm.VMA) bool {
	for addr := v.Start; addr < v.End; {
		next := min(addr&x86.PMDMask+x86.PMDSize, v.End)
		for progress := 0; addr < next; {
			ref, ptl, ok := v.MM.LockPTE(t, addr)
			if !ok {
				addr = next
				break
			}
			err := error(nil)
			for addr < next {
				if progress >= 32 {
					progress = 0
					if t.NeedResched() || t.M.Preempt() == sched.PreemptFull && ptl.Contended() {
						break
					}
				}
				if ref.Load(t.C).None() {
					progress++
				} else {
					if err = p.decowOnePTE(t, v, addr, ref, ptl); err != nil {
						break
					}
					progress += 8
				}
				addr += x86.PageSize
				ref = ref.Next(ref.Obj + 1)
			}
			if err == unix.ENOMEM {
				return false
			}
			ptl.Unlock(t) // EAGAIN: the same entry again
			t.CondResched()
		}
	}
	return true
}

// decowOnePTE is decow_one_pte. The ptl is held before and after, but for ENOMEM; EAGAIN
// says that the entry changed while it was not.
func (p VMDontCOW) decowOnePTE(t *sched.Task, v *mm.VMA, addr uint64, ref x86.PTERef, ptl *lock.SpinLock) error {
	s := v.MM.Sys
	pages := s.Pages
	pte := ref.Load(t.C)
	if !pte.Present() || pte.Write() {
		return nil
	}
	old := s.NormalPage(v, pte)
	if old == nil || !old.Anon() {
		return nil
	}
	pages.Get(t, old)
	ptl.Unlock(t)
	var fresh *page.Page
	if mm.AnonVMAPrepare(t, v) == nil {
		fresh = s.AllocUserPage(t, "decow_one_pte")
	}
	if fresh == nil {
		pages.Put(t, old)
		return unix.ENOMEM
	}
	if v.Flags&mm.VMLocked != 0 {
		s.ClearPageMlock(t, old)
	}
	s.CowUserPage(t, fresh, old)
	fresh.PokeSet(page.Uptodate)
	fresh.PokeSet(pageDontCOW)

	ptl.Lock(t)
	if ref.Load(t.C) != pte {
		pages.Put(t, fresh)
		pages.Put(t, old)
		return unix.EAGAIN
	}
	entry := mm.MaybeMkWrite(s.MkPTE(fresh, v).MkDirty(), v)
	s.PtepClearFlushNotify(t, v, addr, ref)
	pages.Relabel(t, fresh, page.RefTemp, page.RefMap, 1)
	s.PageAddNewAnonRmap(t, fresh, v, addr)
	ref.Set(t.C, entry)
	mm.TracePTE(t, addr, 0, entry)
	s.PageRemoveRmap(t, old)
	pages.Relabel(t, old, page.RefMap, page.RefTemp, 1) // nobody's from here on
	if p.Fixed {
		pages.Put(t, old)
	}
	pages.Put(t, old)
	return nil
}

// FastTake is gup_pte_range's test.
func (VMDontCOW) FastTake(f *mm.Fast, _ x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	if !pages.TestFlag(f.T, pg, pageDontCOW) {
		return false
	}
	pages.GetAs(f.T, pg, page.RefPin)
	return true
}

// ForkPTE is copy_one_pte.
func (p VMDontCOW) ForkPTE(f *mm.Fork) mm.ForkNext {
	t, flags := f.T, f.SrcVMA.Flags
	pte := f.PTE
	if flags.IsCOW() {
		if flags&vmDontCOW == 0 || p.Amended {
			f.SrcPTE.SetWrprotect(t.C)
			if pte.Write() {
				t.C.Trace.Inc(trace.EmuForkWrprotect)
			}
		}
		pte = pte.WrProtect()
	}
	if flags&mm.VMShared != 0 {
		pte = pte.MkClean()
	}
	pte = pte.MkOld()
	if pg := f.Src.Sys.NormalPage(f.SrcVMA, pte); pg != nil {
		if flags&vmDontCOW == 0 && f.Src.Sys.Pages.TestFlag(t, pg, pageDontCOW) {
			t.Warn("vm_dontcow: VM_BUG_ON: copy_one_pte of a PG_dontcow page at %#x, VMA without VM_DONTCOW", f.Addr)
		}
		f.AddMapping(pg)
	}
	f.DstPTE.Set(t.C, pte)
	return mm.ForkGo
}

// ForkVMA is the end of copy_page_range: the child's VMA, which has inherited the flag, is
// un-COWed.
func (p VMDontCOW) ForkVMA(f *mm.Fork) error {
	if f.SrcVMA.Flags&vmDontCOW != 0 && !p.noDecow && !p.decowPageRange(f.T, f.DstVMA) {
		return unix.ENOMEM
	}
	return nil
}

// WP is do_wp_page with its assertion, which stands before the test for reuse.
func (p VMDontCOW) WP(f *mm.Fault) mm.WPNext {
	marked := f.MM.Sys.Pages.TestFlag(f.T, f.Page, pageDontCOW)
	if marked && !p.Amended {
		f.T.Warn("vm_dontcow: VM_BUG_ON: do_wp_page of a PG_dontcow page at %#x", f.Addr)
	}
	next := f.LockAndReuse()
	if marked && p.Amended && next == mm.WPCopyPage {
		f.T.Warn("vm_dontcow: VM_BUG_ON: do_wp_page does not reuse a PG_dontcow page at %#x", f.Addr)
	}
	return next
}

// SwapIn is do_swap_page's mark.
func (VMDontCOW) SwapIn(f *mm.Fault) bool {
	s := f.MM.Sys
	if f.VMA.Flags&vmDontCOW != 0 {
		s.Pages.SetFlag(f.T, f.Page, pageDontCOW)
	}
	return f.Write && s.ReuseSwapPage(f.T, f.Page)
}

// AnonNew is the mark of do_anonymous_page and __do_fault. do_wp_page, whose faults find
// an entry that is present, does not mark what it makes.
func (VMDontCOW) AnonNew(t *sched.Task, pg *page.Page, v *mm.VMA) {
	if v.Flags&vmDontCOW == 0 {
		return
	}
	if f := mm.CurrentFault(t); f != nil && f.VMA == v && f.Orig.None() {
		pg.PokeSet(pageDontCOW)
	}
}
