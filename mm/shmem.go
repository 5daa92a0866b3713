package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// Memory without a file system: shared anonymous mappings, and files of tmpfs. Linux
// 2.6.29 mm/shmem.c. It is page cache, not anonymous pages: it is never copied on write,
// fork shares it as it is, and it lives until the last VMA that maps it, or the last who
// has it open, goes. Under pressure a page moves from the page cache to the swap cache and
// from there to the device; its place in the object then holds a swap entry, which no pte
// does.
//
//	index      0    1    2    3
//	         [page|  - |entry|page]
//	          |         |
//	page cache          shmem.swap: one user of the entry
//	          ^         |
//	          +---------+   Fault, or swapoff: swap cache -> page cache
//	          +-------->    WritePage: page cache -> swap cache

// shmem is one such object (struct shmem_inode_info and its inode). It is the
// AddressSpaceOps of its AddressSpace and, for a shared anonymous mapping, the VMFile of the
// VMAs that map it: their references are the AddressSpace's.
type shmem struct {
	s     *System
	as    *AddressSpace // immutable
	mount *ShmemMount   // what it counts against, nil for the kernel's own mount; immutable
	// noReserve says that pages are charged as they come, and not all at the beginning
	// (VM_NORESERVE). Immutable.
	noReserve bool
	charged   uint64 // pages charged at the beginning; immutable

	lock lock.SpinLock // info->lock
	// swap holds the entries of pages that are in swap. Linux has a tree of pages for it,
	// made while a page is brought in. Protected by lock.
	swap map[uint64]x86.SwapEntry
	// alloced counts pages in the cache and in swap (info->alloced); pages that were never
	// written to and that reclaim has dropped still count until somebody looks. Protected
	// by lock.
	alloced uint64

	// next and listed belong to the list of objects that may have swap entries
	// (shmem_swaplist). Protected by shmemList.lock; listed is looked at without.
	next   *shmem
	listed bool
}

// shmemList is shmem_swaplist.
type shmemList struct {
	lock lock.Mutex // shmem_swaplist_mutex
	head *shmem     // protected by lock
}

// ShmemMount is a mounted tmpfs, as far as it limits its files (struct shmem_sb_info).
type ShmemMount struct {
	lock lock.SpinLock // stat_lock
	max  uint64        // pages that its files may have; 0 is no limit; immutable
	free uint64        // pages left; protected by lock
}

// NewShmemMount makes a mount whose files may have so many pages together; 0 is no limit.
func (s *System) NewShmemMount(pages uint64) *ShmemMount {
	m := &ShmemMount{max: pages, free: pages}
	m.lock.Init(s.M, lock.ShmemStat)
	return m
}

// FreePages returns how many pages its files may still have. For anybody.
func (m *ShmemMount) FreePages(t *sched.Task) uint64 {
	m.lock.Lock(t)
	n := m.free
	m.lock.Unlock(t)
	return n
}

// Get implements VMFile.
func (f *shmem) Get(t *sched.Task) { f.as.Get(t) }

// Put implements VMFile. The last reference frees the pages.
func (f *shmem) Put(t *sched.Task) { f.as.Put(t) }

// Name implements VMFile.
func (f *shmem) Name() string { return "/dev/zero (deleted)" }

// ShmemZeroSetup makes the memory behind a new shared anonymous mapping of the given size
// in pages, and charges for all of it unless flags has VMNoReserve (shmem_zero_setup,
// shmem_file_setup). Both results are the same object: the VMA's File and its Mapping.
// There is one reference, for the VMA; each further VMA takes its own with File.Get, and
// gives it back with File.Put. ENOMEM; ENOSPC
// if there is no inode.
func (s *System) ShmemZeroSetup(t *sched.Task, pages uint64, flags VMFlags) (VMFile, *AddressSpace, error) {
	f, err := s.newShmem(t, pages, flags&VMNoReserve != 0, nil)
	if err != nil {
		return nil, nil, err
	}
	return f, f.as, nil
}

// NewShmemFile makes the contents of an empty file of a tmpfs: pages are charged one by one
// as they come, and count against the mount; what cannot be had is SIGBUS. The reference
// is the caller's; AddressSpace.Put drops it. ENOSPC.
func (s *System) NewShmemFile(t *sched.Task, mount *ShmemMount, pages uint64) (*AddressSpace, error) {
	f, err := s.newShmem(t, pages, true, mount)
	if err != nil {
		return nil, err
	}
	return f.as, nil
}

func (s *System) newShmem(t *sched.Task, pages uint64, noReserve bool, mount *ShmemMount) (*shmem, error) {
	f := &shmem{s: s, mount: mount, noReserve: noReserve}
	if !noReserve {
		if err := s.vmEnoughMemory(CurrentMM(t), pages); err != nil {
			return nil, err
		}
		f.charged = pages
	}
	if s.Pages.FailSite(t, "shmem_inode") {
		s.vmUnacctMemory(f.charged)
		return nil, unix.ENOSPC
	}
	f.lock.Init(s.M, lock.Shmem)
	f.as = s.NewAddressSpace(f, f, pages)
	return f, nil
}

// Fault implements AddressSpaceOps: shmem_fault.
func (f *shmem) Fault(t *sched.Task, as *AddressSpace, index uint64) (*page.Page, VMFault) {
	if index >= as.Pages.Load(t.C, as.obj) {
		return nil, VMFaultSigbus
	}
	return f.getpage(t, index)
}

// getpage returns the page at index, locked, up to date and with a reference: the one in
// the page cache, the one that swap has, or a new one full of zeroes (shmem_getpage). The
// error is SIGBUS if nothing more may be had (ENOSPC) or swap cannot be read (EIO).
func (f *shmem) getpage(t *sched.Task, index uint64) (*page.Page, VMFault) {
	ret := VMFault(0)
	for {
		if p := f.as.FindLockPage(t, index); p != nil {
			return p, ret
		}
		if f.s.Pages.FailSite(t, "radix_tree_preload") {
			return nil, VMFaultOOM
		}
		f.lock.Lock(t)
		f.recalcLocked(t)
		if e, ok := f.swap[index]; ok {
			p, r := f.swapin(t, index, e)
			ret |= r
			if p != nil || r&VMFaultError != 0 {
				return p, ret
			}
			continue
		}
		if !f.acctBlockLocked(t) {
			f.lock.Unlock(t)
			return nil, VMFaultSigbus
		}
		f.lock.Unlock(t)
		if p, r := f.fresh(t, index); p != nil || r != 0 {
			return p, ret | r
		}
	}
}

// fresh puts a new page, which has been charged, into the cache; nil and no error if
// somebody was faster.
func (f *shmem) fresh(t *sched.Task, index uint64) (*page.Page, VMFault) {
	pm := f.s.Pages
	p := pm.Alloc(t, page.GFPHighUser|page.GFPZero, 0, "shmem")
	if p == nil {
		f.lock.Lock(t)
		f.unacctBlocksLocked(t, 1)
		f.lock.Unlock(t)
		return nil, VMFaultOOM
	}
	p.PokeSet(page.SwapBacked)
	p.PokeSet(page.Uptodate)
	pm.LockPageNew(t, p)
	f.lock.Lock(t)
	_, swapped := f.swap[index]
	if !swapped && f.as.AddToPageCacheLRU(t, p, index) == nil {
		f.alloced++
		f.lock.Unlock(t)
		return p, 0
	}
	f.unacctBlocksLocked(t, 1)
	f.lock.Unlock(t)
	pm.UnlockPage(t, p)
	pm.Put(t, p)
	return nil, 0
}

// acctBlockLocked charges for one page: against the mount, and, if not all was charged at
// the beginning, against what may be committed (shmem_acct_block). The caller holds lock.
func (f *shmem) acctBlockLocked(t *sched.Task) bool {
	ok := true
	if m := f.mount; m != nil && m.max != 0 {
		m.lock.Lock(t)
		if ok = m.free != 0 && f.acctCommit(t); ok {
			m.free--
		}
		m.lock.Unlock(t)
		return ok
	}
	return f.acctCommit(t)
}

func (f *shmem) acctCommit(t *sched.Task) bool {
	return !f.noReserve || f.s.vmEnoughMemory(CurrentMM(t), 1) == nil
}

// unacctBlocksLocked takes charges back (shmem_unacct_blocks, shmem_free_blocks). The
// caller holds lock.
func (f *shmem) unacctBlocksLocked(t *sched.Task, n uint64) {
	if f.noReserve {
		f.s.vmUnacctMemory(n)
	}
	if m := f.mount; m != nil && m.max != 0 {
		m.lock.Lock(t)
		m.free += n
		m.lock.Unlock(t)
	}
}

// recalcLocked notices pages that reclaim has dropped because nobody had written to them
// (shmem_recalc_inode). The caller holds lock.
func (f *shmem) recalcLocked(t *sched.Task) {
	if have := uint64(f.as.racyNrPages(t) + len(f.swap)); f.alloced > have {
		f.unacctBlocksLocked(t, f.alloced-have)
		f.alloced = have
	}
}

// SetPageDirty implements AddressSpaceOps: __set_page_dirty_no_writeback.
func (f *shmem) SetPageDirty(t *sched.Task, as *AddressSpace, p *page.Page) bool {
	if !as.Sys.Pages.TestFlag(t, p, page.Dirty) {
		as.Sys.Pages.SetFlag(t, p, page.Dirty)
	}
	return false
}

// Release implements AddressSpaceOps: the pages and the entries go, and the charges with
// them (shmem_delete_inode).
func (f *shmem) Release(t *sched.Task, as *AddressSpace) {
	as.TruncatePages(t, 0)
	f.truncateSwap(t, 0)
	f.s.vmUnacctMemory(f.charged)
	f.unlist(t)
	if f.alloced != 0 {
		t.Oops("shmem_delete_inode: %d pages are still charged", f.alloced)
	}
}
