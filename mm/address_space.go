package mm

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// AddressSpace is the cached contents of one object (a file, a device, a shared
// anonymous mapping) and the VMAs that map it: struct address_space. It joins
// the file system's side, which fills and writes its pages, to the memory
// manager's, which maps and reclaims them.
//
//	index 0 1 2 3 ...
//	     [p|p| |p]  the page cache: one reference each      TreeLock
//	      |   Page.Mapping = handle, Page.Index = index
//	      v
//	     VMAs with VMA.Mapping == as (i_mmap)               IMmapLock
//
// A page is in the cache exactly while its Mapping is the handle. Both change
// with the page locked, so whoever has locked a page knows whether it still
// belongs here.
type AddressSpace struct {
	// Sys is the machine's memory manager. Immutable.
	Sys *System
	// Ops is what the owner does for the pages. Immutable.
	Ops AddressSpaceOps
	// Host is the owner: an inode. Immutable.
	Host any
	// Pages is the object's size in pages, rounded up (i_size). Atomic.
	Pages x86.Word64

	// TreeLock protects the page cache. Irq-safe: the end of a write changes tags.
	TreeLock lock.SpinLock
	tree     pageTree // protected by TreeLock

	// IMmapLock protects the list of VMAs and their bounds (i_mmap_lock).
	IMmapLock  lock.SpinLock
	head, tail *VMA // the list, by VMA.mapNext; protected by IMmapLock

	mkwrite Mkwriter   // Ops, if it is one; immutable
	dirties bool       // dirty pages are accounted; immutable
	huge    *HugeInode // set for a file of huge pages, whose indices count these; immutable

	slot uint32     // its handle is slot<<1; immutable
	refs x86.Word32 // holders: open files, VMAs. Atomic.
	obj  x86.ObjID  // names refs and Pages; immutable
}

// AddressSpaceOps is what the owner of an AddressSpace does for its pages:
// address_space_operations and the fault of vm_operations_struct.
type AddressSpaceOps interface {
	// Fault returns the page at index, locked, up to date, in the cache, with a
	// reference for the caller; or fault bits that say why not: VMFaultSigbus
	// beyond the end and for errors of the device, VMFaultOOM. VMFaultMajor may
	// come with a page. The caller may sleep and holds mmap_sem.
	Fault(t *sched.Task, as *AddressSpace, index uint64) (*page.Page, VMFault)
	// SetPageDirty marks a page of the cache dirty, and reports whether it was
	// not before (set_page_dirty). It must not sleep.
	SetPageDirty(t *sched.Task, as *AddressSpace, p *page.Page) bool
	// Release is called when the last reference to as has gone: no VMA maps it and
	// no file has it open. What is left in the cache is dropped afterwards.
	Release(t *sched.Task, as *AddressSpace)
}

// Mkwriter is an AddressSpaceOps that wants to know before a page that is mapped
// shared becomes dirty (page_mkwrite): to make room on disk for it, say.
type Mkwriter interface {
	// PageMkwrite is called with the page unlocked and referenced. An error turns
	// the write into SIGBUS. It may sleep.
	PageMkwrite(t *sched.Task, as *AddressSpace, v *VMA, p *page.Page) error
}

// DirtyAccounter is an AddressSpaceOps whose dirty pages are counted and written
// back (mapping_cap_account_dirty), so that the first store to each must be seen.
type DirtyAccounter interface{ AccountDirty() bool }

// addressSpaces numbers the AddressSpaces of a machine, so that pages can name
// theirs without a pointer. Like anonVMAs it is no part of the emulated machine.
type addressSpaces struct {
	chunks [maxChunks][]*AddressSpace // see anonVMAs; elements are written under lock
	lock   x86.RawSpin
	n      uint32   // highest slot handed out; slot 0 is nobody's; protected by lock
	free   []uint32 // protected by lock
	live   int      // protected by lock
}

// init prepares the table.
func (s *addressSpaces) init(*System) { s.chunks[0] = make([]*AddressSpace, firstChunk) }

func (s *addressSpaces) at(slot uint32) **AddressSpace {
	i := slot + firstChunk
	k := bits.Len32(i) - 1
	return &s.chunks[k-firstChunkLg][i&^(1<<k)]
}

// of returns the AddressSpace that a Page.Mapping names, nil if it names none.
// The page cannot leave the cache meanwhile, or the caller looks again with the
// page locked.
func (s *addressSpaces) of(mapping uint64) *AddressSpace {
	if mapping == 0 || mapping&page.MappingAnon != 0 {
		return nil
	}
	return *s.at(uint32(mapping >> 1))
}

// racyOf is of for a caller that has not locked the page (page_mapping_inuse): what the page belonged to
// a moment ago may be ending, and its slot be taken by another.
//
//go:norace
func (s *addressSpaces) racyOf(mapping uint64) *AddressSpace {
	if mapping == 0 || mapping&page.MappingAnon != 0 {
		return nil
	}
	i := uint32(mapping>>1) + firstChunk // at, which must not be called from here: only this function is not looked at
	k := bits.Len32(i) - 1
	return s.chunks[k-firstChunkLg][i&^(1<<k)]
}

func (s *addressSpaces) add(as *AddressSpace) {
	s.lock.Lock()
	if n := len(s.free); n > 0 {
		as.slot = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		s.n++
		as.slot = s.n
		if i := as.slot + firstChunk; i&(i-1) == 0 {
			s.chunks[bits.Len32(i)-1-firstChunkLg] = make([]*AddressSpace, i)
		}
	}
	*s.at(as.slot) = as
	s.live++
	s.lock.Unlock()
}

func (s *addressSpaces) remove(as *AddressSpace) {
	s.lock.Lock()
	*s.at(as.slot) = nil
	s.free = append(s.free, as.slot)
	s.live--
	s.lock.Unlock()
}

// each calls fn for every AddressSpace, oldest number first. Nothing may be running.
func (s *addressSpaces) each(fn func(as *AddressSpace)) {
	for slot := uint32(1); slot <= s.n; slot++ {
		if as := *s.at(slot); as != nil {
			fn(as)
		}
	}
}

// NewAddressSpace makes an empty AddressSpace of the given size in pages with
// one reference, which its owner drops with Put.
func (s *System) NewAddressSpace(ops AddressSpaceOps, host any, pages uint64) *AddressSpace {
	as := &AddressSpace{Sys: s, Ops: ops, Host: host, obj: s.M.NewObj(x86.ClassWord)}
	as.mkwrite, _ = ops.(Mkwriter)
	if d, ok := ops.(DirtyAccounter); ok {
		as.dirties = d.AccountDirty()
	}
	as.TreeLock.Init(s.M, lock.TreeLock)
	as.IMmapLock.Init(s.M, lock.IMmapLock)
	as.Pages.Poke(pages)
	as.refs.Poke(1)
	s.spaces.add(as)
	return as
}

// handle is what Page.Mapping holds for pages of as.
func (as *AddressSpace) handle() uint64 { return uint64(as.slot) << 1 }

// Get takes a reference to the AddressSpace itself.
func (as *AddressSpace) Get(t *sched.Task) { as.refs.Add(t.C, as.obj, 1) }

// Put drops a reference; the last one ends the AddressSpace and its cache. No
// spinlock may be held.
func (as *AddressSpace) Put(t *sched.Task) {
	switch n := as.refs.AddReturn(t.C, as.obj, -1); {
	case n > 0:
		return
	case n < 0:
		t.Oops("address_space %d put more often than taken", as.slot)
	}
	if as.head != nil {
		t.Oops("address_space %d released while VMA %#x-%#x maps it", as.slot, as.head.Start, as.head.End)
	}
	as.Ops.Release(t, as)
	as.TruncatePages(t, 0)
	as.Sys.spaces.remove(as)
}

// Fault is the fault of a VMA that maps as, at the given index: vm_ops->fault of 2.6.29.
// The page comes locked (VMFaultLocked), up to date and with a reference, or not
// at all.
func (as *AddressSpace) Fault(t *sched.Task, _ *VMA, index uint64, _ bool) (*page.Page, VMFault) {
	p, r := as.Ops.Fault(t, as, index)
	if r&VMFaultError != 0 {
		return nil, r
	}
	return p, r | VMFaultLocked
}

// HasMkwrite reports whether PageMkwrite must be called before a page that is
// mapped shared becomes dirty.
func (as *AddressSpace) HasMkwrite() bool { return as.mkwrite != nil }

// PageMkwrite asks the owner whether the page may become dirty. The page is not
// locked and may leave the mapping meanwhile.
func (as *AddressSpace) PageMkwrite(t *sched.Task, v *VMA, p *page.Page) error {
	return as.mkwrite.PageMkwrite(t, as, v, p)
}

// accountDirty reports whether the first store to each page must be seen
// (mapping_cap_account_dirty).
func (as *AddressSpace) accountDirty() bool { return as.dirties }

// NrPages returns how many pages are cached. Exact under TreeLock.
func (as *AddressSpace) NrPages() int { return as.tree.n }

// racyNrPages is NrPages without the lock.
//
//go:norace
func (as *AddressSpace) racyNrPages(t *sched.Task) int {
	t.C.Touch(as.countObj(), x86.AccRead)
	return as.tree.n
}

// countObj names how many pages are cached, which racyNrPages looks at.
func (as *AddressSpace) countObj() x86.ObjID { return as.obj | 11<<40 }

// FindGetPage returns the cached page at index with a reference, or nil
// (find_get_page; Linux looks without the lock).
func (as *AddressSpace) FindGetPage(t *sched.Task, index uint64) *page.Page {
	var p *page.Page
	off := as.TreeLock.LockIRQSave(t)
	t.WriteOf(as, "page_tree")
	if pfn := as.tree.get(index); pfn != 0 {
		p = as.Sys.Pages.Page(pfn)
		as.Sys.Pages.Get(t, p)
	}
	as.TreeLock.UnlockIRQRestore(t, off)
	return p
}

// FindLockPage is FindGetPage with the page locked and known to be still in the
// cache (find_lock_page).
func (as *AddressSpace) FindLockPage(t *sched.Task, index uint64) *page.Page {
	pm := as.Sys.Pages
	for {
		p := as.FindGetPage(t, index)
		if p == nil {
			return nil
		}
		pm.LockPage(t, p)
		if p.Mapping == as.handle() {
			return p
		}
		pm.UnlockPage(t, p)
		pm.Put(t, p)
	}
}

// FindGetPages stores the cached pages from index on, in order and with a
// reference each, in buf, and returns how many (find_get_pages).
func (as *AddressSpace) FindGetPages(t *sched.Task, index uint64, buf []*page.Page) int {
	var pfns [page.PagevecSize]x86.PFN
	n := min(len(buf), len(pfns))
	off := as.TreeLock.LockIRQSave(t)
	t.WriteOf(as, "page_tree")
	n, _ = as.tree.gang(index, pfns[:n])
	for i, pfn := range pfns[:n] {
		buf[i] = as.Sys.Pages.Page(pfn)
		as.Sys.Pages.Get(t, buf[i])
	}
	as.TreeLock.UnlockIRQRestore(t, off)
	return n
}

// AddToPageCache puts a page into the cache (add_to_page_cache_locked). The
// errors are EEXIST if there is one at index already, and ENOMEM for huge pages; others have
// their node before (radix_tree_preload in shmem_getpage).
//
// Preconditions:
//   - the caller has the page locked and a reference; the cache takes its own
//   - the page is in no other cache
func (as *AddressSpace) AddToPageCache(t *sched.Task, p *page.Page, index uint64) error {
	pm := as.Sys.Pages
	if as.huge != nil && pm.FailSite(t, "radix_tree_preload") {
		return unix.ENOMEM
	}
	pm.GetAs(t, p, page.RefCache)
	p.Mapping, p.Index = as.handle(), index
	off := as.TreeLock.LockIRQSave(t)
	t.WriteOf(as, "page_tree")
	t.C.Touch(as.countObj(), x86.AccAdd)
	ok := as.tree.insert(index, pm.PFN(p))
	if ok {
		t.C.Trace.Inc(trace.NrFilePages)
	}
	as.TreeLock.UnlockIRQRestore(t, off)
	if !ok {
		p.Mapping = 0
		pm.PutAs(t, p, page.RefCache)
		return unix.EEXIST
	}
	return nil
}

// AddToPageCacheLRU is AddToPageCache for a new page, which also goes to an LRU
// list (add_to_page_cache_lru).
func (as *AddressSpace) AddToPageCacheLRU(t *sched.Task, p *page.Page, index uint64) error {
	if err := as.AddToPageCache(t, p, index); err != nil {
		return err
	}
	l := page.InactiveFile
	if p.SwapBacked() {
		l = page.ActiveAnon
	}
	as.Sys.Pages.LRUCacheAdd(t, p, l)
	return nil
}

// RemoveFromPageCache takes a page out of the cache and drops the cache's
// reference (remove_from_page_cache).
//
// Preconditions:
//   - the caller has the page locked and a reference; no pte maps it
func (as *AddressSpace) RemoveFromPageCache(t *sched.Task, p *page.Page) {
	pm := as.Sys.Pages
	if p.Mapping != as.handle() {
		t.Oops("pfn %#x removed from address_space %d, but its mapping is %#x", pm.PFN(p), as.slot, p.Mapping)
	}
	off := as.TreeLock.LockIRQSave(t)
	t.WriteOf(as, "page_tree")
	t.C.Touch(as.countObj(), x86.AccAdd)
	if as.tree.remove(p.Index) != pm.PFN(p) {
		t.Oops("address_space %d does not have pfn %#x at index %d", as.slot, pm.PFN(p), p.Index)
	}
	p.Mapping = 0
	t.C.Trace.Dec(trace.NrFilePages)
	as.TreeLock.UnlockIRQRestore(t, off)
	if pm.Mapped(t, p) {
		t.Oops("pfn %#x leaves the page cache while it is mapped", pm.PFN(p))
	}
	pm.PutAs(t, p, page.RefCache)
}

// TruncatePages drops the cached pages from index on (truncate_inode_pages).
// Dirty ones are not written, ones that are being written are waited for. No
// pte may map them.
func (as *AddressSpace) TruncatePages(t *sched.Task, index uint64) {
	pm := as.Sys.Pages
	var buf [page.PagevecSize]*page.Page
	for {
		n := as.FindGetPages(t, index, buf[:])
		if n == 0 {
			return
		}
		for _, p := range buf[:n] {
			pm.LockPage(t, p)
			if p.Mapping == as.handle() {
				pm.WaitOnWriteback(t, p)
				pm.ClearFlag(t, p, page.Dirty)
				as.RemoveFromPageCache(t, p)
			}
			pm.UnlockPage(t, p)
			pm.Put(t, p)
		}
		t.CondResched()
	}
}

// mappedObj names whether a VMA maps as, which racyMapped looks at.
func (as *AddressSpace) mappedObj() x86.ObjID { return as.obj | 9<<40 }

// linkFileVMA puts v on the list of the AddressSpace that it maps, if it maps one
// (__vma_link_file; fork's vma_prio_tree_add). The order is that of arrival.
func linkFileVMA(t *sched.Task, v *VMA) {
	as := v.Mapping
	if as == nil {
		return
	}
	as.IMmapLock.Lock(t)
	t.WriteOf(as, "i_mmap")
	as.linkLocked(t, v)
	as.IMmapLock.Unlock(t)
}

// linkLocked is linkFileVMA for a caller that holds IMmapLock.
func (as *AddressSpace) linkLocked(t *sched.Task, v *VMA) {
	v.mapPrev, v.mapNext = as.tail, nil
	if as.tail != nil {
		as.tail.mapNext = v
	} else {
		t.C.Touch(as.mappedObj(), x86.AccWrite)
		as.head = v
	}
	as.tail = v
}

// unlinkFileVMA undoes linkFileVMA (unlink_file_vma).
func unlinkFileVMA(t *sched.Task, v *VMA) {
	as := v.Mapping
	if as == nil {
		return
	}
	as.IMmapLock.Lock(t)
	as.unlinkLocked(t, v)
	as.IMmapLock.Unlock(t)
}

// unlinkLocked is unlinkFileVMA for a caller that holds IMmapLock.
func (as *AddressSpace) unlinkLocked(t *sched.Task, v *VMA) {
	t.WriteOf(as, "i_mmap")
	switch {
	case v.mapPrev != nil:
		v.mapPrev.mapNext = v.mapNext
	case as.head == v:
		as.head = v.mapNext
	default:
		t.Oops("VMA %#x-%#x is not on the list of address_space %d", v.Start, v.End, as.slot)
	}
	if as.head == nil {
		t.C.Touch(as.mappedObj(), x86.AccWrite)
	}
	if v.mapNext != nil {
		v.mapNext.mapPrev = v.mapPrev
	} else {
		as.tail = v.mapPrev
	}
	v.mapPrev, v.mapNext = nil, nil
}

// SetPageDirty marks p dirty, as its AddressSpace wants it done, and reports
// whether it was not before (set_page_dirty).
//
// Preconditions:
//   - p is locked, or a pte that maps it is under its ptl: the page stays where
//     it is
func (s *System) SetPageDirty(t *sched.Task, p *page.Page) bool {
	if as := s.spaces.of(p.Mapping); as != nil {
		return as.Ops.SetPageDirty(t, as, p)
	}
	return !s.Pages.TestFlag(t, p, page.Dirty) && !s.Pages.TestAndSet(t, p, page.Dirty)
}

// SetPageDirtyLock is SetPageDirty for callers that only have a reference, such as
// the end of a direct read (set_page_dirty_lock). It may sleep.
func (s *System) SetPageDirtyLock(t *sched.Task, p *page.Page) bool {
	s.Pages.LockPage(t, p)
	was := s.SetPageDirty(t, p)
	s.Pages.UnlockPage(t, p)
	return was
}
