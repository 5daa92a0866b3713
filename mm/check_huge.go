package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm/page"
)

// The invariants of huge pages.
//
//	invariant                                        guard
//	an entry maps an aligned head of its pool         none
//	an entry lies in a VMA of its size of pages       mmap_sem (write), page_table_lock
//	references = entries + cache + other holders      page_table_locks, ledger
//	a free page of a pool has no references           hugetlb_lock
//	total = free + in use, promises <= free           hugetlb_lock; in use at rest only
//	promises = those of files, less their pages       at rest; plus hstate.astray
//	  + those of private mappings that are not used
//
// Huge pages have no count of mappings, but under HookHugeRmap, and are not in rss. An entry may be writable where
// its VMA is not: hugetlb_cow does not ask.

// hugeScan is what one check finds out.
type hugeScan struct {
	ptes   map[x86.PFN]int // entries that map a huge page
	locked bool            // some page_table_lock was held
}

// huge looks at one entry above the last level.
func (sc *tableScan) huge(e x86.PTE, level int, addr uint64) {
	s, k, m := sc.s, sc.k, sc.m
	pfn, last := e.PFN(), x86.PFN(x86.LevelSize(level)>>x86.PageShift)-1
	if pfn&last != 0 || !s.Mem.Valid(pfn+last) {
		k.bad("address space %d: huge entry at %#x is %v: there is no such page", m.ID, addr, e)
		return
	}
	locked := m.PageTableLock.Locked()
	k.huge.locked = k.huge.locked || locked
	p := s.Pages.Page(pfn)
	if x86.LevelSize(level) != x86.PageSize<<p.Order() {
		k.bad("address space %d: huge entry at %#x maps %s of order %d", m.ID, addr, s.describePage(pfn, p), p.Order())
		return
	}
	if k.huge.ptes == nil {
		k.huge.ptes = map[x86.PFN]int{}
	}
	k.huge.ptes[pfn]++
	if !sc.vmas || locked && !sc.rest {
		return
	}
	if v := m.lookupVMA(addr); v == nil || addr < v.Start || v.Flags&VMHugetlb == 0 || v.hstate().level != level {
		k.bad("address space %d: huge entry at %#x is %v, but no VMA of such pages is there", m.ID, addr, e)
	}
}

// checkHuge compares what the entries said with the pages and the pools.
func (s *System) checkHuge(k *checkState, rest bool) {
	for _, m := range s.MMs() {
		k.huge.locked = k.huge.locked || m.PageTableLock.Locked()
	}
	for i := range s.huge.hstates {
		h := &s.huge.hstates[i]
		if h.total == 0 {
			continue
		}
		if rest || !k.huge.locked {
			for _, pfn := range h.heads {
				s.checkHugePage(k, pfn, rest)
			}
		}
		if rest || !s.huge.lock.Locked() {
			s.checkPool(k, h, rest)
		}
	}
}

// checkHugePage compares a page's holders with the entries that map it.
func (s *System) checkHugePage(k *checkState, pfn x86.PFN, rest bool) {
	p, n := s.Pages.Page(pfn), k.huge.ptes[pfn]
	if c := int(p.Count.Peek()); c < n {
		k.bad("%s: %d huge entries map it", s.describePage(pfn, p), n)
	}
	switch c, counted := int(p.MapCount.Peek()), s.hooks&HookHugeRmap != 0; {
	case !counted && c != 0:
		k.bad("%s: a huge page has no map count", s.describePage(pfn, p))
	case counted && c != n:
		k.bad("%s: %d huge entries map it", s.describePage(pfn, p), n)
	}
	l := s.Pages.Ledger()
	if l == nil {
		return
	}
	// Between a cleared entry and the put behind the flush the reference is still the entry's.
	if held := l.Held(p, page.RefMap); held < n || rest && held != n {
		k.bad("%s: %d huge entries map it", s.describePage(pfn, p), n)
	}
	if as := s.spaces.of(p.Mapping); rest && (as != nil) != (l.Held(p, page.RefCache) == 1) {
		k.bad("%s: the page cache has no reference, or one too many", s.describePage(pfn, p))
	}
}

// checkPool looks at the counters of a pool.
func (s *System) checkPool(k *checkState, h *hstate, rest bool) {
	pool := h.peek()
	if pool.Reserved > pool.Free || pool.Surplus > pool.Total || pool.Free > pool.Total {
		k.bad("pool of %d KiB pages: %+v", h.size>>10, pool)
	}
	for _, pfn := range h.free {
		if p := s.Pages.Page(pfn); p.Count.Peek() != 0 || !p.Pooled() || k.huge.ptes[pfn] != 0 {
			k.bad("%s is in the pool and in use", s.describePage(pfn, p))
		}
	}
	if !rest {
		return
	}
	used := uint64(0)
	for _, pfn := range h.heads {
		if s.Pages.Page(pfn).Count.Peek() != 0 {
			used++
		}
	}
	if pool.Total != uint64(len(h.heads)) || pool.Free+used != pool.Total {
		k.bad("pool of %d KiB pages: %+v, but %d exist and %d are in use", h.size>>10, pool, len(h.heads), used)
	}
	files, private := s.promises(h)
	if int64(pool.Reserved)+h.astray != files+private {
		k.bad("pool of %d KiB pages: %d are promised, but files are promised %d and mappings %d (%d astray)",
			h.size>>10, int64(pool.Reserved), files, private, h.astray)
	}
}

// promises adds up what the files of a pool and the private mappings are still promised. Nothing may be
// running.
func (s *System) promises(h *hstate) (files, private int64) {
	s.spaces.each(func(as *AddressSpace) {
		if i := as.huge; i != nil && i.h == h {
			files += int64(i.regions.count(0, ^uint64(0))) - int64(as.tree.n)
		}
	})
	for _, m := range s.MMs() {
		m.EachVMA(0, func(v *VMA) bool {
			if v.hstate() == h && v.resv.m != nil {
				private += int64(v.resv.m.regions.missing(v.hugecacheOffset(h, v.Start), v.hugecacheOffset(h, v.End)))
			}
			return true
		})
	}
	return files, private
}

// hugeCOWStale reports whether a translation is one that 2.6.29 itself leaves behind: that of
// a huge page for reading, after hugetlb_cow has mapped another one without a flush
// (huge_ptep_clear_flush is empty on x86); or one that ClearBadHuge has left.
func (s *System) hugeCOWStale(m *MM, t *x86.TLBEntryInfo, leaf x86.PTE) bool {
	v := m.lookupVMA(t.VA)
	return v != nil && v.Start <= t.VA && v.Flags&VMHugetlb != 0 && (m.badCleared || !t.Writable && leaf.Huge())
}
