package matrix_test

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// broken is 2.6.29 with something that fork or get_user_pages must do left out, at all places
// where they do it: what a column notices, if it notices anything.
type broken struct {
	mm.Stock
	what string
	mistake
}

// mistake is which.
type mistake uint8

const (
	noRef mistake = iota
	unprotected
	forgotten
	taken
	unadvised
	unpermitted
	writing
	hasty
)

// The kernels.
var (
	noReference  = broken{what: "get_user_pages takes no references", mistake: noRef}
	noProtect    = broken{what: "fork write-protects nothing", mistake: unprotected}
	forkForgets  = broken{what: "fork leaves the child's entries empty", mistake: forgotten}
	forkTakes    = broken{what: "fork gives the child the parent's pages, and leaves it none", mistake: taken}
	noAdvice     = broken{what: "fork does not look whether madvise was called", mistake: unadvised}
	noPermission = broken{what: "direct I/O does not look what mmap and mprotect permit", mistake: unpermitted}
	asForWrite   = broken{what: "get_user_pages wants every huge page writable", mistake: writing}
	hastyCopy    = broken{what: "fork copies huge pages that the parent may write to", mistake: hasty}
)

func (b broken) Hooks() mm.HookSet {
	switch b.mistake {
	case noRef:
		return mm.HookPut | mm.HookFastTake | mm.HookFastHuge
	case unadvised:
		return mm.HookForkLock
	case unpermitted:
		return mm.HookPin
	case writing:
		return mm.HookFast | mm.HookFollowHuge
	}
	return mm.HookForkPTE | mm.HookForkHuge
}

func (broken) Take(*sched.Task, *page.Page, mm.PinKind, int) {}

func (broken) Put(*sched.Task, *page.Page, mm.PinKind, int) {}

func (broken) FastTake(*mm.Fast, x86.PTERef, x86.PTE, *page.Page) bool { return true }

func (broken) FastHuge(_ *mm.Fast, _ x86.PTERef, _ x86.PTE, _ *page.Page, n int) int { return n }

// FastBegin sends everybody the slow way.
func (broken) FastBegin(*mm.Fast) bool { return false }

// FollowHuge asks for a fault that makes nothing writable where the process may only read.
func (broken) FollowHuge(g *mm.GUP, e x86.PTE, _ *page.Page) mm.FollowNext {
	if e.Write() {
		return mm.FollowTake
	}
	return mm.FollowFault
}

// ForkLock takes all advice back.
func (broken) ForkLock(_ *sched.Task, parent *mm.MM) error {
	parent.EachVMA(0, func(v *mm.VMA) bool { v.Flags &^= mm.VMDontCopy | mm.VMDontCOW; return true })
	return nil
}

// PinBegin permits what is asked for.
func (broken) PinBegin(u *mm.PinUser) error {
	for _, r := range u.Ranges {
		u.MM.FindVMA(u.T, r.Addr).Flags |= mm.VMWrite
	}
	return nil
}

func (b broken) ForkPTE(f *mm.Fork) mm.ForkNext {
	p := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	if !f.SrcVMA.Flags.IsCOW() || p == nil {
		return f.CopyOnePTE()
	}
	switch b.mistake {
	case unprotected:
		f.AddMapping(p)
		f.DstPTE.Set(f.T.C, f.PTE)
	case taken:
		f.CopyOnePTE()
		f.SrcPTE.Xchg(f.T.C, 0)
		f.Src.Sys.PageRemoveRmap(f.T, p)
		f.Src.Sys.Pages.PutAs(f.T, p, page.RefMap)
	case forgotten:
	default:
		return f.CopyOnePTE()
	}
	return mm.ForkGo
}

func (b broken) ForkHuge(f *mm.Fork) mm.ForkNext {
	pages, e := f.Src.Sys.Pages, f.PTE
	if b.mistake == forgotten {
		f.Unlock()
		return mm.ForkGo
	}
	if b.mistake == hasty {
		e = e.WrProtect()
	}
	pages.GetAs(f.T, pages.Page(e.PFN()), page.RefMap)
	f.DstPTE.Set(f.T.C, e)
	f.Unlock()
	if b.mistake == hasty {
		return f.HugeCOWChild(e, nil)
	}
	return mm.ForkGo
}
