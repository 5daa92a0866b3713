package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// PagemapEntry is what /proc/PID/pagemap says of a page, with 2.6.29's bits: 63 present,
// 62 swapped, 55 to 60 the binary logarithm of the page's size, and below that the frame,
// or the area (5 bits) and slot of swap. 2.6.29 does not have the bits that came later
// (soft-dirty, exclusive, file), and says of huge pages that there are none.
type PagemapEntry uint64

const (
	pagemapPresent     PagemapEntry = 1 << 63
	pagemapSwap        PagemapEntry = 1 << 62
	pagemapPshift                   = 55
	pagemapNotPresent               = PagemapEntry(x86.PageShift) << pagemapPshift
	maxSwapfilesShift               = 5
	maxPagemap                      = 1 << 20
	pagemapPayloadMask PagemapEntry = 1<<pagemapPshift - 1
)

// Present reports whether the page is in memory and mapped.
func (e PagemapEntry) Present() bool { return e&pagemapPresent != 0 }

// Swapped reports whether the page table has an entry of swap for the page. The page may
// still be in memory, in the swap cache.
func (e PagemapEntry) Swapped() bool { return e&pagemapSwap != 0 }

// PFN returns the frame of a page that is present.
func (e PagemapEntry) PFN() x86.PFN { return x86.PFN(e & pagemapPayloadMask) }

// Pagemap returns an entry for each page of a range: what reading /proc/self/pagemap gives
// (Linux 2.6.29 fs/proc/task_mmu.c:pagemap_read). The answer is a Go slice and not emulated
// memory. Page tables are read without their locks, as there. EINVAL if addr is not
// page-aligned, ENOMEM. What lies beyond user space is left out, as at the end of a file, and at
// most 2^20 entries are given at a time.
func (t *Thread) Pagemap(addr, length uint64) ([]PagemapEntry, error) {
	if addr&^x86.PageMask != 0 {
		return nil, unix.EINVAL
	}
	end := addr
	if addr < x86.TaskSize {
		length = min(length, x86.TaskSize-addr, maxPagemap<<x86.PageShift)
		end += (length + x86.PageSize - 1) & x86.PageMask
	}
	var out []PagemapEntry
	err := t.Kernel(func(task *sched.Task) error {
		space := t.p.space
		if t.m.pages.FailSite(task, "pagemap_read") {
			return unix.ENOMEM
		}
		space.MmapSem.DownRead(task)
		out = t.m.pagemap(space, addr, end)
		space.MmapSem.UpRead(task)
		return nil
	})
	return out, err
}

// pagemap is pagemap_pte_range over a range.
func (m *Machine) pagemap(space *mm.MM, addr, end uint64) (out []PagemapEntry) {
	for addr < end {
		pte, next := m.peekPTE(space, addr)
		e := pagemapNotPresent
		switch {
		case pte.IsSwap():
			s := pte.Swap()
			e |= pagemapSwap | PagemapEntry(s.Type)&(1<<maxSwapfilesShift-1) | PagemapEntry(s.Offset)<<maxSwapfilesShift
		case pte.Present():
			e |= pagemapPresent | PagemapEntry(pte.PFN())
		}
		for ; addr < min(next, end); addr += x86.PageSize {
			out = append(out, e)
		}
	}
	return out
}
