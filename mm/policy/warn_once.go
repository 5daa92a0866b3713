package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// WarnOnce is row 15: Linus Torvalds' warning, 11 March 2009 (thread line 1154): "if this is
// a threaded program, and it has ever used get_user_pages(), and it does a fork(), warn
// about it once." It changes nothing else. The warning is counted as emu_policy_warnings.
//
// Threaded means that the address space has more than one user, which a debugger that is
// just looking counts for too.
type WarnOnce struct{ mm.Stock }

// Name implements mm.Policy.
func (WarnOnce) Name() string { return "warn_once" }

// Hooks implements mm.Policy.
func (WarnOnce) Hooks() mm.HookSet {
	return mm.HookMM | mm.HookGUPVMA | mm.HookFast | mm.HookForkLock
}

// About implements mm.Policy.
func (WarnOnce) About() mm.About {
	return mm.About{
		Row: 15, Title: "Stock, and one warning when a threaded process that has pinned pages forks",
		Who: "Linus Torvalds", When: "11 March 2009, an idea", Lines: "1147-1157",
		Changes: []string{
			"get_user_pages, gup-fast: the address space remembers that it was here",
			"fork: warns once in the life of the address space if it remembers that and has more than one user",
		},
		Claims: "nothing: a diagnostic",
		Open:   "everything that Stock leaves open; a program with one thread and asynchronous I/O is not warned; what uses fork for a snapshot has no better way (1188)",
	}
}

// pinHistory is what an address space remembers. Its words only ever become 1; nothing is
// ordered by them.
type pinHistory struct{ pinned, warned x86.Word32 }

// MMInit implements mm.Policy.
func (WarnOnce) MMInit(_ *sched.Task, m *mm.MM) { m.PolicyData = &pinHistory{} }

// GUPVMA is slow get_user_pages, of huge pages too.
func (WarnOnce) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Want {
		g.MM.PolicyData.(*pinHistory).pinned.Poke(1)
	}
	return mm.GUPGo
}

// FastBegin is gup-fast.
func (WarnOnce) FastBegin(f *mm.Fast) bool {
	f.MM.PolicyData.(*pinHistory).pinned.Poke(1)
	return true
}

// ForkLock is fork.
func (WarnOnce) ForkLock(t *sched.Task, parent *mm.MM) error {
	h := parent.PolicyData.(*pinHistory)
	if h.pinned.Peek() != 0 && parent.Users.Peek() > 1 && h.warned.Peek() == 0 {
		h.warned.Poke(1)
		t.C.Trace.Inc(trace.EmuPolicyWarnings)
	}
	return nil
}
