package spec

import (
	"slices"
	"strings"
)

// hole is a kind of hole that is known: under one of the policies a verdict that begins so, in a
// program that has one of each of the lists of kinds. If did is set, the run does one of these
// deeds, too: without it any hole with this verdict would pass for this one, in every program that
// has such operations.
type hole struct {
	finding  int // section of docs/findings.md
	policies string
	verdict  string
	with     [][]string
	did      []deed
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
	writable    = pgGUPCopies + " ksm_fork"                                                // fork looks at writable ptes
	counting    = "pinned_ptes_before pinned_ptes_after fork_lock wp_page_count wp_page_count_reuse pin_referenced wp_page_count_noswap wp_page_count_noswap_fixed wp_copy pin_copy kosaki_v3"
)

// emptyPool is how finding 5 ends with no huge page left.
const emptyPool = "bug: BUG: hugetlb_cow: page_count is # after unmap_ref_private"

// reuseAsserted is how findings 23 and 37 end under pg_dontcow.
const reuseAsserted = "bug: pg_dontcow: VM_BUG_ON: do_wp_page does not reuse"

// holes are what docs/findings.md describes, as random programs meet it. The first that fits
// counts.
func holes() []hole {
	return []hole{
		{1, "pg_dontcow pg_dontcow_v2 directio_sem one_read_pin", "bug: BUG: follow_page: FOLL_ANON", [][]string{readers(), {"untouched", "madvise dontneed", "mmap", "mremap", "munmap"}}, nil},
		{2, pgGUPForces, "bug: BUG: follow_page: FOLL_ANON", [][]string{readers(), {"fork", "mprotect r", "swapout"}}, nil},
		{3, pgGUPForces, "livelock", [][]string{readOnly(), {"disk write", "pin read", "vmsplice"}}, nil},
		{10, pgGUPForces, "livelock", [][]string{readOnly(), {"peek", "poke"}}, nil},
		{24, pgGUPCopies, "leak: ", [][]string{fails(), {"fork"}, pinners()}, nil},
		{24, pgGUPCopies, "bug: invariant: address space #: anon_rss", [][]string{fails(), {"fork"}, pinners()}, nil},
		{24, pgGUPCopies, "bug: invariant: pfn #", [][]string{fails(), {"fork"}, pinners()}, nil},
		{24, pgGUPCopies, "bug: BUG: pg_gup: page_mapcount", [][]string{fails(), {"fork"}, pinners()}, nil},
		{11, "vm_dontcow vm_dontcow_amended pg_dontcow_v2", "leak: a page", [][]string{pinners()}, nil},
		{11, "vm_dontcow vm_dontcow_amended pg_dontcow_v2", "bug: a page", [][]string{pinners()}, nil},
		{14, "pg_dontcow_v2", "bug: BUG: decow_one_pte", [][]string{reclaim(), {"fork"}}, nil},
		{13, "pg_dontcow_v2", "bug: pg_dontcow_v#: VM_BUG_ON", [][]string{{"peek", "poke"}}, nil},
		{15, "vm_dontcow vm_dontcow_fixed", "bug: vm_dontcow: VM_BUG_ON", [][]string{pinners()}, nil},
		{30, writable, "child-changed", [][]string{readOnly(), {"fork"}, pinners()}, []deed{forkSharesRO}},
		{30, writable, "lost-read", [][]string{readOnly(), {"fork"}, pinners()}, []deed{forkSharesRO}},
		{30, writable, "leak-to-", [][]string{readOnly(), {"fork"}, pinners()}, []deed{forkSharesRO}},
		{17, counting, "lost-read", [][]string{{"mprotect r"}, pinners()}, []deed{cowCopies}},
		{18, "pinned_ptes_before kosaki_v3", "lost-read", [][]string{reclaim(), pinners()}, []deed{reclaimUnmaps}},
		{40, "pinned_ptes_before pinned_ptes_after", "leak-to-", [][]string{reclaim(), {"fork"}, readers()}, []deed{swapInTakes}},
		{40, "wp_page_count_noswap_fixed", "leak-to-disk", [][]string{reclaim(), {"fork"}, {"disk write"}}, []deed{swapInTakes}},
		{31, "gup_cow_break mapcount_unshare", "leak-to-", [][]string{{"fork"}, {"disk write", "pin read", "vmsplice"}}, []deed{cowTakes, swapInTakes}},
		{32, "dio_page_multiple", "lost-read", [][]string{{"disk read"}, {"fork"}}, []deed{cowCopies}},
		{32, "dio_page_multiple", "stale-write", [][]string{{"disk read"}, {"fork"}}, []deed{cowCopies}},
		{33, "dio_range_lock dio_range_lock_fixed", "child-changed", [][]string{{"disk read"}, {"fork"}}, nil},
		{33, "dio_range_lock dio_range_lock_fixed", "leak-to-", [][]string{{"disk write"}, {"fork"}, {"madvise dontneed", "munmap", "exit"}}, nil},
		{35, "dio_range_lock dio_range_lock_fixed", "lost-read", [][]string{{"disk read"}, {"fork"}, {"mremap"}}, []deed{cowCopies}},
		{34, "dio_range_lock_fixed", "bug: BUG: mmput", [][]string{{"disk read", "disk write"}}, nil},
		{19, "dio_range_lock", "lost-read", [][]string{{"disk read"}, {"fork"}}, nil},
		{19, "dio_range_lock", "stale-write", [][]string{{"disk write"}, {"fork"}}, []deed{cowTakes}},
		{19, "dio_range_lock", "leak-to-disk", [][]string{{"disk write"}, {"fork"}}, []deed{cowTakes}},
		{19, "dio_range_lock", "leak", [][]string{{"disk read", "disk write"}}, nil},
		{19, "dio_range_lock", "livelock", [][]string{{"disk read", "disk write"}}, nil},
		{19, "dio_range_lock_fixed", "livelock", [][]string{{"disk read", "disk write"}, {"fork"}}, nil},
		{42, "dio_range_lock", "deadlock", [][]string{{"disk read", "disk write"}, {"fork"}}, nil},
		{20, "mmap_sem_dio", "deadlock", [][]string{{"disk read", "disk write"}}, nil},
		{21, "fork_lock", "deadlock", [][]string{{"fork"}, {"pin read", "pin write", "vmsplice"}}, nil},
		{22, "directed_cow one_read_pin", "child-changed", [][]string{{"fork"}}, nil},
		{22, "directed_cow one_read_pin", "leak-to-", [][]string{{"fork"}}, nil},
		{22, "directed_cow one_read_pin", "stale-write", [][]string{{"fork"}, {"disk read", "pin write"}}, nil},
		{22, "directed_cow", "stale-write", [][]string{{"fork"}, {"disk write"}}, []deed{cowTakes}},
		{5, "stock directio_sem pg_dontcow sentry_pin_copy anon_exclusive", emptyPool, [][]string{{"huge"}, {"fork"}, pinners()}, nil},
		{6, "stock pg_gup sentry_pin_copy anon_exclusive", "lost-store", [][]string{{"huge"}, {"fork"}}, nil},
		{41, pgGUPForces, "bug: invariant: pool of # KiB pages", [][]string{{"huge"}, {"mprotect r"}, pinners()}, nil},
		{44, "vm_dontcow vm_dontcow_fixed vm_dontcow_amended", "bug: BUG: mmap_sem", [][]string{{"mlock"}}, nil},
		{44, pgGUPForces, "livelock", [][]string{readOnly(), {"mlock"}}, nil},
		{44, "pg_dontcow_v2", "leak: a page", [][]string{{"mlock"}, {"fork"}}, nil},
		{43, "vm_dontcow vm_dontcow_fixed vm_dontcow_amended", "bug: ", [][]string{{"huge"}, pinners()}, nil},
		{39, "anon_exclusive", "leak-to-disk", [][]string{{"huge"}, {"fork"}, {"disk write"}}, nil},
		{37, "pg_dontcow", reuseAsserted, [][]string{{"fail any", "fail decow_one_pte"}, {"fork"}, pinners()}, []deed{forkShares, forkSharesRO}},
		{23, "pg_dontcow", reuseAsserted, [][]string{reclaim(), pinners(), {"fork"}}, nil},
		{23, "pg_dontcow_v2", "bug: pg_dontcow_v#: VM_BUG_ON: do_wp_page does not reuse", [][]string{reclaim(), pinners(), {"fork"}}, nil},
		{23, "vm_dontcow_amended", "bug: vm_dontcow: VM_BUG_ON: do_wp_page does not reuse", [][]string{reclaim(), pinners(), {"fork"}}, nil},
	}
}

// Known returns the section of docs/findings.md that a hole belongs to; zero if it is new. did runs the
// schedule that shows it once more; it is asked only where there is something to choose.
func Known(policy, verdict string, kinds []string, did func() []deed) int {
	if h := lookup(policy, verdict, kinds, did); h != nil {
		return h.finding
	}
	return 0
}

// lookup returns the first hole that fits, nil if none does.
func lookup(policy, verdict string, kinds []string, did func() []deed) *hole {
	for _, h := range holes() {
		if slices.Contains(strings.Fields(h.policies), policy) && strings.HasPrefix(verdict, h.verdict) &&
			!slices.ContainsFunc(h.with, func(any []string) bool { return !some(any, kinds) }) && h.does(did) {
			return &h
		}
	}
	return nil
}

// does reports whether a run does what the hole takes.
func (h *hole) does(did func() []deed) bool { return h.did == nil || some(h.did, did()) }

// some reports whether one of a is in b.
func some[T comparable](a, b []T) bool {
	return slices.ContainsFunc(a, func(x T) bool { return slices.Contains(b, x) })
}
