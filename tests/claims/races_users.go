package claims

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/tests/workload"
)

// users are the claims about programs: what they see, what they can do about it, and who
// can hurt whom.
func users() []Claim {
	return []Claim{
		{
			ID: "C25", Who: "Piggin", Lines: "3448",
			Says:   "no direction of COW is right once parent and child have both pinned the page for reading",
			Ran:    "both pin a shared page for reading, the parent stores: the copy for whoever stores (stock), for whoever is not the first owner (directed_cow), and un-COWed before (pg_gup)",
			Settle: settleC25,
		},
		{
			ID: "C27", Who: "Arcangeli", Lines: "3570-3585",
			Says:   "fixing the race exposes that of the C library's list of stacks in fork, which is there without the fix too",
			Ran:    "a list update split over two pages while another thread forks: does the child see the first store alone, and the second without the first; every row",
			Settle: settleC27,
		},
		{
			ID: "C28", Who: "Torvalds", Lines: "1149-1152, 1188",
			Says: "a threaded program that wants to exec should use vfork, which has none of the problem",
			Ran:  "a read in flight, a store, stock: with fork, with vfork, and vfork against gup-fast",
			Settle: func(l *Lab) Result {
				fork, vfork := l.Search(workload.LostRead, "stock", "user_ways", "way=0"), l.Search(anything, "stock", "user_ways", "way=3")
				race := l.Ask(workload.LostRead, "stock", "vfork-race")
				return Result{Verdict: Settle(fork.Shows(workload.LostRead), vfork.Never(), race.Never()), Evidence: Evidences(fork, vfork, race)}
			},
		},
		{
			ID: "C29", Who: "Herrenschmidt, Piggin", Lines: "1300-1316, 3348-3354",
			Says: "MADV_DONTFORK works, but not when a library pins behind the program's back",
			Ran:  "a read in flight into part of a page, stock: with the advice, without it, and with it while the child needs what lies beside the buffer",
			Settle: func(l *Lab) Result {
				told, untold := l.Search(anything, "stock", "user_ways", "way=1"), l.Search(workload.LostRead, "stock", "user_ways", "way=0")
				neighbour := l.Search(anything, "stock", "user_ways", "way=4")
				return Result{
					Verdict:  Settle(told.Never(), untold.Shows(workload.LostRead), neighbour.ShowsAny()),
					On:       "a program that does not know loses the read; a library that advises for it takes the neighbours of the buffer away from the child",
					Evidence: Evidences(told, untold, neighbour),
				}
			},
		},
		{
			ID: "C31", Who: "Torvalds", Lines: "754-763",
			Says:   "when the owner unmaps or exits, later DMA goes on to somewhere, and the child may see it",
			Ran:    "munmap and exit under a pin, with a bystander who takes memory, and with a child that shares the page, under every row",
			Settle: settleC31,
		},
		{
			ID: "C35", Who: "Arcangeli, asked by Molnar", Lines: "75-80, 341",
			Says:   "it is no security hole: only the data of the same user suffers",
			Ran:    "a page in a pipe, unmapped by who put it there; the other process stores a secret; the pipe is read: in either direction, every row",
			Settle: settleC35,
		},
	}
}

func settleC25(l *Lab) Result {
	writer, owner := l.Ask(workload.WrongCopy, "stock", "both-pin-read"), l.Ask(workload.WrongCopy, "directed_cow", "both-pin-read")
	none := l.Ask(workload.WrongCopy, "pg_gup", "both-pin-read")
	res := Result{Verdict: Settle(writer.ShowsAny(), owner.ShowsAny()), Evidence: Evidences(writer, owner, none)}
	if none.Safe() {
		res.On = "what helps is to un-COW before the page is handed out"
	}
	return res
}

func settleC27(l *Lab) Result {
	var res Result
	half := l.Ask(workload.TornSnapshot, "stock", "claim-c27-half")
	res.Evidence = append(res.Evidence, half.Evidence())
	stock := l.Ask(workload.TornSnapshot, "stock", "claim-c27-order")
	res.Evidence = append(res.Evidence, stock.Evidence())
	var exposed, not []string
	var none []*Race
	for _, p := range l.o.Policies {
		if p.Name() == "stock" {
			continue
		}
		r := l.ask(workload.TornSnapshot, p.Name(), "claim-c27-order", l.inRows(120, 1))
		if !r.Found(workload.TornSnapshot) {
			not, none = append(not, p.Name()), append(none, r)
			continue
		}
		exposed = append(exposed, p.Name())
		res.Evidence = append(res.Evidence, r.Evidence())
	}
	if len(not) > 0 {
		res.Evidence = append(res.Evidence, Evidence{Text: fmt.Sprintf("no torn-snapshot under %s: %s", strings.Join(not, ", "), within(none))})
	}
	switch {
	case len(exposed) == 0:
		res.Verdict = NotFound
		res.On = "no row shows the child more than stock does"
	case len(not) > 0 || stock.Found(workload.TornSnapshot):
		res.Verdict = Depends
		res.On = "how the fix copies: rows that copy a pinned page at fork show the child the second store without the first"
		if half.Found(workload.TornSnapshot) {
			res.On += "; half of an update it sees under stock too"
		}
	default:
		res.Verdict = Settle(half.Shows(workload.TornSnapshot))
	}
	return res
}

func settleC31(l *Lab) Result {
	var res Result
	bystander, child := 0, 0
	var first, shown *Race
	var alone, shared []*Race // that did not show it
	for _, p := range l.o.Policies {
		for _, params := range []string{"", "aio=1", "exit=1", "exit=2"} {
			r := l.search(workload.ChildChanged, p.Name(), "unmap_pin", params, l.inRows(30, 1))
			if r.Found(workload.ChildChanged) {
				bystander++
				first = r
			} else {
				alone = append(alone, r)
			}
		}
		r := l.ask(workload.ChildChanged, p.Name(), "claim-c31-child", l.inRows(40, 1))
		if r.Found(workload.ChildChanged) {
			child++
			if shown == nil {
				shown = r
			}
		} else {
			shared = append(shared, r)
		}
	}
	n := len(l.o.Policies)
	stock, gup := l.Ask(workload.ChildChanged, "stock", "claim-c31-child"), l.Ask(workload.ChildChanged, "pg_gup", "claim-c31-child")
	res.Evidence = append(res.Evidence, Evidence{Text: fmt.Sprintf("a bystander's memory changed in %d of %d searches, four programs under each row; not in the others: %s", bystander, 4*n, within(alone))},
		Evidence{Text: fmt.Sprintf("the child's memory changed under %d of %d rows; not under the others: %s", child, n, within(shared))}, stock.Evidence(), gup.Evidence())
	if first != nil {
		res.Evidence = append(res.Evidence, first.Evidence())
	}
	switch {
	case bystander > 0:
		res.Verdict, res.On = Confirmed, "a frame is given to somebody else before its last pin is gone"
	case stock.Found(workload.ChildChanged) && gup.Safe():
		res.Verdict = Depends
		res.On = "whether somebody shares the page: no schedule gave the frame to somebody before the last pin had gone, but a child that shares it sees the DMA, unless fork copied the page"
	default:
		res.Verdict = Settle(Exists(child > 0))
	}
	if shown != nil && !stock.Found(workload.ChildChanged) {
		res.Evidence = append(res.Evidence, shown.Evidence())
	}
	return res
}

func settleC35(l *Lab) Result {
	var res Result
	var holes []string
	var none []*Race
	for _, p := range l.o.Policies {
		for _, side := range []string{"side=0", "side=1", "side=2", "side=3"} {
			r := l.search(workload.LeakToChild, p.Name(), "vmsplice", side, l.inRows(60, deepPreemptions))
			if !r.Found(workload.LeakToChild) {
				none = append(none, r)
				continue
			}
			if len(holes) == 0 || holes[len(holes)-1] != p.Name() {
				holes = append(holes, p.Name())
			}
			if p.Name() == "stock" || side == "side=0" {
				res.Evidence = append(res.Evidence, r.Evidence())
			}
		}
	}
	res.Evidence = append(res.Evidence, Evidence{Text: fmt.Sprintf("%d of %d rows show a secret in some of four programs; no secret in the others: %s", len(holes), len(l.o.Policies), within(none))})
	res.Verdict = If(len(holes) == 0)
	if len(holes) > 0 {
		res.On = "a process that has given up its privileges reads what its parent, or its child, stores later: under " + strings.Join(holes, ", ")
	}
	return res
}

// userExperiments are their programs.
func userExperiments() []experiment {
	return []experiment{
		{name: "claim-c27-half", text: `"two stores to two pages while the process forks: does the child see the first alone?"
map A 2 pages private
init A = 1

 P0     | P1           | C child ;
        | A[8] = 5     |         ;
        | A[4104] = 5  |         ;
 @1     | @1           |         ;
 fork C | A[0] = 2     |         ;
        | A[4K] = 2    |         ;

never C:A[0] = 2 /\ C:A[4K] = 1
`},
		{name: "claim-c27-order", text: `"the same with the first page pinned: does the child see the second store alone?"
map A 2 pages private
init A = 1

 P0                          | P1          | C child ;
 pin h A write fast longterm | A[8] = 5    |         ;
                             | A[4104] = 5 |         ;
 @1                          | @1          |         ;
 fork C                      | pause 100   |         ;
                             | A[0] = 2    |         ;
                             | A[4K] = 2   |         ;

never C:A[0] = 1 /\ C:A[4K] = 2
`},
		{name: "claim-c31-child", text: `"a page is pinned, the process forks and unmaps it; the device writes: does the child see it?"
map A 1 page private
init A = 1

 P0            | C child | D device          ;
 pin h A write |         |                   ;
 fork C        |         |                   ;
 munmap A      |         |                   ;
 @1            | @1      | @1                ;
               |         | dma h[512] = 0x64 ;

never C:A[512] != 1
`},
	}
}
