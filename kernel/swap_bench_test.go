package kernel

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// BenchmarkSwap is what a page costs on its way out (isolated, a slot, unmapped, written
// to a device that takes no time) and in (fault, read with its neighbours, mapped), host
// time in the parallel regime on one CPU.
func BenchmarkSwap(b *testing.B) {
	const pages = 1024
	instant := blk.Instant()
	o := withSwapDisk(Options{CPUs: 1, Memory: 32 << 20}, 4*pages)
	o.Disks[0].Latency = &instant
	for _, dir := range []string{"out", "in"} {
		b.Run(dir, func(b *testing.B) {
			m := boot(b, o)
			out := m.Run(func(th *Thread) {
				require.NoError(b, th.Swapon(swapDev, 0))
				a := th.MustMmap(pages << 12)
				th.Fill(a, pages<<12, 1)
				var total time.Duration
				n := 0
				b.ReportAllocs()
				b.ResetTimer()
				b.StopTimer()
				for n < b.N {
					start := time.Now()
					if dir == "out" {
						b.StartTimer()
					}
					require.NoError(b, th.Madvise(a, pages<<12, mm.MadvPageout))
					_ = th.Kernel(func(t *sched.Task) error { t.SleepFor(1_000_000); return nil }) // the last interrupts
					if dir == "out" {
						b.StopTimer()
						total += time.Since(start)
					}
					// Written pages wait at the old end of the inactive list.
					_ = th.Kernel(func(t *sched.Task) error { m.sys.DropClean(t); return nil })
					start = time.Now()
					if dir == "in" {
						b.StartTimer()
					}
					for i := range uint64(pages) {
						th.Store8(a+i<<12, 2)
					}
					if dir == "in" {
						b.StopTimer()
						total += time.Since(start)
					}
					n += pages
				}
				b.ReportMetric(float64(total.Nanoseconds())/float64(n), "ns/page")
			})
			require.NoError(b, out.Err())
		})
	}
}
