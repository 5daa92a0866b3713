package mm

import (
	"github.com/google/btree"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// VMFlags are the flags of a VMA, with Linux 2.6.29's values (include/linux/mm.h).
type VMFlags uint64

// The VMA flags.
const (
	VMRead       VMFlags = 0x00000001
	VMWrite      VMFlags = 0x00000002
	VMExec       VMFlags = 0x00000004
	VMShared     VMFlags = 0x00000008
	VMMayRead    VMFlags = 0x00000010
	VMMayWrite   VMFlags = 0x00000020
	VMMayExec    VMFlags = 0x00000040
	VMMayShare   VMFlags = 0x00000080
	VMGrowsDown  VMFlags = 0x00000100
	VMPFNMap     VMFlags = 0x00000400
	VMLocked     VMFlags = 0x00002000
	VMIO         VMFlags = 0x00004000
	VMSeqRead    VMFlags = 0x00008000
	VMRandRead   VMFlags = 0x00010000
	VMDontCopy   VMFlags = 0x00020000
	VMDontExpand VMFlags = 0x00040000
	VMAccount    VMFlags = 0x00100000
	VMNoReserve  VMFlags = 0x00200000
	VMHugetlb    VMFlags = 0x00400000
	VMNonlinear  VMFlags = 0x00800000
	VMInsertPage VMFlags = 0x02000000
	VMMergeable  VMFlags = 0x80000000 // KSM may merge the pages (2.6.32)

	// VMPolicy0 to VMPolicy3 are for policies, such as VM_DONTCOW.
	VMPolicy0 VMFlags = 1 << 40
	VMPolicy1 VMFlags = 1 << 41
	VMPolicy2 VMFlags = 1 << 42
	VMPolicy3 VMFlags = 1 << 43

	// VMDontCOW is set by MadvDontCOW: fork copies the pages.
	VMDontCOW VMFlags = 1 << 44

	// VMSpecial VMAs never merge.
	VMSpecial = VMIO | VMDontExpand | VMPFNMap
)

// IsCOW reports whether stores to the mapping are private (is_cow_mapping).
func (f VMFlags) IsCOW() bool { return f&(VMShared|VMMayWrite) == VMMayWrite }

// VMA is one mapping of an address space: vm_area_struct.
type VMA struct {
	// MM is the address space. Immutable.
	MM *MM
	// Start and End bound the mapping, both page aligned, End exclusive.
	// Protected by MM.MmapSem; rmap reads them under AnonVMA.Lock, so a change
	// of a VMA that has an AnonVMA is made under that lock too.
	Start, End uint64
	// Flags are protected by MM.MmapSem.
	Flags VMFlags
	// Prot is vm_page_prot: the flags of new ptes. Private mappings have no RW
	// here even when writable; that is how COW starts. Protected by MM.MmapSem.
	Prot x86.PTE
	// PgOff is the offset of Start in pages: within Mapping, or Start itself for
	// anonymous memory. Protected as Start.
	PgOff uint64
	// Mapping is what backs the VMA, nil for anonymous private memory. Immutable.
	Mapping *AddressSpace
	// File is the file system's object for a file mapping. Immutable.
	File VMFile
	// AnonVMA is set by the first anonymous page and only cleared when the VMA
	// goes. Written under MM.PageTableLock.
	AnonVMA *AnonVMA
	// anonPrev and anonNext link the VMAs of one AnonVMA (anon_vma_node).
	// Protected by AnonVMA.Lock.
	anonPrev, anonNext *VMA
	// mapPrev and mapNext link the VMAs that map one AddressSpace (i_mmap).
	// Protected by AddressSpace.IMmapLock.
	mapPrev, mapNext *VMA
	// resv is what is promised to a VMA of huge pages (vm_private_data).
	resv vmaResv
	// Policy is for the policy. Protected by MM.MmapSem.
	Policy uint64
}

// Pages returns the length of the VMA in pages.
func (v *VMA) Pages() uint64 { return (v.End - v.Start) >> x86.PageShift }

// Index returns the page index of addr within the mapping (linear_page_index).
func (v *VMA) Index(addr uint64) uint64 { return (addr-v.Start)>>x86.PageShift + v.PgOff }

// VMFile is what a VMA keeps of the file it maps.
type VMFile interface {
	// Get and Put hold and release the file for a VMA.
	Get(t *sched.Task)
	Put(t *sched.Task)
	// Name is what /proc/pid/maps shows.
	Name() string
}

// vmaItem is a VMA in its address space's tree, ordered by end so that find_vma is
// one descent.
type vmaItem struct {
	end uint64
	vma *VMA
}

func vmaLess(a, b vmaItem) bool { return a.end < b.end }

// MM is an address space: mm_struct.
type MM struct {
	// Sys is the machine's memory manager. Immutable.
	Sys *System
	// ID numbers address spaces from 1; it is part of the ObjIDs of their ptes. Immutable.
	ID uint32
	// PGD is the frame of the top-level table. Immutable until the MM goes.
	PGD x86.PFN

	// MmapSem protects the VMAs: held for reading by faults and get_user_pages,
	// for writing by mmap and fork.
	MmapSem lock.RWSem
	// PageTableLock protects the upper levels of the page tables, AnonVMA
	// pointers, and huge ptes.
	PageTableLock lock.SpinLock

	vmas  *btree.BTreeG[vmaItem] // protected by MmapSem
	hints []vmaHint              // by CPU, each is its CPU's while MmapSem is held; see findVMA
	area  mmapArea               // what mmap knows of the free areas; protected by MmapSem

	// Users counts threads and others that use the address space (mm_users).
	Users x86.Word32
	// Refs counts those that only keep the structure (mm_count).
	Refs x86.Word32
	obj  x86.ObjID // names Users, Refs and CPUMask; immutable

	// CPUMask has a bit for each CPU whose TLB may hold entries of this MM
	// (cpu_vm_mask).
	CPUMask x86.Word64

	// swapPrev and swapNext link the address spaces that may have swap entries
	// (mmlist). Protected by mmlist_lock.
	swapPrev, swapNext *MM
	swapListed         bool // on the list; protected by mmlist_lock, looked at without

	// NrPTEs counts last-level page tables (nr_ptes). Protected by PageTableLock.
	NrPTEs uint64
	// flushPending counts operations that have taken permissions away and not
	// flushed every TLB yet: for invariants. Atomic, without points.
	flushPending x86.Word32
	// badCleared says that entries of huge pages were emptied without a flush (ClearBadHuge):
	// for invariants. Protected by MmapSem (write).
	badCleared bool

	// AnonRSS and FileRSS count mapped pages. Atomic, without points: a
	// statistic that orders nothing.
	AnonRSS, FileRSS x86.Word64

	// StartBrk and Brk bound the heap; MmapBase is where mmap looks from,
	// downwards; StackTop is the end of the stack. Protected by MmapSem.
	StartBrk, Brk, MmapBase, StackTop uint64
	// MapCount, TotalVM and LockedVM count VMAs, pages mapped and pages
	// locked. Protected by MmapSem.
	MapCount          int
	TotalVM, LockedVM uint64
	// Limits are the process's resource limits. Protected by MmapSem.
	Limits Limits
	// DefFlags are the flags that every new VMA gets, VMLocked after
	// mlockall(MCL_FUTURE). Protected by MmapSem.
	DefFlags VMFlags

	// notifiers are the secondary page tables that want to be told, nil if there
	// never were any. Set once, under MmapSem (write) and mm_take_all_locks.
	notifiers *mmuNotifierMM

	// ksm is what KSM knows of the address space.
	ksm ksmMM

	// memdie is set when the OOM killer has chosen a process of this address space
	// (TIF_MEMDIE): its threads may have the last page. Set once.
	memdie x86.Word32
	// swapoff counts threads that are in swapoff (PF_SWAPOFF). Atomic, without points.
	swapoff x86.Word32

	// PolicyData is the policy's own state, made in MMInit. The policy says what protects it.
	PolicyData any
	// Owner is the kernel's process object. Immutable after creation.
	Owner any
}

// System is the memory manager of one machine: what in Linux are the global
// variables of mm/.
type System struct {
	M     *sched.Machine
	Mem   *x86.Memory
	Pages *page.Map

	policy Policy
	hooks  HookSet
	breaks Break // lines taken out for tests; immutable

	anon   anonVMAs
	spaces addressSpaces
	tlb    tlbState
	swap   swapState
	huge   hugetlbState
	scan   scanState
	mms    mmList
	commit commitment
	ksm    ksmState
	// reclaimer reclaims what a search chooses.
	reclaimer reclaimer
	// allLocks is mm_all_locks_mutex: one at a time takes all locks of an address space.
	allLocks lock.RWSem
	options  Options
	checks   checkState // scratch of Check; owner: whoever checks
}

// Options configure the memory manager.
type Options struct {
	// Policy decides how fork, COW and pins meet; nil means Stock.
	Policy Policy
	// ForceHooks sends every decision through the policy's methods even where
	// the policy does not override it, so that wall-clock comparisons between
	// policies do not measure the dispatch.
	ForceHooks bool
	// Break takes lines out of the memory manager, for tests.
	Break Break
	// KSM makes the machine one with kernel samepage merging: MadvMergeable is
	// understood, and KSMRun starts ksmd.
	KSM bool
}

// Policy returns the policy in force.
func (s *System) Policy() Policy { return s.policy }
