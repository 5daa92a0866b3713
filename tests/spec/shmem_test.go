package spec

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// TestSharedMemoryOnItsWayToSwap: while a page goes from the page cache to the swap cache, its
// slot has a count more than users. The invariant knows that whoever does it holds the object's lock.
func TestSharedMemoryOnItsWayToSwap(t *testing.T) {
	s, err := scenarios.Parse("shared", `cowlab shared
"a shared page on its way to swap"
machine swap=64K
map A 1 page shared
init A = 1

P0 | P1 ;
swapout A[0] | ;
A[512] = 16 | ;
 | mprotect A r ;

never bug
`)
	require.NoError(t, err)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	n := uint64(60)
	if race {
		n = 4
	}
	rep, err := explore.Search(t.Context(), *s.Target(policy.Lookup("stock"), hosts), explore.Options{Schedules: n, Seed: 1, Workers: 1})
	require.NoError(t, err)
	for _, w := range rep.Witnesses {
		assert.NotContains(t, w.Verdict, "bug", w.Detail)
	}
}
