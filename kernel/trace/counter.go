package trace

// Counter names one statistic of the machine.
type Counter uint16

// The gauges: how many pages are in a state now. Names and order are those of
// Linux 2.6.29 mm/vmstat.c:vmstat_text.
const (
	NrFreePages Counter = iota
	NrInactiveAnon
	NrActiveAnon
	NrInactiveFile
	NrActiveFile
	NrUnevictable
	NrMlock
	NrAnonPages // anonymous pages with at least one mapping
	NrMapped    // page-cache pages with at least one mapping
	NrFilePages // pages of the page cache, swap cache included
	NrDirty
	NrWriteback
	NrSlabReclaimable
	NrSlabUnreclaimable
	NrPageTablePages
	NrUnstable
	NrBounce
	NrVMScanWrite // an event in truth, but Linux keeps it in this group
	NrWritebackTemp

	numGauges = iota
)

// The events of Linux 2.6.29 include/linux/vmstat.h:enum vm_event_item.
const (
	PGPgIn  Counter = iota + numGauges // KiB read from block devices
	PGPgOut                            // KiB written to block devices
	PSwpIn                             // pages read from swap
	PSwpOut                            // pages written to swap
	PGAllocDMA
	PGAllocDMA32
	PGAllocNormal
	PGAllocMovable
	PGFree
	PGActivate
	PGDeactivate
	PGFault
	PGMajFault
	PGRefillDMA
	PGRefillDMA32
	PGRefillNormal
	PGRefillMovable
	PGStealDMA
	PGStealDMA32
	PGStealNormal
	PGStealMovable
	PGScanKswapdDMA
	PGScanKswapdDMA32
	PGScanKswapdNormal
	PGScanKswapdMovable
	PGScanDirectDMA
	PGScanDirectDMA32
	PGScanDirectNormal
	PGScanDirectMovable
	PGInodeSteal
	SlabsScanned
	KswapdSteal
	KswapdInodeSteal
	PageOutRun
	AllocStall
	PGRotated
	HTLBBuddyAllocSuccess
	HTLBBuddyAllocFail
	UnevictablePGsCulled
	UnevictablePGsScanned
	UnevictablePGsRescued
	UnevictablePGsMlocked
	UnevictablePGsMunlocked
	UnevictablePGsCleared
	UnevictablePGsStranded
	UnevictablePGsMlockFreed

	numLinux = iota + numGauges
)

// Our own counters. None of them exists in 2.6.29.
const (
	// Interrupts and the TLB.
	EmuIPISent        Counter = iota + numLinux // interrupts sent to other CPUs
	EmuIPITaken                                 // interrupts taken, of any vector but the timer's and devices'
	EmuIRQTaken                                 // device and timer interrupts taken
	EmuTLBFlushAll                              // flushes of a whole TLB, the CR3 load of a switch included
	EmuTLBFlushOne                              // flushes of one address (invlpg)
	EmuTLBFlushed                               // entries thrown away by flushes
	EmuTLBRemoteFlush                           // shootdowns begun (nr_tlb_remote_flush of later kernels)
	EmuTLBRemoteTaken                           // shootdowns received (nr_tlb_remote_flush_received)
	EmuTLBMiss                                  // hardware walks
	EmuStaleTLBStore                            // stores through a TLB entry that its pte no longer allows
	EmuStaleTLBLoad                             // loads through such an entry
	EmuHWSetAccessed                            // A bits set by the walker
	EmuHWSetDirty                               // D bits set by the walker
	EmuPTEWalkRetries                           // locked updates of the walker that had to look again
	// Fork, copy-on-write, page tables.
	EmuFork             // address spaces copied
	EmuForkPages        // ptes copied by fork
	EmuForkWrprotect    // of these, ptes write-protected in the parent
	EmuForkCopies       // pages copied eagerly by fork, a policy's doing
	EmuForkRetries      // ptes for which fork had to drop its locks and come again
	EmuClone            // threads created
	EmuExec             // address spaces replaced
	EmuExit             // processes that ended
	EmuCOWCopy          // write faults resolved by a copy
	EmuCOWReuse         // write faults resolved by making the page writable
	EmuWPCopy           // do_wp_page entered on a present page, left with a copy
	EmuWPReuse          // do_wp_page left with the same page
	EmuWPRetry          // do_wp_page left to be tried again
	EmuHugeCopy         // huge pages copied
	EmuZapPages         // present ptes removed by unmapping
	EmuMprotectPages    // present ptes changed by mprotect
	EmuMremapPages      // present ptes moved by mremap
	EmuPageCopies       // 4 KiB copies for any reason
	EmuPageClears       // 4 KiB clears for any reason
	EmuFaultRetries     // faults that found a pte changed below them
	EmuFaultsKernelMode // faults taken on behalf of copy_to_user and friends
	// get_user_pages and pins.
	EmuGUPFastPages      // pages taken by the lockless walk
	EmuGUPSlowPages      // pages taken under mmap_sem
	EmuGUPFastFallback   // lockless walks that gave up
	EmuGUPFaults         // faults raised by get_user_pages
	EmuNrFollPinAcquired // pages pinned (nr_foll_pin_acquired of later kernels)
	EmuNrFollPinReleased // pages unpinned (nr_foll_pin_released)
	EmuPolicyOverrides   // decisions where a policy differed from stock
	EmuPolicyWaits       // times a policy made somebody wait
	EmuPolicyWarnings    // diagnostics that a policy printed
	EmuPolicyRefusals    // requests that a policy turned down
	EmuUnshare           // copies that a read pin asked for (FAULT_FLAG_UNSHARE of later kernels)
	// Block and direct I/O.
	EmuBios
	EmuBioMerges
	EmuBioErrors
	EmuDIORequests
	EmuDIOPages
	EmuDIOFallback // direct requests finished through the page cache
	EmuDMAChunks
	EmuDMABytes
	EmuDMAFreed // chunks that hit a frame which was free or had changed hands
	EmuAIORequests
	EmuAIOCompletions
	EmuVmsplicePages
	EmuPipePages     // pages that write(2) allocated for pipes
	EmuAccessVMPages // pages copied for debuggers (access_process_vm)
	EmuDriverPages   // pages pinned by drivers for later DMA
	// Swap, rmap and merging.
	EmuSwapCacheFinds // look-ups in the swap cache for a fault
	EmuSwapCacheHits
	EmuSwapCacheAdds
	EmuSwapCacheDeletes
	EmuRmapWalks
	EmuRmapUnmaps
	EmuRmapUnmapFails
	EmuKSMMerges
	EmuKSMBreaks
	EmuMigrations // tasks that another CPU pulled
	EmuOOMKills
	EmuMMUNotifier // calls of mmu notifiers
	// Execution.
	EmuSyscalls
	EmuContextSwitches
	EmuContextSwitchesInvoluntary
	EmuWakeups
	EmuSchedPoints // slow paths of the schedule point
	EmuSpinWaits   // waits for a spinlock or an acknowledgement
	EmuSleepWaits  // waits that gave the CPU away
	EmuLockContended
	EmuAtomics       // bus-locked operations
	EmuFences        // full barriers
	EmuLineTransfers // cache lines fetched from another CPU
	EmuSignals
	EmuFutexWaits
	EmuFutexWakes
	EmuWorkqueueRuns
	EmuTimers
	EmuRCUGrace
	EmuAllocFailInjected
	EmuOopses

	NumCounters = iota + numLinux
)

// counterNames holds the names as /proc/vmstat prints them.
var counterNames = [NumCounters]string{
	NrFreePages: "nr_free_pages", NrInactiveAnon: "nr_inactive_anon", NrActiveAnon: "nr_active_anon",
	NrInactiveFile: "nr_inactive_file", NrActiveFile: "nr_active_file", NrUnevictable: "nr_unevictable",
	NrMlock: "nr_mlock", NrAnonPages: "nr_anon_pages", NrMapped: "nr_mapped", NrFilePages: "nr_file_pages",
	NrDirty: "nr_dirty", NrWriteback: "nr_writeback", NrSlabReclaimable: "nr_slab_reclaimable",
	NrSlabUnreclaimable: "nr_slab_unreclaimable", NrPageTablePages: "nr_page_table_pages",
	NrUnstable: "nr_unstable", NrBounce: "nr_bounce", NrVMScanWrite: "nr_vmscan_write",
	NrWritebackTemp: "nr_writeback_temp",

	PGPgIn: "pgpgin", PGPgOut: "pgpgout", PSwpIn: "pswpin", PSwpOut: "pswpout",
	PGAllocDMA: "pgalloc_dma", PGAllocDMA32: "pgalloc_dma32", PGAllocNormal: "pgalloc_normal",
	PGAllocMovable: "pgalloc_movable", PGFree: "pgfree", PGActivate: "pgactivate", PGDeactivate: "pgdeactivate",
	PGFault: "pgfault", PGMajFault: "pgmajfault",
	PGRefillDMA: "pgrefill_dma", PGRefillDMA32: "pgrefill_dma32", PGRefillNormal: "pgrefill_normal",
	PGRefillMovable: "pgrefill_movable",
	PGStealDMA:      "pgsteal_dma", PGStealDMA32: "pgsteal_dma32", PGStealNormal: "pgsteal_normal",
	PGStealMovable:  "pgsteal_movable",
	PGScanKswapdDMA: "pgscan_kswapd_dma", PGScanKswapdDMA32: "pgscan_kswapd_dma32",
	PGScanKswapdNormal: "pgscan_kswapd_normal", PGScanKswapdMovable: "pgscan_kswapd_movable",
	PGScanDirectDMA: "pgscan_direct_dma", PGScanDirectDMA32: "pgscan_direct_dma32",
	PGScanDirectNormal: "pgscan_direct_normal", PGScanDirectMovable: "pgscan_direct_movable",
	PGInodeSteal: "pginodesteal", SlabsScanned: "slabs_scanned", KswapdSteal: "kswapd_steal",
	KswapdInodeSteal: "kswapd_inodesteal", PageOutRun: "pageoutrun", AllocStall: "allocstall", PGRotated: "pgrotated",
	HTLBBuddyAllocSuccess: "htlb_buddy_alloc_success", HTLBBuddyAllocFail: "htlb_buddy_alloc_fail",
	UnevictablePGsCulled: "unevictable_pgs_culled", UnevictablePGsScanned: "unevictable_pgs_scanned",
	UnevictablePGsRescued: "unevictable_pgs_rescued", UnevictablePGsMlocked: "unevictable_pgs_mlocked",
	UnevictablePGsMunlocked: "unevictable_pgs_munlocked", UnevictablePGsCleared: "unevictable_pgs_cleared",
	UnevictablePGsStranded: "unevictable_pgs_stranded", UnevictablePGsMlockFreed: "unevictable_pgs_mlockfreed",

	EmuIPISent: "emu_ipi_sent", EmuIPITaken: "emu_ipi_taken", EmuIRQTaken: "emu_irq_taken",
	EmuTLBFlushAll: "emu_tlb_flush_all", EmuTLBFlushOne: "emu_tlb_flush_one", EmuTLBFlushed: "emu_tlb_flushed",
	EmuTLBRemoteFlush: "emu_nr_tlb_remote_flush", EmuTLBRemoteTaken: "emu_nr_tlb_remote_flush_received",
	EmuTLBMiss:       "emu_tlb_miss",
	EmuStaleTLBStore: "emu_stale_tlb_store", EmuStaleTLBLoad: "emu_stale_tlb_load",
	EmuHWSetAccessed: "emu_hw_set_accessed", EmuHWSetDirty: "emu_hw_set_dirty", EmuPTEWalkRetries: "emu_pte_walk_retries",
	EmuFork: "emu_fork", EmuForkPages: "emu_fork_pages", EmuForkWrprotect: "emu_fork_wrprotect",
	EmuForkCopies: "emu_fork_copies", EmuForkRetries: "emu_fork_retries", EmuClone: "emu_clone", EmuExec: "emu_exec",
	EmuExit: "emu_exit", EmuCOWCopy: "emu_cow_copy", EmuCOWReuse: "emu_cow_reuse",
	EmuWPCopy: "emu_wp_copy", EmuWPReuse: "emu_wp_reuse", EmuWPRetry: "emu_wp_retry", EmuHugeCopy: "emu_huge_copy",
	EmuZapPages: "emu_zap_pages", EmuMprotectPages: "emu_mprotect_pages", EmuMremapPages: "emu_mremap_pages",
	EmuPageCopies: "emu_page_copies", EmuPageClears: "emu_page_clears", EmuFaultRetries: "emu_fault_retries",
	EmuFaultsKernelMode: "emu_faults_kernel_mode",
	EmuGUPFastPages:     "emu_gup_fast_pages", EmuGUPSlowPages: "emu_gup_slow_pages",
	EmuGUPFastFallback: "emu_gup_fast_fallback", EmuGUPFaults: "emu_gup_faults",
	EmuNrFollPinAcquired: "emu_nr_foll_pin_acquired", EmuNrFollPinReleased: "emu_nr_foll_pin_released",
	EmuPolicyOverrides: "emu_policy_overrides", EmuPolicyWaits: "emu_policy_waits", EmuPolicyWarnings: "emu_policy_warnings", EmuPolicyRefusals: "emu_policy_refusals", EmuUnshare: "emu_unshare",
	EmuBios: "emu_bios", EmuBioMerges: "emu_bio_merges", EmuBioErrors: "emu_bio_errors",
	EmuDIORequests: "emu_dio_requests", EmuDIOPages: "emu_dio_pages", EmuDIOFallback: "emu_dio_fallback",
	EmuDMAChunks: "emu_dma_chunks", EmuDMABytes: "emu_dma_bytes", EmuDMAFreed: "emu_dma_freed",
	EmuAIORequests: "emu_aio_requests", EmuAIOCompletions: "emu_aio_completions",
	EmuVmsplicePages: "emu_vmsplice_pages",
	EmuPipePages:     "emu_pipe_pages", EmuAccessVMPages: "emu_access_vm_pages", EmuDriverPages: "emu_driver_pages",
	EmuSwapCacheFinds: "emu_swap_cache_finds", EmuSwapCacheHits: "emu_swap_cache_hits", EmuSwapCacheAdds: "emu_swap_cache_adds",
	EmuSwapCacheDeletes: "emu_swap_cache_deletes", EmuRmapWalks: "emu_rmap_walks", EmuRmapUnmaps: "emu_rmap_unmaps",
	EmuRmapUnmapFails: "emu_rmap_unmap_fails", EmuKSMMerges: "emu_ksm_merges", EmuKSMBreaks: "emu_ksm_breaks",
	EmuMigrations: "emu_migrations", EmuOOMKills: "emu_oom_kills",
	EmuMMUNotifier: "emu_mmu_notifier",
	EmuSyscalls:    "emu_syscalls", EmuContextSwitches: "emu_context_switches",
	EmuContextSwitchesInvoluntary: "emu_context_switches_involuntary", EmuWakeups: "emu_wakeups",
	EmuSchedPoints: "emu_sched_points", EmuSpinWaits: "emu_spin_waits",
	EmuSleepWaits: "emu_sleep_waits", EmuLockContended: "emu_lock_contended",
	EmuAtomics: "emu_atomics", EmuFences: "emu_fences", EmuLineTransfers: "emu_line_transfers",
	EmuSignals: "emu_signals", EmuFutexWaits: "emu_futex_waits", EmuFutexWakes: "emu_futex_wakes",
	EmuWorkqueueRuns: "emu_workqueue_runs", EmuTimers: "emu_timers", EmuRCUGrace: "emu_rcu_grace",
	EmuAllocFailInjected: "emu_alloc_fail_injected", EmuOopses: "emu_oopses",
}

// String returns the counter's name in /proc/vmstat.
func (c Counter) String() string {
	if c < NumCounters {
		return counterNames[c]
	}
	return "counter?"
}

// IsGauge reports whether the counter goes down as well as up. The share of
// one CPU is then a signed number in an unsigned word.
func (c Counter) IsGauge() bool { return c < numGauges }

// IsLinux reports whether Linux 2.6.29 has a counter of this name.
func (c Counter) IsLinux() bool { return c < numLinux }

// CounterByName finds a counter by the name that String prints.
func CounterByName(name string) (Counter, bool) {
	for i, n := range counterNames {
		if n == name {
			return Counter(i), true
		}
	}
	return 0, false
}
