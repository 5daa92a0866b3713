package mm

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
)

// errNoNonlinear is what SysRemapFilePages returns. Immutable.
var errNoNonlinear = fmt.Errorf("remap_file_pages: a mapping whose pages are not in the order of the file "+
	"is not modelled; map each part with MAP_FIXED: %w", unix.ENOSYS)

// SysRemapFilePages refuses: there are no nonlinear mappings here (Linux 2.6.29
// mm/fremap.c). The error says so, and is ENOSYS for errors.Is.
func SysRemapFilePages(_ *sched.Task, _ *MM, start, size uint64, prot Prot, pgoff uint64, flags MapFlags) error {
	return fmt.Errorf("%#x, %#x bytes from page %d, prot %#x, flags %#x: %w", start, size, pgoff, prot, flags, errNoNonlinear)
}
