package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// SentryPinCopy is row 25: gVisor's memory manager as of August 2026 (commit 5032ac926),
// on this kernel's page tables.
//
// Every pin breaks COW first, also one for reading. fork copies what may be pinned: a
// private page that is not already COW and has more references than its mapping. Whether it
// is COW (pma.needCOW) is not asked of the pte alone, which mprotect may have made read-only:
// a page that one pte maps is nobody else's. A bit of the address space that is set by its
// first pin and never cleared spares everybody else the question. There is no gup-fast: pins
// are taken under the locks that fork takes.
type SentryPinCopy struct {
	mm.Stock
	// noCopy takes fork's copy out, noBreak the write fault before a pin: the deciding
	// lines, for mutants.
	noCopy, noBreak bool
}

// sentryMM is what an address space has of it.
type sentryMM struct {
	pinned x86.Word32 // sticky. Set under mmap_sem, read by fork with it held for writing.
	obj    x86.ObjID  // names it; immutable
}

// Name implements mm.Policy.
func (SentryPinCopy) Name() string { return "sentry_pin_copy" }

// Hooks implements mm.Policy.
func (SentryPinCopy) Hooks() mm.HookSet {
	return mm.HookMM | mm.HookGUPVMA | mm.HookFast | mm.HookForkPTE
}

// Claims implements mm.Policy.
func (SentryPinCopy) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins
}

// About implements mm.Policy.
func (SentryPinCopy) About() mm.About {
	return mm.About{
		Row: 25, Title: "every pin breaks COW; fork copies private pages with more references than their mapping",
		Who: "gVisor", When: "August 2026", Lines: "5032ac926",
		Changes: []string{
			"get_user_pages: faults for writing whatever the pin is for, and marks the address space",
			"gup-fast: not used",
			"fork, in a marked address space: a page of a COW mapping that nobody else maps and that has more than one reference is copied for the child; the parent's pte stays as it is",
		},
		Claims: "both directions of the race for every user of pins",
		Open:   "any other reference (a pagevec's, the swap cache's) costs a copy too; gVisor has no swap and no hugetlb, so this row has no answer to either",
	}
}

// MMInit implements mm.Policy.
func (SentryPinCopy) MMInit(t *sched.Task, m *mm.MM) {
	m.PolicyData = &sentryMM{obj: t.M.NewObj(x86.ClassWord)}
}

// GUPVMA marks the address space and breaks COW.
func (p SentryPinCopy) GUPVMA(g *mm.GUP) mm.GUPNext {
	if !g.Want {
		return mm.GUPGo
	}
	s := g.MM.PolicyData.(*sentryMM)
	if s.pinned.Load(g.T.C, s.obj) == 0 {
		s.pinned.Store(g.T.C, s.obj, 1)
	}
	if g.VMA.Flags.IsCOW() && !p.noBreak {
		g.Foll |= mm.FollWrite
		g.Foll &^= mm.FollAnon
	}
	return mm.GUPGo
}

// FastBegin sends every pin the slow way.
func (SentryPinCopy) FastBegin(*mm.Fast) bool { return false }

// ForkPTE copies one pte.
func (p SentryPinCopy) ForkPTE(f *mm.Fork) mm.ForkNext {
	s := f.Src.PolicyData.(*sentryMM)
	sys := f.Src.Sys
	if f.SrcVMA.Flags.IsCOW() && s.pinned.Load(f.T.C, s.obj) != 0 && !p.noCopy {
		pg := sys.NormalPage(f.SrcVMA, f.PTE)
		if pg != nil && pg.Anon() && !needCOW(f, pg) && sys.Pages.Refs(f.T, pg) > 1 {
			f.Page = pg
			return mm.ForkStop
		}
	}
	return f.CopyOnePTE()
}

// needCOW is pma.needCOW: a fork has shared the page.
func needCOW(f *mm.Fork, pg *page.Page) bool {
	pages := f.Src.Sys.Pages
	return !f.PTE.Write() && (pages.MapRefs(f.T, pg) > 1 || pages.TestFlag(f.T, pg, page.SwapCache))
}

// ForkBreak copies with the ptls dropped.
func (SentryPinCopy) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := f.CopyToChild("sentry_pin_copy")
	f.Unlock()
	return next
}
