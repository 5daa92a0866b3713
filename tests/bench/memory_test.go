package bench

import (
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
)

// TestLargeMachineCostsLittle boots a machine of 64 GiB and runs a small process
// on it: the host pays for what is touched.
func TestLargeMachineCostsLittle(t *testing.T) {
	const memory, allowed = 64 << 30, 300 << 20
	hosts := kernel.NewHosts()
	defer hosts.Close()
	if err := hosts.Mem.Check(memory); err != nil {
		var tooLarge *x86.SizeError
		require.ErrorAs(t, err, &tooLarge)
		t.Skip(err) // race-detector builds keep memory in the Go heap
	}
	debug.FreeOSMemory()
	before, err := residentBytes()
	if err != nil {
		t.Skip(err)
	}
	start := time.Now()
	m, err := kernel.Boot(kernel.Options{CPUs: 4, Memory: memory, Hosts: hosts})
	require.NoError(t, err)
	defer m.Shutdown()
	booted := time.Since(start)
	require.NoError(t, m.Run(func(th *kernel.Thread) { region(th, 256) }).Err())
	ran := time.Since(start)
	after, err := residentBytes()
	require.NoError(t, err)
	t.Logf("booted in %v, a process ran within %v, %.1f MiB more resident", booted, ran, (float64(after)-float64(before))/megabyte)
	assert.Less(t, int64(after)-int64(before), int64(allowed))
	assert.Equal(t, uint64(memory/pageSize), m.Pages().Frames())
}
