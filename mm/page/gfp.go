package page

import "strings"

// GFP says how an allocation may get its memory (gfp_t). The bits have the
// values of Linux 2.6.29 include/linux/gfp.h.
type GFP uint32

// The single bits.
const (
	GFPWait       GFP = 0x10     // may sleep and reclaim (__GFP_WAIT)
	GFPHigh       GFP = 0x20     // may dip into the reserves (__GFP_HIGH)
	GFPIO         GFP = 0x40     // reclaim may start I/O (__GFP_IO)
	GFPFS         GFP = 0x80     // reclaim may call into file systems (__GFP_FS)
	GFPCold       GFP = 0x100    // a page that is not in the cache is wanted (__GFP_COLD)
	GFPNoWarn     GFP = 0x200    // failure needs no report (__GFP_NOWARN)
	GFPRepeat     GFP = 0x400    // try hard (__GFP_REPEAT)
	GFPNoFail     GFP = 0x800    // never fail: failing is an oops (__GFP_NOFAIL)
	GFPNoRetry    GFP = 0x1000   // one reclaim pass, no OOM killer (__GFP_NORETRY)
	GFPComp       GFP = 0x4000   // make a compound page (__GFP_COMP)
	GFPZero       GFP = 0x8000   // clear the page (__GFP_ZERO)
	GFPNoMemalloc GFP = 0x10000  // never use the reserves (__GFP_NOMEMALLOC)
	GFPHardwall   GFP = 0x20000  // accepted and ignored (__GFP_HARDWALL)
	GFPHighmem    GFP = 0x02     // accepted and ignored (__GFP_HIGHMEM)
	GFPMovable    GFP = 0x100000 // accepted and ignored (__GFP_MOVABLE)
	// GFPMemalloc stands for PF_MEMALLOC in the task's flags: the caller frees
	// memory, so it may have the last page. A bit of our own.
	GFPMemalloc GFP = 0x1000000
)

// The usual combinations.
const (
	GFPAtomic          = GFPHigh
	GFPNoIO            = GFPWait
	GFPNoFS            = GFPWait | GFPIO
	GFPKernel          = GFPWait | GFPIO | GFPFS
	GFPUser            = GFPKernel | GFPHardwall
	GFPHighUser        = GFPUser | GFPHighmem
	GFPHighUserMovable = GFPHighUser | GFPMovable
)

var gfpNames = []struct {
	bit  GFP
	name string
}{
	{GFPHighmem, "highmem"}, {GFPWait, "wait"}, {GFPHigh, "high"}, {GFPIO, "io"}, {GFPFS, "fs"}, {GFPCold, "cold"},
	{GFPNoWarn, "nowarn"}, {GFPRepeat, "repeat"}, {GFPNoFail, "nofail"}, {GFPNoRetry, "noretry"},
	{GFPComp, "comp"}, {GFPZero, "zero"}, {GFPNoMemalloc, "nomemalloc"}, {GFPHardwall, "hardwall"},
	{GFPMovable, "movable"}, {GFPMemalloc, "memalloc"},
}

// String lists the bits, separated by bars.
func (g GFP) String() string {
	var s []string
	for _, n := range gfpNames {
		if g&n.bit != 0 {
			s = append(s, n.name)
		}
	}
	if len(s) == 0 {
		return "-"
	}
	return strings.Join(s, "|")
}
