package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// DirectIOSem is row 10: KOSAKI Motohiro's second patch, 22 March 2009 (thread lines
// 8643-8906).
//
// fork is kept out while direct I/O is in flight: it takes the address space's
// mm_pinned_sem for writing, and direct I/O holds it for reading from the start of
// direct_io_worker until dio_complete, whoever completes. That closes the forward
// race. Against the reverse race, the slow half of gup-fast un-COWs what it hands
// out, and the fast half takes only writable ptes, for a read too.
type DirectIOSem struct {
	mm.Stock
	// noSem takes the semaphore out, noForce the write fault before a page is handed
	// out: the deciding lines, for mutants.
	noSem, noForce bool
}

// Name implements mm.Policy.
func (DirectIOSem) Name() string { return "directio_sem" }

// Hooks implements mm.Policy.
func (DirectIOSem) Hooks() mm.HookSet {
	return mm.HookMM | mm.HookGUPVMA | mm.HookFast | mm.HookForkLock | mm.HookPin
}

// Claims implements mm.Policy.
func (DirectIOSem) Claims() mm.Guarantee { return mm.Forward | mm.Reverse | mm.AIO }

// About implements mm.Policy.
func (DirectIOSem) About() mm.About {
	return mm.About{
		Row: 10, Title: "fork waits until no direct I/O is in flight",
		Who: "KOSAKI Motohiro", When: "22 March 2009, second version", Lines: "8643-8906",
		Changes: []string{
			"fork: takes mm_pinned_sem for writing, before mmap_sem",
			"get_user_pages: when called as the slow half of gup-fast, faults COW mappings for writing also for a read; not for hugetlb",
			"gup-fast: requires RW for reads and writes alike, huge pages included",
			"direct I/O: holds mm_pinned_sem for reading from direct_io_worker to dio_complete; whoever completes releases it",
		},
		Claims: "both directions of the race for O_DIRECT through the generic direct I/O code, asynchronous I/O included",
		Open:   "other users of get_user_pages are not held off fork; reads from read-only memory and from a forked image always go the slow way and copy; a look-up that goes on from a private mapping into a shared one that is read-only un-COWs that too, and ends its sharing; a read pin of untouched memory is a BUG (docs/findings.md)",
	}
}

// MMInit is mm_init's init_rwsem.
func (DirectIOSem) MMInit(t *sched.Task, m *mm.MM) {
	s := &lock.RWSem{}
	s.Init(t.M, lock.PinnedSem)
	m.PolicyData = s
}

func pinnedSem(m *mm.MM) *lock.RWSem { return m.PolicyData.(*lock.RWSem) }

// FastMask is the mask of gup_pte_range, gup_huge_pmd and gup_huge_pud.
func (DirectIOSem) FastMask(*mm.Fast) x86.PTE {
	return x86.PtePresent | x86.PteUser | x86.PteRW
}

// GUPVMA is __get_user_pages' part. The patch's decow variable is set by the first
// COW mapping of a call and never cleared, so it also holds for later mappings that
// are not COW: of a shared one that is read-only do_wp_page makes a copy.
func (p DirectIOSem) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.VMA.Flags&mm.VMHugetlb != 0 {
		return mm.GUPGo // the patch's lines stand behind the branch for hugetlb
	}
	if g.Flags&mm.GUPFromFast != 0 && g.VMA.Flags.IsCOW() {
		g.Data = 1
	}
	if g.Data != 0 && !p.noForce {
		g.Foll |= mm.FollWrite
	}
	return mm.GUPGo
}

// ForkLock is dup_mmap's first line.
func (p DirectIOSem) ForkLock(t *sched.Task, parent *mm.MM) error {
	if !p.noSem {
		pinnedSem(parent).DownWrite(t)
	}
	return nil
}

// ForkUnlock is dup_mmap's last line.
func (p DirectIOSem) ForkUnlock(t *sched.Task, parent *mm.MM) {
	if !p.noSem {
		pinnedSem(parent).UpWrite(t)
	}
}

// PinBegin is direct_io_worker's part: the address space is kept until the end, and
// the semaphore is taken on behalf of whoever completes.
func (p DirectIOSem) PinBegin(u *mm.PinUser) error {
	if u.Kind != mm.UserDirectIO || p.noSem {
		return nil
	}
	u.MM.MMGrab(u.T)
	pinnedSem(u.MM).DownReadNonOwner(u.T)
	return nil
}

// PinEnd is dio_complete's part.
func (p DirectIOSem) PinEnd(t *sched.Task, u *mm.PinUser) {
	if u.Kind != mm.UserDirectIO || p.noSem {
		return
	}
	pinnedSem(u.MM).UpReadNonOwner(t)
	u.MM.MMDrop(t)
}
