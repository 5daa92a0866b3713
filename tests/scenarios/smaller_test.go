package scenarios

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
)

// shrunk minimises the first schedule of a scenario under stock that ends with a state that
// is wanted, and returns the verdict, what came out, and what is left of the scenario.
func shrunk(t *testing.T, s *Scenario, want func(verdict string) bool) (string, *explore.Shrunk, *Scenario) {
	t.Helper()
	hosts, stock := newHosts(t), policy.Lookup("stock")
	whole := s.Target(stock, hosts)
	rep, err := explore.Search(context.Background(), *whole, explore.Options{Schedules: 50, Seed: 1})
	require.NoError(t, err)
	for _, w := range rep.Witnesses {
		if !want(w.Verdict) {
			continue
		}
		target, o := s.Shrinking(context.Background(), whole, stock, policy.All(), hosts, w.Verdict)
		o.Runs = 800
		least, err := explore.Shrink(context.Background(), target, w.Spec, o)
		require.NoError(t, err)
		left, err := s.ForToken(least.Token)
		require.NoError(t, err)
		// The token alone, through the scenario's text, makes the same run.
		again := left.Target(stock, hosts).Run(least.Token.Spec.Strategy(), nil)
		assert.Equal(t, least.Observation.Verdict, again.Verdict)
		assert.Equal(t, least.Observation.State, again.State)
		return w.Verdict, least, left
	}
	require.Fail(t, "no schedule ends as is wanted", "%v", rep.ByVerdict)
	return "", nil, nil
}

// TestShrinkingLeavesOperationsOut pins that a schedule of the forkscrew scenario is shrunk to
// fewer operations, with the same loss; what lost the bytes, the fork and the read, stays.
func TestShrinkingLeavesOperationsOut(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	s, err := Lookup("forkscrew")
	require.NoError(t, err)
	was, least, left := shrunk(t, s, Positive)
	assert.Less(t, left.Operations(), s.Operations(), "%s", left.Print())
	assert.Positive(t, least.Smaller)
	assert.True(t, Positive(least.Observation.Verdict))
	assert.Equal(t, Endings(was), Endings(least.Observation.Verdict))
	assert.Contains(t, left.Print(), "io_read")
	assert.Contains(t, left.Print(), "fork C")
	assert.NotContains(t, left.Print(), "io_wait")
}

// TestShrinkingKeepsTheMeaning pins that what makes a condition mean anything is not left
// out: without the device's write the byte is not what it would have written either.
func TestShrinkingKeepsTheMeaning(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	s, err := Parse("padded", `cowlab padded
"S1 with more around it"
map A 1 page private
init A = 1
 P0                 | P1      | C child | D device          ;
 pin h A write fast | pause 2 |         |                   ;
                    | x = A[3] |        |                   ;
 fork C             |         |         |                   ;
 A[0] = 2           |         |         |                   ;
 @1                 |         |         | @1                ;
                    |         |         | dma h[512] = 0x64 ;
never P0:A[512] != 0x64
show C:A[512], P1:x`)
	require.NoError(t, err)
	s = s.Tuned(Tuning{Races: true})
	_, _, left := shrunk(t, s, Positive)
	assert.NotContains(t, left.Print(), "pause")
	assert.NotContains(t, left.Print(), "x = A[3]", "though states show it")
	assert.Equal(t, s.Tuning(), left.Tuning())
	for _, op := range []string{"pin h A write fast", "fork C", "A[0] = 2", "@1", "dma h[512] = 0x64"} {
		assert.Contains(t, left.Print(), op)
	}
	// A state that is as it should be has nothing that could be left out.
	_, least, left := shrunk(t, s.With(func(c *Scenario) { c.Cond.Quant = Never; c.Cond.Expr = &Not{X: c.Cond.Expr} }), func(v string) bool { return !Positive(v) })
	assert.Zero(t, least.Smaller)
	assert.Equal(t, s.Operations(), left.Operations())
}

// TestShrinkingOfAnEnd pins that a run that came to no natural end is shrunk to fewer operations
// that end in the same way.
func TestShrinkingOfAnEnd(t *testing.T) {
	s, err := Parse("stuck", `cowlab stuck
"nobody writes to the pipe"
map A 1 page private
pipe p
 P0                 | P1       ;
 A[0] = 1           | A[1] = 2 ;
 r = pipe_read p 1  | fence    ;
never P0:A[0] = 7`)
	require.NoError(t, err)
	_, least, left := shrunk(t, s, func(v string) bool { return len(Endings(v)) > 0 })
	assert.Equal(t, []string{"deadlock"}, Endings(least.Observation.Verdict))
	assert.Equal(t, 1, left.Operations(), "%s", left.Print())
}

// TestSmallerIsTriedFirst: of what can be left out the most is tried first.
func TestSmallerIsTriedFirst(t *testing.T) {
	s, err := Lookup("forkscrew")
	require.NoError(t, err)
	var left []int
	for _, less := range s.smaller(policy.Lookup("stock"), newHosts(t)) {
		left = append(left, s.find(&less).Operations())
	}
	require.NotEmpty(t, left)
	assert.IsNonDecreasing(t, left)
	assert.Less(t, left[0], left[len(left)-1])
}
