package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Swap as page tables see it: entries that come back at a fault, and the list of the
// address spaces that have any.

// doSwapPage brings a page back for an entry that names a slot of swap. Linux 2.6.29
// mm/memory.c:do_swap_page, without the swap token.
//
// The page that comes back is the one that went if it is still in the cache: who has
// it pinned goes on sharing it with the process. It comes back read-only, like every
// page of a private mapping, and is made writable at once only for a write fault
// whose entry was the last user, by the same rule as in do_wp_page: the counts of
// ptes and of swap entries, not the references.
//
// As in 2.6.29, it is not checked again, once the page lock is ours, that the page is
// still the one of the entry: only that the pte is what it was.
//
// Preconditions:
//   - mmap_sem is held; no lock is held on return
func (s *System) doSwapPage(f *Fault) VMFault {
	t, v, pm := f.T, f.VMA, s.Pages
	entry := f.Orig.Swap()
	ret := VMFault(0)
	p := s.lookupSwapCache(t, entry)
	if p == nil {
		if p = s.swapinReadahead(t, entry); p == nil {
			// The entry may have been freed meanwhile: then the fault is over.
			f.Lock()
			if f.Same() {
				ret = VMFaultOOM
			}
			f.Unlock()
			return ret
		}
		ret = VMFaultMajor
		t.C.Trace.Inc(trace.PGMajFault)
	}
	s.swapUnplug(t)
	pm.MarkPageAccessed(t, p)
	pm.LockPage(t, p)
	f.Lock()
	if !f.sameUnless(BreakSwapRecheck) || !pm.TestFlag(t, p, page.Uptodate) {
		if f.Same() {
			ret = VMFaultSigbus // it could not be read
		} else {
			t.C.Trace.Inc(trace.EmuFaultRetries)
		}
		f.Unlock()
		pm.UnlockPage(t, p)
		pm.Put(t, p)
		return ret
	}
	// reuse_swap_page comes before the pte counts as a mapping and before its entry
	// ceases to count: the sum of both is 1 if we are alone.
	f.MM.AnonRSS.RawAdd(1)
	pte := s.MkPTE(p, v)
	write := f.Write
	f.Page = p
	reuse := false
	if s.hooks&HookSwapIn != 0 {
		reuse = s.policy.SwapIn(f)
	} else {
		reuse = write && s.ReuseSwapPage(t, p)
	}
	if write && reuse {
		pte = MaybeMkWrite(pte.MkDirty(), v)
		write = false
	}
	pm.Relabel(t, p, page.RefTemp, page.RefMap, 1)
	f.PTE.Set(t.C, pte)
	TracePTE(t, f.Addr, f.Orig, pte)
	s.PageAddAnonRmap(t, p, v, f.Addr)
	if !s.Broken(BreakSwapFree) {
		s.swapFree(t, entry)
	}
	if s.vmSwapFull(t) || v.Flags&VMLocked != 0 || s.Pages.SeeFlag(t, p, page.Mlocked) {
		s.tryToFreeSwap(t, p)
	}
	pm.UnlockPage(t, p)
	if write {
		f.Orig = pte
		ret |= s.doWpPage(f)
		if ret&VMFaultError != 0 {
			ret &= VMFaultError
		}
		return ret
	}
	f.Unlock()
	return ret
}

// mmRing is the list of the address spaces that may have swap entries
// (init_mm.mmlist). A child is put behind its parent.
type mmRing struct {
	lock       lock.SpinLock // mmlist_lock
	head, tail *MM           // by MM.swapNext; protected by lock
}

// insert puts m behind after, at the front if that is nil or not on the list. The
// caller holds lock.
func (r *mmRing) insert(m, after *MM) {
	if m.swapListed {
		return
	}
	m.swapListed = true
	if after == nil || !after.swapListed {
		m.swapPrev, m.swapNext = nil, r.head
	} else {
		m.swapPrev, m.swapNext = after, after.swapNext
	}
	if m.swapPrev != nil {
		m.swapPrev.swapNext = m
	} else {
		r.head = m
	}
	if m.swapNext != nil {
		m.swapNext.swapPrev = m
	} else {
		r.tail = m
	}
}

// remove takes m off. The caller holds lock.
func (r *mmRing) remove(m *MM) {
	if m.swapPrev != nil {
		m.swapPrev.swapNext = m.swapNext
	} else {
		r.head = m.swapNext
	}
	if m.swapNext != nil {
		m.swapNext.swapPrev = m.swapPrev
	} else {
		r.tail = m.swapPrev
	}
	m.swapPrev, m.swapNext, m.swapListed = nil, nil, false
}

// mmlistAdd notes that m is about to get a swap entry. The ptl of its table is held.
func (s *System) mmlistAdd(t *sched.Task, m, after *MM) {
	if m.racySwapListed(t) {
		return
	}
	r := &s.swap.mms
	r.lock.Lock(t)
	t.WriteOf(r, "mmlist")
	t.C.Touch(m.listedObj(), x86.AccWrite)
	r.insert(m, after)
	r.lock.Unlock(t)
}

// racySwapListed is apart because this read, as Linux' list_empty, races on purpose.
//
//go:norace
func (m *MM) racySwapListed(t *sched.Task) bool {
	t.C.Touch(m.listedObj(), x86.AccRead)
	return m.swapListed
}

// mmlistDel is the end of mmput: m has no entries any more.
func (s *System) mmlistDel(t *sched.Task, m *MM) {
	if !m.racySwapListed(t) {
		return
	}
	r := &s.swap.mms
	r.lock.Lock(t)
	t.WriteOf(r, "mmlist")
	t.C.Touch(m.listedObj(), x86.AccWrite)
	r.remove(m)
	r.lock.Unlock(t)
}
