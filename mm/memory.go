package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// VMFault is what became of a fault: a set of bits, zero for a minor fault that was
// resolved. The values are those of Linux 2.6.29 include/linux/mm.h.
type VMFault uint32

// The bits of a VMFault.
const (
	VMFaultOOM    VMFault = 0x0001 // there was no memory
	VMFaultSigbus VMFault = 0x0002 // there is nothing behind the address
	VMFaultMajor  VMFault = 0x0004 // a device had to be read
	VMFaultWrite  VMFault = 0x0008 // a COW was broken, or found broken: see get_user_pages
	VMFaultNoPage VMFault = 0x0100 // a mapping's fault function set the pte itself
	VMFaultLocked VMFault = 0x0200 // it returned the page locked

	// VMFaultError has the bits that end an access.
	VMFaultError = VMFaultOOM | VMFaultSigbus
)

// HandleMMFault makes the page at addr of v accessible, for writing if write is
// set; the permission was checked by the caller. Linux 2.6.29
// mm/memory.c:handle_mm_fault. That it returns zero does not mean that the access
// will now succeed: the caller tries it again.
//
// Preconditions:
//   - v.MM.MmapSem is held, for reading at least; the task may sleep
func HandleMMFault(t *sched.Task, v *VMA, addr uint64, write bool) VMFault {
	return handleMMFault(t, v, addr, write, false /* unshare */)
}

// HandleUnshareFault is a read fault on a page that may be shared: the policy's WP
// decides whether this address space gets a page of its own, read-only (what
// later kernels call FAULT_FLAG_UNSHARE).
func HandleUnshareFault(t *sched.Task, v *VMA, addr uint64) VMFault {
	return handleMMFault(t, v, addr, false /* write */, true)
}

func handleMMFault(t *sched.Task, v *VMA, addr uint64, write, unshare bool) VMFault {
	m := v.MM
	s := m.Sys
	t.C.Trace.Inc(trace.PGFault)
	if v.Flags&VMHugetlb != 0 {
		return s.hugetlbFault(t, v, addr, write, unshare)
	}
	addr &= x86.PageMask
	table, err := m.pteAlloc(t, addr)
	if err != nil {
		return VMFaultOOM
	}
	ts := stateOf(t)
	f := ts.fault()
	*f = Fault{T: t, MM: m, VMA: v, Addr: addr, Write: write, Unshare: unshare,
		PTE: m.entry(table, x86.LevelPTE, addr), PTL: s.Pages.PTL(table)}
	ret := s.handlePTEFault(f)
	ts.endFault()
	return ret
}

// handlePTEFault looks at the entry and does what it takes. Linux 2.6.29
// mm/memory.c:handle_pte_fault.
//
// The first look is without the lock: whatever is decided by it is checked again
// under the lock, and if the entry has changed, the fault is over; the access that
// raised it comes again if it still has to.
func (s *System) handlePTEFault(f *Fault) VMFault {
	t, v := f.T, f.VMA
	entry := f.PTE.Load(t.C)
	f.Orig = entry
	if !entry.Present() {
		switch {
		case entry.None() && v.Mapping != nil:
			return s.doLinearFault(f)
		case entry.None():
			return s.doAnonymousPage(f)
		default:
			return s.doSwapPage(f)
		}
	}
	f.Lock()
	if !f.Same() {
		f.Unlock()
		t.C.Trace.Inc(trace.EmuFaultRetries)
		return 0
	}
	if f.Write || f.Unshare {
		if !entry.Write() {
			return s.doWpPage(f)
		}
		if f.Write {
			entry = entry.MkDirty()
		}
	}
	entry = entry.MkYoung()
	if !s.PtepSetAccessFlags(t, v, f.Addr, f.PTE, entry, f.Write) && f.Write {
		// The entry permits the write already: another thread was here first, or
		// this CPU's TLB has an old one.
		s.FlushTLBPage(t, v, f.Addr)
	}
	f.Unlock()
	return 0
}

// doAnonymousPage maps a page of zeroes. In 2.6.29 even a read fault gets a page of
// its own, and it is mapped writable and dirty at once: ZERO_PAGE had been taken
// out of this path in 2.6.24 and came back later. Linux 2.6.29
// mm/memory.c:do_anonymous_page.
func (s *System) doAnonymousPage(f *Fault) VMFault {
	t, v := f.T, f.VMA
	if AnonVMAPrepare(t, v) != nil {
		return VMFaultOOM
	}
	p := s.Pages.Alloc(t, page.GFPHighUserMovable|page.GFPZero, 0, "do_anonymous_page")
	if p == nil {
		return VMFaultOOM
	}
	p.PokeSet(page.Uptodate)
	entry := MaybeMkWrite(s.MkPTE(p, v).MkDirty(), v)
	f.Lock()
	if !f.PTE.Load(t.C).None() {
		f.Unlock()
		t.C.Trace.Inc(trace.EmuFaultRetries)
		s.Pages.Put(t, p)
		return 0
	}
	f.MM.AnonRSS.RawAdd(1)
	s.Pages.Relabel(t, p, page.RefTemp, page.RefMap, 1)
	s.PageAddNewAnonRmap(t, p, v, f.Addr)
	f.PTE.Set(t.C, entry)
	TracePTE(t, f.Addr, 0, entry)
	f.Unlock()
	return 0
}

// doLinearFault maps a page of the VMA's mapping, or for a write to a private
// mapping a copy of it. Linux 2.6.29 mm/memory.c:do_linear_fault, __do_fault.
func (s *System) doLinearFault(f *Fault) VMFault {
	t, v := f.T, f.VMA
	old, ret := v.Mapping.Fault(t, v, v.Index(f.Addr), f.Write)
	if ret&(VMFaultError|VMFaultNoPage) != 0 {
		return ret
	}
	if ret&VMFaultLocked == 0 {
		s.Pages.LockPage(t, old)
	}
	ret &^= VMFaultLocked
	if f.Write && v.Flags&VMShared == 0 {
		return ret | s.doPrivateFileCopy(f, old)
	}
	if f.Write {
		// A mapping that wants to know before its pages become dirty is asked with
		// the page unlocked, and it may be gone afterwards.
		if more, ok := s.pageMkwrite(f, old); !ok {
			return ret | more
		}
	}
	entry := s.MkPTE(old, v)
	if f.Write {
		entry = MaybeMkWrite(entry.MkDirty(), v)
	}
	f.Lock()
	if !f.Same() {
		f.Unlock()
		t.C.Trace.Inc(trace.EmuFaultRetries)
		s.Pages.UnlockPage(t, old)
		s.Pages.Put(t, old)
		return ret
	}
	f.MM.FileRSS.RawAdd(1)
	s.PageAddFileRmap(t, old)
	if f.Write {
		s.Pages.Get(t, old)
	}
	s.Pages.Relabel(t, old, page.RefTemp, page.RefMap, 1)
	f.PTE.Set(t.C, entry)
	TracePTE(t, f.Addr, f.Orig, entry)
	f.Unlock()
	s.Pages.UnlockPage(t, old)
	if f.Write {
		s.SetPageDirty(t, old)
		s.Pages.Put(t, old)
	}
	return ret
}

// doPrivateFileCopy is the half of __do_fault for a write to a private mapping: the
// copy is made at once, no read-only mapping comes before it. old is locked, and a
// reference is the caller's to give away.
func (s *System) doPrivateFileCopy(f *Fault, old *page.Page) (ret VMFault) {
	t, v := f.T, f.VMA
	var p *page.Page
	if AnonVMAPrepare(t, v) == nil {
		p = s.Pages.Alloc(t, page.GFPHighUserMovable, 0, "do_fault")
	}
	if p == nil {
		ret = VMFaultOOM
	} else {
		s.CowUserPage(t, p, old)
		p.PokeSet(page.Uptodate)
		entry := MaybeMkWrite(s.MkPTE(p, v).MkDirty(), v)
		f.Lock()
		if f.Same() {
			f.MM.AnonRSS.RawAdd(1)
			s.Pages.Relabel(t, p, page.RefTemp, page.RefMap, 1)
			s.PageAddNewAnonRmap(t, p, v, f.Addr)
			f.PTE.Set(t.C, entry)
			TracePTE(t, f.Addr, f.Orig, entry)
			f.Unlock()
			t.C.Trace.Inc(trace.EmuCOWCopy)
		} else {
			f.Unlock()
			t.C.Trace.Inc(trace.EmuFaultRetries)
			s.Pages.Put(t, p)
		}
	}
	s.Pages.UnlockPage(t, old)
	s.Pages.Put(t, old)
	return ret
}

// pageMkwrite asks the mapping whether the locked page p may become dirty
// (page_mkwrite). If it may not, or if the page has left the mapping meanwhile, p is
// released and ok is false; the fault then ends with ret.
func (s *System) pageMkwrite(f *Fault, p *page.Page) (ret VMFault, ok bool) {
	t, v := f.T, f.VMA
	if !v.Mapping.HasMkwrite() {
		return 0, true
	}
	s.Pages.UnlockPage(t, p)
	if v.Mapping.PageMkwrite(t, v, p) != nil {
		s.Pages.Put(t, p)
		return VMFaultSigbus, false
	}
	s.Pages.LockPage(t, p)
	if p.Mapping == 0 { // truncated
		s.Pages.UnlockPage(t, p)
		s.Pages.Put(t, p)
		return 0, false
	}
	return 0, true
}

// NormalPage returns the page that a present pte of v maps, nil if no struct Page
// stands behind it (vm_normal_page).
func (s *System) NormalPage(v *VMA, pte x86.PTE) *page.Page {
	if pte.Special() {
		return nil
	}
	return s.Pages.Page(pte.PFN())
}
