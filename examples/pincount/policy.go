package main

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// pinCount is PG_gup with a count instead of a flag. PG_gup marks a page that was handed out
// and compares references with mappings to see whether it still is in use; here the page
// counts its pins. No page lock, no copies for other references; nothing for huge pages.
type pinCount struct{ mm.Stock }

func (pinCount) Name() string { return "pin_count" }

func (pinCount) Hooks() mm.HookSet {
	return mm.HookGUPVMA | mm.HookFastTake | mm.HookFastHuge | mm.HookPut | mm.HookForkPTE
}

func (pinCount) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure | mm.OtherPins | mm.Snapshot
}

// count adds to the pins of a page. It is a locked operation, and so a full barrier.
func count(t *sched.Task, p *page.Page, n int) *page.Page {
	pages := mm.SystemOf(t).Pages
	head := pages.Head(p)
	head.Policy.Add(t.C, x86.PageObj(pages.PFN(head), x86.PagePolicy), uint64(n))
	return head
}

// Take and Put are get_page and put_page for pins: the count is never less than the pins.
func (pinCount) Take(t *sched.Task, p *page.Page, _ mm.PinKind, n int) {
	mm.SystemOf(t).Pages.GetNAs(t, count(t, p, n), page.RefPin, n)
}

func (pinCount) Put(t *sched.Task, p *page.Page, _ mm.PinKind, n int) {
	mm.SystemOf(t).Pages.PutNAs(t, count(t, p, -n), page.RefPin, n)
}

// GUPVMA has every pin of a private page break COW first, one for reading too: nobody else
// can come to own a page that is pinned.
func (pinCount) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Want && g.Flags&mm.GUPInternal == 0 && g.VMA.Flags.IsCOW() && g.VMA.Flags&mm.VMHugetlb == 0 {
		g.Foll |= mm.FollWrite
		g.Foll &^= mm.FollAnon // which is for reading: the zero page would do
	}
	return mm.GUPGo
}

// FastTake counts first and then looks at the pte again; fork write-protects first and then
// looks at the count. One of them sees the other.
func (c pinCount) FastTake(f *mm.Fast, ref x86.PTERef, pte x86.PTE, p *page.Page) bool {
	if !pte.Write() && (p.Anon() || !f.Write) {
		return false // perhaps shared: the slow way breaks COW
	}
	return c.FastHuge(f, ref, pte, p, 1) == 1
}

func (c pinCount) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, p *page.Page, n int) int {
	c.Take(f.T, p, f.Kind, n)
	if now := ref.Load(f.T.C); now.PFN() != pte.PFN() || !now.Present() || now.Write() != pte.Write() {
		c.Put(f.T, p, f.Kind, n)
		return 0
	}
	return n
}

// ForkPTE is copy_one_pte. A pinned page is write-protected and flushed, so that the copy is
// one instant of it; ForkStop has ForkBreak called.
func (pinCount) ForkPTE(f *mm.Fork) mm.ForkNext {
	t, sys := f.T, f.Src.Sys
	p := sys.NormalPage(f.SrcVMA, f.PTE)
	if p == nil || !p.Anon() || !f.SrcVMA.Flags.IsCOW() {
		return f.CopyOnePTE()
	}
	if f.Data = 0; f.PTE.Write() {
		f.Data = 1
		f.SrcPTE.SetWrprotect(t.C)
		f.PTE = f.PTE.WrProtect()
	}
	if p.Policy.Load(t.C, x86.PageObj(sys.Pages.PFN(p), x86.PagePolicy)) == 0 {
		return f.CopyOnePTE()
	}
	f.Page = p
	sys.FlushTLBPage(t, f.SrcVMA, f.Addr)
	return mm.ForkStop
}

// ForkBreak copies for the child, and gives the parent its write bit back.
func (pinCount) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := f.CopyToChild("pin_count")
	if pte := f.SrcPTE.Load(f.T.C); f.Data == 1 && pte.Present() && pte.PFN() == f.Src.Sys.Pages.PFN(f.Page) {
		f.SrcPTE.Set(f.T.C, pte.MkWrite())
	}
	f.Unlock()
	return next
}
