package policy

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// PinCopy is row 20: Linux 5.11. FOLL_PIN with its counting bias (5.7), mm.has_pinned and
// the copy at fork (5.9-rc7), write_protect_seq (5.11), on top of 5.9's write fault.
//
// fork gives the child a copy of every page that may be pinned, and leaves the parent's
// pte writable. Who uses FOLL_PIN is safe. O_DIRECT does not, until 6.5.
type PinCopy struct {
	follPin
	// noSeq takes write_protect_seq out, noCopy fork's copy: the deciding lines, for
	// mutants.
	noSeq, noCopy bool
}

// Name implements mm.Policy.
func (PinCopy) Name() string { return "pin_copy" }

// Hooks implements mm.Policy.
func (PinCopy) Hooks() mm.HookSet { return follPinHooks | mm.HookWP | mm.HookReclaim }

// Claims implements mm.Policy.
func (PinCopy) Claims() mm.Guarantee { return mm.Reverse | mm.AIO | mm.Disclosure }

// About implements mm.Policy.
func (PinCopy) About() mm.About {
	return mm.About{
		Row: 20, Title: "pins are counted apart, and fork copies what may be pinned",
		Who: "John Hubbard, Jan Kara, Peter Xu, Jason Gunthorpe, Linus Torvalds", When: "Linux 5.7 to 5.11, 2020",
		Lines: "3faa52c03f44, 008cfe4418b3, 70e806e4e645, 57efa1fe5957",
		Changes: []string{
			"get_user_pages: FOLL_PIN adds 1024 references to a small page; the address space remembers that it pinned",
			"gup-fast: reads the pte again after taking the reference; a pin that meets fork's write_protect_seq is undone and goes the slow way",
			"fork: copies a page of a COW mapping that may be pinned, under both ptls, and leaves the parent's pte alone",
			"COW fault: as wp_copy",
			"reclaim: a page that may be pinned is not put into the swap cache",
		},
		Claims: "both directions of the race for users of FOLL_PIN (drivers)",
		Open:   "O_DIRECT and vmsplice take plain references; pins of pages whose pte is read-only lose them to a copy; a page with 1,024 plain references is taken for pinned; pinned huge pages are shared (until 5.12)",
	}
}

// FastEnd implements mm.Policy.
func (p PinCopy) FastEnd(f *mm.Fast) bool { return p.noSeq || p.follPin.FastEnd(f) }

// FastBegin implements mm.Policy.
func (p PinCopy) FastBegin(f *mm.Fast) bool { return p.follPin.FastBegin(f) || p.noSeq }

// ForkBegin is copy_page_range's part: until 5.12 it leaves for copy_hugetlb_page_range before
// it gets to the sequence, and huge pages are shared whether they are pinned or not.
func (p PinCopy) ForkBegin(f *mm.Fork) {
	if f.SrcVMA.Flags&mm.VMHugetlb == 0 {
		p.follPin.ForkBegin(f)
	}
}

// ForkEnd implements mm.Policy.
func (p PinCopy) ForkEnd(f *mm.Fork) {
	if f.SrcVMA.Flags&mm.VMHugetlb == 0 {
		p.follPin.ForkEnd(f)
	}
}

// ForkPTE is copy_present_pte.
func (p PinCopy) ForkPTE(f *mm.Fork) mm.ForkNext {
	pg := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	if pg != nil && !p.noCopy && needsCopy(f, pg) {
		return copyPresentPage(f, pg)
	}
	return sharePTE(f)
}

// WP is do_wp_page's decision, 5.9's.
func (PinCopy) WP(f *mm.Fault) mm.WPNext { return wpReuseSole(f) }

// SwapAdd is shrink_page_list's test. There the page stays where it is; here it goes to
// the active list.
func (PinCopy) SwapAdd(t *sched.Task, pg *page.Page) bool {
	return !maybePinned(t, mm.SystemOf(t).Pages, pg)
}
