package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestRowsLeaveOpen pins, by search, what the thread knew to be wrong with each row, and
// what it did not know. The lines are the thread's.
func TestRowsLeaveOpen(t *testing.T) {
	const (
		lost     = workload.LostRead
		disk     = workload.LeakToDisk
		pipe     = workload.LeakToChild
		changed  = workload.ChildChanged
		leak     = workload.Leak
		bug      = workload.Bug
		deadlock = workload.Deadlock
		livelock = workload.Livelock
	)
	for _, c := range []struct {
		policy, workload, params string
		want                     workload.Verdict
	}{
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
		{"mmap_sem_dio_fixed", "forkscrew", "", lost}, // 1016: not asynchronous?
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
	} {
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
	for _, c := range []struct{ policy, workload, params string }{
		{"pg_gup_v1", "dma_thread", ""}, {"pg_gup_v1", "late_dma", "fast=1"},
		{"vm_dontcow_fixed", "forkscrew", ""}, {"vm_dontcow_fixed", "forkscrewreverse", ""}, {"vm_dontcow_fixed", "vmsplice", "side=3"},
		{"pg_dontcow_v2", "forkscrewreverse", ""},
		{"directio_sem_v1", "dma_thread", ""},
		{"wp_page_count", "dma_thread", ""}, {"wp_page_count", "vmsplice", "side=0"},
		{"wp_page_count_reuse", "forkscrewreverse", ""}, {"pin_referenced", "forkscrewreverse", ""},
		{"wp_page_count_noswap", "forkscrewreverse", ""}, {"wp_page_count_noswap_fixed", "dma_thread", ""},
		{"pinned_ptes_before", "forkscrew", ""}, {"pinned_ptes_after", "forkscrewreverse", ""}, {"pinned_ptes_after", "late_dma", ""},
		{"dio_range_lock_fixed", "forkscrewreverse", ""},
		{"mmap_sem_dio_fixed", "dma_thread", ""},
		{"fork_lock", "forkscrew", ""}, {"fork_lock", "forkscrewreverse", ""}, {"fork_lock", "vmsplice", "side=2"},
		{"directed_cow", "dma_thread", ""}, {"directed_cow", "forkscrewreverse", ""}, {"directed_cow", "pin_fork", ""},
		{"ksm_fork", "forkscrew", ""}, {"ksm_fork", "pin_fork", ""}, {"ksm_fork", "late_dma", ""},
		{"fork_lock_lookup", "forkscrew", ""}, {"fork_lock_lookup", "vmsplice", "side=1"}, {"fork_lock_lookup", "pin_fork", ""},
		{"dio_page_multiple", "dma_thread", "a=0"},
		{"one_read_pin", "forkscrewreverse", ""}, {"one_read_pin", "vmsplice", "side=0"}, {"one_read_pin", "vmsplice", "side=1"}, {"one_read_pin", "pin_fork", ""},
	} {
		r := search(t, c.workload, c.params, policy.Lookup(c.policy), n)
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%s on %s %s: %v", c.policy, c.workload, c.params, r.ByVerdict)
	}
}
