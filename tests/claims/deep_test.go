package claims

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// texts are what the evidence says.
func texts(s Settled) (all []string) {
	for _, e := range s.Evidence {
		all = append(all, e.Text)
	}
	return all
}

// settleOne runs one claim.
func settleOne(t *testing.T, c Claim, o Options) Settled {
	t.Helper()
	out, err := Run(t.Context(), []Claim{c}, o, nil)
	require.NoError(t, err)
	require.Len(t, out, 1)
	require.Empty(t, out[0].Error)
	return out[0]
}

// TestDeepIsExhaustive: with Deep, searches that no sample answers run every schedule with at most two
// preemptions, and claims say so with the counts that such a search has on its own.
func TestDeepIsExhaustive(t *testing.T) {
	if underRace {
		t.Skip("one task at a time: the race detector has nothing to see")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	all := func(t *testing.T, target *explore.Target, cut bool) *explore.Exhausted {
		t.Helper()
		r, err := explore.Exhaust(t.Context(), *target, explore.ExhaustOptions{Preemptions: 2, Cut: cut})
		require.NoError(t, err)
		require.True(t, r.Complete)
		require.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		return r
	}
	o := Options{Schedules: 50, Deep: true}

	s := settleOne(t, *Lookup("C29"), o)
	l := newLab(t.Context(), Options{}, hosts)
	told := all(t, l.small("stock", "user_ways", "way=1"), true)
	require.NotZero(t, told.Merged)
	assert.Equal(t, Confirmed, s.Verdict)
	assert.Contains(t, texts(s), fmt.Sprintf("stock on user_ways way=1: nothing in 50 schedules and in all %d schedules with at most 2 preemptions, %d of them cut, %d classes",
		told.Schedules, told.Merged, told.Classes))
	assert.Equal(t, fmt.Sprintf("searches: 2 answered by a schedule, 1 exhaustive to 2 preemptions; %d schedules, %d equivalence classes told apart",
		told.Schedules+3*50, told.Classes), s.Bound, "what a sample shows needs no more")

	s = settleOne(t, *Lookup("C15"), o)
	assert.Equal(t, Depends, s.Verdict)
	assert.Contains(t, texts(s), "stock on swap-load-first: nothing in 50 schedules and in all 1 schedules with at most 2 preemptions")
	assert.Contains(t, s.Bound, "searches: 2 answered by a schedule, 2 exhaustive to 2 preemptions; ")

	target, err := target("swapout-plain", policy.Lookup("pg_gup"), hosts)
	require.NoError(t, err)
	plain := all(t, judged(*target, workload.LostRead), false)
	s = settleOne(t, neverLost, o)
	assert.Equal(t, Refuted, s.Verdict, "no schedule of all within the bound shows it")
	assert.Equal(t, []string{fmt.Sprintf("pg_gup on swapout-plain: nothing in 50 schedules and in all %d schedules with at most 2 preemptions", plain.Schedules)}, texts(s))
}

// TestDeepSaysWhichSearchDecided: where a sample follows a search in order that has answered
// nothing, what is said is how far that one came.
func TestDeepSaysWhichSearchDecided(t *testing.T) {
	inOrder := Claim{ID: "C999", Settle: func(l *Lab) Result {
		r := l.AskAll(workload.LostRead, "pg_gup", "swapout-plain")
		return Result{Verdict: Settle(r.Shows(workload.LostRead)), Evidence: Evidences(r)}
	}}
	s := settleOne(t, inOrder, Options{Schedules: 5, Deep: true})
	assert.Contains(t, s.Bound, "searches: 1 exhaustive to 2 preemptions; ")
	s = settleOne(t, inOrder, Options{Schedules: 5, Deep: true, Limit: 3})
	assert.Contains(t, s.Bound, "searches: 1 not ended within 3 schedules; 8 schedules")
	assert.Equal(t, NotFound, s.Verdict)
	lost := Claim{ID: "C998", Settle: func(l *Lab) Result {
		r := l.AskAll(workload.LostRead, "wp_page_count_noswap_fixed", "swap-cached-pin")
		return Result{Verdict: Settle(r.Shows(workload.LostRead)), Evidence: Evidences(r)}
	}}
	s = settleOne(t, lost, Options{Schedules: 80})
	assert.Equal(t, Confirmed, s.Verdict, "what no schedule with few preemptions shows, because a disk has to come early, a sample does: %s", s.detail())
}

// neverLost is a claim that is wrong, in a program with few schedules.
var neverLost = Claim{ID: "C999", Settle: func(l *Lab) Result {
	r := l.Ask(workload.LostRead, "pg_gup", "swapout-plain")
	return Result{Verdict: Settle(r.Shows(workload.LostRead)), Evidence: Evidences(r)}
}}

// TestDeepThatIsCutSaysSo: a search that comes to its limit is not exhaustive, refutes nothing, and says how
// far it came and what is left.
func TestDeepThatIsCutSaysSo(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	target, err := target("swapout-plain", policy.Lookup("pg_gup"), hosts)
	require.NoError(t, err)
	with := func(preemptions int, bound uint64) *explore.Exhausted {
		r, err := explore.Exhaust(t.Context(), *target, explore.ExhaustOptions{Preemptions: preemptions, Schedules: bound})
		require.NoError(t, err)
		return r
	}
	few := with(1, 0).Schedules
	limit := few + 1
	left := with(2, limit).Left
	require.NotZero(t, left)
	s := settleOne(t, neverLost, Options{Schedules: 5, Deep: true, Limit: limit})
	assert.Equal(t, NotFound, s.Verdict)
	assert.Equal(t, []string{fmt.Sprintf("pg_gup on swapout-plain: nothing in 5 schedules and in %d schedules: "+
		"all %d with at most 1 preemption, and the first 1 with 2 preemptions, not ended: at least %d are left", limit, few, left)}, texts(s))
	assert.Equal(t, fmt.Sprintf("searches: 1 not ended within %d schedules; %d schedules", limit, 5+limit), s.Bound)
	assert.Equal(t, s.Bound, s.On)

	slow := Claim{ID: "C999", Settle: func(l *Lab) Result {
		r := l.ask(workload.LostRead, "pg_gup", "swapout-plain", effort{slow: true})
		return Result{Verdict: Settle(r.Shows(workload.LostRead)), Evidence: Evidences(r)}
	}}
	s = settleOne(t, slow, Options{Schedules: 5, Deep: true, Limit: 30})
	assert.Equal(t, "searches: 1 not ended within 3 schedules; 8 schedules", s.Bound, "a tenth")

	s = settleOne(t, *Lookup("C29"), Options{Schedules: 50, Deep: true, Limit: 40})
	assert.Equal(t, Confirmed, s.Verdict)
	assert.Contains(t, s.Bound, "searches: 2 answered by a schedule, 1 not ended within 40 schedules; ")
}
