package policytest

import (
	"slices"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm/policy"
)

// The bugs of the patches, which rows keep; docs/findings.md tells each by the number given.
// A row stands here with all that is expected of it: what is not listed fails the test,
// and what is listed and not seen does.
var (
	foll = Known{"races", "readonly_buffer", "FOLL_ANON and FOLL_WRITE", "finding 1: a read pin of untouched memory is a BUG"}
	loop = Known{"races", "readonly_buffer", "livelock", "finding 3: a read pin of read-only anonymous memory never returns"}
	lame = Known{"no_memory", "fork_pre_cow", "bug", "a copy at fork that runs out of memory leaves its map count and references behind (fork_pre_cow)"}
	once = Known{"races", "", "leak", "finding 11: decow_one_pte puts the old page once too few"}
	half = Known{"no_memory", "decow_one_pte", "bug", "finding 37: a fork that fails leaves a marked page shared with the child being torn down"}
	took = Known{"races", "mprotect_pin", "wrong-copy", "finding 17: a store after mprotect copies a pinned page away"}
	huge = Known{"races", "mprotect_pin huge", "wrong-copy", "finding 5: hugetlb_cow asks the references, so that a store after mprotect copies a pinned page away"}
	pool = Known{"races", "huge=1", "pool of 2048 KiB pages", "finding 43: a slow pin takes a private mapping of huge pages its pages away"}
	leak = Known{"races", "late_dma", "leak-to-disk", "as for a driver's pin the other way round"}
	seen = Known{"races", "forkscrew", "child-changed", "fork shares what a device writes to until somebody stores"}
	snap = Known{"races", "snapshot", "leak-to-disk", "the owner's store after fork reaches the child's write"}
)

var rowsKnow = map[string][]Known{
	"pg_gup_v1": {lame},
	"pg_gup":    {loop, lame, huge},
	"vm_dontcow": {
		once, {"races", "swap_pin", "VM_BUG_ON", "finding 15: a marked page does enter do_wp_page"},
		{"invariants", "swap_pin", "VM_BUG_ON", "the same"}, pool,
	},
	"vm_dontcow_fixed":   {{"races", "swap_pin", "VM_BUG_ON", "finding 15"}, {"invariants", "swap_pin", "VM_BUG_ON", "the same"}, pool},
	"vm_dontcow_amended": {once, pool},
	"pg_dontcow_v2":      {once, foll, {"races", "ptrace_peek", "VM_BUG_ON", "finding 13: a debugger's look marks a shared page"}},
	"pg_dontcow":         {foll, half},
	"wp_page_count":      {took}, "wp_page_count_reuse": {took}, "pin_referenced": {took},
	"wp_page_count_noswap": {took}, "wp_page_count_noswap_fixed": {took},
	"pinned_ptes_before": {took, lame}, "pinned_ptes_after": {took, lame},
	"directio_sem": {foll, leak},
	"dio_range_lock": {
		{"races", "", "leak in", "finding 19: ranges are never taken out and keep the address space"},
		{"races", "database", "livelock", "finding 19: a direct read into memory that a child shares never returns"},
		{"no_memory", "dio_protect_all", "leak", "finding 19: the requests that got their memory"},
		seen, leak,
	},
	"dio_range_lock_fixed": {seen, leak},
	"mmap_sem_dio":         {{"races", "d", "deadlock", "finding 20: mmap_sem is taken twice"}},
	"fork_lock": {
		{"races", "", "deadlock", "finding 21: fork waits for pins that outlive it"}, took,
	},
	"directed_cow":     {seen, snap, {"races", "vmsplice", "leak-to-child", "finding 22: a reader that is not the first owner"}},
	"fork_lock_lookup": {loop, lame, huge},
	"dio_page_multiple": {
		{"races", "mprotect_pin", "wrong-copy", "what is refused does not arrive"},
		{"races", "user_ways", "lost-read", "what is refused does not arrive"},
		{"races", "ksm_pin", "lost-read", "what is refused does not arrive"},
		{"races", "", "refused", "the idea is to refuse requests of less than a page"},
	},
	"one_read_pin": {seen},
	"kosaki_v3":    {took},
	"wp_copy":      {took},
	"pin_copy":     {took},
}

// TestRows runs every policy of the tree through all checks, in a short form.
func TestRows(t *testing.T) {
	hosts := kernel.NewHosts()
	t.Cleanup(hosts.Close)
	some := []string{"stock", "directio_sem", "anon_exclusive"} // where the race detector looks on
	for _, p := range policy.All() {
		if (underRace || testing.Short()) && !slices.Contains(some, p.Name()) {
			continue
		}
		t.Run(p.Name(), func(t *testing.T) {
			t.Parallel()
			RunWith(t, p, Options{Short: true, Known: rowsKnow[p.Name()], Hosts: hosts})
		})
	}
	for name := range rowsKnow {
		if policy.Lookup(name) == nil {
			t.Errorf("there is no policy %s", name)
		}
	}
}
