package fs

import (
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Pages that an asynchronous read has filled must be dirty, or reclaim would drop
// what was read. They are marked when the bio is submitted, because marking takes the
// page lock and sleeps. If somebody has written a page out and cleaned it
// before the DMA came, the interrupt that ends the bio finds it clean and leaves the
// bio to a workqueue. After Linux 2.6.29 fs/bio.c:bio_check_pages_dirty.
type bioDirty struct {
	lock  lock.SpinLock // bio_dirty_lock; irq-safe
	list  *blk.Bio      // protected by lock
	queue *sched.Workqueue
	fn    func(*sched.Task) // bioDirtyFn; immutable
}

func (b *bioDirty) init(s *System) {
	b.lock.Init(s.m, lock.Dio)
	b.fn = s.bioDirtyFn
}

// bioSetPagesDirty marks every page of a bio dirty (bio_set_pages_dirty).
func (s *System) bioSetPagesDirty(t *sched.Task, b *blk.Bio) {
	if s.NoDirtyDIO {
		return
	}
	for i := range b.Vec {
		if p := b.Vec[i].Page; p != nil && !compound(p) {
			s.mem.setPageDirtyLock(t, p)
		}
	}
}

// bioCheckPagesDirty puts the pages of a bio that are still dirty, and the bio with the
// last of them; clean ones are left to the workqueue (bio_check_pages_dirty).
func (s *System) bioCheckPagesDirty(t *sched.Task, b *blk.Bio) {
	clean := 0
	for i := range b.Vec {
		p := b.Vec[i].Page
		if compound(p) || s.NoDirtyDIO || s.pages.TestFlag(t, p, page.Dirty) {
			s.mem.put(t, p, s.policy.kind)
			b.Vec[i].Page = nil
		} else {
			clean++
		}
	}
	if clean == 0 {
		s.blk.PutBio(t, b)
		return
	}
	d := &s.dirty
	off := d.lock.LockIRQSave(t)
	b.Next = d.list
	d.list = b
	if d.queue == nil {
		// Only machines that need the thread have it: in the free regime every
		// task costs a search steps.
		d.queue = s.m.NewWorkqueue("bio_dirty")
	}
	q := d.queue
	d.lock.UnlockIRQRestore(t, off)
	q.Queue(t, d.fn)
}

// bioDirtyFn is the work: in process context it may take page locks (bio_dirty_fn).
func (s *System) bioDirtyFn(t *sched.Task) {
	d := &s.dirty
	off := d.lock.LockIRQSave(t)
	list := d.list
	d.list = nil
	d.lock.UnlockIRQRestore(t, off)
	t.C.Trace.Inc(trace.EmuWorkqueueRuns)
	for b := list; b != nil; {
		next := b.Next
		s.bioSetPagesDirty(t, b)
		for i := range b.Vec {
			if p := b.Vec[i].Page; p != nil {
				s.mem.put(t, p, s.policy.kind)
			}
		}
		s.blk.PutBio(t, b)
		b = next
	}
}
