package mm

import (
	"math"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Who reclaims, how much, and when: the other half of Linux 2.6.29 mm/vmscan.c.
//
//	free pages  high -------------------------------- kswapd sleeps
//	            low  ------- allocator wakes kswapd
//	            min  ------- the allocating task reclaims itself (try_to_free_pages)

// scanState is the reclaim of a machine. There is one node, and so one kswapd.
type scanState struct {
	lock  x86.RawSpin // host-level: making of the thread
	task  *sched.Task // kswapd, made at its first wake-up; protected by lock
	wait  lock.WaitQueue
	order x86.Word32 // largest order asked for (kswapd_max_order)
}

func (ks *scanState) init(s *System) {
	ks.wait.Init(s.M)
	s.Pages.Reclaim = s.tryToFreePages
	s.Pages.WakeKswapd = s.wakeupKswapd
	s.Pages.Memalloc = func(t *sched.Task) bool {
		ts := stateOf(t)
		return ts.memalloc || ts.mm != nil && ts.mm.Memdie()
	}
}

// zoneLRUPages is how many pages of zone z reclaim may look at (zone_lru_pages).
func (s *System) zoneLRUPages(z int) uint64 {
	n := uint64(0)
	for l := page.InactiveAnon; l <= page.ActiveFile; l++ {
		n += s.Pages.ZoneLRULen(z, l)
	}
	return n
}

// inactiveAnonIsLow reports whether more anonymous pages should be looked at: the
// larger the zone, the smaller the share of inactive ones may be
// (inactive_anon_is_low).
func (s *System) inactiveAnonIsLow(z int) bool {
	gb := s.Pages.ZonePages(z) >> (30 - x86.PageShift)
	ratio := max(1, uint64(math.Sqrt(float64(10*gb))))
	return s.Pages.ZoneLRULen(z, page.InactiveAnon)*ratio < s.Pages.ZoneLRULen(z, page.ActiveAnon)
}

// getScanRatio divides the work between anonymous memory and files, in per cent
// (get_scan_ratio): by vm.swappiness, and by how much of what was looked at on either
// side lately turned out to be in use.
func (s *System) getScanRatio(t *sched.Task, z int) (percent [2]uint64) {
	if s.swapFreePages(t) == 0 {
		return [2]uint64{0, 100}
	}
	pm := s.Pages
	n := [2]uint64{
		pm.ZoneLRULen(z, page.ActiveAnon) + pm.ZoneLRULen(z, page.InactiveAnon),
		pm.ZoneLRULen(z, page.ActiveFile) + pm.ZoneLRULen(z, page.InactiveFile),
	}
	if _, _, high := pm.ZoneWatermarks(z); n[1]+pm.ZoneFree(z) <= high {
		return [2]uint64{100, 0}
	}
	st := pm.ZoneStat(z)
	prio := [2]uint64{vmSwappiness, 200 - vmSwappiness}
	var p [2]uint64
	for i := range p {
		scanned, rotated := &st.Scanned[i], &st.Rotated[i]
		if v := scanned.Peek(); v > n[i]/4 {
			scanned.Poke(v / 2)
			rotated.Poke(rotated.Peek() / 2)
		}
		p[i] = (prio[i] + 1) * (scanned.Peek() + 1) / (rotated.Peek() + 1)
	}
	percent[0] = 100 * p[0] / (p[0] + p[1] + 1)
	percent[1] = 100 - percent[0]
	return percent
}

// shrinkZone looks at a part of each list of a zone that doubles with each step of the
// priority (shrink_zone).
func (s *System) shrinkZone(t *sched.Task, priority, z int, sc *scanControl) {
	pm := s.Pages
	percent := s.getScanRatio(t, z)
	st := pm.ZoneStat(z)
	var nr [page.UnevictableList]uint64
	for l := range nr {
		list := page.LRUList(l)
		n := pm.ZoneLRULen(z, list)
		if priority > 0 {
			n >>= priority
			file := 0
			if list.File() {
				file = 1
			}
			n = n * percent[file] / 100
		}
		// Work below a cluster is saved up (nr_scan_try_batch).
		if n += st.SavedScan[l].Peek(); n >= swapClusterMax {
			st.SavedScan[l].Poke(0)
			nr[l] = n
		} else {
			st.SavedScan[l].Poke(n)
		}
	}
	for nr[page.InactiveAnon]|nr[page.ActiveFile]|nr[page.InactiveFile] != 0 {
		for l := range nr {
			if nr[l] == 0 {
				continue
			}
			n := min(nr[l], swapClusterMax)
			nr[l] -= n
			sc.reclaimed += s.shrinkList(t, page.LRUList(l), int(n), z, sc)
		}
		if sc.reclaimed > swapClusterMax && priority < defPriority && !sc.kswapd {
			break
		}
	}
	if s.inactiveAnonIsLow(z) && s.swapFreePages(t) > 0 {
		s.shrinkActiveList(t, z, sc, swapClusterMax, page.ActiveAnon)
	}
	s.throttleVMWriteout(t, sc.gfp)
}

// shrinkList is shrink_list. Active anonymous pages are only aged while there are too
// few inactive ones; else the inactive ones are looked at once more.
func (s *System) shrinkList(t *sched.Task, l page.LRUList, n, z int, sc *scanControl) uint64 {
	switch l {
	case page.ActiveFile:
		s.shrinkActiveList(t, z, sc, n, l)
		return 0
	case page.ActiveAnon:
		if s.inactiveAnonIsLow(z) {
			s.shrinkActiveList(t, z, sc, n, l)
			return 0
		}
		l = page.InactiveAnon
	}
	return s.shrinkInactiveList(t, z, sc, n, l)
}

// scanControl returns the task's own, which nobody may be using.
func (ts *taskState) scanControl(t *sched.Task, gfp page.GFP, order int) *scanControl {
	sc := &ts.scan
	if sc.busy {
		t.Oops("reclaim within reclaim")
	}
	sc.gfp, sc.order, sc.kswapd, sc.mayUnmap, sc.busy = gfp, order, false, true, true
	sc.scanned, sc.reclaimed, sc.hopeless = 0, 0, false
	return sc
}

// tryToFreePages is direct reclaim: the allocating task frees memory itself
// (try_to_free_pages). It returns how many it freed. A task that reclaims already
// does not begin again.
func (s *System) tryToFreePages(t *sched.Task, gfp page.GFP, order int) uint64 {
	ts := stateOf(t)
	if ts.memalloc {
		return 0
	}
	ts.memalloc = true
	sc := ts.scanControl(t, gfp, order)
	t.C.Trace.Event(trace.EvReclaimBegin, t.C.Now(), uint64(order), uint64(gfp), 0)
	got, total := s.doTryToFreePages(t, sc)
	t.C.Trace.Event(trace.EvReclaimEnd, t.C.Now(), got, total, 0)
	sc.busy = false
	ts.memalloc = false
	if got > 0 {
		t.Progress()
	}
	return got
}

// doTryToFreePages is do_try_to_free_pages; the stall is counted by the allocator.
func (s *System) doTryToFreePages(t *sched.Task, sc *scanControl) (got, total uint64) {
	for priority := defPriority; priority >= 0; priority-- {
		sc.scanned = 0
		s.shrinkZones(t, priority, sc)
		total += sc.scanned
		if sc.reclaimed >= swapClusterMax {
			return sc.reclaimed, total
		}
		if sc.scanned > 0 && priority < defPriority-2 {
			s.Pages.CongestionWait(t, congestionNap)
		}
	}
	if !sc.hopeless {
		got = sc.reclaimed
	}
	return got, total
}

// shrinkZones is shrink_zones.
func (s *System) shrinkZones(t *sched.Task, priority int, sc *scanControl) {
	sc.hopeless = true
	for z := range s.Pages.NumZones() {
		if s.Pages.ZoneStat(z).Unreclaimable.Peek() != 0 && priority != defPriority {
			continue
		}
		sc.hopeless = false
		s.shrinkZone(t, priority, z, sc)
	}
}

// wakeupKswapd wakes kswapd if a zone is short (wakeup_kswapd). The thread is made when
// it is first needed: a machine with memory enough has no steps of it.
func (s *System) wakeupKswapd(t *sched.Task, order int) {
	short := false
	for z := range s.Pages.NumZones() {
		_, low, _ := s.Pages.ZoneWatermarks(z)
		short = short || !s.Pages.ZoneOK(t, z, order, low)
	}
	if !short {
		return
	}
	ks := &s.scan
	if int(ks.order.Peek()) < order {
		ks.order.Poke(int32(order))
	}
	ks.lock.Lock()
	made := ks.task == nil
	if made {
		ks.task = s.M.NewTask(sched.TaskOptions{Name: "kswapd0", Daemon: true}, s.kswapd)
	}
	task := ks.task
	ks.lock.Unlock()
	switch {
	case made:
		t.C.Trace.Event(trace.EvKswapdWake, t.C.Now(), uint64(order), 0, 0)
		s.M.Start(t, task)
	case ks.wait.Active(t.C):
		t.C.Trace.Event(trace.EvKswapdWake, t.C.Now(), uint64(order), 0, 0)
		ks.wait.Wake(t)
	}
}

// kswapd keeps zones above pages_high (kswapd).
func (s *System) kswapd(t *sched.Task) {
	ks := &s.scan
	ts := stateOf(t)
	ts.memalloc = true
	order := int(ks.order.Peek())
	ks.order.Poke(0)
	for {
		s.balancePgdat(t, ts, order)
		ks.wait.Prepare(t, sched.TaskUninterruptible)
		next := int(ks.order.Peek())
		ks.order.Poke(0)
		if order < next {
			order = next // somebody wants larger blocks: do not sleep
		} else {
			t.Schedule()
			order = int(ks.order.Peek())
			ks.order.Poke(0)
		}
		ks.wait.Finish(t)
	}
}

// balancePgdat reclaims until every zone has more than pages_high free, or is hopeless
// (balance_pgdat).
func (s *System) balancePgdat(t *sched.Task, ts *taskState, order int) {
	pm := s.Pages
	sc := ts.scanControl(t, page.GFPKernel, order)
	sc.kswapd = true
	t.C.Trace.Event(trace.EvReclaimBegin, t.C.Now(), uint64(order), uint64(page.GFPKernel), 0)
	all := uint64(0)
	for ok := false; !ok; {
		sc.reclaimed = 0
		t.C.Trace.Inc(trace.PageOutRun)
		total := uint64(0)
		for priority := defPriority; priority >= 0; priority-- {
			end := s.highestShortZone(t, priority, sc)
			if ok = true; end < 0 {
				break
			}
			for z := 0; z <= end; z++ {
				st := pm.ZoneStat(z)
				if st.Unreclaimable.Peek() != 0 && priority != defPriority {
					continue
				}
				_, _, high := pm.ZoneWatermarks(z)
				if !pm.ZoneOK(t, z, sc.order, high) {
					ok = false
				}
				sc.scanned = 0
				if !pm.ZoneOK(t, z, sc.order, 8*high) {
					s.shrinkZone(t, priority, z, sc)
				}
				total += sc.scanned
				if st.Unreclaimable.Peek() == 0 && st.PagesScanned.Peek() >= s.zoneLRUPages(z)*unreclaimableAt {
					st.Unreclaimable.Poke(1)
				}
			}
			if ok {
				break
			}
			if total > 0 && priority < defPriority-2 {
				s.Pages.CongestionWait(t, congestionNap)
			}
			if sc.reclaimed >= swapClusterMax {
				break
			}
		}
		all += sc.reclaimed
		if sc.reclaimed > 0 {
			t.Progress()
		}
		if !ok {
			t.CondResched()
			if sc.reclaimed < swapClusterMax {
				sc.order = 0
			}
		}
	}
	sc.busy = false
	t.C.Trace.Event(trace.EvReclaimEnd, t.C.Now(), all, 0, 0)
}

// highestShortZone returns the last zone that has too few pages free, -1 if none has,
// and ages anonymous pages a little on the way.
func (s *System) highestShortZone(t *sched.Task, priority int, sc *scanControl) int {
	for z := s.Pages.NumZones() - 1; z >= 0; z-- {
		if s.Pages.ZoneStat(z).Unreclaimable.Peek() != 0 && priority != defPriority {
			continue
		}
		if s.inactiveAnonIsLow(z) {
			s.shrinkActiveList(t, z, sc, swapClusterMax, page.ActiveAnon)
		}
		if _, _, high := s.Pages.ZoneWatermarks(z); !s.Pages.ZoneOK(t, z, sc.order, high) {
			return z
		}
	}
	return -1
}
