package policy

import (
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// KosakiV3 is row 17: KOSAKI Motohiro's "IO pinning vs fork race fix", third version, 14
// April 2009, after the thread. Its code is not known to us, only its change log: the
// lock is taken by the caller, asynchronous I/O, NFS and vmsplice included; COW is not
// broken early any more; reclaim does not unmap pinned pages. This is what that says,
// built on row 10.
type KosakiV3 struct {
	mm.Stock
	noSem bool // takes the semaphore out: the deciding line, for mutants
}

// Name implements mm.Policy.
func (KosakiV3) Name() string { return "kosaki_v3" }

// Hooks implements mm.Policy.
func (KosakiV3) Hooks() mm.HookSet {
	return mm.HookMM | mm.HookForkLock | mm.HookPin | mm.HookReclaim
}

// Claims implements mm.Policy.
func (KosakiV3) Claims() mm.Guarantee { return mm.Forward | mm.AIO | mm.UnderSwap }

// About implements mm.Explainer.
func (KosakiV3) About() mm.About {
	return mm.About{
		Row: 17, Title: "fork waits for all who pin; reclaim leaves pinned pages mapped",
		Who: "KOSAKI Motohiro", When: "14 April 2009, third version", Lines: "-",
		Changes: []string{
			"fork: takes mm_pinned_sem for writing, before mmap_sem",
			"direct I/O, asynchronous I/O, vmsplice: hold it for reading until the pages are put",
			"reclaim: try_to_unmap puts the pte back if the page has more references than its mappings, the swap cache and reclaim itself",
			"no early de-COW: get_user_pages and gup-fast are as in 2.6.29",
		},
		Claims: "the forward race for O_DIRECT and vmsplice",
		Open:   "the reverse race; drivers and ptrace take no lock; a fork waits for as long as nobody reads the pipe. Built from the change log alone",
	}
}

// MMInit implements mm.Policy.
func (KosakiV3) MMInit(t *sched.Task, m *mm.MM) {
	s := &lock.RWSem{}
	s.Init(t.M, lock.PinnedSem)
	m.PolicyData = s
}

// ForkLock implements mm.Policy.
func (p KosakiV3) ForkLock(t *sched.Task, parent *mm.MM) error {
	if !p.noSem {
		pinnedSem(parent).DownWrite(t)
	}
	return nil
}

// ForkUnlock implements mm.Policy.
func (p KosakiV3) ForkUnlock(t *sched.Task, parent *mm.MM) {
	if !p.noSem {
		pinnedSem(parent).UpWrite(t)
	}
}

// holds reports whether the operation takes the semaphore.
func (p KosakiV3) holds(u *mm.PinUser) bool {
	return !p.noSem && (u.Kind == mm.UserDirectIO || u.Kind == mm.UserVmsplice)
}

// PinBegin implements mm.Policy.
func (p KosakiV3) PinBegin(u *mm.PinUser) error {
	if p.holds(u) {
		u.MM.MMGrab(u.T)
		pinnedSem(u.MM).DownReadNonOwner(u.T)
	}
	return nil
}

// PinEnd implements mm.Policy.
func (p KosakiV3) PinEnd(t *sched.Task, u *mm.PinUser) {
	if p.holds(u) {
		pinnedSem(u.MM).UpReadNonOwner(t)
		u.MM.MMDrop(t)
	}
}

// Unmap is try_to_unmap_one's test, after the pte was cleared and flushed: a gup-fast that
// saw it has taken its reference by then.
func (KosakiV3) Unmap(u *mm.Unmap) bool {
	pages := mm.SystemOf(u.T).Pages
	const cacheAndReclaim = 2
	return !u.Page.Anon() || pages.Refs(u.T, u.Page) == pages.MapRefs(u.T, u.Page)+cacheAndReclaim
}
