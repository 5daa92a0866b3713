package matrix

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// BenchmarkSchedule is a schedule of forkscrew's small form on one worker, everything
// included: what a search does again and again.
func BenchmarkSchedule(b *testing.B) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	w := workload.Lookup("forkscrew")
	t := Target(w, w.Values(true), policy.Lookup("stock"), hosts)
	b.ReportAllocs()
	r, err := explore.Search(context.Background(), *t, explore.Options{Schedules: uint64(b.N), Seed: 1, Workers: 1})
	require.NoError(b, err)
	require.EqualValues(b, b.N, r.Schedules)
}

// bare boots a machine as small forkscrew's are, with nothing to do.
func bare(b *testing.B, hosts *kernel.Hosts, seed uint64) *kernel.Machine {
	w := workload.Lookup("forkscrew")
	v := w.Values(true)
	m, err := kernel.Boot(kernel.Options{
		CPUs: w.SmallCPUs, Memory: w.Memory(v), Regime: sched.Free, Strategy: sched.NewRandom(seed), Hosts: hosts,
		Disks: []kernel.Disk{{Name: "vda", Size: uint64(w.DiskBytes(v))}}, Watchdog: sched.NoWatchdog,
	})
	require.NoError(b, err)
	return m
}

// BenchmarkNothing is what such a schedule takes for its machine alone: boot, a program that
// does nothing, shutdown, with forkscrew's CPUs, memory and disk. What a machine that is set
// back instead of made anew could save is less.
func BenchmarkNothing(b *testing.B) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	b.ReportAllocs()
	for i := range b.N {
		m := bare(b, hosts, uint64(i))
		m.CheckSteps(256, nil)
		m.Run(func(*kernel.Thread) {})
		m.Shutdown()
	}
}

// BenchmarkBoot is boot and shutdown alone.
func BenchmarkBoot(b *testing.B) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	b.ReportAllocs()
	for i := range b.N {
		m := bare(b, hosts, uint64(i))
		m.Shutdown()
	}
}
