package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// mmap and munmap: Linux 2.6.29 mm/mmap.c. The system calls are Sys functions, which
// take mmap_sem; the Do functions below them want it held for writing, as do_mmap
// and do_munmap do.

// Prot is the protection argument of mmap and mprotect.
type Prot uint32

// The protections, with Linux' values.
const (
	ProtNone      Prot = 0
	ProtRead      Prot = 0x1
	ProtWrite     Prot = 0x2
	ProtExec      Prot = 0x4
	ProtSem       Prot = 0x8
	ProtGrowsDown Prot = 0x01000000 // mprotect only: from the start of a stack
	ProtGrowsUp   Prot = 0x02000000
)

// MapFlags is the flags argument of mmap.
type MapFlags uint32

// The flags, with Linux' values on x86.
const (
	MapShared     MapFlags = 0x01
	MapPrivate    MapFlags = 0x02
	MapType       MapFlags = 0x0f
	MapFixed      MapFlags = 0x10
	MapAnonymous  MapFlags = 0x20
	Map32Bit      MapFlags = 0x40
	MapGrowsDown  MapFlags = 0x0100
	MapDenyWrite  MapFlags = 0x0800
	MapExecutable MapFlags = 0x1000
	MapLocked     MapFlags = 0x2000
	MapNoReserve  MapFlags = 0x4000
	MapPopulate   MapFlags = 0x8000
	MapNonBlock   MapFlags = 0x10000
	// MapHugetlb with MapAnonymous asks for huge pages. It is Linux 2.6.32's; 2.6.29 has
	// files of hugetlbfs only. The size comes from MapHuge2M or MapHuge1G, of Linux 3.8; 2
	// MiB without.
	MapHugetlb MapFlags = 0x40000
	MapHuge2M  MapFlags = 21 << mapHugeShift
	MapHuge1G  MapFlags = 30 << mapHugeShift

	mapHugeShift = 26
	mapHugeMask  = 0x3f
)

const (
	// maxMapCount is sysctl_max_map_count.
	maxMapCount = 65530
	// mmapMinAddr is where hints and stacks end downwards (mmap_min_addr).
	// MAP_FIXED goes below, as it does for a process with CAP_SYS_RAWIO.
	mmapMinAddr = 0x10000
)

// RlimInfinity is the limit that is none.
const RlimInfinity = ^uint64(0)

// Limits are the resource limits that memory management looks at. In Linux they
// belong to the process; the zero value is what a login shell of root has.
type Limits struct {
	// Stack is RLIMIT_STACK in bytes; zero means 8 MiB.
	Stack uint64
	// AS, Data and Memlock are RLIMIT_AS, RLIMIT_DATA and RLIMIT_MEMLOCK in
	// bytes; zero means unlimited.
	AS, Data, Memlock uint64
	// Hard is how far each may be raised, in bytes; zero means as far as one likes. Nothing but
	// setrlimit looks at it.
	Hard struct{ Stack, AS, Data, Memlock uint64 }
	// Unprivileged takes CAP_SYS_ADMIN and CAP_IPC_LOCK away: RLIMIT_MEMLOCK binds, and the
	// last three per cent of memory are for root.
	Unprivileged bool
	// StackGuard is how many bytes must stay unmapped below a stack that grows. Zero
	// is 2.6.29; stack_guard_gap, of 1 MiB, came in 4.12.
	StackGuard uint64
}

// limit returns a limit, or what it means if it is zero.
func limit(bytes, unset uint64) uint64 {
	if bytes == 0 {
		return unset
	}
	return bytes
}

// FileMode says what a file was opened for.
type FileMode uint8

// The modes (FMODE_READ, FMODE_WRITE).
const (
	FModeRead FileMode = 1 << iota
	FModeWrite
)

// MmapFile is a VMFile that has something to say when it is mapped. A VMFile that
// does not implement it was opened for reading and writing.
type MmapFile interface {
	VMFile
	// Mode says what the file was opened for.
	Mode() FileMode
	// Mmap is the file's mmap operation: it may change v.Flags and v.Prot, or
	// refuse, with ENODEV if the file cannot be mapped at all. mmap_sem is held for
	// writing and v is not in the tree yet.
	Mmap(t *sched.Task, v *VMA) error
}

// MmapRequest is what is to be mapped where.
type MmapRequest struct {
	// Addr is where the mapping shall begin: with MapFixed there and nowhere else,
	// else a hint; zero leaves it to the kernel.
	Addr uint64
	// Len is the length in bytes, rounded up to whole pages.
	Len   uint64
	Prot  Prot
	Flags MapFlags
	// File is the file to map and Mapping its pages; both nil for anonymous memory.
	// File may be nil with Mapping set: the caller then keeps the mapping alive.
	File    VMFile
	Mapping *AddressSpace
	// PgOff is the offset in the file, in pages.
	PgOff uint64
}

// siteVMA names the allocation of a vm_area_struct, for page.Map.FailAt.
const siteVMA = "vm_area_struct"

// pageAlign rounds up to a page; it wraps to zero at the end of the address range.
func pageAlign(n uint64) uint64 { return (n + x86.PageSize - 1) & x86.PageMask }

// calcVMProtBits translates a protection to VMA flags (calc_vm_prot_bits).
func calcVMProtBits(p Prot) VMFlags { return VMFlags(p) & (VMRead | VMWrite | VMExec) }

// calcVMFlagBits translates mmap's flags to VMA flags (calc_vm_flag_bits).
func calcVMFlagBits(f MapFlags) (v VMFlags) {
	if f&MapGrowsDown != 0 {
		v |= VMGrowsDown
	}
	if f&MapLocked != 0 {
		v |= VMLocked
	}
	return v
}

// protectionMap gives the flags of new ptes for the lowest four VMA flags
// (protection_map). A private mapping is never writable here: the first store must
// fault, and that is how copy-on-write begins.
var protectionMap = [16]x86.PTE{
	0: pageNone, 1: pageRead, 2: pageRead, 3: pageRead, 4: pageExec, 5: pageExec, 6: pageExec, 7: pageExec,
	8: pageNone, 9: pageRead, 10: pageWrite, 11: pageWrite, 12: pageExec, 13: pageExec, 14: pageAll, 15: pageAll,
}

const (
	pageNone  = x86.PteProtNone | x86.PteAccessed
	pageExec  = x86.PtePresent | x86.PteUser | x86.PteAccessed
	pageRead  = pageExec | x86.PteNX
	pageAll   = pageExec | x86.PteRW
	pageWrite = pageAll | x86.PteNX
)

// vmGetPageProt returns vm_page_prot for the flags (vm_get_page_prot).
func vmGetPageProt(f VMFlags) x86.PTE { return protectionMap[f&(VMRead|VMWrite|VMExec|VMShared)] }

// vmaWantsWritenotify reports whether the first store to each page of a shared
// mapping must be noticed, because its owner wants to be asked or because the file is
// to be written back (vma_wants_writenotify).
func vmaWantsWritenotify(v *VMA) bool {
	if v.Mapping == nil || v.Flags&(VMWrite|VMShared) != VMWrite|VMShared {
		return false
	}
	return v.Mapping.HasMkwrite() || v.Mapping.accountDirty() &&
		v.Prot == vmGetPageProt(v.Flags) && v.Flags&(VMPFNMap|VMInsertPage) == 0
}

// SysMmap maps memory and returns its address: the system call mmap, with the
// file offset in bytes. req.PgOff is ignored. What it refuses:
//
//   - EINVAL: off is not a multiple of the page size; no length; neither shared nor
//     private; a fixed address that is not a multiple of the page size; a file that is
//     to grow down; for huge pages all of this with their size, and MapHugetlb with a
//     size that there is not
//   - EBADF: no file, and MapAnonymous not set
//   - EACCES: the file was not opened for reading, or for writing though the mapping
//     is shared and writable
//   - ENOMEM: the range is not in user space or does not fit into it, too many VMAs,
//     too little memory, or RLIMIT_AS; too few huge pages that are free and not promised
//   - EOVERFLOW: offset and length wrap
//   - EPERM, EAGAIN: MapLocked beyond RLIMIT_MEMLOCK
//   - ENODEV, or what else the file's Mmap says
func SysMmap(t *sched.Task, m *MM, req MmapRequest, off uint64) (uint64, error) {
	if off&^x86.PageMask != 0 {
		return 0, unix.EINVAL
	}
	req.PgOff = off >> x86.PageShift
	if req.Flags&MapAnonymous != 0 {
		req.File, req.Mapping = nil, nil
	} else if req.File == nil && req.Mapping == nil {
		return 0, unix.EBADF
	}
	req.Flags &^= MapExecutable | MapDenyWrite
	var ino *HugeInode
	if req.Flags&(MapAnonymous|MapHugetlb) == MapAnonymous|MapHugetlb {
		var err error
		if ino, err = m.Sys.hugetlbFileSetup(t, &req); err != nil {
			return 0, err
		}
	}
	m.MmapSem.DownWrite(t)
	addr, err := DoMmap(t, m, req)
	m.MmapSem.UpWrite(t)
	if ino != nil {
		ino.Put(t)
	}
	return addr, err
}

// DoMmap is SysMmap below the system call: do_mmap_pgoff. Memory is anonymous if the
// request has neither file nor mapping.
//
// Preconditions:
//   - mmap_sem is held for writing
func DoMmap(t *sched.Task, m *MM, req MmapRequest) (uint64, error) {
	m.MmapSem.AssertHeld(t)
	if req.Len == 0 {
		return 0, unix.EINVAL
	}
	addr := req.Addr
	if req.Flags&MapFixed == 0 {
		addr = roundHintToMin(addr)
	}
	size := pageAlign(req.Len)
	if size == 0 {
		return 0, unix.ENOMEM
	}
	pgoff := req.PgOff
	if pgoff+size>>x86.PageShift < pgoff {
		return 0, unix.EOVERFLOW
	}
	if m.MapCount > maxMapCount {
		return 0, unix.ENOMEM
	}
	addr, err := m.getUnmappedArea(t, addr, size, &req)
	if err != nil {
		return 0, err
	}
	flags := calcVMProtBits(req.Prot) | calcVMFlagBits(req.Flags) | m.DefFlags | VMMayRead | VMMayWrite | VMMayExec
	if flags&VMLocked != 0 {
		if err := m.mayLock(size, req.Flags&MapLocked != 0); err != nil {
			return 0, err
		}
	}
	kind := req.Flags & MapType
	if kind != MapShared && kind != MapPrivate {
		return 0, unix.EINVAL
	}
	anonymous := req.File == nil && req.Mapping == nil
	switch {
	case !anonymous:
		if flags, err = fileFlags(&req, flags); err != nil {
			return 0, err
		}
	case kind == MapShared:
		pgoff = 0
		flags |= VMShared | VMMayShare
	default:
		pgoff = addr >> x86.PageShift
	}
	return m.mmapRegion(t, &req, addr, size, flags, pgoff)
}

// roundHintToMin keeps hints out of the lowest addresses (round_hint_to_min).
func roundHintToMin(hint uint64) uint64 {
	hint &= x86.PageMask
	if hint != 0 && hint < mmapMinAddr {
		return mmapMinAddr
	}
	return hint
}

// canDoMlock reports whether the process may lock memory at all: it has CAP_IPC_LOCK, or
// RLIMIT_MEMLOCK is not zero (can_do_mlock). Limits.Memlock of less than a page stands for
// a limit of zero. Whoever asks need not hold mmap_sem: as in Linux, setrlimit may be writing the limit.
//
//go:norace
func (m *MM) canDoMlock() bool {
	return !m.Limits.Unprivileged || limit(m.Limits.Memlock, RlimInfinity) >= x86.PageSize
}

// lockLimit is RLIMIT_MEMLOCK in pages, infinity with CAP_IPC_LOCK.
func (m *MM) lockLimit() uint64 {
	if !m.Limits.Unprivileged {
		return RlimInfinity
	}
	return limit(m.Limits.Memlock, RlimInfinity) >> x86.PageShift
}

// mayLock checks RLIMIT_MEMLOCK for size more bytes. asked says that the caller
// wants them locked, and not only mlockall.
func (m *MM) mayLock(size uint64, asked bool) error {
	if asked && !m.canDoMlock() {
		return unix.EPERM
	}
	if m.LockedVM+size>>x86.PageShift > m.lockLimit() {
		return unix.EAGAIN
	}
	return nil
}

// fileFlags checks what the file was opened for and returns the VMA's flags.
func fileFlags(req *MmapRequest, flags VMFlags) (VMFlags, error) {
	mode := FModeRead | FModeWrite
	if f, ok := req.File.(MmapFile); ok {
		mode = f.Mode()
	}
	if req.Flags&MapType == MapShared {
		if req.Prot&ProtWrite != 0 && mode&FModeWrite == 0 {
			return 0, unix.EACCES
		}
		flags |= VMShared | VMMayShare
		if mode&FModeWrite == 0 {
			flags &^= VMMayWrite | VMShared
		}
	}
	if mode&FModeRead == 0 {
		return 0, unix.EACCES
	}
	return flags, nil
}

// accountable reports whether a mapping is charged against what may be committed:
// private and writable (accountable_mapping).
func accountable(flags VMFlags) bool {
	return flags&(VMNoReserve|VMShared|VMWrite|VMHugetlb) == VMWrite
}

// mmapRegion makes the mapping: what was there goes, then the range becomes part of
// a neighbour or a VMA of its own (mmap_region).
func (m *MM) mmapRegion(t *sched.Task, req *MmapRequest, addr, size uint64, flags VMFlags, pgoff uint64) (uint64, error) {
	s, pages := m.Sys, size>>x86.PageShift
	if m.findVMAIntersection(t, addr, addr+size) != nil {
		if DoMunmap(t, m, addr, size) != nil {
			return 0, unix.ENOMEM
		}
	}
	if !m.mayExpandVM(pages) {
		return 0, unix.ENOMEM
	}
	// Huge pages have an account of their own, whatever the mode.
	huge := req.Mapping != nil && req.Mapping.huge != nil
	if req.Flags&MapNoReserve != 0 && (huge || s.commit.mode != OvercommitNever) {
		flags |= VMNoReserve
	}
	if !huge && accountable(flags) {
		if err := s.vmEnoughMemory(m, pages); err != nil {
			return 0, err
		}
		flags |= VMAccount
	}
	_, prev := m.findVMAPrev(t, addr)
	v := m.vmaMerge(t, prev, addr, addr+size, mergeKey{flags: flags, mapping: req.Mapping, file: req.File, pgoff: pgoff})
	if v == nil {
		if s.Pages.FailSite(t, siteVMA) {
			if flags&VMAccount != 0 {
				s.vmUnacctMemory(pages)
			}
			return 0, unix.ENOMEM
		}
		v = &VMA{MM: m, Start: addr, End: addr + size, Flags: flags, Prot: vmGetPageProt(flags),
			PgOff: pgoff, Mapping: req.Mapping, File: req.File}
		if err := m.setupVMA(t, v); err != nil {
			if flags&VMAccount != 0 {
				s.vmUnacctMemory(pages)
			}
			return 0, err
		}
		m.vmaLink(t, v)
	}
	m.TotalVM += pages
	if v.Flags&VMLocked != 0 {
		m.LockedVM += pages - m.mlockVMAPagesRange(t, v, addr, addr+size)
	} else if req.Flags&MapPopulate != 0 && req.Flags&MapNonBlock == 0 {
		_ = makePagesPresent(t, m, addr, addr+size) // a failure shows at the first access
	}
	return addr, nil
}

// setupVMA finishes a new VMA according to what it maps: the file's mmap operation,
// or the object behind shared anonymous memory. The VMA then has its reference.
func (m *MM) setupVMA(t *sched.Task, v *VMA) error {
	switch {
	case v.File != nil:
		if v.Flags&VMGrowsDown != 0 {
			return unix.EINVAL
		}
		v.File.Get(t)
		if f, ok := v.File.(MmapFile); ok {
			if err := f.Mmap(t, v); err != nil {
				v.File.Put(t)
				return err
			}
		}
	case v.Mapping == nil && v.Flags&VMShared != 0:
		var err error
		if v.File, v.Mapping, err = m.Sys.ShmemZeroSetup(t, v.Pages(), v.Flags); err != nil {
			return err
		}
	}
	if vmaWantsWritenotify(v) {
		v.Prot = vmGetPageProt(v.Flags &^ VMShared)
	}
	return nil
}

// vmaLink puts a finished VMA where faults, rmap and truncation find it (vma_link).
func (m *MM) vmaLink(t *sched.Task, v *VMA) {
	if v.Mapping != nil {
		v.Mapping.IMmapLock.Lock(t)
	}
	if v.AnonVMA != nil {
		v.AnonVMA.Lock.Lock(t)
	}
	t.WriteOf(m, "mm.vmas")
	m.treeInsert(v)
	anonVMALinkLocked(t, v)
	if v.Mapping != nil {
		v.Mapping.linkLocked(t, v)
	}
	if v.AnonVMA != nil {
		v.AnonVMA.Lock.Unlock(t)
	}
	if v.Mapping != nil {
		v.Mapping.IMmapLock.Unlock(t)
	}
}

// InsertVMA puts a VMA that the caller has made into the address space, without
// merging: exec's stack (insert_vm_struct). It is ENOMEM if something is there
// already or memory is short; the VMA is then the caller's still.
//
// Preconditions:
//   - mmap_sem is held for writing
func (m *MM) InsertVMA(t *sched.Task, v *VMA) error {
	v.MM = m
	if v.Mapping == nil {
		v.PgOff = v.Start >> x86.PageShift
	}
	if m.findVMAIntersection(t, v.Start, v.End) != nil {
		return unix.ENOMEM
	}
	if v.Flags&VMAccount != 0 {
		if err := m.Sys.vmEnoughMemory(m, v.Pages()); err != nil {
			return err
		}
	}
	m.vmaLink(t, v)
	return nil
}

// SysMunmap is the system call munmap; see DoMunmap.
func SysMunmap(t *sched.Task, m *MM, start, size uint64) error {
	m.MmapSem.DownWrite(t)
	err := DoMunmap(t, m, start, size)
	m.MmapSem.UpWrite(t)
	return err
}

// DoMunmap takes away whatever is mapped in the range; that may be nothing. Linux
// 2.6.29 do_munmap.
//
//   - EINVAL: start is not a multiple of the page size, no length, or the range is
//     not in user space
//   - ENOMEM: a VMA would have to be split and there are too many
//
// Preconditions:
//   - mmap_sem is held for writing
func DoMunmap(t *sched.Task, m *MM, start, size uint64) error {
	m.MmapSem.AssertHeld(t)
	if start&^x86.PageMask != 0 || start > x86.TaskSize || size > x86.TaskSize-start {
		return unix.EINVAL
	}
	if size = pageAlign(size); size == 0 {
		return unix.EINVAL
	}
	end := start + size
	v := m.findVMAIntersection(t, start, end)
	if v == nil {
		return nil
	}
	if start > v.Start {
		if err := m.splitVMA(t, v, start, false /* newBelow */); err != nil {
			return err
		}
	}
	if last := m.findVMA(t, end); last != nil && end > last.Start {
		if err := m.splitVMA(t, last, end, true /* newBelow */); err != nil {
			return err
		}
	}
	_, prev := m.findVMAPrev(t, start)
	var buf [4]*VMA
	vmas, next := m.detachVMAs(t, start, end, buf[:0])
	m.unmapRegion(t, vmas, prev, next, start, end)
	for _, v := range vmas {
		m.TotalVM -= v.Pages()
		m.Sys.removeVMA(t, v)
	}
	return nil
}

// detachVMAs takes the VMAs of [start, end), which begin and end there, out of the
// tree and appends them to vmas; next is the VMA behind them
// (detach_vmas_to_be_unmapped).
func (m *MM) detachVMAs(t *sched.Task, start, end uint64, vmas []*VMA) (out []*VMA, next *VMA) {
	for {
		v := m.lookupVMA(start)
		if v == nil || v.Start >= end {
			m.unmapArea(v)
			return vmas, v
		}
		if v.Flags&VMLocked != 0 {
			m.LockedVM -= v.Pages()
			m.munlockVMAPagesAll(t, v)
		}
		t.WriteOf(m, "mm.vmas")
		m.treeRemove(v)
		vmas = append(vmas, v)
	}
}

// removeVMA lets go of what an unmapped VMA holds (remove_vma), and of its share of
// committed memory.
func (s *System) removeVMA(t *sched.Task, v *VMA) {
	if o := v.ops(); o != nil {
		o.Close(t, v)
	}
	if v.Flags&VMAccount != 0 {
		s.vmUnacctMemory(v.Pages())
	}
	if v.File != nil {
		v.File.Put(t)
	}
}

// mayExpandVM checks RLIMIT_AS (may_expand_vm).
func (m *MM) mayExpandVM(pages uint64) bool {
	return m.TotalVM+pages <= limit(m.Limits.AS, RlimInfinity)>>x86.PageShift
}
