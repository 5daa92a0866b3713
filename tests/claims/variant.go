package claims

import (
	"slices"
	"sync"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// Policy returns the policy with a name: one of the list, or a variant of one that only an
// experiment asks for; nil if there is none.
func Policy(policies []mm.Policy, name string) mm.Policy {
	named := func(p mm.Policy) bool { return p.Name() == name }
	if i := slices.IndexFunc(policies, named); i >= 0 {
		return policies[i]
	}
	for _, p := range policies {
		switch name {
		case p.Name() + oneLook:
			return noSecondLook{p}
		case p.Name() + watched:
			return watchMapcount{p}
		}
	}
	return nil
}

// What is added to the name of a policy for a variant of it.
const (
	oneLook = "_one_look"
	watched = "_watched"
)

// noSecondLook is PG_gup without the line of C1: gup-fast takes its reference and sets
// the mark, and does not look at the pte again.
type noSecondLook struct{ mm.Policy }

// Name implements mm.Policy.
func (p noSecondLook) Name() string { return p.Policy.Name() + oneLook }

// FastTake is gup_pte_range's inner part, less its last line.
func (p noSecondLook) FastTake(f *mm.Fast, _ x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	pages.GetAs(f.T, pg, page.RefPin)
	if pg.Anon() {
		pages.SetFlag(f.T, pg, page.Policy0) // PG_gup
		f.T.C.Fence()
	}
	return true
}

// watchMapcount is a policy, with an assertion where fork is about to write-protect.
type watchMapcount struct{ mm.Policy }

// Name implements mm.Policy.
func (p watchMapcount) Name() string { return p.Policy.Name() + watched }

// Hooks implements mm.Policy.
func (p watchMapcount) Hooks() mm.HookSet { return p.Policy.Hooks() | mm.HookForkPTE }

// ForkPTE asserts that a writable anonymous pte of a COW mapping maps a page that is mapped
// once. Both ptls are held.
func (p watchMapcount) ForkPTE(f *mm.Fork) mm.ForkNext {
	pages := f.Src.Sys.Pages
	if pg := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE); pg != nil && pg.Anon() && f.PTE.Write() && f.SrcVMA.Flags.IsCOW() {
		if n := pages.MapRefs(f.T, pg); n != 1 {
			f.T.Oops("fork write-protects a writable pte at %#x of a page that is mapped %d times", f.Addr, n)
		}
	}
	if p.Policy.Hooks()&mm.HookForkPTE == 0 {
		return f.CopyOnePTE()
	}
	return p.Policy.ForkPTE(f)
}

// countRetries is a policy whose ForkBreaks that ask for another try are counted: an
// experiment that searches a window has to say that it was in it.
type countRetries struct {
	mm.Policy
	mu      sync.Mutex
	retries int // protected by mu
}

// ForkBreak implements mm.Policy.
func (p *countRetries) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := p.Policy.ForkBreak(f)
	if next == mm.ForkAgain {
		p.mu.Lock()
		p.retries++
		p.mu.Unlock()
	}
	return next
}
