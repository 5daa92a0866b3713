package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// The skeleton below is not a policy: it holds the steps of rows 20 and 21 against the
// Policy interface, so that a change of the interface that would shut them out does not
// compile.

var _ mm.Policy = anonExclusiveSkeleton{}

// anonExclusiveSkeleton is rows 20 and 21: pins are counted in units of 1024, pages know
// whether they are exclusive, read pins unshare first.
type anonExclusiveSkeleton struct{ mm.Stock }

const (
	pinBias   = 1024
	exclusive = page.Policy1
)

func (anonExclusiveSkeleton) FastBegin(f *mm.Fast) bool {
	f.Data = 7 // the sequence count
	return true
}

func (anonExclusiveSkeleton) FastTake(f *mm.Fast, ref x86.PTERef, pte x86.PTE, p *page.Page) bool {
	pages := f.MM.Sys.Pages
	n := 1
	if f.Kind != mm.PinGet {
		n = pinBias
	}
	pages.GetNAs(f.T, p, page.RefPin, n)
	if ref.Load(f.T.C) != pte || f.Kind != mm.PinGet && !pte.Write() && !pages.TestFlag(f.T, p, exclusive) {
		pages.PutNAs(f.T, p, page.RefPin, n)
		return false
	}
	return true
}

func (anonExclusiveSkeleton) FastEnd(f *mm.Fast) bool { return f.Data == 7 }

func (anonExclusiveSkeleton) Follow(g *mm.GUP, pte x86.PTE, p *page.Page) mm.FollowNext {
	if g.Kind != mm.PinGet && !pte.Write() && p.Anon() && !g.MM.Sys.Pages.TestFlag(g.T, p, exclusive) {
		g.Foll |= mm.FollUnshare
		return mm.FollowFault
	}
	return mm.FollowTake
}

func (anonExclusiveSkeleton) ForkPTE(f *mm.Fork) mm.ForkNext {
	f.Page = f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	if f.Page != nil && f.Src.Sys.Pages.Refs(f.T, f.Page) >= pinBias {
		return mm.ForkStop
	}
	return f.CopyOnePTE()
}

func (anonExclusiveSkeleton) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := f.CopyToChild("copy_present_page")
	f.Unlock()
	return next
}

func (anonExclusiveSkeleton) ForkSwap(f *mm.Fork) { f.PTE &^= x86.PteSpecial }

func (anonExclusiveSkeleton) Unmap(u *mm.Unmap) bool {
	return mm.SystemOf(u.T).Pages.Refs(u.T, u.Page) < pinBias
}

func (anonExclusiveSkeleton) Mprotect(_ *mm.VMA, _ x86.PTE, p *page.Page) bool {
	return p.Has(exclusive)
}
