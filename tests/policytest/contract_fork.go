package policytest

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// The hooks of fork, faults and reclaim, watched.

func (c contract) ForkBegin(f *mm.Fork) {
	s := stateOf(f.T)
	c.Policy.ForkBegin(f)
	s.same(f.T, "ForkBegin")
}

func (c contract) ForkEnd(f *mm.Fork) {
	s := stateOf(f.T)
	c.Policy.ForkEnd(f)
	s.same(f.T, "ForkEnd")
}

func (c contract) ForkVMA(f *mm.Fork) error {
	s := stateOf(f.T)
	err := c.Policy.ForkVMA(f)
	s.same(f.T, "ForkVMA")
	return err
}

func (c contract) ForkPTE(f *mm.Fork) mm.ForkNext {
	s := stateOf(f.T)
	next := c.Policy.ForkPTE(f)
	s.same(f.T, "ForkPTE")
	answer(f.T, "ForkPTE", next, mm.ForkGo, mm.ForkStop)
	return next
}

func (c contract) ForkBreak(f *mm.Fork) mm.ForkNext {
	s := stateOf(f.T)
	next := c.Policy.ForkBreak(f)
	s.fewer(f.T, "ForkBreak", 2) // both ptls
	answer(f.T, "ForkBreak", next, mm.ForkGo, mm.ForkAgain, mm.ForkNoMem)
	return next
}

func (c contract) ForkSwap(f *mm.Fork) {
	s, pte := stateOf(f.T), f.PTE
	c.Policy.ForkSwap(f)
	s.same(f.T, "ForkSwap")
	if f.PTE.Present() {
		breach(f.T, "ForkSwap", "the child is to get %v in place of the swap entry %v", f.PTE, pte)
	}
}

func (c contract) ForkHuge(f *mm.Fork) mm.ForkNext {
	s := stateOf(f.T)
	next := c.Policy.ForkHuge(f)
	s.fewer(f.T, "ForkHuge", 2) // both page_table_locks
	answer(f.T, "ForkHuge", next, mm.ForkGo, mm.ForkNoMem)
	return next
}

func (c contract) WP(f *mm.Fault) mm.WPNext {
	s := stateOf(f.T)
	next := c.Policy.WP(f)
	answer(f.T, "WP", next, mm.WPReuse, mm.WPCopyPage, mm.WPRetry, mm.WPFinished)
	if next == mm.WPFinished {
		s.fewer(f.T, "WP", 1) // the ptl
	} else {
		s.same(f.T, "WP")
	}
	return next
}

func (c contract) WPCopy(f *mm.Fault) mm.WPNext {
	s := stateOf(f.T)
	next := c.Policy.WPCopy(f)
	s.same(f.T, "WPCopy")
	answer(f.T, "WPCopy", next, mm.WPCopyPage, mm.WPRetry)
	return next
}

func (c contract) WPDone(f *mm.Fault) {
	s := stateOf(f.T)
	c.Policy.WPDone(f)
	s.same(f.T, "WPDone")
}

func (c contract) SwapIn(f *mm.Fault) bool {
	s := stateOf(f.T)
	writable := c.Policy.SwapIn(f)
	s.same(f.T, "SwapIn")
	return writable
}

func (c contract) HugeWP(f *mm.Fault) mm.WPNext {
	s := stateOf(f.T)
	next := c.Policy.HugeWP(f)
	s.same(f.T, "HugeWP")
	answer(f.T, "HugeWP", next, mm.WPReuse, mm.WPCopyPage, mm.WPRetry)
	return next
}

func (c contract) AnonNew(t *sched.Task, p *page.Page, v *mm.VMA) {
	s := stateOf(t)
	c.Policy.AnonNew(t, p, v)
	s.same(t, "AnonNew")
}

func (c contract) SwapAdd(t *sched.Task, p *page.Page) bool {
	s := stateOf(t)
	ok := c.Policy.SwapAdd(t, p)
	s.same(t, "SwapAdd")
	return ok
}

// unmap watches the hooks that say whether a pte may go.
func unmap(u *mm.Unmap, hook string, ask func(*mm.Unmap) bool) bool {
	s := stateOf(u.T)
	ok := ask(u)
	s.same(u.T, hook)
	return ok
}

func (c contract) UnmapBefore(u *mm.Unmap) bool { return unmap(u, "UnmapBefore", c.Policy.UnmapBefore) }
func (c contract) Unmap(u *mm.Unmap) bool       { return unmap(u, "Unmap", c.Policy.Unmap) }
func (c contract) KSM(u *mm.Unmap) bool         { return unmap(u, "KSM", c.Policy.KSM) }
func (c contract) Migrate(u *mm.Unmap) bool     { return unmap(u, "Migrate", c.Policy.Migrate) }

func (c contract) Pageout(t *sched.Task, p *page.Page) bool {
	s := stateOf(t)
	ok := c.Policy.Pageout(t, p)
	s.same(t, "Pageout")
	return ok
}

func (c contract) PageFree(t *sched.Task, p *page.Page) {
	s := stateOf(t)
	c.Policy.PageFree(t, p)
	s.same(t, "PageFree")
}
