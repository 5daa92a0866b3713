package lock

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// SpinLock is spinlock_t: taking it disables preemption, and the holder must not
// sleep. Locks that interrupt handlers take have an interrupt-safe class and are
// taken with the IRQ forms.
type SpinLock struct {
	w       x86.SpinWord
	waiters x86.Word32 // how many spin; atomic, a hint
	obj     x86.ObjID  // immutable after Init
	time    uint64     // the last holder's clock at release; protected by w
}

// Init prepares the lock.
func (l *SpinLock) Init(m *sched.Machine, c Class) { l.obj = newObj(m, c) }

// InitNumbered is Init for locks that have a number of their own, below 1<<40 and
// unique in the class: the lock of a page table is numbered by the table's frame,
// so that it has the same name whoever makes his table first.
func (l *SpinLock) InitNumbered(c Class, n uint64) {
	*l = SpinLock{obj: x86.Obj(x86.ClassLock, uint64(c)<<classShift|n)}
}

// Obj names the lock.
func (l *SpinLock) Obj() x86.ObjID { return l.obj }

// Lock takes the lock.
func (l *SpinLock) Lock(t *sched.Task) { l.lock(t, how{}) }

// LockNested takes a second lock of the same class (spin_lock_nested).
func (l *SpinLock) LockNested(t *sched.Task) { l.lock(t, how{nested: true}) }

func (l *SpinLock) lock(t *sched.Task, h how) {
	t.PreemptDisable()
	t.C.Want = &l.w
	t.C.Point(x86.OpLock, l.obj)
	t.C.Want = nil
	if !l.w.TryLock() {
		l.spin(t)
	}
	acquired(t, l.obj, h)
}

func (l *SpinLock) spin(t *sched.Task) {
	if t.M.CheckLocks() && holds(t, l.obj) {
		t.Oops("lock recursion: %s is already held", Namer(l.obj.ID()))
	}
	l.waiters.RawAdd(1)
	t.C.Trace.Inc(trace.EmuLockContended)
	t.C.Trace.Event(trace.EvLockWait, t.C.Now(), uint64(l.obj), trace.LockSpin, 0)
	for n := 1; !l.w.TryLock(); n++ {
		t.C.SpinWait(l.obj, n)
	}
	l.waiters.RawAdd(-1)
	t.C.SetNow(l.time)
	t.C.Trace.Event(trace.EvLockGot, t.C.Now(), uint64(l.obj), 0, 0)
}

// TryLock takes the lock if it is free, and reports whether it did.
func (l *SpinLock) TryLock(t *sched.Task) bool {
	t.PreemptDisable()
	t.C.Point(x86.OpLock, l.obj)
	if !l.w.TryLock() {
		t.PreemptEnable()
		return false
	}
	acquired(t, l.obj, how{try: true})
	return true
}

// LockNestLock takes one of many locks of a class whose order does not matter because
// outer, which the task holds, is taken by whoever takes more than one
// (spin_lock_nest_lock). It goes with UnlockNestLock. The checker counts outer only: the
// task may hold any number of such locks, and AssertHeld does not know of them.
func (l *SpinLock) LockNestLock(t *sched.Task, outer *RWSem) {
	outer.AssertHeld(t)
	t.PreemptDisable()
	t.C.Point(x86.OpLock, l.obj)
	if !l.w.TryLock() {
		l.spin(t)
	}
	t.Acquired(l.obj)
}

// UnlockNestLock releases a lock that LockNestLock took.
func (l *SpinLock) UnlockNestLock(t *sched.Task) {
	t.C.Point(x86.OpUnlock, l.obj)
	l.time = t.C.Now()
	l.w.Release(t.C, l.obj)
	t.PreemptEnable()
}

// Unlock releases the lock.
func (l *SpinLock) Unlock(t *sched.Task) {
	t.C.Point(x86.OpUnlock, l.obj)
	released(t, l.obj)
	l.time = t.C.Now()
	l.w.Release(t.C, l.obj)
	t.PreemptEnable()
}

// LockIRQSave disables interrupts and takes the lock; the result goes to
// UnlockIRQRestore.
func (l *SpinLock) LockIRQSave(t *sched.Task) (irqOff bool) {
	irqOff = t.C.IRQSave()
	l.lock(t, how{})
	return irqOff
}

// UnlockIRQRestore releases the lock and restores the interrupt flag.
func (l *SpinLock) UnlockIRQRestore(t *sched.Task, irqOff bool) {
	t.C.Point(x86.OpUnlock, l.obj)
	released(t, l.obj)
	l.time = t.C.Now()
	l.w.Release(t.C, l.obj)
	t.C.IRQRestore(irqOff)
	t.PreemptEnable()
}

// LockIRQ disables interrupts, which must be enabled, and takes the lock.
func (l *SpinLock) LockIRQ(t *sched.Task) {
	t.C.IRQDisable()
	l.lock(t, how{})
}

// UnlockIRQ releases the lock and enables interrupts.
func (l *SpinLock) UnlockIRQ(t *sched.Task) { l.UnlockIRQRestore(t, false) }

// Locked reports whether somebody holds the lock: for invariants and contention
// checks, not for synchronisation.
func (l *SpinLock) Locked() bool { return l.w.Locked() }

// Contended reports whether somebody spins on the lock (spin_is_contended): a
// hint for holders who could let go, without a point.
func (l *SpinLock) Contended() bool { return l.waiters.Peek() > 0 }

// AssertHeld stops the machine if the task does not hold the lock.
func (l *SpinLock) AssertHeld(t *sched.Task) {
	if !holds(t, l.obj) {
		t.Oops("%s must be held", Namer(l.obj.ID()))
	}
}
