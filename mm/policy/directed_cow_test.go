package policy_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// TestDirectedCOWRaces pins the windows of the copy that all others get, which random
// programs found. Where there are few, all schedules with at most two preemptions are run.
func TestDirectedCOWRaces(t *testing.T) {
	if policy.Race {
		t.Skip("long searches of one goroutine; builds without the race detector run them")
	}
	const head = "map A 1 page private\npipe p\ninit A = 1\n"
	two, some := scenarios.Strategy{Exhaustive: true, Preemptions: 2}, scenarios.Strategy{Schedules: 500, Seed: 1}
	for _, c := range []struct {
		name, policy string
		st           scenarios.Strategy
		rows         string
	}{
		// Who gets the copy first must not find itself alone with it, and store to it.
		{"three-generations", "directed_cow", some, `P0 | C child | G child ;
fork C   | fork G     | ;
A[0] = 2 | A[512] = 3 | ;
never bug \/ G:A[512] = 3 \/ G:A[0] = 2`},
		// The page of the fault may be given up by another thread: it is not freed while locked.
		{"owner-dontneed", "directed_cow", two, `P0 | P1 | C child ;
         | fork C             | ;
A[0] = 2 | madvise A dontneed | ;
never bug \/ leak`},
		// All others may go between two looks at how many there are: the owner keeps its page.
		{"others-go", "directed_cow", some, `P0 | C child ;
pin h A write        | ;
fork C               | ;
A[0] = 2             | exit ;
dma h[512] = 0x64    | ;
never P0:A[512] != 0x64`},
		// Who has got the copy first may be gone when the next one gets it.
		{"first-goes", "directed_cow", some, `P0 | C child | G child ;
fork C   | fork G             | madvise A dontneed ;
A[0] = 2 | madvise A dontneed | ;
never bug \/ leak`},
		// Who pins a page while it is being taken away from him keeps it.
		{"pipe-of-the-child", "one_read_pin", two, `P0 | C child ;
fork C              | vmsplice p A[0] ;
A[0] = 2            | ;
r = pipe_read p 1   | ;
never bug \/ P0:r = 2`},
	} {
		s, err := scenarios.Parse(c.name, "cowlab "+c.name+"\n\"a race\"\n"+head+c.rows)
		require.NoError(t, err, c.name)
		hosts := kernel.NewHosts()
		o, err := s.Observe(context.Background(), policy.Lookup(c.policy), hosts, c.st)
		hosts.Close()
		require.NoError(t, err)
		assert.Equal(t, "Never", o.Observation, "%s under %s: %s: %v", c.name, c.policy, o.Bound, o.States)
	}
}
