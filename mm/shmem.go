package mm

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// Shared anonymous memory: mmap(MAP_SHARED|MAP_ANONYMOUS). Linux gives each such
// mapping an unlinked file of tmpfs; so the memory is page cache, not anonymous
// pages: it is never copied on write, fork shares it as it is, and it lives until
// the last VMA that maps it goes. Linux 2.6.29 mm/shmem.c.

// shmemFile is the file behind a shared anonymous mapping: a VMA's reference to
// it is one to the AddressSpace.
type shmemFile struct{ as *AddressSpace }

// Get implements VMFile.
func (f *shmemFile) Get(t *sched.Task) { f.as.Get(t) }

// Put implements VMFile. The last reference frees the pages.
func (f *shmemFile) Put(t *sched.Task) { f.as.Put(t) }

// Name implements VMFile.
func (f *shmemFile) Name() string { return "/dev/zero (deleted)" }

// ShmemZeroSetup makes the memory behind a new shared anonymous mapping of the
// given size in pages (shmem_zero_setup). Both results are the same object: the
// VMA's File and its Mapping. There is one reference, for the VMA; each further
// VMA takes its own with File.Get, and gives it back with File.Put.
func (s *System) ShmemZeroSetup(pages uint64) (VMFile, *AddressSpace) {
	f := &shmemFile{}
	f.as = s.NewAddressSpace(shmemOps{}, f, pages)
	return f, f.as
}

// shmemOps implements AddressSpaceOps for memory without a file system. A page
// comes into being, full of zeroes, when it is first touched.
type shmemOps struct{}

// Fault implements AddressSpaceOps: shmem_fault, shmem_getpage.
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
