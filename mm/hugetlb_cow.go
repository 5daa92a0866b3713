package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Size returns how many bytes the entry of a fault maps: more than a small page where
// the VMA is of huge pages.
func (f *Fault) Size() uint64 {
	if f.VMA.Flags&VMHugetlb != 0 {
		return f.VMA.hstate().size
	}
	return x86.PageSize
}

// HugetlbCOW is a write to a huge page that is mapped read-only. Linux 2.6.29
// mm/hugetlb.c:hugetlb_cow.
//
//	one reference?  yes: make the entry writable
//	                no:  a new page, the copy, the new entry
//
// There is no count of mappings to ask, so it is the references that are counted: a page
// that a device has pinned is copied, though no other process may have it mapped, and the
// device goes on with the page that is nobody's any more. That happens whenever the entry
// is read-only: after a fork even if the child has ended, after mprotect.
//
// The process whose mmap it was copies without its reservation, which it used up for the
// page it has. If the pool is empty then, the page is taken away from its children instead,
// which are killed should they ask for it (unmap_ref_private).
//
// Two things are 2.6.29's: huge_ptep_clear_flush is empty on x86, so the old entry is
// neither cleared nor flushed, and other threads read the old page through their TLBs until
// something else flushes them; and the new entry is writable even if the VMA is not.
// One is different: the page table's lock is dropped before the page is allocated, as
// later kernels do, and not just for the copy. 2.6.29 sleeps with it held, and takes
// i_mmap_lock and other address spaces' locks under it. So when others have lost the page the
// entry is looked at again, as it is there too: truncation may have emptied it.
//
// Preconditions:
//   - f.PTL is held, and on return; it is dropped in between
//   - the instantiation mutex is held, or mmap_sem for writing
//   - f.Orig is the entry at f.PTE, present and not writable
//   - cached is the file's page at the address, if v is private and the file has one
func (s *System) HugetlbCOW(f *Fault, cached *page.Page) VMFault {
	t, v, pm := f.T, f.VMA, s.Pages
	h := v.hstate()
	old := pm.Page(f.Orig.PFN())
	f.Page = old
	ownReserve := v.Flags&VMMayShare == 0 && v.resv.owner && old != cached
	var p *page.Page
	for p == nil {
		next := WPCopyPage
		switch {
		case s.hooks&HookHugeWP != 0:
			next = s.policy.HugeWP(f)
		case pm.Refs(t, old) == 1:
			next = WPReuse
		}
		switch {
		case next == WPReuse && f.Unshare:
			return 0
		case next == WPReuse:
			s.setHugePTEWritable(f)
			return 0
		case next != WPCopyPage:
			t.C.Trace.Inc(trace.EmuWPRetry)
			return 0
		}
		pm.Get(t, old)
		f.Unlock()
		var ret VMFault
		if p, ret = s.allocHugePage(t, v, f.Addr, ownReserve); p == nil {
			pm.Put(t, old)
			if !ownReserve {
				f.Lock()
				return ret
			}
			s.unmapRefPrivate(f, old)
			f.Lock()
			if !f.Same() { // truncated while the lock was dropped
				t.C.Trace.Inc(trace.EmuFaultRetries)
				return 0
			}
			if n := pm.Refs(t, old); n != 1 {
				t.Oops("hugetlb_cow: page_count is %d after unmap_ref_private, not 1: pfn %#x at %#x", n, pm.PFN(old), f.Addr)
			}
		}
	}
	counted := s.hooks&HookWP != 0
	if counted && s.policy.WPCopy(f) != WPCopyPage {
		pm.Put(t, p)
		pm.Put(t, old)
		t.C.Trace.Inc(trace.EmuWPRetry)
		f.Lock()
		return 0
	}
	s.copyHugePage(t, p, old, h)
	p.PokeSet(page.Uptodate)
	f.Lock()
	if f.sameUnless(BreakHugeRecheck) {
		pm.Relabel(t, p, page.RefTemp, page.RefMap, 1)
		s.hugeMapped(t, v, p, true /* anon */)
		entry := s.makeHugePTE(v, p, !f.Unshare)
		f.PTE.Set(t.C, entry)
		TracePTE(t, f.Addr, f.Orig, entry)
		t.C.Trace.Inc(trace.EmuCOWCopy)
		if f.Unshare {
			t.C.Trace.Inc(trace.EmuUnshare)
		}
		t.C.Trace.Event(trace.EvCOWCopy, t.C.Now(), f.Addr, uint64(pm.PFN(old)), uint64(pm.PFN(p)))
		s.hugeUnmapped(t, old)
		pm.PutAs(t, old, page.RefMap)
	} else {
		t.C.Trace.Inc(trace.EmuFaultRetries)
		pm.Put(t, p)
	}
	pm.Put(t, old)
	if counted {
		s.policy.WPDone(f)
	}
	return 0
}

// setHugePTEWritable makes the entry of a write fault writable and dirty
// (set_huge_ptep_writable).
func (s *System) setHugePTEWritable(f *Fault) {
	t := f.T
	e := f.PTE.Load(t.C).MkWrite().MkDirty()
	s.PtepSetAccessFlags(t, f.VMA, f.Addr, f.PTE, e, true)
	t.C.Trace.Inc(trace.EmuCOWReuse)
	t.C.Trace.Event(trace.EvCOWReuse, t.C.Now(), f.Addr, uint64(e.PFN()), uint64(f.Page.Count.Peek()))
}

// unmapRefPrivate takes the page old, which the fault's VMA maps and has used its
// reservation for, out of all mappings that have none, so that the owner can have it alone.
// They are marked, and faults in them fail from then on. Linux 2.6.29
// mm/hugetlb.c:unmap_ref_private.
//
// As there, it is the owner's address that is looked at in the other address space: that is
// where a child has the page. The list is walked under its lock, as in later kernels.
func (s *System) unmapRefPrivate(f *Fault, old *page.Page) {
	t, v, as := f.T, f.VMA, f.VMA.Mapping
	h := v.hstate()
	pgoff := v.Index(f.Addr)
	as.IMmapLock.Lock(t)
	for o := as.head; o != nil; o = o.mapNext {
		if o == v || o.resv.owner || pgoff < o.PgOff || pgoff >= o.PgOff+o.Pages() {
			continue
		}
		s.unmapHugepages(t, o, f.Addr, f.Addr+h.size, old)
	}
	as.IMmapLock.Unlock(t)
}
