package matrix

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestIndependentStepsCommute swaps neighbouring steps of the workloads' small forms that
// partial-order reduction takes for independent: the run must end in the same state.
func TestIndependentStepsCommute(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	swaps := 0
	for _, w := range append(workload.All(), workload.Races()...) {
		for i, name := range []string{"stock", "pg_gup", "pg_dontcow", "directio_sem"} {
			target := Target(w, w.Values(true), policy.Lookup(name), hosts)
			n, err := explore.CheckIndependence(*target, uint64(i), 3, 6)
			assert.NoError(t, err, "%s under %s: go test ./tests/matrix -run TestIndependentStepsCommute", w.Name, name)
			swaps += n // none in a program whose CPUs take turns
		}
	}
	assert.Greater(t, swaps, 1000)
}
