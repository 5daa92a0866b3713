package spec

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// countedSwapIn is row 9 with the count where finding 40 misses it: do_swap_page asks as do_wp_page does.
type countedSwapIn struct{ policy.PinnedPTEs }

func (p countedSwapIn) Hooks() mm.HookSet       { return p.PinnedPTEs.Hooks() | mm.HookSwapIn }
func (p countedSwapIn) SwapIn(f *mm.Fault) bool { return policy.WPPageCountReuse{}.SwapIn(f) }

// TestCountAtSwapIn: the two random programs that showed finding 40, and its scenarios, show it
// under row 9 and not when do_swap_page counts references, too.
func TestCountAtSwapIn(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	leaks := func(p *Program, pol mm.Policy, n uint64) (found []int) {
		rep, err := explore.Search(context.Background(), *p.Target(pol, hosts), explore.Options{Schedules: n, Seed: 1})
		require.NoError(t, err)
		for _, w := range rep.Witnesses {
			if Broken(w.Verdict) {
				found = append(found, p.known(pol, hosts, &w))
			}
		}
		return found
	}
	for _, c := range []struct {
		program string
		seed    uint64
		after   bool
		n       uint64
	}{
		{"", 712239, false, 60},
		{"", 712255, true, 120},
		{"swap-in-pinned", 0, false, 10},
		{"swap-in-pinned", 0, true, 10},
		{"swap-in-spliced", 0, false, 10},
		{"swap-in-spliced", 0, true, 10},
	} {
		row := policy.PinnedPTEs{After: c.after}
		var p *Program
		if c.program == "" {
			var err error
			p, err = Random(c.seed)
			require.NoError(t, err)
		} else {
			s, err := scenarios.Lookup(c.program)
			require.NoError(t, err)
			p = bare(t, s)
		}
		assert.Equal(t, []int{40}, leaks(p, row, c.n), "%s under %s", p.Text.Name, row.Name())
		assert.Empty(t, leaks(p, countedSwapIn{row}, c.n), "%s under %s with the count at swap-in", p.Text.Name, row.Name())
	}
}

// TestDeeds: each deed is read from a run that does it, and not from one that does not.
func TestDeeds(t *testing.T) {
	const spliced = `P0 ;
vmsplice p A[0] ;
mprotect A r ;
mprotect A rw ;
A[0] = 2 ;`
	const nobody = `P0 ;
mprotect A r ;
mprotect A rw ;
A[0] = 2 ;
swapout A[0] ;
A[0] = 3 ;`
	const unmap = `P0 ;
pin h A[0:1K] write ;
swapout A[0] ;`
	for _, c := range []struct {
		program, policy string
		want            []deed
	}{
		{"swap-in-pinned", "pinned_ptes_after", []deed{cowCopies, swapInTakes}},
		{"swap-in-pinned", "wp_page_count_reuse", []deed{cowCopies}},
		{"mprotect-fork", "pg_gup", []deed{forkSharesRO, cowCopies}},
		{"mprotect-fork", "stock", []deed{forkSharesRO, cowCopies}},
		{"mprotect-fork", "pg_dontcow", []deed{forkSharesRO, cowTakes}}, // it un-shares the page again, so the store may
		{"S1", "stock", []deed{forkShares, cowCopies}},
		{"S1", "directio_sem", []deed{forkShares, cowCopies}}, // a driver's pin
		{unmap, "stock", []deed{reclaimUnmaps}},
		{unmap, "pinned_ptes_after", nil},
		{unmap, "pinned_ptes_before", nil},
		{spliced, "stock", []deed{cowTakes}},
		{nobody, "stock", nil},
	} {
		s, err := scenarios.Lookup(c.program)
		var p *Program
		if err == nil {
			p = bare(t, s)
		} else {
			p = parse(t, c.program)
		}
		got := deeds(p.Target(policy.Lookup(c.policy), nil), explore.Spec{Kind: explore.KindSwitches})
		assert.ElementsMatch(t, c.want, got, "%s under %s", c.program, c.policy)
	}
}

// TestKnownAsksForDeeds: a leak in a program with reclaim, a fork and read-only memory is finding 30 or 40 by
// what the kernel did, and new if it did neither.
func TestKnownAsksForDeeds(t *testing.T) {
	has := []string{"disk write", "fork", "mprotect r", "pin read", "pin write", "swapout"}
	for _, c := range []struct {
		policy, verdict string
		did             []deed
		want            int
	}{
		{"pinned_ptes_before", "leak-to-child", []deed{forkSharesRO}, 30},
		{"pinned_ptes_before", "leak-to-child", []deed{cowCopies, swapInTakes}, 40},
		{"pinned_ptes_after", "leak-to-child", []deed{swapInTakes}, 40},
		{"pinned_ptes_after", "leak-to-child", []deed{cowTakes}, 0},
		{"pinned_ptes_after", "leak-to-child", nil, 0},
		{"pinned_ptes_before", "lost-read", []deed{cowCopies}, 17},
		{"pinned_ptes_before", "lost-read", []deed{reclaimUnmaps}, 18},
		{"pinned_ptes_after", "lost-read", []deed{reclaimUnmaps}, 0},
		{"pg_gup", "leak-to-child", []deed{swapInTakes}, 0},
		{"wp_page_count_noswap_fixed", "leak-to-child", []deed{swapInTakes}, 0}, // it promises direct I/O only
		{"wp_page_count_noswap_fixed", "leak-to-disk", []deed{swapInTakes}, 40},
	} {
		assert.Equal(t, c.want, Known(c.policy, c.verdict, has, func() []deed { return c.did }), "%s: %s, %v", c.policy, c.verdict, c.did)
	}
	plain := []string{"disk write", "fork", "store"}
	assert.Equal(t, 22, Known("directed_cow", "stale-write", plain, func() []deed { return []deed{cowTakes} }))
	assert.Zero(t, Known("directed_cow", "stale-write", plain, func() []deed { return []deed{cowCopies} }))
	assert.Equal(t, 19, Known("dio_range_lock", "stale-write", plain, func() []deed { return []deed{cowTakes} }))
	assert.Zero(t, Known("dio_range_lock_fixed", "stale-write", plain, func() []deed { return []deed{cowTakes} }))
}

// TestKnownTellsFailedForks: pg_dontcow's assertion is finding 37 where a fork that finds no memory has shared a
// pinned page, and 23 where reclaim has unmapped it before, whether or not an allocation was to fail.
func TestKnownTellsFailedForks(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	row := policy.Lookup("pg_dontcow")
	for _, c := range []struct {
		program string
		fails   bool
		want    int
	}{
		{"fork-nomem-store", false, 37},
		{"swap-before-fork", false, 23},
		{"swap-before-fork", true, 23},
	} {
		s, err := scenarios.Lookup(c.program)
		require.NoError(t, err)
		if c.fails {
			from, err := scenarios.Lookup("fork-nomem-store")
			require.NoError(t, err)
			s = s.With(func(c *scenarios.Scenario) { c.Fails = from.Fails })
		}
		p := bare(t, s)
		rep, err := explore.Search(context.Background(), *p.Target(row, hosts), explore.Options{Schedules: 400, Seed: 1, StopAtFirst: true, Bad: Broken})
		require.NoError(t, err)
		i := slices.IndexFunc(rep.Witnesses, func(w explore.Witness) bool { return Broken(w.Verdict) })
		if assert.GreaterOrEqual(t, i, 0, "%s: %v", c.program, rep.ByVerdict) {
			w := &rep.Witnesses[i]
			assert.Contains(t, w.Verdict, reuseAsserted)
			assert.Equal(t, c.want, p.known(row, hosts, w), "%s: %s", c.program, w.Detail)
		}
	}
}

// countedNoSwap is row 8 with the count at swap-in. What it embeds has to be the row: an mm.Policy would
// not have what package fs asks of a policy.
type countedNoSwap struct{ policy.WPPageCountNoSwap }

func (p countedNoSwap) Hooks() mm.HookSet       { return p.WPPageCountNoSwap.Hooks() | mm.HookSwapIn }
func (p countedNoSwap) SwapIn(f *mm.Fault) bool { return policy.WPPageCountReuse{}.SwapIn(f) }

// TestCountAtSwapInOfDirectWrite: row 8 as it is meant has finding 40 by O_DIRECT, which it
// promises: the child's store is in the parent's file.
func TestCountAtSwapInOfDirectWrite(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	s, err := scenarios.Parse("direct", `cowlab direct
"a direct write of a page that fork shared in swap, and a store of each side"
machine disk=4K swap=64K
map A 1 page private
init A = 1

 P0                   | P1       | C child  ;
 swapout A[0]         | await s  | await s  ;
 fork C               | A[0] = 2 | A[0] = 3 ;
 set s                |          |          ;
 pwrite A[0:512] at 0 |          |          ;

never bug
`)
	require.NoError(t, err)
	p, err := NewProgram(s)
	require.NoError(t, err)
	row := policy.WPPageCountNoSwap{Fixed: true}
	o := explore.Options{Schedules: 2500, Seed: 1, StopAtFirst: true, Bad: Broken}
	rep, err := explore.Search(context.Background(), *p.Target(row, hosts), o)
	require.NoError(t, err)
	w := rep.Witness(string(LeakToDisk))
	require.NotNil(t, w, "%v", rep.ByVerdict)
	assert.Contains(t, w.Detail, "disk[0] is 0x3")
	assert.Equal(t, 40, p.known(row, hosts, w))
	t.Logf("schedule %d", rep.Schedules)
	o.Schedules = min(2*rep.Schedules, o.Schedules)
	rep, err = explore.Search(context.Background(), *p.Target(countedNoSwap{row}, hosts), o)
	require.NoError(t, err)
	assert.Equal(t, o.Schedules, rep.ByVerdict[explore.Safe], "%v", rep.ByVerdict)
}
