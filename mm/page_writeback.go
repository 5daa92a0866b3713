package mm

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// How much may be on its way to the disks: Linux 2.6.29 mm/page-writeback.c, as far as
// reclaim asks. Nobody counts dirty pages of files yet, so nobody is held back for
// dirtying them.

const (
	vmDirtyRatio           = 10 // vm.dirty_ratio, in per cent of what could be dirty
	vmDirtyBackgroundRatio = 5  // vm.dirty_background_ratio
)

// determineDirtyableMemory is determine_dirtyable_memory.
func (s *System) determineDirtyableMemory() uint64 {
	n := s.Pages.FreePages() + 1
	for z := range s.Pages.NumZones() {
		n += s.zoneLRUPages(z)
	}
	return n
}

// dirtyLimits is get_dirty_limits, in pages.
func (s *System) dirtyLimits() (background, dirty uint64) {
	n := s.determineDirtyableMemory()
	dirty = max(vmDirtyRatio, 5) * n / 100
	background = vmDirtyBackgroundRatio * n / 100
	if background >= dirty {
		background = dirty / 2
	}
	return background, dirty
}

// throttleVMWriteout is the end of each pass of reclaim over a zone: as long as more
// is being written than an eleventh of what could be, reclaim waits for it
// (throttle_vm_writeout). Without it, reclaim on a small machine sends all there is to
// the disk, has nothing left that it could free, and calls the OOM killer.
func (s *System) throttleVMWriteout(t *sched.Task, gfp page.GFP) {
	for {
		_, dirty := s.dirtyLimits()
		dirty += dirty / 10
		if s.M.Trace().Gauge(trace.NrWriteback) <= int64(dirty) {
			return
		}
		s.Pages.CongestionWait(t, congestionNap)
		if gfp&(page.GFPFS|page.GFPIO) != page.GFPFS|page.GFPIO {
			return // the caller may hold what the writing needs
		}
	}
}
