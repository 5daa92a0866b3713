package blk

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// unplugThresh is how many requests may wait behind the plug before the queue
// unplugs itself (q->unplug_thresh).
const unplugThresh = 4

// request is a contiguous range of sectors, made of one bio or several
// (struct request). While it is being served it is its own device event: see
// dma.go.
type request struct {
	dev     *Device
	obj     x86.ObjID // names the request in reports; immutable
	dir     Dir
	sector  uint64
	sectors uint64
	segs    int
	bios    *Bio // in the order of the sectors, linked by Bio.link
	biotail *Bio
	cpu     int // who is interrupted at the end: where the first bio was submitted, if the device does not say

	next, prev *request // the elevator's list; protected by the queue lock

	flight // what the device knows; the device's while the request is served
}

// requestQueue is struct request_queue with the noop elevator.
type requestQueue struct {
	dev  *Device
	lock lock.SpinLock // irq-safe

	// Immutable.
	maxSectors  int  // of a request, in units of 512 bytes
	maxSegments int  // physically contiguous pieces of a request
	maxRequests int  // allocated for each direction (q->nr_requests)
	depth       int  // served at once
	nonrot      bool // requests are never held back by the plug

	// Protected by lock.
	head, tail *request
	queued     int
	inFlight   int
	lastMerge  *request      // hint, as q->last_merge
	allocated  [2]x86.Word32 // requests by direction; changed under lock, read without

	plugged x86.Word32     // changed under lock, read without
	plugObj x86.ObjID      // immutable
	wait    lock.WaitQueue // for requests to become free
}

func (q *requestQueue) init(dev *Device) {
	m := dev.sys.m
	q.dev = dev
	q.lock.Init(m, lock.Queue)
	q.wait.Init(m)
	q.plugObj = m.NewObj(x86.ClassWord)
}

// makeRequest puts a bio into the queue (__make_request).
func (q *requestQueue) makeRequest(t *sched.Task, b *Bio) {
	q.lock.LockIRQ(t)
	if !q.merge(t, b) {
		for int(q.allocated[b.Dir].Peek()) >= q.maxRequests {
			q.waitRequest(t, b.Dir)
		}
		q.account(t, b.Dir, 1)
		r := q.dev.sys.allocRequest(t, q.dev, b)
		if q.head == nil && !q.nonrot {
			q.setPlugged(t, 1)
		}
		q.insert(r)
	}
	if b.Sync || q.nonrot || q.queued >= unplugThresh {
		q.unplug(t)
	}
	q.lock.UnlockIRQ(t)
}

// waitRequest lets the queue work until a request of the direction is free
// (get_request_wait). The lock is dropped meanwhile.
func (q *requestQueue) waitRequest(t *sched.Task, d Dir) {
	q.unplug(t)
	q.lock.UnlockIRQ(t)
	q.wait.WaitEvent(t, func() bool {
		t.C.Touch(q.allocatedObj(), x86.AccRead)
		return int(q.allocated[d].Peek()) < q.maxRequests
	})
	q.lock.LockIRQ(t)
}

// account counts requests of a direction. The queue lock is held.
func (q *requestQueue) account(t *sched.Task, d Dir, n int32) {
	t.C.Touch(q.allocatedObj(), x86.AccAdd)
	q.allocated[d].Poke(q.allocated[d].Peek() + n)
}

// allocatedObj names allocated, which waitRequest looks at without the lock.
func (q *requestQueue) allocatedObj() x86.ObjID { return q.plugObj | 1<<40 }

// setPlugged sets or removes the plug, which Unplug looks at without the lock. The queue lock is held.
func (q *requestQueue) setPlugged(t *sched.Task, to int32) {
	if q.plugged.Peek() != to {
		t.C.Touch(q.plugObj, x86.AccWrite)
		q.plugged.Poke(to)
	}
}

// insert appends a request (noop_add_request).
func (q *requestQueue) insert(r *request) {
	r.prev, r.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = r
	} else {
		q.head = r
	}
	q.tail = r
	q.queued++
	if q.lastMerge == nil {
		q.lastMerge = r
	}
}

// remove takes a request off the list.
func (q *requestQueue) remove(r *request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		q.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		q.tail = r.prev
	}
	r.next, r.prev = nil, nil
	q.queued--
	if q.lastMerge == r {
		q.lastMerge = nil
	}
}

// merge tries to make a bio part of a waiting request (elv_merge and its user).
// A back merge is looked for among all requests, a front merge only with the
// request that was last merged or inserted: the noop elevator has no index by
// first sector.
func (q *requestQueue) merge(t *sched.Task, b *Bio) bool {
	if r := q.lastMerge; r != nil {
		if r.dir == b.Dir && r.sector+r.sectors == b.Sector && q.backMerge(t, r, b) {
			return true
		}
		if r.dir == b.Dir && b.End() == r.sector && q.frontMerge(t, r, b) {
			return true
		}
	}
	for r := q.tail; r != nil; r = r.prev {
		if r.dir == b.Dir && r.sector+r.sectors == b.Sector {
			return q.backMerge(t, r, b)
		}
	}
	return false
}

// fits reports whether a request may grow by so much (ll_back_merge_fn).
func (q *requestQueue) fits(r *request, sectors uint64, segs int) bool {
	return r.sectors+sectors <= uint64(q.maxSectors) && r.segs+segs <= q.maxSegments
}

func (q *requestQueue) backMerge(t *sched.Task, r *request, b *Bio) bool {
	if !q.fits(r, b.Sectors(), b.segs) {
		return false
	}
	r.biotail.link = b
	r.biotail = b
	r.sectors += b.Sectors()
	r.segs += b.segs
	t.C.Trace.Inc(trace.EmuBioMerges)
	if r.next == nil || !q.attemptMerge(t, r, r.next) {
		q.lastMerge = r
	}
	return true
}

func (q *requestQueue) frontMerge(t *sched.Task, r *request, b *Bio) bool {
	if !q.fits(r, b.Sectors(), b.segs) {
		return false
	}
	b.link = r.bios
	r.bios = b
	r.sector = b.Sector
	r.sectors += b.Sectors()
	r.segs += b.segs
	t.C.Trace.Inc(trace.EmuBioMerges)
	if r.prev == nil || !q.attemptMerge(t, r.prev, r) {
		q.lastMerge = r
	}
	return true
}

// attemptMerge joins two neighbours of the list if they have become neighbours
// on the device (attempt_merge).
func (q *requestQueue) attemptMerge(t *sched.Task, r, next *request) bool {
	if r.dir != next.dir || r.sector+r.sectors != next.sector || !q.fits(r, next.sectors, next.segs) {
		return false
	}
	r.biotail.link = next.bios
	r.biotail = next.biotail
	r.sectors += next.sectors
	r.segs += next.segs
	q.remove(next)
	q.lastMerge = r
	q.account(t, next.dir, -1)
	q.dev.sys.freeRequest(t, next)
	t.C.Trace.Inc(trace.EmuBioMerges)
	return true
}

// unplug removes the plug and lets the device have what it can take
// (__generic_unplug_device).
//
// Preconditions:
//   - the queue lock is held
func (q *requestQueue) unplug(t *sched.Task) {
	q.lock.AssertHeld(t)
	q.setPlugged(t, 0)
	q.run(t)
}

// run is the driver's request function: it starts requests in order while the
// device accepts them.
//
// Preconditions:
//   - the queue lock is held
func (q *requestQueue) run(t *sched.Task) {
	for q.plugged.Peek() == 0 && q.head != nil && q.inFlight < q.depth {
		r := q.head
		q.remove(r)
		q.inFlight++
		t.C.Point(x86.OpEvent, r.obj)
		q.dev.start(r)
	}
}

// Unplug lets the device begin with what has been submitted
// (blk_run_address_space).
func (s *System) Unplug(t *sched.Task, dev *Device) {
	q := &dev.q
	if q.plugged.Load(t.C, q.plugObj) == 0 {
		return
	}
	q.lock.LockIRQ(t)
	q.unplug(t)
	q.lock.UnlockIRQ(t)
}

// allocRequest makes a request of one bio (init_request_from_bio).
func (s *System) allocRequest(t *sched.Task, dev *Device, b *Bio) *request {
	c := &s.cpus[t.C.ID]
	r := c.requests
	if r != nil {
		c.requests = r.next
		r.next = nil
	} else {
		r = &request{obj: s.m.NewObj(x86.ClassDev)}
	}
	r.dev, r.dir, r.cpu = dev, b.Dir, dev.irqCPU
	if r.cpu < 0 {
		r.cpu = t.C.ID
	}
	r.sector, r.sectors, r.segs = b.Sector, b.Sectors(), b.segs
	r.bios, r.biotail = b, b
	return r
}

func (s *System) freeRequest(t *sched.Task, r *request) {
	r.dev, r.bios, r.biotail, r.prev = nil, nil, nil, nil
	c := &s.cpus[t.C.ID]
	r.next = c.requests
	c.requests = r
}
