package mm

import (
	"fmt"
	"reflect"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// tableNames are the levels of the page tables, the last one first.
var tableNames = [...]string{"pte", "pmd", "pud", "pgd"}

// NameObj names an object of the memory manager for diagrams: "pte 1:0x10000" is the
// entry of address space 1 at that address. It returns "" for what it does not know.
// The machine must be at a step.
func (s *System) NameObj(o x86.ObjID) string {
	switch o.Class() {
	case x86.ClassPTE:
		id, level, va := x86.SplitPTEObj(o)
		return fmt.Sprintf("%s %d:%#x", tableNames[level], id, va)
	case x86.ClassPage:
		return fmt.Sprintf("%s of page %d", pageWordNames[o.ID()&7], o.ID()>>3)
	case x86.ClassFrame:
		return fmt.Sprintf("page %d+%d", o.ID()>>3, (o.ID()&7)*x86.SectorSize)
	case x86.ClassWord:
		for _, m := range s.MMs() {
			if m.obj == o {
				return fmt.Sprintf("mm %d", m.ID)
			}
		}
		for i := range s.tlb.slots {
			if s.tlb.slots[i].obj == o {
				return fmt.Sprintf("flush slot %d", i)
			}
		}
	}
	return ""
}

var pageWordNames = [8]string{"_count", "_mapcount", "flags", "fields", "policy word"}

// DescribeObj says what an object holds, in a few words; "" where there is nothing to
// say. The machine must be at a step.
func (s *System) DescribeObj(o x86.ObjID) string {
	switch o.Class() {
	case x86.ClassPTE:
		id, level, va := x86.SplitPTEObj(o)
		m := s.mmByID(id)
		if m == nil {
			return ""
		}
		if level == x86.LevelPTE {
			return describePTE(m.PeekPTE(va))
		}
		if e, size := m.PeekHugePTE(va); size == x86.LevelSize(level) {
			return describePTE(e)
		}
	case x86.ClassPage:
		pfn := x86.PFN(o.ID() >> 3)
		if !s.Mem.Valid(pfn) {
			return ""
		}
		p := s.Pages.Page(pfn)
		switch x86.PageWord(o.ID() & 7) {
		case x86.PageRef:
			return fmt.Sprint(p.Count.Peek())
		case x86.PageMap:
			return fmt.Sprint(p.MapCount.Peek())
		case x86.PageFlags:
			return page.FlagNames(p.Flags.Peek())
		}
	}
	return ""
}

// BytesOf returns the memory that an object is, and its offset within its page; nil for
// objects that are no memory. The machine must be at a step.
func (s *System) BytesOf(o x86.ObjID) ([]byte, uint64) {
	pfn := x86.PFN(o.ID() >> 3)
	if o.Class() != x86.ClassFrame || !s.Mem.Valid(pfn) {
		return nil, 0
	}
	at := (o.ID() & 7) * x86.SectorSize
	return s.Mem.Bytes(pfn)[at : at+x86.SectorSize], at
}

// HookName returns what a Go function is called if it is a policy's method that the core
// calls, "" otherwise: "PGGUP.ForkPTE". The methods of Stock are 2.6.29 itself and are none.
func HookName(pkg, typ, fn string) string {
	if pkg == "mm" || typ == "" {
		return ""
	}
	if _, ok := reflect.TypeFor[Policy]().MethodByName(fn); !ok {
		return ""
	}
	return typ + "." + fn
}

// describePTE is an entry as diagrams show it: the page, RO or RW, and A and D where it
// was accessed and written through.
func describePTE(e x86.PTE) string {
	switch {
	case e.None():
		return "none"
	case !e.Present():
		return "swap"
	}
	mode := "RO"
	if e.Write() {
		mode = "RW"
	}
	if e.Young() || e.Dirty() {
		mode += " "
	}
	if e.Young() {
		mode += "A"
	}
	if e.Dirty() {
		mode += "D"
	}
	return fmt.Sprintf("page %d %s", e.PFN(), mode)
}

// KernelNames says which kernel function a Go function stands for where the name alone
// does not: the policies' methods are pieces of functions that patches edit.
func KernelNames() map[string]string {
	return map[string]string{
		"FastTake": "gup_pte_range", "pteRange": "gup_pte_range", "pteRangeHooked": "gup_pte_range",
		"fastWalk.walk": "gup_pgd_range", "fastWalk.huge": "gup_huge_pmd", "gupFastHooked": "get_user_pages_fast",
		"ForkPTE": "copy_one_pte", "copyPTEs": "copy_pte_range", "copyPTEsHooked": "copy_pte_range", "copyPTERange": "copy_pte_range",
		"ForkBreak": "copy_pte_range", "PGGUP.preCOW": "fork_pre_cow", "Fork.AddMapping": "copy_one_pte",
		"PGDontCOW.ForkBreak": "decow_one_pte", "dupVMA": "dup_mmap", "DupMM": "dup_mm",
		"Follow": "follow_page", "Taken": "__get_user_pages", "GUPVMA": "__get_user_pages", "getUserPages": "__get_user_pages",
		"Fault.LockAndReuse": "do_wp_page", "wpCopy": "do_wp_page", "wpReuse": "do_wp_page", "Fault.Same": "do_wp_page",
		"flushTLB": "flush_tlb_mm", "flushTLBOthers": "native_flush_tlb_others", "invalidateInterrupt": "smp_invalidate_interrupt",
		"MM.SwitchIn": "switch_mm", "MM.Lazy": "enter_lazy_tlb", "MM.MMPut": "mmput", "MM.MMDrop": "mmdrop",
		"HugetlbCOW": "hugetlb_cow", "hugetlbFaultOne": "hugetlb_fault", "hugetlbNoPage": "hugetlb_no_page",
		"copyHugetlbPageRange": "copy_hugetlb_page_range", "Fork.CopyOneHuge": "copy_hugetlb_page_range",
		"ForkHuge": "copy_hugetlb_page_range", "followHugetlbPage": "follow_hugetlb_page", "takeHuge": "follow_hugetlb_page",
		"FollowHuge": "follow_hugetlb_page", "FastHuge": "gup_huge_pmd", "unmapHugepages": "__unmap_hugepage_range",
		"PutUserPage": "put_page", "nextTable": "copy_pud_range", "entry": "pte_offset", "CowUserPage": "cow_user_page",
	}
}

// OfMachine returns the memory manager of a machine, nil if it has none.
func OfMachine(m *sched.Machine) *System {
	s, _ := m.Local.(*System)
	return s
}

// PeekPTEOf returns the last-level entry for addr in the address space with the given
// number, 0 if there is none: for invariants and reports.
func (s *System) PeekPTEOf(id uint32, addr uint64) x86.PTE {
	if m := s.mmByID(id); m != nil && m.PGD != 0 {
		return m.PeekPTE(addr)
	}
	return 0
}

// PeekSwapCount returns the count of a swap entry, the swap cache's share included; 0 if it
// is not in use. The machine must be at a step.
func (s *System) PeekSwapCount(e x86.SwapEntry) int {
	if int(e.Type) >= len(s.swap.areas) {
		return 0
	}
	a := s.swap.areas[e.Type]
	if a == nil || e.Offset >= a.max {
		return 0
	}
	return int(a.m[e.Offset])
}
