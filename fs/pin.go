package fs

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// A policy that wants more of direct I/O than PinBegin and PinEnd has one or more of
// these methods besides. They are looked for once, when the file layer is made.
//
//	PinBegin        direct_io_worker, before the first look-up      submitting task
//	PinSubmitted    direct_io_worker has returned                   submitting task
//	PinEnd          dio_complete                                    whoever completes
//	PinReleased     after aio_complete, as the DIO is freed         whoever completes
//
// An asynchronous request may end before PinSubmitted is called. The PinUser is good
// until both PinSubmitted and PinReleased have returned.
type (
	// PinSubmitter is a policy that wants to know when the submission is over,
	// whether the request is or not: the place where the first directio_sem is
	// released.
	PinSubmitter interface {
		PinSubmitted(t *sched.Task, u *mm.PinUser)
	}
	// PinReleaser is a policy that wants to know when a request is gone and its
	// owner has been told. It may be called in interrupt context.
	PinReleaser interface {
		PinReleased(t *sched.Task, u *mm.PinUser)
	}
	// DirectIOPinner is a policy that says what kind of reference direct I/O takes on
	// user pages. Other policies get mm.PinGet.
	DirectIOPinner interface {
		DirectIOPin() mm.PinKind
	}
)

// pinPolicy is a policy with its optional methods. Immutable.
type pinPolicy struct {
	p         mm.Policy
	submitter PinSubmitter
	releaser  PinReleaser
	kind      mm.PinKind
	vmsplice  mm.PinKind
}

func newPinPolicy(p mm.Policy) pinPolicy {
	pp := pinPolicy{p: p}
	if p.Hooks()&mm.HookPin == 0 {
		pp.p = mm.Stock{} // whose PinBegin and PinEnd do nothing
	}
	pp.submitter, _ = p.(PinSubmitter)
	pp.releaser, _ = p.(PinReleaser)
	if d, ok := p.(DirectIOPinner); ok {
		pp.kind = d.DirectIOPin()
	}
	if v, ok := p.(VmsplicePinner); ok {
		pp.vmsplice = v.VmsplicePin()
	}
	return pp
}

// userMemory is what the file layer needs of the memory manager.
type userMemory interface {
	currentMM(t *sched.Task) *mm.MM
	// getUserPagesFast is mm.GetUserPagesFast.
	getUserPagesFast(t *sched.Task, start uint64, n int, write bool, kind mm.PinKind, pages []*page.Page) (int, error)
	// take takes another reference of the kind on a page that the caller has one on;
	// put drops one, perhaps in interrupt context.
	take(t *sched.Task, p *page.Page, kind mm.PinKind)
	put(t *sched.Task, p *page.Page, kind mm.PinKind)
	// zeroPage is ZERO_PAGE, nil if there is no memory.
	zeroPage(t *sched.Task) *page.Page
	// setPageDirtyLock marks a page dirty under its lock (set_page_dirty_lock).
	setPageDirtyLock(t *sched.Task, p *page.Page)
	// copyToUser and copyFromUser return how many bytes were copied; fewer than
	// asked for means EFAULT.
	copyToUser(t *sched.Task, addr uint64, b []byte) int
	copyFromUser(t *sched.Task, addr uint64, b []byte) int
}
