package policy

import (
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// KSMFork is an idea that never became a patch: fork does what KSM does before it merges a
// page (thread lines 541-548, 619-622, 665-667, 4308-4314). Andrea Arcangeli mentions it to say why
// row 1 does not do it: "a flood of IPIs".
//
// Each writable anonymous pte is cleared and flushed on every CPU. When the flush is over
// no gup-fast that saw the pte is still under way, and no CPU stores through its TLB; then
// the references say the truth, without a flag, a barrier or a second look. If there are
// more than mappings and swap cache, the child gets a copy. A page that only waits in a
// pagevec is copied too, which is what row 1 has PG_gup for.
type KSMFork struct {
	mm.Stock
	// noFlush leaves the entry in place and only write-protects it: the deciding line, for
	// mutants.
	noFlush bool
}

// Name implements mm.Policy.
func (KSMFork) Name() string { return "ksm_fork" }

// Hooks implements mm.Policy.
func (KSMFork) Hooks() mm.HookSet { return mm.HookForkPTE }

// Claims implements mm.Policy.
func (KSMFork) Claims() mm.Guarantee { return mm.Forward | mm.AIO | mm.OtherPins }

// About implements mm.Policy.
func (KSMFork) About() mm.About {
	return mm.About{
		Row: -1, Title: "fork clears and flushes each writable anonymous pte before it counts references",
		Who: "Andrea Arcangeli", When: "11 and 16 March 2009, an idea", Lines: "541-548, 619-622, 665-667, 4308-4314",
		Changes: []string{
			"fork: for a writable pte of an anonymous page, clear and flush it, then compare page_count with mapcount and swap cache; if pinned, copy for the child and make the parent's pte writable again",
		},
		Claims: "the forward race, for all users that write to memory",
		Open:   "the reverse race; a flush for each writable page of every fork; pages in pagevecs are copied for nothing",
	}
}

// ForkPTE is copy_one_pte.
func (p KSMFork) ForkPTE(f *mm.Fork) mm.ForkNext {
	t, sys := f.T, f.Src.Sys
	pages := sys.Pages
	pg := sys.NormalPage(f.SrcVMA, f.PTE)
	if pg == nil || !pg.Anon() || !f.SrcVMA.Flags.IsCOW() || !f.PTE.Write() {
		return f.CopyOnePTE()
	}
	if p.noFlush {
		f.SrcPTE.SetWrprotect(t.C)
	} else {
		f.PTE = sys.PtepClearFlushNotify(t, f.SrcVMA, f.Addr, f.SrcPTE)
		f.SrcPTE.Set(t.C, f.PTE.WrProtect())
		mm.TracePTE(t, f.Addr, 0, f.PTE.WrProtect())
	}
	known := pages.MapRefs(t, pg)
	if pages.TestFlag(t, pg, page.SwapCache) {
		known++
	}
	if pages.Refs(t, pg) == known {
		t.C.Trace.Inc(trace.EmuForkWrprotect)
		f.PTE = f.PTE.WrProtect() // as the parent's entry is already
		return f.CopyOnePTE()
	}
	f.Page = pg
	return mm.ForkStop
}

// ForkBreak copies with the ptls dropped, and gives the parent its write bit back if the
// page is still there.
func (KSMFork) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := f.CopyToChild("ksm_fork")
	if pte := f.SrcPTE.Load(f.T.C); pte.Present() && pte.PFN() == f.Src.Sys.Pages.PFN(f.Page) {
		f.SrcPTE.Set(f.T.C, pte.MkWrite())
	}
	f.Unlock()
	return next
}
