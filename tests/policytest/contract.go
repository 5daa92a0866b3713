package policytest

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// contract is a policy whose hooks are watched: what package mm's documentation says of
// locks, interrupts and answers is checked around each call, and a breach is an oops of
// the task, so that a search finds the schedule that shows it. Nothing is a step of the
// machine: a schedule is the same with and without.
type contract struct{ mm.Policy }

// state is what a hook may change of its task.
type state struct {
	held   int
	locks  [16]x86.ObjID
	irqOff bool
}

func stateOf(t *sched.Task) (s state) {
	s.held, s.irqOff = t.NumHeld, t.C.IRQsDisabled()
	for i := range min(t.NumHeld, len(s.locks)) {
		s.locks[i] = t.Held[i].Obj
	}
	return s
}

// breach ends the run: the hook has not kept its contract.
func breach(t *sched.Task, hook, format string, args ...any) {
	t.Oops("contract of %s: %s", hook, fmt.Sprintf(format, args...))
}

// same wants the locks held and the interrupt flag as they were.
func (s state) same(t *sched.Task, hook string) { s.fewer(t, hook, 0) }

// fewer wants the last n locks released, and all else as it was.
func (s state) fewer(t *sched.Task, hook string, n int) {
	if !t.M.CheckLocks() {
		return
	}
	s.irqs(t, hook)
	now := stateOf(t)
	if now.held != s.held-n {
		breach(t, hook, "%d locks held on return (%s), should be %d", now.held, names(t), s.held-n)
	}
	if n == 0 && !s.holdsThe(now) {
		breach(t, hook, "other locks are held on return than before: %s", names(t))
	}
}

// irqs wants the interrupt flag as it was.
func (s state) irqs(t *sched.Task, hook string) {
	if off := t.C.IRQsDisabled(); off != s.irqOff {
		breach(t, hook, "interrupts were off: %v, on return: %v", s.irqOff, off)
	}
}

// holdsThe reports whether the same locks are held, in whatever order.
func (s state) holdsThe(now state) bool {
	for _, l := range s.locks[:min(s.held, len(s.locks))] {
		found := false
		for _, m := range now.locks[:min(now.held, len(now.locks))] {
			found = found || l == m
		}
		if !found {
			return false
		}
	}
	return true
}

func names(t *sched.Task) string {
	var out []string
	for i := range t.NumHeld {
		out = append(out, t.Held[i].Name)
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// answer wants one of the answers that a hook may give.
func answer[T comparable](t *sched.Task, hook string, got T, may ...T) {
	for _, m := range may {
		if got == m {
			return
		}
	}
	breach(t, hook, "answered %v, may answer %v", got, may)
}

// keeps wants the flags that were set still to be. Only FollAnon may go: the zero page is
// for reading.
func keeps(t *sched.Task, hook string, before, after mm.FollFlags) {
	if lost := before &^ after &^ mm.FollAnon; lost != 0 {
		breach(t, hook, "took flags %#x of the look-up away; a hook may only add to Foll", lost)
	}
}

func (c contract) MMInit(t *sched.Task, m *mm.MM) {
	s := stateOf(t)
	c.Policy.MMInit(t, m)
	s.same(t, "MMInit")
}

func (c contract) MMExit(t *sched.Task, m *mm.MM) {
	s := stateOf(t)
	c.Policy.MMExit(t, m)
	s.same(t, "MMExit")
}

func (c contract) GUPVMA(g *mm.GUP) mm.GUPNext {
	s, foll := stateOf(g.T), g.Foll
	next := c.Policy.GUPVMA(g)
	s.same(g.T, "GUPVMA")
	keeps(g.T, "GUPVMA", foll, g.Foll)
	answer(g.T, "GUPVMA", next, mm.GUPGo, mm.GUPLookup, mm.GUPFail, mm.GUPNoMem)
	return next
}

func (c contract) Follow(g *mm.GUP, pte x86.PTE, p *page.Page) mm.FollowNext {
	s, foll := stateOf(g.T), g.Foll
	next := c.Policy.Follow(g, pte, p)
	s.same(g.T, "Follow")
	keeps(g.T, "Follow", foll, g.Foll)
	answer(g.T, "Follow", next, mm.FollowTake, mm.FollowTaken, mm.FollowFault)
	return next
}

func (c contract) FollowHuge(g *mm.GUP, pte x86.PTE, head *page.Page) mm.FollowNext {
	s, foll := stateOf(g.T), g.Foll
	next := c.Policy.FollowHuge(g, pte, head)
	s.same(g.T, "FollowHuge")
	keeps(g.T, "FollowHuge", foll, g.Foll)
	answer(g.T, "FollowHuge", next, mm.FollowTake, mm.FollowTaken, mm.FollowFault)
	return next
}

func (c contract) Taken(g *mm.GUP, p *page.Page) {
	s := stateOf(g.T)
	c.Policy.Taken(g, p)
	s.same(g.T, "Taken")
}

func (c contract) FastMask(f *mm.Fast) x86.PTE {
	s := stateOf(f.T)
	mask := c.Policy.FastMask(f)
	s.same(f.T, "FastMask")
	if need := x86.PtePresent | x86.PteUser; mask&need != need {
		breach(f.T, "FastMask", "%v lacks PRESENT or USER: the walk would take what is no user page", mask)
	}
	if f.Write && !mask.Write() {
		breach(f.T, "FastMask", "%v lacks RW, but the caller writes", mask)
	}
	return mask
}

func (c contract) FastBegin(f *mm.Fast) bool {
	s := stateOf(f.T)
	ok := c.Policy.FastBegin(f)
	if ok {
		s.irqs(f.T, "FastBegin") // a lock may be held until FastEnd
	} else {
		s.same(f.T, "FastBegin")
	}
	return ok
}

func (c contract) FastTake(f *mm.Fast, ref x86.PTERef, pte x86.PTE, p *page.Page) bool {
	s := stateOf(f.T)
	ok := c.Policy.FastTake(f, ref, pte, p)
	s.same(f.T, "FastTake")
	return ok
}

func (c contract) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	s := stateOf(f.T)
	got := c.Policy.FastHuge(f, ref, pte, head, n)
	s.same(f.T, "FastHuge")
	if got < 0 || got > n {
		breach(f.T, "FastHuge", "took %d references of %d", got, n)
	}
	return got
}

func (c contract) FastEnd(f *mm.Fast) bool {
	s := stateOf(f.T)
	ok := c.Policy.FastEnd(f)
	s.irqs(f.T, "FastEnd")
	return ok
}
