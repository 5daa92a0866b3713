package policy

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// ForkLock is row 13: Linus Torvalds' fork lock, 16 March 2009 (thread lines 6339-6353,
// 6443-6470), with row 7's test of the count against the reverse race (6595).
//
// The address space has a lock that only fork takes for writing, so that holding it for
// reading stops nothing else. Who pins memory decides whether to hold it, for as long as he
// holds references: direct I/O until it completes, vmsplice until the other end of the pipe
// has released the last page, a driver until it lets go of the memory; ptrace not at all.
// fork waits killably, "so that you can kill the process if it does something bad".
//
// Such a wait may be for somebody who waits for the fork: a pipe that the child is to read
// is never read (6529), and memory registered with a device for good means that there is
// no fork.
type ForkLock struct {
	WPPageCount
	// noLock takes the lock out: the deciding line, for mutants.
	noLock bool
}

// Name implements mm.Policy.
func (ForkLock) Name() string { return "fork_lock" }

// Claims implements mm.Policy.
func (ForkLock) Claims() mm.Guarantee {
	return mm.Forward | mm.Reverse | mm.AIO | mm.Disclosure
}

// About implements mm.Policy.
func (ForkLock) About() mm.About {
	return mm.About{
		Row: 13, Title: "a lock for fork alone, held by whoever holds pins",
		Who: "Linus Torvalds", When: "16 March 2009, an idea", Lines: "6339-6353, 6443-6470",
		Changes: []string{
			"fork: takes the fork lock for writing, killably, before mmap_sem",
			"direct I/O, vmsplice, drivers: hold it for reading until the last reference is put; ptrace and futex do not",
			"COW fault: row 7",
		},
		Claims: "both directions of the race, for every user that takes the lock",
		Open:   "fork waits for whoever is to read the pipe (6529), be it the child; a user that does not take the lock; as row 7, a pinned page that reclaim or mprotect made read-only is copied away from its own pin",
	}
}

// ForkLock is dup_mmap's first line: down_write_killable.
func (p ForkLock) ForkLock(t *sched.Task, parent *mm.MM) error {
	if p.noLock {
		return nil
	}
	return pinnedSem(parent).DownWriteKillable(t)
}

// ForkUnlock is dup_mmap's last line.
func (p ForkLock) ForkUnlock(t *sched.Task, parent *mm.MM) {
	if !p.noLock {
		pinnedSem(parent).UpWrite(t)
	}
}

// holds says who takes the lock.
func (p ForkLock) holds(u *mm.PinUser) bool {
	return !p.noLock && u.Kind != mm.UserPtrace && u.Kind != mm.UserFutex
}

// PinBegin takes the lock on behalf of whoever puts the last reference, who may be
// another process: the address space is kept until then.
func (p ForkLock) PinBegin(u *mm.PinUser) error {
	if p.holds(u) {
		u.MM.MMGrab(u.T)
		pinnedSem(u.MM).DownReadNonOwner(u.T)
	}
	return nil
}

// PinEnd releases it.
func (p ForkLock) PinEnd(t *sched.Task, u *mm.PinUser) {
	if p.holds(u) {
		pinnedSem(u.MM).UpReadNonOwner(t)
		u.MM.MMDrop(t)
	}
}

// PinSubmitted is row 6's, which this row has nothing of.
func (ForkLock) PinSubmitted(*sched.Task, *mm.PinUser) {}
