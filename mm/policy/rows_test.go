package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// rowCase is a cell that a row is pinned by.
type rowCase struct {
	policy, workload, params string
	// want must be seen; of a row that holds, it is what must never be seen, and "" says
	// that nothing but safe may.
	want workload.Verdict
}

// rowsLeaveOpen are what the thread knew to be wrong with each row, and what it did not
// know. The lines are the thread's.
func rowsLeaveOpen() []rowCase {
	const (
		lost     = workload.LostRead
		disk     = workload.LeakToDisk
		pipe     = workload.LeakToChild
		changed  = workload.ChildChanged
		wrong    = workload.WrongCopy
		leak     = workload.Leak
		bug      = workload.Bug
		deadlock = workload.Deadlock
		livelock = workload.Livelock
	)
	return []rowCase{
		{"pg_gup_v1", "forkscrewreverse", "", disk}, // 2252, 3114, 3516
		{"pg_gup_v1", "vmsplice", "side=2", pipe},   // any read pin of what is shared already
		{"vm_dontcow", "forkscrew", "", leak},       // decow_one_pte puts once too few
		{"vm_dontcow_amended", "forkscrew", "", leak},
		{"pg_dontcow_v2", "forkscrew", "", leak},
		{"pg_dontcow_v2", "ptrace_peek", "", bug},         // marks what an internal pin has not un-COWed
		{"directio_sem_v1", "forkscrew", "", lost},        // 7002, 7789: asynchronous
		{"directio_sem_v1", "forkscrewreverse", "", disk}, // 6410
		{"directio_sem_v1", "late_dma", "", lost},         // 6183
		{"directio_sem_v1", "vmsplice", "side=1", pipe},
		{"wp_page_count", "forkscrew", "", lost},
		{"wp_page_count", "late_dma", "", lost},
		{"wp_page_count_noswap", "late_dma", "", lost},
		{"directio_sem", "late_dma", "", lost},
		{"directio_sem", "vmsplice", "side=1", pipe},
		{"dio_range_lock", "forkscrew", "", leak},          // the ranges are never taken out
		{"dio_range_lock", "dma_thread", "a=0", livelock},  // and a store in one never ends
		{"dio_range_lock_fixed", "forkscrew", "", changed}, // fork shares what a device writes to
		{"dio_range_lock_fixed", "late_dma", "", lost},
		{"dio_range_lock_fixed", "vmsplice", "side=0", pipe},
		{"mmap_sem_dio", "dma_thread", "", deadlock},  // a fair lock, taken twice
		{"mmap_sem_dio_fixed", "forkscrew", "", lost}, // 1021: not asynchronous?
		{"mmap_sem_dio_fixed", "forkscrewreverse", "", disk},
		{"mmap_sem_dio_fixed", "late_dma", "", lost},
		{"mmap_sem_dio_fixed", "vmsplice", "side=0", pipe},
		{"fork_lock", "vmsplice", "side=1", deadlock}, // 6529: the child is to read the pipe
		{"fork_lock", "late_dma", "", deadlock},       // memory registered for good
		{"fork_lock", "pin_fork", "", deadlock},       // the pin goes when the parent has stored, after the fork
		{"directed_cow", "forkscrew", "", changed},    // until the owner stores
		{"directed_cow", "vmsplice", "side=0", pipe},  // the reader is not the first owner
		{"directed_cow", "vmsplice", "side=1", pipe},  // the owner has unmapped it
		{"one_read_pin", "forkscrew", "", changed},
		{"warn_once", "forkscrew", "", lost},
		{"dio_page_multiple", "forkscrew", "", workload.Refused},
		{"dio_page_multiple", "forkscrewreverse", "", disk},
		{"pg_gup", "readonly_buffer", "", livelock}, // 5311: they are shut out of gup-fast, and never come back
		{"pg_gup", "swap_pin", "fork=1", lost},      // the test is for present ptes
		{"pg_dontcow", "readonly_buffer", "kind=1", bug},
		{"pg_dontcow", "swap_pin", "fork=1", lost},
		{"pg_dontcow", "late_dma", "huge=1", lost},                 // no hugetlb support
		{"pg_dontcow", "ptrace_peek", "huge=1", changed},           // 5826: access_process_vm no longer says that it writes
		{"vm_dontcow_fixed", "swap_pin", "", bug},                  // 1484: a marked page does come to do_wp_page
		{"wp_page_count", "swap_pin", "", lost},                    // 7972
		{"wp_page_count_reuse", "swap_pin", "read=0", lost},        // at swap-in too
		{"pin_referenced", "swap_pin", "", lost},                   // 8240: it only buys a round
		{"wp_page_count_noswap_fixed", "swap_pin", "race=1", lost}, // 8291: not enough
		{"pinned_ptes_before", "mprotect_pin", "aio=0", wrong},
		{"pinned_ptes_after", "mprotect_pin", "aio=0", wrong}, // reclaim is not all that write-protects
		{"fork_lock", "mprotect_pin", "aio=0", wrong},
		{"ksm_fork", "swap_pin", "fork=1", lost},
		{"fork_lock_lookup", "readonly_buffer", "", livelock}, // pg_gup's
		// Row 16: what a program can do itself.
		{"stock", "user_ways", "way=0", lost},
		{"stock", "user_ways", "way=4", changed}, // MADV_DONTFORK takes what lies beside the buffer, too
	}
}

// rowsHold are what each row claims. Where a row has another fault on the way, it is the
// corruption that must not be seen.
func rowsHold() []rowCase {
	const lost = workload.LostRead
	return []rowCase{
		{"pg_gup_v1", "dma_thread", "", ""}, {"pg_gup_v1", "late_dma", "fast=1", ""},
		{"vm_dontcow_fixed", "forkscrew", "", ""}, {"vm_dontcow_fixed", "forkscrewreverse", "", ""}, {"vm_dontcow_fixed", "vmsplice", "side=3", ""},
		{"pg_dontcow_v2", "forkscrewreverse", "", ""},
		{"directio_sem_v1", "dma_thread", "", ""},
		{"wp_page_count", "dma_thread", "", ""}, {"wp_page_count", "vmsplice", "side=0", ""},
		{"wp_page_count_reuse", "forkscrewreverse", "", ""}, {"pin_referenced", "forkscrewreverse", "", ""},
		{"wp_page_count_noswap", "forkscrewreverse", "", ""}, {"wp_page_count_noswap_fixed", "dma_thread", "", ""},
		{"pinned_ptes_before", "forkscrew", "", ""}, {"pinned_ptes_after", "forkscrewreverse", "", ""}, {"pinned_ptes_after", "late_dma", "", ""},
		{"dio_range_lock_fixed", "forkscrewreverse", "", ""},
		{"mmap_sem_dio_fixed", "dma_thread", "", ""},
		{"fork_lock", "forkscrew", "", ""}, {"fork_lock", "forkscrewreverse", "", ""}, {"fork_lock", "vmsplice", "side=2", ""},
		{"directed_cow", "dma_thread", "", ""}, {"directed_cow", "forkscrewreverse", "", ""}, {"directed_cow", "pin_fork", "", ""},
		{"ksm_fork", "forkscrew", "", ""}, {"ksm_fork", "pin_fork", "", ""}, {"ksm_fork", "late_dma", "", ""},
		{"fork_lock_lookup", "forkscrew", "", ""}, {"fork_lock_lookup", "vmsplice", "side=1", ""}, {"fork_lock_lookup", "pin_fork", "", ""},
		{"dio_page_multiple", "dma_thread", "a=0", ""},
		{"one_read_pin", "forkscrewreverse", "", ""}, {"one_read_pin", "vmsplice", "side=0", ""}, {"one_read_pin", "vmsplice", "side=1", ""}, {"one_read_pin", "pin_fork", "", ""},
		{"stock", "dma_thread", "a=0", ""}, {"stock", "unmap_pin", "aio=0", ""}, // 235; 754-763
		{"pg_gup", "forkscrew", "", ""}, {"pg_gup", "forkscrewreverse", "", ""}, {"pg_gup", "vmsplice", "side=1", ""}, {"pg_gup", "late_dma", "huge=1", ""},
		{"vm_dontcow", "forkscrew", "", lost}, {"vm_dontcow_amended", "forkscrew", "", lost}, {"pg_dontcow_v2", "forkscrew", "", lost},
		{"pg_dontcow", "forkscrew", "", ""}, {"pg_dontcow", "forkscrewreverse", "", ""}, {"pg_dontcow", "late_dma", "fast=1", ""},
		{"directio_sem", "forkscrew", "", ""}, {"directio_sem", "forkscrewreverse", "", ""}, {"directio_sem", "vmsplice", "side=0", ""},
		{"dio_range_lock", "forkscrew", "", lost}, {"mmap_sem_dio", "dma_thread", "", lost},
		{"stock", "user_ways", "way=1", ""}, {"stock", "user_ways", "way=2", ""}, {"stock", "user_ways", "way=3", ""}, {"stock", "user_ways", "huge=1,way=2", ""}, // row 16
		{"warn_once", "dma_thread", "a=0", ""}, // it is stock; that it warns is TestWarnOnce
	}
}

// TestRowsLeaveOpen pins, by search, what each row leaves open.
func TestRowsLeaveOpen(t *testing.T) {
	for _, c := range rowsLeaveOpen() {
		p := policy.Lookup(c.policy)
		require.NotNil(t, p, c.policy)
		r := explores(t, c.workload, c.params, p, explore.Options{Schedules: 400, Seed: 1, StopAtFirst: true,
			Bad: func(verdict string) bool { return verdict == string(c.want) }})
		assert.NotZero(t, r.ByVerdict[string(c.want)], "%s on %s %s: %v", c.policy, c.workload, c.params, r.ByVerdict)
	}
}

// TestRowsHold: what each row claims, on a few schedules; the matrix searches more.
func TestRowsHold(t *testing.T) {
	n := uint64(60)
	if policy.Race {
		n = 10
	}
	for _, c := range rowsHold() {
		r := search(t, c.workload, c.params, policy.Lookup(c.policy), n)
		if c.want != "" {
			assert.Zero(t, r.ByVerdict[string(c.want)], "%s on %s %s: %v", c.policy, c.workload, c.params, r.ByVerdict)
			continue
		}
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%s on %s %s: %v", c.policy, c.workload, c.params, r.ByVerdict)
	}
}

// TestEveryRowIsPinned: each policy of the tree has something in these tables that it leaves
// open, and something that it holds.
func TestEveryRowIsPinned(t *testing.T) {
	open, holds := map[string]int{"stock": 1 /* TestStockCorrupts */}, map[string]int{}
	for _, c := range rowsLeaveOpen() {
		open[c.policy]++
	}
	for _, c := range rowsHold() {
		holds[c.policy]++
	}
	for _, c := range laterRows() {
		if c.want == "" {
			holds[c.policy]++
		} else {
			open[c.policy]++
		}
	}
	for _, p := range policy.All() {
		assert.NotZero(t, open[p.Name()], "%s: nothing says what it leaves open", p.Name())
		assert.NotZero(t, holds[p.Name()], "%s: nothing says what it holds", p.Name())
	}
	for _, names := range []map[string]int{open, holds} {
		for name := range names {
			assert.NotNil(t, policy.Lookup(name), name)
		}
	}
}
