package claims

import (
	"fmt"

	"github.com/cowlab/cowlab/tests/workload"
)

// swaps are the claims about reclaim and pins.
func swaps() []Claim {
	return []Claim{
		{
			ID: "C15", Who: "Arcangeli, narrowed by Torvalds", Lines: "7972, 8009-8020",
			Says: "page_count in do_wp_page loses a read when reclaim unmaps the page, with no fork at all",
			Ran:  "a pinned page is unmapped by reclaim; a load and a store, or a store alone; the device writes: under stock, wp_page_count, wp_page_count_reuse",
			Settle: func(l *Lab) Result {
				before := l.Ask(workload.LostRead, "stock", "swap-load-first")
				load, store := l.Ask(workload.LostRead, "wp_page_count", "swap-load-first"), l.Ask(workload.LostRead, "wp_page_count", "swap-store-first")
				reuse := l.Ask(workload.LostRead, "wp_page_count_reuse", "swap-store-first")
				res := Result{Verdict: Settle(load.ShowsAny(), store.ShowsAny(), before.Never()), Evidence: Evidences(before, load, store, reuse)}
				if load.Any() && store.Safe() && before.Safe() {
					res.Verdict = Depends
					res.On = "whether a load brings the page in first: a store asks reuse_swap_page, which does not count references"
					if reuse.Any() {
						res.On += " (it would if the test stood there)"
					}
				}
				return res
			},
		},
		{
			ID: "C16", Who: "Arcangeli, Torvalds", Lines: "8291-8296, 8464-8480",
			Says:   "refusing pinned pages in add_to_swap is not enough: a page can be in the swap cache and writable, or be pinned behind the test",
			Ran:    "row 8 with its comparison repaired: gup-fast against reclaim, and a pin of a page that is in the swap cache already; then a load, a store, and the device writes",
			Settle: settleC16,
		},
		{
			ID: "C17", Who: "Arcangeli, Torvalds", Lines: "8305, 8356",
			Says:   "never unmapping the pages that somebody has pinned is simplest, and right",
			Ran:    "row 9, comparing before the pte is cleared and behind the flush: as C16, and mprotect to read-only and back",
			Settle: settleC17,
		},
		{
			ID: "C18", Who: "Torvalds, answered by Arcangeli", Lines: "8058-8103",
			Says:   "swap-out and swap-in lose the dirtiness of what a device writes, so that the next swap-out drops it",
			Ran:    "a direct read while reclaim takes the page out, a load brings it back, and reclaim takes it again: with direct I/O that marks its pages dirty in the end, and without",
			Settle: settleC18,
		},
		{
			ID: "C30", Who: "Piggin", Lines: "5321-5326",
			Says:   "PG_gup's retry leaks a swap entry if reclaim has made a swap entry of the child's pte",
			Ran:    "reclaim in the middle of fork's copy, under pg_gup and pg_dontcow, with the swap map checked as the run goes and at its end",
			Settle: settleC30,
		},
		{
			ID: "C33", Who: "Arcangeli, Torvalds", Lines: "6832-6846, 8309, 8427, 8505",
			Says:   "page_count and mapcount cannot be compared safely when mapcount is above 1; it does not matter, because only 1 is of interest",
			Ran:    "reclaim compares them for a page that is pinned throughout, while another process gives it up or forks; with one mapping; and whether a read is lost",
			Settle: settleC33,
		},
	}
}

func settleC16(l *Lab) Result {
	cached := l.Ask(workload.LostRead, "wp_page_count_noswap_fixed", "swap-cached-pin")
	race := l.Ask(workload.LostRead, "wp_page_count_noswap_fixed", "swapout-beside-pin")
	plain := l.Ask(workload.LostRead, "wp_page_count_noswap_fixed", "swap-load-first")
	res := Result{Verdict: Settle(Exists(cached.Any() || race.Any(), cached, race)), Evidence: Evidences(race, cached, plain)}
	switch {
	case cached.Any() && race.Any():
		res.On = "both ways are there"
	case cached.Any():
		res.On = "by the page that is in the swap cache already"
	case race.Any():
		res.On = "by gup-fast behind the test"
	}
	return res
}

func settleC17(l *Lab) Result {
	var res Result
	swap := map[string]bool{}
	for _, pol := range []string{"pinned_ptes_before", "pinned_ptes_after"} {
		for _, name := range []string{"swapout-beside-pin", "swap-cached-pin"} {
			r := l.AskAll(workload.LostRead, pol, name)
			swap[pol] = swap[pol] || r.Any()
			res.Evidence = append(res.Evidence, r.Evidence())
		}
	}
	protect := l.Ask(workload.LostRead, "pinned_ptes_after", "mprotect-after-pin")
	res.Evidence = append(res.Evidence, protect.Evidence())
	before, after := swap["pinned_ptes_before"], swap["pinned_ptes_after"]
	res.Verdict = If(!before, !after, protect.Safe())
	if !after && (before || protect.Any()) {
		res.Verdict = Depends
		if before {
			res.On = "the order: compared before the pte is cleared, gup-fast can pin the page in between; compared behind the flush, no schedule has it"
		}
		if protect.Any() {
			if before {
				res.On += ". And "
			}
			res.On += "reclaim is not the only way to a read-only pte: after mprotect the store copies a pinned page all the same"
		}
	}
	return res
}

func settleC18(l *Lab) Result {
	with, without := l.Ask(workload.LostRead, "stock", "claim-c18"), l.Ask(workload.LostRead, "stock", "claim-c18-clean")
	driver := l.Ask(workload.LostRead, "stock", "swap-dma-dirty")
	res := Result{Verdict: Settle(with.ShowsAny()), Evidence: Evidences(without, with, driver)}
	if res.Verdict != Confirmed {
		res.On = "reclaim does not write a page that has a reference too many (is_page_cache_freeable), so it stays dirty as long as it is pinned, " +
			"whether direct I/O marks it in the end or not"
	}
	if without.Any() && with.Safe() {
		res.Verdict = Depends
		res.On = "whether who has pinned marks the pages dirty when the device is done: direct I/O does (dio_bio_complete, bio_check_pages_dirty)"
	}
	return res
}

func settleC30(l *Lab) Result {
	var res Result
	leaks, bugs, reached := false, "", true
	for _, pol := range []string{"pg_gup", "pg_dontcow"} {
		counted := &countRetries{Policy: l.Policy(pol)}
		t, err := target("claim-c30", counted, l.hosts)
		if err != nil {
			fail("%w", err)
		}
		r := l.Explore(workload.Leak, t)
		res.Evidence = append(res.Evidence, r.Evidence(), Evidence{Text: fmt.Sprintf("%s: fork tried a pte again %d times", pol, counted.retries)})
		reached = reached && counted.retries > 0
		if pol == "pg_gup" {
			leaks = r.Found(workload.Leak)
			if w := r.witness(workload.Bug); w != nil {
				bugs = w.Detail
			}
		}
	}
	res.Verdict = Settle(Exists(leaks))
	switch {
	case leaks:
	case bugs != "":
		res.Verdict = Depends
		res.On = "whose pte: the child's is empty until the copy is there, and reclaim cannot change it; but the parent's may be a swap entry by then, " +
			"and the patch gives it its write bit all the same, which makes it another entry (" + bugs + ")"
	case !reached:
		res.Verdict, res.On = Depends, "what the search did not reach: no schedule came to the retry"
	default:
		res.On = "the retry gives back what it finds"
	}
	return res
}

func settleC33(l *Lab) Result {
	res := Result{}
	many, one, harm := false, false, false
	var several []*Race
	for _, pol := range []string{"pinned_ptes_before", "pinned_ptes_after", "wp_page_count_noswap_fixed"} {
		for _, name := range []string{"claim-c33-dontneed", "claim-c33-munmap", "claim-c33-fork"} {
			r := l.AskAll(workload.WrongCopy, pol, name)
			many, several = many || r.Any(), append(several, r)
			res.Evidence = append(res.Evidence, r.Evidence())
		}
		r := l.AskAll(workload.WrongCopy, pol, "claim-c33-one")
		one = one || r.Any()
		res.Evidence = append(res.Evidence, r.Evidence())
	}
	for _, pol := range []string{"pinned_ptes_before", "pinned_ptes_after"} {
		r := l.AskAll(workload.LostRead, pol, "claim-c33-harm")
		harm = harm || r.Any()
		res.Evidence = append(res.Evidence, r.Evidence())
	}
	res.Verdict = Settle(Exists(many, several...), Fact(!one), Fact(!harm))
	switch {
	case many && !one && !harm:
		res.On = "a page that is pinned for writing is mapped once: fork copies it"
	case many && (one || harm):
		res.Verdict, res.On = Depends, "who compares: it goes wrong with one mapping, or loses a read, too"
	case !many:
		res.On = "the comparison did not go wrong with several mappings either"
	}
	return res
}
