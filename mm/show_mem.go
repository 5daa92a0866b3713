package mm

import (
	"fmt"
	"io"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// ShowMem writes what the kernel prints of memory when it is short: Linux 2.6.29
// lib/show_mem.c:show_mem, mm/swap_state.c:show_swap_cache_info. While the machine runs
// the numbers are approximate.
func (s *System) ShowMem(w io.Writer) {
	tr := s.M.Trace()
	fmt.Fprintln(w, "Mem-Info:")
	s.Pages.ShowFreeAreas(w)
	fmt.Fprintf(w, "%d pages in swap cache\n", s.SwapCachePages())
	fmt.Fprintf(w, "Swap cache stats: add %d, delete %d, find %d/%d\n", tr.Sum(trace.EmuSwapCacheAdds),
		tr.Sum(trace.EmuSwapCacheDeletes), tr.Sum(trace.EmuSwapCacheHits), tr.Sum(trace.EmuSwapCacheFinds))
	total, free := s.SwapPages()
	const kb = x86.PageSize >> 10
	fmt.Fprintf(w, "Free swap  = %dkB\nTotal swap = %dkB\n", free*kb, total*kb)
	var reserved, shared, nonshared uint64
	for pfn := range x86.PFN(s.Pages.Frames()) {
		p := s.Pages.Page(pfn)
		n := p.Count.Peek()
		switch {
		case p.Has(page.Reserved):
			reserved++
		case n == 1:
			nonshared++
		case n > 1:
			shared += uint64(n) - 1
		}
	}
	fmt.Fprintf(w, "%d pages RAM\n%d pages reserved\n%d pages shared\n%d pages non-shared\n",
		s.Pages.Frames(), reserved, shared, nonshared)
}
