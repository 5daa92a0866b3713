package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// What an allocation does when there is less free memory than pages_low: Linux
// 2.6.29 mm/page_alloc.c:__alloc_pages_internal from "restart" on.
//
//	restart    wake kswapd, look once more, deeper into the reserves
//	rebalance  who frees memory, or is dying, may have the last page
//	           reclaim --freed something--> look again, nap, rebalance
//	                   --freed nothing----> one task at a time: look at pages_high, kill
//	                                        somebody, restart

// How deep an allocation may go below its watermark (ALLOC_HIGH and so on).
const (
	allocHigh         = 1 << iota // half of it
	allocHarder                   // a quarter of it
	allocNoWatermarks             // to the last page
)

const (
	// costlyOrder is the order up to which allocations that may sleep are tried
	// again as long as there is a chance (PAGE_ALLOC_COSTLY_ORDER).
	costlyOrder = 3
	// retryNap is how long an allocation waits for a write to end before it tries
	// again (HZ/50).
	retryNap = 20_000_000
	// jiffy is how long a task waits while another one is at the OOM killer.
	jiffy = 4_000_000
)

// allocSlow is the slow path of Alloc.
func (m *Map) allocSlow(t *sched.Task, gfp GFP, order int) *Page {
	harder := 0
	if gfp&GFPWait == 0 {
		harder |= allocHarder
	}
	if gfp&GFPHigh != 0 {
		harder |= allocHigh
	}
	reclaimed := uint64(0)
	for first := true; ; first = false {
		if !first {
			if p := m.fromFreelist(t, gfp, order, wmarkLow, 0); p != nil {
				return p
			}
		}
		if m.WakeKswapd != nil {
			m.WakeKswapd(t, order)
		}
		if p := m.fromFreelist(t, gfp, order, wmarkMin, harder); p != nil {
			return p
		}
		p, restart := m.rebalance(t, gfp, order, harder, &reclaimed)
		if !restart {
			if p == nil {
				return m.allocFailed(t, gfp, order)
			}
			return p
		}
	}
}

// rebalance frees memory until the allocation succeeds or is hopeless. It returns
// restart if somebody was killed, or is being killed by another task.
func (m *Map) rebalance(t *sched.Task, gfp GFP, order, harder int, reclaimed *uint64) (p *Page, restart bool) {
	for {
		if !t.InIRQ() && (gfp&GFPMemalloc != 0 || m.Memalloc != nil && m.Memalloc(t)) {
			return m.allocLast(t, gfp, order), false
		}
		if gfp&GFPWait == 0 {
			return nil, false
		}
		t.CondResched()
		t.C.Trace.Inc(trace.AllocStall)
		got := uint64(0)
		if m.Reclaim != nil {
			got = m.Reclaim(t, gfp, order)
		}
		t.CondResched()
		if order > 0 {
			m.DrainLocalPages(t)
		}
		if got > 0 {
			if p := m.fromFreelist(t, gfp, order, wmarkMin, harder); p != nil {
				return p, false
			}
		} else if gfp&GFPFS != 0 && gfp&GFPNoRetry == 0 && m.OutOfMemory != nil {
			return m.lastResort(t, gfp, order)
		}
		*reclaimed += got
		retry := gfp&GFPNoFail != 0 || gfp&GFPNoRetry == 0 &&
			(order <= costlyOrder || gfp&GFPRepeat != 0 && *reclaimed < 1<<order)
		if !retry || got == 0 && m.OutOfMemory == nil {
			return nil, false
		}
		m.CongestionWait(t, retryNap)
	}
}

// allocLast is for who frees memory or is dying: it ignores the watermarks, and
// never reclaims. What may not fail waits for a write to end and looks again.
func (m *Map) allocLast(t *sched.Task, gfp GFP, order int) *Page {
	for gfp&GFPNoMemalloc == 0 {
		p := m.fromFreelist(t, gfp, order, wmarkMin, allocNoWatermarks)
		if p != nil || gfp&GFPNoFail == 0 || gfp&GFPWait == 0 {
			return p
		}
		m.CongestionWait(t, retryNap)
	}
	return nil
}

// lastResort calls the OOM killer, unless another task is there (try_set_zone_oom), or
// memory has come back meanwhile: the watermark is the high one, so that only a real
// shortage kills somebody.
func (m *Map) lastResort(t *sched.Task, gfp GFP, order int) (p *Page, restart bool) {
	if !m.oomLocked.CAS(t.C, m.oomObj, 0, 1) {
		m.SleepUninterruptible(t, jiffy)
		return nil, true
	}
	p = m.fromFreelist(t, gfp, order, wmarkHigh, 0)
	if p == nil && order <= costlyOrder {
		restart = m.OutOfMemory(t, gfp, order)
	}
	m.oomLocked.Store(t.C, m.oomObj, 0)
	return p, restart
}

func (m *Map) allocFailed(t *sched.Task, gfp GFP, order int) *Page {
	if gfp&GFPNoFail != 0 {
		t.Oops("page allocation failure: order %d, gfp %v, %d pages free", order, gfp, m.FreePages())
	}
	return nil
}

// congestion is who waits for writes to end (congestion_wqh[WRITE]), and the one
// place at the OOM killer (ZONE_OOM_LOCKED of all zones).
type congestion struct {
	writes    lock.WaitQueue
	oomLocked x86.Word32 // 1 while a task is there; atomic
	oomObj    x86.ObjID  // names oomLocked; immutable
}

func (w *congestion) init(m *sched.Machine) {
	w.writes.Init(m)
	w.oomObj = m.NewObj(x86.ClassWord)
}

// CongestionWait sleeps until a write has ended on a device that can take more, or ns
// have passed: Linux 2.6.29 mm/backing-dev.c:congestion_wait. Signals do not end it.
func (m *Map) CongestionWait(t *sched.Task, ns uint64) {
	tm := t.StartTimer(ns)
	m.writes.Prepare(t, sched.TaskUninterruptible)
	if !tm.Expired() {
		t.Schedule()
	}
	m.writes.Finish(t)
	tm.Cancel()
}

// WriteEnded wakes whoever is in CongestionWait (clear_bdi_congested). A block device
// calls it when a write request is over and few enough are left. It may be called in
// interrupt context.
func (m *Map) WriteEnded(t *sched.Task) {
	if m.writes.Active(t.C) {
		m.writes.Wake(t)
	}
}

// SleepUninterruptible sleeps for ns, signals or not: schedule_timeout_uninterruptible.
func (m *Map) SleepUninterruptible(t *sched.Task, ns uint64) {
	tm := t.StartTimer(ns)
	t.SetState(sched.TaskUninterruptible)
	for !tm.Expired() {
		t.Schedule()
		t.SetState(sched.TaskUninterruptible)
	}
	t.SetState(sched.TaskRunning)
}
