package mm

import (
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// doWpPage is a write to a page that is mapped read-only. Linux 2.6.29
// mm/memory.c:do_wp_page.
//
//	          anonymous                        page cache
//	              |                          shared, writable | private
//	nobody else maps it?                            |         |
//	  yes |      | no                               |         |
//	      v      +--------------------------------- | --------+
//	    REUSE  <------------------------------------+         v
//	pte gets RW                                             COPY
//	                                 new page, copied without a lock;
//	                                 entry cleared and flushed, then set
//
// "Nobody else maps it" looks at the counts of mappings and of swap entries, and
// not at the references: the page of a process that was pinned for I/O before a
// fork is copied here, and the I/O goes on in the page that is then the other
// process's alone.
//
// Preconditions:
//   - the ptl is held and f.Orig is the entry; on return it is not
func (s *System) doWpPage(f *Fault) VMFault {
	t, v := f.T, f.VMA
	p := s.NormalPage(v, f.Orig)
	f.Page = p
	switch {
	case p == nil:
		if v.Flags&(VMWrite|VMShared) == VMWrite|VMShared {
			return s.wpReuse(f)
		}
		return s.wpCopy(f)
	case p.Anon() && !p.KSM():
		next := WPCopyPage
		if s.hooks&HookWP != 0 {
			next = s.policy.WP(f)
		} else {
			next = f.LockAndReuse()
		}
		switch next {
		case WPReuse:
			return s.wpReuse(f)
		case WPCopyPage:
			return s.wpCopy(f)
		case WPRetry:
			f.Unlock()
			t.C.Trace.Inc(trace.EmuWPRetry)
		case WPFinished:
			if f.Write {
				return VMFaultWrite
			}
		}
		return 0
	case v.Flags&(VMWrite|VMShared) == VMWrite|VMShared:
		return s.wpShared(f)
	default:
		return s.wpCopy(f)
	}
}

// LockAndReuse is what 2.6.29 does to decide on an anonymous page: lock it, and
// reuse it if nobody else maps it. It returns WPRetry if the lock was busy and the
// entry has changed by the time it was ours.
//
// Preconditions:
//   - the ptl is held and f.Orig is the entry; the ptl is held on return too,
//     though it may have been dropped
func (f *Fault) LockAndReuse() WPNext {
	if !f.LockPage() {
		return WPRetry
	}
	s := f.MM.Sys
	reuse := s.ReuseSwapPage(f.T, f.Page)
	s.Pages.UnlockPage(f.T, f.Page)
	if reuse {
		return WPReuse
	}
	return WPCopyPage
}

// LockPage takes the page lock of f.Page under the ptl: at once if it is free, else by
// dropping the ptl and sleeping. It reports false, with the page not locked, if
// the entry has changed meanwhile. The ptl is held before and after.
func (f *Fault) LockPage() bool {
	t, pages := f.T, f.MM.Sys.Pages
	p := f.Page
	if pages.TrylockPage(t, p) {
		return true
	}
	pages.Get(t, p)
	f.Unlock()
	pages.LockPage(t, p)
	f.Lock()
	same := f.Same()
	if !same {
		pages.UnlockPage(t, p)
	}
	pages.Put(t, p)
	return same
}

// wpReuse makes the entry writable: the second half of a write fault that needs no
// copy. The ptl is held and dropped.
func (s *System) wpReuse(f *Fault) VMFault {
	t, v := f.T, f.VMA
	t.C.Trace.Inc(trace.EmuWPReuse)
	if f.Unshare {
		f.Unlock() // it may stay read-only
		return 0
	}
	entry := MaybeMkWrite(f.Orig.MkYoung().MkDirty(), v)
	s.PtepSetAccessFlags(t, v, f.Addr, f.PTE, entry, true /* dirty */)
	t.C.Trace.Inc(trace.EmuCOWReuse)
	if t.C.Trace.On() && f.Page != nil {
		t.C.Trace.Event(trace.EvCOWReuse, t.C.Now(), f.Addr, uint64(s.Pages.PFN(f.Page)), uint64(f.Page.Count.Peek()))
	}
	f.Unlock()
	return VMFaultWrite
}

// wpShared is a write to a page of a shared mapping that was mapped read-only so
// that the mapping is told of the first write (page_mkwrite). The ptl is held
// and dropped.
func (s *System) wpShared(f *Fault) VMFault {
	t, p := f.T, f.Page
	if f.Unshare {
		f.Unlock()
		return 0
	}
	s.Pages.Get(t, p) // for the dirtying below, and while the ptl is dropped
	if f.VMA.Mapping.HasMkwrite() {
		f.Unlock()
		if f.VMA.Mapping.PageMkwrite(t, f.VMA, p) != nil {
			s.Pages.Put(t, p)
			return VMFaultSigbus
		}
		f.Lock()
		if !f.Same() {
			f.Unlock()
			s.Pages.Put(t, p)
			return 0
		}
	}
	ret := s.wpReuse(f)
	s.Pages.WaitOnLocked(t, p)
	s.SetPageDirty(t, p)
	s.Pages.Put(t, p)
	return ret
}

// wpCopy gives the address space a page of its own. The ptl is held and dropped.
//
// The copy is made with no lock held: what a device writes to the old page while it
// is copied, or afterwards, the new one does not have. The old mapping's count goes
// only after the flush: were it earlier, the other process could see that it is
// alone and write to the page, which our other CPUs still read.
func (s *System) wpCopy(f *Fault) VMFault {
	t, v, old := f.T, f.VMA, f.Page
	held := old
	if s.Broken(BreakWPHold) {
		held = nil
	}
	if held != nil {
		s.Pages.Get(t, held)
	}
	f.Unlock()
	var p *page.Page
	if AnonVMAPrepare(t, v) == nil {
		p = s.Pages.Alloc(t, page.GFPHighUserMovable, 0, "do_wp_page")
	}
	if p == nil {
		if held != nil {
			s.Pages.Put(t, held)
		}
		return VMFaultOOM
	}
	counted := s.hooks&HookWP != 0
	if counted && s.policy.WPCopy(f) != WPCopyPage {
		s.Pages.Put(t, p)
		if held != nil {
			s.Pages.Put(t, held)
		}
		t.C.Trace.Inc(trace.EmuWPRetry)
		return 0
	}
	if old != nil {
		if v.Flags&VMLocked != 0 {
			s.ClearPageMlock(t, old)
		}
		s.CowUserPage(t, p, old)
	} else {
		s.copyFromUserAddress(t, p, f.Addr)
	}
	p.PokeSet(page.Uptodate)

	ret := VMFault(0)
	f.Lock()
	if f.sameUnless(BreakWPRecheck) {
		switch {
		case old == nil:
			f.MM.AnonRSS.RawAdd(1)
		case !old.Anon():
			f.MM.FileRSS.RawAdd(^uint64(0))
			f.MM.AnonRSS.RawAdd(1)
		}
		entry := s.MkPTE(p, v)
		if f.Unshare {
			t.C.Trace.Inc(trace.EmuUnshare)
		} else {
			entry = MaybeMkWrite(entry.MkDirty(), v)
			ret = VMFaultWrite
		}
		early := old != nil && s.Broken(BreakWPEarlyRmap)
		if early {
			s.PageRemoveRmap(t, old)
		}
		s.PtepClearFlushNotify(t, v, f.Addr, f.PTE)
		s.Pages.Relabel(t, p, page.RefTemp, page.RefMap, 1)
		s.PageAddNewAnonRmap(t, p, v, f.Addr)
		f.PTE.Set(t.C, entry)
		TracePTE(t, f.Addr, 0, entry)
		t.C.Trace.Inc(trace.EmuWPCopy)
		t.C.Trace.Inc(trace.EmuCOWCopy)
		if old != nil {
			if old.KSM() {
				t.C.Trace.Inc(trace.EmuKSMBreaks)
				t.C.Trace.Event(trace.EvKSMBreak, t.C.Now(), f.Addr, uint64(s.Pages.PFN(old)), 0)
			}
			if !early {
				s.PageRemoveRmap(t, old)
			}
			t.C.Trace.Event(trace.EvCOWCopy, t.C.Now(), f.Addr, uint64(s.Pages.PFN(old)), uint64(s.Pages.PFN(p)))
			s.Pages.PutAs(t, old, page.RefMap)
		}
	} else {
		t.C.Trace.Inc(trace.EmuFaultRetries)
		s.Pages.Put(t, p)
	}
	if held != nil {
		s.Pages.Put(t, held)
	}
	if counted {
		s.policy.WPDone(f)
	}
	f.Unlock()
	return ret
}
