package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// The heap: Linux 2.6.29 mm/mmap.c:sys_brk, do_brk.
//
//	StartBrk            Brk      pageAlign(Brk)
//	|-------- heap -------|.........|
//	the VMA ends at a page, Brk need not

// vmDataDefault are the flags of the heap (VM_DATA_DEFAULT_FLAGS, for programs
// whose data is not executable).
const vmDataDefault = VMRead | VMWrite | VMMayRead | VMMayWrite | VMMayExec

// SysBrk moves the end of the heap to brk and returns where it then is: at brk,
// or where it was if that cannot be. The C library makes the result an error.
func SysBrk(t *sched.Task, m *MM, brk uint64) uint64 {
	m.MmapSem.DownWrite(t)
	if m.setBrk(t, brk) {
		m.Brk = brk
	}
	brk = m.Brk
	m.MmapSem.UpWrite(t)
	return brk
}

// setBrk maps or unmaps what lies between the old end of the heap and brk, and
// reports whether it could.
func (m *MM) setBrk(t *sched.Task, brk uint64) bool {
	if brk < m.StartBrk || brk-m.StartBrk > limit(m.Limits.Data, RlimInfinity) {
		return false
	}
	end, old := pageAlign(brk), pageAlign(m.Brk)
	switch {
	case end == old:
		return true
	case brk <= m.Brk:
		return DoMunmap(t, m, end, old-end) == nil
	case end < brk || m.findVMAIntersection(t, old, end+x86.PageSize) != nil:
		return false // a page is kept free above the heap
	}
	_, err := DoBrk(t, m, old, end-old)
	return err == nil
}

// DoBrk maps size bytes of anonymous memory at addr, a multiple of the page size:
// a simple DoMmap for the heap and for exec's bss (do_brk).
//
//   - ENOMEM, EINVAL: as DoMmap
//   - EAGAIN: RLIMIT_MEMLOCK after mlockall
//
// Preconditions:
//   - mmap_sem is held for writing
func DoBrk(t *sched.Task, m *MM, addr, size uint64) (uint64, error) {
	m.MmapSem.AssertHeld(t)
	if size = pageAlign(size); size == 0 {
		return addr, nil
	}
	flags := vmDataDefault | VMAccount | m.DefFlags
	if _, err := m.getUnmappedArea(t, addr, size, &MmapRequest{Flags: MapFixed}); err != nil {
		return 0, err
	}
	if m.DefFlags&VMLocked != 0 {
		if err := m.mayLock(size, false /* asked */); err != nil {
			return 0, err
		}
	}
	if m.findVMAIntersection(t, addr, addr+size) != nil {
		if DoMunmap(t, m, addr, size) != nil {
			return 0, unix.ENOMEM
		}
	}
	pages := size >> x86.PageShift
	if !m.mayExpandVM(pages) || m.MapCount > maxMapCount {
		return 0, unix.ENOMEM
	}
	if err := m.Sys.vmEnoughMemory(m, pages); err != nil {
		return 0, err
	}
	pgoff := addr >> x86.PageShift
	_, prev := m.findVMAPrev(t, addr)
	v := m.vmaMerge(t, prev, addr, addr+size, mergeKey{flags: flags, pgoff: pgoff})
	if v == nil {
		if m.Sys.Pages.FailSite(t, siteVMA) {
			m.Sys.vmUnacctMemory(pages)
			return 0, unix.ENOMEM
		}
		v = &VMA{MM: m, Start: addr, End: addr + size, PgOff: pgoff, Flags: flags, Prot: vmGetPageProt(flags)}
		m.vmaLink(t, v)
	}
	m.TotalVM += pages
	if flags&VMLocked != 0 {
		m.LockedVM += pages - m.mlockVMAPagesRange(t, v, addr, addr+size)
	}
	return addr, nil
}
