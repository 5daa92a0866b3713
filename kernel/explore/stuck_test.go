package explore_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// TestSearchesEndAtAStuckMachine: it cannot be interrupted, and each schedule more would be another.
func TestSearchesEndAtAStuckMachine(t *testing.T) {
	var mu sync.Mutex
	runs := 0
	target := explore.Target{Name: "stuck", Policy: "stock", Run: func(s sched.Strategy, _ sched.Observer) explore.Observation {
		mu.Lock()
		runs++
		mu.Unlock()
		s.Begin(2)
		s.Pick(&sched.Choice{Last: -1, Enabled: []sched.Actor{{CPU: 0}, {CPU: 1}}})
		return explore.Observation{Verdict: explore.Panicked, Result: &sched.Result{Reason: sched.Stuck, Detail: "a loop"}}
	}}
	ctx := context.Background()
	want := &sched.StuckError{}
	_, err := explore.Search(ctx, target, explore.Options{Schedules: 1000, Seed: 1, Workers: 2})
	assert.ErrorAs(t, err, &want)
	assert.Less(t, runs, 20, "the batches under way end")
	_, err = explore.Exhaust(ctx, target, explore.ExhaustOptions{Preemptions: 2, Workers: 1})
	assert.ErrorAs(t, err, &want)
}
