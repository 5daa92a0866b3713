package lock

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// PrepareLate is Prepare as it must not be: the task is on the queue, where somebody can
// take it off, before it says that it is about to sleep.
func (q *WaitQueue) PrepareLate(t *sched.Task, s sched.TaskState) {
	t.C.Point(x86.OpWait, q.obj)
	q.raw.Lock()
	found := false
	for _, o := range q.tasks {
		found = found || o == t
	}
	if !found {
		q.tasks = append(q.tasks, t)
	}
	q.raw.Unlock()
	t.SetState(s)
	t.WaitingOn(q.obj)
}

// PrepareUnlocked is Prepare with its last two lines exchanged.
func (q *WaitQueue) PrepareUnlocked(t *sched.Task, s sched.TaskState) {
	q.raw.Lock()
	q.tasks = append(q.tasks, t)
	q.raw.Unlock()
	t.SetStateUnder(&q.raw, s)
}

// SharesQueue reports whether those who wait for a bit of one word are woken with those
// who wait for a bit of the other.
func (b *BitWait) SharesQueue(one, other x86.ObjID) bool { return b.queue(one) == b.queue(other) }
