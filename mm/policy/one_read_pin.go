package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// OneReadPin is an idea that its author calls "something crazy" and never wrote (Nick
// Piggin, 16 March 2009, thread lines 3448-3457): row 14, "allowing only one get_user_pages
// read on a wp page, and recording which direction to send it if it does get COWed".
//
// Whoever pins a page first becomes the one that COW leaves it to, and it is marked. Another
// address space that wants to pin the page while it is shared and marked breaks COW first, as
// if it wrote, and so gets a page of its own. gup-fast takes writable ptes only. A marked
// page is never taken over by anybody else, not even when its owner has unmapped it. The
// mark stays until the page is freed: nobody counts the pins.
type OneReadPin struct {
	DirectedCOW
	// noRecord lets everybody pin: the deciding line, for mutants.
	noRecord bool
}

// recorded is set in Page.Policy when the address space that stands there has pinned the
// page.
const recorded = 1 << 32

// Name implements mm.Policy.
func (OneReadPin) Name() string { return "one_read_pin" }

// Hooks implements mm.Policy.
func (p OneReadPin) Hooks() mm.HookSet {
	return p.DirectedCOW.Hooks() | mm.HookFollow | mm.HookFastTake
}

// About implements mm.Policy.
func (p OneReadPin) About() mm.About {
	a := p.DirectedCOW.About()
	a.Row, a.Title = -1, "row 14 with one recorded pin for each shared page"
	a.Who, a.When, a.Lines = "Nick Piggin", "16 March 2009, an idea", "3448-3457"
	a.Changes = []string{
		"new anonymous page: remembers its address space",
		"get_user_pages: the first to pin an anonymous page becomes its owner; who comes second while it is shared breaks COW first",
		"gup-fast: takes anonymous pages only if the pte is writable, and records",
		"COW fault: as row 14; a recorded page that is somebody else's is always copied",
	}
	a.Open = "the walk of row 14; a page that was pinned once is never reused by another process; a shared swap entry"
	return a
}

// record makes m the owner of a page, unless somebody else has pinned it; mine says that
// nobody else can have, now.
func record(c *x86.CPU, m *mm.MM, pg *page.Page, mine bool) bool {
	obj := x86.PageObj(m.Sys.Pages.PFN(pg), x86.PageFlags)
	for {
		old := pg.Policy.Load(c, obj)
		if old&recorded != 0 && uint32(old) != m.ID && !mine {
			return false
		}
		if pg.Policy.CAS(c, obj, old, uint64(m.ID)|recorded) {
			return true
		}
	}
}

// Follow is follow_page under FOLL_GET, ptl held: a pte that is writable is the only one.
func (p OneReadPin) Follow(g *mm.GUP, pte x86.PTE, pg *page.Page) mm.FollowNext {
	if pg.Anon() && !p.noRecord && !record(g.T.C, g.MM, pg, pte.Write()) {
		g.Foll |= mm.FollWrite
		return mm.FollowFault
	}
	if g.Flags&mm.GUPWrite == 0 {
		g.Foll &^= mm.FollWrite // it was for this page
	}
	return mm.FollowTake
}

// FastTake is gup_pte_range's inner part. The pte may be write-protected by now.
func (p OneReadPin) FastTake(f *mm.Fast, _ x86.PTERef, pte x86.PTE, pg *page.Page) bool {
	if pg.Anon() && !p.noRecord && (!pte.Write() || !record(f.T.C, f.MM, pg, false)) {
		return false
	}
	f.MM.Sys.Pages.GetAs(f.T, pg, page.RefPin)
	return true
}

// WP is do_wp_page's decision.
func (p OneReadPin) WP(f *mm.Fault) mm.WPNext {
	// gup-fast, which holds nothing, may be recording a pin.
	f.T.C.Touch(x86.PageObj(f.MM.Sys.Pages.PFN(f.Page), x86.PageFlags), x86.AccRead)
	if firstOwner(f.Page) != f.MM.ID && f.Page.Policy.Peek()&recorded != 0 {
		return mm.WPCopyPage
	}
	return p.DirectedCOW.WP(f)
}
