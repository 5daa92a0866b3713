package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
)

// GUPCowBreak is row 18: Linux 5.8, commit 17839856fd58 (should_force_cow_break in
// mm/gup.c), which 5.9 took back.
//
// Whoever pins a page of a COW mapping gets a page that nobody else has: a read pin
// faults as if it were going to write. gup-fast asks for RW whatever it is for.
// fork and the write fault are as they were: a page that was pinned first and
// shared by fork later is shared.
type GUPCowBreak struct {
	mm.Stock
	noForce bool // takes the write fault out: the deciding line, for mutants
}

// Name implements mm.Policy.
func (GUPCowBreak) Name() string { return "gup_cow_break" }

// Hooks implements mm.Policy.
func (GUPCowBreak) Hooks() mm.HookSet { return mm.HookGUPVMA | mm.HookFast }

// Claims implements mm.Policy.
func (GUPCowBreak) Claims() mm.Guarantee { return mm.Reverse | mm.AIO | mm.Disclosure }

// About implements mm.Policy.
func (GUPCowBreak) About() mm.About {
	return mm.About{
		Row: 18, Title: "a read pin of a COW mapping breaks COW as if it were a write",
		Who: "Linus Torvalds", When: "Linux 5.8, May 2020; taken back in 5.9", Lines: "17839856fd58",
		Changes: []string{
			"get_user_pages: a reference to a page of a COW mapping is taken as for a write, hugetlb included; a VMA without write permission is still all right",
			"gup-fast: requires RW for reads and writes alike",
		},
		Claims: "a pin taken after a fork is of a page of one's own: what the other side stores later is not seen through it",
		Open:   "a pin taken before the fork: the forward race loses reads, and the page that was pinned and then unmapped is the other side's to write",
	}
}

// GUPVMA is should_force_cow_break, for every VMA that is entered. There is no
// FOLL_ANON in 5.8: memory that nobody has touched is faulted in.
func (p GUPCowBreak) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Want && g.VMA.Flags.IsCOW() && !p.noForce {
		g.Foll |= mm.FollWrite
		g.Foll &^= mm.FollAnon
	}
	return mm.GUPGo
}

// FastMask is get_user_pages_fast's FOLL_WRITE for the walk.
func (p GUPCowBreak) FastMask(f *mm.Fast) x86.PTE {
	if p.noForce {
		return p.Stock.FastMask(f)
	}
	return x86.PtePresent | x86.PteUser | x86.PteRW
}
