package policy

import (
	"github.com/cowlab/cowlab/mm"
)

// VMNoCOW is row 24: Matthew Wilcox' idea of January 2023. It never was a patch; this is
// the least that does what the mail says.
//
// "Set it the first time somebody does an O_DIRECT read or RDMA pin": the first such operation
// on a private mapping marks the VMA, a pin of a driver's whatever it is for.
// fork copies every page of a marked VMA for the child and leaves the parent's pte
// alone. Nothing is kept for each page. The mark is set before the first look-up and with
// mmap_sem held, which fork takes for writing: either fork sees it, or the look-up
// comes after the fork.
type VMNoCOW struct {
	mm.Stock
	noCopy bool // takes fork's copy out: the deciding line, for mutants
}

// vmNoCOW is VM_NOCOW.
const vmNoCOW = mm.VMPolicy0

// Name implements mm.Policy.
func (VMNoCOW) Name() string { return "vm_nocow" }

// Hooks implements mm.Policy.
func (VMNoCOW) Hooks() mm.HookSet { return mm.HookPin | mm.HookForkPTE }

// Claims implements mm.Policy.
func (VMNoCOW) Claims() mm.Guarantee { return mm.Forward | mm.AIO | mm.OtherPins }

// About implements mm.Policy.
func (VMNoCOW) About() mm.About {
	return mm.About{
		Row: 24, Title: "the first direct read or driver's pin marks the VMA; fork copies all its pages",
		Who: "Matthew Wilcox", When: "January 2023, an idea on a list", Lines: "-",
		Changes: []string{
			"direct I/O that reads from a file, and drivers: mark the private VMAs of their buffers, for life",
			"fork: copies every anonymous page of a marked VMA for the child; the parent's pte stays as it is; the child's VMA inherits the mark",
		},
		Claims: "the forward race, for direct I/O and drivers",
		Open:   "the reverse race and the disclosure; pages in swap at fork are shared; one pinned page costs a copy of the whole VMA; no hugetlb",
	}
}

// PinBegin marks the VMAs of the buffers.
func (VMNoCOW) PinBegin(u *mm.PinUser) error {
	if u.Kind != mm.UserDriver && !(u.Kind == mm.UserDirectIO && u.Write) {
		return nil
	}
	u.MM.MmapSem.DownWrite(u.T)
	for _, r := range u.Ranges {
		for at, end := r.Addr, r.Addr+r.Len; at < end; {
			v := u.MM.FindVMA(u.T, at)
			if v == nil || v.Start >= end {
				break
			}
			if v.Flags.IsCOW() {
				v.Flags |= vmNoCOW
			}
			at = v.End
		}
	}
	u.MM.MmapSem.UpWrite(u.T)
	return nil
}

// ForkPTE is copy_one_pte.
func (p VMNoCOW) ForkPTE(f *mm.Fork) mm.ForkNext {
	if f.SrcVMA.Flags&vmNoCOW != 0 && !p.noCopy {
		if pg := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE); pg != nil && pg.Anon() {
			f.Page = pg
			return mm.ForkStop
		}
	}
	return f.CopyOnePTE()
}

// ForkBreak copies with the ptls dropped. Reclaim may take the parent's pte away
// meanwhile; then the entry is looked at again.
func (VMNoCOW) ForkBreak(f *mm.Fork) mm.ForkNext {
	next := f.CopyToChild("vm_nocow")
	f.Unlock()
	return next
}
