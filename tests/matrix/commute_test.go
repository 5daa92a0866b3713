package matrix

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestIndependentStepsCommute swaps neighbouring steps of the workloads' small forms that
// partial-order reduction takes for independent: the run must end in the same state. Every
// program has such steps in every schedule, under every policy; where it has not, its
// CPUs take turns, and it is run with the parameters with which they do not.
func TestIndependentStepsCommute(t *testing.T) {
	schedules, swaps := 3, 6
	if Race {
		schedules, swaps = 1, 2 // each of these runs on one goroutine
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	params := map[string]string{"swap_pin": "race=1", "mprotect_pin": "child=1", "readonly_buffer": "kind=1,forked=1"}
	for _, w := range append(workload.All(), workload.Races()...) {
		v, err := w.Parse(params[w.Name], true)
		require.NoError(t, err)
		for i, name := range []string{"stock", "pg_gup", "pg_dontcow", "directio_sem"} {
			n, err := explore.CheckIndependence(*Target(w, v, policy.Lookup(name), hosts), uint64(i), schedules, swaps)
			assert.NoError(t, err, "%s under %s: go test ./tests/matrix -run TestIndependentStepsCommute", w.Name, name)
			assert.Equal(t, schedules*swaps, n, "%s under %s: pairs swapped", w.Name, name)
		}
	}
}

// TestOneAfterTheOther: programs of one actor have nothing to swap, so that the equality
// above is not met by anything.
func TestOneAfterTheOther(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, name := range []string{"swap_pin", "mprotect_pin"} {
		w := workload.Lookup(name)
		n, err := explore.CheckIndependence(*Target(w, w.Values(true), policy.Stock{}, hosts), 1, 3, 6)
		assert.NoError(t, err)
		assert.Zero(t, n, name)
	}
}
