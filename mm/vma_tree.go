package mm

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// The VMAs of an address space, in a tree ordered by their ends.
//
//	address        0 ... 0x10000        0x14000 0x15000      0x18000
//	VMAs                 |------A-------|       |-----B-------|
//	keys (ends)                         0x14000               0x18000
//
//	find_vma(0x12000): first key above 0x12000 is A's, and A contains it
//	find_vma(0x14000): first key above 0x14000 is B's, and B lies behind it
//
// A VMA's Start may change without its place in the tree; its End may not.
// Linux 2.6.29 has a red-black tree ordered by start, a list, and mmap_cache. The
// list is the tree's order here. mmap_cache is a plain pointer that all who hold
// mmap_sem for reading write at the same time; here each CPU has a hint of its own.

// vmaHint is the VMA that a CPU found last, on a cache line of its own. It is in
// the tree, or nil: who takes a VMA out of the tree holds mmap_sem for writing
// and clears all hints.
type vmaHint struct {
	vma *VMA
	_   [56]byte
}

// findVMA returns the first VMA that ends above addr, nil if there is none. The VMA
// need not contain addr. Linux 2.6.29 mm/mmap.c:find_vma.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (m *MM) findVMA(t *sched.Task, addr uint64) *VMA {
	v := m.findVMAHinted(t, addr)
	if v != nil && v.Flags&VMGrowsDown != 0 {
		t.C.Touch(m.stackObj(), x86.AccRead) // the caller looks at v.Start
	}
	return v
}

func (m *MM) findVMAHinted(t *sched.Task, addr uint64) *VMA {
	t.ReadOf(m, "mm.vmas")
	var h *vmaHint
	if id := t.C.ID; id < len(m.hints) {
		h = &m.hints[id]
		if v := h.vma; v != nil && addr < v.End && addr >= v.Start {
			return v
		}
	}
	v := m.lookupVMA(addr)
	if v != nil && h != nil {
		h.vma = v
	}
	return v
}

// lookupVMA is findVMA without the hint, for checks, which have no task.
func (m *MM) lookupVMA(addr uint64) (found *VMA) {
	m.vmas.AscendGreaterOrEqual(vmaItem{end: addr + 1}, func(i vmaItem) bool {
		found = i.vma
		return false
	})
	return found
}

// findVMAPrev is findVMA that also returns the VMA before the one found, nil if
// that is the first; where none is found, the last VMA (find_vma_prev).
func (m *MM) findVMAPrev(t *sched.Task, addr uint64) (vma, prev *VMA) {
	t.ReadOf(m, "mm.vmas")
	m.vmas.DescendLessOrEqual(vmaItem{end: addr}, func(i vmaItem) bool {
		prev = i.vma
		return false
	})
	return m.findVMA(t, addr), prev
}

// findVMAIntersection returns the first VMA that overlaps [start, end), nil if
// there is none (find_vma_intersection).
func (m *MM) findVMAIntersection(t *sched.Task, start, end uint64) *VMA {
	if v := m.findVMA(t, start); v != nil && v.Start < end {
		return v
	}
	return nil
}

// nextVMA returns the VMA behind v in address order (vm_next); nil for the last.
// v must be in the tree.
func (m *MM) nextVMA(v *VMA) *VMA { return m.lookupVMA(v.End) }

// firstVMA returns the lowest VMA (mm->mmap), nil if there is none.
func (m *MM) firstVMA() *VMA {
	i, _ := m.vmas.Min()
	return i.vma
}

// afterVMA returns the VMA behind prev, the first one if prev is nil.
func (m *MM) afterVMA(prev *VMA) *VMA {
	if prev == nil {
		return m.firstVMA()
	}
	return m.nextVMA(prev)
}

// EachVMA calls fn for the VMAs that end above from, in address order, until it
// returns false. The tree must not change meanwhile.
//
// Preconditions:
//   - mmap_sem is held, for reading at least, or nothing is running
func (m *MM) EachVMA(from uint64, fn func(v *VMA) bool) {
	m.vmas.AscendGreaterOrEqual(vmaItem{end: from + 1}, func(i vmaItem) bool { return fn(i.vma) })
}

// treeInsert puts v into the tree (vma_link's part of it) and counts it. v must
// overlap nothing. It takes no locks: see vmaLink.
func (m *MM) treeInsert(v *VMA) {
	if m.hints == nil {
		m.hints = make([]vmaHint, m.Sys.M.CPUs())
	}
	m.vmas.ReplaceOrInsert(vmaItem{end: v.End, vma: v})
	m.MapCount++
}

// treeRemove takes v out of the tree (__vma_unlink) and out of the hints.
func (m *MM) treeRemove(v *VMA) {
	m.vmas.Delete(vmaItem{end: v.End})
	m.MapCount--
	m.forgetHints()
}

// forgetHints clears every CPU's hint. mmap_sem is held for writing, so that no
// CPU is using its own.
func (m *MM) forgetHints() {
	for i := range m.hints {
		m.hints[i].vma = nil
	}
}

// setBounds changes the bounds of v, which is in the tree, and its key. What v
// grows into must have left the tree before.
func (m *MM) setBounds(v *VMA, start, end, pgoff uint64) {
	if end != v.End {
		m.vmas.Delete(vmaItem{end: v.End})
		m.vmas.ReplaceOrInsert(vmaItem{end: end, vma: v})
	}
	v.Start, v.End, v.PgOff = start, end, pgoff
}

// dropTree forgets all VMAs at once, when the address space ends.
func (m *MM) dropTree() {
	m.vmas.Clear(false)
	m.MapCount = 0
	m.forgetHints()
}

// validateMM returns what is wrong with the tree and what counts it, nil if nothing
// is (validate_mm). mmap_sem is held, for reading at least, or nothing is running.
func (m *MM) validateMM() error {
	var err error
	n, locked, end := 0, uint64(0), uint64(0)
	bad := func(v *VMA, why string) {
		if err == nil {
			err = fmt.Errorf("mm %d: VMA %s: %s", m.ID, v, why)
		}
	}
	m.vmas.Ascend(func(i vmaItem) bool {
		v := i.vma
		switch {
		case i.end != v.End:
			bad(v, fmt.Sprintf("is under key %#x", i.end))
		case v.Start >= v.End || (v.Start|v.End)&^x86.PageMask != 0 || v.End > x86.TaskSize:
			bad(v, "has no sensible bounds")
		case v.Start < end:
			bad(v, "overlaps the one before")
		case v.MM != m:
			bad(v, "belongs to another address space")
		case v.Prot&x86.PteRW != 0 && v.Flags&(VMShared|VMWrite) != VMShared|VMWrite:
			bad(v, fmt.Sprintf("has protection %v", v.Prot))
		}
		n, end = n+1, v.End
		if v.Flags&VMLocked != 0 {
			locked += v.Pages()
		}
		return err == nil
	})
	switch {
	case err != nil:
	case n != m.MapCount:
		err = fmt.Errorf("mm %d: %d VMAs, but map_count is %d", m.ID, n, m.MapCount)
	case locked != m.LockedVM:
		err = fmt.Errorf("mm %d: %d pages locked, but locked_vm is %d", m.ID, locked, m.LockedVM)
	}
	for i := range m.hints {
		if v := m.hints[i].vma; v != nil && m.lookupVMA(v.Start) != v {
			bad(v, fmt.Sprintf("is CPU %d's hint, but not in the tree", i))
		}
	}
	return err
}
