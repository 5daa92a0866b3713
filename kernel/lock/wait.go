package lock

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// WaitQueue is wait_queue_head_t.
type WaitQueue struct {
	obj   x86.ObjID   // immutable after Init
	raw   x86.RawSpin // host-level; protects tasks
	tasks []*sched.Task
}

// Init prepares the queue.
func (q *WaitQueue) Init(m *sched.Machine) { q.obj = m.NewObj(x86.ClassWait) }

// Obj names the queue.
func (q *WaitQueue) Obj() x86.ObjID { return q.obj }

// Prepare queues the task and sets its state; the caller then tests its condition
// and calls Schedule, in a loop, and Finish at the end (prepare_to_wait).
func (q *WaitQueue) Prepare(t *sched.Task, s sched.TaskState) {
	t.C.Point(x86.OpWait, q.obj)
	q.raw.Lock()
	found := false
	for _, o := range q.tasks {
		found = found || o == t
	}
	if !found {
		q.tasks = append(q.tasks, t)
	}
	// Before the queue is let go: who wakes takes the task off, and if it did that to one
	// that is still running, nobody would wake it from the sleep that follows.
	t.SetStateUnder(&q.raw, s)
	q.raw.Unlock()
	t.WaitingOn(q.obj)
}

// Finish takes the task off the queue (finish_wait).
func (q *WaitQueue) Finish(t *sched.Task) {
	t.SetState(sched.TaskRunning)
	t.C.Touch(q.obj, x86.AccWrite)
	q.raw.Lock()
	for i, o := range q.tasks {
		if o == t {
			q.tasks = append(q.tasks[:i], q.tasks[i+1:]...)
			break
		}
	}
	q.raw.Unlock()
}

// WaitEvent sleeps until cond holds. cond is called with the task's state already
// set, so it must not sleep.
func (q *WaitQueue) WaitEvent(t *sched.Task, cond func() bool) {
	for {
		q.Prepare(t, sched.TaskUninterruptible)
		if cond() && !t.Recheck() {
			break
		}
		t.InEvent(true)
		t.Schedule()
		t.InEvent(false)
	}
	q.Finish(t)
}

// WaitEventInterruptible is WaitEvent that a signal ends with EINTR.
func (q *WaitQueue) WaitEventInterruptible(t *sched.Task, cond func() bool) error {
	for {
		q.Prepare(t, sched.TaskInterruptible)
		if cond() && !t.Recheck() {
			break
		}
		if t.SignalPending() {
			q.Finish(t)
			return unix.EINTR
		}
		t.InEvent(true)
		t.Schedule()
		t.InEvent(false)
	}
	q.Finish(t)
	return nil
}

// Wake wakes every waiter. It may be called in interrupt context.
func (q *WaitQueue) Wake(t *sched.Task) { q.WakeN(t, int(^uint(0)>>1)) }

// WakeN wakes at most n waiters, the longest waiting first.
func (q *WaitQueue) WakeN(t *sched.Task, n int) {
	t.C.Point(x86.OpWake, q.obj)
	var few [4]*sched.Task
	wake := few[:0]
	q.raw.Lock()
	n = min(n, len(q.tasks))
	wake = append(wake, q.tasks[:n]...)
	q.tasks = append(q.tasks[:0], q.tasks[n:]...)
	q.raw.Unlock()
	for _, w := range wake {
		t.M.Wake(t, w)
	}
}

// Active reports whether anybody waits (waitqueue_active), without a point.
func (q *WaitQueue) Active(c *x86.CPU) bool {
	c.Touch(q.obj, x86.AccRead)
	return !q.Empty()
}

// Empty reports whether nobody waits: for invariants.
func (q *WaitQueue) Empty() bool {
	q.raw.Lock()
	e := len(q.tasks) == 0
	q.raw.Unlock()
	return e
}

// Completion is struct completion: a count of things that have happened.
type Completion struct {
	q    WaitQueue
	done x86.Word32
}

// Init prepares the completion.
func (c *Completion) Init(m *sched.Machine) { c.q.Init(m) }

// Complete lets one waiter go on, now or later.
func (c *Completion) Complete(t *sched.Task) {
	c.done.AddReturn(t.C, c.q.obj, 1)
	c.q.WakeN(t, 1)
}

// CompleteAll lets all present and future waiters go on.
func (c *Completion) CompleteAll(t *sched.Task) {
	c.done.Store(t.C, c.q.obj, 1<<30)
	c.q.Wake(t)
}

// Wait waits for a Complete.
func (c *Completion) Wait(t *sched.Task) {
	c.q.WaitEvent(t, func() bool { return c.done.Peek() > 0 })
	c.done.AddReturn(t.C, c.q.obj, -1)
}

// WaitKillable is Wait that a fatal signal ends with EINTR (wait_for_completion_killable).
func (c *Completion) WaitKillable(t *sched.Task) error {
	for {
		c.q.Prepare(t, sched.TaskKillable)
		if c.done.Peek() > 0 {
			break
		}
		if t.FatalSignalPending() {
			c.q.Finish(t)
			return unix.EINTR
		}
		t.Schedule()
	}
	c.q.Finish(t)
	c.done.AddReturn(t.C, c.q.obj, -1)
	return nil
}

// Done reports whether Wait would return at once.
func (c *Completion) Done() bool { return c.done.Peek() > 0 }
