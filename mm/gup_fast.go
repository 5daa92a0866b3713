package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// gup-fast walks the page tables as the hardware would, without mmap_sem and
// without a ptl. Linux 2.6.29 arch/x86/mm/gup.c.
//
//	interrupts off
//	  read pgd, pud, pmd --- large leaf? n references on the head
//	    read pte: present, user, writable if need be, not special
//	    get_page                      no second look at the pte
//	interrupts on
//	anything else on the way: the rest of the pages by get_user_pages
//
// What keeps the tables and the page from being freed under the walk is only
// that interrupts are off: whoever unmaps sends this CPU a TLB flush and waits
// for its acknowledgement before the frames go back. Nothing keeps the pte from
// being write-protected between the two steps above, as fork does: a reference
// for writing may be taken after that. It is taken before the flush at the end
// of fork is acknowledged, and that is all that can be said.

// maskStock is what a walk for reading requires of an entry; SPECIAL must be clear.
const maskStock = x86.PtePresent | x86.PteUser

// GetUserPagesFast takes references of the given kind on the n pages of the
// current address space from start (rounded down to a page) on, without locks
// where possible, and stores the pages. It returns as GetUserPages does.
//
// Preconditions:
//   - mmap_sem is not held, interrupts are enabled, the task may sleep
//   - len(pages) >= n
func GetUserPagesFast(t *sched.Task, start uint64, n int, write bool, kind PinKind, pages []*page.Page) (int, error) {
	if n <= 0 {
		return 0, nil
	}
	mm := CurrentMM(t)
	start &= x86.PageMask
	length := uint64(n) << x86.PageShift
	got := 0
	if length <= x86.TaskSize && start <= x86.TaskSize-length {
		s := mm.Sys
		wr := uint64(0)
		if write {
			wr = 1
		}
		t.C.Trace.Event(trace.EvGUPFastBegin, t.C.Now(), start, uint64(n), wr)
		if s.hooks&(HookFast|HookFastTake|HookFastHuge|HookPut|hookBroken) == 0 {
			w := fastWalk{s: s, t: t, c: t.C, mm: mm, mask: maskStock}
			if write {
				w.mask |= x86.PteRW
			}
			w.c.IRQDisable()
			got = w.walk(start, start+length, pages)
			w.c.IRQEnable()
			s.countPins(t, kind, pages[:got])
		} else {
			got = s.gupFastHooked(t, mm, start, n, write, kind, pages)
		}
		t.C.Trace.Add(trace.EmuGUPFastPages, uint64(got))
		t.C.Trace.Event(trace.EvGUPFastEnd, t.C.Now(), start, uint64(got), 0)
		if got == n {
			return n, nil
		}
	}
	return gupFastSlow(t, mm, start, got, n, write, kind, pages)
}

// gupFastSlow gets what the walk did not. An error counts only if there is no page
// at all.
func gupFastSlow(t *sched.Task, mm *MM, start uint64, got, n int, write bool, kind PinKind, pages []*page.Page) (int, error) {
	t.C.Trace.Inc(trace.EmuGUPFastFallback)
	flags := GUPFromFast
	if write {
		flags |= GUPWrite
	}
	held := mm.Sys.policy.HoldsMmapSem(kind)
	if !held {
		mm.MmapSem.DownRead(t)
	}
	more, err := GetUserPages(t, mm, start+uint64(got)<<x86.PageShift, n-got, flags, kind, pages[got:n])
	if !held {
		mm.MmapSem.UpRead(t)
	}
	if got > 0 {
		err = nil
	}
	return got + more, err
}

// gupFastHooked is the walk with a policy's hooks. Interrupts are off from the
// first hook to the last.
func (s *System) gupFastHooked(t *sched.Task, mm *MM, start uint64, n int, write bool, kind PinKind, pages []*page.Page) int {
	c := t.C
	if !s.Broken(BreakGUPFastIRQ) {
		c.IRQDisable()
	}
	f := &stateOf(t).fast
	*f = Fast{T: t, MM: mm, Start: start, Addr: start, Write: write, Kind: kind, Mask: maskStock}
	if write {
		f.Mask |= x86.PteRW
	}
	w := fastWalk{s: s, t: t, c: c, mm: mm, f: f}
	got, ok := 0, true
	if s.hooks&HookFast != 0 {
		f.Mask = s.policy.FastMask(f)
		w.mask = f.Mask
		if s.policy.FastBegin(f) {
			got = w.walk(start, start+uint64(n)<<x86.PageShift, pages)
			ok = s.policy.FastEnd(f)
		}
	} else {
		w.mask = f.Mask
		got = w.walk(start, start+uint64(n)<<x86.PageShift, pages)
	}
	c.IRQEnable()
	s.countPins(t, kind, pages[:got])
	if !ok {
		s.PutUserPages(t, pages[:got], kind)
		got = 0
	}
	return got
}

// fastWalk is one walk. It lives on the stack.
type fastWalk struct {
	s    *System
	t    *sched.Task
	c    *x86.CPU
	mm   *MM
	mask x86.PTE
	f    *Fast // nil without hooks
}

// walk takes references on the pages of [addr, end) and returns how many it got
// before it met something it cannot handle. It reads the tables top-down once
// for each last-level table; neighbours in one upper table are neighbours in the
// loop, as in the kernel's nested loops.
func (w *fastWalk) walk(addr, end uint64, pages []*page.Page) int {
	got := 0
	var tables [x86.NumLevels]x86.PFN // the table of each level for addr
	tables[x86.LevelPGD] = w.mm.PGD
	level := x86.LevelPGD
	for addr < end {
		e := w.mm.entry(tables[level], level, addr).Load(w.c)
		switch {
		case e.None():
			return got
		case !e.Huge() || level == x86.LevelPGD:
			level--
			tables[level] = e.PFN()
			if level != x86.LevelPTE {
				continue
			}
			next := min(end, addr&x86.PMDMask+x86.PMDSize)
			n := int((next - addr) >> x86.PageShift)
			k := w.pteRange(tables[x86.LevelPTE], addr, pages[got:got+n])
			if got += k; k < n {
				return got
			}
			addr = next
		default:
			size := x86.LevelSize(level)
			next := min(end, addr&^(size-1)+size)
			n := int((next - addr) >> x86.PageShift)
			k := w.huge(w.mm.entry(tables[level], level, addr), e, level, addr, pages[got:got+n])
			if got += k; k < n {
				return got
			}
			addr = next
		}
		// Up to the lowest level whose table goes on at addr.
		level = x86.LevelPMD
		for level < x86.LevelPGD && x86.LevelIndex(addr, level) == 0 {
			level++
		}
	}
	return got
}

// pteRange takes len(pages) pages from addr on, all translated by one table
// (gup_pte_range). It returns how many it got.
func (w *fastWalk) pteRange(table x86.PFN, addr uint64, pages []*page.Page) int {
	ref := w.mm.entry(table, x86.LevelPTE, addr)
	if w.f != nil {
		return w.pteRangeHooked(ref, addr, pages)
	}
	c, pm, mask := w.c, w.s.Pages, w.mask
	for i := range pages {
		if i > 0 {
			ref = ref.Next(ref.Obj + 1) // neighbouring entries have neighbouring names
		}
		c.Point(x86.OpPTERead, ref.Obj) // ref.Load, inlined
		pte := ref.Peek()
		if pte&(mask|x86.PteSpecial) != mask {
			return i
		}
		p := pm.Page(pte.PFN())
		pm.GetAs(w.t, p, page.RefPin)
		pages[i] = p
	}
	return len(pages)
}

func (w *fastWalk) pteRangeHooked(ref x86.PTERef, addr uint64, pages []*page.Page) int {
	s := w.s
	for i := range pages {
		if i > 0 {
			ref = ref.Next(ref.Obj + 1)
		}
		pte := ref.Load(w.c)
		if pte&(w.mask|x86.PteSpecial) != w.mask {
			return i
		}
		p := s.Pages.Page(pte.PFN())
		if s.hooks&HookFastTake != 0 {
			w.f.Addr = addr + uint64(i)<<x86.PageShift
			if !s.policy.FastTake(w.f, ref, pte, p) {
				return i
			}
		} else {
			s.takePin(w.t, p, w.f.Kind)
		}
		pages[i] = p
	}
	return len(pages)
}

// huge takes len(pages) small pages of the huge page that leaf, read at ref, maps
// (gup_huge_pmd): their references are counted by the head, all at once. It
// returns how many it got.
func (w *fastWalk) huge(ref x86.PTERef, leaf x86.PTE, level int, addr uint64, pages []*page.Page) int {
	if leaf&w.mask != w.mask {
		return 0
	}
	s := w.s
	head := s.Pages.Page(leaf.PFN())
	n := len(pages)
	switch {
	case s.hooks&HookFastHuge != 0:
		w.f.Addr = addr
		n = s.policy.FastHuge(w.f, ref, leaf, head, n)
	case s.hooks&HookPut != 0:
		s.policy.Take(w.t, head, w.f.Kind, n)
	default:
		s.Pages.GetNAs(w.t, head, page.RefPin, n)
	}
	first := int(addr&(x86.LevelSize(level)-1)) >> x86.PageShift
	for i := range n {
		pages[i] = s.Pages.Subpage(head, first+i)
	}
	return n
}
