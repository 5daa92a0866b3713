package blk

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// pageTail is set in the Pages of a huge page but the first: their own count is zero.
const pageTail = page.Tail

// interrupt is the handler of the block vector (blk_done_softirq and the
// driver's handler in one): it ends every request on this CPU's done list.
func (s *System) interrupt(t *sched.Task) {
	for {
		r := s.takeDone(t.C.ID)
		if r == nil {
			return
		}
		s.endRequest(t, r)
	}
}

func (s *System) takeDone(cpu int) *request {
	c := &s.cpus[cpu]
	s.m.Touch(x86.CPUPartObj(cpu, x86.CPUDone), x86.AccWrite)
	c.doneLock.Lock()
	r := c.doneHead
	if r != nil {
		c.doneHead = r.next
		if c.doneHead == nil {
			c.doneTail = nil
		}
		r.next = nil
	}
	c.doneLock.Unlock()
	return r
}

// endRequest tells the owners of a request's bios, in the order of the sectors,
// and gives the device something else to do (blk_end_request, blk_run_queue).
//
// Preconditions:
//   - interrupts are off
func (s *System) endRequest(t *sched.Task, r *request) {
	q := &r.dev.q
	for b := r.bios; b != nil; {
		next := b.link
		b.link = nil
		b.end(t, b.Err)
		b = next
	}
	q.lock.Lock(t)
	q.inFlight--
	q.account(t, r.dir, -1)
	ended := r.dir == Write && int(q.allocated[Write].Peek()) < max(1, q.maxRequests-q.maxRequests/8-q.maxRequests/16-1)
	s.freeRequest(t, r)
	q.run(t)
	q.lock.Unlock(t)
	if ended { // below queue_congestion_off_threshold
		s.pages.WriteEnded(t)
	}
	if q.wait.Active(t.C) {
		q.wait.Wake(t)
	}
}
