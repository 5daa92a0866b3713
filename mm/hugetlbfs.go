package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// hugetlbfs: files whose page cache is of huge pages. Linux 2.6.29 fs/hugetlbfs/inode.c.
// There is no other way to huge pages: anonymous memory with MapHugetlb is an unlinked file
// of it, too. A file is mapped, truncated, and read; write is EINVAL. The page cache is
// indexed in huge pages, and a page of it comes into being when a mapping is touched.

// HugeInode is a file of hugetlbfs.
type HugeInode struct {
	as   *AddressSpace // immutable
	h    *hstate       // immutable
	name string        // immutable
	// mutex is i_mutex, of a class of its own: mmap takes it with mmap_sem held.
	mutex lock.Mutex
	// resvLock makes changes of regions atomic. It belongs to the tool: in 2.6.29 mmap in
	// one process and a fault in another have no lock in common.
	resvLock x86.RawSpin
	regions  regionList // what was promised to shared mappings; protected by resvLock
	made     regionList // what is in the page cache; for invariants; protected by resvLock
	// linked says that the file has a name, and lives on when nobody uses it. Set and
	// cleared by whoever keeps the names.
	linked bool
}

// NewHugeInode makes a file of huge pages of the given size in bytes, 0 for the default,
// with one reference, which Put drops. EINVAL if there are no such pages, ENOSPC if there is
// no memory for the inode.
func (s *System) NewHugeInode(t *sched.Task, name string, pageSize uint64) (*HugeInode, error) {
	h := s.sizeToHstate(pageSize)
	if h == nil {
		return nil, unix.EINVAL
	}
	if s.Pages.FailSite(t, "hugetlbfs_inode") {
		return nil, unix.ENOSPC
	}
	i := &HugeInode{h: h, name: name}
	i.mutex.Init(s.M, lock.HugetlbInode)
	i.as = s.NewAddressSpace(hugetlbfsOps{}, i, 0)
	i.as.huge = i
	return i, nil
}

// Get and Put take and drop a reference. The last one gives the pages back to the pool; no
// spinlock may be held.
func (i *HugeInode) Get(t *sched.Task) { i.as.Get(t) }

// Put drops a reference; see Get.
func (i *HugeInode) Put(t *sched.Task) { i.as.Put(t) }

// SetLinked says whether the file has a name: then it is no leak that it exists. Whoever
// names it has a reference.
func (i *HugeInode) SetLinked(on bool) { i.linked = on }

// PageSize returns the size of the file's pages.
func (i *HugeInode) PageSize() uint64 { return i.h.size }

// Size returns the file's size in bytes (i_size_read).
func (i *HugeInode) Size(t *sched.Task) int64 {
	return int64(i.as.Pages.Load(t.C, i.as.obj) << x86.PageShift)
}

// hugePages is i_size in huge pages.
func (i *HugeInode) hugePages(t *sched.Task) uint64 {
	return i.as.Pages.Load(t.C, i.as.obj) >> i.h.order
}

// Mapping returns the file's pages.
func (i *HugeInode) Mapping() *AddressSpace { return i.as }

// File returns what a VMA keeps of the file, opened for what mode says.
func (i *HugeInode) File(mode FileMode) *HugeFile { return &HugeFile{i, mode} }

// HugeFile is an open file of hugetlbfs as mmap sees it. A reference to it is one to the
// inode.
type HugeFile struct {
	ino  *HugeInode // immutable
	mode FileMode   // immutable
}

// Get implements VMFile.
func (f *HugeFile) Get(t *sched.Task) { f.ino.Get(t) }

// Put implements VMFile.
func (f *HugeFile) Put(t *sched.Task) { f.ino.Put(t) }

// Name implements VMFile.
func (f *HugeFile) Name() string { return f.ino.name }

// Mode implements MmapFile.
func (f *HugeFile) Mode() FileMode { return f.mode }

// Open implements VMOps: hugetlb_vm_op_open.
func (f *HugeFile) Open(_ *sched.Task, v *VMA) { v.openResv() }

// Close implements VMOps: hugetlb_vm_op_close.
func (f *HugeFile) Close(t *sched.Task, v *VMA) { v.closeResv(t, f.ino.as.Sys, f.ino.h) }

// Mmap implements MmapFile: hugetlbfs_file_mmap. The length and a fixed address have been
// checked by getUnmappedArea. EINVAL: the offset is not a multiple of the page size; ENOMEM:
// the pool cannot promise so many pages.
func (f *HugeFile) Mmap(t *sched.Task, v *VMA) error {
	i := f.ino
	v.Flags |= VMHugetlb
	if v.PgOff&(uint64(i.h.pages())-1) != 0 {
		return unix.EINVAL
	}
	i.mutex.Lock(t)
	end := v.PgOff + v.Pages()
	err := i.reservePages(t, v, v.PgOff>>i.h.order, end>>i.h.order)
	if err == nil && v.Flags&VMWrite != 0 && i.as.Pages.Load(t.C, i.as.obj) < end {
		i.as.Pages.Store(t.C, i.as.obj, end)
	}
	i.mutex.Unlock(t)
	return err
}

// Truncate sets the file's size: hugetlbfs_setattr, hugetlb_vmtruncate. What lies beyond is
// unmapped everywhere, private copies too, and goes back to the pool. EINVAL: the size is
// negative or not a multiple of the page size.
func (i *HugeInode) Truncate(t *sched.Task, size int64) error {
	if size < 0 || uint64(size)&(i.h.size-1) != 0 {
		return unix.EINVAL
	}
	as := i.as
	pgoff := uint64(size) >> x86.PageShift
	i.mutex.Lock(t)
	as.Pages.Store(t.C, as.obj, pgoff)
	as.IMmapLock.Lock(t)
	for v := as.head; v != nil; v = v.mapNext {
		if v.PgOff+v.Pages() <= pgoff {
			continue
		}
		start := v.Start
		if v.PgOff < pgoff {
			start += (pgoff - v.PgOff) << x86.PageShift
		}
		as.Sys.unmapHugepages(t, v, start, v.End, nil)
	}
	as.IMmapLock.Unlock(t)
	i.truncatePages(t, pgoff>>i.h.order)
	i.mutex.Unlock(t)
	return nil
}

// truncatePages takes the pages from start on out of the cache, and their promises back
// (truncate_hugepages).
func (i *HugeInode) truncatePages(t *sched.Task, start uint64) {
	as, pm := i.as, i.as.Sys.Pages
	var buf [page.PagevecSize]*page.Page
	freed := uint64(0)
	for {
		n := as.FindGetPages(t, start, buf[:])
		if n == 0 {
			break
		}
		for _, p := range buf[:n] {
			pm.LockPage(t, p)
			if p.Mapping == as.handle() {
				pm.ClearFlag(t, p, page.Dirty)
				pm.ClearFlag(t, p, page.Uptodate)
				as.RemoveFromPageCache(t, p)
				i.setMade(p.Index, false)
				freed++
			}
			pm.UnlockPage(t, p)
			pm.Put(t, p)
		}
	}
	i.unreservePages(t, start, freed)
}

// FindPage returns the page of the cache that holds byte pos, with a reference, and the
// small page of it; nil for a hole. It is for read (hugetlbfs_read).
func (i *HugeInode) FindPage(t *sched.Task, pos int64) (head, sub *page.Page) {
	p := i.as.FindGetPage(t, uint64(pos)/i.h.size)
	if p == nil {
		return nil, nil
	}
	return p, i.as.Sys.Pages.Subpage(p, int(uint64(pos)&(i.h.size-1)>>x86.PageShift))
}

// hugetlbfsOps implements AddressSpaceOps.
type hugetlbfsOps struct{}

// Fault implements AddressSpaceOps: hugetlb_vm_op_fault. Faults in VMAs of huge pages never
// get here.
func (hugetlbfsOps) Fault(t *sched.Task, as *AddressSpace, index uint64) (*page.Page, VMFault) {
	t.Oops("hugetlb_vm_op_fault: index %#x of address_space %d", index, as.slot)
	return nil, VMFaultSigbus
}

// SetPageDirty implements AddressSpaceOps: hugetlbfs_set_page_dirty. It is the head that is
// dirty.
func (hugetlbfsOps) SetPageDirty(t *sched.Task, as *AddressSpace, p *page.Page) bool {
	as.Sys.Pages.SetFlag(t, as.Sys.Pages.Head(p), page.Dirty)
	return false
}

// Release implements AddressSpaceOps: hugetlbfs_delete_inode.
func (hugetlbfsOps) Release(t *sched.Task, as *AddressSpace) { as.huge.truncatePages(t, 0) }

// hugetlbFileSetup makes the file behind an anonymous mapping of huge pages and puts it into
// the request (hugetlb_file_setup of Linux 2.6.32, which has MAP_HUGETLB). The pages are
// promised when it is mapped. The length is rounded up. The caller's reference is the
// inode's only one. EINVAL: there are no pages of that size.
func (s *System) hugetlbFileSetup(t *sched.Task, req *MmapRequest) (*HugeInode, error) {
	size := uint64(0)
	if shift := req.Flags >> mapHugeShift & mapHugeMask; shift != 0 {
		size = 1 << shift
	}
	i, err := s.NewHugeInode(t, "/anon_hugepage (deleted)", size)
	if err != nil {
		return nil, err
	}
	if n := (req.Len + i.h.size - 1) & i.h.mask(); n >= req.Len {
		req.Len = n
	}
	req.File, req.Mapping, req.PgOff = i.File(FModeRead|FModeWrite), i.as, 0
	return i, nil
}
