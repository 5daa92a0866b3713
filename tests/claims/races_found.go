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
	program, params string // of a workload; a scenario or experiment has no parameters, but may be every
	verdict         workload.Verdict
}

// every asks for every schedule within the bound: what is looked for is too rare to be met
// by chance.
const every = "every schedule"

func holes() []hole {
	return []hole{
		{1, "a direct write from memory that nobody has touched stops the kernel", "pg_dontcow", "readonly_buffer", "kind=2", workload.Bug},
		{1, "the same", "directio_sem", "readonly_buffer", "kind=2", workload.Bug},
		{2, "the same, one page behind a shared one", "pg_gup", "dio-behind-shared", "", workload.Bug},
		{3, "a pin for reading of read-only memory never returns", "pg_gup", "readonly_buffer", "kind=0", workload.Livelock},
		{5, "on huge pages a read is lost with no second process", "stock", "claim-c32-huge", "", workload.WrongCopy},
		{11, "each page copied at fork is leaked", "vm_dontcow", "forkscrew", "", workload.Leak},
		{11, "the same", "pg_dontcow_v2", "forkscrew", "", workload.Leak},
		{12, "the child's page is not one instant of the parent's, although the pte is write-protected", "pg_dontcow", "torn-snapshot", "", workload.TornSnapshot},
		{13, "a debugger's look marks a shared page, and the next store meets the assertion", "pg_dontcow_v2", "ptrace_peek", "", workload.Bug},
		{14, "reclaim in the middle of fork stops the kernel", "pg_dontcow_v2", "claim-c30", "", workload.Bug},
		{15, "the assertion fires without any child", "vm_dontcow", "claim-c32-assertion", "", workload.Bug},
		{17, "mprotect, and no reclaim, makes a store copy a pinned page", "pinned_ptes_after", "mprotect-after-pin", "", workload.LostRead},
		{18, "comparing counts before the pte is cleared is too early", "pinned_ptes_before", "claim-c16-race", every, workload.LostRead},
		{19, "ranges are never taken out: memory is leaked", "dio_range_lock", "forkscrew", "", workload.Leak},
		{19, "and a direct read never returns", "dio_range_lock", "dma_thread", "a=0", workload.Livelock},
		{20, "mmap_sem held over direct I/O deadlocks with a writer in the queue", "mmap_sem_dio", "dma_thread", "", workload.Deadlock},
		{21, "who splices and forks the reader waits for ever", "fork_lock", "vmsplice", "side=1", workload.Deadlock},
		{22, "COW for the first owner: the pipe of the other shows what he stores later", "directed_cow", "vmsplice", "side=0", workload.LeakToChild},
		{23, "a pinned page that reclaim has unmapped is past fork's reach", "pg_gup", "swap-before-fork", "", workload.LostRead},
		{25, "fork gives a swap entry its write bit", "pg_gup", "claim-c30", "", workload.Bug},
		{30, "mprotect makes the pte read-only, and fork shares the pinned page", "pg_gup", "mprotect-fork", "", workload.LostRead},
		{30, "the same", "ksm_fork", "mprotect-fork", "", workload.LostRead},
		{31, "a fork after the pin: what the child stores reaches the parent's file", "gup_cow_break", "write-in-flight", "", workload.LeakToDisk},
		{31, "the same", "mapcount_unshare", "write-in-flight", "", workload.LeakToDisk},
		{32, "a store into a buffer of whole pages loses the read", "dio_page_multiple", "whole-page-store", "", workload.LostRead},
		{33, "the child stores to a page that the parent has given up, and the device writes over it", "dio_range_lock_fixed", "given-up", "", workload.ChildChanged},
		{35, "mremap moves memory away from its range", "dio_range_lock_fixed", "moved-range", "", workload.LostRead},
		{40, "a store brings a page back from swap while the child has it pinned", "pinned_ptes_after", "swap-in-pinned", "", workload.LeakToChild},
		{40, "the same the other way round", "pinned_ptes_before", "swap-in-spliced", "", workload.LeakToChild},
	}
}

func settleC32(l *Lab) Result {
	var res Result
	there, all := 0, holes()
	for _, h := range all {
		var r *Race
		switch {
		case workload.Lookup(h.program) != nil:
			r = l.First(h.verdict, h.policy, h.program, h.params)
		case h.params == every:
			if r = l.AskAll(h.verdict, h.policy, h.program); !r.Found(h.verdict) {
				r = l.askFirst(h.verdict, h.policy, h.program, 20*l.o.Schedules)
			}
		default:
			r = l.askFirst(h.verdict, h.policy, h.program, l.o.Schedules)
		}
		e := r.evidence(h.verdict)
		e.Text = fmt.Sprintf("%d. %s: %s", h.number, h.says, e.Text)
		if r.Found(h.verdict) {
			there++
		}
		res.Evidence = append(res.Evidence, e)
	}
	res.Evidence = append(res.Evidence, l.random()...)
	res.Verdict = If(there == len(all))
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
