package claims

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/tests/workload"
)

// races are the claims about fork, gup-fast and what a copy is.
func races() []Claim {
	return []Claim{
		{
			ID: "C1", Who: "Torvalds", Lines: "376-402, 720",
			Says:   "a flag that gup-fast sets comes too late: fork can pass between the look-up of the page and the flag",
			Ran:    "gup-fast against fork and a store, under pg_gup with and without its second look at the pte: every schedule within the bound, and every class of schedules",
			Settle: settleC1,
		},
		{
			ID: "C7", Who: "Arcangeli, Torvalds", Lines: "219, 287-290",
			Says: "the child need not touch the page: that it exists is enough for the parent to lose the read",
			Ran:  "forward race with a child that exits at once (dma_thread) and one that sleeps (forkscrew), stock",
			Settle: func(l *Lab) Result {
				// A child that ends at once leaves little time: one schedule in a hundred.
				exits := l.search(workload.LostRead, "stock", "dma_thread", "", effort{schedules: 4 * l.o.Schedules})
				sleeps := l.Search(workload.LostRead, "stock", "forkscrew", "")
				return Result{Verdict: Settle(exits.Shows(workload.LostRead), sleeps.Shows(workload.LostRead)),
					Evidence: Evidences(exits, sleeps)}
			},
		},
		{
			ID: "C8", Who: "Piggin, Arcangeli", Lines: "2252, 3114, 3516",
			Says: "the first PG_gup patch leaves the reverse race open; the second closes it",
			Ran:  "reverse race under pg_gup_v1 and pg_gup; under pg_gup also in as few steps as it can be had in (write_store), one schedule of each class",
			Settle: func(l *Lab) Result {
				v1 := l.Search(workload.LeakToDisk, "pg_gup_v1", "forkscrewreverse", "")
				v2 := l.Search(anything, "pg_gup", "forkscrewreverse", "")
				all := l.EachClass("pg_gup", "write_store")
				return Result{Verdict: Settle(v1.Shows(workload.LeakToDisk), v2.Never(), all.Never()), Evidence: Evidences(v1, v2, all)}
			},
		},
		{
			ID: "C9", Who: "Arcangeli", Lines: "1923, 2120",
			Says: "the child's copy is one instant of the page only if the parent's pte is write-protected and flushed before the copy",
			Ran: "two ordered stores to both ends of a pinned page while another thread forks, under rows that do not write-protect (vm_dontcow), " +
				"that write-protect and flush later (vm_dontcow_amended, pg_dontcow_v2, pg_dontcow), and that do both (pg_gup)",
			Settle: settleC9,
		},
		{
			ID: "C12", Who: "Arcangeli", Lines: "3479-3484; against it Piggin, 2290, 5219",
			Says:   "without a lock, a bit or a second look gup-fast must race with fork, under PG_dontcow too",
			Ran:    "gup-fast against fork under pg_dontcow, every schedule within the bound: on a page pinned for the first time, on one that is marked, and for a read; pin_fork; and every class of schedules of driver_fork",
			Settle: settleC12,
		},
		{
			ID: "C13", Who: "Arcangeli, Kamezawa", Lines: "7002, 7789",
			Says: "directio_sem around direct_io_worker misses asynchronous I/O",
			Ran:  "directio_sem_v1 with an asynchronous read (forkscrew), and for comparison with synchronous ones (dma_thread)",
			Settle: func(l *Lab) Result {
				async := l.Search(workload.LostRead, "directio_sem_v1", "forkscrew", "")
				sync := l.Search(anything, "directio_sem_v1", "dma_thread", "")
				return Result{Verdict: Settle(async.Shows(workload.LostRead), sync.Never()), Evidence: Evidences(async, sync)}
			},
		},
		{
			ID: "C14", Who: "Piggin", Lines: "6177-6185, 6409, 6526-6532",
			Says:   "a lock held over direct I/O leaves the other users of get_user_pages open",
			Ran:    "memory registered with a driver (late_dma) and in a pipe (vmsplice) under every row with a lock, in the form that does what it is meant to",
			Settle: settleC14,
		},
	}
}

func settleC1(l *Lab) Result {
	without, with := l.AskAll(workload.LostRead, "pg_gup"+oneLook, "claim-c1"), l.AskAll(workload.LostRead, "pg_gup", "claim-c1")
	allWithout, allWith := l.EachClass("pg_gup"+oneLook, "driver_fork"), l.EachClass("pg_gup", "driver_fork")
	lost := without.Found(workload.LostRead) && allWithout.Found(workload.LostRead)
	res := Result{
		Verdict:  Settle(Exists(lost, without, allWithout), Exists(with.Found(workload.LostRead) || allWith.Found(workload.LostRead), with, allWith)),
		Evidence: Evidences(without, with, allWithout, allWith),
	}
	if lost && with.Safe() && allWith.Safe() {
		res.Verdict, res.On = Depends, "the second look at the pte: without it the race is there, with it it is not"
	}
	return res
}

func settleC9(l *Lab) Result {
	var res Result
	both := l.Search(anything, "pg_gup", "torn", "")
	res.Evidence = append(res.Evidence, both.Evidence())
	whole := []string{}
	for _, pol := range []string{"vm_dontcow", "vm_dontcow_amended", "pg_dontcow_v2", "pg_dontcow"} {
		r := l.Ask(workload.TornSnapshot, pol, "torn-snapshot")
		res.Evidence = append(res.Evidence, r.Evidence())
		if !r.Found(workload.TornSnapshot) {
			whole = append(whole, pol)
		}
	}
	r := l.Ask(workload.TornSnapshot, "pg_gup", "torn-snapshot")
	res.Evidence = append(res.Evidence, r.Evidence())
	res.Verdict = Settle(both.Never(), Fact(!r.Found(workload.TornSnapshot)), Exists(len(whole) == 0))
	if res.Verdict == Confirmed {
		res.On = "write-protection alone is not enough: a stale TLB entry goes on storing"
	} else if len(whole) > 0 {
		res.On = "whole without it: " + strings.Join(whole, ", ")
	}
	return res
}

func settleC12(l *Lab) Result {
	var res Result
	var searches []*Race // of the race itself
	found := false
	for _, name := range []string{"claim-c1", "claim-c12-marked", "claim-c12-read"} {
		r := l.AskAll(workload.LostRead, "pg_dontcow", name)
		res.Evidence = append(res.Evidence, r.Evidence())
		found, searches = found || r.Found(workload.LostRead), append(searches, r)
	}
	all := l.EachClass("pg_dontcow", "driver_fork")
	r := l.Search(workload.LostRead, "pg_dontcow", "pin_fork", "")
	res.Evidence = append(res.Evidence, Evidences(all, r)...)
	found = found || all.Found(workload.LostRead) || r.Found(workload.LostRead)
	res.Verdict = Settle(Exists(found, append(searches, all)...))
	if res.Verdict != Confirmed {
		res.On = "the bit is there: a page that is not marked takes the slow way, and one that is marked is never shared"
	}
	return res
}

// lockRows are the rows that keep fork away from direct I/O with a lock, or a list of
// ranges.
var lockRows = [...]string{
	"directio_sem_v1", "wp_page_count", "wp_page_count_noswap_fixed", "directio_sem", "dio_range_lock_fixed", "mmap_sem_dio_fixed", "fork_lock", "kosaki_v3",
}

func settleC14(l *Lab) Result {
	res := Result{Verdict: Confirmed}
	var closed, waits []string
	for _, pol := range lockRows {
		driver := l.Search(workload.LostRead, pol, "late_dma", "")
		child, parent := l.Search(workload.LeakToChild, pol, "vmsplice", "side=0"), l.Search(workload.LeakToChild, pol, "vmsplice", "side=1")
		res.Evidence = append(res.Evidence, Evidences(driver, child, parent)...)
		open := driver.Found(workload.LostRead) || child.Found(workload.LeakToChild) || parent.Found(workload.LeakToChild)
		switch stuck := driver.Found(workload.Deadlock) || parent.Found(workload.Deadlock); {
		case open:
		case stuck:
			waits = append(waits, pol)
		default:
			closed = append(closed, pol)
		}
	}
	if n := len(closed) + len(waits); n > 0 {
		res.Verdict = Depends
		if n == len(lockRows) {
			res.Verdict = NotFound
		}
		res.On = "who holds the lock, and how long"
		if len(waits) > 0 {
			res.On += fmt.Sprintf("; held as long as the references are, as %s does, fork waits for ever", strings.Join(waits, ", "))
		}
		if len(closed) > 0 {
			res.On += "; nothing found under " + strings.Join(closed, ", ")
		}
	}
	return res
}

// raceExperiments are the smallest programs of gup-fast against fork.
func raceExperiments() []experiment {
	return []experiment{
		{name: "claim-c1", cut: true, text: `"gup-fast for writing against a fork and a store; then the device writes"
map A 1 page private
init A = 1

 P0                 | P1       | C child | D device          ;
 pin h A write fast | fork C   |         |                   ;
                    | A[0] = 2 |         |                   ;
 @1                 | @1       |         | @1                ;
                    |          |         | dma h[512] = 0x64 ;

never P0:A[512] != 0x64
`},
		{name: "claim-c12-marked", cut: true, text: `"the same on a page that was pinned before"
map A 1 page private
init A = 1

 P0                 | P1       | C child | D device          ;
 pin g A write      |          |         |                   ;
 unpin g            |          |         |                   ;
 @1                 | @1       |         |                   ;
 pin h A write fast | fork C   |         |                   ;
                    | A[0] = 2 |         |                   ;
 @2                 | @2       |         | @2                ;
                    |          |         | dma h[512] = 0x64 ;

never P0:A[512] != 0x64
`},
		{name: "claim-c12-read", cut: true, text: `"the same for a device that reads: it must see what the process stored"
map A 1 page private
init A = 1

 P0                | P1       | C child | D device     ;
 pin g A read      |          |         |              ;
 unpin g           |          |         |              ;
 @1                | @1       |         |              ;
 pin h A read fast | fork C   |         |              ;
                   | A[0] = 2 |         |              ;
 @2                | @2       |         | @2           ;
                   |          |         | r = dma h[0] ;

never D:r != 2
`},
	}
}
