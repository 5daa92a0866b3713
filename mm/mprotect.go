package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// mprotect: Linux 2.6.29 mm/mprotect.c.
//
//	for each VMA of the range: may it?  merge or split  new flags  new ptes  one flush
//
// A private page that becomes writable by permission stays read-only in its pte, shared
// or not: the next store decides. And the flush comes when all ptes of the VMA's range
// have changed, so until then other CPUs go on with the permissions they had.

// SysMprotect changes the protection of the pages in [start, start+size). Where it
// fails half way, what lies before keeps the new protection:
//
//   - EINVAL: start is not a multiple of the page size, or prot has unknown bits
//   - ENOMEM: the range wraps, part of it is not mapped, a VMA would have to be split
//     and there are too many, or too little memory for what becomes writable
//   - EACCES: a file was not opened for that
func SysMprotect(t *sched.Task, m *MM, start, size uint64, prot Prot) error {
	grows := prot & (ProtGrowsDown | ProtGrowsUp)
	prot &^= ProtGrowsDown | ProtGrowsUp
	if grows == ProtGrowsDown|ProtGrowsUp || start&^x86.PageMask != 0 {
		return unix.EINVAL
	}
	if size == 0 {
		return nil
	}
	end := start + pageAlign(size)
	if end <= start {
		return unix.ENOMEM
	}
	if prot&^(ProtRead|ProtWrite|ProtExec|ProtSem) != 0 {
		return unix.EINVAL
	}
	m.MmapSem.DownWrite(t)
	err := m.doMprotect(t, start, end, calcVMProtBits(prot), grows)
	m.MmapSem.UpWrite(t)
	return err
}

// doMprotect is sys_mprotect's loop over the VMAs.
func (m *MM) doMprotect(t *sched.Task, start, end uint64, perms VMFlags, grows Prot) error {
	v, prev := m.findVMAPrev(t, start)
	if v == nil {
		return unix.ENOMEM
	}
	switch {
	case grows == ProtGrowsDown:
		if v.Start >= end {
			return unix.ENOMEM
		}
		if v.Flags&VMGrowsDown == 0 {
			return unix.EINVAL
		}
		start = v.Start
	case v.Start > start:
		return unix.ENOMEM
	case grows == ProtGrowsUp:
		return unix.EINVAL // no stack grows up on x86
	}
	if start > v.Start {
		prev = v
	}
	for {
		// v contains start.
		flags := perms | v.Flags&^(VMRead|VMWrite|VMExec)
		if flags&^(flags>>4)&(VMRead|VMWrite|VMExec) != 0 { // each needs its VMMay flag
			return unix.EACCES
		}
		part := min(v.End, end)
		var err error
		if prev, err = m.mprotectFixup(t, v, prev, start, part, flags); err != nil {
			return err
		}
		if start = max(part, prev.End); start >= end {
			return nil
		}
		if v = m.nextVMA(prev); v == nil || v.Start != start {
			return unix.ENOMEM
		}
	}
}

// mprotectFixup gives [start, end), which v contains, new flags, and returns the VMA
// that now contains it (mprotect_fixup). prev is as vmaMerge wants it.
func (m *MM) mprotectFixup(t *sched.Task, v, prev *VMA, start, end uint64, flags VMFlags) (*VMA, error) {
	s, old := m.Sys, v.Flags
	if flags == old {
		return v, nil
	}
	// A private mapping that becomes writable is charged; it stays so when it
	// becomes read-only again.
	charged := uint64(0)
	if flags&VMWrite != 0 && old&(VMAccount|VMWrite|VMHugetlb|VMShared|VMNoReserve) == 0 {
		charged = (end - start) >> x86.PageShift
		if err := s.vmEnoughMemory(m, charged); err != nil {
			return nil, err
		}
		flags |= VMAccount
	}
	v, err := m.changeFlags(t, v, prev, start, end, flags)
	if err != nil {
		if charged != 0 {
			s.vmUnacctMemory(charged)
		}
		return nil, err
	}
	v.Prot = vmGetPageProt(flags)
	dirtyAccountable := false
	if vmaWantsWritenotify(v) {
		v.Prot = vmGetPageProt(flags &^ VMShared)
		dirtyAccountable = true
	}
	m.mmuNotifierInvalidateRangeStart(t, start, end)
	m.changeProtection(t, v, start, end, dirtyAccountable)
	m.mmuNotifierInvalidateRangeEnd(t, start, end)
	return v, nil
}

// changeFlags gives [start, end), which v contains, new flags, after it has become
// part of a neighbour or a VMA of its own, and returns that VMA. It is what mprotect,
// madvise and mlock have in common.
func (m *MM) changeFlags(t *sched.Task, v, prev *VMA, start, end uint64, flags VMFlags) (*VMA, error) {
	if merged := m.vmaMerge(t, prev, start, end, v.keyAt(start, flags)); merged != nil {
		merged.setFlags(t, flags)
		return merged, nil
	}
	if start != v.Start {
		if err := m.splitVMA(t, v, start, true /* newBelow */); err != nil {
			return nil, err
		}
	}
	if end != v.End {
		if err := m.splitVMA(t, v, end, false /* newBelow */); err != nil {
			return nil, err
		}
	}
	v.setFlags(t, flags)
	return v, nil
}

// setFlags gives v new flags, of which rmap looks at VMLocked.
func (v *VMA) setFlags(t *sched.Task, flags VMFlags) {
	t.WriteOf(v, "vma.flags")
	if (v.Flags^flags)&VMLocked != 0 {
		t.C.Touch(v.MM.lockedObj(), x86.AccWrite)
	}
	v.Flags = flags
}

// changeProtection gives the ptes of [start, end), which v contains, v's protection,
// and then flushes the range, once (change_protection, and the levels below it).
func (m *MM) changeProtection(t *sched.Task, v *VMA, start, end uint64, dirtyAccountable bool) {
	if v.Flags&VMHugetlb != 0 {
		changed := m.Sys.hugetlbChangeProtection(t, v, start, end)
		t.C.Trace.Event(trace.EvMprotect, t.C.Now(), start, uint64(changed), 0)
		return
	}
	changed := 0
	for addr := start; addr < end; {
		table, at, next, _, ok := m.nextTable(t.C, addr, end)
		if !ok {
			break
		}
		changed += m.changePTERange(t, v, table, at, next, dirtyAccountable)
		addr = next
	}
	m.Sys.FlushTLBRange(t, v, start, end)
	t.C.Trace.Add(trace.EmuMprotectPages, uint64(changed))
	t.C.Trace.Event(trace.EvMprotect, t.C.Now(), start, uint64(changed), 0)
}

// changePTERange does it for the entries of one table, under its lock, and returns
// how many were present (change_pte_range). An entry is cleared before it is set
// (ptep_modify_prot), so that the hardware cannot set A or D in between and have it
// lost. Swap entries have no protection.
func (m *MM) changePTERange(t *sched.Task, v *VMA, table x86.PFN, addr, end uint64, dirtyAccountable bool) (changed int) {
	s := m.Sys
	prot := v.Prot
	ask := s.hooks&HookMprotect != 0 && v.Flags&(VMWrite|VMShared) == VMWrite
	ref := m.entry(table, x86.LevelPTE, addr)
	ptl := s.Pages.PTL(table)
	ptl.Lock(t)
	c := t.C
	traced := c.Trace.On()
	for {
		if ref.Load(c).Present() {
			old := ref.Xchg(c, 0)
			e := old.Modify(prot)
			if dirtyAccountable && e.Dirty() {
				e = e.MkWrite()
			}
			if ask {
				if p := s.NormalPage(v, old); p != nil && s.policy.Mprotect(v, old, p) {
					e = e.MkWrite()
				}
			}
			ref.Set(c, e)
			if traced {
				TracePTE(t, addr, old, e)
			}
			changed++
		}
		if addr += x86.PageSize; addr == end {
			break
		}
		ref = ref.Next(ref.Obj + 1)
	}
	ptl.Unlock(t)
	return changed
}
