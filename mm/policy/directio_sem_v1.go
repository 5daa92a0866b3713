package policy

import (
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// DirectIOSemV1 is row 6: KOSAKI Motohiro's first patch, 16 March 2009 (thread lines
// 6054-6134).
//
// fork takes the address space's directio_sem for writing, before mmap_sem; direct I/O
// holds it for reading around direct_io_worker and nothing else. A synchronous request has
// been completed when that returns. An asynchronous one has only been submitted (7002,
// 7789), and fork goes on while its device writes.
type DirectIOSemV1 struct {
	mm.Stock
	// noSem takes the semaphore out: the deciding line, for mutants.
	noSem bool
}

// Name implements mm.Policy.
func (DirectIOSemV1) Name() string { return "directio_sem_v1" }

// Hooks implements mm.Policy.
func (DirectIOSemV1) Hooks() mm.HookSet { return mm.HookMM | mm.HookForkLock | mm.HookPin }

// Claims implements mm.Policy.
func (DirectIOSemV1) Claims() mm.Guarantee { return mm.Forward }

// About implements mm.Policy.
func (DirectIOSemV1) About() mm.About {
	return mm.About{
		Row: 6, Title: "fork waits for direct I/O that is being submitted",
		Who: "KOSAKI Motohiro", When: "16 March 2009, first version", Lines: "6054-6134",
		Changes: []string{
			"fork: takes directio_sem for writing, before mmap_sem",
			"direct I/O: holds directio_sem for reading around direct_io_worker",
		},
		Claims: "the forward race for O_DIRECT (\"if we only need concern to O_DIRECT\")",
		Open:   "asynchronous I/O is in flight after direct_io_worker has returned (7002, 7789); the reverse race (6410); every other user of get_user_pages (6183)",
	}
}

// MMInit is mm_init's init_rwsem.
func (DirectIOSemV1) MMInit(t *sched.Task, m *mm.MM) {
	s := &lock.RWSem{}
	s.Init(t.M, lock.PinnedSem)
	m.PolicyData = s
}

// ForkLock is dup_mmap's first line.
func (p DirectIOSemV1) ForkLock(t *sched.Task, parent *mm.MM) error {
	if !p.noSem {
		pinnedSem(parent).DownWrite(t)
	}
	return nil
}

// ForkUnlock is dup_mmap's last line.
func (p DirectIOSemV1) ForkUnlock(t *sched.Task, parent *mm.MM) {
	if !p.noSem {
		pinnedSem(parent).UpWrite(t)
	}
}

// PinBegin is __blockdev_direct_IO before direct_io_worker.
func (p DirectIOSemV1) PinBegin(u *mm.PinUser) error {
	if u.Kind == mm.UserDirectIO && !p.noSem {
		pinnedSem(u.MM).DownRead(u.T)
	}
	return nil
}

// PinSubmitted implements mm.Policy: behind direct_io_worker.
func (p DirectIOSemV1) PinSubmitted(t *sched.Task, u *mm.PinUser) {
	if !p.noSem {
		pinnedSem(u.MM).UpRead(t)
	}
}
