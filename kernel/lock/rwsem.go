package lock

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// RWSem is rw_semaphore: first come, first served, so a waiting writer holds up
// later readers, and ownership is handed to the waiter before it wakes. Compare
// Linux 2.6.29 lib/rwsem-spinlock.c.
type RWSem struct {
	obj     x86.ObjID   // immutable after Init
	raw     x86.RawSpin // host-level; protects the rest
	active  int         // readers inside, or -1 for a writer
	waiting []*waiter   // in order of arrival
	spare   []*waiter   // for re-use
	time    uint64      // clock of the last release
}

const eintr = ^uint64(0) - uint64(unix.EINTR) + 1 // -EINTR, as events have it

type waiter struct {
	t     *sched.Task
	write bool
	done  x86.Word32 // 1 once the semaphore is ours
}

// Init prepares the semaphore.
func (s *RWSem) Init(m *sched.Machine, c Class) { s.obj = newObj(m, c) }

// Obj names the semaphore.
func (s *RWSem) Obj() x86.ObjID { return s.obj }

// DownRead takes the semaphore for reading.
func (s *RWSem) DownRead(t *sched.Task) {
	s.down(t, false, sched.TaskUninterruptible)
	acquired(t, s.obj, how{read: true})
}

// DownReadNonOwner takes the semaphore for reading on behalf of whoever will call
// UpReadNonOwner (down_read_non_owner).
func (s *RWSem) DownReadNonOwner(t *sched.Task) {
	s.DownRead(t)
	disowned(t, s.obj)
}

// DownReadKillable is DownRead that gives up with EINTR when the task is killed.
func (s *RWSem) DownReadKillable(t *sched.Task) error {
	if !s.down(t, false, sched.TaskKillable) {
		return unix.EINTR
	}
	acquired(t, s.obj, how{read: true})
	return nil
}

// DownReadTry takes the semaphore for reading if that needs no waiting.
func (s *RWSem) DownReadTry(t *sched.Task) bool {
	t.C.Point(x86.OpReadLock, s.obj)
	s.raw.Lock()
	ok := s.active >= 0 && len(s.waiting) == 0
	if ok {
		s.active++
	}
	s.raw.Unlock()
	if ok {
		acquired(t, s.obj, how{read: true, try: true})
	}
	return ok
}

// DownWrite takes the semaphore for writing.
func (s *RWSem) DownWrite(t *sched.Task) {
	s.down(t, true, sched.TaskUninterruptible)
	acquired(t, s.obj, how{})
}

// DownWriteNested is DownWrite for a second semaphore of the class.
func (s *RWSem) DownWriteNested(t *sched.Task) {
	s.down(t, true, sched.TaskUninterruptible)
	acquired(t, s.obj, how{nested: true})
}

// DownWriteKillable is DownWrite that gives up with EINTR when the task is killed.
func (s *RWSem) DownWriteKillable(t *sched.Task) error {
	if !s.down(t, true, sched.TaskKillable) {
		return unix.EINTR
	}
	acquired(t, s.obj, how{})
	return nil
}

// down takes the semaphore, or queues and sleeps. It reports false only when a
// killable wait was cut short.
func (s *RWSem) down(t *sched.Task, write bool, state sched.TaskState) bool {
	if t.PreemptDisabled() {
		t.Oops("%s may sleep, but preemption is disabled", Namer(s.obj.ID()))
	}
	op := x86.OpReadLock
	if write {
		op = x86.OpLock
	}
	t.C.Point(op, s.obj)
	s.raw.Lock()
	if len(s.waiting) == 0 && (s.active == 0 || s.active > 0 && !write) {
		if write {
			s.active = -1
		} else {
			s.active++
		}
		s.raw.Unlock()
		return true
	}
	t.C.Touch(s.obj, x86.AccWrite)
	w := s.newWaiter(t, write)
	s.waiting = append(s.waiting, w)
	s.raw.Unlock()
	t.C.Trace.Inc(trace.EmuSleepWaits)
	wanted := uint64(trace.LockRead)
	if write {
		wanted = trace.LockWrite
	}
	t.C.Trace.Event(trace.EvLockWait, t.C.Now(), uint64(s.obj), wanted, 0)
	for {
		t.SetState(state)
		t.C.Touch(s.obj, x86.AccRead)
		if w.done.Peek() != 0 {
			break
		}
		if state == sched.TaskKillable && t.FatalSignalPending() && s.giveUp(t, w) {
			t.SetState(sched.TaskRunning)
			t.C.Trace.Event(trace.EvLockGot, t.C.Now(), uint64(s.obj), eintr, 0)
			return false
		}
		t.WaitingOn(s.obj)
		t.Schedule()
	}
	t.SetState(sched.TaskRunning)
	s.raw.Lock()
	s.spare = append(s.spare, w)
	time := s.time
	s.raw.Unlock()
	t.C.SetNow(time)
	t.C.Trace.Event(trace.EvLockGot, t.C.Now(), uint64(s.obj), 0, 0)
	return true
}

func (s *RWSem) newWaiter(t *sched.Task, write bool) *waiter {
	var w *waiter
	if n := len(s.spare); n > 0 {
		w = s.spare[n-1]
		s.spare = s.spare[:n-1]
	} else {
		w = &waiter{}
	}
	w.t, w.write = t, write
	w.done.Poke(0)
	return w
}

// giveUp takes a killed waiter off the queue; false means it was granted first.
func (s *RWSem) giveUp(t *sched.Task, w *waiter) bool {
	t.C.Touch(s.obj, x86.AccWrite)
	s.raw.Lock()
	for i, o := range s.waiting {
		if o == w {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			granted := s.grant()
			s.raw.Unlock()
			s.wake(t, granted)
			return true
		}
	}
	s.raw.Unlock()
	return false
}

// grant hands the semaphore to the first waiter, and if that is a reader to all
// readers directly behind it. Called with raw held; the caller wakes the result.
func (s *RWSem) grant() []*sched.Task {
	n := 0
	for n < len(s.waiting) {
		w := s.waiting[n]
		if w.write {
			if n > 0 || s.active != 0 {
				break
			}
			s.active = -1
			n++
			break
		}
		if s.active < 0 {
			break
		}
		s.active++
		n++
	}
	if n == 0 {
		return nil
	}
	tasks := make([]*sched.Task, n)
	for i, w := range s.waiting[:n] {
		tasks[i] = w.t
		w.done.Poke(1)
	}
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
	return tasks
}

func (s *RWSem) wake(t *sched.Task, tasks []*sched.Task) {
	for _, w := range tasks {
		t.M.Wake(t, w)
	}
}

// UpRead releases a read hold.
func (s *RWSem) UpRead(t *sched.Task) {
	t.C.Point(x86.OpUnlock, s.obj)
	t.C.Drain()
	released(t, s.obj)
	s.up(t, true)
}

// UpReadNonOwner releases a read hold taken by DownReadNonOwner. It may be called
// in interrupt context.
func (s *RWSem) UpReadNonOwner(t *sched.Task) {
	t.C.Point(x86.OpUnlock, s.obj)
	t.C.Drain()
	s.up(t, true)
}

// UpWrite releases the write hold.
func (s *RWSem) UpWrite(t *sched.Task) {
	t.C.Point(x86.OpUnlock, s.obj)
	t.C.Drain()
	released(t, s.obj)
	s.up(t, false)
}

func (s *RWSem) up(t *sched.Task, read bool) {
	s.raw.Lock()
	switch {
	case read && s.active > 0:
		s.active--
	case !read && s.active == -1:
		s.active = 0
	default:
		s.raw.Unlock()
		t.Oops("%s released but not held that way", Namer(s.obj.ID()))
	}
	s.time = max(s.time, t.C.Now())
	var tasks []*sched.Task
	if s.active == 0 {
		tasks = s.grant()
	}
	s.raw.Unlock()
	s.wake(t, tasks)
}

// DowngradeWrite turns the write hold into a read hold and lets waiting readers in.
func (s *RWSem) DowngradeWrite(t *sched.Task) {
	t.C.Point(x86.OpUnlock, s.obj)
	t.C.Drain()
	released(t, s.obj)
	acquired(t, s.obj, how{read: true, try: true})
	s.raw.Lock()
	s.active = 1
	tasks := s.grant()
	s.raw.Unlock()
	s.wake(t, tasks)
}

// AssertHeld stops the machine if the task does not hold the semaphore.
func (s *RWSem) AssertHeld(t *sched.Task) {
	if !holds(t, s.obj) {
		t.Oops("%s must be held", Namer(s.obj.ID()))
	}
}

// Idle reports whether nobody holds the semaphore or waits: for invariants.
func (s *RWSem) Idle() bool {
	s.raw.Lock()
	idle := s.active == 0 && len(s.waiting) == 0
	s.raw.Unlock()
	return idle
}

// WriteLocked reports whether a writer holds the semaphore: for invariants.
func (s *RWSem) WriteLocked() bool {
	s.raw.Lock()
	w := s.active == -1
	s.raw.Unlock()
	return w
}

// Mutex is struct mutex: a sleeping lock with one owner.
type Mutex struct{ s RWSem }

// Init prepares the mutex.
func (l *Mutex) Init(m *sched.Machine, c Class) { l.s.Init(m, c) }

// Lock takes the mutex.
func (l *Mutex) Lock(t *sched.Task) { l.s.DownWrite(t) }

// Unlock releases the mutex.
func (l *Mutex) Unlock(t *sched.Task) { l.s.UpWrite(t) }

// TryLock takes the mutex if it is free, and reports whether it did.
func (l *Mutex) TryLock(t *sched.Task) bool {
	t.C.Point(x86.OpLock, l.s.obj)
	l.s.raw.Lock()
	ok := l.s.active == 0 && len(l.s.waiting) == 0
	if ok {
		l.s.active = -1
	}
	l.s.raw.Unlock()
	if ok {
		acquired(t, l.s.obj, how{try: true})
	}
	return ok
}

// AssertHeld stops the machine if the task does not hold the mutex.
func (l *Mutex) AssertHeld(t *sched.Task) { l.s.AssertHeld(t) }

// Locked reports whether somebody holds the mutex: for invariants.
func (l *Mutex) Locked() bool { return l.s.WriteLocked() }
