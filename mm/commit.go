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

	// hugetlb is hugetlb_total_pages: pages in pools of huge pages, which nobody can be
	// promised. Immutable.
	hugetlb func() uint64
}

// SetOvercommit sets vm.overcommit_memory and vm.overcommit_ratio (in per cent, zero
// means 50). Nothing may be running.
func (s *System) SetOvercommit(mode Overcommit, ratio uint64) {
	s.commit.mode, s.commit.ratio = mode, ratio
}

// CommittedPages returns how many pages are promised (Committed_AS).
func (s *System) CommittedPages() uint64 { return s.commit.pages.Peek() }

// CommitLimit is how many pages may be promised in the mode OvercommitNever, before what
// is held back (CommitLimit of /proc/meminfo).
func (s *System) CommitLimit() uint64 {
	swap, _ := s.SwapPages()
	return s.commitRAM() + swap
}

func (s *System) commitRAM() uint64 {
	return (s.Mem.Frames() - s.commit.hugetlb()) * limit(s.commit.ratio, 50) / 100
}

// vmEnoughMemory promises pages more to somebody in address space m, or refuses with
// ENOMEM: Linux 2.6.29 mm/mmap.c:__vm_enough_memory. m is current->mm, nil for a kernel
// thread, which may have as much as root.
//
//	mode 0  what the page cache, free swap and reclaimable slabs could give, and, if that
//	        is not enough, free pages above pages_high, must be more than is asked for now
//	mode 1  whatever is asked for
//	mode 2  the sum of all promises must stay below CommitLimit, less a 1/32 of m
//
// Without CAP_SYS_ADMIN (Limits.Unprivileged) a 1/32 of what there is stays for root.
func (s *System) vmEnoughMemory(m *MM, pages uint64) error {
	c := &s.commit
	root := m == nil || !m.Limits.Unprivileged
	how := x86.AccAdd
	if c.mode == OvercommitNever {
		how = x86.AccWrite // the sum is looked at
	}
	s.M.Touch(commitObj, how)
	total := c.pages.RawAdd(pages)
	switch c.mode {
	case OvercommitAlways:
		return nil
	case OvercommitGuess:
		tr := s.M.Trace()
		_, swapFree := s.SwapPages()
		free := uint64(max(tr.Gauge(trace.NrFilePages), 0)) + swapFree + uint64(max(tr.Gauge(trace.NrSlabReclaimable), 0))
		free -= forRoot(root, free)
		if free > pages {
			return nil
		}
		_, _, reserve := s.Pages.Watermarks() // totalreserve_pages
		if n := s.Pages.FreePages(); n > reserve {
			n -= reserve
			if free+n-forRoot(root, n) > pages {
				return nil
			}
		}
	case OvercommitNever:
		allowed := s.commitRAM()
		allowed -= forRoot(root, allowed)
		swapTotal, _ := s.SwapPages()
		allowed += swapTotal
		if m != nil {
			// It wraps, as there, if the process is 32 times larger than all there is.
			allowed -= m.RacyTotalVM() / 32
		}
		if total < allowed {
			return nil
		}
	}
	s.vmUnacctMemory(pages)
	return unix.ENOMEM
}

// forRoot is what stays of n for root.
func forRoot(root bool, n uint64) uint64 {
	if root {
		return 0
	}
	return n / 32
}

// vmUnacctMemory takes a promise back (vm_unacct_memory).
func (s *System) vmUnacctMemory(pages uint64) {
	s.M.Touch(commitObj, x86.AccAdd)
	s.commit.pages.RawAdd(-pages)
}

// commitObj names the sum of all promises.
const commitObj = x86.ObjID(x86.ClassWord)<<56 | 1<<44 | 2
