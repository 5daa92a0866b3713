package explore_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

// TestMemoryIsFlat runs 20,000 schedules and looks whether anything has grown that would
// grow with another million.
func TestMemoryIsFlat(t *testing.T) {
	y := newToys()
	target := y.words("a0w1", "r1a0")
	run := func(n uint64) uint64 {
		_, err := explore.Search(context.Background(), target, explore.Options{Schedules: n, Seed: 1, Workers: 2})
		require.NoError(t, err)
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := run(1000) // pools are full
	after := run(19_000)
	assert.Less(t, after, before+1<<20, "heap after 1,000 and after 20,000 schedules")
	_, used := y.mem.Budget()
	assert.Less(t, used, uint64(8<<20), "memory of machines in the pool")
}
