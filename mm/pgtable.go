package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// tableSites names the allocations of page tables, by the level of the table.
var tableSites = [x86.NumLevels]string{"pte_alloc_one", "pmd_alloc_one", "pud_alloc_one", "pgd_alloc"}

// entry refers to the entry for addr in a table of the given level.
func (m *MM) entry(table x86.PFN, level int, addr uint64) x86.PTERef {
	return x86.NewPTERef(m.Sys.Mem, table, x86.LevelIndex(addr, level), x86.PTEObj(m.ID, level, addr))
}

// pteAlloc returns the last-level table for addr, which it makes together with
// the tables above where they are missing (pud_alloc, pmd_alloc, pte_alloc_map).
// The error is ENOMEM; tables made so far stay.
//
// Preconditions:
//   - mmap_sem is held, so that no table goes away
//   - no spinlock is held
func (m *MM) pteAlloc(t *sched.Task, addr uint64) (table x86.PFN, err error) {
	table = m.PGD
	for level := x86.LevelPGD; level > x86.LevelPTE; level-- {
		e := m.entry(table, level, addr).Load(t.C)
		if e.None() {
			if e, err = m.makeTable(t, table, level, addr); err != nil {
				return 0, err
			}
		}
		if !e.HWPresent() || e.Huge() {
			t.Oops("bad page table: level %d entry %v at %#x", level, e, addr)
		}
		table = e.PFN()
	}
	return table, nil
}

// makeTable puts an empty table below the entry for addr in table, unless
// somebody else was faster, and returns the entry (__pud_alloc, __pmd_alloc,
// __pte_alloc).
//
//go:noinline
func (m *MM) makeTable(t *sched.Task, table x86.PFN, level int, addr uint64) (x86.PTE, error) {
	s := m.Sys
	p := s.Pages.Alloc(t, page.GFPKernel|page.GFPRepeat|page.GFPZero, 0, tableSites[level-1])
	if p == nil {
		return 0, unix.ENOMEM
	}
	pfn := s.Pages.PFN(p)
	s.Pages.Relabel(t, p, page.RefTemp, page.RefKernel, 1)
	last := level-1 == x86.LevelPTE
	if last {
		s.Pages.PTLockInit(pfn)
		t.C.Trace.Inc(trace.NrPageTablePages)
	}
	ref := m.entry(table, level, addr)
	m.PageTableLock.Lock(t)
	e := ref.Load(t.C)
	made := e.None()
	if made {
		if last {
			m.NrPTEs++
		}
		e = x86.MkPTE(pfn, x86.PTETable)
		ref.Set(t.C, e)
	}
	m.PageTableLock.Unlock(t)
	if !made {
		if last {
			s.pageTableDtor(t, pfn)
		}
		s.Pages.PutAs(t, p, page.RefKernel)
	}
	return e, nil
}

// pageTableDtor undoes what makes a frame a last-level table
// (pgtable_page_dtor).
func (s *System) pageTableDtor(t *sched.Task, pfn x86.PFN) {
	s.Pages.PTLockFree(pfn)
	t.C.Trace.Dec(trace.NrPageTablePages)
}

// nextTable finds the first address at or above addr and below end for which
// there is a last-level table: the loops over pgd, pud and pmd entries that skip
// empty ones. It returns the table, the address, where the table's reach or end is,
// whichever is first, and how many empty entries it skipped; ok is false if there
// is no table.
//
// Preconditions:
//   - mmap_sem is held, or nobody uses the address space
func (m *MM) nextTable(c *x86.CPU, addr, end uint64) (table x86.PFN, at, next uint64, skipped int64, ok bool) {
	for addr < end {
		table = m.PGD
		level := x86.LevelPGD
		for {
			e := m.entry(table, level, addr).Load(c)
			if !e.HWPresent() || e.Huge() {
				break
			}
			table = e.PFN()
			if level--; level == x86.LevelPTE {
				return table, addr, tableEnd(addr, end, x86.LevelPMD), skipped, true
			}
		}
		addr = tableEnd(addr, end, level)
		skipped++
	}
	return 0, end, end, skipped, false
}

// tableEnd returns where the entry that translates addr at the given level stops,
// or end if that is before (pmd_addr_end and so on).
func tableEnd(addr, end uint64, level int) uint64 {
	size := x86.LevelSize(level)
	return min(addr&^(size-1)+size, end)
}

// LockPTE finds the entry for addr and takes the lock of its table
// (pte_offset_map_lock). ok is false, and nothing is locked, if there is no
// last-level table.
//
// Preconditions:
//   - mmap_sem is held, so that no table goes away
func (m *MM) LockPTE(t *sched.Task, addr uint64) (ref x86.PTERef, ptl *lock.SpinLock, ok bool) {
	ref, ptl, ok = m.lookupPTE(t.C, addr)
	if ok {
		ptl.Lock(t)
	}
	return ref, ptl, ok
}

// freePgdRange frees the tables that translate nothing but addresses of [addr,
// end) and of the gaps around it: floor is the end of what is below and still
// mapped, ceiling the start of what is above, 0 for the top of the address space.
// Linux 2.6.29 mm/memory.c:free_pgd_range.
//
//	       floor      addr          end         ceiling
//	mapped |  gap     |  going      |  gap       | mapped
//	    tables that reach below floor or above ceiling stay
//
// Preconditions:
//   - the ptes of [addr, end) are empty
//   - rmap no longer finds the VMAs, and mmap_sem is held for writing or nobody
//     uses the address space
func (m *MM) freePgdRange(t *sched.Task, g *mmuGather, addr, end, floor, ceiling uint64) {
	m.freeTables(t, g, m.PGD, x86.LevelPGD, addr, end, floor, ceiling)
}

// freeTables frees the tables below the entries of table for [addr, end): it is
// free_pud_range, free_pmd_range and free_pte_range, one for each level.
func (m *MM) freeTables(t *sched.Task, g *mmuGather, table x86.PFN, level int, addr, end, floor, ceiling uint64) {
	size := x86.LevelSize(level)
	for ; addr < end; addr = tableEnd(addr, end, level) {
		ref := m.entry(table, level, addr)
		e := ref.Load(t.C)
		if !e.HWPresent() || e.Huge() {
			continue
		}
		below := e.PFN()
		if level > x86.LevelPMD {
			m.freeTables(t, g, below, level-1, addr, tableEnd(addr, end, level), floor, ceiling)
		}
		// The table goes if all it can translate lies between floor and ceiling.
		first := addr &^ (size - 1)
		if first < floor || ceiling != 0 && first+size > ceiling {
			continue
		}
		ref.Set(t.C, 0)
		p := m.Sys.Pages.Page(below)
		if level == x86.LevelPMD {
			m.NrPTEs--
			m.Sys.pageTableDtor(t, below)
		}
		m.Sys.Pages.Relabel(t, p, page.RefKernel, page.RefMap, 1)
		g.removePage(t, p)
	}
}

// freePgtables takes the VMAs off the lists that rmap uses and frees the page
// tables that only they needed; floor and ceiling are as in freePgdRange. Linux
// 2.6.29 mm/memory.c:free_pgtables.
func (m *MM) freePgtables(t *sched.Task, g *mmuGather, vmas []*VMA, floor, ceiling uint64) {
	for i := 0; i < len(vmas); i++ {
		addr, end := vmas[i].Start, vmas[i].End
		m.unlinkVMA(t, vmas[i])
		// Neighbours that share a table are freed in one go.
		for vmas[i].Flags&VMHugetlb == 0 && i+1 < len(vmas) && vmas[i+1].Start <= end+x86.PMDSize && vmas[i+1].Flags&VMHugetlb == 0 {
			i++
			end = vmas[i].End
			m.unlinkVMA(t, vmas[i])
		}
		top := ceiling
		if i+1 < len(vmas) {
			top = vmas[i+1].Start
		}
		m.freePgdRange(t, g, addr, end, floor, top)
	}
}

// unlinkVMA takes v off the lists that lead from pages to VMAs (anon_vma_unlink,
// unlink_file_vma).
func (m *MM) unlinkVMA(t *sched.Task, v *VMA) {
	anonVMAUnlink(t, v)
	if v.Mapping != nil {
		unlinkFileVMA(t, v)
	}
}
