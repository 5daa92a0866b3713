package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// madvise: Linux 2.6.29 mm/madvise.c.

// Advice is the advice argument of madvise.
type Advice int

// The advices that 2.6.29 knows, with Linux' values.
const (
	MadvNormal     Advice = 0
	MadvRandom     Advice = 1
	MadvSequential Advice = 2
	MadvWillNeed   Advice = 3
	MadvDontNeed   Advice = 4
	MadvRemove     Advice = 9
	MadvDontFork   Advice = 10
	MadvDoFork     Advice = 11
)

// MadvDontCOW asks that fork never shares the range's pages: the child gets a copy of
// each at once, and the parent's stay writable. It was proposed in the thread (lines
// 1300-1316) for programs that have memory pinned for a device and want the child to
// see it too, which MadvDontFork does not give. No kernel ever had it; the number is
// ours. Nothing takes it back.
const MadvDontCOW Advice = 0x1001

// needsWrite reports whether the advice changes VMAs, so that mmap_sem is taken for
// writing (madvise_need_mmap_write).
func (a Advice) needsWrite() bool {
	return a != MadvRemove && a != MadvWillNeed && a != MadvDontNeed && a != MadvPageout
}

// SysMadvise gives the kernel advice about [start, start+size). Holes are skipped: the
// rest is done all the same, and ENOMEM comes at the end. What fails ends it at once:
//
//   - EINVAL: start is not a multiple of the page size, the range wraps, unknown
//     advice (noticed at the first VMA), MadvDontNeed for locked, huge or raw pages,
//     MadvRemove for what has no file
//   - ENOMEM: part of the range is not mapped
//   - EAGAIN: a VMA would have to be split and there are too many
//   - EBADF: MadvWillNeed for what has no file
//   - EACCES: MadvRemove for what is not shared and writable
//   - EINTR: MadvUnmergeable, and the task was sent a signal
func SysMadvise(t *sched.Task, m *MM, start, size uint64, advice Advice) error {
	if start&^x86.PageMask != 0 {
		return unix.EINVAL
	}
	end := start + pageAlign(size)
	if size != 0 && pageAlign(size) == 0 || end < start {
		return unix.EINVAL
	}
	if end == start {
		return nil
	}
	write := advice.needsWrite()
	if write {
		m.MmapSem.DownWrite(t)
	} else {
		m.MmapSem.DownRead(t)
	}
	err := m.doMadvise(t, start, end, advice)
	if write {
		m.MmapSem.UpWrite(t)
	} else {
		m.MmapSem.UpRead(t)
	}
	return err
}

// doMadvise is sys_madvise's loop over the VMAs.
func (m *MM) doMadvise(t *sched.Task, start, end uint64, advice Advice) error {
	var hole error
	v, prev := m.findVMAPrev(t, start)
	if v != nil && start > v.Start {
		prev = v
	}
	for {
		if v == nil {
			return unix.ENOMEM
		}
		if start < v.Start {
			hole = unix.ENOMEM
			if start = v.Start; start >= end {
				return hole
			}
		}
		part := min(v.End, end)
		var err error
		if prev, err = m.madviseVMA(t, v, prev, start, part, advice); err != nil {
			return err
		}
		start = part
		if prev != nil {
			start = max(start, prev.End)
		}
		if start >= end {
			return hole
		}
		if prev != nil {
			v = m.nextVMA(prev)
		} else {
			v = m.findVMA(t, start) // mmap_sem was dropped
		}
	}
}

// madviseVMA takes the advice for [start, end), which v contains, and returns the VMA
// that now contains it; nil if that is to be looked up (madvise_vma).
func (m *MM) madviseVMA(t *sched.Task, v, prev *VMA, start, end uint64, advice Advice) (*VMA, error) {
	switch advice {
	case MadvDoFork:
		if v.Flags&VMIO != 0 {
			return v, unix.EINVAL
		}
		return m.madviseBehavior(t, v, prev, start, end, advice)
	case MadvNormal, MadvSequential, MadvRandom, MadvDontFork, MadvDontCOW, MadvMergeable, MadvUnmergeable:
		return m.madviseBehavior(t, v, prev, start, end, advice)
	case MadvRemove:
		return m.madviseRemove(t, v, start, end)
	case MadvWillNeed:
		return v, v.madviseWillNeed(t, start, end)
	case MadvDontNeed:
		return v, m.madviseDontNeed(t, v, start, end)
	case MadvPageout:
		m.madvisePageout(t, v, start, end)
		return v, nil
	}
	return v, unix.EINVAL
}

// madviseBehavior is the advice that is a flag (madvise_behavior).
func (m *MM) madviseBehavior(t *sched.Task, v, prev *VMA, start, end uint64, advice Advice) (*VMA, error) {
	flags := v.Flags
	var err error
	switch advice {
	case MadvNormal:
		flags &^= VMRandRead | VMSeqRead
	case MadvSequential:
		flags = flags&^VMRandRead | VMSeqRead
	case MadvRandom:
		flags = flags&^VMSeqRead | VMRandRead
	case MadvDontFork:
		flags |= VMDontCopy
	case MadvDoFork:
		flags &^= VMDontCopy
	case MadvDontCOW:
		flags |= VMDontCOW
	case MadvMergeable, MadvUnmergeable:
		if flags, err = m.Sys.ksmMadvise(t, v, start, end, advice); err == unix.ENOMEM {
			err = unix.EAGAIN
		}
		if err != nil {
			return v, err
		}
	}
	if flags == v.Flags {
		return v, nil
	}
	n, err := m.changeFlags(t, v, prev, start, end, flags)
	if err == unix.ENOMEM {
		err = unix.EAGAIN
	}
	return n, err
}

// madviseDontNeed drops the pages at once; the next access finds zeroes, or what
// the file has (madvise_dontneed).
func (m *MM) madviseDontNeed(t *sched.Task, v *VMA, start, end uint64) error {
	if v.Flags&(VMLocked|VMHugetlb|VMPFNMap) != 0 {
		return unix.EINVAL
	}
	m.ZapPageRange(t, v, start, end-start)
	return nil
}

// Readaheader is what AddressSpaceOps implement whose pages come from a device.
type Readaheader interface {
	// ForceReadahead starts to read n pages from index on into the cache, and does
	// not wait for them. mmap_sem is held for reading.
	ForceReadahead(t *sched.Task, as *AddressSpace, index, n uint64)
}

// madviseWillNeed starts to read the pages that a file has beyond its cache
// (madvise_willneed). It is EBADF for anonymous memory. The end is cut to the VMA's
// and errors of the reading do not count.
func (v *VMA) madviseWillNeed(t *sched.Task, start, end uint64) error {
	if v.Mapping == nil {
		return unix.EBADF
	}
	if r, ok := v.Mapping.Ops.(Readaheader); ok && v.Flags&VMHugetlb == 0 {
		r.ForceReadahead(t, v.Mapping, v.Index(start), (min(end, v.End)-start)>>x86.PageShift)
	}
	return nil
}

// HolePuncher is what AddressSpaceOps implement that can drop a range of their object
// (truncate_range): tmpfs can.
type HolePuncher interface {
	// PunchHole drops the pages with index first to last. It may sleep; mmap_sem is
	// not held.
	PunchHole(t *sched.Task, as *AddressSpace, first, last uint64) error
}

// madviseRemove drops a range of the mapped object itself (madvise_remove). It is
// ENOSYS if the object cannot do that.
func (m *MM) madviseRemove(t *sched.Task, v *VMA, start, end uint64) (*VMA, error) {
	if v.Flags&(VMLocked|VMNonlinear|VMHugetlb) != 0 || v.Mapping == nil {
		return nil, unix.EINVAL
	}
	if v.Flags&(VMShared|VMWrite) != VMShared|VMWrite {
		return nil, unix.EACCES
	}
	as := v.Mapping
	h, ok := as.Ops.(HolePuncher)
	if !ok {
		return nil, unix.ENOSYS
	}
	first, last := v.Index(start), v.Index(end-1)
	as.Get(t) // the VMA may go while mmap_sem is dropped
	m.MmapSem.UpRead(t)
	err := h.PunchHole(t, as, first, last)
	as.Put(t)
	m.MmapSem.DownRead(t)
	return nil, err
}
