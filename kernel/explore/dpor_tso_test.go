package explore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

// tsoPrograms are the litmus tests of x86-TSO, and more, as words. Loads of word k are r, so
// that SB is {"w0r1", "w1r0"}.
var tsoPrograms = []struct {
	name  string
	tasks []string
}{
	{"SB", []string{"w0r1", "w1r0"}},
	{"SB with barriers", []string{"w0f0r1", "w1f0r0"}},
	{"SB with one barrier", []string{"w0f0r1", "w1r0"}},
	{"SB with exchanges", []string{"x0r1", "x1r0"}},
	{"SB with writes that wait for the buffer", []string{"w0d2r1", "w1r0"}},
	{"SB+rfi", []string{"w0r0r1", "w1r1r0"}},
	{"SB over spinlocks", []string{"l0w1u0r2", "l1w2u1r1"}},
	{"MP", []string{"w0w1", "r1r0"}},
	{"LB", []string{"r0w1", "r1w0"}},
	{"2+2W", []string{"w0w1", "w1w0"}},
	{"R", []string{"w0w1", "w1r0"}},
	{"S", []string{"w0w1", "r1w0"}},
	{"IRIW", []string{"w0", "w1", "r0r1", "r1r0"}},
	{"WRC", []string{"w0", "r0w1", "r1r0"}},
	{"a lock", []string{"l0r1w1u0", "l0r1w1u0"}},
	{"a lock, twice", []string{"l0a1u0l0u0", "l0u0"}},
	{"two stores of a word", []string{"w0w0r1", "w1r0"}},
	{"two stores, then an exchange", []string{"w0w1x2", "r1r0r2"}},
	{"two stores, then a write that waits", []string{"w0w1d2", "r1r0r2"}},
	{"a branch", []string{"w0?1w2", "w1?0w2"}},
}

// TestReduceWithStoreBuffers compares the final states of reduction with those of all
// schedules, where stores are buffered.
func TestReduceWithStoreBuffers(t *testing.T) {
	y := newToys().buffered()
	programs := tsoPrograms
	if testing.Short() {
		programs = tsoPrograms[:9]
	}
	for seed := range uint64(6) {
		if testing.Short() {
			break
		}
		programs = append(programs, struct {
			name  string
			tasks []string
		}{fmt.Sprint("random ", seed), randomTSO(seed, 2, 3)})
	}
	for _, c := range programs {
		target := y.words(c.tasks...)
		r := reduce(t, target, explore.ReduceOptions{})
		full := exhaust(t, target, explore.ExhaustOptions{Preemptions: 100, Cut: true})
		require.True(t, r.Complete && full.Complete, c.name)
		assert.Equal(t, full.FinalStates(), r.FinalStates(), c.name)
		if full.Schedules < 600 && len(c.tasks) < 3 {
			all := exhaust(t, target, explore.ExhaustOptions{Preemptions: 100, Schedules: 3_000})
			if all.Complete {
				assert.Equal(t, all.FinalStates(), r.FinalStates(), "%s: without the cut", c.name)
				full = all
			}
		}
		assert.LessOrEqual(t, r.Schedules, full.Schedules, c.name)
		t.Logf("%s %v: %d schedules, %d of %d classes, %d states", c.name, c.tasks, full.Schedules, r.Schedules, r.Classes, r.States)
	}
}

// randomTSO makes a program of so many tasks of so many steps for CPUs with store buffers.
func randomTSO(seed uint64, tasks, steps int) []string {
	next := func(n uint64) uint64 {
		seed = seed*6364136223846793005 + 1442695040888963407
		return seed >> 33 % n
	}
	var out []string
	for range tasks {
		text := ""
		for range steps {
			text += string("rrwwwxd"[next(7)]) + string("01"[next(2)])
		}
		out = append(out, text)
	}
	return out
}

// TestReduceCountsBufferedClasses has programs whose classes can be counted by hand.
func TestReduceCountsBufferedClasses(t *testing.T) {
	y := newToys().buffered()
	for _, c := range []struct {
		tasks   []string
		classes uint64
	}{
		{[]string{"w0", "w1"}, 1},
		{[]string{"w0", "w0"}, 2},       // which store comes out first
		{[]string{"w0", "r0"}, 2},       // it is read before or after it comes out
		{[]string{"w0r0", "r1"}, 1},     // one's own stores are no matter
		{[]string{"w0r1", "w1r0"}, 4},   // store buffering: both may read the old value
		{[]string{"w0f0r1", "w1r0"}, 4}, // and with a barrier on one side, too: see the other's
		{[]string{"w0f0r1", "w1f0r0"}, 3},
		{[]string{"w0w1", "r0"}, 2},
		{[]string{"l0w1u0", "l0w1u0"}, 2},
	} {
		r := reduce(t, y.words(c.tasks...), explore.ReduceOptions{})
		assert.True(t, r.Complete)
		assert.Equal(t, c.classes, r.Classes, "%v", c.tasks)
		assert.Equal(t, c.classes, r.Schedules, "%v: a class was run twice", c.tasks)
	}
}

// TestBufferedStepsCommute swaps steps that the dependency relation calls independent.
func TestBufferedStepsCommute(t *testing.T) {
	y := newToys().buffered()
	for _, tasks := range [][]string{{"w0r0w2x1", "w1r1w0r0"}, {"l0r1w1u0w2", "w2l0r1w1u0"}, {"w0w1d2r1", "w1w0r2"}} {
		n, err := explore.CheckIndependence(y.words(tasks...), 1, 60, 4)
		assert.NoError(t, err, "go test ./kernel/explore -run TestBufferedStepsCommute")
		assert.Greater(t, n, 40, "%v", tasks)
	}
}

// TestReduceTSOIsTheSameOnAnyNumberOfWorkers runs it on one worker and on three.
func TestReduceTSOIsTheSameOnAnyNumberOfWorkers(t *testing.T) {
	y := newToys().buffered()
	target := y.words("w0r1w2", "w1r0d2", "w2r0")
	one := reduce(t, target, explore.ReduceOptions{Workers: 1})
	three := reduce(t, target, explore.ReduceOptions{Workers: 3})
	assert.Equal(t, one.Schedules, three.Schedules)
	assert.Equal(t, one.Blocked, three.Blocked)
	assert.Equal(t, one.Witnesses, three.Witnesses)
}
