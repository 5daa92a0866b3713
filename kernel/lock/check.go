package lock

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// how says in which way a lock is taken, for the checker.
type how struct {
	read   bool
	nested bool
	try    bool // a trylock cannot deadlock, so order does not matter
}

// acquired enters a lock into the task's stack and checks the order against
// everything the task holds. A violation is an oops: the schedule need not
// actually deadlock for it to be found.
func acquired(t *sched.Task, obj x86.ObjID, h how) {
	t.Acquired(obj)
	if t.M.CheckLocks() {
		checkAcquired(t, obj, h)
	}
}

func checkAcquired(t *sched.Task, obj x86.ObjID, h how) {
	c := ClassOf(obj)
	o := theOrder
	if !h.try {
		// What the interrupted code holds is no matter: its locks are never taken
		// in handlers, which is checked below.
		for i := t.HeldAtIRQ; i < t.NumHeld; i++ {
			held := &t.Held[i]
			hc := Class(held.Class)
			switch {
			case hc == c:
				if !(h.nested && o.nested[c]) && !(h.read && held.Read) {
					t.Oops("lock order: two locks of class %s without nesting", c)
				}
			case !o.before[hc][c]:
				t.Oops("lock order: %s taken while %s is held; order.txt does not allow it", c, hc)
			}
		}
	}
	if o.irq[c] {
		if !t.InIRQ() && !t.C.IRQsDisabled() {
			t.Oops("irq-unsafe: %s is taken in interrupt handlers, but here with interrupts enabled", c)
		}
	} else if t.InIRQ() && c != NoClass {
		t.Oops("irq-unsafe: %s taken in an interrupt handler, but its class is not interrupt-safe", c)
	}
	if t.NumHeld == len(t.Held) {
		t.Oops("too many locks held")
	}
	t.Held[t.NumHeld] = sched.HeldLock{Obj: obj, Class: uint8(c), Read: h.read, Name: c.String()}
	t.NumHeld++
}

// released takes a lock off the task's stack. Releasing what one does not hold is
// an oops, unless the class allows another task to release.
func released(t *sched.Task, obj x86.ObjID) {
	if t.M.CheckLocks() {
		checkReleased(t, obj)
	}
}

func checkReleased(t *sched.Task, obj x86.ObjID) {
	for i := t.NumHeld - 1; i >= 0; i-- {
		if t.Held[i].Obj == obj {
			copy(t.Held[i:], t.Held[i+1:t.NumHeld])
			t.NumHeld--
			t.Held[t.NumHeld] = sched.HeldLock{}
			return
		}
	}
	if !theOrder.nonowner[ClassOf(obj)] {
		t.Oops("%s released by a task that does not hold it", Namer(obj.ID()))
	}
}

// disowned takes a lock off the task's stack that somebody else will release.
func disowned(t *sched.Task, obj x86.ObjID) {
	if t.M.CheckLocks() && !theOrder.nonowner[ClassOf(obj)] {
		t.Oops("%s may not be released by another task", Namer(obj.ID()))
	}
	released(t, obj)
}

// holds reports whether the task holds the lock. Without the checker it says yes.
func holds(t *sched.Task, obj x86.ObjID) bool {
	if !t.M.CheckLocks() {
		return true
	}
	for i := range t.NumHeld {
		if t.Held[i].Obj == obj {
			return true
		}
	}
	return false
}

func newObj(m *sched.Machine, c Class) x86.ObjID {
	return m.NewObj(x86.ClassLock) | x86.ObjID(c)<<classShift
}
