// Package mm is the emulated kernel's memory management: address spaces and their
// page tables, page faults and copy-on-write, fork, get_user_pages, reverse
// mapping, the page cache's side of shared memory, and the [Policy] that decides how
// fork, copy-on-write and pinned pages meet. It follows Linux 2.6.29; functions
// name the ones they follow.
//
// # From an address to a page
//
//	MM (mm_struct) ---- tree of VMAs: what is mapped where, with which permission
//	  |
//	  +-- PGD --> PUD --> PMD --> PTE tables, in emulated frames; the hardware reads them
//	                               |
//	                               +--> page.Page: Count, MapCount, Mapping, Index
//	                                         |
//	   rmap: back to the ptes     AnonVMA or AddressSpace --> VMAs --> address --> pte
//
// A VMA promises; a pte delivers. Between the two stands the fault: the first
// access to a page that the VMA permits finds no pte, or one that permits less,
// and [DoPageFault] makes one. What a fault finds decides what it does:
//
//	pte                    VMA                     action
//	none                   anonymous               a page of zeroes (doAnonymousPage)
//	none                   file, shared memory     the mapping's page, or for a
//	                                               private write a copy (doLinearFault)
//	swap entry                                     back from swap (doSwapPage)
//	read-only, write       private or anonymous    copy-on-write (doWpPage)
//	permits the access                             another thread was here first
//
// # The life of an anonymous page across fork
//
// fork does not copy pages. It copies ptes, and takes the write permission away on
// both sides (copyPTEs), so that the first store of either side faults:
//
//	            parent        page P            child
//	            RW  --------> map 1
//	fork        R   --------> map 2  <--------  R      one flush of the parent's TLBs
//	parent      RW  --> P'    map 1  <--------  R      store: copy, clear, flush, set
//	child                     map 1  <--------  RW     store: nobody else maps P: reuse
//
// doWpPage decides by the number of ptes (and swap entries) that map P. It does not
// ask who else holds a reference. A process that had P pinned for a read from disk
// when it forked, and then stores to another part of P, goes on with P' while the
// disk writes to P: that is the bug this project is about, and [Policy] is the place
// where the fixes go.
//
// # Why flushes are where they are
//
// A CPU uses what its TLB has, whatever the page table says now. So the kernel has a
// rule for each kind of change:
//
//	change                         flush                         else
//	entry gains permission         this address, if it changed   a fault that changes nothing
//	fork write-protects            once, at the end of dupMmap   stores go on meanwhile
//	COW replaces a page            before the old page's mapping the other side, now alone,
//	                               count goes                    writes what we still read
//	unmapping                      before the page is freed      another process's page is
//	                               (mmuGather)                   written
//	a page table goes              before it is freed            the hardware walks garbage
//
// flushTLBOthers interrupts the CPUs of [MM.CPUMask] and waits until each has
// answered. A CPU that has interrupts off makes it wait: this is all that protects
// [GetUserPagesFast], which walks the tables without a lock. A CPU that runs a kernel
// thread keeps the last address space loaded, lazily; at the first flush it leaves.
//
//	            switch to a user task of m
//	  +---------------------------------------------+
//	  v                                             |
//	OK, bit set --- kernel thread, idle ---> LAZY, bit set, one of m's Refs held
//	  ^                                             |
//	  |  switch back: load CR3                      | flush: leaveMM
//	  +------------------ LAZY, bit clear <---------+
//
// # Two counts of an address space
//
// [MM.Users] counts the threads, and those that work on its memory for them: the last
// MMPut unmaps everything. [MM.Refs] keeps the structure and its top-level table:
// one for all users together, one for each CPU that borrows it, one for whoever must
// find it again later.
//
// # Locks
//
//	mmap_sem          the VMAs. Faults, get_user_pages: read. mmap, fork: write.
//	page lock         one page's Mapping and its place in caches
//	i_mmap_lock       the VMAs that map an AddressSpace
//	anon_vma          the VMAs that an anonymous page may be mapped in, their bounds
//	page_table_lock   making upper-level tables, VMA.AnonVMA, the entries of huge pages
//	ptl               the entries of one last-level table; it lives in the table's Page
//	ksm_thread_mutex  outside mmap_sem: one task scans for equal pages
//
// They nest in this order. A ptl is never held across anything that sleeps: a fault
// looks at the entry without the lock, allocates and copies, takes the lock, and goes
// on only if the entry is still the same. Of two ptls fork takes the child's first.
//
// # Writing a policy
//
// A policy embeds [Stock], names the hooks it overrides, and does in each what its
// patch does there, in the patch's order. What the core does itself is offered as a
// kit: [Fork.CopyOnePTE], [Fork.Lock], [Fork.Unlock], [Fork.AddMapping],
// [Fork.DropMapping], [Fork.SetChildPage], [Fork.CopyToChild], [Fault.LockPage],
// [Fault.LockAndReuse], [System.PtepClearFlush], [System.CowUserPage],
// [System.ReuseSwapPage], [System.ZapPTE], [System.ClearPageMlock], [MM.LockPTE],
// [System.RmapWalk], [CurrentFault]; for huge pages [Fork.CopyOneHuge],
// [Fork.HugeCOWChild], [System.HugetlbCOW], [System.HugePagecachePage]. Where a hook's bit is clear the
// core does not call the policy at all.
//
// # Files
//
//	system, lifecycle, tlb          the machine's memory manager, MMs, TLB flushes
//	pgtable, mmu_gather, zap        tables, and taking things out of them
//	fault, memory, wp, fork, kit    faults, copy-on-write, fork, what both are made of
//	anon_vma, rmap                  from pages to ptes
//	gup, gup_fast, access           from addresses to pinned pages; debuggers
//	address_space, page_tree, shmem the page cache and shared anonymous memory
//	vma_tree, vma_merge, mmap, ...  the VMAs and the system calls that change them
//	mremap, mincore, dontcow        memory that moves, is asked for, is never shared
//	hugetlb, hugetlbfs              huge pages: begin with hugetlb.go
//	mmu_notifier                    page tables of devices, told of changes
//	ksm, ksm_rmap, ksm_merge, ...   merging equal pages
//	policy, stock                   the decisions
//	check                           the invariants
//
// # Swap and reclaim
//
// A page of memory that is needed for something else goes in steps, each of which
// somebody may undo by using the page (files swap_state, vmscan, rmap, page_io):
//
//	step                 page's references        pte           swap count of the slot
//	mapped               1 pte (+ pins)           maps it       -
//	add_to_swap          + 1 cache + 1 reclaim    maps it       1: cache
//	try_to_unmap         cache, reclaim (+ pins)  entry         2: cache, pte
//	pageout              only if there is no pin  entry         2, page under writeback
//	__remove_mapping     2 -> 0 at once, or not   entry         1: pte; the frame is free
//	do_swap_page         read again, or found     maps it, RO   1 or 0
//
// A pin does not stop the first two: that is why rules that count references, and rules
// that count ptes and entries, differ once there is swap. Who reclaims: the allocating
// task itself, a thread called kswapd0 that is made when memory first runs low, or
// whoever asks for it with [MadvPageout]. Without a swap area ([System.SwapOn]) faults, fork and
// unmapping pass no schedule point of swap.
package mm
