package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// mremap: Linux 2.6.29 mm/mremap.c.
//
//	shorter                       munmap of the tail
//	longer, room behind           the VMA grows where it is
//	else, or to a fixed place     a second VMA, the ptes move there, munmap of the first
//
// A move takes nothing from a page but its place: the reference, the mapping and the
// permission go along, so a page that somebody has pinned stays the process's page.
// Each pte is flushed as it moves, under the locks of both tables: whoever stores
// through the old address meanwhile faults, and waits for mmap_sem.

// MremapFlags is the flags argument of mremap.
type MremapFlags uint32

// The flags, with Linux' values. MremapFixed is only allowed together with
// MremapMayMove.
const (
	MremapMayMove MremapFlags = 1
	MremapFixed   MremapFlags = 2
)

// latencyLimit is how many bytes are moved under the locks of two tables before
// somebody else may run (LATENCY_LIMIT).
const latencyLimit = 64 * x86.PageSize

// SysMremap makes the mapping at addr newLen bytes long instead of oldLen, and returns
// where it then is. newAddr only counts with MremapFixed. An oldLen of zero maps
// the pages a second time and leaves the first mapping as it is, which is of use for
// shared memory only.
//
//   - EINVAL: unknown flags, MremapFixed without MremapMayMove, an address that is
//     not a multiple of the page size, no new length, old and new range overlap or
//     the new one is not in user space, huge pages
//   - EFAULT: the old range is not within one VMA, or the VMA may not grow; also, as in
//     2.6.29, too little memory may be promised
//   - ENOMEM: no room behind and MremapMayMove not set, no room anywhere, RLIMIT_AS, too
//     many VMAs, no memory for page tables
//   - EAGAIN: RLIMIT_MEMLOCK
//
// With MremapFixed whatever is mapped in the new range goes first, even if the call
// then fails.
func SysMremap(t *sched.Task, m *MM, addr, oldLen, newLen uint64, flags MremapFlags, newAddr uint64) (uint64, error) {
	m.MmapSem.DownWrite(t)
	at, err := DoMremap(t, m, addr, oldLen, newLen, flags, newAddr)
	m.MmapSem.UpWrite(t)
	return at, err
}

// DoMremap is SysMremap below the system call: do_mremap.
//
// Preconditions:
//   - mmap_sem is held for writing
func DoMremap(t *sched.Task, m *MM, addr, oldLen, newLen uint64, flags MremapFlags, newAddr uint64) (uint64, error) {
	m.MmapSem.AssertHeld(t)
	if flags&^(MremapFixed|MremapMayMove) != 0 || addr&^x86.PageMask != 0 {
		return 0, unix.EINVAL
	}
	oldLen, newLen = pageAlign(oldLen), pageAlign(newLen)
	if newLen == 0 {
		return 0, unix.EINVAL
	}
	fixed := flags&MremapFixed != 0
	if fixed {
		switch {
		case newAddr&^x86.PageMask != 0, flags&MremapMayMove == 0,
			newLen > x86.TaskSize || newAddr > x86.TaskSize-newLen,
			newAddr <= addr && newAddr+newLen > addr,
			addr <= newAddr && addr+oldLen > newAddr:
			return 0, unix.EINVAL
		}
		if err := DoMunmap(t, m, newAddr, newLen); err != nil {
			return 0, err
		}
	}
	if oldLen >= newLen {
		if err := DoMunmap(t, m, addr+newLen, oldLen-newLen); err != nil && oldLen != newLen {
			return 0, err
		}
		if !fixed || newAddr == addr {
			return addr, nil
		}
		oldLen = newLen
	}
	v, charged, err := m.vmaToResize(t, addr, oldLen, newLen)
	if err != nil {
		return 0, err
	}
	at, err := m.growOrMove(t, v, addr, oldLen, newLen, flags, newAddr)
	if err != nil && charged != 0 {
		m.Sys.vmUnacctMemory(charged)
	}
	return at, err
}

// vmaToResize finds the VMA of a mapping that is to grow or to move, checks whether it
// may, and charges what it will be longer by: the middle part of do_mremap
// (vma_to_resize of later kernels). It returns the charge in pages.
func (m *MM) vmaToResize(t *sched.Task, addr, oldLen, newLen uint64) (v *VMA, charged uint64, err error) {
	v = m.findVMA(t, addr)
	if v == nil || v.Start > addr {
		return nil, 0, unix.EFAULT
	}
	if v.Flags&VMHugetlb != 0 {
		return nil, 0, unix.EINVAL
	}
	if oldLen > v.End-addr || v.Flags&(VMDontExpand|VMPFNMap) != 0 && newLen > oldLen {
		return nil, 0, unix.EFAULT
	}
	pages := (newLen - oldLen) >> x86.PageShift
	tooMuch := unix.EFAULT // what ret happens to hold there
	if v.Flags&VMLocked != 0 {
		if m.mayLock(newLen-oldLen, false /* asked */) != nil {
			return nil, 0, unix.EAGAIN
		}
		tooMuch = unix.EAGAIN
	}
	if !m.mayExpandVM(pages) {
		return nil, 0, unix.ENOMEM
	}
	if v.Flags&VMAccount != 0 {
		if m.Sys.vmEnoughMemory(m, pages) != nil {
			return nil, 0, tooMuch
		}
		charged = pages
	}
	return v, charged, nil
}

// growOrMove makes v's part from addr on longer where it is if there is room behind,
// and else moves it, if it may: the last part of do_mremap. A VMA that has grown up
// to its neighbour stays a VMA of its own.
func (m *MM) growOrMove(t *sched.Task, v *VMA, addr, oldLen, newLen uint64, flags MremapFlags, newAddr uint64) (uint64, error) {
	fixed := flags&MremapFixed != 0
	if oldLen == v.End-addr && !(fixed && addr != newAddr) && (oldLen != newLen || flags&MremapMayMove == 0) {
		top := uint64(x86.TaskSize)
		if next := m.nextVMA(v); next != nil {
			top = next.Start
		}
		if top-addr >= newLen {
			pages := (newLen - oldLen) >> x86.PageShift
			m.vmaAdjust(t, v, v.Start, addr+newLen, v.PgOff, nil)
			m.TotalVM += pages
			if v.Flags&VMLocked != 0 {
				m.LockedVM += pages
				m.mlockVMAPagesRange(t, v, addr+oldLen, addr+newLen)
			}
			return addr, nil
		}
	}
	if flags&MremapMayMove == 0 {
		return 0, unix.ENOMEM
	}
	if !fixed {
		var err error
		if newAddr, err = m.getUnmappedArea(t, 0, newLen, &MmapRequest{}); err != nil {
			return 0, err
		}
	}
	return m.moveVMA(t, v, addr, oldLen, newLen, newAddr)
}

// moveVMA moves oldLen bytes of v from addr to newAddr, where they are part of a
// mapping of newLen bytes (move_vma). When a page table cannot be had, what has been
// moved is moved back.
func (m *MM) moveVMA(t *sched.Task, v *VMA, addr, oldLen, newLen, newAddr uint64) (uint64, error) {
	s, flags := m.Sys, v.Flags
	if m.MapCount >= maxMapCount-3 {
		return 0, unix.ENOMEM // munmap may need to split one VMA into three
	}
	if err := s.ksmBeforeMove(t, v, addr, addr+oldLen); err != nil {
		return 0, err
	}
	v, n := m.copyVMATo(t, v, newAddr, newLen, v.Index(addr))
	if n == nil {
		return 0, unix.ENOMEM
	}
	var err error
	grown := oldLen
	if done := m.movePageTables(t, v, addr, n, newAddr, oldLen); done < oldLen {
		// This cannot fail: the tables are still there.
		m.movePageTables(t, n, newAddr, v, addr, done)
		v, addr, oldLen = n, newAddr, newLen
		err = unix.ENOMEM
	}
	// The charge of what is about to be unmapped is the new mapping's now, so munmap
	// must not take it back.
	excess, split := uint64(0), false
	if flags&VMAccount != 0 {
		v.Flags &^= VMAccount
		excess = v.End - v.Start - oldLen
		split = addr > v.Start && addr+oldLen < v.End
	}
	m.TotalVM += newLen >> x86.PageShift
	if DoMunmap(t, m, addr, oldLen) != nil {
		s.vmUnacctMemory(excess >> x86.PageShift)
		excess = 0
	}
	if excess != 0 {
		v.Flags |= VMAccount
		if split {
			m.nextVMA(v).Flags |= VMAccount
		}
	}
	if flags&VMLocked != 0 {
		m.LockedVM += newLen >> x86.PageShift
		if err == nil && newLen > grown {
			m.mlockVMAPagesRange(t, n, newAddr+grown, newAddr+newLen)
		}
	}
	if err != nil {
		return 0, err
	}
	return newAddr, nil
}

// copyVMATo makes a mapping of length bytes at addr like v, whose index at addr is
// pgoff: as part of a neighbour, or a VMA of its own (copy_vma). The VMA that now holds
// v's memory is returned too, because v itself may have become part of the new one. The new one is
// nil if there is no memory for it.
//
// Preconditions:
//   - mmap_sem is held for writing, the range is free
func (m *MM) copyVMATo(t *sched.Task, v *VMA, addr, length, pgoff uint64) (old, n *VMA) {
	start := v.Start
	if v.Mapping == nil && v.AnonVMA == nil {
		// Nothing has been faulted in: the offset may be that of the new place, which
		// gives it a chance to merge there.
		pgoff = addr >> x86.PageShift
	}
	_, prev := m.findVMAPrev(t, addr)
	k := v.keyAt(v.Start, v.Flags)
	k.pgoff = pgoff
	if n = m.vmaMerge(t, prev, addr, addr+length, k); n != nil {
		if start >= n.Start && start < n.End {
			v = n
		}
		return v, n
	}
	if m.Sys.Pages.FailSite(t, siteVMA) {
		return v, nil
	}
	n = m.copyVMA(v)
	n.Start, n.End, n.PgOff = addr, addr+length, pgoff
	if n.File != nil {
		n.File.Get(t)
	}
	if o := n.ops(); o != nil {
		o.Open(t, n)
	}
	m.vmaLink(t, n)
	return v, n
}

// movePageTables moves the ptes of length bytes from addr in v to newAddr in n, and
// returns for how many bytes it could: all of them, unless there was no memory for a
// table (move_page_tables).
func (m *MM) movePageTables(t *sched.Task, v *VMA, addr uint64, n *VMA, newAddr, length uint64) uint64 {
	for done := uint64(0); done < length; {
		t.CondResched()
		at, to := addr+done, newAddr+done
		extent := tableEnd(at, addr+length, x86.LevelPMD) - at
		table, ok := m.walkTable(t.C, at)
		if ok {
			fresh, err := m.pteAlloc(t, to)
			if err != nil {
				return done
			}
			extent = min(extent, to&x86.PMDMask+x86.PMDSize-to, latencyLimit)
			m.movePTEs(t, v, table, at, at+extent, n, fresh, to)
		}
		done += extent
	}
	return length
}

// movePTEs moves the entries for [addr, end) from one table to another, which may be
// the same (move_ptes). rmap finds a page in the old VMA before and in the new one
// after; in between, the locks of both tables are held. For pages of a file
// i_mmap_lock keeps truncation out, which might look at the new place before and at
// the old one after.
func (m *MM) movePTEs(t *sched.Task, v *VMA, table x86.PFN, addr, end uint64, n *VMA, fresh x86.PFN, to uint64) {
	s, start := m.Sys, addr
	m.mmuNotifierInvalidateRangeStart(t, start, end)
	if v.Mapping != nil {
		v.Mapping.IMmapLock.Lock(t)
	}
	from, dst := m.entry(table, x86.LevelPTE, addr), m.entry(fresh, x86.LevelPTE, to)
	// No order is needed: with mmap_sem held for writing nobody else takes two.
	oldPTL, newPTL := s.Pages.PTL(table), s.Pages.PTL(fresh)
	oldPTL.Lock(t)
	if newPTL != oldPTL {
		newPTL.LockNested(t)
	}
	begin, moved := addr, uint64(0)
	for {
		if !from.Load(t.C).None() {
			pte := s.PtepClearFlush(t, v, addr, from)
			dst.Set(t.C, pte)
			TracePTE(t, to+(addr-start), 0, pte)
			moved++
		}
		if addr += x86.PageSize; addr == end {
			break
		}
		from, dst = from.Next(from.Obj+1), dst.Next(dst.Obj+1)
	}
	if newPTL != oldPTL {
		newPTL.Unlock(t)
	}
	oldPTL.Unlock(t)
	if v.Mapping != nil {
		v.Mapping.IMmapLock.Unlock(t)
	}
	m.mmuNotifierInvalidateRangeEnd(t, start, end)
	t.C.Trace.Add(trace.EmuMremapPages, moved)
	t.C.Trace.Event(trace.EvMremap, t.C.Now(), begin, moved, to)
}
