package policy

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// DIOPageMultiple is a remark of 11 March 2009 that never became a patch (thread lines
// 249-254): "if something I'd rather see O_DIRECT not supporting hardblocksize anymore but
// only PAGE_SIZE multiples, that would at least limiting the breakage to an undefined
// behavior".
//
// Direct I/O from or to anything but whole pages is refused with EINVAL; where in the file it
// is, does not matter here. Then a page under
// I/O holds nothing that another thread stores for a purpose of its own, which is what
// loses reads; one that is stored to while it is read or written has no defined contents
// anyway. The child's memory changes as before, and its stores reach files.
type DIOPageMultiple struct {
	mm.Stock
	// noRefuse lets every request go on: the deciding line, for mutants.
	noRefuse bool
}

// Name implements mm.Policy.
func (DIOPageMultiple) Name() string { return "dio_page_multiple" }

// Hooks implements mm.Policy.
func (DIOPageMultiple) Hooks() mm.HookSet { return mm.HookPin }

// Claims implements mm.Policy.
func (DIOPageMultiple) Claims() mm.Guarantee { return mm.Forward | mm.AIO }

// About implements mm.Policy.
func (DIOPageMultiple) About() mm.About {
	return mm.About{
		Row: -1, Title: "O_DIRECT in whole pages only",
		Who: "Andrea Arcangeli", When: "11 March 2009, a remark", Lines: "249-254",
		Changes: []string{"direct I/O: EINVAL unless buffer and length are multiples of a page"},
		Claims:  "that a program which keeps to it does not lose what it reads",
		Open:    "programs that use sectors no longer work; the child's memory still changes (232-235); the reverse race; two page-aligned buffers share a huge page; other users",
	}
}

// PinBegin is the check of alignment in __blockdev_direct_IO.
func (p DIOPageMultiple) PinBegin(u *mm.PinUser) error {
	if u.Kind != mm.UserDirectIO || p.noRefuse {
		return nil
	}
	for _, r := range u.Ranges {
		if (r.Addr|r.Len)&^x86.PageMask != 0 {
			u.T.C.Trace.Inc(trace.EmuPolicyRefusals)
			return unix.EINVAL
		}
	}
	return nil
}
