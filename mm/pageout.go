package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// MadvPageout reclaims the pages of a range now, instead of when memory is short: MADV_PAGEOUT
// of Linux 5.4, which 2.6.29 does not have. It is here for programs that want a page in
// swap and no pressure. What it calls is 2.6.29's shrink_page_list.
const MadvPageout Advice = 21

// madvisePageout takes the pages of [start, end) that only v maps off their lists and
// reclaims them. As for all reclaim, a page may stay: it was used meanwhile, is locked,
// or has no slot. Writing goes on afterwards.
//
// Preconditions:
//   - mmap_sem is held, for reading at least; the task may sleep
func (m *MM) madvisePageout(t *sched.Task, v *VMA, start, end uint64) {
	s, ts := m.Sys, stateOf(t)
	if v.Flags&(VMLocked|VMHugetlb|VMPFNMap) != 0 || ts.memalloc {
		return
	}
	s.Pages.LRUAddDrain(t)
	ts.memalloc = true
	sc := ts.scanControl(t, page.GFPKernel, 0)
	t.C.Trace.Event(trace.EvReclaimBegin, t.C.Now(), 0, uint64(sc.gfp), 0)
	n, got := 0, uint64(0)
	for addr := start; addr < end; {
		table, at, next, _, ok := m.nextTable(t.C, addr, end)
		if !ok {
			break
		}
		for ; at < next; at += x86.PageSize {
			if p := s.isolateForPageout(t, v, at, table); p != nil {
				sc.pages[n] = s.Pages.PFN(p)
				n++
			}
			if n == len(sc.pages) {
				got += s.reclaimPages(t, sc, n)
				n = 0
			}
		}
		addr = next
	}
	got += s.reclaimPages(t, sc, n)
	t.C.Trace.Event(trace.EvReclaimEnd, t.C.Now(), got, sc.scanned, 0)
	sc.busy = false
	ts.memalloc = false
}

// isolateForPageout makes the page at addr look old and takes it off its list; nil if
// there is none, or others map it.
func (s *System) isolateForPageout(t *sched.Task, v *VMA, addr uint64, table x86.PFN) *page.Page {
	ref, ptl := v.MM.entry(table, x86.LevelPTE, addr), s.Pages.PTL(table)
	var p *page.Page
	ptl.Lock(t)
	if pte := ref.Load(t.C); pte.Present() {
		p = s.NormalPage(v, pte)
		if p != nil && s.Pages.MapRefs(t, p) != 1 {
			p = nil
		}
		if p != nil {
			s.ptepClearFlushYoungNotify(t, v, addr, ref)
			s.Pages.ClearFlag(t, p, page.Referenced)
			if !s.Pages.IsolateLRU(t, p) {
				p = nil
			}
		}
	}
	ptl.Unlock(t)
	return p
}

// reclaimPages is shrinkPageList for pages of any zone, which stay inactive if they stay.
func (s *System) reclaimPages(t *sched.Task, sc *scanControl, n int) uint64 {
	for _, pfn := range sc.pages[:n] {
		s.Pages.ClearFlag(t, s.Pages.Page(pfn), page.Active)
	}
	kept, got := s.shrinkPageList(t, sc, sc.pages[:n])
	for i := range kept {
		s.Pages.PutbackZone(t, sc.pages[i:i+1])
	}
	return got
}

// DropClean reclaims the inactive pages once, all of them: what is clean and nobody uses
// is gone afterwards, what is dirty is on its way out. It is for programs that want to
// meet a page on the device and not in the swap cache. Nothing of 2.6.29 calls it.
//
// Preconditions:
//   - the task may sleep and does not reclaim
func (s *System) DropClean(t *sched.Task) {
	ts := stateOf(t)
	ts.memalloc = true
	sc := ts.scanControl(t, page.GFPKernel, 0)
	for z := range s.Pages.NumZones() {
		for l := page.InactiveAnon; l <= page.InactiveFile; l += 2 {
			s.shrinkInactiveList(t, z, sc, int(s.Pages.ZoneLRULen(z, l)), l)
		}
	}
	sc.busy = false
	ts.memalloc = false
}
