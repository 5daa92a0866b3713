package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// DupMM makes a copy of an address space for a child process, with one user: dup_mm.
// Private memory is shared until somebody writes to it. Errors are ENOMEM, and
// whatever the policy's ForkLock returns; then nothing is left of the child.
//
// Preconditions:
//   - the caller has a user of old and holds no lock
func (s *System) DupMM(t *sched.Task, old *MM) (*MM, error) {
	m, err := s.NewMM(t)
	if err != nil {
		return nil, err
	}
	m.copyLayout(old)
	t.C.Trace.Event(trace.EvForkBegin, t.C.Now(), uint64(old.ID), uint64(m.ID), 0)
	err = s.dupMmap(t, m, old)
	ret := uint64(0)
	if err != nil {
		ret = ^uint64(0)
	}
	t.C.Trace.Event(trace.EvForkEnd, t.C.Now(), uint64(old.ID), uint64(m.ID), ret)
	if err != nil {
		m.MMPut(t)
		return nil, err
	}
	t.C.Trace.Inc(trace.EmuFork)
	return m, nil
}

// copyLayout gives a child the layout of its parent, which another thread may be changing: Linux
// 2.6.29 copies the whole mm_struct before it takes the parent's mmap_sem. A brk in between leaves the
// child with an end of the heap that is not that of its VMA.
//
//go:norace
func (m *MM) copyLayout(old *MM) {
	m.StartBrk, m.Brk, m.MmapBase, m.StackTop = old.StartBrk, old.Brk, old.MmapBase, old.StackTop
}

// dupMmap copies the VMAs and the page tables of old into m. Linux 2.6.29
// kernel/fork.c:dup_mmap.
//
//	parent's mmap_sem, child's mmap_sem
//	  for each VMA: copy it, link the copy to the anon_vma, copy its ptes
//	up(child)                    rmap could see the child's ptes all along
//	flush the parent's TLBs      until here its other threads may have gone on
//	up(parent)                   writing to pages that the child has too
//
// The one flush at the end makes up for all the entries that were write-protected.
func (s *System) dupMmap(t *sched.Task, m, old *MM) error {
	if s.hooks&HookForkLock != 0 {
		if err := s.policy.ForkLock(t, old); err != nil {
			return err
		}
	}
	old.MmapSem.DownWrite(t)
	m.MmapSem.DownWriteNested(t)
	old.flushBegin()
	m.Limits = old.Limits
	m.TotalVM = old.TotalVM
	ts := stateOf(t)
	if ts.fork.T != nil {
		t.Oops("fork within fork")
	}
	f := &ts.fork
	*f = Fork{T: t, Src: old, Dst: m}
	err := m.ksmFork(t, old)
	for v := old.firstVMA(); v != nil && err == nil; v = old.nextVMA(v) {
		err = s.dupVMA(t, f, v)
	}
	*f = Fork{}
	m.MmapSem.UpWrite(t)
	if !s.Broken(BreakForkFlush) {
		s.FlushTLBMM(t, old)
	}
	old.flushEnd()
	old.MmapSem.UpWrite(t)
	if s.hooks&HookForkLock != 0 {
		s.policy.ForkUnlock(t, old)
	}
	return err
}

// dupVMA copies one VMA and its ptes. The copy is in the child's tree and on the
// rmap lists before the first pte is copied; on error it stays there, for the
// end of the child to take it down.
func (s *System) dupVMA(t *sched.Task, f *Fork, v *VMA) error {
	m := f.Dst
	if v.Flags&VMDontCopy != 0 {
		m.TotalVM -= v.Pages()
		return nil
	}
	if v.Flags&VMAccount != 0 {
		if err := s.vmEnoughMemory(CurrentMM(t), v.Pages()); err != nil {
			return err
		}
	}
	if s.Pages.FailSite(t, siteVMA) {
		if v.Flags&VMAccount != 0 {
			s.vmUnacctMemory(v.Pages())
		}
		return unix.ENOMEM
	}
	n := f.Src.copyVMA(v)
	n.MM = m
	n.Flags &^= VMLocked
	n.resetResv()
	anonVMALink(t, n)
	if n.File != nil {
		n.File.Get(t)
	}
	linkFileVMA(t, n)
	t.WriteOf(m, "mm.vmas")
	m.treeInsert(n)
	f.SrcVMA, f.DstVMA = v, n
	err := s.copyPageRange(f)
	if o := n.ops(); o != nil {
		o.Open(t, n)
	}
	return err
}

// copyPageRange copies the ptes of f.SrcVMA. A VMA that cannot have anonymous pages
// is left to later faults: they find its pages in the mapping again. Linux 2.6.29
// mm/memory.c:copy_page_range.
//
// Preconditions:
//   - both mmap_sems are held for writing
func (s *System) copyPageRange(f *Fork) error {
	t, v := f.T, f.SrcVMA
	if v.Flags&(VMHugetlb|VMNonlinear|VMPFNMap|VMInsertPage) == 0 && v.AnonVMA == nil {
		return nil
	}
	bracket := v.Flags.IsCOW() && s.hooks&HookForkRange != 0
	if bracket {
		s.policy.ForkBegin(f)
	}
	if v.Flags&VMHugetlb != 0 {
		err := s.copyHugetlbPageRange(f)
		if bracket {
			s.policy.ForkEnd(f)
		}
		return err
	}
	if v.Flags.IsCOW() {
		f.Src.mmuNotifierInvalidateRangeStart(t, v.Start, v.End)
	}
	var err error
	for addr := v.Start; addr < v.End && err == nil; {
		src, at, next, _, ok := f.Src.nextTable(t.C, addr, v.End)
		if !ok {
			break
		}
		var dst x86.PFN
		if dst, err = f.Dst.pteAlloc(t, at); err != nil {
			break
		}
		if v.Flags.IsCOW() && v.Flags&VMDontCOW != 0 {
			err = s.copyDontCOW(f, dst, src, at, next)
		} else {
			err = s.copyPTERange(f, dst, src, at, next)
		}
		addr = next
	}
	if v.Flags.IsCOW() {
		f.Src.mmuNotifierInvalidateRangeEnd(t, v.Start, v.End)
	}
	if bracket {
		s.policy.ForkEnd(f)
	}
	if err == nil && s.hooks&HookForkVMA != 0 {
		err = s.policy.ForkVMA(f)
	}
	return err
}

// progressBreak is how much work copyPTERange does before it looks whether
// somebody waits: 8 for each entry copied, 1 for each empty one.
const progressBreak = 32

// copyPTERange copies the entries of one table, both ptls held, and lets go of them
// whenever somebody waits. Linux 2.6.29 mm/memory.c:copy_pte_range. While they are
// not held gup-fast and reclaim may change things, as they may everywhere else;
// faults and slow get_user_pages are shut out by mmap_sem.
func (s *System) copyPTERange(f *Fork, dst, src x86.PFN, addr, end uint64) error {
	t := f.T
	f.SrcPTL, f.DstPTL = s.Pages.PTL(src), s.Pages.PTL(dst)
	for addr != end {
		f.Lock()
		stop := false
		if s.hooks&(HookForkPTE|HookForkSwap) == 0 {
			addr = s.copyPTEs(f, dst, src, addr, end)
		} else {
			addr, stop = s.copyPTEsHooked(f, dst, src, addr, end)
		}
		if !stop {
			f.Unlock()
		} else {
			switch s.policy.ForkBreak(f) {
			case ForkAgain:
				t.C.Trace.Inc(trace.EmuForkRetries)
			case ForkNoMem:
				return unix.ENOMEM
			default:
				addr += x86.PageSize
			}
			f.Page = nil
		}
		t.CondResched()
	}
	return nil
}

// lockBreak reports whether fork should let go of its ptls (need_resched,
// spin_needbreak: contention counts in preemptible kernels only).
func (f *Fork) lockBreak() bool {
	return f.T.NeedResched() ||
		f.T.M.Preempt() == sched.PreemptFull && (f.SrcPTL.Contended() || f.DstPTL.Contended())
}

// copyPTEs copies entries from addr on until end or a lock break and returns how
// far it came. It is copy_one_pte in a loop, with nothing looked up twice: the
// figures that fork is judged by come from here.
func (s *System) copyPTEs(f *Fork, dst, src x86.PFN, addr, end uint64) uint64 {
	t, v, pages := f.T, f.SrcVMA, s.Pages
	c := t.C // spinlocks are held: the task stays on its CPU
	cow, clean := v.Flags.IsCOW(), v.Flags&VMShared != 0
	from, to := f.Src.entry(src, x86.LevelPTE, addr), f.Dst.entry(dst, x86.LevelPTE, addr)
	anon, file, protected := 0, 0, 0
	plain := pages.Ledger() == nil && !s.M.CheckLocks() && !c.Trace.On() // nobody listens
	for progress := 0; ; {
		if progress >= progressBreak {
			progress = 0
			if f.lockBreak() {
				break
			}
		}
		pte := from.Load(c)
		switch {
		case pte.None():
			progress++
		case pte.Present():
			progress += 8
			if cow {
				if pte.Write() {
					protected++
				}
				from.SetWrprotect(c)
				pte = pte.WrProtect()
			}
			if clean {
				pte = pte.MkClean()
			}
			pte = pte.MkOld()
			if p := s.NormalPage(v, pte); p != nil {
				if plain && !p.Has(page.Tail) {
					// The same two additions without calls: a fifth of the loop.
					pfn := pte.PFN()
					c.Point(x86.OpAdd, x86.PageObj(pfn, x86.PageRef))
					if p.Count.RawAdd(1) <= 1 {
						f.mappedButFree(pfn, addr)
					}
					c.Point(x86.OpAdd, x86.PageObj(pfn, x86.PageMap))
					p.MapCount.RawAdd(1)
				} else {
					pages.GetAs(t, p, page.RefMap)
					s.PageDupRmap(t, p, v, addr)
				}
				if p.Anon() {
					anon++
				} else {
					file++
				}
			}
			to.Set(c, pte)
			if c.Trace.On() {
				f.event(addr, pte, cow)
			}
		default:
			f.Addr = addr
			s.copySwapPTE(f, pte)
			to.Set(c, pte)
			progress += 8
		}
		if addr += x86.PageSize; addr == end {
			break
		}
		from, to = from.Next(from.Obj+1), to.Next(to.Obj+1)
	}
	f.Anon, f.File = anon, file
	c.Trace.Add(trace.EmuForkPages, uint64(anon+file))
	c.Trace.Add(trace.EmuForkWrprotect, uint64(protected))
	return addr
}

//go:noinline
func (f *Fork) mappedButFree(pfn x86.PFN, addr uint64) {
	f.T.Oops("copy_one_pte: pfn %#x at %#x is mapped and free", uint64(pfn), addr)
}

// copyPTEsHooked is copyPTEs with the policy's hooks. stop says that the policy
// wants ForkBreak for the entry at the address returned.
func (s *System) copyPTEsHooked(f *Fork, dst, src x86.PFN, addr, end uint64) (reached uint64, stop bool) {
	c := f.T.C
	f.SrcPTE, f.DstPTE = f.Src.entry(src, x86.LevelPTE, addr), f.Dst.entry(dst, x86.LevelPTE, addr)
	for progress := 0; ; {
		if progress >= progressBreak {
			progress = 0
			if f.lockBreak() {
				break
			}
		}
		f.Addr, f.PTE = addr, f.SrcPTE.Load(c)
		switch {
		case f.PTE.None():
			progress++
		case !f.PTE.Present():
			s.copySwapPTE(f, f.PTE)
			if s.hooks&HookForkSwap != 0 {
				s.policy.ForkSwap(f)
			}
			f.DstPTE.Set(c, f.PTE)
			progress += 8
		default:
			progress += 8
			next := ForkGo
			if s.hooks&HookForkPTE != 0 {
				next = s.policy.ForkPTE(f)
			} else {
				next = f.CopyOnePTE()
			}
			c.Trace.Inc(trace.EmuForkPages)
			if next == ForkStop {
				return addr, true
			}
		}
		if addr += x86.PageSize; addr == end {
			break
		}
		f.SrcPTE, f.DstPTE = f.SrcPTE.Next(f.SrcPTE.Obj+1), f.DstPTE.Next(f.DstPTE.Obj+1)
	}
	return addr, false
}

// CopyOnePTE copies one present pte as 2.6.29 does: in a COW mapping the parent's
// entry is write-protected, without a flush, and the child gets the same
// read-only. That somebody may have the page pinned is not asked. Linux 2.6.29
// mm/memory.c:copy_one_pte.
//
// Preconditions:
//   - both ptls are held; f.PTE is the entry at f.SrcPTE as read, and present
func (f *Fork) CopyOnePTE() ForkNext {
	c := f.T.C
	pte := f.PTE
	cow := f.SrcVMA.Flags.IsCOW()
	if cow {
		if pte.Write() {
			c.Trace.Inc(trace.EmuForkWrprotect)
		}
		f.SrcPTE.SetWrprotect(c)
		pte = pte.WrProtect()
	}
	if f.SrcVMA.Flags&VMShared != 0 {
		pte = pte.MkClean()
	}
	pte = pte.MkOld()
	if p := f.Src.Sys.NormalPage(f.SrcVMA, pte); p != nil {
		f.AddMapping(p)
	}
	f.DstPTE.Set(c, pte)
	if c.Trace.On() {
		f.event(f.Addr, pte, cow)
	}
	return ForkGo
}

func (f *Fork) event(addr uint64, pte x86.PTE, cow bool) {
	what := uint64(trace.ForkShared)
	if cow {
		what = trace.ForkWrprotected
	}
	f.T.C.Trace.Event(trace.EvForkPTE, f.T.C.Now(), addr, uint64(pte.PFN()), what)
}

// copySwapPTE counts the child's copy of an entry that is not present, and puts the
// child on the list of those that have any (the first part of copy_one_pte).
//
// Preconditions:
//   - both ptls are held
func (s *System) copySwapPTE(f *Fork, pte x86.PTE) {
	if !pte.IsSwap() {
		f.T.Oops("copy_one_pte: entry %v", pte)
	}
	if !s.Broken(BreakForkSwapDup) && !s.swapDuplicate(f.T, pte.Swap()) {
		f.T.Oops("swap_dup: entry %v is not in use", pte)
	}
	s.mmlistAdd(f.T, f.Dst, f.Src)
	if c := f.T.C; c.Trace.On() {
		c.Trace.Event(trace.EvForkPTE, c.Now(), f.Addr, uint64(pte), trace.ForkSwapped)
	}
}
