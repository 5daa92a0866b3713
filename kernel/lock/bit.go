package lock

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// bitQueues is how many wait queues a BitWait has (2.6.29 sizes its per-zone table
// by memory; collisions only cost wake-ups).
const bitQueues = 64

// BitWait is a table of hashed wait queues for locks that are a bit of a shared
// word, such as PG_locked: there is no room for a queue beside the bit.
type BitWait struct {
	class  Class
	queues [bitQueues]WaitQueue
}

// Init prepares the table; class is that of the bits' lock.
func (b *BitWait) Init(m *sched.Machine, class Class) {
	b.class = class
	for i := range b.queues {
		b.queues[i].Init(m)
	}
}

func (b *BitWait) queue(obj x86.ObjID) *WaitQueue {
	return &b.queues[(uint64(obj)*0x9e3779b97f4a7c15)>>58]
}

// lockObj is the checker's name of a bit lock: the word's number in the class.
func (b *BitWait) lockObj(obj x86.ObjID) x86.ObjID {
	return x86.Obj(x86.ClassLock, uint64(b.class)<<classShift|obj.ID()&(1<<classShift-1))
}

// Lock sets the bit, sleeping while somebody else has it set (lock_page).
func (b *BitWait) Lock(t *sched.Task, w *x86.Word64, mask uint64, obj x86.ObjID) {
	if t.PreemptDisabled() {
		t.Oops("%s may sleep, but preemption is disabled", b.class)
	}
	t.C.Point(x86.OpLock, obj)
	for w.RawOr(mask)&mask != 0 {
		q := b.queue(obj)
		q.Prepare(t, sched.TaskUninterruptible)
		t.C.Touch(obj, x86.AccRead)
		if w.Peek()&mask != 0 {
			t.WaitingOn(obj)
			t.Schedule()
		}
		q.Finish(t)
		t.C.Point(x86.OpLock, obj)
	}
	acquired(t, b.lockObj(obj), how{nested: true})
}

// TryLock sets the bit if it is clear, and reports whether it did.
func (b *BitWait) TryLock(t *sched.Task, w *x86.Word64, mask uint64, obj x86.ObjID) bool {
	t.C.Point(x86.OpLock, obj)
	if w.RawOr(mask)&mask != 0 {
		return false
	}
	acquired(t, b.lockObj(obj), how{try: true})
	return true
}

// Unlock clears the bit and wakes the waiters (unlock_page). It may be called by
// another task, or in interrupt context, after Disown.
func (b *BitWait) Unlock(t *sched.Task, w *x86.Word64, mask uint64, obj x86.ObjID) {
	t.C.Point(x86.OpUnlock, obj)
	t.C.Drain()
	if w.RawAndNot(mask)&mask == 0 {
		t.Oops("%s released but not held", b.class)
	}
	released(t, b.lockObj(obj))
	t.C.Wrote(obj)
	if q := b.queue(obj); q.Active(t.C) {
		q.Wake(t)
	}
}

// Disown tells the checker that somebody else will unlock, such as the
// completion of a read.
func (b *BitWait) Disown(t *sched.Task, obj x86.ObjID) { disowned(t, b.lockObj(obj)) }

// WaitClear sleeps until the bit is clear (wait_on_page_bit).
func (b *BitWait) WaitClear(t *sched.Task, w *x86.Word64, mask uint64, obj x86.ObjID) {
	t.C.Point(x86.OpRead, obj)
	for w.Peek()&mask != 0 {
		q := b.queue(obj)
		q.Prepare(t, sched.TaskUninterruptible)
		t.C.Touch(obj, x86.AccRead)
		if w.Peek()&mask != 0 {
			t.WaitingOn(obj)
			t.Schedule()
		}
		q.Finish(t)
		t.C.Touch(obj, x86.AccRead)
	}
}

// WakeBit wakes those who wait for a bit that was cleared by other means.
func (b *BitWait) WakeBit(t *sched.Task, obj x86.ObjID) {
	t.C.Wrote(obj)
	if q := b.queue(obj); q.Active(t.C) {
		q.Wake(t)
	}
}

// Empty reports whether nobody waits on the table: for invariants at quiet points.
func (b *BitWait) Empty() bool {
	for i := range b.queues {
		if !b.queues[i].Empty() {
			return false
		}
	}
	return true
}
