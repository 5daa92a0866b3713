package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// DirectedCOW is row 14: Linus Torvalds' idea of 11 March 2009 (thread lines 409-414, 751):
// COW is broken in the direction of the first owner. "That might solve everything, and be
// purely local to the logic in mm/memory.c (do_wp_page)."
//
// A page remembers the address space that mapped it first. Anybody else who writes to it
// while it is shared gets a copy, as ever. If the owner writes, it is the others who get
// one: rmap is walked, and every entry but the owner's comes to map a copy, which they
// share among themselves. The owner goes on with the page, and so does what it has pinned.
//
// Against it stood that the list of an anon_vma can be huge (675), that a child sees what a
// device writes until the owner stores (663-666), and that if both sides have pinned the page
// for reading, one of them will be wrong (3448). Nobody says what of swap: a process whose
// entry is one of swap is not found by rmap, and then the copy goes to the owner as in
// Stock; and a page that comes back from the device has no first owner any more.
type DirectedCOW struct {
	mm.Stock
	// noDirect gives the copy to whoever writes: the deciding line, for mutants.
	noDirect bool
}

// Name implements mm.Policy.
func (DirectedCOW) Name() string { return "directed_cow" }

// Hooks implements mm.Policy.
func (DirectedCOW) Hooks() mm.HookSet { return mm.HookAnonNew | mm.HookWP }

// Claims implements mm.Policy: "solve everything".
func (DirectedCOW) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins
}

// About implements mm.Policy.
func (DirectedCOW) About() mm.About {
	return mm.About{
		Row: 14, Title: "the first owner of a page keeps it; who else maps it gets the copy",
		Who: "Linus Torvalds", When: "11 March 2009, an idea", Lines: "409-414, 744-752",
		Changes: []string{
			"new anonymous page: remembers its address space",
			"COW fault: if the first owner writes to a page that is shared, rmap finds all other mappings and they get a copy, read-only; the owner reuses the page",
		},
		Claims: "everything, in one place, for good",
		Open:   "the walk is as long as the list of the anon_vma (675); the child's memory changes until the owner stores; of two who pinned the page for reading only the owner is right (3448); when the owner has unmapped the page others take it over under its pin; a shared swap entry",
	}
}

// AnonNew remembers the first owner.
func (DirectedCOW) AnonNew(_ *sched.Task, pg *page.Page, v *mm.VMA) { pg.Policy.Poke(uint64(v.MM.ID)) }

func firstOwner(pg *page.Page) uint32 { return uint32(pg.Policy.Peek()) }

// WP is do_wp_page's decision.
func (p DirectedCOW) WP(f *mm.Fault) mm.WPNext {
	if firstOwner(f.Page) != f.MM.ID || p.noDirect {
		return f.LockAndReuse()
	}
	if !f.LockPage() {
		return mm.WPRetry
	}
	s, pg := f.MM.Sys, f.Page
	s.Pages.Get(f.T, pg) // direct drops the ptl, and the process may give the page up: it must not be freed locked
	next := mm.WPCopyPage
	if s.ReuseSwapPage(f.T, pg) {
		next = mm.WPReuse
	} else if s.Pages.MapRefs(f.T, pg) > 1 {
		next = p.direct(f)
	} else if s.ReuseSwapPage(f.T, pg) {
		next = mm.WPReuse // the last of the others has gone in between
	}
	s.Pages.UnlockPage(f.T, pg)
	s.Pages.Put(f.T, pg)
	return next
}

// direct gives everybody else a copy. The page is locked, which keeps reclaim and the
// owner's other threads away; every entry that maps it is read-only, so the copy is one
// instant of what processes stored. The copy is locked until all have it: who has it alone for
// a moment must not find that out and store to it. The ptl is held before and after.
func (DirectedCOW) direct(f *mm.Fault) mm.WPNext {
	t, s, old := f.T, f.MM.Sys, f.Page
	pages := s.Pages
	f.Unlock()
	fresh := s.AllocUserPage(t, "directed_cow")
	if fresh == nil {
		f.Lock()
		return mm.WPCopyPage // which will not get one either
	}
	s.CowUserPage(t, fresh, old)
	fresh.PokeSet(page.Uptodate)
	pages.LockPageNew(t, fresh)
	moved := 0
	s.RmapWalk(t, old, func(v *mm.VMA, addr uint64) bool {
		if v.MM != f.MM && moveMapping(f, v, addr, fresh, moved == 0) {
			moved++
		}
		return true
	})
	pages.UnlockPage(t, fresh)
	pages.Put(t, fresh)
	t.C.Trace.Add(trace.EmuPolicyOverrides, uint64(moved))
	f.Lock()
	switch {
	case !f.Same():
		return mm.WPRetry
	case s.ReuseSwapPage(t, old):
		return mm.WPReuse
	}
	return mm.WPCopyPage
}

// moveMapping has the entry for addr of v map fresh instead of the page of the fault, if it maps
// that. It does not if the page has got another owner meanwhile (one_read_pin), who has
// pinned it and would be left with a page that it does not map.
func moveMapping(f *mm.Fault, v *mm.VMA, addr uint64, fresh *page.Page, first bool) bool {
	t, s, old := f.T, v.MM.Sys, f.Page
	pages := s.Pages
	ref, ptl, ok := v.MM.LockPTE(t, addr)
	if !ok {
		return false
	}
	if e := ref.Load(t.C); !e.Present() || e.PFN() != pages.PFN(old) || firstOwner(old) != f.MM.ID {
		ptl.Unlock(t)
		return false
	}
	s.PtepClearFlush(t, v, addr, ref)
	pages.GetAs(t, fresh, page.RefMap)
	if first {
		s.PageAddNewAnonRmap(t, fresh, v, addr)
	} else {
		s.PageAddAnonRmap(t, fresh, v, addr) // whoever had it first may have gone
	}
	entry := x86.MkPTE(pages.PFN(fresh), v.RacyProt()).MkDirty()
	ref.Set(t.C, entry)
	mm.TracePTE(t, addr, 0, entry)
	s.PageRemoveRmap(t, old)
	pages.PutAs(t, old, page.RefMap)
	ptl.Unlock(t)
	return true
}
