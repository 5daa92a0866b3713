package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Locked memory, as far as mmap needs it: pages of a VMLocked VMA are made present
// when the VMA is made, and stay, because reclaim asks for the flag. Linux 2.6.29
// mm/mlock.c. The flag PG_mlocked is not kept yet.

// mlockVMAPagesRange makes the pages of [start, end) in the VMLocked VMA v present
// and returns how many pages do not count as locked: all of them where v cannot be
// locked, and then it is not any more (mlock_vma_pages_range). Faults that fail are
// hidden from mmap's caller, as in Linux.
//
// Preconditions:
//   - mmap_sem is held
func (m *MM) mlockVMAPagesRange(t *sched.Task, v *VMA, start, end uint64) (notLocked uint64) {
	pages := (end - start) >> x86.PageShift
	if v.Flags&(VMIO|VMPFNMap) != 0 {
		v.Flags &^= VMLocked
		return pages
	}
	_ = makePagesPresent(t, m, start, end)
	if v.Flags&(VMDontExpand|VMHugetlb) != 0 {
		v.Flags &^= VMLocked
		return pages
	}
	return 0
}

// munlockVMAPagesAll is munlock_vma_pages_all: v is about to go.
func (m *MM) munlockVMAPagesAll(_ *sched.Task, v *VMA) { v.Flags &^= VMLocked }

// makePagesPresent faults the pages of [addr, end), which one VMA contains, for
// writing if the VMA allows it (make_pages_present).
//
//   - ENOMEM: out of memory, or no VMA
//   - EFAULT: not all could be made present
//
// Preconditions:
//   - mmap_sem is held
func makePagesPresent(t *sched.Task, m *MM, addr, end uint64) error {
	v := m.findVMA(t, addr)
	if v == nil {
		return unix.ENOMEM
	}
	flags := GUPInternal
	if v.Flags&VMWrite != 0 {
		flags |= GUPWrite
	}
	n := int((pageAlign(end) - addr&x86.PageMask) >> x86.PageShift)
	got, err := GetUserPages(t, m, addr, n, flags, PinGet, nil)
	if err == nil && got != n {
		err = unix.EFAULT
	}
	return err
}
