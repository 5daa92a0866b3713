package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// mincore: Linux 2.6.29 mm/mincore.c. A page is in core if no read from a device would
// be needed to use it, whoever else may have brought it in.

// SysMincore says for each page of [start, start+size) whether it is in memory: one
// byte a page, 1 or 0. mmap_sem is let go of after each stretch, so the answer is not
// one instant.
//
//   - EINVAL: start is not a multiple of the page size
//   - ENOMEM: the range is not in user space, or part of it is not mapped; the pages
//     before that are answered all the same
//   - EAGAIN: no memory for the kernel's copy of the answer
func SysMincore(t *sched.Task, m *MM, start, size uint64) (vec []byte, err error) {
	if start&^x86.PageMask != 0 {
		return nil, unix.EINVAL
	}
	if size > x86.TaskSize || start > x86.TaskSize-size {
		return nil, unix.ENOMEM
	}
	tmp := m.Sys.Pages.Alloc(t, page.GFPKernel, 0, "mincore")
	if tmp == nil {
		return nil, unix.EAGAIN
	}
	buf := make([]byte, x86.EntriesPerTable) // what lies in one table at most
	for left := pageAlign(size) >> x86.PageShift; left > 0 && err == nil; {
		var n int
		m.MmapSem.DownRead(t)
		n, err = m.doMincore(t, start, buf[:min(left, x86.EntriesPerTable)])
		m.MmapSem.UpRead(t)
		vec = append(vec, buf[:n]...)
		left -= uint64(n)
		start += uint64(n) << x86.PageShift
	}
	m.Sys.Pages.Put(t, tmp)
	return vec, err
}

// doMincore answers for the pages from addr on that lie in one VMA and one page table,
// at most len(vec), and returns how many those are (do_mincore). ENOMEM if nothing is
// mapped at addr.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (m *MM) doMincore(t *sched.Task, addr uint64, vec []byte) (int, error) {
	v := m.findVMA(t, addr)
	if v == nil || addr < v.Start {
		return 0, unix.ENOMEM
	}
	end := min(tableEnd(addr, v.End, x86.LevelPMD), addr+uint64(len(vec))<<x86.PageShift)
	n := int((end - addr) >> x86.PageShift)
	if v.Flags&VMHugetlb != 0 {
		m.mincoreHuge(t, v, addr, vec[:n])
		return n, nil
	}
	ref, ptl, ok := m.LockPTE(t, addr)
	if !ok {
		for i := range n {
			vec[i] = v.mincorePage(t, addr+uint64(i)<<x86.PageShift)
		}
		return n, nil
	}
	for i := range n {
		if i > 0 {
			ref = ref.Next(ref.Obj + 1)
		}
		switch pte := ref.Load(t.C); {
		case pte.Present():
			vec[i] = 1
		case pte.None():
			vec[i] = v.mincorePage(t, addr+uint64(i)<<x86.PageShift)
		default:
			vec[i] = v.MM.Sys.mincoreSwap(t, pte)
		}
	}
	ptl.Unlock(t)
	return n, nil
}

// mincoreHuge answers for small pages of one huge page: whether it is mapped, as later kernels
// do. 2.6.29 takes the entry for a corrupt one and clears it.
func (m *MM) mincoreHuge(t *sched.Task, v *VMA, addr uint64, vec []byte) {
	in := byte(0)
	if ref, ok := m.hugePTEOffset(t.C, addr, v.hstate()); ok && !ref.Load(t.C).None() {
		in = 1
	}
	for i := range vec {
		vec[i] = in
	}
}

// mincorePage answers for a page without a pte: what the file's cache has
// (mincore_page). Anonymous memory has nothing.
func (v *VMA) mincorePage(t *sched.Task, addr uint64) (in byte) {
	if v.Mapping == nil {
		return 0
	}
	p := v.Mapping.FindGetPage(t, v.Index(addr))
	if p == nil {
		return 0
	}
	pages := v.MM.Sys.Pages
	if pages.TestFlag(t, p, page.Uptodate) {
		in = 1
	}
	pages.Put(t, p)
	return in
}

// mincoreSwap answers for a swap entry: whether the swap cache has the page, read
// (Linux 2.6.29 mm/mincore.c looks it up in swapper_space).
func (s *System) mincoreSwap(t *sched.Task, pte x86.PTE) (in byte) {
	p := s.findSwapCache(t, pte.Swap())
	if p == nil {
		return 0
	}
	if s.Pages.TestFlag(t, p, page.Uptodate) {
		in = 1
	}
	s.Pages.Put(t, p)
	return in
}
