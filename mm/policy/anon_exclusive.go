package policy

import (
	"errors"
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// AnonExclusive is row 21: Linux 5.19, David Hildenbrand's PG_anon_exclusive. O_DIRECT
// still takes plain references.
//
// An anonymous page knows whether it belongs to one address space alone, and from this
// follows everything else:
//
//	pte writable            => exclusive
//	exclusive               => a write fault reuses it, whatever the counts say
//	FOLL_PIN of a page      => exclusive: a read pin of another one unshares first
//	exclusive, maybe pinned => fork copies it, reclaim and KSM leave its pte alone
//
//	set:    new page, reuse after asking the counts, swap-in of an exclusive entry
//	clear:  shared by fork, unmapped to swap (the entry then carries the bit), merged
type AnonExclusive struct {
	follPin
	// What 6.0 to 6.5 added, for row 22.
	later bool
	// noUnshare takes the unsharing fault out, noCopy fork's copy, noKeep the test when
	// a pte is unmapped: the deciding lines, for mutants.
	noUnshare, noCopy, noKeep bool
}

// Name implements mm.Policy.
func (AnonExclusive) Name() string { return "anon_exclusive" }

// Hooks implements mm.Policy.
func (AnonExclusive) Hooks() mm.HookSet {
	return follPinHooks | mm.HookFollow | mm.HookForkSwap | mm.HookWP | mm.HookSwapIn | mm.HookAnonNew |
		mm.HookReclaim | mm.HookKSM | mm.HookFollowHuge | mm.HookForkHuge | mm.HookHugeWP | mm.HookHugeRmap
}

// Claims implements mm.Policy.
func (AnonExclusive) Claims() mm.Guarantee {
	return mm.Reverse | mm.AIO | mm.Disclosure | mm.UnderSwap | mm.Hugetlb
}

// About implements mm.Policy.
func (AnonExclusive) About() mm.About {
	return mm.About{
		Row: 21, Title: "pages know whether they are exclusive; pinned ones stay so",
		Who: "David Hildenbrand", When: "Linux 5.18 and 5.19, May 2022",
		Lines: "6c287605fd56, c89357e27f20, a7f226604170, fb3d824d1a46, 1493a1913e34",
		Changes: []string{
			"get_user_pages: FOLL_PIN for reading through a read-only pte of a page that is not exclusive takes an unsharing fault first; gup-fast refuses it, after a second look at the pte",
			"fork: an exclusive page that may be pinned is copied; any other loses the mark and is shared; swap entries lose it too",
			"COW fault: reuses an exclusive page; otherwise asks page_count, after emptying this CPU's pagevecs and the swap cache",
			"huge pages: the same at fork and for pins; a write fault reuses by the count of mappings",
			"reclaim, KSM: an exclusive page that may be pinned keeps its pte; else the swap entry carries the mark, and swap-in gives it back",
		},
		Claims: "users of FOLL_PIN never lose a page nor see another's stores, under swap too",
		Open:   "O_DIRECT and vmsplice take plain references: the forward race of O_DIRECT, the disclosure of huge pages",
	}
}

// pageExclusive is PG_anon_exclusive. Of a huge page its head has it.
const pageExclusive = page.Policy1

func exclusive(t *sched.Task, pages *page.Map, pg *page.Page) bool {
	return pages.TestFlag(t, pg, pageExclusive)
}

// CheckPTE holds the row's invariants: a writable pte of an anonymous page means that it is
// exclusive, and exclusive that one pte maps it (Linux 5.19 asserts the same in
// mm/memory.c and mm/rmap.c).
func (AnonExclusive) CheckPTE(_ *mm.VMA, pte x86.PTE, pg *page.Page) error {
	switch {
	case !pg.Anon():
	case pte.Write() && !pg.Has(pageExclusive):
		return errors.New("anon_exclusive: writable, and the page is not exclusive")
	case pg.Has(pageExclusive) && pg.MapCount.Peek() > 1:
		return fmt.Errorf("anon_exclusive: exclusive, and mapped %d times", pg.MapCount.Peek())
	}
	return nil
}

// AnonNew is page_add_new_anon_rmap: nobody else can see the page yet.
func (AnonExclusive) AnonNew(_ *sched.Task, pg *page.Page, _ *mm.VMA) { pg.PokeSet(pageExclusive) }

// GUPVMA implements mm.Policy. Since 6.2 a long-term pin for reading in a COW mapping is
// of an anonymous page: what nobody has touched is faulted in.
func (p AnonExclusive) GUPVMA(g *mm.GUP) mm.GUPNext {
	if p.later && g.Kind == mm.PinLongterm && g.VMA.Flags.IsCOW() {
		g.Foll &^= mm.FollAnon
	}
	return p.follPin.GUPVMA(g)
}

// mustUnshare is gup_must_unshare, for a pte that is read-only. cow says whether the
// mapping is one; gup-fast does not know and assumes it.
func (p AnonExclusive) mustUnshare(t *sched.Task, pages *page.Map, kind mm.PinKind, pg *page.Page, cow bool) bool {
	switch {
	case kind == mm.PinGet || p.noUnshare:
		return false
	case !pg.Anon():
		return p.later && kind == mm.PinLongterm && cow
	}
	return !exclusive(t, pages, pages.Head(pg))
}

// Follow is follow_page_pte's part.
func (p AnonExclusive) Follow(g *mm.GUP, pte x86.PTE, pg *page.Page) mm.FollowNext {
	if g.Foll&mm.FollWrite == 0 && !pte.Write() && p.mustUnshare(g.T, g.MM.Sys.Pages, g.Kind, pg, g.VMA.Flags.IsCOW()) {
		g.Foll |= mm.FollUnshare
		return mm.FollowFault
	}
	return mm.FollowTake
}

// FastTake is gup_pte_range's inner part: pin, look at the pte again, and only then ask
// whether the page is exclusive. Whoever takes the mark away does it the other way
// round: clears the pte, asks for pins, clears the mark.
func (p AnonExclusive) FastTake(f *mm.Fast, ref x86.PTERef, pte x86.PTE, pg *page.Page) bool {
	if !p.follPin.FastTake(f, ref, pte, pg) {
		return false
	}
	if !f.Write && !pte.Write() && p.mustUnshare(f.T, f.MM.Sys.Pages, f.Kind, pg, true /* cow */) {
		p.Put(f.T, pg, f.Kind, 1)
		return false
	}
	return true
}

// ForkPTE is copy_present_pte with page_try_dup_anon_rmap.
func (p AnonExclusive) ForkPTE(f *mm.Fork) mm.ForkNext {
	pages := f.Src.Sys.Pages
	pg := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	if pg != nil && pg.Anon() && exclusive(f.T, pages, pg) {
		if !p.noCopy && needsCopy(f, pg) {
			return copyPresentPage(f, pg)
		}
		pages.ClearFlag(f.T, pg, pageExclusive)
	}
	return sharePTE(f)
}

// ForkSwap is copy_nonpresent_pte's part: both sides' entries lose the mark.
func (AnonExclusive) ForkSwap(f *mm.Fork) {
	if f.PTE.SwpExclusive() {
		f.PTE = f.PTE.SwpClearExclusive()
		f.SrcPTE.Set(f.T.C, f.PTE)
	}
}

// WP is do_wp_page's decision.
func (AnonExclusive) WP(f *mm.Fault) mm.WPNext {
	t, sys, pg := f.T, f.MM.Sys, f.Page
	pages := sys.Pages
	if exclusive(t, pages, pg) {
		return mm.WPReuse
	}
	if pages.Refs(t, pg) > 3 { // the pte, the swap cache, a pagevec
		return mm.WPCopyPage
	}
	if !pages.TestFlag(t, pg, page.LRU) {
		pages.LRUAddDrain(t)
	}
	allowed := 1
	if pages.TestFlag(t, pg, page.SwapCache) {
		allowed = 2
	}
	if pages.Refs(t, pg) > allowed || !pages.TrylockPage(t, pg) {
		return mm.WPCopyPage
	}
	if pg.Has(page.SwapCache) {
		sys.TryToFreeSwap(t, pg)
	}
	next := mm.WPReuse
	if pages.Refs(t, pg) != 1 {
		next = mm.WPCopyPage
	} else {
		pages.SetFlag(t, pg, pageExclusive)
	}
	pages.UnlockPage(t, pg)
	return next
}

// SwapIn is do_swap_page's part: the page is exclusive if its entry was, or if there is
// nobody else once the swap cache has let go, which is tried for a write only.
//
// There the entry is freed first and the counts are asked then; here the pte still holds
// it, and is one of its users.
func (AnonExclusive) SwapIn(f *mm.Fault) bool {
	t, sys, pg := f.T, f.MM.Sys, f.Page
	pages := sys.Pages
	excl := f.Orig.SwpExclusive()
	if !excl && f.Write && pages.Refs(t, pg) == 2 && sys.ReuseSwapPage(t, pg) {
		excl = pages.Refs(t, pg) == 1
	}
	if excl {
		pages.SetFlag(t, pg, pageExclusive)
	}
	return excl
}

// Unuse implements mm.Policy: unuse_pte's RMAP_EXCLUSIVE.
func (AnonExclusive) Unuse(t *sched.Task, pte x86.PTE, pg *page.Page) {
	if pte.SwpExclusive() {
		mm.SystemOf(t).Pages.SetFlag(t, pg, pageExclusive)
	}
}

// SwapAdd is shrink_page_list's test, as in row 20.
func (AnonExclusive) SwapAdd(t *sched.Task, pg *page.Page) bool {
	return !maybePinned(t, mm.SystemOf(t).Pages, pg)
}

// tryShare is page_try_share_anon_rmap: the pte has been cleared and flushed. It reports
// whether the page may be shared from now on.
func (p AnonExclusive) tryShare(u *mm.Unmap) bool {
	pages := mm.SystemOf(u.T).Pages
	if !u.Page.Anon() || !exclusive(u.T, pages, u.Page) {
		return true
	}
	if p.later {
		u.T.C.Fence() // both since 6.1; on x86 the exchange of the pte is one already
	}
	if maybePinned(u.T, pages, u.Page) && !p.noKeep {
		return false
	}
	pages.ClearFlag(u.T, u.Page, pageExclusive)
	u.Swap = u.Swap.SwpMkExclusive()
	if p.later {
		u.T.C.Fence()
	}
	return true
}

// Unmap is try_to_unmap_one's part.
func (p AnonExclusive) Unmap(u *mm.Unmap) bool { return p.tryShare(u) }

// KSM is write_protect_page's part. There an entry that is read-only is cleared and the counts
// compared too if it is dirty or its page exclusive; the core compares them for a writable one.
func (p AnonExclusive) KSM(u *mm.Unmap) bool {
	pages := mm.SystemOf(u.T).Pages
	if !u.PTE.Write() && (u.PTE.Dirty() || exclusive(u.T, pages, u.Page)) {
		known := pages.MapRefs(u.T, u.Page) + 2 // and the caller's
		if pages.TestFlag(u.T, u.Page, page.SwapCache) {
			known++
		}
		if pages.Refs(u.T, u.Page) != known {
			return false
		}
	}
	return p.tryShare(u)
}
