package kernel

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Locks of user programs, as a C library makes them from locked instructions and
// futexes. Their words are emulated memory: fork copies them, an unmapped one kills
// the process, and their page faults and cache lines count like any other.

// The sizes in bytes of what stands at the Addr of each.
const (
	MutexSize   = 4
	CondSize    = 4
	BarrierSize = 8
)

// Mutex is a lock of a user program: a pthread_mutex_t of the default kind. The word
// at Addr is 0 while the mutex is free, 1 while somebody holds it, and 2 if others may
// wait (the third algorithm of U. Drepper, "Futexes Are Tricky").
//
// A Mutex only holds the address and may be copied; who has the same Addr in the same
// address space has the same mutex. Memory that is all zero is a free one.
type Mutex struct {
	// Addr is the address of the word, a multiple of 4.
	Addr uint64
	// Shared is set if several processes use it, in memory that they share
	// (PTHREAD_PROCESS_SHARED).
	Shared bool
}

func futexFlags(shared bool) FutexFlags {
	if shared {
		return FutexShared
	}
	return 0
}

// Lock takes the mutex. It is not recursive.
func (m *Mutex) Lock(t *Thread) {
	if t.CAS32(m.Addr, 0, 1) == 0 {
		return
	}
	m.lockContended(t)
}

// lockContended takes the mutex on behalf of somebody who may not be the only one to
// wait.
func (m *Mutex) lockContended(t *Thread) {
	for t.Xchg32(m.Addr, 2) != 0 {
		_ = t.FutexWait(m.Addr, 2, 0, futexFlags(m.Shared)) // EAGAIN and EINTR: look again
	}
}

// TryLock takes the mutex if it is free, and reports whether it did.
func (m *Mutex) TryLock(t *Thread) bool { return t.CAS32(m.Addr, 0, 1) == 0 }

// Unlock frees the mutex, which the thread must hold.
func (m *Mutex) Unlock(t *Thread) {
	if t.Xchg32(m.Addr, 0) == 2 {
		_, _ = t.FutexWake(m.Addr, 1, futexFlags(m.Shared))
	}
}

// Cond is a condition variable of a user program. The word at Addr counts signals;
// waiting is sleeping for as long as it does not change. Memory that is all zero is
// one that nobody waits for. Waiters must re-test their condition: they may wake
// without a signal.
type Cond struct {
	// Addr is the address of the word, a multiple of 4.
	Addr uint64
	// Shared is as in Mutex.
	Shared bool
}

// Wait frees mu, sleeps until a Signal or Broadcast, and takes mu again.
func (c *Cond) Wait(t *Thread, mu *Mutex) { _ = c.TimedWait(t, mu, 0) }

// TimedWait is Wait that gives up with ETIMEDOUT after ns virtual nanoseconds; 0 is
// never. mu is held when it returns, in any case.
func (c *Cond) TimedWait(t *Thread, mu *Mutex, ns uint64) error {
	seq := t.Load32(c.Addr)
	mu.Unlock(t)
	err := t.FutexWait(c.Addr, seq, ns, futexFlags(c.Shared))
	mu.lockContended(t)
	if errors.Is(err, unix.ETIMEDOUT) {
		return err
	}
	return nil
}

// Signal wakes a waiter, if there is one.
func (c *Cond) Signal(t *Thread) {
	t.Add32(c.Addr, 1)
	_, _ = t.FutexWake(c.Addr, 1, futexFlags(c.Shared))
}

// Broadcast wakes all waiters.
func (c *Cond) Broadcast(t *Thread) {
	t.Add32(c.Addr, 1)
	_, _ = t.FutexWake(c.Addr, int(^uint(0)>>1), futexFlags(c.Shared))
}

// Barrier lets N threads wait for each other, again and again. The word at Addr
// counts those that have arrived, the next one the rounds. Memory that is all zero
// is a barrier that nobody waits for.
type Barrier struct {
	// Addr is the address of the two words, a multiple of 4.
	Addr uint64
	// N is how many threads meet.
	N uint32
	// Shared is as in Mutex.
	Shared bool
}

// Wait waits until N threads have called it. One of them, the last to come, is told
// so (PTHREAD_BARRIER_SERIAL_THREAD).
func (b *Barrier) Wait(t *Thread) (last bool) {
	round := b.Addr + 4
	r := t.Load32(round)
	if t.Add32(b.Addr, 1) == b.N {
		t.Store32(b.Addr, 0)
		t.Add32(round, 1)
		_, _ = t.FutexWake(round, int(b.N), futexFlags(b.Shared))
		return true
	}
	for t.Load32(round) == r {
		_ = t.FutexWait(round, r, 0, futexFlags(b.Shared))
	}
	return false
}
