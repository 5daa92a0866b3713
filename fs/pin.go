package fs

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// pinPolicy is what the file layer asks of a policy:
//
//	PinBegin        direct_io_worker, before the first look-up      submitting task
//	PinSubmitted    direct_io_worker, when all is submitted         submitting task
//	PinEnd          dio_complete                                    whoever completes
//	PinReleased     after aio_complete, as the DIO is freed         whoever completes
//
// Immutable.
type pinPolicy struct {
	p        mm.Policy  // Stock, for which these do nothing, without HookPin
	kind     mm.PinKind // of direct I/O
	vmsplice mm.PinKind
}

func newPinPolicy(p mm.Policy) pinPolicy {
	pp := pinPolicy{p: p, kind: p.DirectIOPin(), vmsplice: p.VmsplicePin()}
	if p.Hooks()&mm.HookPin == 0 {
		pp.p = mm.Stock{}
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
