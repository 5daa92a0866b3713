package scenarios

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
)

const pinForkStore = `cowlab pin-fork-store
"S1; a page may be reclaimed at any moment"

machine reclaim=1
map A 1 page private
init A = 1

 P0                 | C child | D device          ;
 pin h A write fast pin |    |                   ;
 fork C             |         |                   ;
 A[0] = 2           |         |                   ;
 @1                 |         | @1                ;
                    |         | dma h[512] = 0x64 ;

never P0:A[512] != 0x64
`

// TestMachineWithReclaim: the head of a scenario can say that pages may be reclaimed; S1 under
// pg_gup is finding 23 then, and is nothing without. As a tuning it is part of tokens.
func TestMachineWithReclaim(t *testing.T) {
	hosts := newHosts(t)
	s, err := Parse("reclaim", pinForkStore)
	require.NoError(t, err)
	assert.Equal(t, int64(1), s.Machine.Reclaim)
	assert.Contains(t, s.Print(), "\nmachine reclaim=1\n")
	lost := func(s *Scenario, pol string) (bad, bug bool) {
		r, err := explore.Search(context.Background(), *s.Judged(s.Target(policy.Lookup(pol), hosts)), explore.Options{Schedules: 300, Seed: 1})
		require.NoError(t, err)
		for v := range r.ByVerdict {
			bug = bug || strings.Contains(v, "bug")
			bad = bad || IsState(v) && s.Wrong(v) && !strings.Contains(v, "bug")
		}
		return bad, bug
	}
	bad, bug := lost(s, "pg_gup")
	assert.True(t, bad, "finding 23")
	assert.True(t, bug, "finding 25")
	bad, bug = lost(s, "dio_pin")
	assert.False(t, bad || bug, "dio_pin")
	plain, err := Parse("plain", strings.Replace(pinForkStore, "machine reclaim=1\n", "", 1))
	require.NoError(t, err)
	bad, bug = lost(plain, "pg_gup")
	assert.False(t, bad || bug, "without reclaim")
	tuned := plain.Tuned(Tuning{Reclaim: 1})
	bad, _ = lost(tuned, "pg_gup")
	assert.True(t, bad, "as a tuning")
	target := tuned.Target(policy.Lookup("pg_gup"), hosts)
	assert.Contains(t, target.Token(explore.Spec{Kind: explore.KindRandom}).String(), "~reclaim~1.")
	_, err = Parse("reclaim", strings.Replace(pinForkStore, "reclaim=1", "reclaim=4", 1))
	assert.ErrorContains(t, err, "reclaim is 4, expected 1 to 3")
	_, err = ParseTuning("reclaim=4")
	assert.ErrorContains(t, err, "reclaim is 4, must be 0 to 3")
}

// TestReduceWithReclaim: partial-order reduction and depth-first search come to the same final
// states where a page may be reclaimed; where there are too many schedules, those with few preemptions
// show none that reduction has not.
func TestReduceWithReclaim(t *testing.T) {
	if race {
		t.Skip("the programs run one step at a time: no data race in them that other tests have not")
	}
	hosts := newHosts(t)
	for _, c := range []struct {
		pol, text string
		whole     bool // depth-first search, with cuts, comes to an end
	}{
		{"stock", " P0 ;\n pin h A write fast ;\n", true},
		{"pg_gup", " P0 ;\n pin h A write fast ;\n", false},
		{"stock", " P0 | D device ;\n pin h A write fast | ;\n @1 | @1 ;\n | dma h[0] = 5 ;\n", false},
	} {
		if len(c.text) > 60 && *reduceBudget < 50 {
			continue // it takes seconds
		}
		s, err := Parse("small", "cowlab small\n\"small\"\nmap A 1 page private\ninit A = 1\n"+c.text+"sometimes swapped(P0:A)\n")
		require.NoError(t, err)
		target := *s.Tuned(Tuning{Bare: true, Reclaim: 1}).Target(policy.Lookup(c.pol), hosts)
		r, err := explore.Reduce(context.Background(), target, explore.ReduceOptions{Schedules: 4000})
		require.NoError(t, err)
		require.True(t, r.Complete)
		assert.Zero(t, r.Clocked)
		assert.Equal(t, 2, r.States, "reclaimed or not")
		o := explore.ExhaustOptions{Preemptions: 2, Schedules: 600}
		if c.whole {
			o = explore.ExhaustOptions{Preemptions: 100, Schedules: 6000, Cut: true}
		}
		e, err := explore.Exhaust(context.Background(), target, o)
		require.NoError(t, err)
		if c.whole {
			require.True(t, e.Complete)
			assert.Equal(t, e.FinalStates(), r.FinalStates())
			assert.Equal(t, keys(e.ByVerdict), keys(r.ByVerdict))
		}
		assert.Subset(t, r.FinalStates(), e.FinalStates())
		assert.Subset(t, keys(r.ByVerdict), keys(e.ByVerdict))
		t.Logf("%s: %d classes, %d final states; %d schedules by depth-first search, all of them: %v", c.pol, r.Classes, r.States, e.Schedules, e.Complete)
	}
}

// TestReduceKnowsWhatReclaimReads: reclaim races with who frees the page, and which of two pages is
// reclaimed, if only one may be, is decided by the order of their events.
func TestReduceKnowsWhatReclaimReads(t *testing.T) {
	hosts := newHosts(t)
	reduce := func(text string, schedules uint64) *explore.Reduced {
		s, err := Parse("small", "cowlab small\n\"small\"\n"+text+"sometimes swapped(P0:A)\n")
		require.NoError(t, err)
		target := *s.Tuned(Tuning{Bare: true, Reclaim: 1}).Target(policy.Lookup("stock"), hosts)
		r, err := explore.Reduce(context.Background(), target, explore.ReduceOptions{Schedules: schedules})
		require.NoError(t, err)
		return r
	}
	assert.Greater(t, reduce("map A 1 page private\ninit A = 1\n P0 ;\n madvise A dontneed ;\n", 40).Classes, uint64(20))
	r := reduce("map A 2 pages private\ninit A = 1\n P0 ;\n pin h A[0:4K] write fast ;\n", 1000)
	assert.Equal(t, 3, r.States, "neither, the one, the other")
}
