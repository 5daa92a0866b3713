package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// hugePTEOffset returns the entry that maps a huge page at addr, present or not; false if
// there is no table for it. Linux 2.6.29 arch/x86/mm/hugetlbpage.c:huge_pte_offset, which
// does not find a 1 GiB page without permissions.
//
// Preconditions:
//   - mmap_sem is held, or i_mmap_lock of what v maps, so that no table goes away
func (m *MM) hugePTEOffset(c *x86.CPU, addr uint64, h *hstate) (x86.PTERef, bool) {
	table := m.PGD
	for level := x86.LevelPGD; level > h.level; level-- {
		e := m.entry(table, level, addr).Load(c)
		if !e.HWPresent() || e.Huge() {
			return x86.PTERef{}, false
		}
		table = e.PFN()
	}
	return m.entry(table, h.level, addr), true
}

// hugePTEAlloc is hugePTEOffset that makes the tables where they are missing
// (huge_pte_alloc, without huge_pmd_share: no two address spaces share a table). The
// error is ENOMEM.
func (m *MM) hugePTEAlloc(t *sched.Task, addr uint64, h *hstate) (x86.PTERef, error) {
	table := m.PGD
	for level := x86.LevelPGD; level > h.level; level-- {
		e := m.entry(table, level, addr).Load(t.C)
		if e.None() {
			var err error
			if e, err = m.makeTable(t, table, level, addr); err != nil {
				return x86.PTERef{}, err
			}
		}
		if !e.HWPresent() || e.Huge() {
			t.Oops("bad page table: level %d entry %v at %#x", level, e, addr)
		}
		table = e.PFN()
	}
	return m.entry(table, h.level, addr), nil
}

// PeekHugePTE returns the entry that maps a huge page at addr and how many bytes it maps;
// zero if none does: for invariants, tests and reports.
func (m *MM) PeekHugePTE(addr uint64) (e x86.PTE, size uint64) {
	table := m.PGD
	for level := x86.LevelPGD; level > x86.LevelPTE && table != 0 && m.Sys.Mem.Valid(table); level-- {
		e = x86.NewPTERef(m.Sys.Mem, table, x86.LevelIndex(addr, level), 0).Peek()
		if e.Huge() && level <= x86.LevelPUD {
			return e, x86.LevelSize(level)
		}
		if !e.HWPresent() {
			break
		}
		table = e.PFN()
	}
	return 0, 0
}

// makeHugePTE makes the entry that maps p in v (make_huge_pte). Writable is writable,
// whatever the VMA permits: a poke into a read-only mapping leaves such an entry behind.
func (s *System) makeHugePTE(v *VMA, p *page.Page, writable bool) x86.PTE {
	e := s.MkPTE(p, v).WrProtect()
	if writable {
		e = e.MkWrite().MkDirty()
	}
	return e.MkYoung().MkHuge()
}

// clearHugePage and copyHugePage work on a small page at a time, and let others run in
// between (clear_huge_page, copy_huge_page, and their forms for 1 GiB). In the
// deterministic regimes each small page is one point, and one more for its reading.
func (s *System) clearHugePage(t *sched.Task, p *page.Page, h *hstate) {
	pfn := s.Pages.PFN(p)
	for i := range x86.PFN(h.pages()) {
		t.CondResched()
		t.PreemptDisable() // kmap_atomic
		s.Mem.ClearHuge(t.C, pfn+i, 1)
		t.PreemptEnable()
	}
}

func (s *System) copyHugePage(t *sched.Task, dst, old *page.Page, h *hstate) {
	to, from := s.Pages.PFN(dst), s.Pages.PFN(old)
	t.C.Trace.Event(trace.EvPageCopyBegin, t.C.Now(), uint64(to), uint64(from), 0)
	for i := range x86.PFN(h.pages()) {
		t.CondResched()
		t.PreemptDisable()
		s.Mem.CopyHuge(t.C, to+i, from+i, 1)
		t.PreemptEnable()
	}
	t.C.Trace.Inc(trace.EmuHugeCopy)
	t.C.Trace.Event(trace.EvPageCopyEnd, t.C.Now(), uint64(to), uint64(from), 0)
}

// hugetlbFault resolves a fault at addr of v, which is of huge pages. Linux 2.6.29
// mm/hugetlb.c:hugetlb_fault.
//
//	none                hugetlb_no_page: the file's page, or a new one; a write to a
//	                    private mapping copies at once
//	present, read-only  write: hugetlb_cow
//	else                mark it accessed, and dirty for a write
//
// All of it happens under one mutex, so that two CPUs that fault the same page in do not
// need two of them for a moment.
//
// Preconditions: as HandleMMFault
func (s *System) hugetlbFault(t *sched.Task, v *VMA, addr uint64, write, unshare bool) VMFault {
	h, m := v.hstate(), v.MM
	addr &= h.mask()
	ref, err := m.hugePTEAlloc(t, addr, h)
	if err != nil {
		return VMFaultOOM
	}
	ts := stateOf(t)
	f := ts.fault()
	*f = Fault{T: t, MM: m, VMA: v, Addr: addr, Write: write, Unshare: unshare, PTE: ref, PTL: &m.PageTableLock}
	s.huge.instantiation.Lock(t)
	ret := s.hugetlbFaultOne(f, h)
	s.huge.instantiation.Unlock(t)
	ts.endFault()
	return ret
}

// hugetlbFaultOne is hugetlb_fault under its mutex.
func (s *System) hugetlbFaultOne(f *Fault, h *hstate) (ret VMFault) {
	t, v := f.T, f.VMA
	entry := f.PTE.Load(t.C)
	f.Orig = entry
	if entry.None() {
		return s.hugetlbNoPage(f, h)
	}
	breaks := (f.Write || f.Unshare) && !entry.Write()
	var cached *page.Page
	if breaks && !s.needsReservation(t, v, h, f.Addr) {
		return VMFaultOOM
	}
	if breaks && v.Flags&VMMayShare == 0 {
		// Whether the page is the file's says whether the reservation was used.
		cached = s.HugePagecachePage(t, v, f.Addr)
	}
	f.Lock()
	switch {
	case !f.Same():
		t.C.Trace.Inc(trace.EmuFaultRetries)
	case breaks:
		ret = s.HugetlbCOW(f, cached)
	default:
		if f.Write {
			entry = entry.MkDirty()
		}
		s.PtepSetAccessFlags(t, v, f.Addr, f.PTE, entry.MkYoung(), f.Write)
	}
	f.Unlock()
	if cached != nil {
		s.Pages.UnlockPage(t, cached)
		s.Pages.Put(t, cached)
	}
	return ret
}

// HugePagecachePage returns the file's page at addr of v, locked and with a reference; nil
// if it has none (hugetlbfs_pagecache_page).
func (s *System) HugePagecachePage(t *sched.Task, v *VMA, addr uint64) *page.Page {
	return v.Mapping.FindLockPage(t, v.hugecacheOffset(v.hstate(), addr))
}

// hugetlbNoPage maps a page where there was none. Linux 2.6.29
// mm/hugetlb.c:hugetlb_no_page.
//
// A private mapping gets a page of its own even for a read, out of its reservation, if the
// file has none; it is not put into the cache. What is mapped first is read-only, and a
// write then copies it if others refer to it: the file's page always, a new one never.
//
// Preconditions:
//   - the instantiation mutex is held
func (s *System) hugetlbNoPage(f *Fault, h *hstate) (ret VMFault) {
	t, v, as, pm := f.T, f.VMA, f.VMA.Mapping, s.Pages
	if v.resv.unmapped {
		// The page was taken away for the parent's sake: zeroes would look like lost data.
		return VMFaultSigbus
	}
	idx := v.hugecacheOffset(h, f.Addr)
	p := as.FindLockPage(t, idx) // the lock keeps truncation out
	for p == nil {
		if idx >= as.huge.hugePages(t) {
			return VMFaultSigbus
		}
		if p, ret = s.allocHugePage(t, v, f.Addr, false); p == nil {
			return ret
		}
		s.clearHugePage(t, p, h)
		p.PokeSet(page.Uptodate)
		if v.Flags&VMMayShare == 0 {
			pm.LockPage(t, p)
			break
		}
		pm.LockPageNew(t, p)
		switch err := as.AddToPageCache(t, p, idx); err {
		case nil:
			as.huge.setMade(idx, true)
		case unix.EEXIST: // somebody was faster
			pm.UnlockPage(t, p)
			pm.Put(t, p)
			p = as.FindLockPage(t, idx)
		default:
			pm.UnlockPage(t, p)
			pm.Put(t, p)
			s.restoreReservation(t, v, h, idx)
			return VMFaultSigbus
		}
	}
	private := v.Flags&VMShared == 0
	if f.Write && private && !s.needsReservation(t, v, h, f.Addr) {
		pm.UnlockPage(t, p)
		pm.Put(t, p)
		return VMFaultOOM
	}
	f.Lock()
	switch {
	case idx >= as.huge.hugePages(t):
		ret = VMFaultSigbus
	case !f.PTE.Load(t.C).None():
		t.C.Trace.Inc(trace.EmuFaultRetries)
	default:
		f.Orig = s.makeHugePTE(v, p, v.Flags&VMWrite != 0 && !private)
		pm.Relabel(t, p, page.RefTemp, page.RefMap, 1)
		s.hugeMapped(t, v, p, p.Mapping == 0)
		f.PTE.Set(t.C, f.Orig)
		TracePTE(t, f.Addr, 0, f.Orig)
		if f.Write && private {
			ret = s.HugetlbCOW(f, p) // without a second fault
		}
		f.Unlock()
		pm.UnlockPage(t, p)
		return ret
	}
	f.Unlock()
	pm.UnlockPage(t, p)
	pm.Put(t, p)
	return ret
}
