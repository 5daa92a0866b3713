package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// zapBlock is how much address space is unmapped before the gather is finished and
// somebody else may run (ZAP_BLOCK_SIZE). An empty pte counts one byte of it.
func (s *System) zapBlock() int64 {
	if s.M.Preempt() == sched.PreemptFull {
		return 8 * x86.PageSize
	}
	return 1024 * x86.PageSize
}

// unmapVmas empties the ptes of [start, end) in the given VMAs, which are in
// address order and may reach beyond the range. Every zapBlock it finishes the
// gather, lets others run, and begins another one in the same place. Linux 2.6.29
// mm/memory.c:unmap_vmas.
//
// Preconditions:
//   - mmap_sem is held, or nobody uses the address space
//   - g is the gather that the caller began, and will finish
func (m *MM) unmapVmas(t *sched.Task, g *mmuGather, vmas []*VMA, start, end uint64) {
	s := m.Sys
	full := g.full
	block := s.zapBlock()
	work := block
	m.mmuNotifierInvalidateRangeStart(t, start, end)
	for _, v := range vmas {
		if v.Start >= end {
			break
		}
		at, stop := max(v.Start, start), min(v.End, end)
		if at >= stop {
			continue
		}
		if v.Flags&VMHugetlb != 0 {
			s.unmapHugepageRange(t, v, at, stop)
			if work -= int64(stop-at) >> v.hstate().order; work > 0 {
				continue
			}
			g.finish(t)
			t.CondResched()
			s.tlbGather(t, m, full)
			work = block
			continue
		}
		for at != stop {
			at = m.unmapPageRange(t, g, v, at, stop, &work)
			if work > 0 {
				break
			}
			g.finish(t)
			t.CondResched()
			s.tlbGather(t, m, full)
			work = block
		}
	}
	m.mmuNotifierInvalidateRangeEnd(t, start, end)
}

// unmapPageRange empties the ptes of [addr, end) in v until the work is used up,
// and returns how far it came (unmap_page_range and the levels below).
func (m *MM) unmapPageRange(t *sched.Task, g *mmuGather, v *VMA, addr, end uint64, work *int64) uint64 {
	for addr < end && *work > 0 {
		table, at, next, skipped, ok := m.nextTable(t.C, addr, end)
		*work -= skipped
		if !ok {
			return end
		}
		addr = m.zapPTERange(t, g, v, table, at, next, work)
	}
	return addr
}

// zapPTERange empties the entries of one table for [addr, end) until the work is
// used up, and returns how far it came. Linux 2.6.29 mm/memory.c:zap_pte_range.
//
// The mapping is taken off the page's count here, but the reference goes with the
// gather, after the flush: in between the count of mappings may be 1 or 0
// although other CPUs still use this one through their TLBs.
func (m *MM) zapPTERange(t *sched.Task, g *mmuGather, v *VMA, table x86.PFN, addr, end uint64, work *int64) uint64 {
	s := m.Sys
	pages := s.Pages
	anon, file := uint64(0), uint64(0)
	begin := addr
	ref := m.entry(table, x86.LevelPTE, addr)
	ptl := pages.PTL(table)
	ptl.Lock(t)
	c := t.C
	left := *work
	for {
		c.Point(x86.OpPTERead, ref.Obj) // ref.Load, inlined
		pte := ref.Peek()
		switch {
		case pte.None():
			left--
		case pte.Present():
			left -= x86.PageSize
			if g.full {
				// Nobody else has the tables: no locked operation
				// (ptep_get_and_clear_full).
				ref.Set(c, 0)
			} else {
				pte = ref.Xchg(c, 0)
			}
			g.needFlush = true
			p := s.NormalPage(v, pte)
			if p == nil {
				break
			}
			if p.Anon() {
				anon++
			} else {
				file++
				if pte.Dirty() {
					s.SetPageDirty(t, p)
				}
				if pte.Young() && v.Flags&VMSeqRead == 0 {
					pages.MarkPageAccessed(t, p)
				}
			}
			s.PageRemoveRmap(t, p)
			g.removePage(t, p)
		default:
			s.freeSwapAndCache(t, pte)
			ref.Set(c, 0)
			left -= x86.PageSize
		}
		if addr += x86.PageSize; addr == end || left <= 0 {
			break
		}
		ref = ref.Next(ref.Obj + 1)
	}
	*work = left
	if anon != 0 {
		m.AnonRSS.RawAdd(-anon)
	}
	if file != 0 {
		m.FileRSS.RawAdd(-file)
	}
	ptl.Unlock(t)
	t.C.Trace.Add(trace.EmuZapPages, anon+file)
	t.C.Trace.Event(trace.EvZap, t.C.Now(), begin, anon+file, 0)
	return addr
}

// ZapPageRange empties the ptes of size bytes from addr, all in v
// (zap_page_range): what MADV_DONTNEED does.
//
// Preconditions:
//   - mmap_sem is held, for reading at least; the task may sleep
func (m *MM) ZapPageRange(t *sched.Task, v *VMA, addr, size uint64) {
	s := m.Sys
	s.Pages.LRUAddDrain(t)
	g := s.tlbGather(t, m, false /* full */)
	one := [1]*VMA{v}
	m.unmapVmas(t, g, one[:], addr, addr+size)
	g.finish(t)
}

// unmapRegion empties [start, end) of VMAs that have left the tree, or have never
// been in it, and frees the page tables that nobody else needs. prev and next are the
// VMAs below and above that stay, nil if there is none. Linux 2.6.29
// mm/mmap.c:unmap_region.
//
// Preconditions:
//   - mmap_sem is held for writing
//   - vmas are in address order and lie in [start, end)
//
// The VMAs are off the rmap lists afterwards; what else they hold is for
// removeVMA to let go.
func (m *MM) unmapRegion(t *sched.Task, vmas []*VMA, prev, next *VMA, start, end uint64) {
	s := m.Sys
	floor, ceiling := uint64(0), uint64(0)
	if prev != nil {
		floor = prev.End
	}
	if next != nil {
		ceiling = next.Start
	}
	s.Pages.LRUAddDrain(t)
	g := s.tlbGather(t, m, false /* full */)
	m.unmapVmas(t, g, vmas, start, end)
	m.freePgtables(t, g, vmas, floor, ceiling)
	g.finish(t)
}

// ZapPTE empties one entry of v and flushes it at once: the zap_pte of Linux 2.6.29
// mm/fremap.c, which Piggin's patches use to undo a copied pte.
//
// Preconditions:
//   - the ptl of the entry is held
func (s *System) ZapPTE(t *sched.Task, v *VMA, addr uint64, ref x86.PTERef) {
	pte := ref.Load(t.C)
	switch {
	case pte.None():
	case pte.Present():
		pte = s.PtepClearFlush(t, v, addr, ref)
		if p := s.NormalPage(v, pte); p != nil {
			if pte.Dirty() {
				s.SetPageDirty(t, p)
			}
			s.PageRemoveRmap(t, p)
			if p.Anon() {
				v.MM.AnonRSS.RawAdd(^uint64(0))
			} else {
				v.MM.FileRSS.RawAdd(^uint64(0))
			}
			s.Pages.PutAs(t, p, page.RefMap)
		}
	default:
		s.freeSwapAndCache(t, pte)
		ref.Set(t.C, 0)
	}
}
