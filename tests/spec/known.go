package spec

import (
	"slices"
	"strings"
)

// hole is a kind of hole that is known: under one of the policies a verdict that begins so, in a
// program that has one of each of the lists of kinds.
type hole struct {
	finding  int // section of docs/findings.md
	policies string
	verdict  string
	with     [][]string
}

// What operations have in common.
func reclaim() []string { return []string{"swapout", "reclaim", "madvise pageout"} }
func readers() []string {
	return []string{"disk write", "pin read", "vmsplice", "peek", "poke"}
}
func pinners() []string {
	return []string{"disk read", "disk write", "pin read", "pin write", "vmsplice", "peek", "poke"}
}
func readOnly() []string { return []string{"mprotect r", "read-only"} }
func fails() []string    { return []string{"fail any", "fail fork_pre_cow"} }

// The rows that share a patch's code.
const (
	pgGUPCopies = "pg_gup pg_gup_v1 pinned_ptes_before pinned_ptes_after fork_lock_lookup" // copy_one_pte and fork_pre_cow
	pgGUPForces = "pg_gup fork_lock_lookup"                                                // follow_page
	writable    = pgGUPCopies + " ksm_fork sentry_pin_copy"                                // fork looks at writable ptes
	counting    = "pinned_ptes_before pinned_ptes_after fork_lock wp_page_count wp_page_count_reuse pin_referenced wp_page_count_noswap wp_page_count_noswap_fixed wp_copy pin_copy"
)

// holes are what docs/findings.md describes, as random programs meet it. The first that fits
// counts.
func holes() []hole {
	return []hole{
		{1, "pg_dontcow pg_dontcow_v2 directio_sem one_read_pin", "bug: BUG: follow_page: FOLL_ANON", [][]string{readers(), {"untouched", "madvise dontneed", "mmap", "mremap", "munmap"}}},
		{2, pgGUPForces, "bug: BUG: follow_page: FOLL_ANON", [][]string{readers(), {"fork", "mprotect r", "swapout"}}},
		{3, pgGUPForces, "livelock", [][]string{readOnly(), {"disk write", "pin read", "vmsplice"}}},
		{10, pgGUPForces, "livelock", [][]string{readOnly(), {"peek", "poke"}}},
		{24, pgGUPCopies, "leak: ", [][]string{fails(), {"fork"}, pinners()}},
		{24, pgGUPCopies, "bug: ", [][]string{fails(), {"fork"}, pinners()}},
		{11, "vm_dontcow vm_dontcow_amended pg_dontcow_v2", "leak: a page", [][]string{pinners()}},
		{11, "vm_dontcow vm_dontcow_amended pg_dontcow_v2", "bug: a page", [][]string{pinners()}},
		{14, "pg_dontcow_v2", "bug: BUG: decow_one_pte", [][]string{reclaim(), {"fork"}}},
		{13, "pg_dontcow_v2", "bug: pg_dontcow_v#: VM_BUG_ON", [][]string{{"peek", "poke"}}},
		{15, "vm_dontcow vm_dontcow_fixed", "bug: vm_dontcow: VM_BUG_ON", [][]string{pinners()}},
		{30, writable, "child-changed", [][]string{readOnly(), {"fork"}, pinners()}},
		{30, writable, "lost-read", [][]string{readOnly(), {"fork"}, pinners()}},
		{30, writable, "leak-to-", [][]string{readOnly(), {"fork"}, pinners()}},
		{17, counting, "lost-read", [][]string{{"mprotect r"}, pinners()}},
		{31, "gup_cow_break mapcount_unshare", "leak-to-", [][]string{{"fork"}, {"disk write", "pin read", "vmsplice"}}},
		{32, "dio_page_multiple", "lost-read", [][]string{{"disk read"}, {"fork"}}},
		{32, "dio_page_multiple", "stale-write", [][]string{{"disk read"}, {"fork"}}},
		{33, "dio_range_lock dio_range_lock_fixed", "child-changed", [][]string{{"disk read"}, {"fork"}}},
		{33, "dio_range_lock dio_range_lock_fixed", "leak-to-", [][]string{{"disk write"}, {"fork"}, {"madvise dontneed", "munmap", "exit"}}},
		{35, "dio_range_lock dio_range_lock_fixed", "lost-read", [][]string{{"disk read"}, {"fork"}, {"mremap"}}},
		{34, "dio_range_lock_fixed", "bug: BUG: mmput", [][]string{{"disk read", "disk write"}}},
		{19, "dio_range_lock", "lost-read", [][]string{{"disk read"}, {"fork"}}},
		{19, "dio_range_lock", "leak", [][]string{{"disk read", "disk write"}}},
		{19, "dio_range_lock", "livelock", [][]string{{"disk read", "disk write"}}},
		{19, "dio_range_lock_fixed", "livelock", [][]string{{"disk read", "disk write"}, {"fork"}}},
		{20, "mmap_sem_dio", "deadlock", [][]string{{"disk read", "disk write"}}},
		{21, "fork_lock", "deadlock", [][]string{{"fork"}, {"pin read", "pin write", "vmsplice"}}},
		{21, "kosaki_v3", "deadlock", [][]string{{"fork"}, {"vmsplice"}}},
		{22, "directed_cow one_read_pin", "child-changed", [][]string{{"fork"}}},
		{22, "directed_cow one_read_pin", "leak-to-", [][]string{{"fork"}}},
		{22, "directed_cow one_read_pin", "stale-write", [][]string{{"fork"}, {"disk read", "pin write"}}},
		{39, "anon_exclusive", "leak-to-disk", [][]string{{"huge"}, {"fork"}, {"disk write"}}},
		{23, "pg_dontcow pg_dontcow_v2 vm_dontcow_amended", "bug: ", [][]string{reclaim(), pinners(), {"fork"}}},
	}
}

// Known returns the section of docs/findings.md that a hole belongs to; zero if it is new.
func Known(policy, verdict string, kinds []string) int {
	for _, h := range holes() {
		if slices.Contains(strings.Fields(h.policies), policy) && strings.HasPrefix(verdict, h.verdict) &&
			!slices.ContainsFunc(h.with, func(any []string) bool { return !some(any, kinds) }) {
			return h.finding
		}
	}
	return 0
}

// some reports whether one of a is in b.
func some(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}
