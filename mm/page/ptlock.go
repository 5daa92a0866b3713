package page

import (
	"unsafe"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
)

// The lock of a page table lives in the Page of the table's frame, in the words
// that belong to the mapping of other pages (the ptl of struct page's union in
// Linux 2.6.29 include/linux/mm_types.h). A spinlock holds no pointers.
const ptlSize = unsafe.Sizeof(lock.SpinLock{})

var _ [unsafe.Offsetof(Page{}.next) - unsafe.Offsetof(Page{}.Mapping) - ptlSize]byte

// PTL returns the lock of the last-level page table in frame pfn (pte_lockptr).
// The frame must have gone through PTLockInit.
func (m *Map) PTL(pfn x86.PFN) *lock.SpinLock {
	return (*lock.SpinLock)(unsafe.Pointer(&m.Page(pfn).Mapping))
}

// PTLockInit makes a frame that nobody else sees ready to be a page table
// (pte_lock_init).
func (m *Map) PTLockInit(pfn x86.PFN) { m.PTL(pfn).InitNumbered(lock.PTL, uint64(pfn)) }

// PTLockFree ends the frame's time as a page table (pte_lock_deinit). Nobody holds
// the lock.
func (m *Map) PTLockFree(pfn x86.PFN) { *m.PTL(pfn) = lock.SpinLock{} }
