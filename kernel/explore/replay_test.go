package explore_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// found searches for a verdict and returns its first witness.
func found(t testing.TB, target explore.Target, verdict string) *explore.Witness {
	t.Helper()
	r := search(t, target, explore.Options{Schedules: 2000, Seed: 3})
	w := r.Witness(verdict)
	require.NotNil(t, w, "%v", r.ByVerdict)
	return w
}

func TestTokensReplayExactly(t *testing.T) {
	y := newToys()
	for _, target := range []explore.Target{y.counter(1, 10, false), y.abba(true), y.read(false)} {
		r := search(t, target, explore.Options{Schedules: 300})
		for _, w := range r.Witnesses {
			text := w.Token.String()
			tok, err := explore.ParseToken(text)
			require.NoError(t, err)
			assert.Equal(t, target.Name, tok.Target)
			first, path := explore.Record(target, tok.Spec.Strategy())
			for range 1000 {
				obs, rec := explore.Record(target, tok.Spec.Strategy())
				require.Equal(t, w.State, obs.State, text)
				require.Equal(t, w.Verdict, obs.Verdict)
				require.Equal(t, first.Steps, obs.Steps)
				require.Equal(t, path.Hash(), rec.Hash())
			}
		}
	}
}

func TestRecordingsReplayExactly(t *testing.T) {
	y := newToys()
	target := y.read(false)
	w := found(t, target, "lost-read")
	_, rec := explore.Record(target, w.Spec.Strategy())
	for range 1000 {
		obs, err := explore.Replay(target, rec)
		require.NoError(t, err)
		require.Equal(t, w.State, obs.State)
		require.Equal(t, w.Steps, obs.Steps)
	}
}

func TestSwitchesAreTheSameSchedule(t *testing.T) {
	y := newToys()
	for _, target := range []explore.Target{y.counter(3, 10, false), y.abba(true), y.read(false), y.counter(2, 5, true)} {
		r := search(t, target, explore.Options{Schedules: 20})
		require.NotEmpty(t, r.Witnesses)
		for seed := range uint64(50) {
			obs, rec := explore.Record(target, sched.NewRandom(seed))
			again, rec2 := explore.Record(target, explore.Spec{Kind: explore.KindSwitches, Switches: rec.Switches()}.Strategy())
			require.Equal(t, obs.State, again.State)
			require.Equal(t, rec.Decisions, rec2.Decisions)
			require.Equal(t, rec.Cost(), rec2.Cost())
			require.Equal(t, len(rec.Switches()), rec.Cost().Departures)
		}
	}
}

func TestDivergenceShowsBothSides(t *testing.T) {
	y := newToys()
	_, rec := explore.Record(y.counter(1, 3, true), sched.NewRandom(9))

	// The lock is gone.
	_, err := explore.Replay(y.counter(1, 3, false), rec)
	var d *explore.Divergence
	require.True(t, errors.As(err, &d), "%v", err)
	require.True(t, d.HaveWant)
	assert.Equal(t, "lock", d.Want.Op.String())
	assert.Len(t, d.Before, 3)
	text := err.Error()
	assert.Contains(t, text, "replay diverges at decision")
	assert.Contains(t, text, "both:     cpu")
	assert.Contains(t, text, "recorded: cpu")
	assert.Contains(t, text, ": lock none 1")
	assert.Contains(t, text, "program:  cpu")
	assert.Contains(t, text, ": read word 2")

	// The program does more than was recorded.
	_, err = explore.Replay(y.counter(2, 3, true), rec)
	require.True(t, errors.As(err, &d))
	assert.NotEmpty(t, d.Enabled)

	// Only a part was recorded.
	part := &explore.Recording{Decisions: rec.Decisions[:len(rec.Decisions)/2]}
	_, err = explore.Replay(y.counter(1, 3, true), part)
	require.True(t, errors.As(err, &d))
	assert.False(t, d.HaveWant)
	assert.EqualValues(t, len(part.Decisions), d.At)
	assert.Contains(t, err.Error(), "recorded: the end")
	p := explore.NewPrefix(part)
	obs, _ := explore.Record(y.counter(1, 3, true), p)
	assert.Equal(t, explore.Safe, obs.Verdict)
	assert.NoError(t, p.Err(), "a prefix may go on")

	// The program ends early.
	_, err = explore.Replay(explore.Target{Run: func(s sched.Strategy, _ sched.Observer) explore.Observation {
		s.Begin(2)
		return explore.Observation{}
	}}, rec)
	require.True(t, errors.As(err, &d))
	assert.Contains(t, err.Error(), "program:  the end")
}

func TestDivergenceStopsTheMachine(t *testing.T) {
	y := newToys()
	_, rec := explore.Record(y.counter(1, 3, true), sched.NewRandom(9))
	obs, err := explore.Replay(y.counter(500, 3, false), rec)
	require.Error(t, err)
	assert.Equal(t, "stopped", obs.Verdict)
	assert.Less(t, obs.Steps, uint64(500))
}

func TestStateHash(t *testing.T) {
	var a, b, c, d explore.StateHash
	a.PutUint("x", 1)
	a.PutString("y", "text")
	a.Put("z", []byte{1, 2})
	b.Put("z", []byte{1, 2})
	b.PutString("y", "text")
	b.PutUint("x", 1)
	assert.Equal(t, a.Sum(), b.Sum(), "order does not matter")
	c.PutUint("x", 2)
	c.PutString("y", "text")
	c.Put("z", []byte{1, 2})
	assert.NotEqual(t, a.Sum(), c.Sum())
	d.PutString("xy", "z")
	var e explore.StateHash
	e.PutString("x", "yz")
	assert.NotEqual(t, d.Sum(), e.Sum(), "name and value are kept apart")
	n := a.Sum()
	assert.Equal(t, n, a.Sum())
	a.PutUint("x", 1)
	assert.NotEqual(t, n, a.Sum(), "twice is not once")

	var k explore.Canon
	assert.EqualValues(t, 0, k.Number(0))
	assert.EqualValues(t, 1, k.Number(700))
	assert.EqualValues(t, 2, k.Number(3))
	assert.EqualValues(t, 1, k.Number(700))
	assert.Zero(t, testing.AllocsPerRun(100, func() { a.PutUint("name", 7) }))
}
