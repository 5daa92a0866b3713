package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// The sizes of Linux 2.6.29 include/linux/aio_abi.h.
const (
	ringHeader = 32 // struct aio_ring
	eventSize  = 32 // struct io_event
	// aioMaxNr is how many requests all contexts together may have (fs.aio-max-nr).
	aioMaxNr = 0x10000
)

// ContextID is what a program has of a context: aio_context_t, never 0.
type ContextID uint64

// IOEvent is the end of a request: struct io_event.
type IOEvent struct {
	// Data and Obj are those of the IOCB.
	Data, Obj uint64
	// Res is the number of bytes transferred, or a negative errno. Res2 is 0.
	Res, Res2 int64
}

// Kioctx is a context for asynchronous requests: struct kioctx.
type Kioctx struct {
	fs *System
	// ID and MM are immutable. The context keeps the MM's structure, not its mappings.
	ID ContextID
	MM *mm.MM

	lock       lock.SpinLock // ctx_lock; irq-safe
	wait       lock.WaitQueue
	maxReqs    int       // as asked for; immutable
	ring       []IOEvent // one place is always empty; protected by lock
	head, tail int       // protected by lock
	reqsActive int       // submitted and not yet put; protected by lock
	dead       bool      // protected by lock
}

// aioState is the contexts of a machine.
type aioState struct {
	lock lock.SpinLock // stands for mm->ioctx_lock and aio_nr_lock
	all  []*Kioctx     // protected by lock
	last ContextID     // protected by lock
	nr   int           // sum of maxReqs; protected by lock
}

func (a *aioState) init(s *System) { a.lock.Init(s.m, lock.AioRing) }

// IoSetup makes a context for at least nr requests of the calling task's address
// space (io_setup). Errors: EINVAL (nr is 0 or absurd), EAGAIN (too many in the
// machine).
//
// As in 2.6.29 the ring is rounded up to whole pages: 126 requests are the least a
// context holds.
func (s *System) IoSetup(t *sched.Task, nr uint32) (ContextID, error) {
	if nr == 0 || nr > 0x10000000/eventSize {
		return 0, unix.EINVAL
	}
	if nr > aioMaxNr {
		return 0, unix.EAGAIN
	}
	if s.pages.FailSite(t, "kioctx") || s.pages.FailSite(t, "aio_setup_ring") {
		return 0, unix.ENOMEM
	}
	c := &Kioctx{fs: s, MM: s.mem.currentMM(t), maxReqs: int(nr)}
	c.lock.Init(s.m, lock.AioCtx)
	c.wait.Init(s.m)
	bytes := ringHeader + eventSize*(uint64(nr)+2)
	bytes = (bytes + x86.PageSize - 1) & x86.PageMask
	c.ring = make([]IOEvent, (bytes-ringHeader)/eventSize)
	a := &s.aio
	a.lock.Lock(t)
	if a.nr+c.maxReqs > aioMaxNr {
		a.lock.Unlock(t)
		return 0, unix.EAGAIN
	}
	a.nr += c.maxReqs
	a.last++
	c.ID = a.last
	a.all = append(a.all, c)
	a.lock.Unlock(t)
	if c.MM != nil {
		c.MM.MMGrab(t)
	}
	return c.ID, nil
}

// lookup finds a context of the calling task's address space (lookup_ioctx); nil
// if there is none.
func (s *System) lookup(t *sched.Task, id ContextID) *Kioctx {
	m := s.mem.currentMM(t)
	var found *Kioctx
	s.aio.lock.Lock(t)
	for _, c := range s.aio.all {
		if c.ID == id && c.MM == m {
			found = c
			break
		}
	}
	s.aio.lock.Unlock(t)
	return found
}

// Contexts returns the ids of an address space's contexts.
func (s *System) Contexts(t *sched.Task, m *mm.MM) []ContextID {
	var ids []ContextID
	s.aio.lock.Lock(t)
	for _, c := range s.aio.all {
		if c.MM == m {
			ids = append(ids, c.ID)
		}
	}
	s.aio.lock.Unlock(t)
	return ids
}

// IoDestroy ends a context once its outstanding requests have completed, which it
// waits for (io_destroy). Who waits for events of it gets EINVAL. The only error
// is EINVAL: no such context.
func (s *System) IoDestroy(t *sched.Task, id ContextID) error {
	c := s.lookup(t, id)
	if c == nil || !s.forget(t, c) {
		return unix.EINVAL
	}
	s.destroy(t, c)
	return nil
}

// ExitAIO ends all contexts of an address space, as mmput does before it takes the
// mappings down (exit_aio). It waits for their requests.
func (s *System) ExitAIO(t *sched.Task, m *mm.MM) {
	for {
		var c *Kioctx
		s.aio.lock.Lock(t)
		for _, o := range s.aio.all {
			if o.MM == m {
				c = o
				break
			}
		}
		s.aio.lock.Unlock(t)
		if c == nil {
			return
		}
		if s.forget(t, c) {
			s.destroy(t, c)
		}
	}
}

// forget takes a context off the list, so that nobody finds it any more; false if
// somebody else was faster.
func (s *System) forget(t *sched.Task, c *Kioctx) bool {
	a := &s.aio
	a.lock.Lock(t)
	for i, o := range a.all {
		if o == c {
			a.all = append(a.all[:i], a.all[i+1:]...)
			a.nr -= c.maxReqs
			a.lock.Unlock(t)
			return true
		}
	}
	a.lock.Unlock(t)
	return false
}

// destroy waits for a forgotten context's requests (wait_for_all_aios) and wakes
// who waits for its events.
func (s *System) destroy(t *sched.Task, c *Kioctx) {
	c.lock.LockIRQ(t)
	t.WriteOf(c, "ioctx")
	c.dead = true
	for c.reqsActive > 0 {
		c.wait.Prepare(t, sched.TaskUninterruptible)
		c.lock.UnlockIRQ(t)
		t.Schedule()
		c.lock.LockIRQ(t)
		t.WriteOf(c, "ioctx")
	}
	c.lock.UnlockIRQ(t)
	c.wait.Finish(t)
	c.wait.Wake(t)
	if c.MM != nil {
		c.MM.MMDrop(t)
	}
}

// room returns how many more events the ring could take (aio_ring_avail).
func (c *Kioctx) room() int { return (len(c.ring) + c.head - 1 - c.tail) % len(c.ring) }

// IoGetevents fetches up to len(events) events, waiting until there are minNr
// (io_getevents). timeout is in ns of virtual time, nil is for ever. When time is up
// it returns what there is, perhaps 0.
//
// Errors, if no event was fetched: EINVAL (no such context, or it was destroyed
// meanwhile; minNr negative or above len(events)), EINTR.
func (s *System) IoGetevents(t *sched.Task, id ContextID, minNr int, events []IOEvent, timeout *uint64) (int, error) {
	c := s.lookup(t, id)
	if c == nil || minNr < 0 || minNr > len(events) {
		return 0, unix.EINVAL
	}
	n := 0
	for n < len(events) && c.read(t, &events[n]) {
		n++
	}
	if n >= minNr {
		return n, nil
	}
	var timer *sched.Timer
	timedOut := timeout != nil && *timeout == 0
	if timeout != nil && !timedOut {
		timer = t.StartTimer(*timeout)
	}
	var err error
	for n < len(events) {
		c.wait.Prepare(t, sched.TaskInterruptible)
		if c.read(t, &events[n]) {
			n++
			continue
		}
		if n >= minNr {
			break
		}
		if c.isDead(t) {
			err = unix.EINVAL
			break
		}
		if timedOut || timer != nil && timer.Expired() {
			break
		}
		if t.SignalPending() {
			err = unix.EINTR
			break
		}
		t.Schedule()
	}
	c.wait.Finish(t)
	if timer != nil {
		timer.Cancel()
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

// read takes the oldest event off the ring (aio_read_evt).
func (c *Kioctx) read(t *sched.Task, e *IOEvent) bool {
	c.lock.LockIRQ(t)
	t.WriteOf(c, "ioctx")
	ok := c.head != c.tail
	if ok {
		*e = c.ring[c.head]
		c.head = (c.head + 1) % len(c.ring)
	}
	c.lock.UnlockIRQ(t)
	return ok
}

func (c *Kioctx) isDead(t *sched.Task) bool {
	c.lock.LockIRQ(t)
	t.WriteOf(c, "ioctx")
	dead := c.dead
	c.lock.UnlockIRQ(t)
	return dead
}
