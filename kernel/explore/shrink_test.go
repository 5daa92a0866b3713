package explore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

func TestShrinkLeavesTheFewestSwitches(t *testing.T) {
	y := newToys()
	for _, c := range []struct {
		target  explore.Target
		verdict string
		want    int
	}{
		{y.counter(1, 200, false), "lost-update", 1}, // stop one adder between load and store
		{y.counter(5, 20, false), "lost-update", 1},
		{y.abba(true), "deadlock", 1}, // stop one taker between its locks
		{y.read(false), "lost-read", 0},
	} {
		for seed := range uint64(5) {
			r := search(t, c.target, explore.Options{Schedules: 2000, Seed: seed, StopAtFirst: true})
			w := r.Witness(c.verdict)
			require.NotNil(t, w)
			s, err := explore.Shrink(context.Background(), c.target, w.Spec, explore.ShrinkOptions{})
			require.NoError(t, err)
			assert.Equal(t, c.want, s.After.Departures, "%s from %v: %v", c.target.Name, s.Before, s.Spec.Switches)
			assert.Len(t, s.Spec.Switches, s.After.Departures)
			assert.Equal(t, c.verdict, s.Observation.Verdict)
			assert.True(t, s.Complete)
			assert.LessOrEqual(t, s.Runs, 5000)

			text := s.Token.String()
			assert.Less(t, len(text), 60)
			tok, err := explore.ParseToken(text)
			require.NoError(t, err)
			obs, rec := explore.Record(c.target, tok.Spec.Strategy())
			assert.Equal(t, c.verdict, obs.Verdict)
			assert.Equal(t, s.Observation.State, obs.State)
			assert.Equal(t, s.Recording.Hash(), rec.Hash())
		}
	}
}

// A target that can do less is made to do the least that shows the finding, with no more
// switches; the token names that one.
func TestShrinkTakesTheLeastProgram(t *testing.T) {
	y := newToys()
	target := y.shrinkable(4, 3)
	for seed := range uint64(2) {
		r := search(t, target, explore.Options{Schedules: 2000, Seed: seed, StopAtFirst: true})
		s, err := explore.Shrink(context.Background(), target, r.Witness("lost-update").Spec, explore.ShrinkOptions{})
		require.NoError(t, err)
		assert.Equal(t, []explore.Param{{Key: "n", Value: "1"}, {Key: "noise", Value: "0"}}, s.Target.Params)
		assert.Positive(t, s.Smaller)
		assert.Equal(t, 1, s.After.Departures)
		assert.Equal(t, s.Target.Params, s.Token.Params)
		assert.LessOrEqual(t, s.Runs, 10_000)
		obs, _ := explore.Record(s.Target, s.Token.Spec.Strategy())
		assert.Equal(t, "lost-update", obs.Verdict)
		assert.Equal(t, s.Observation.State, obs.State)
	}
	// What does not show it is not taken, and neither is what needs more switches.
	fixed := target
	fixed.Smaller = func() []explore.Target { return []explore.Target{y.counter(4, 3, true)} }
	s, err := explore.Shrink(context.Background(), fixed, found(t, fixed, "lost-update").Spec, explore.ShrinkOptions{Runs: 600})
	require.NoError(t, err)
	assert.Zero(t, s.Smaller)
	assert.Equal(t, fixed.Params, s.Target.Params)
	harder := y.read(false) // goes wrong without any switch
	harder.Smaller = func() []explore.Target {
		c := y.counter(1, 2, false)
		inner := c.Run
		c.Run = func(s sched.Strategy, o sched.Observer) explore.Observation {
			obs := inner(s, o)
			if obs.Verdict == "lost-update" {
				obs.Verdict = "lost-read"
			}
			return obs
		}
		return []explore.Target{c}
	}
	s, err = explore.Shrink(context.Background(), harder, found(t, harder, "lost-read").Spec, explore.ShrinkOptions{Runs: 600})
	require.NoError(t, err)
	assert.Zero(t, s.Smaller, "one switch is more than none")
	assert.Equal(t, "read", s.Token.Target)
}

// shrinkable is a counter that knows how to count less.
func (y *toys) shrinkable(n, noise int) explore.Target {
	t := y.counter(n, noise, false)
	t.Params = []explore.Param{{Key: "n", Value: fmt.Sprint(n)}, {Key: "noise", Value: fmt.Sprint(noise)}}
	t.Smaller = func() []explore.Target {
		var less []explore.Target
		if n > 1 {
			less = append(less, y.shrinkable(n/2, noise), y.shrinkable(n-1, noise))
		}
		if noise > 0 {
			less = append(less, y.shrinkable(n, noise/2))
		}
		return less
	}
	return t
}

func TestShrinkWithoutTheSweep(t *testing.T) {
	y := newToys()
	target := y.counter(5, 20, false)
	w := found(t, target, "lost-update")
	s, err := explore.Shrink(context.Background(), target, w.Spec, explore.ShrinkOptions{Runs: 150})
	require.NoError(t, err)
	assert.LessOrEqual(t, s.After.Departures, 3, "%v", s.Spec.Switches)
	assert.Less(t, s.After.Departures, s.Before.Departures)
	assert.LessOrEqual(t, s.Runs, 150)
}

func TestShrinkKeepsWhatTheCallerAsksFor(t *testing.T) {
	y := newToys()
	target := y.counter(3, 1, false)
	worst := func(o explore.Observation) bool { return o.Detail == "counter is 2, not 6" }
	for i := range uint64(30_000) {
		spec := explore.Spec{Kind: explore.KindRandom, Seed: i}
		obs, _ := explore.Record(target, spec.Strategy())
		if !worst(obs) {
			continue
		}
		s, err := explore.Shrink(context.Background(), target, spec, explore.ShrinkOptions{Same: worst, Runs: 1200})
		require.NoError(t, err)
		assert.True(t, worst(s.Observation))
		// Four will do: one adder is stopped between load and store, the other
		// before its last load, and the same again.
		assert.GreaterOrEqual(t, s.After.Departures, 4)
		assert.LessOrEqual(t, s.After.Departures, 5, "%v", s.Spec.Switches)
		return
	}
	t.Fatal("no schedule leaves 2")
}

func TestShrinkRefuses(t *testing.T) {
	y := newToys()
	target := y.counter(1, 4, true)
	_, err := explore.Shrink(context.Background(), target, explore.Spec{Kind: explore.KindRandom},
		explore.ShrinkOptions{Same: func(o explore.Observation) bool { return o.Verdict != explore.Safe }})
	assert.ErrorContains(t, err, `the schedule's verdict is "safe"`)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = explore.Shrink(ctx, target, explore.Spec{Kind: explore.KindRandom}, explore.ShrinkOptions{})
	assert.ErrorIs(t, err, context.Canceled)
}
