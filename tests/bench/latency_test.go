package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
)

// forkLatency returns how many virtual nanoseconds fork takes while an asynchronous direct
// read is in flight on a device that takes a millisecond: a cost of the policy's row.
func forkLatency(tb testing.TB, p mm.Policy) uint64 {
	tb.Helper()
	hosts := kernel.NewHosts()
	defer hosts.Close()
	ns, err := matrix.ForkLatency(p, hosts)
	require.NoError(tb, err)
	return ns
}
