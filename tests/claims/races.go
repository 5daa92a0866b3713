package claims

import "github.com/cowlab/cowlab/tests/workload"

// races are the claims about which interleavings exist.
func races() []Claim {
	return []Claim{
		{
			ID: "C7", Who: "Arcangeli, Torvalds", Lines: "219, 287-290",
			Says: "the child need not touch the page: that it exists is enough for the parent to lose the read",
			Ran:  "forward race with a child that exits at once (dma_thread) and one that sleeps (forkscrew), stock",
			Settle: func(l *Lab) Result {
				exits, sleeps := l.Search("stock", "dma_thread", ""), l.Search("stock", "forkscrew", "")
				return Result{Verdict: If(exits.Found(workload.LostRead), sleeps.Found(workload.LostRead)),
					Evidence: Evidences(exits, sleeps)}
			},
		},
	}
}
