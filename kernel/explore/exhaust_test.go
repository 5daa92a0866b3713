package explore_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

func exhaust(t *testing.T, target explore.Target, o explore.ExhaustOptions) *explore.Exhausted {
	t.Helper()
	r, err := explore.Exhaust(context.Background(), target, o)
	require.NoError(t, err)
	return r
}

func TestExhaustDecides(t *testing.T) {
	y := newToys()
	none := exhaust(t, y.counter(2, 0, false), explore.ExhaustOptions{})
	assert.True(t, none.Complete)
	assert.Equal(t, none.Schedules, none.ByVerdict[explore.Safe], "without a preemption nothing is lost")
	one := exhaust(t, y.counter(2, 0, false), explore.ExhaustOptions{Preemptions: 1})
	assert.NotZero(t, one.ByVerdict["lost-update"], "%v", one.ByVerdict)
	locked := exhaust(t, y.counter(2, 0, true), explore.ExhaustOptions{Preemptions: 2})
	assert.True(t, locked.Complete)
	assert.Equal(t, locked.Schedules, locked.ByVerdict[explore.Safe])
	assert.Greater(t, locked.Schedules, one.Schedules)
}

func TestExhaustFindsDeadlock(t *testing.T) {
	y := newToys()
	assert.NotZero(t, exhaust(t, y.abba(true), explore.ExhaustOptions{Preemptions: 1}).ByVerdict["deadlock"])
	right := exhaust(t, y.abba(false), explore.ExhaustOptions{Preemptions: 2})
	assert.Equal(t, right.Schedules, right.ByVerdict[explore.Safe])
}

// TestExhaustRunsEachScheduleOnce looks at the decisions of every schedule: no two may be
// the same, and the number of workers must not matter.
func TestExhaustRunsEachScheduleOnce(t *testing.T) {
	y := newToys()
	target := y.counter(2, 0, false)
	for _, workers := range []int{1, 3} {
		seen := map[uint64]int{}
		inner := target.Run
		watched := target
		var lock sync.Mutex
		watched.Run = func(s sched.Strategy, o sched.Observer) explore.Observation {
			rec := explore.NewRecorder(s)
			obs := inner(rec, o)
			lock.Lock()
			seen[rec.Recording().Hash()]++
			lock.Unlock()
			return obs
		}
		r := exhaust(t, watched, explore.ExhaustOptions{Preemptions: 2, Workers: workers, Schedules: 20_000})
		assert.True(t, r.Complete)
		assert.EqualValues(t, r.Schedules, len(seen))
	}
	a := exhaust(t, target, explore.ExhaustOptions{Preemptions: 2, Workers: 1})
	b := exhaust(t, target, explore.ExhaustOptions{Preemptions: 2, Workers: 3})
	assert.Equal(t, a.ByVerdict, b.ByVerdict)
	assert.Equal(t, a.Witnesses, b.Witnesses)
}

func TestExhaustBounds(t *testing.T) {
	y := newToys()
	r := exhaust(t, y.counter(2, 0, false), explore.ExhaustOptions{Preemptions: 2, Schedules: 10})
	assert.False(t, r.Complete)
	assert.EqualValues(t, 10, r.Schedules)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, err := explore.Exhaust(ctx, y.counter(2, 0, false), explore.ExhaustOptions{Preemptions: 2})
	require.NoError(t, err)
	assert.True(t, r.Interrupted)
	assert.False(t, r.Complete)
	_, err = explore.Exhaust(ctx, explore.Target{}, explore.ExhaustOptions{Preemptions: -1})
	assert.ErrorContains(t, err, "Preemptions")
}

// TestExhaustSaysHowFarItCame: how many preemptions all schedules have been run for, and how many of
// the others are known, wherever the bound of schedules falls; and it ends between two numbers of
// preemptions if what there is is enough.
func TestExhaustSaysHowFarItCame(t *testing.T) {
	y := newToys()
	target := y.counter(2, 0, false)
	var within [3]uint64
	for k := range within {
		r := exhaust(t, target, explore.ExhaustOptions{Preemptions: k})
		assert.Equal(t, k, r.Through)
		assert.Equal(t, r.Schedules, r.Within)
		assert.Zero(t, r.Left)
		within[k] = r.Schedules
	}
	for _, c := range []struct {
		bound   uint64
		through int
	}{{within[0] - 1, -1}, {within[0], 0}, {within[1] - 1, 0}, {within[1], 1}, {within[2] - 1, 1}, {within[2], 2}} {
		r := exhaust(t, target, explore.ExhaustOptions{Preemptions: 2, Schedules: c.bound})
		assert.Equal(t, c.bound, r.Schedules)
		assert.Equal(t, c.through, r.Through, "%d schedules", c.bound)
		assert.Equal(t, c.through == 2, r.Complete, "%d schedules", c.bound)
		assert.Equal(t, c.through == 2, r.Left == 0, "%d schedules", c.bound)
		if c.through >= 0 {
			assert.Equal(t, within[c.through], r.Within, "%d schedules", c.bound)
		}
	}
	for _, workers := range []int{1, 3} {
		r := exhaust(t, target, explore.ExhaustOptions{Preemptions: 2, Workers: workers, Enough: func(r *explore.Exhausted) bool { return r.Through == 1 }})
		assert.False(t, r.Complete)
		assert.Equal(t, within[1], r.Schedules)
	}
	all := exhaust(t, target, explore.ExhaustOptions{Preemptions: 2, Enough: func(r *explore.Exhausted) bool { return r.Through == 2 }})
	assert.True(t, all.Complete, "what is through is not cut")
}

// TestExhaustGivesUp: where the schedules are too many it takes the few without preemptions to
// know it, and where they are just enough it gives nothing up. Workers have no say.
func TestExhaustGivesUp(t *testing.T) {
	y := newToys()
	all := exhaust(t, y.counter(2, 0, false), explore.ExhaustOptions{Preemptions: 1})
	for _, workers := range []int{1, 3} {
		o := explore.ExhaustOptions{Preemptions: 1, GiveUp: true, Schedules: all.Schedules, Workers: workers}
		r := exhaust(t, y.counter(2, 0, false), o)
		assert.True(t, r.Complete)
		assert.Equal(t, all.Schedules, r.Schedules)
		o.Schedules--
		r = exhaust(t, y.counter(2, 0, false), o)
		assert.False(t, r.Complete)
		assert.False(t, r.Interrupted)
		assert.Less(t, r.Schedules, all.Schedules/2)
	}
}

// TestExhaustWitnessReplays runs the witness of a search by its token.
func TestExhaustWitnessReplays(t *testing.T) {
	y := newToys()
	target := y.counter(2, 0, false)
	w := exhaust(t, target, explore.ExhaustOptions{Preemptions: 1}).FirstBad()
	require.NotNil(t, w)
	tok, err := explore.ParseToken(w.Token.String())
	require.NoError(t, err)
	assert.Len(t, tok.Spec.Switches, 1)
	obs := target.Run(tok.Spec.Strategy(), nil)
	assert.Equal(t, w.Verdict, obs.Verdict)
	assert.Equal(t, w.State, obs.State)
}

// TestExhaustCountsClasses: with a bound that leaves nothing out, depth-first search meets the classes that
// the reduction runs one schedule of each of, cut or not.
func TestExhaustCountsClasses(t *testing.T) {
	y := newToys()
	for _, tasks := range [][]string{{"r0w1", "w0r1"}, {"a0a1", "a1a0", "r0"}} {
		target := y.words(tasks...)
		classes := reduce(t, target, explore.ReduceOptions{}).Classes
		all := exhaust(t, target, explore.ExhaustOptions{Preemptions: 30, Cut: true})
		require.True(t, all.Complete)
		assert.Greater(t, classes, uint64(1))
		assert.Equal(t, classes, all.Classes, "%v", tasks)
		few := exhaust(t, target, explore.ExhaustOptions{Preemptions: 0, Cut: true})
		assert.Less(t, few.Classes, classes, "%v", tasks)
		assert.Zero(t, exhaust(t, target, explore.ExhaustOptions{Preemptions: 0}).Classes, "not counted without Cut")
	}
	locked := y.words("l0a1u0", "l0r1u0w2")
	assert.EqualValues(t, 2, reduce(t, locked, explore.ReduceOptions{}).Classes)
	assert.EqualValues(t, 4, exhaust(t, locked, explore.ExhaustOptions{Preemptions: 30, Cut: true}).Classes, "with and without a look at the lock that is held")
}
