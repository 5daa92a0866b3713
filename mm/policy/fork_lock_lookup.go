package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// ForkLockLookup is an idea of 16 March 2009 that never became a patch (thread lines
// 6339-6403): the fork lock over look-ups only. Linus Torvalds: it makes "the particular
// race between get_user_pages() and fork() go away. Then you can do per-page flags or
// whatever and not have to worry about concurrent lookups". Nick Piggin: "you would still
// need to [...] do most of the other stuff required in Andrea's patch". So this is row 2
// with the lock in place of the barriers and of gup-fast's second look.
//
// Slow get_user_pages needs no lock more than mmap_sem. gup-fast tries the lock with
// interrupts off; if fork has it, gup-fast goes the slow way and waits for mmap_sem there.
type ForkLockLookup struct {
	PGGUP
	// noLock takes the lock out: the deciding line, for mutants.
	noLock bool
}

// Name implements mm.Policy.
func (ForkLockLookup) Name() string { return "fork_lock_lookup" }

// Hooks implements mm.Policy.
func (p ForkLockLookup) Hooks() mm.HookSet {
	return p.PGGUP.Hooks() | mm.HookMM | mm.HookForkLock | mm.HookFast
}

// About implements mm.Policy.
func (p ForkLockLookup) About() mm.About {
	a := p.PGGUP.About()
	a.Row, a.Title = -1, "row 2 with a fork lock over look-ups in place of barriers"
	a.Who, a.When, a.Lines = "Linus Torvalds, Nick Piggin", "16 March 2009, an idea", "6339-6403"
	a.Changes = []string{
		"fork: takes the fork lock for writing; copies as row 2",
		"get_user_pages: as row 2",
		"gup-fast: holds the fork lock for reading over its walk, marks the page, does not look again; a read of a page that is not writable goes the slow way",
	}
	a.Open = "a shared lock word in every gup-fast; gup-fast is shut out while the process forks, and out of read-only anonymous ranges; a read pin of read-only anonymous memory never returns, as in row 2"
	return a
}

// MMInit makes the lock.
func (ForkLockLookup) MMInit(t *sched.Task, m *mm.MM) { DirectIOSem{}.MMInit(t, m) }

// ForkLock is dup_mmap's first line.
func (p ForkLockLookup) ForkLock(t *sched.Task, parent *mm.MM) error {
	if !p.noLock {
		pinnedSem(parent).DownWrite(t)
	}
	return nil
}

// ForkUnlock is dup_mmap's last line.
func (p ForkLockLookup) ForkUnlock(t *sched.Task, parent *mm.MM) {
	if !p.noLock {
		pinnedSem(parent).UpWrite(t)
	}
}

// FastBegin is the begin of gup-fast's walk.
func (p ForkLockLookup) FastBegin(f *mm.Fast) bool {
	return p.noLock || pinnedSem(f.MM).DownReadTry(f.T)
}

// FastEnd is its end.
func (p ForkLockLookup) FastEnd(f *mm.Fast) bool {
	if !p.noLock {
		pinnedSem(f.MM).UpRead(f.T)
	}
	return true
}

// ForkPTE is row 2's without its barrier: no gup-fast is under way.
func (p ForkLockLookup) ForkPTE(f *mm.Fork) mm.ForkNext {
	row2 := p.PGGUP
	row2.noBarrier = true
	return row2.ForkPTE(f)
}

// ForkHuge is the same for huge pages.
func (p ForkLockLookup) ForkHuge(f *mm.Fork) mm.ForkNext {
	row2 := p.PGGUP
	row2.noBarrier = true
	return row2.ForkHuge(f)
}

// FastHuge marks what it takes; the mask holds RW whatever was asked for, as in row 2.
func (ForkLockLookup) FastHuge(f *mm.Fast, _ x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	if !pte.Write() {
		return 0
	}
	pages := f.MM.Sys.Pages
	markGUP(pages, f.T, head)
	pages.GetNAs(f.T, head, page.RefPin, n)
	return n
}

// FastTake marks what it takes.
func (ForkLockLookup) FastTake(f *mm.Fast, _ x86.PTERef, pte x86.PTE, pg *page.Page) bool {
	pages := f.MM.Sys.Pages
	if pg.Anon() {
		if !pte.Write() {
			return false
		}
		if !pages.TestFlag(f.T, pg, pageGUP) {
			pages.SetFlag(f.T, pg, pageGUP)
		}
	}
	pages.GetAs(f.T, pg, page.RefPin)
	return true
}
