package mm

// Break is a set of lines that are taken out of the memory manager. It is for tests of
// the checkers and of the search: a mistake that nobody finds was not looked for. Each is
// a mistake that somebody has made in a kernel, or that a comment in one warns of.
// Machines that are not told otherwise have none; what is tested for it is off the hot paths.
type Break uint32

// The mistakes.
const (
	// BreakForkFlush leaves out the flush at the end of dup_mmap.
	BreakForkFlush Break = 1 << iota
	// BreakGatherFlush gives the pages of an mmu_gather back before the flush.
	BreakGatherFlush
	// BreakGUPFastIRQ walks the tables in gup-fast with interrupts enabled.
	BreakGUPFastIRQ
	// BreakWPRecheck does not look whether the pte is still the same after do_wp_page's copy.
	BreakWPRecheck
	// BreakWPHold copies in do_wp_page without a reference on the old page.
	BreakWPHold
	// BreakWPEarlyRmap counts the old mapping down before the flush in do_wp_page.
	BreakWPEarlyRmap
	// BreakAnonLock walks the list of an anon_vma without its lock.
	BreakAnonLock
	// BreakForkSwapDup does not count the child's swap entries.
	BreakForkSwapDup
	// BreakUnmapSwapDup does not count the swap entry that try_to_unmap_one leaves.
	BreakUnmapSwapDup
	// BreakUnmapDirty does not pass the pte's dirty bit on to the page in try_to_unmap_one.
	BreakUnmapDirty
	// BreakFreeze looks at the references in __remove_mapping before it has the cache's
	// lock, and goes by that.
	BreakFreeze
	// BreakKSMCount compares the counts in write_protect_page before the flush.
	BreakKSMCount
	// BreakHugeRecheck does not look whether the entry is still the same after
	// hugetlb_cow's copy.
	BreakHugeRecheck
	// BreakLockOrder takes page_table_lock before the anon_vma's lock in anon_vma_prepare.
	BreakLockOrder
	// BreakDIORef takes no reference on the pages of a bio in dio_bio_add_page.
	BreakDIORef
	// BreakFlushBarrier leaves out the barrier between the mailbox of a flush and its
	// interrupt; see sched.Options.TSO.
	BreakFlushBarrier
	// BreakSwapFree does not give the slot's count back in do_swap_page.
	BreakSwapFree
	// BreakSwapRecheck does not look whether the pte is still the swap entry once
	// do_swap_page has the page.
	BreakSwapRecheck
)

// Broken reports whether a line is taken out.
func (s *System) Broken(b Break) bool { return s.breaks&b != 0 }

// sameUnless is f.Same, unless the line is taken out.
func (f *Fault) sameUnless(b Break) bool { return f.Same() || f.MM.Sys.breaks&b != 0 }
