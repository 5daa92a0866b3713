package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Reclaim of a page as a choice of a search: "this page, now". Linux' reclaim comes when
// memory is short, and takes what is old; a search over schedules has no time in which
// memory could run short, so here each page that is on a list when the race begins is an event
// on offer (sched.Machine.Offer):
//
//	event of page p --VecReclaim--> interrupt --wakes--> reclaimer --> reclaimOne(p)
//	      strategy's choice          |<------- on a CPU of its own -------->|
//
// What the reclaimer does are steps like those of any task, with the schedule points and the
// locks of 2.6.29's own reclaim. The event itself does nothing but write down which page.

// OfferedPages is how many pages are on offer: those that kswapd would come to first.
const OfferedPages = 8

// reclaimer is the task that reclaims the pages which a search chooses.
type reclaimer struct {
	s    *System // immutable; nil on a machine without
	cpu  int     // where it runs; immutable
	wait lock.WaitQueue
	obj  x86.ObjID // names what follows, but for offered; immutable

	left   int       // pages that may still be chosen; protected by whoever acts
	chosen []x86.PFN // not begun with yet, in order; protected by whoever acts
	busy   bool      // it reclaims a page; protected by whoever acts

	offered bool // OfferReclaim has been called; protected by whoever acts
}

// BootReclaimer makes the task that reclaims what a search chooses, at most n pages in a run, on
// the given CPU, which nobody else should use. Boot time only; free regime only.
func (s *System) BootReclaimer(n, cpu int) {
	r := &s.reclaimer
	r.s, r.cpu, r.left, r.obj = s, cpu, n, s.M.NewObj(x86.ClassWord)
	r.wait.Init(s.M)
	s.M.RegisterIRQ(x86.VecReclaim, func(t *sched.Task) {
		if r.wait.Active(t.C) {
			r.wait.Wake(t)
		}
	})
	s.M.Start(nil, s.M.NewTask(sched.TaskOptions{Name: "reclaimer", Daemon: true, CPU: cpu + 1}, r.run))
}

// OfferReclaim is called when the race begins, by whoever acts, with no other task in the
// middle of kernel code: it empties the pagevecs of all CPUs, because reclaim does not see what is in
// them, and puts the pages on offer that are on a list then. A page that becomes one later is not,
// nor one that is not among the first OfferedPages, in the order in which kswapd would take them. Only the first call counts.
func (s *System) OfferReclaim(t *sched.Task) {
	r := &s.reclaimer
	if r.s == nil || r.offered {
		return
	}
	r.offered = true
	for cpu := range s.M.CPUs() {
		s.Pages.LRUAddDrainCPU(t, cpu)
	}
	var buf [OfferedPages]x86.PFN
	pages := buf[:s.Pages.OldestPages(buf[:])]
	for _, pfn := range pages {
		s.M.Offer(&reclaimEvent{r, pfn}, 1, len(pages))
	}
}

// AwaitReclaim waits, as for a spinlock, until nothing is being reclaimed that was chosen: before the
// last look at what a search compares. What is in the middle of reclaim then would be a state of its own at
// each of its steps, and one that the search cannot tell from its end.
func (s *System) AwaitReclaim(t *sched.Task) {
	r := &s.reclaimer
	if r.s == nil {
		return
	}
	t.C.Point(x86.OpRead, r.obj)
	for n := 1; r.busy || len(r.chosen) > 0; n++ {
		t.C.SpinWait(r.obj, n)
	}
}

// reclaimEvent says that a page is to be reclaimed now. When as many have happened as may, it
// does nothing: an actor must not keep another from acting.
type reclaimEvent struct {
	r   *reclaimer
	pfn x86.PFN
}

// Fire implements sched.Event.
func (e *reclaimEvent) Fire(m *sched.Machine, _ *trace.CPU) {
	r := e.r
	if r.left == 0 {
		m.Touch(r.obj, x86.AccRead)
		return
	}
	m.Touch(r.obj, x86.AccWrite)
	r.left--
	r.chosen = append(r.chosen, e.pfn)
	m.CPU(r.cpu).Raise(x86.VecReclaim)
}

// Op implements sched.Event.
func (e *reclaimEvent) Op() x86.Op { return x86.OpReclaim }

// Obj implements sched.Event.
func (e *reclaimEvent) Obj() x86.ObjID { return x86.PageObj(e.pfn, x86.PageFlags) }

// Name implements sched.Event.
func (e *reclaimEvent) Name() string { return "memory pressure" }

// run is the task.
func (r *reclaimer) run(t *sched.Task) {
	stateOf(t).memalloc = true
	for {
		r.wait.WaitEvent(t, func() bool {
			t.C.Touch(r.obj, x86.AccRead)
			return len(r.chosen) > 0
		})
		t.C.Touch(r.obj, x86.AccWrite)
		pfn := r.chosen[0]
		r.chosen = append(r.chosen[:0], r.chosen[1:]...)
		r.busy = true
		r.s.reclaimOne(t, pfn)
		t.C.Point(x86.OpWrite, r.obj)
		r.busy = false
		t.C.Wrote(r.obj)
	}
}

// reclaimPasses is how often reclaimOne looks at a page: once to find that it was used, once to
// unmap and write it, once to free it.
const reclaimPasses = 3

// reclaimOne reclaims a page if it is on a list, as 2.6.29's lumpy reclaim does with what it has
// isolated (mm/vmscan.c:shrink_inactive_list): it looks again at what was used when it looked first,
// and waits for what it has had written. So it frees the page unless somebody has a reference, locks it, or uses it meanwhile; in
// any case it takes its ptes away before it sees that.
//
// Preconditions:
//   - the task has PF_MEMALLOC and may sleep
func (s *System) reclaimOne(t *sched.Task, pfn x86.PFN) {
	pm := s.Pages
	if !pm.IsolateListed(t, pfn) {
		return
	}
	p := pm.Page(pfn)
	sc := stateOf(t).scanControl(t, page.GFPKernel, 0)
	sc.pages[0] = pfn
	t.C.Trace.Event(trace.EvReclaimBegin, t.C.Now(), 0, uint64(sc.gfp), 0)
	kept, got := 1, uint64(0)
	for pass := 1; ; pass++ {
		if pm.TestFlag(t, p, page.Active) {
			pm.ClearFlag(t, p, page.Active) // clear_active_flags
		}
		if kept, got = s.shrinkPageList(t, sc, sc.pages[:1]); kept == 0 || pass == reclaimPasses {
			break
		}
		written := pm.TestFlag(t, p, page.Writeback)
		if written {
			pm.WaitOnWriteback(t, p)
		} else if !pm.TestFlag(t, p, page.Active) {
			break // somebody has it
		}
	}
	pm.PutbackZone(t, sc.pages[:kept])
	t.C.Trace.Event(trace.EvReclaimEnd, t.C.Now(), got, sc.scanned, 0)
	sc.busy = false
	t.Progress()
}
