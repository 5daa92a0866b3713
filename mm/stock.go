package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// Stock is Linux 2.6.29 as it was: the base that policies embed. Each method does
// what the core does inline when the policy's hook bit is clear.
type Stock struct{}

var _ Policy = Stock{}

// Name implements Policy.
func (Stock) Name() string { return "stock" }

// Hooks implements Policy: stock overrides nothing.
func (Stock) Hooks() HookSet { return 0 }

// Claims implements Policy: 2.6.29 promises nothing about fork and pins.
func (Stock) Claims() Guarantee { return 0 }

// About implements Policy: a policy that embeds Stock is another one.
func (Stock) About() About { return About{} }

// MMInit implements Policy.
func (Stock) MMInit(*sched.Task, *MM) {}

// MMExit implements Policy.
func (Stock) MMExit(*sched.Task, *MM) {}

// GUPVMA implements Policy.
func (Stock) GUPVMA(*GUP) GUPNext { return GUPGo }

// Follow implements Policy.
func (Stock) Follow(*GUP, x86.PTE, *page.Page) FollowNext { return FollowTake }

// FollowHuge implements Policy.
func (Stock) FollowHuge(*GUP, x86.PTE, *page.Page) FollowNext { return FollowTake }

// Taken implements Policy.
func (Stock) Taken(*GUP, *page.Page) {}

// FastMask implements Policy.
func (Stock) FastMask(f *Fast) x86.PTE {
	if f.Write {
		return x86.PtePresent | x86.PteUser | x86.PteRW
	}
	return x86.PtePresent | x86.PteUser
}

// FastBegin implements Policy.
func (Stock) FastBegin(*Fast) bool { return true }

// FastTake implements Policy.
func (Stock) FastTake(f *Fast, _ x86.PTERef, _ x86.PTE, p *page.Page) bool {
	f.MM.Sys.Pages.GetAs(f.T, p, page.RefPin)
	return true
}

// FastHuge implements Policy: get_head_page_multiple.
func (Stock) FastHuge(f *Fast, _ x86.PTERef, _ x86.PTE, head *page.Page, n int) int {
	f.MM.Sys.Pages.GetNAs(f.T, head, page.RefPin, n)
	return n
}

// FastEnd implements Policy.
func (Stock) FastEnd(*Fast) bool { return true }

// Take implements Policy.
func (Stock) Take(t *sched.Task, p *page.Page, _ PinKind, n int) {
	SystemOf(t).Pages.GetNAs(t, p, page.RefPin, n)
}

// Put implements Policy.
func (Stock) Put(t *sched.Task, p *page.Page, _ PinKind, n int) {
	SystemOf(t).Pages.PutNAs(t, p, page.RefPin, n)
}

// ForkLock implements Policy.
func (Stock) ForkLock(*sched.Task, *MM) error { return nil }

// ForkUnlock implements Policy.
func (Stock) ForkUnlock(*sched.Task, *MM) {}

// ForkBegin implements Policy.
func (Stock) ForkBegin(*Fork) {}

// ForkEnd implements Policy.
func (Stock) ForkEnd(*Fork) {}

// ForkVMA implements Policy.
func (Stock) ForkVMA(*Fork) error { return nil }

// ForkPTE implements Policy.
func (Stock) ForkPTE(f *Fork) ForkNext { return f.CopyOnePTE() }

// ForkBreak implements Policy; stock never stops.
func (Stock) ForkBreak(f *Fork) ForkNext {
	f.Unlock()
	return ForkGo
}

// ForkSwap implements Policy.
func (Stock) ForkSwap(*Fork) {}

// ForkHuge implements Policy.
func (Stock) ForkHuge(f *Fork) ForkNext {
	f.CopyOneHuge()
	f.Unlock()
	return ForkGo
}

// WP implements Policy.
func (Stock) WP(f *Fault) WPNext { return f.LockAndReuse() }

// WPCopy implements Policy.
func (Stock) WPCopy(*Fault) WPNext { return WPCopyPage }

// WPDone implements Policy.
func (Stock) WPDone(*Fault) {}

// SwapIn implements Policy.
func (Stock) SwapIn(f *Fault) bool { return f.Write && f.MM.Sys.ReuseSwapPage(f.T, f.Page) }

// HugeWP implements Policy: hugetlb_cow's rule.
func (Stock) HugeWP(f *Fault) WPNext {
	if f.MM.Sys.Pages.Refs(f.T, f.Page) == 1 {
		return WPReuse
	}
	return WPCopyPage
}

// AnonNew implements Policy.
func (Stock) AnonNew(*sched.Task, *page.Page, *VMA) {}

// HugeAnonNew implements Policy.
func (Stock) HugeAnonNew(*sched.Task, *page.Page, *VMA) {}

// SwapAdd implements Policy.
func (Stock) SwapAdd(*sched.Task, *page.Page) bool { return true }

// UnmapBefore implements Policy.
func (Stock) UnmapBefore(*Unmap) bool { return true }

// Unmap implements Policy.
func (Stock) Unmap(*Unmap) bool { return true }

// Pageout implements Policy.
func (Stock) Pageout(*sched.Task, *page.Page) bool { return true }

// Unuse implements Policy.
func (Stock) Unuse(*sched.Task, x86.PTE, *page.Page) {}

// KSM implements Policy.
func (Stock) KSM(*Unmap) bool { return true }

// Migrate implements Policy.
func (Stock) Migrate(*Unmap) bool { return true }

// Mprotect implements Policy.
func (Stock) Mprotect(*VMA, x86.PTE, *page.Page) bool { return false }

// PinBegin implements Policy.
func (Stock) PinBegin(*PinUser) error { return nil }

// PinEnd implements Policy.
func (Stock) PinEnd(*sched.Task, *PinUser) {}

// PinSubmitted implements Policy.
func (Stock) PinSubmitted(*sched.Task, *PinUser) {}

// PinReleased implements Policy.
func (Stock) PinReleased(*sched.Task, *PinUser) {}

// DirectIOPin implements Policy.
func (Stock) DirectIOPin() PinKind { return PinGet }

// VmsplicePin implements Policy.
func (Stock) VmsplicePin() PinKind { return PinGet }

// HoldsMmapSem implements Policy.
func (Stock) HoldsMmapSem(PinKind) bool { return false }

// AccessWrite implements Policy.
func (Stock) AccessWrite() bool { return true }

// MlockPopulates implements Policy.
func (Stock) MlockPopulates() bool { return false }

// PageFree implements Policy.
func (Stock) PageFree(*sched.Task, *page.Page) {}

// CheckPTE implements Policy: all invariants of stock are the core's.
func (Stock) CheckPTE(*VMA, x86.PTE, *page.Page) error { return nil }
