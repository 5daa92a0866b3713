package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Futexes: Linux 2.6.29 kernel/futex.c, as far as FUTEX_WAIT and FUTEX_WAKE go.
//
//	waiter                              waker
//	lock bucket                         store to the word
//	word == val?  no: EAGAIN            lock bucket
//	queue, unlock                       take waiters of the key off the queue
//	sleep                               unlock, wake them
//
// The word is compared under the bucket's lock, so a wake-up that follows the store
// finds the waiter or the waiter finds the store.

// futexBuckets is the number of queues that keys are hashed to, a power of two.
const futexBuckets = 16

// futexKey names a futex word. Of private futexes it is the address space and the
// address; of shared ones what is mapped there and the offset in it.
type futexKey struct {
	space   *mm.MM
	mapping *mm.AddressSpace
	off     uint64
	// shared tells a word that was looked up with FutexShared from the same word looked up
	// without: they do not meet (FUT_OFF_MMSHARED).
	shared bool
}

// futexBucket is a queue of waiters, first come first served.
type futexBucket struct {
	lock       lock.SpinLock
	head, tail *futexWaiter // protected by lock
}

// futexWaiter is a thread's place in a queue (futex_q).
type futexWaiter struct {
	t          *Thread  // immutable
	key        futexKey // protected by the bucket's lock
	next, prev *futexWaiter
	queued     bool // protected by the bucket's lock
	// woken is set by the waker, under the bucket's lock. Atomic.
	woken x86.Word32
}

func (b *futexBucket) push(w *futexWaiter) {
	w.queued, w.next, w.prev = true, nil, b.tail
	if b.tail != nil {
		b.tail.next = w
	} else {
		b.head = w
	}
	b.tail = w
}

func (b *futexBucket) remove(w *futexWaiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		b.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		b.tail = w.prev
	}
	w.queued, w.next, w.prev = false, nil, nil
}

// bucket returns the queue of a key (hash_futex). The hash is of numbers that are
// the same in every run.
func (m *Machine) bucket(k futexKey) *futexBucket {
	h := k.off >> 2
	if k.space != nil {
		h += uint64(k.space.ID) * 0x9e3779b97f4a7c15
	}
	h ^= h>>32 ^ h>>12
	return &m.futexes[h%futexBuckets]
}

// FutexFlags say how a futex operation is to be done.
type FutexFlags uint32

// FutexShared is for words in memory that several processes share; they are then
// known by what is mapped and not by their address. Without it a futex is private to
// the process (FUTEX_PRIVATE_FLAG), which is quicker.
const FutexShared FutexFlags = 1

// FutexWait sleeps until a FutexWake of the word at addr, if the word is val:
// FUTEX_WAIT. A timeout of 0 is none; else it is in virtual nanoseconds.
//
// Errors: EAGAIN if the word is not val, EINTR if a signal handler ran, ETIMEDOUT,
// EFAULT if the word cannot be read, EINVAL if addr is not a multiple of 4.
func (t *Thread) FutexWait(addr uint64, val uint32, timeoutNS uint64, f FutexFlags) error {
	task := t.enter(SysFutex, addr, 0)
	err := t.futexWait(task, addr, val, timeoutNS, f)
	t.leave(SysFutex, result(0, err))
	return err
}

func (t *Thread) futexWait(task *sched.Task, addr uint64, val uint32, timeoutNS uint64, f FutexFlags) error {
	if addr&3 != 0 {
		return unix.EINVAL
	}
	w := &t.fq
	var b *futexBucket
	for {
		key, err := t.futexKey(task, addr, f)
		if err != nil {
			return err
		}
		b = t.m.bucket(key)
		b.lock.Lock(task)
		v, ec := task.C.Load(addr, 4)
		if ec == x86.NoFault {
			if uint32(v) != val {
				b.lock.Unlock(task)
				key.put(task)
				return unix.EAGAIN
			}
			w.key = key
			w.woken.Poke(0)
			b.push(w)
			break
		}
		cr2 := task.C.CR2
		b.lock.Unlock(task)
		key.put(task)
		if _, ok := mm.DoPageFault(task, t.p.space, cr2, ec); !ok {
			return unix.EFAULT
		}
	}
	b.lock.Unlock(task)
	task.C.Trace.Inc(trace.EmuFutexWaits)
	err := t.futexSleep(task, b, timeoutNS)
	w.key.put(task)
	w.key = futexKey{}
	return err
}

// futexSleep waits for the waker, the timeout or a signal.
func (t *Thread) futexSleep(task *sched.Task, b *futexBucket, timeoutNS uint64) error {
	w := &t.fq
	var tm *sched.Timer
	if timeoutNS > 0 {
		tm = task.StartTimer(timeoutNS)
	}
	var err error
	for {
		task.SetState(sched.TaskInterruptible)
		if w.woken.Peek() != 0 {
			break
		}
		if task.SignalPending() {
			err = unix.EINTR
		} else if tm != nil && tm.Expired() {
			err = unix.ETIMEDOUT
		}
		if err != nil {
			break
		}
		task.WaitingOn(b.lock.Obj())
		task.Schedule()
	}
	task.SetState(sched.TaskRunning)
	if tm != nil {
		tm.Cancel()
	}
	if err == nil {
		return nil
	}
	// The waker may have been faster than the reason to give up (unqueue_me).
	b.lock.Lock(task)
	if w.queued {
		b.remove(w)
	} else {
		err = nil
	}
	b.lock.Unlock(task)
	return err
}

// FutexWake wakes at most n threads that wait for the word at addr, the longest
// waiting first, and returns how many: FUTEX_WAKE. Errors: EINVAL if addr is not a
// multiple of 4, EFAULT with FutexShared if nothing is mapped there.
func (t *Thread) FutexWake(addr uint64, n int, f FutexFlags) (int, error) {
	task := t.enter(SysFutex, addr, 1)
	woken, err := t.futexWake(task, addr, n, f)
	t.leave(SysFutex, result(int64(woken), err))
	return woken, err
}

func (t *Thread) futexWake(task *sched.Task, addr uint64, n int, f FutexFlags) (woken int, err error) {
	if addr&3 != 0 {
		return 0, unix.EINVAL
	}
	key, err := t.futexKey(task, addr, f)
	if err != nil {
		return 0, err
	}
	b := t.m.bucket(key)
	for woken < n {
		// A few at a time, so that nobody is woken under the lock.
		var few [8]*sched.Task
		k := 0
		b.lock.Lock(task)
		for w := b.head; w != nil && k < len(few) && woken+k < n; {
			next := w.next
			if w.key == key {
				b.remove(w)
				task.C.Touch(w.t.task.Obj(), x86.AccWrite) // SetState is the sleeper's half
				w.woken.Poke(1)
				few[k] = w.t.task
				k++
			}
			w = next
		}
		b.lock.Unlock(task)
		for _, s := range few[:k] {
			t.m.sched.Wake(task, s)
		}
		woken += k
		if k < len(few) {
			break
		}
	}
	key.put(task)
	task.C.Trace.Add(trace.EmuFutexWakes, uint64(woken))
	return woken, nil
}

// futexKey returns the key of the word at addr (get_futex_key), with a reference on what
// it names: an address space or an object stays while somebody waits there, mapped or not.
func (t *Thread) futexKey(task *sched.Task, addr uint64, f FutexFlags) (futexKey, error) {
	k := futexKey{space: t.p.space, off: addr}
	if f&FutexShared != 0 {
		as, index, err := mm.SharedFutexKey(task, addr)
		if err != nil {
			return futexKey{}, err
		}
		k.shared = true
		if as != nil {
			return futexKey{mapping: as, off: index<<x86.PageShift | addr&(x86.PageSize-1), shared: true}, nil
		}
	}
	k.space.MMGrab(task)
	return k, nil
}

// put drops the key's reference (put_futex_key). It may sleep.
func (k futexKey) put(task *sched.Task) {
	if k.mapping != nil {
		k.mapping.Put(task)
	} else if k.space != nil {
		k.space.MMDrop(task)
	}
}
