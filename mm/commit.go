package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Overcommit says how much memory may be promised: vm.overcommit_memory.
type Overcommit uint8

// The modes, with Linux' values.
const (
	OvercommitGuess  Overcommit = iota // refuse only what cannot possibly fit
	OvercommitAlways                   // refuse nothing
	OvercommitNever                    // count, and refuse what exceeds ratio per cent of memory
)

// commitment is what processes have been promised: pages of private writable
// mappings, whether touched or not.
type commitment struct {
	pages x86.Word64 // vm_committed_space. Atomic, without points: a statistic.
	mode  Overcommit // sysctl_overcommit_memory. Set while nothing runs.
	ratio uint64     // sysctl_overcommit_ratio; zero means 50. Set while nothing runs.
}

// SetOvercommit sets vm.overcommit_memory and vm.overcommit_ratio (in per cent, zero
// means 50). Nothing may be running.
func (s *System) SetOvercommit(mode Overcommit, ratio uint64) {
	s.commit.mode, s.commit.ratio = mode, ratio
}

// CommittedPages returns how many pages are promised (Committed_AS).
func (s *System) CommittedPages() uint64 { return s.commit.pages.Peek() }

// vmEnoughMemory promises pages more, or refuses with ENOMEM. Linux 2.6.29
// mm/util.c:__vm_enough_memory for a process with CAP_SYS_ADMIN, which gets the last
// three per cent too.
func (s *System) vmEnoughMemory(pages uint64) error {
	c := &s.commit
	total := c.pages.RawAdd(pages)
	switch c.mode {
	case OvercommitAlways:
		return nil
	case OvercommitGuess:
		// What the page cache and swap could give comes first.
		spare := uint64(max(s.M.Trace().Gauge(trace.NrFilePages), 0))
		swapTotal, swapFree := s.SwapPages()
		if swapTotal != 0 {
			spare += swapFree
		}
		if spare > pages {
			return nil
		}
		_, _, reserve := s.Pages.Watermarks() // totalreserve_pages
		if free := s.Pages.FreePages(); free > reserve && free-reserve+spare > pages {
			return nil
		}
	case OvercommitNever:
		swapTotal, _ := s.SwapPages()
		if total <= (s.Mem.Frames()-s.hugetlbTotalPages())*limit(c.ratio, 50)/100+swapTotal {
			return nil
		}
	}
	s.vmUnacctMemory(pages)
	return unix.ENOMEM
}

// vmUnacctMemory takes a promise back (vm_unacct_memory).
func (s *System) vmUnacctMemory(pages uint64) { s.commit.pages.RawAdd(-pages) }
