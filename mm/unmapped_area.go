package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Where mmap puts what has no fixed address: Linux 2.6.29
// arch/x86/kernel/sys_x86_64.c and arch/x86/mm/mmap.c.
//
//	0    taskUnmappedBase                         MmapBase      TaskSize
//	|----------|--------------- free ... <-- mmap ----|-- gap ----stack|
//
// From MmapBase downwards the highest hole that is large enough; where there is
// none, from taskUnmappedBase upwards the lowest.

const (
	// taskUnmappedBase is where the search upwards begins (TASK_UNMAPPED_BASE).
	taskUnmappedBase = (x86.TaskSize/3 + x86.PageSize - 1) &^ (x86.PageSize - 1)

	// minGap and maxGap bound what is left to the stack above MmapBase.
	minGap = 128 << 20
	maxGap = x86.TaskSize / 6 * 5
)

// mmapArea remembers where the last search ended, so that the next one need not
// begin at the top.
type mmapArea struct {
	// cache is free_area_cache, the address the last search ended at, below which
	// the next begins; zero means MmapBase.
	cache uint64
	// hole is cached_hole_size, the largest hole known above cache.
	hole uint64
}

// PickMmapLayout sets MmapBase below the room that RLIMIT_STACK asks for, without
// randomisation (arch_pick_mmap_layout).
func (m *MM) PickMmapLayout() {
	gap := min(max(limit(m.Limits.Stack, DefaultStack), minGap), maxGap)
	m.MmapBase = pageAlign(x86.TaskSize - gap)
	m.area = mmapArea{}
}

// getUnmappedArea returns the address for a mapping: the fixed one, the hint, or
// what the search finds (get_unmapped_area). The error is ENOMEM, or EINVAL for a
// fixed address that is not a multiple of the page size.
func (m *MM) getUnmappedArea(t *sched.Task, addr, size uint64, req *MmapRequest) (uint64, error) {
	flags := req.Flags
	if size > x86.TaskSize {
		return 0, unix.ENOMEM
	}
	if as := req.Mapping; as != nil && as.huge != nil {
		mask := as.huge.h.mask()
		if size&^mask != 0 || flags&MapFixed != 0 && addr&^mask != 0 {
			return 0, unix.EINVAL
		}
		if flags&MapFixed == 0 {
			addr = m.hugeArea(t, addr, size, mask)
		}
	} else if flags&MapFixed == 0 {
		if flags&Map32Bit != 0 {
			addr = m.areaBottomUp(t, addr, size, 0x40000000, 0x80000000)
		} else {
			addr = m.areaTopDown(t, addr, size)
		}
	}
	if addr > x86.TaskSize-size {
		return 0, unix.ENOMEM
	}
	if addr&^x86.PageMask != 0 {
		return 0, unix.EINVAL
	}
	return addr, nil
}

// noArea is an address that getUnmappedArea turns into ENOMEM.
const noArea = ^uint64(0)

// hintFits reports whether [addr, addr+size) is free.
func (m *MM) hintFits(t *sched.Task, addr, size, end uint64) bool {
	return addr <= end-size && m.findVMAIntersection(t, addr, addr+size) == nil
}

// areaTopDown is arch_get_unmapped_area_topdown, but for the lowest addresses, which
// 2.6.29 hands to a process with CAP_SYS_RAWIO.
func (m *MM) areaTopDown(t *sched.Task, hint, size uint64) uint64 {
	if hint = pageAlign(hint); hint != 0 && m.hintFits(t, hint, size, x86.TaskSize) {
		return hint
	}
	a := &m.area
	if size <= a.hole {
		a.hole, a.cache = 0, m.MmapBase
	}
	if a.cache == 0 {
		a.cache = m.MmapBase
	}
	if a.cache >= size+mmapMinAddr && m.findVMAIntersection(t, a.cache-size, a.cache) == nil {
		a.cache -= size
		return a.cache
	}
	for at := m.MmapBase; at >= size+mmapMinAddr; {
		addr := at - size
		v := m.findVMA(t, addr)
		if v == nil || at <= v.Start {
			a.cache = addr
			return addr
		}
		if v.Start > addr && a.hole < v.Start-addr {
			a.hole = v.Start - addr
		}
		at = v.Start
	}
	addr := m.areaBottomUp(t, 0, size, taskUnmappedBase, x86.TaskSize)
	a.cache, a.hole = m.MmapBase, ^uint64(0)
	return addr
}

// areaBottomUp is arch_get_unmapped_area, without a cache of its own: it runs when
// everything below MmapBase is full, or for Map32Bit.
func (m *MM) areaBottomUp(t *sched.Task, hint, size, begin, end uint64) uint64 {
	if size > end {
		return noArea
	}
	if hint = pageAlign(hint); hint != 0 && m.hintFits(t, hint, size, end) {
		return hint
	}
	addr := begin
	for addr <= end-size {
		v := m.findVMA(t, addr)
		if v == nil || addr+size <= v.Start {
			return addr
		}
		addr = v.End
	}
	return noArea
}

// hugeArea is areaTopDown for huge pages, whose size mask tells: where it looks is aligned
// to it (Linux 2.6.29 arch/x86/mm/hugetlbpage.c:hugetlb_get_unmapped_area).
func (m *MM) hugeArea(t *sched.Task, hint, size, mask uint64) uint64 {
	if hint = (hint + ^mask) & mask; hint != 0 && m.hintFits(t, hint, size, x86.TaskSize) {
		return hint
	}
	a := &m.area
	if a.cache == 0 || a.cache > m.MmapBase {
		a.cache = m.MmapBase
	}
	hole := a.hole
	if size <= hole {
		hole, a.cache = 0, m.MmapBase
	}
	for range 2 {
		for at := a.cache; at >= size; {
			addr := (at - size) & mask
			v := m.findVMA(t, addr)
			if v == nil {
				return addr
			}
			if addr+size <= v.Start {
				a.hole, a.cache = hole, addr
				return addr
			}
			if a.cache == v.End { // down to the first hole
				a.cache, a.hole = v.Start, hole
			}
			at = v.Start
		}
		a.cache, hole = m.MmapBase, 0
	}
	a.cache, a.hole = m.MmapBase, ^uint64(0)
	for addr := (taskUnmappedBase + ^mask) & mask; addr <= x86.TaskSize-size; {
		v := m.findVMA(t, addr)
		if v == nil || addr+size <= v.Start {
			return addr
		}
		addr = (v.End + ^mask) & mask
	}
	return noArea
}

// unmapArea notes that there is room below next, the VMA behind an unmapped range,
// nil if there is none (arch_unmap_area_topdown).
func (m *MM) unmapArea(next *VMA) {
	addr := m.MmapBase
	if next != nil {
		addr = min(addr, next.Start)
	}
	if a := &m.area; a.cache != 0 && addr > a.cache {
		a.cache = addr
	}
}
