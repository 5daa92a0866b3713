package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// get_user_pages: from user addresses to pages with references, so that a device
// can use the memory while nobody looks at the page tables any more. Linux
// 2.6.29 mm/memory.c:__get_user_pages.
//
//	for each VMA: permission, GUPVMA
//	  for each page: follow_page --page--> reference, next page
//	                     | no pte, or not writable
//	                     v
//	                 handle_mm_fault, follow_page again
//
// A reference keeps the page from being freed, and that is all it does: it does
// not keep the page mapped where it was found. What follows from that is this
// project's subject.

// GetUserPages takes references of the given kind on the n pages from start
// (rounded down to a page) on in mm's address space, faulting them in as needed,
// and stores the pages. With pages nil it only faults them in. It returns how
// many pages it got, and an error only if that is none:
//
//   - EFAULT: nothing is mapped at start, or not with the permission asked for
//   - ENOMEM: out of memory
//   - EINTR: the task is being killed (ERESTARTSYS in the kernel)
//
// Preconditions:
//   - mm.MmapSem is held for reading. A policy may drop and retake it.
func GetUserPages(t *sched.Task, mm *MM, start uint64, n int, flags GUPFlags, kind PinKind, pages []*page.Page) (int, error) {
	if n <= 0 {
		return 0, nil
	}
	g := &stateOf(t).gup
	outer := *g // a fault of a locked stack gets here again
	*g = GUP{T: t, MM: mm, Addr: start & x86.PageMask, Flags: flags, Kind: kind, Want: pages != nil}
	wr := uint64(flags & GUPWrite)
	t.C.Trace.Event(trace.EvGUPSlowBegin, t.C.Now(), g.Addr, uint64(n), wr)
	got, err := mm.Sys.getUserPages(g, n, pages)
	t.C.Trace.Event(trace.EvGUPSlowEnd, t.C.Now(), start&x86.PageMask, uint64(got), 0)
	*g = outer
	t.C.Trace.Add(trace.EmuGUPSlowPages, uint64(got))
	if pages != nil {
		mm.Sys.countPins(t, kind, pages[:got])
	}
	if got > 0 {
		return got, nil
	}
	return 0, err
}

// getUserPages does the work of GetUserPages. It returns the count so far
// together with what ended it.
func (s *System) getUserPages(g *GUP, n int, pages []*page.Page) (int, error) {
	t, mm := g.T, g.MM
	write := g.Flags&GUPWrite != 0
	need := VMRead | VMMayRead
	if write {
		need = VMWrite | VMMayWrite
	}
	if g.Flags&GUPForce != 0 {
		need &= VMMayRead | VMMayWrite
	} else {
		need &= VMRead | VMWrite
	}
	for i := 0; ; {
		v := findExtendVMA(t, mm, g.Addr)
		if v == nil || v.Flags&(VMIO|VMPFNMap) != 0 || g.Flags&GUPIgnoreVMAPerm == 0 && v.Flags&need == 0 {
			return i, unix.EFAULT
		}
		g.VMA = v
		g.Foll = FollTouch
		if g.Want {
			g.Foll |= FollGet
		}
		if !write && useZeroPage(v) {
			g.Foll |= FollAnon
		}
		if s.hooks&HookGUPVMA != 0 {
			switch s.policy.GUPVMA(g) {
			case GUPLookup:
				continue
			case GUPFail:
				return i, unix.EFAULT
			case GUPNoMem:
				return i, unix.ENOMEM
			}
			v = g.VMA
		}
		if v.Flags&VMHugetlb != 0 {
			got, err := s.followHugetlbPage(g, n-i, pages, i)
			if i += got; err != nil || i == n {
				return i, err
			}
			continue
		}
		// What each page begins with: the caller's wish or the policy's. A fault
		// may take it away for one page.
		force := g.Foll & FollWrite
		if write {
			force = FollWrite
		}
		for i < n && g.Addr < v.End {
			if g.Flags&GUPIgnoreSigkill == 0 && t.FatalSignalPending() {
				return i, unix.EINTR
			}
			g.Foll |= force
			t.CondResched()
			p, err := s.followOrFault(g)
			if err != nil {
				return i, err
			}
			if g.Want {
				pages[i] = p
				if s.hooks&HookTaken != 0 {
					s.policy.Taken(g, p)
				}
			}
			i++
			g.Addr += x86.PageSize
		}
		if i == n {
			return i, nil
		}
	}
}

// useZeroPage reports whether FollAnon makes sense in v: nothing but zeroes can be
// where nothing is mapped (use_zero_page).
func useZeroPage(v *VMA) bool {
	return v.Flags&(VMLocked|VMShared) == 0 && v.Mapping == nil
}

// followOrFault returns the page at g.Addr, after as many faults as it takes.
//
// There is no limit to them, and a kill does not end them, as in 2.6.29: a
// policy that keeps asking for write access in a VMA that never gets it stays
// here for ever.
func (s *System) followOrFault(g *GUP) (*page.Page, error) {
	t := g.T
	for {
		p, err := s.followPage(g)
		if p != nil || err != nil {
			return p, err
		}
		t.C.Trace.Inc(trace.EmuGUPFaults)
		r := s.gupFault(g)
		g.Foll &^= FollUnshare
		switch {
		case r&VMFaultOOM != 0:
			return nil, unix.ENOMEM
		case r&VMFaultSigbus != 0:
			return nil, unix.EFAULT
		}
		// COW is broken, but the pte is still not writable because the VMA is
		// not: going on as for a read is safe, and going on as for a write would
		// never end. It is only done in such a VMA, as elsewhere another fault
		// could share the page again in between.
		if r&VMFaultWrite != 0 && g.VMA.Flags&VMWrite == 0 {
			g.Foll &^= FollWrite
		}
		t.CondResched()
	}
}

// gupFault takes the fault that follow_page needs.
func (s *System) gupFault(g *GUP) VMFault {
	if g.Foll&FollUnshare != 0 {
		return HandleUnshareFault(g.T, g.VMA, g.Addr)
	}
	return HandleMMFault(g.T, g.VMA, g.Addr, g.Foll&FollWrite != 0)
}

// followPage looks g.Addr up and returns its page, with a reference if g.Foll says
// so; nil if a fault is needed first, and EFAULT if there is no struct Page
// behind the address. Linux 2.6.29 mm/memory.c:follow_page.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (s *System) followPage(g *GUP) (*page.Page, error) {
	t := g.T
	ref, ptl, ok := g.MM.lookupPTE(t.C, g.Addr)
	if !ok {
		return s.followNone(g)
	}
	ptl.Lock(t)
	pte := ref.Load(t.C)
	if !pte.Present() {
		ptl.Unlock(t)
		if !pte.None() {
			return nil, nil
		}
		return s.followNone(g)
	}
	if g.Foll&FollWrite != 0 && !pte.Write() {
		ptl.Unlock(t)
		return nil, nil
	}
	if pte.Special() {
		ptl.Unlock(t)
		return nil, unix.EFAULT
	}
	p := s.Pages.Page(pte.PFN())
	if g.Foll&FollGet != 0 {
		next := FollowTake
		if s.hooks&HookFollow != 0 {
			next = s.policy.Follow(g, pte, p)
		}
		switch next {
		case FollowFault:
			ptl.Unlock(t)
			return nil, nil
		case FollowTake:
			s.takePin(t, p, g.Kind)
		}
	}
	if g.Foll&FollTouch != 0 {
		if g.Foll&FollWrite != 0 && !pte.Dirty() && !s.Pages.TestFlag(t, p, page.Dirty) {
			s.SetPageDirty(t, p)
		}
		s.Pages.MarkPageAccessed(t, p)
	}
	ptl.Unlock(t)
	return p, nil
}

// followNone is the end of follow_page where nothing is mapped: whoever only
// reads anonymous memory that nobody has touched gets the zero page, and no page
// table is made.
func (s *System) followNone(g *GUP) (*page.Page, error) {
	if g.Foll&FollAnon == 0 {
		return nil, nil
	}
	p := s.ZeroPage(g.T)
	if p == nil {
		return nil, unix.ENOMEM
	}
	if g.Foll&FollGet != 0 {
		s.takePin(g.T, p, g.Kind)
	}
	if g.Foll&FollWrite != 0 {
		g.T.Oops("follow_page: FOLL_ANON and FOLL_WRITE at %#x of VMA %#x-%#x", g.Addr, g.VMA.Start, g.VMA.End)
	}
	return p, nil
}

// countPins counts pages that were pinned, in the way in which later kernels do
// (FOLL_PIN, for however long): each page once, whoever took the reference, the core or a
// policy's hook. PutUserPage counts the same pages when they are released.
func (s *System) countPins(t *sched.Task, kind PinKind, pages []*page.Page) {
	if kind != PinGet {
		t.C.Trace.Add(trace.EmuNrFollPinAcquired, uint64(len(pages)))
	}
	if t.C.Trace.On() {
		for _, p := range pages {
			s.tracePin(t, trace.EvPin, p, kind)
		}
	}
}

// tracePin records that a user of get_user_pages has taken or dropped a reference, of
// whatever kind: in 2.6.29 all of them are plain ones.
func (s *System) tracePin(t *sched.Task, what trace.EventKind, p *page.Page, kind PinKind) {
	t.C.Trace.Event(what, t.C.Now(), uint64(s.Pages.PFN(p)), 1, uint64(kind))
}

// TakeUserPage takes one more reference of the kind on a page of which the caller has one,
// for PutUserPage to drop: what a bio holds besides the request that made it.
func (s *System) TakeUserPage(t *sched.Task, p *page.Page, kind PinKind) {
	if kind != PinGet {
		t.C.Trace.Inc(trace.EmuNrFollPinAcquired)
	}
	if t.C.Trace.On() {
		s.tracePin(t, trace.EvPin, p, kind)
	}
	s.takePin(t, p, kind)
}

// takePin takes one reference on behalf of a user of get_user_pages, uncounted.
func (s *System) takePin(t *sched.Task, p *page.Page, kind PinKind) {
	if s.hooks&HookPut != 0 {
		s.policy.Take(t, p, kind, 1)
		return
	}
	s.Pages.GetAs(t, p, page.RefPin)
}

// PutUserPage drops a reference that GetUserPages, GetUserPagesFast or TakeUserPage took with the
// same kind (put_page, or unpin_user_page of later kernels). It may be called
// in interrupts.
func (s *System) PutUserPage(t *sched.Task, p *page.Page, kind PinKind) {
	if kind != PinGet {
		t.C.Trace.Inc(trace.EmuNrFollPinReleased)
	}
	if t.C.Trace.On() {
		s.tracePin(t, trace.EvUnpin, p, kind)
	}
	if s.hooks&HookPut != 0 {
		s.policy.Put(t, p, kind, 1)
		return
	}
	s.Pages.PutAs(t, p, page.RefPin)
}

// PutUserPages is PutUserPage for each of pages.
func (s *System) PutUserPages(t *sched.Task, pages []*page.Page, kind PinKind) {
	for _, p := range pages {
		s.PutUserPage(t, p, kind)
	}
}

// zeroObj names the word that says where ZERO_PAGE is.
const zeroObj = x86.ObjID(x86.ClassWord)<<56 | 1<<44 | 1

// ZeroPage returns ZERO_PAGE, a reserved page of zeroes that is never freed, with
// no reference for the caller; nil if there is no memory for it. It is made when
// first asked for.
func (s *System) ZeroPage(t *sched.Task) *page.Page {
	t.C.Touch(zeroObj, x86.AccRead)
	if pfn := s.anon.zero.Peek(); pfn != 0 {
		return s.Pages.Page(x86.PFN(pfn))
	}
	return s.makeZeroPage(t)
}

//go:noinline
func (s *System) makeZeroPage(t *sched.Task) *page.Page {
	p := s.Pages.Alloc(t, page.GFPKernel|page.GFPZero, 0, "zero_page")
	if p == nil {
		return nil
	}
	t.C.Touch(zeroObj, x86.AccWrite)
	if !s.anon.zero.RawCAS(0, uint64(s.Pages.PFN(p))) {
		s.Pages.Put(t, p) // somebody was faster
		return s.Pages.Page(x86.PFN(s.anon.zero.Peek()))
	}
	s.Pages.Relabel(t, p, page.RefTemp, page.RefKernel, 1)
	s.Pages.SetFlag(t, p, page.Reserved)
	s.Pages.SetFlag(t, p, page.Uptodate)
	return p
}
