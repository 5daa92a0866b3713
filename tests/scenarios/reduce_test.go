package scenarios

import (
	"context"
	"flag"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
)

var reduceBudget = flag.Uint64("reduce", 12, "schedules of a scenario that its reduction may be compared with")

// small are programs of few steps, for comparisons with every schedule there is.
var small = []string{`cowlab stores-and-loads
"stores-and-loads"
map A 1 page shared
init A = 1
 P0 | P1 ;
 A[0] = 2 | A[512] = 3 ;
 r = A[512] | s = A[0] ;
sometimes P0:r = 1 /\ P1:s = 3
`, `cowlab three-stores
"three-stores"
map A 1 page shared
init A = 1
 P0 | P1 | P2 ;
 A[0] = 2 | A[0] = 3 | r = A[0] ;
sometimes P2:r = 2
`, `cowlab dontneed-and-store
"dontneed-and-store"
map A 1 page private
init A = 1
 P0 | P1 ;
 madvise A dontneed | A[0] = 2 ;
sometimes P0:A[0] = 2
`, `cowlab mprotect-and-load
"mprotect-and-load"
map A 1 page private
init A = 1
 P0 | P1 ;
 mprotect A none | r = A[0] ;
sometimes segv(P1)
`, `cowlab munmap-and-load
"munmap-and-load"
map A 1 page private
init A = 1
 P0 | P1 ;
 munmap A | r = A[0] ;
sometimes segv(P1)
`, `cowlab pin-and-store
"pin-and-store"
map A 1 page private
init A = 1
 P0 | P1 ;
 pin h A[0:4K] write fast | A[0] = 2 ;
never ~samepage(P0:A, h)
`, `cowlab device-and-load
"device-and-load"
map A 1 page private
init A = 1
 P0 | P1 | D device ;
 pin h A[0:4K] write fast | | ;
 @1 | @1 | @1 ;
 r = A[0] | s = A[512] | dma h[0:1K] = 5 ;
sometimes P0:r = 5 /\ P1:s = 1
`, `cowlab two-devices
"two-devices"
map A 1 page private
init A = 1
 P0 | D device | E device ;
 pin h A[0:4K] write fast | | ;
 @1 | @1 | @1 ;
 | dma h[0] = 5 | r = dma h[0] ;
 | dma h[512] = 6 | s = dma h[512] ;
sometimes E:r = 5 /\ E:s = 1
`, `cowlab first-touches
"first-touches"
map A 1 page private
 P0 | P1 ;
 A[0] = 2 | A[512] = 3 ;
never P0:A[0] = 0
`, `cowlab fork-and-load
"fork-and-load"
map A 1 page private
init A = 1
 P0 | P1 | C child ;
 fork C | r = A[0] | ;
never P1:r = 0
`}

// races are scenarios that ship, of few steps and several final states, and after how many
// schedules depth-first search gives up with all of them, and with those that are left by
// ExhaustOptions.Cut: it comes to an end with one or the other.
var races = map[string]struct{ full, cut uint64 }{
	"CoRR": {200, 0}, "CoRW": {200, 0}, "CoWW": {200, 0}, "LB": {200, 0}, "MP": {200, 0}, "R": {200, 0}, "WRW": {200, 0}, "WW": {200, 0},
	"two-stores": {200, 0}, "device-store": {8000, 0},
	"MP-device": {1, 6000}, "SB": {1, 1000}, "child-store": {1, 3000}, "munmap-pin": {1, 1000}, "protect-store": {1, 1000}, "two-devices": {1, 3000},
}

// TestReduceSeesWhatDFSSees runs every scenario that is small enough by depth-first search without
// reduction and by partial-order reduction: the final states must be the same. Where
// depth-first search comes to no end, every final state that it finds with few
// preemptions must be among those of reduction. The budget is -reduce; with 200 it takes minutes.
func TestReduceSeesWhatDFSSees(t *testing.T) {
	if race {
		t.Skip("the programs run one step at a time: no data race in them that other tests have not")
	}
	all, err := All()
	require.NoError(t, err)
	n := &compared{hosts: newHosts(t)}
	b := *reduceBudget
	for _, s := range all {
		if r, ok := races[s.Name]; ok {
			before := n.wholeStates + n.cutStates
			n.scenario(t, s, 300, r.full, r.cut)
			assert.Equal(t, before+1, n.wholeStates+n.cutStates, "%s is to be compared completely, and to have several final states", s.Name)
			continue
		}
		n.scenario(t, s, b, 8*b, 4*b)
	}
	b *= 9
	for _, text := range small {
		s, err := Parse("small", text)
		require.NoError(t, err)
		n.scenario(t, s, b, 8*b, 4*b)
	}
	t.Logf("compared with every schedule: %d, %d of them with more than one, %d with several final states; with all but those that come to where another has been: %d, %d with several final states; with some: %d; too large: %d; not comparable: %d",
		n.whole, n.several, n.wholeStates, n.cut, n.cutStates, n.part, n.large, n.unfit)
	assert.GreaterOrEqual(t, n.whole, 30)
	assert.GreaterOrEqual(t, n.several, 15)
	assert.GreaterOrEqual(t, n.wholeStates, 10)
	assert.GreaterOrEqual(t, n.cutStates, 6)
	assert.GreaterOrEqual(t, n.part, 8)
}

// compared counts the scenarios by how they were compared.
type compared struct {
	hosts                                   *kernel.Hosts
	whole, several, cut, part, large, unfit int
	wholeStates, cutStates                  int // of whole and cut: with several final states
}

// scenario compares: reduction is given so many schedules, depth-first search so many without
// anything left out, and so many with Cut.
func (n *compared) scenario(t *testing.T, s *Scenario, classes, all, cut uint64) {
	if !s.Reducible() {
		n.unfit++
		return
	}
	target := *s.Tuned(Tuning{Bare: true}).Target(policy.Lookup("stock"), n.hosts)
	r, err := explore.Reduce(context.Background(), target, explore.ReduceOptions{Schedules: classes})
	require.NoError(t, err, s.Name)
	switch {
	case r.Clocked > 0: // it computes for so long that time decides
		n.unfit++
		return
	case !r.Complete:
		n.large++
		return
	}
	dfs := func(o explore.ExhaustOptions) *explore.Exhausted {
		e, err := explore.Exhaust(context.Background(), target, o)
		require.NoError(t, err, s.Name)
		return e
	}
	full, how := dfs(explore.ExhaustOptions{Preemptions: 100, Schedules: all}), "all schedules"
	if full.Complete {
		n.whole++
		if full.Schedules > 1 {
			n.several++
		}
		if full.States > 1 {
			n.wholeStates++
		}
	} else if cut > 0 {
		if full = dfs(explore.ExhaustOptions{Preemptions: 100, Schedules: cut, Cut: true}); full.Complete {
			how = "cut"
			n.cut++
			if full.States > 1 {
				n.cutStates++
			}
		}
	}
	if !full.Complete {
		n.part++
		some := dfs(explore.ExhaustOptions{Preemptions: 2, Schedules: 3 * classes})
		assert.Subset(t, r.FinalStates(), some.FinalStates(), "%s: schedules with at most two preemptions", s.Name)
		assert.Subset(t, keys(r.ByVerdict), keys(some.ByVerdict), s.Name)
		t.Logf("%s: %d of many schedules, %d classes, %d final states", s.Name, some.Schedules, r.Classes, r.States)
		return
	}
	assert.Equal(t, full.FinalStates(), r.FinalStates(), s.Name)
	assert.Equal(t, keys(full.ByVerdict), keys(r.ByVerdict), s.Name)
	t.Logf("%s: %d schedules (%s), %d classes, %d final states: 1/%.0f", s.Name, full.Schedules, how, r.Classes, r.States,
		float64(full.Schedules)/float64(r.Schedules))
}
