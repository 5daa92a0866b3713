package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
)

// copyDontCOW is copyPTERange for a VMA with VMDontCOW: see MadvDontCOW. The child gets
// a copy of every anonymous page that is in memory, so nothing of it is shared, and a device that has a
// page of the parent's pinned goes on with the page that the parent goes on with. The
// program has said so; nobody is asked who holds references, and the policy's hooks for
// the copying of ptes are not called, but for that of swap entries, which are shared.
//
// Each page's copy is one instant of what CPUs store: the entry loses its write
// permission, is flushed, and gets it back when the copy is made. mmap_sem is held for
// writing, so who stores meanwhile waits in a fault. What a device writes meanwhile may
// be in the copy in part.
func (s *System) copyDontCOW(f *Fork, dst, src x86.PFN, addr, end uint64) error {
	t := f.T
	f.SrcPTL, f.DstPTL = s.Pages.PTL(src), s.Pages.PTL(dst)
	for ; addr != end; addr += x86.PageSize {
		f.Addr = addr
		f.SrcPTE, f.DstPTE = f.Src.entry(src, x86.LevelPTE, addr), f.Dst.entry(dst, x86.LevelPTE, addr)
		f.Lock()
		for again := true; again; {
			var err error
			if again, err = s.copyDontCOWPTE(f); err != nil {
				f.Unlock()
				return err
			}
		}
		f.Unlock()
		t.CondResched()
	}
	return nil
}

// copyDontCOWPTE copies the page of one entry; again says that the entry changed
// meanwhile.
//
// Preconditions:
//   - both ptls are held
func (s *System) copyDontCOWPTE(f *Fork) (again bool, err error) {
	c := f.T.C
	f.PTE = f.SrcPTE.Load(c)
	switch {
	case f.PTE.None():
		return false, nil
	case !f.PTE.Present():
		// A page that is not there cannot be copied: the entry is shared, as in any fork, and
		// a policy that keeps something in it is asked.
		s.copySwapPTE(f, f.PTE)
		if s.hooks&HookForkSwap != 0 {
			s.policy.ForkSwap(f)
		}
		f.DstPTE.Set(c, f.PTE)
		return false, nil
	}
	p := s.NormalPage(f.SrcVMA, f.PTE)
	if p == nil || !p.Anon() {
		f.CopyOnePTE()
		return false, nil
	}
	writable := f.PTE.Write()
	if writable {
		f.SrcPTE.SetWrprotect(c)
		s.FlushTLBPage(f.T, f.SrcVMA, f.Addr)
	}
	f.Page = p
	next := f.CopyToChild("madv_dontcow")
	f.Page = nil
	if c = f.T.C; writable {
		if pte := f.SrcPTE.Load(c); pte.Present() && pte.PFN() == s.Pages.PFN(p) {
			f.SrcPTE.Set(c, pte.MkWrite())
		}
	}
	if next == ForkNoMem {
		return false, unix.ENOMEM
	}
	return next == ForkAgain, nil
}
