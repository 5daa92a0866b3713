package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// HookSet says which of its methods a policy wants called. Where a bit is clear
// the core runs Linux 2.6.29's own code inline. What no bit names is always asked.
type HookSet uint32

// The hooks.
const (
	HookMM         HookSet = 1 << iota // MMInit, MMExit
	HookGUPVMA                         // GUPVMA
	HookFollow                         // Follow
	HookTaken                          // Taken
	HookFast                           // FastMask, FastBegin, FastEnd
	HookFastTake                       // FastTake
	HookFastHuge                       // FastHuge
	HookPut                            // Take, Put
	HookForkLock                       // ForkLock, ForkUnlock
	HookForkRange                      // ForkBegin, ForkEnd
	HookForkVMA                        // ForkVMA
	HookForkPTE                        // ForkPTE, ForkBreak
	HookForkSwap                       // ForkSwap
	HookForkHuge                       // ForkHuge
	HookWP                             // WP, WPCopy, WPDone
	HookSwapIn                         // SwapIn
	HookHugeWP                         // HugeWP
	HookAnonNew                        // AnonNew
	HookReclaim                        // SwapAdd, Unmap, Pageout
	HookKSM                            // KSM
	HookMigrate                        // Migrate
	HookMprotect                       // Mprotect
	HookPin                            // PinBegin, PinSubmitted, PinEnd, PinReleased
	HookPageFree                       // PageFree
	HookFollowHuge                     // FollowHuge
	HookHugeRmap                       // HugeAnonNew; and the core counts the mappings of huge pages
	AllHooks       HookSet = 1<<iota - 1

	hookBroken HookSet = 1 << 31 // gup-fast goes the way with hooks: BreakGUPFastIRQ
)

// Guarantee is a promise that a policy makes; verdicts on what a policy does not
// promise are "not-covered".
type Guarantee uint32

// The guarantees.
const (
	// Forward: what a device writes into a page pinned for I/O before or during a
	// fork is seen by the process that asked for it.
	Forward Guarantee = 1 << iota
	// Reverse: what a process stores after fork does not reach another process's I/O.
	Reverse
	// AIO: the promises hold for asynchronous I/O too.
	AIO
	// Disclosure: a pin taken for reading never shows the other side's later stores.
	Disclosure
	// OtherPins: the promises hold for every user of get_user_pages, not only O_DIRECT.
	OtherPins
	// Hugetlb: the promises hold for hugetlb pages.
	Hugetlb
	// UnderSwap: the promises hold while reclaim unmaps pages.
	UnderSwap
	// Snapshot: a page that fork copies is one instant of the parent's page.
	Snapshot

	// Nobody is what no policy promises.
	Nobody Guarantee = 1 << 31
)

// Policy is what a fix for "fork against get_user_pages" edits. A policy embeds
// Stock and overrides some methods; Hooks says which.
//
// Go's embedding is not virtual: Stock's methods never call another hook on
// themselves. Context structures belong to the calling task and must not be kept.
//
// Whatever is asked of a policy is a method here, and none is looked for by type
// assertion: a type that embeds a Policy, to watch or to break it, passes on all that it
// does not override.
type Policy interface {
	// Name is the policy's id in tables and tokens.
	Name() string
	// Hooks says which methods are to be called.
	Hooks() HookSet
	// Claims says what the policy promises.
	Claims() Guarantee
	// About says what people are told of the policy; without a Title it says nothing.
	About() About

	// MMInit prepares a new address space (mm_init), before anybody else sees
	// it. Unset: nothing.
	MMInit(t *sched.Task, m *MM)
	// MMExit releases what MMInit made, when the last reference goes (__mmdrop).
	// It may run in interrupt context.
	MMExit(t *sched.Task, m *MM)

	// GUPVMA is called by slow get_user_pages for each VMA it enters, after the
	// permission check and before the branch for hugetlb, with mmap_sem held for reading. What it
	// adds to g.Foll holds at the start of every page of the VMA, as the caller's
	// own FollWrite does. It may drop and retake mmap_sem; then it returns GUPLookup.
	GUPVMA(g *GUP) GUPNext
	// Follow is called by follow_page for a present pte that satisfies g.Foll, if
	// references are taken (FollGet), before the page's reference is taken. The
	// ptl is held. It may set g.Foll bits for the fault that GUPFault asks for.
	Follow(g *GUP, pte x86.PTE, p *page.Page) FollowNext
	// FollowHuge is Follow for a small page of a huge one, in follow_hugetlb_page: pte maps
	// head, and page_table_lock is held. It is called for each small page.
	FollowHuge(g *GUP, pte x86.PTE, head *page.Page) FollowNext
	// Taken is called when follow_page has returned p with a reference, no lock but
	// mmap_sem held; not for huge pages.
	Taken(g *GUP, p *page.Page)

	// FastMask returns the flags that gup-fast requires of a pte, at all levels.
	// Unset: PRESENT|USER, and RW if f.Write.
	FastMask(f *Fast) x86.PTE
	// FastBegin is called before gup-fast walks, interrupts off. False means: take
	// nothing, go the slow way.
	FastBegin(f *Fast) bool
	// FastTake takes a reference on p, which pte (as read at ref) maps with the
	// flags of the mask, interrupts off. False means that nothing was taken and
	// the walk stops here. Unset: get_page.
	FastTake(f *Fast, ref x86.PTERef, pte x86.PTE, p *page.Page) bool
	// FastHuge takes n references on behalf of n small pages of the huge page with
	// head p that the entry at ref maps. It returns how many were taken.
	// Unset: one locked addition of n.
	FastHuge(f *Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int
	// FastEnd is called after the walk, interrupts still off. False means that
	// everything taken is to be put again, and the slow way gone.
	FastEnd(f *Fast) bool

	// Take takes n references of the given kind on p; Put drops them. Unset:
	// get_page and put_page, whatever the kind.
	Take(t *sched.Task, p *page.Page, kind PinKind, n int)
	Put(t *sched.Task, p *page.Page, kind PinKind, n int)

	// ForkLock is called before fork takes the parent's mmap_sem; it may sleep, and
	// an error ends the fork. ForkUnlock is called after mmap_sem is released, also
	// when the fork failed.
	ForkLock(t *sched.Task, parent *MM) error
	ForkUnlock(t *sched.Task, parent *MM)
	// ForkBegin is called for a COW VMA before copy_page_range walks, ForkEnd after
	// it, with both mmap_sems held for writing.
	ForkBegin(f *Fork)
	ForkEnd(f *Fork)
	// ForkVMA is called when a VMA's ptes, not those of huge pages, have been copied (f.SrcVMA, f.DstVMA);
	// an error ends the fork.
	ForkVMA(f *Fork) error
	// ForkPTE copies one present pte: it is copy_one_pte. Both ptls are held,
	// f.PTE is the source pte as read. Unset: Fork.CopyOnePTE.
	ForkPTE(f *Fork) ForkNext
	// ForkBreak is called when ForkPTE returned ForkStop, with both ptls held for
	// the same pte. It returns with neither held (f.Unlock), and says whether to
	// go on with the next pte, to try the same one again, or to fail.
	ForkBreak(f *Fork) ForkNext
	// ForkSwap is called for a swap entry after swap_duplicate; it may change the
	// entry in the parent and f.PTE, which the child gets.
	ForkSwap(f *Fork)
	// ForkHuge copies one huge pte, that is not empty: copy_hugetlb_page_range's inner
	// part. f.PTE is the source entry as read. Both page_table_locks are held (f.Lock), and
	// neither is on return. It answers ForkGo or ForkNoMem. Unset: Fork.CopyOneHuge.
	ForkHuge(f *Fork) ForkNext

	// WP decides a write fault on a write-protected anonymous page, ptl held: reuse
	// the page, copy it, or retry (the ptl was dropped and the pte has changed).
	// WPFinished means that the policy has resolved the fault itself and released
	// the ptl. Unset: Fault.LockAndReuse.
	WP(f *Fault) WPNext
	// WPCopy is called when a COW is about to copy f.Page, with the ptl dropped and a
	// reference held: WPCopyPage goes on, WPRetry has the core put the page and
	// retry the fault from the system-call or trap level.
	WPCopy(f *Fault) WPNext
	// WPDone is called when a COW that WPCopy let go on has ended, in whatever way.
	WPDone(f *Fault)
	// SwapIn is called for every swap-in, page and ptl locked, while the pte at f.PTE
	// is still the entry f.Orig and counts as one of its users. For a write fault
	// (f.Write) it decides whether f.Page may be mapped writable at once; for a read
	// its answer does not matter. Unset: reuse_swap_page for writes.
	SwapIn(f *Fault) bool
	// HugeWP is WP for a hugetlb page, page_table_lock held; it keeps the lock. WPReuse,
	// WPCopyPage, or another answer to have the fault taken again. WPCopy and WPDone are
	// called for huge pages too: f.Size says how large the page is. Unset: reuse if
	// page_count is 1.
	HugeWP(f *Fault) WPNext
	// AnonNew is called when a new anonymous page gets its first mapping.
	AnonNew(t *sched.Task, p *page.Page, v *VMA)
	// HugeAnonNew is called when a huge page is new and private, before its first entry is
	// set, with the entry's page_table_lock held. HookHugeRmap is for policies of a kernel
	// that counts the mappings of huge pages, as Linux does since 2.6.36; 2.6.29 has no such
	// count. With it the core keeps Page.MapCount of their heads, under the page_table_lock
	// of each entry. ForceHooks does not force it.
	HugeAnonNew(t *sched.Task, head *page.Page, v *VMA)

	// SwapAdd says whether reclaim may put p (locked) into the swap cache.
	SwapAdd(t *sched.Task, p *page.Page) bool
	// Unmap says whether try_to_unmap may replace the pte of p that it has just
	// cleared and flushed (u.PTE); false puts it back. Before is called before
	// the pte is cleared.
	UnmapBefore(u *Unmap) bool
	Unmap(u *Unmap) bool
	// Pageout says whether p may be written out.
	Pageout(t *sched.Task, p *page.Page) bool
	// Unuse is called by unuse_pte, the page and the ptl locked, when p is mapped where the
	// entry pte was: a policy that keeps something in entries of swap gives it back to the page.
	Unuse(t *sched.Task, pte x86.PTE, p *page.Page)
	// KSM and Migrate are Unmap for those two callers. Nothing migrates pages on this
	// machine (FIDELITY.md), so Migrate is not called.
	KSM(u *Unmap) bool
	Migrate(u *Unmap) bool
	// Mprotect says whether a private pte that becomes writable by permission may
	// be made writable at once. Unset: false.
	Mprotect(v *VMA, pte x86.PTE, p *page.Page) bool

	// PinBegin is called by a user of get_user_pages before its first look-up; it
	// may sleep, and an error ends the operation: nothing else is called for it. PinEnd is
	// called when the operation is over (for direct I/O in dio_complete), by whoever completes
	// it, perhaps in interrupt context.
	PinBegin(u *PinUser) error
	PinEnd(t *sched.Task, u *PinUser)
	// PinSubmitted and PinReleased are for direct I/O alone. PinSubmitted is called when
	// direct_io_worker is through with the submission, whether the request is over or not, by
	// the task that PinBegin was called by: the place where the first directio_sem is released.
	// PinReleased is called when the request is gone and its owner has been told (after
	// aio_complete, as the DIO is freed), by whoever completes it, perhaps in interrupt
	// context. An asynchronous request may end before PinSubmitted is called; the PinUser is
	// good until both have returned.
	PinSubmitted(t *sched.Task, u *PinUser)
	PinReleased(t *sched.Task, u *PinUser)
	// DirectIOPin and VmsplicePin say what kind of reference direct I/O and vmsplice take on
	// user pages. They are asked once, when the file layer is made. Unset: PinGet.
	DirectIOPin() PinKind
	VmsplicePin() PinKind
	// HoldsMmapSem says whether those who take references of this kind by gup-fast hold
	// mmap_sem for reading already; its slow half then goes under their lock. Unset: false.
	HoldsMmapSem(kind PinKind) bool
	// AccessWrite says whether a poke of access_process_vm asks get_user_pages for write
	// access; a peek never does. Unset: true.
	AccessWrite() bool
	// MlockPopulates says whether the policy is of a kernel in which mlock takes no references:
	// it faults the pages in, and they are marked as they are met (Linux 2.6.38 and later).
	// Unset: false.
	MlockPopulates() bool

	// PageFree is called when the last reference of a page goes, before it returns
	// to the allocator, or a huge page to its pool. It may run in interrupt context.
	PageFree(t *sched.Task, p *page.Page)

	// CheckPTE says what is wrong with a present entry of a small page: the policy's own
	// invariants, which are checked with all others. The ptl is free, and nothing runs.
	CheckPTE(v *VMA, pte x86.PTE, p *page.Page) error
}

// About is what people are told of a policy.
type About struct {
	// Row is the policy's number in the table of fixes; negative for an idea that has none.
	Row int
	// Title is one line. Who and When are the source, Lines where in the thread.
	Title, Who, When, Lines string
	// Changes says what the patch edits, one decision point a line.
	Changes []string
	// Claims says what the policy promises, Open what it leaves open.
	Claims, Open string
}

// PinKind says what a reference from get_user_pages is for.
type PinKind uint8

// The kinds of reference. 2.6.29 knows only the first.
const (
	PinGet      PinKind = iota // a plain reference (FOLL_GET)
	PinPin                     // FOLL_PIN
	PinLongterm                // FOLL_PIN|FOLL_LONGTERM
)

// PinUserKind says who pins.
type PinUserKind uint8

// The users of get_user_pages.
const (
	UserDirectIO PinUserKind = iota
	UserVmsplice
	UserDriver
	UserPtrace
	UserFutex
)

// Range is a stretch of user memory.
type Range struct{ Addr, Len uint64 }

// PinUser describes one operation that pins user memory, from PinBegin to PinEnd.
type PinUser struct {
	// T is the task that began the operation. Not to be used in PinEnd.
	T *sched.Task
	// MM is the address space; it outlives the operation's pins only if the policy
	// takes a reference.
	MM   *MM
	Kind PinUserKind
	// Write is set if memory is written (a read from a file).
	Write bool
	// Async is set if the operation outlives the system call.
	Async bool
	// Ranges are the user buffers.
	Ranges []Range
	// Data is the policy's.
	Data any
}

// FollFlags are follow_page's flags.
type FollFlags uint32

// The follow flags of 2.6.29; FollUnshare is for policies with unsharing faults.
const (
	FollWrite   FollFlags = 0x01
	FollTouch   FollFlags = 0x02
	FollGet     FollFlags = 0x04
	FollAnon    FollFlags = 0x08
	FollUnshare FollFlags = 0x10
)

// GUPFlags are get_user_pages' flags.
type GUPFlags uint32

// The flags of 2.6.29's __get_user_pages, and who calls.
const (
	GUPWrite         GUPFlags = 1 << iota // the caller writes to the pages
	GUPForce                              // ignore lacking permission where MAY allows
	GUPIgnoreVMAPerm                      // do not check at all
	GUPIgnoreSigkill                      // go on though being killed
	GUPFromFast                           // the slow half of get_user_pages_fast
	GUPInternal                           // make_pages_present, access_process_vm, exec's stack
)

// GUP is a slow get_user_pages in progress.
type GUP struct {
	T     *sched.Task
	MM    *MM
	VMA   *VMA
	Addr  uint64
	Flags GUPFlags
	Foll  FollFlags
	Kind  PinKind
	// Want is whether the caller wants page references.
	Want bool
	// Data is the policy's; zero when the call begins.
	Data uint64
}

// GUPNext is what GUPVMA answers.
type GUPNext uint8

// The answers of GUPVMA.
const (
	GUPGo     GUPNext = iota // go on
	GUPLookup                // mmap_sem was dropped: find the VMA again
	GUPFail                  // stop with EFAULT
	GUPNoMem                 // stop with ENOMEM
)

// FollowNext is what Follow answers.
type FollowNext uint8

// The answers of Follow.
const (
	FollowTake  FollowNext = iota // take a reference and go on
	FollowTaken                   // the policy has taken it
	FollowFault                   // fault first, as g.Foll now says
)

// Fast is a gup-fast in progress, interrupts off.
type Fast struct {
	T     *sched.Task
	MM    *MM
	Start uint64
	Addr  uint64
	Write bool
	Kind  PinKind
	// Mask is what FastMask returned.
	Mask x86.PTE
	// Data is the policy's, kept from FastBegin to FastEnd.
	Data uint64
}

// ForkNext is what ForkPTE, ForkHuge and ForkBreak answer.
type ForkNext uint8

// The answers of the fork hooks.
const (
	ForkGo    ForkNext = iota // done with this pte, go on to the next
	ForkStop                  // ForkPTE only: leave the loop and call ForkBreak
	ForkAgain                 // ForkBreak only: same pte once more
	ForkNoMem                 // out of memory
)

// Fork is the copying of one address space: dup_mmap.
type Fork struct {
	T              *sched.Task
	Src, Dst       *MM
	SrcVMA, DstVMA *VMA
	// Addr is the address of the current pte.
	Addr uint64
	// SrcPTE and DstPTE refer to the current entries.
	SrcPTE, DstPTE x86.PTERef
	// SrcPTL and DstPTL are the locks of the current tables; see Lock and Unlock.
	SrcPTL, DstPTL *lock.SpinLock
	// PTE is the source entry as read.
	PTE x86.PTE
	// Page is the page of the current pte, for ForkBreak.
	Page *page.Page
	// Anon and File count mappings made since the counts were last added to the
	// child's.
	Anon, File int
	// Data is the policy's; zero when fork begins.
	Data uint64
}

// WPNext is what WP and WPCopy answer.
type WPNext uint8

// The answers of the write-fault hooks.
const (
	WPReuse    WPNext = iota // make the page writable
	WPCopyPage               // copy it
	WPRetry                  // let go of everything and take the fault again
	WPFinished               // resolved by the policy, ptl released
)

// Fault is a page fault in progress.
type Fault struct {
	T     *sched.Task
	MM    *MM
	VMA   *VMA
	Addr  uint64 // page aligned
	Write bool
	// Unshare is set for a policy's copy-on-read fault.
	Unshare bool
	// PTE refers to the entry, Orig is its value when the fault looked.
	PTE  x86.PTERef
	Orig x86.PTE
	// PTL is the lock of PTE's table.
	PTL *lock.SpinLock
	// Page is the page of Orig, for the write-fault hooks.
	Page *page.Page
	// Data is the policy's.
	Data uint64
}

// Unmap is the removal of one pte by rmap.
type Unmap struct {
	T    *sched.Task
	VMA  *VMA
	Addr uint64
	Page *page.Page
	Ref  x86.PTERef
	// PTE is the entry as it was.
	PTE x86.PTE
	// Swap is the entry that will replace it; a policy may set bits.
	Swap x86.PTE
}
