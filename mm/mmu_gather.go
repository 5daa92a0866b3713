package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// gatherPages is how many pages a gather holds (FREE_PTE_NR): with its header it
// filled a page of memory.
const gatherPages = 506

// mmuGather collects the pages, and page tables, that an unmapping has taken out
// of the page tables, until every TLB has forgotten them: struct mmu_gather.
//
//	pte cleared --> removePage --> flush every TLB --> drop the references
//	                                     |
//	                gup-fast on another CPU has interrupts off: the flush waits
//	                for it, so what it reads is still there
//
// It is per-CPU in Linux, and preemption is off from tlb_gather_mmu to
// tlb_finish_mmu; so it is here, though the memory is the task's.
type mmuGather struct {
	mm *MM
	// full says that the whole address space goes: nobody uses it any more, and
	// entries may be cleared without a locked operation.
	full bool
	// fast says that there is one CPU only, and pages are freed at once
	// (tlb_fast_mode).
	fast bool
	// needFlush is set when an entry has been cleared since the last flush.
	needFlush bool
	n         int
	pages     [gatherPages]x86.PFN
}

// tlbGather begins an unmapping (tlb_gather_mmu). Preemption is off until finish.
func (s *System) tlbGather(t *sched.Task, m *MM, full bool) *mmuGather {
	t.PreemptDisable()
	g := &stateOf(t).gather
	if g.mm != nil {
		t.Oops("mmu_gather used twice")
	}
	m.flushBegin()
	g.mm, g.full, g.fast, g.needFlush, g.n = m, full, s.M.CPUs() == 1, false, 0
	return g
}

// removePage takes over the reference that the entry just cleared had on p
// (tlb_remove_page).
func (g *mmuGather) removePage(t *sched.Task, p *page.Page) {
	g.needFlush = true
	pm := g.mm.Sys.Pages
	if g.fast {
		if g.mm.Sys.swapOn() {
			g.mm.Sys.freeSwapCache(t, p) // free_page_and_swap_cache
		}
		pm.PutAs(t, p, page.RefMap)
		return
	}
	g.pages[g.n] = pm.PFN(p)
	if g.n++; g.n == gatherPages {
		g.flushMMU(t)
	}
}

// flushMMU flushes the TLBs and then frees what was collected (tlb_flush_mmu). The
// order is the point of the whole structure.
func (g *mmuGather) flushMMU(t *sched.Task) {
	if !g.needFlush {
		return
	}
	g.needFlush = false
	s := g.mm.Sys
	if !s.Broken(BreakGatherFlush) {
		s.FlushTLBMM(t, g.mm)
	}
	if g.n == 0 {
		return
	}
	// free_pages_and_swap_cache. A page in a pagevec would not be freed here.
	s.Pages.LRUAddDrain(t)
	if s.swapOn() {
		for _, pfn := range g.pages[:g.n] {
			s.freeSwapCache(t, s.Pages.Page(pfn))
		}
	}
	const batch = page.PagevecSize
	for i := 0; i < g.n; i += batch {
		s.Pages.ReleasePages(t, g.pages[i:min(i+batch, g.n)], page.RefMap, false /* cold */)
	}
	g.n = 0
	if s.Broken(BreakGatherFlush) {
		s.FlushTLBMM(t, g.mm)
	}
}

// finish ends the unmapping (tlb_finish_mmu): when it returns everything is
// flushed and freed.
func (g *mmuGather) finish(t *sched.Task) {
	g.flushMMU(t)
	g.mm.flushEnd()
	g.mm = nil
	t.PreemptEnable()
}
