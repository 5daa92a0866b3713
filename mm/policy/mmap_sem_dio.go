package policy

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// MmapSemDIO is row 12: Linus Torvalds' first alternative, 11 March 2009 (thread lines
// 818-830, 1020-1032): hold mmap_sem for reading over the whole ->direct_IO call. fork has
// always taken it for writing. He calls it "almost certainly not reasonable" himself,
// because mmap, munmap and brk wait for the I/O too.
//
// What nobody says: get_user_pages_fast, which direct I/O looks its pages up with, takes
// mmap_sem itself when it has to go the slow way. mmap_sem is fair. If a writer has queued
// between the two, the inner reader waits for the writer and the writer for the outer one,
// for ever. Fixed has the slow way go under the lock that is held already, which is what
// "people who use get_user_pages always have to have the read-lock" (824) asks for, and is
// row mmap_sem_dio_fixed.
//
// The lock is taken where direct_io_worker begins, inside the i_mutex that a file's read
// takes, not around ->direct_IO: there a read would take i_mutex under mmap_sem, and
// write(2) faults under i_mutex.
type MmapSemDIO struct {
	mm.Stock
	// Fixed looks pages up under the lock that is held.
	Fixed bool
	// noSem takes the lock out: the deciding line, for mutants.
	noSem bool
}

// Name implements mm.Policy.
func (p MmapSemDIO) Name() string {
	if p.Fixed {
		return "mmap_sem_dio_fixed"
	}
	return "mmap_sem_dio"
}

// Hooks implements mm.Policy.
func (MmapSemDIO) Hooks() mm.HookSet { return mm.HookPin }

// Claims implements mm.Policy.
func (MmapSemDIO) Claims() mm.Guarantee { return mm.Forward }

// About implements mm.Policy.
func (p MmapSemDIO) About() mm.About {
	a := mm.About{
		Row: 12, Title: "direct I/O holds mmap_sem for reading",
		Who: "Linus Torvalds", When: "11 March 2009, an idea", Lines: "818-830, 1020-1032",
		Changes: []string{"direct I/O: holds mmap_sem for reading until the submission returns; fork takes it for writing already"},
		Claims:  "the forward race for synchronous O_DIRECT",
		Open:    "mmap, munmap, brk and fork wait for the I/O (1026); asynchronous I/O, of which it says that there is none (1021); the reverse race; other users; the slow half of gup-fast takes mmap_sem again and deadlocks with a writer that waits (docs/findings.md)",
	}
	if p.Fixed {
		a.Title = "row 12 without the deadlock: the look-up uses the lock that is held"
		a.Changes = append(a.Changes, "gup-fast: its slow half does not take mmap_sem in direct I/O")
		a.Open = "mmap, munmap, brk and fork wait for the I/O (1026); asynchronous I/O; the reverse race; other users"
	}
	return a
}

// PinBegin is the call of ->direct_IO.
func (p MmapSemDIO) PinBegin(u *mm.PinUser) error {
	if u.Kind == mm.UserDirectIO && !p.noSem {
		u.MM.MmapSem.DownRead(u.T)
	}
	return nil
}

// PinSubmitted implements mm.Policy: the call returns.
func (p MmapSemDIO) PinSubmitted(t *sched.Task, u *mm.PinUser) {
	if !p.noSem {
		u.MM.MmapSem.UpRead(t)
	}
}

// underSem is the kind of direct I/O's references: it tells its look-ups from all others,
// those of drivers that use FOLL_PIN among them.
const underSem = mm.PinLongterm + 1

// DirectIOPin implements mm.Policy.
func (MmapSemDIO) DirectIOPin() mm.PinKind { return underSem }

// HoldsMmapSem implements mm.Policy.
func (p MmapSemDIO) HoldsMmapSem(kind mm.PinKind) bool {
	return p.Fixed && !p.noSem && kind == underSem
}
