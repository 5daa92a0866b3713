package mm

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// shmemOps implements AddressSpaceOps for tests that want pages of a file and nothing
// behind them: what shmem is without swap, limits and accounting.
type shmemOps struct{}

// Fault implements AddressSpaceOps.
func (shmemOps) Fault(t *sched.Task, as *AddressSpace, index uint64) (*page.Page, VMFault) {
	if index >= as.Pages.Load(t.C, as.obj) {
		return nil, VMFaultSigbus
	}
	pm := as.Sys.Pages
	for {
		if p := as.FindLockPage(t, index); p != nil {
			return p, 0
		}
		p := pm.Alloc(t, page.GFPHighUser|page.GFPZero, 0, "shmem")
		if p == nil {
			return nil, VMFaultOOM
		}
		p.PokeSet(page.SwapBacked)
		p.PokeSet(page.Uptodate)
		pm.LockPageNew(t, p)
		if as.AddToPageCacheLRU(t, p, index) == nil {
			return p, 0
		}
		pm.UnlockPage(t, p) // somebody was faster
		pm.Put(t, p)
	}
}

// SetPageDirty implements AddressSpaceOps: __set_page_dirty_no_writeback.
func (shmemOps) SetPageDirty(t *sched.Task, as *AddressSpace, p *page.Page) bool {
	if !as.Sys.Pages.TestFlag(t, p, page.Dirty) {
		as.Sys.Pages.SetFlag(t, p, page.Dirty)
	}
	return false
}

// Release implements AddressSpaceOps. The pages go with the cache.
func (shmemOps) Release(*sched.Task, *AddressSpace) {}
