package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
)

func BenchmarkAccess(b *testing.B) {
	m := boot(b, Options{CPUs: 1})
	out := m.Run(func(th *Thread) {
		a := th.MustMmap(8192)
		th.Store64(a, 1)
		th.Store64(a+4096, 1)
		sum := uint64(0)
		b.Run("load64", func(b *testing.B) {
			for b.Loop() {
				sum += th.Load64(a)
			}
		})
		b.Run("load8", func(b *testing.B) {
			for b.Loop() {
				sum += uint64(th.Load8(a))
			}
		})
		b.Run("store64", func(b *testing.B) {
			for b.Loop() {
				th.Store64(a, sum)
			}
		})
		buf := make([]byte, 4096)
		b.Run("read4096", func(b *testing.B) {
			for b.Loop() {
				th.Read(a, buf)
			}
		})
		b.Run("cas32", func(b *testing.B) {
			for b.Loop() {
				th.CAS32(a, 0, 0)
			}
		})
		b.Run("yield", func(b *testing.B) {
			for b.Loop() {
				th.Yield()
			}
		})
	})
	require.NoError(b, out.Err())
}

func BenchmarkBoot(b *testing.B) {
	for _, bc := range []struct {
		name string
		o    Options
	}{
		{"mem=1MiB/cpus=2/regime=free", Options{CPUs: 2, Memory: 1 << 20, Regime: sched.Free}},
		{"mem=4MiB/cpus=2/regime=timed", Options{CPUs: 2, Memory: 4 << 20, Regime: sched.Timed}},
		{"mem=4MiB/cpus=2/regime=parallel", Options{CPUs: 2, Memory: 4 << 20}},
		{"mem=256MiB/cpus=4/regime=parallel", Options{CPUs: 4, Memory: 256 << 20}},
		{"mem=1MiB/cpus=2/regime=free/disk", Options{CPUs: 2, Memory: 1 << 20, Regime: sched.Free,
			Disks: []Disk{{Name: "vda", Size: 4096}}}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bc.o.Hosts = testHosts
			b.ReportAllocs()
			for b.Loop() {
				m, err := Boot(bc.o)
				if err != nil {
					b.Fatal(err)
				}
				m.Shutdown()
			}
		})
	}
}

// BenchmarkSchedule is what a search does thousands of times a second: boot, fork, a
// store on each side, shut down.
func BenchmarkSchedule(b *testing.B) {
	for _, r := range []sched.Regime{sched.Free, sched.Timed} {
		b.Run("regime="+r.String(), func(b *testing.B) {
			b.ReportAllocs()
			seed, steps := uint64(0), uint64(0)
			for b.Loop() {
				o := Options{CPUs: 2, Memory: 1 << 20, Regime: r, Hosts: testHosts, NoStack: true}
				if r == sched.Free {
					o.Strategy = sched.NewRandom(seed)
				}
				seed++
				m, err := Boot(o)
				if err != nil {
					b.Fatal(err)
				}
				out := m.Run(func(th *Thread) {
					a := th.MustMmap(4096)
					th.Store64(a, 1)
					_, _ = th.Fork(func(c *Thread) { c.Store64(a, 2) })
					th.Store64(a, 3)
					_, _, _ = th.Wait(-1)
				})
				if err := out.Err(); err != nil {
					b.Fatal(err)
				}
				steps += out.Steps
				m.Shutdown()
			}
			b.ReportMetric(float64(steps)/float64(b.N), "steps/op")
		})
	}
}

func BenchmarkForkExitWait(b *testing.B) {
	for _, r := range []sched.Regime{sched.Parallel, sched.Timed} {
		b.Run("regime="+r.String(), func(b *testing.B) {
			m := boot(b, Options{CPUs: 2, Regime: r, Memory: 64 << 20, StepLimit: 1 << 60})
			out := m.Run(func(th *Thread) {
				a := th.MustMmap(1 << 20)
				th.Fill(a, 1<<20, 1)
				b.ReportAllocs()
				for b.Loop() {
					_, _ = th.Fork(func(c *Thread) {})
					_, _, _ = th.Wait(-1)
				}
			})
			require.NoError(b, out.Err())
		})
	}
}

func BenchmarkFault(b *testing.B) {
	m := boot(b, Options{CPUs: 1, Memory: 64 << 20})
	out := m.Run(func(th *Thread) {
		const size = 8 << 20
		a := th.MustMmap(size)
		i := uint64(0)
		b.ReportAllocs()
		for b.Loop() {
			th.Store8(a+i, 1)
			if i += 4096; i == size {
				i = 0
				_ = th.Madvise(a, size, 4)
			}
		}
	})
	require.NoError(b, out.Err())
}
