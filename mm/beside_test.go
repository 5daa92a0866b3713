package mm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// What two tasks may do at the same time without a common lock must not meet in a Go variable. The
// race detector is the judge of these tests; without it they say little. The ledger is off: its lock,
// which every reference passes, would put in order what the machine's own locks do not.

func besideRig(t *testing.T) *rig {
	r := boot(t, rigOptions{Options: sched.Options{CPUs: 2, Regime: sched.Parallel}})
	r.s.Pages.UseLedger(false)
	return r
}

// swapoff looks at every VMA with mmap_sem for reading, as does the fault that gives a VMA its anon_vma.
func TestUnuseBesideFault(t *testing.T) {
	const vmas = 200
	r := besideRig(t)
	r.run(func(u *user) {
		for i := range vmas { // with holes, so that no two are one
			u.mmap(1, MmapRequest{Addr: at(2 * i), Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous | MapFixed})
		}
		u.store(at(0), 1)
		var over x86.Word32
		swapoff := u.threadOn(u.otherCPU(), "swapoff", func(c *user) {
			c.kernel(func(t *sched.Task) {
				pm := c.s.Pages
				c.mm.MmapSem.DownRead(t)
				p := c.s.followForKSM(t, c.mm, at(0)) // any page that has a mapping
				c.mm.MmapSem.UpRead(t)
				pm.LockPage(t, p)
				for over.Peek() == 0 {
					c.s.unuseMM(t, c.mm, x86.SwapEntry{Offset: 1}, p)
				}
				pm.UnlockPage(t, p)
				pm.Put(t, p)
			})
		})
		for i := range vmas {
			u.store(at(2*i), 1)
		}
		over.Poke(1)
		u.wait(swapoff)
	})
	r.end()
}

// Reclaim asks of a page that it has not locked whether the file is mapped whose it is, and that file
// may be ending.
func TestPageMappingInuseBesideRelease(t *testing.T) {
	r := besideRig(t)
	r.run(func(u *user) {
		var pfn, over x86.Word64
		reclaim := u.threadOn(u.otherCPU(), "reclaim", func(c *user) {
			c.kernel(func(t *sched.Task) {
				for over.Peek() == 0 {
					t.C.Point(x86.OpYield, 0)
					p := c.s.Pages.Page(x86.PFN(pfn.Peek()))
					if c.s.Pages.PFN(p) == 0 || !c.s.Pages.TryGet(t, p) {
						continue
					}
					for range 50 {
						c.s.pageMappingInuse(t, p)
						t.C.Point(x86.OpYield, 0)
					}
					c.s.Pages.Put(t, p)
				}
			})
		})
		u.kernel(func(k *sched.Task) {
			for range 300 {
				_, as, err := u.s.ShmemZeroSetup(k, 1, 0)
				require.NoError(t, err)
				p, ret := as.Ops.Fault(k, as, 0)
				require.Zero(t, ret&VMFaultError)
				pfn.Poke(uint64(u.s.Pages.PFN(p)))
				u.s.Pages.UnlockPage(k, p)
				u.s.Pages.Put(k, p)
				as.Put(k)
			}
		})
		over.Poke(1)
		u.wait(reclaim)
	})
	r.end()
}
