package policy

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// The skeletons below are not policies: they hold the steps of three very different
// patches (rows 3, 11 and 14) against the Policy interface, so
// that a change of the interface that would shut one of them out does not compile.

var (
	_ mm.Policy = vmDontCOWSkeleton{}
	_ mm.Policy = dioRangeLockSkeleton{}
	_ mm.Policy = directedCOWSkeleton{}
)

// vmDontCOWSkeleton is row 3: the first pin turns mmap_sem round and un-COWs the VMA;
// fork leaves the parent writable and un-COWs the child's VMA once it is copied.
type vmDontCOWSkeleton struct{ mm.Stock }

func (vmDontCOWSkeleton) GUPVMA(g *mm.GUP) mm.GUPNext {
	if g.Flags&mm.GUPInternal != 0 || !g.VMA.Flags.IsCOW() || g.VMA.Flags&mm.VMPolicy0 != 0 {
		return mm.GUPGo
	}
	g.MM.MmapSem.UpRead(g.T)
	g.MM.MmapSem.DownWrite(g.T)
	v := g.MM.FindVMA(g.T, g.Addr)
	ok := true
	if v != nil && v.Flags.IsCOW() && v.Flags&mm.VMPolicy0 == 0 {
		if ok = decow(g.T, v); ok {
			v.Flags |= mm.VMPolicy0
		}
	}
	g.MM.MmapSem.DowngradeWrite(g.T)
	if !ok {
		return mm.GUPNoMem
	}
	return mm.GUPLookup
}

func (vmDontCOWSkeleton) ForkPTE(f *mm.Fork) mm.ForkNext {
	pte := f.PTE
	if f.SrcVMA.Flags.IsCOW() {
		if f.SrcVMA.Flags&mm.VMPolicy0 == 0 {
			f.SrcPTE.SetWrprotect(f.T.C)
		}
		pte = pte.WrProtect()
	}
	if p := f.Src.Sys.NormalPage(f.SrcVMA, pte); p != nil {
		f.AddMapping(p)
	}
	f.DstPTE.Set(f.T.C, pte.MkOld())
	return mm.ForkGo
}

func (vmDontCOWSkeleton) ForkVMA(f *mm.Fork) error {
	if f.SrcVMA.Flags&mm.VMPolicy0 != 0 && !decow(f.T, f.DstVMA) {
		return unix.ENOMEM
	}
	return nil
}

func (vmDontCOWSkeleton) SwapIn(f *mm.Fault) bool {
	f.MM.Sys.Pages.SetFlag(f.T, f.Page, page.Policy0)
	return f.MM.Sys.ReuseSwapPage(f.T, f.Page)
}

// decow copies every page of v that is present, anonymous and read-only.
func decow(t *sched.Task, v *mm.VMA) bool {
	s := v.MM.Sys
	for addr := v.Start; addr < v.End; addr += x86.PageSize {
		ref, ptl, ok := v.MM.LockPTE(t, addr)
		if !ok {
			continue
		}
		pte := ref.Load(t.C)
		p := s.NormalPage(v, pte)
		if !pte.Present() || pte.Write() || p == nil || !p.Anon() {
			ptl.Unlock(t)
			continue
		}
		s.Pages.Get(t, p)
		ptl.Unlock(t)
		fresh := s.AllocUserPage(t, "decow_one_pte")
		if fresh == nil {
			s.Pages.Put(t, p)
			return false
		}
		s.CowUserPage(t, fresh, p)
		s.Pages.Put(t, fresh)
		s.Pages.Put(t, p)
	}
	return true
}

// dioRangeLockSkeleton is row 11: direct I/O registers its ranges and may have to wait
// for copies; a COW that hits a registered range goes back and tries again.
type dioRangeLockSkeleton struct{ mm.Stock }

type dioRanges struct {
	lock     lock.SpinLock
	wait     lock.WaitQueue
	pins     []*mm.PinUser // protected by lock
	cows     int           // protected by lock
	conflict int           // protected by lock
}

func (dioRangeLockSkeleton) MMInit(t *sched.Task, m *mm.MM) {
	d := &dioRanges{}
	d.lock.Init(t.M, lock.PolicyLeaf)
	d.wait.Init(t.M)
	m.PolicyData = d
}

func (dioRangeLockSkeleton) PinBegin(u *mm.PinUser) error {
	d := u.MM.PolicyData.(*dioRanges)
	if err := d.wait.WaitEventInterruptible(u.T, func() bool { return d.cows == 0 }); err != nil {
		return err
	}
	off := d.lock.LockIRQSave(u.T)
	d.pins = append(d.pins, u)
	d.lock.UnlockIRQRestore(u.T, off)
	u.MM.MMGet(u.T)
	return nil
}

func (dioRangeLockSkeleton) PinEnd(t *sched.Task, u *mm.PinUser) {
	d := u.MM.PolicyData.(*dioRanges)
	d.wait.Wake(t)
	u.MM.MMPut(t)
}

func (dioRangeLockSkeleton) WPCopy(f *mm.Fault) mm.WPNext {
	d := f.MM.PolicyData.(*dioRanges)
	for _, u := range d.pins {
		for _, r := range u.Ranges {
			if f.Addr < r.Addr+r.Len && f.Addr+x86.PageSize > r.Addr {
				d.conflict++
				return mm.WPRetry
			}
		}
	}
	d.cows++
	return mm.WPCopyPage
}

func (dioRangeLockSkeleton) WPDone(f *mm.Fault) { f.MM.PolicyData.(*dioRanges).cows-- }

// directedCOWSkeleton is row 14: the page remembers its first owner; if the owner writes,
// everybody else gets the copy, and the fault is resolved without the core.
type directedCOWSkeleton struct{ mm.Stock }

func (directedCOWSkeleton) AnonNew(_ *sched.Task, p *page.Page, v *mm.VMA) {
	p.Policy.Poke(uint64(v.MM.ID))
}

func (directedCOWSkeleton) WP(f *mm.Fault) mm.WPNext {
	if f.Page.Policy.Peek() != uint64(f.MM.ID) {
		return mm.WPCopyPage
	}
	f.Unlock()
	s := f.MM.Sys
	s.RmapWalk(f.T, f.Page, func(v *mm.VMA, addr uint64) bool {
		if ref, ptl, ok := v.MM.LockPTE(f.T, addr); ok {
			_ = s.PtepClearFlush(f.T, v, addr, ref)
			ptl.Unlock(f.T)
		}
		return true
	})
	return mm.WPFinished
}
