package claims

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/tests/spec"
	"github.com/cowlab/cowlab/tests/workload"
)

// found are the claims that nobody made: holes that searches found.
func found() []Claim {
	return []Claim{
		{
			ID: "C32", Who: "nobody", Lines: "-",
			Says:   "there are holes in the patches that the thread does not mention",
			Ran:    "the programs behind docs/findings.md, each under the row where the search found something; and random programs under all rows, compared with a model (tests/spec)",
			Settle: settleC32,
		},
	}
}

// hole is something that a search found: number is its section of docs/findings.md.
type hole struct {
	number          int
	says            string
	policy          string
	program, params string // of a workload; a scenario or experiment has no parameters, but may be rare
	verdict         workload.Verdict
}

// What holes show that workloads have no word for.
const (
	staleWrite   workload.Verdict = "stale-write"  // older contents reached the disk
	sharedStore  workload.Verdict = "shared-store" // a store of one process is seen by another, with no device
	neverSwapped workload.Verdict = "not-swapped"  // reclaim does not take a page that nobody holds
)

// rare asks for many times the schedules: what is looked for takes one place of some hundred,
// and is not met by chance soon.
const rare = "rare"

// holes are the sections that tell of a hole, each with the smallest program that has it. How
// each looks is drawn in testdata.
func holes() []hole {
	return []hole{
		{1, "a direct write from memory that nobody has touched stops the kernel", "pg_dontcow", "dio-untouched", "", workload.Bug},
		{1, "the same", "directio_sem", "dio-untouched", "", workload.Bug},
		{2, "the same, one page behind a shared one", "pg_gup", "dio-behind-shared", "", workload.Bug},
		{3, "a pin for reading of read-only memory never returns", "pg_gup", "dio-readonly", "", workload.Livelock},
		{5, "on huge pages a read is lost with no second process", "stock", "cow-07-huge", "", workload.WrongCopy},
		{5, "and with an empty pool the kernel stops", "stock", "huge-pool-empty", "", workload.Bug},
		{6, "a copy of a huge page is not flushed: another thread reads the old one", "stock", "huge-stale-tlb", "", workload.WrongCopy},
		{7, "a write to disk that begins in untouched huge memory writes zeroes for what follows", "stock", "huge-untouched-before", "", staleWrite},
		{8, "the file's huge page stays locked", "pg_gup", "claim-c32-locked", "", workload.Bug},
		{9, "a pin for reading of a private file mapping is the file's page", "pg_gup", "ro-pin-file", "", workload.WrongCopy},
		{9, "the same, by gup-fast", "pg_dontcow", "ro-pin-file", "", workload.WrongCopy},
		{10, "a debugger's look at read-only memory never returns", "pg_gup", "peek-readonly", "", workload.Livelock},
		{11, "each page copied at fork is leaked", "vm_dontcow", "pin-and-fork", "", workload.Leak},
		{11, "the same", "pg_dontcow_v2", "pin-and-fork", "", workload.Leak},
		{12, "the child's page is not one instant of the parent's, although the pte is write-protected", "pg_dontcow", "torn-snapshot", "", workload.TornSnapshot},
		{13, "a debugger's look marks a shared page, and the next store meets the assertion", "pg_dontcow_v2", "peek-then-store", "", workload.Bug},
		{14, "reclaim in the middle of fork stops the kernel", "pg_dontcow_v2", "claim-c30", "", workload.Bug},
		{15, "the assertion fires without any child", "vm_dontcow", "mprotect-faulted-in", "", workload.Bug},
		{16, "no page is ever written to swap", "wp_page_count_noswap", "swapout-plain", "", neverSwapped},
		{16, "as it is meant, a page that is pinned in the swap cache loses the read", "wp_page_count_noswap_fixed", "swap-cached-pin", "", workload.LostRead},
		{17, "mprotect, and no reclaim, makes a store copy a pinned page", "pinned_ptes_after", "mprotect-after-pin", "", workload.LostRead},
		{18, "comparing counts before the pte is cleared is too early", "pinned_ptes_before", "swapout-beside-pin", rare, workload.LostRead},
		{19, "ranges are never taken out: memory is leaked", "dio_range_lock", "dio-alone", "", workload.Leak},
		{19, "and a direct read never returns", "dio_range_lock", "dio-behind-fork", "", workload.Livelock},
		{19, "and with KSM no store does, without any child", "dio_range_lock", "dio-behind-ksm", "", workload.Livelock},
		{19, "and they begin a page late: a read is lost", "dio_range_lock", "aio-forward", "", workload.LostRead},
		{20, "mmap_sem held over direct I/O deadlocks with a writer in the queue", "mmap_sem_dio", "dio-beside-mmap", "", workload.Deadlock},
		{21, "who pins and forks waits for ever", "fork_lock", "pin-and-fork", "", workload.Deadlock},
		{21, "and who splices", "fork_lock", "vmsplice-and-fork", "", workload.Deadlock},
		{22, "COW for the first owner: the device of the other reads what he stores later", "directed_cow", "both-pin-read", "", workload.WrongCopy},
		{22, "and the child's memory changes under it", "directed_cow", "child-changed", "", workload.ChildChanged},
		{23, "a pinned page that reclaim has unmapped is past fork's reach", "pg_gup", "swap-before-fork", "", workload.LostRead},
		{23, "the same", "pg_dontcow", "swap-before-fork", "", workload.Bug},
		{24, "a fork that finds no memory leaves a reference and a map count", "pg_gup", "fork-nomem", "", workload.Bug},
		{25, "fork gives a swap entry its write bit", "pg_gup", "claim-c30", "", workload.Bug},
		{30, "mprotect makes the pte read-only, and fork shares the pinned page", "pg_gup", "mprotect-fork", "", workload.LostRead},
		{30, "the same", "ksm_fork", "mprotect-fork", "", workload.LostRead},
		{31, "a fork after the pin: what the child stores reaches the parent's file", "gup_cow_break", "write-in-flight", "", workload.LeakToDisk},
		{31, "the same", "mapcount_unshare", "write-in-flight", "", workload.LeakToDisk},
		{32, "a store into a buffer of whole pages loses the read", "dio_page_multiple", "whole-page-store", "", workload.LostRead},
		{33, "the child stores to a page that the parent has given up, and the device writes over it", "dio_range_lock_fixed", "given-up", "", workload.ChildChanged},
		{35, "mremap moves memory away from its range", "dio_range_lock_fixed", "moved-range", "", workload.LostRead},
		{37, "a fork that finds no memory shares a marked page for a while", "pg_dontcow", "fork-nomem-store", "", workload.Bug},
		{38, "a debugger's write to a huge page reaches the other process", "pg_dontcow", "poke-huge", "", sharedStore},
		{39, "a huge page is taken over by its map count", "anon_exclusive", "S5-huge", "", workload.LeakToDisk},
		{40, "a store brings a page back from swap while the child has it pinned", "pinned_ptes_after", "swap-in-pinned", "", workload.LeakToChild},
		{40, "the same the other way round", "pinned_ptes_before", "swap-in-spliced", "", workload.LeakToChild},
		{41, "a pin for reading ends the sharing of a huge page", "pg_gup", "shared-huge-pin", "", workload.WrongCopy},
		{43, "a pin takes a private mapping of huge pages its pages away", "vm_dontcow", "huge-vma-pin", "", workload.Bug},
		{44, "mlock gives back a semaphore that it holds otherwise", "vm_dontcow", "mlock-readonly", "", workload.Bug},
		{44, "mlock of read-only memory never returns", "pg_gup", "mlock-readonly", "", workload.Livelock},
	}
}

// find searches for a hole until it shows.
func (l *Lab) find(h hole) *Race {
	switch {
	case workload.Lookup(h.program) != nil:
		return l.First(h.verdict, h.policy, h.program, h.params)
	case h.params == rare:
		if r := l.AskAll(h.verdict, h.policy, h.program); r.Found(h.verdict) {
			return r
		}
		return l.ask(h.verdict, h.policy, h.program, effort{schedules: 20 * l.o.Schedules, first: true})
	}
	return l.ask(h.verdict, h.policy, h.program, effort{first: true})
}

func settleC32(l *Lab) Result {
	var res Result
	there, all := 0, holes()
	for _, h := range all {
		r := l.find(h)
		e := r.evidence(h.verdict)
		e.Text = fmt.Sprintf("%d. %s: %s", h.number, h.says, e.Text)
		if r.Found(h.verdict) {
			there++
		}
		res.Evidence = append(res.Evidence, e)
	}
	res.Evidence = append(res.Evidence, l.random()...)
	res.Verdict = Settle(Exists(there == len(all)))
	if there > 0 && there < len(all) {
		res.Verdict = Depends
	}
	res.On = fmt.Sprintf("%d of the %d things that searches found were found again", there, len(all))
	return res
}

// random runs random programs under all rows and counts which findings they meet. How many
// there are follows the bound of the searches: what they find is no part of the verdict.
func (l *Lab) random() []Evidence {
	o := spec.Options{Policies: l.o.Policies, Seed: l.o.Seed, Programs: max(l.o.Schedules/15, 2), Schedules: 5}
	r, err := spec.Search(l.ctx, o)
	if err != nil {
		fail("%w", err)
	}
	out := []Evidence{{Text: fmt.Sprintf("%d random programs, %d runs under %d rows, %d bytes compared with the model, %d of them racing",
		r.Programs, r.Schedules, len(o.Policies), r.Bytes, r.Racing)}}
	first, rows := map[int]*spec.Hole{}, map[int][]string{}
	for _, h := range r.Holes {
		if first[h.Finding] == nil {
			first[h.Finding] = h
		}
		if !slices.Contains(rows[h.Finding], h.Policy) {
			rows[h.Finding] = append(rows[h.Finding], h.Policy)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(first)) {
		h := first[n]
		what := fmt.Sprintf("finding %d is met under %s", n, strings.Join(rows[n], ", "))
		if n == 0 {
			what = "a hole that docs/findings.md has not got, under " + strings.Join(rows[n], ", ")
		}
		out = append(out, Evidence{Text: what + ": " + h.Detail, Token: h.Token.String()})
	}
	return out
}
