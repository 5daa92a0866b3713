package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/speed"
)

// benchLab makes machines for a benchmark.
func benchLab(b *testing.B, p mm.Policy) *lab {
	hosts := kernel.NewHosts()
	l := newLab(hosts, duoMemory, true /* prefault */, p)
	b.Cleanup(func() {
		l.close()
		hosts.Close()
	})
	return l
}

// benchBatch times batches of n units and reports ns for each unit. What a batch
// does outside its timed part is in ns/op and not in ns/unit.
func benchBatch(b *testing.B, side func(n int) time.Duration, n int, unit string) {
	side(n)
	var total time.Duration
	for b.Loop() {
		total += side(n)
	}
	b.ReportMetric(float64(total)/float64(n)/float64(b.N), "ns/"+unit)
}

// benchUnits runs a batch whose units are small and alike: ns/op is the unit's.
func benchUnits(b *testing.B, x *machine, unit func(t *kernel.Thread) func()) {
	err := x.run(func(t *kernel.Thread) {
		do := unit(t)
		for b.Loop() {
			do()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkLoad(b *testing.B) {
	l := benchLab(b, nil)
	b.Run("hit", func(b *testing.B) {
		benchUnits(b, &l.duo, func(t *kernel.Thread) func() {
			base, off := region(t, speed.HitSpan/pageSize), uint64(0)
			return func() {
				t.Load64(base + off)
				off = (off + speed.HitStride) & (speed.HitSpan - 1)
			}
		})
	})
	b.Run("miss", func(b *testing.B) { benchBatch(b, l.on(&l.duo, loadMiss), 1<<16, "load") })
}

func BenchmarkStore(b *testing.B) {
	l := benchLab(b, nil)
	b.Run("hit", func(b *testing.B) {
		benchUnits(b, &l.duo, func(t *kernel.Thread) func() {
			base, off := region(t, speed.HitSpan/pageSize), uint64(0)
			return func() {
				t.Store64(base+off, off)
				off = (off + speed.HitStride) & (speed.HitSpan - 1)
			}
		})
	})
}

func BenchmarkCopy(b *testing.B) {
	l := benchLab(b, nil)
	for _, bytes := range []int{pageSize, megabyte} {
		b.Run(fmt.Sprintf("size=%d", bytes), func(b *testing.B) {
			b.SetBytes(int64(bytes))
			benchUnits(b, &l.duo, func(t *kernel.Thread) func() {
				base, buf := region(t, bytes/pageSize), make([]byte, bytes)
				return func() { t.Write(base, buf) }
			})
		})
	}
}

func BenchmarkWalk(b *testing.B) {
	l := benchLab(b, nil)
	benchBatch(b, l.on(&l.duo, walk), 1<<16, "walk")
}

// batchBench is a row of paged work as a benchmark.
func batchBench(b *testing.B, w batch) {
	for _, pages := range []int{512, 16384} {
		b.Run(fmt.Sprintf("pages=%d", pages), func(b *testing.B) {
			l := benchLab(b, nil)
			benchBatch(b, l.on(&l.duo, w), pages, "page")
		})
	}
}

func BenchmarkMinorFault(b *testing.B) { batchBench(b, faultMinor) }
func BenchmarkPopulate(b *testing.B)   { batchBench(b, populate) }
func BenchmarkMunmap(b *testing.B)     { batchBench(b, munmap) }
func BenchmarkMprotect(b *testing.B)   { batchBench(b, mprotect) }
func BenchmarkGUPSlow(b *testing.B)    { batchBench(b, gupSlow) }

func BenchmarkCOWFault(b *testing.B) {
	b.Run("copy", func(b *testing.B) { batchBench(b, cowCopy) })
	b.Run("reuse", func(b *testing.B) { batchBench(b, cowReuse) })
}

// policyBench runs a row under each policy, with all decisions sent through its
// hooks only where it overrides them.
func policyBench(b *testing.B, w batch, sizes []int, unit string) {
	eachPolicy(b, sizes, func(b *testing.B, p mm.Policy, pages int) {
		l := benchLab(b, p)
		benchBatch(b, l.on(&l.duo, w), pages, unit)
	})
}

// eachPolicy runs fn as a benchmark for each policy and number of pages.
func eachPolicy(b *testing.B, sizes []int, fn func(b *testing.B, p mm.Policy, pages int)) {
	for _, p := range policy.All() {
		for _, pages := range sizes {
			b.Run(fmt.Sprintf("policy=%s/pages=%d", p.Name(), pages), func(b *testing.B) { fn(b, p, pages) })
		}
	}
}

func BenchmarkGUPFast(b *testing.B) { policyBench(b, gupFast, []int{240, 24000}, "page") }

// BenchmarkFork times whole forks of processes of so many touched pages.
func BenchmarkFork(b *testing.B) {
	whole := func(t *kernel.Thread, n int) time.Duration {
		region(t, n)
		return timedFork(t)
	}
	policyBench(b, whole, []int{16, 4096, 65536}, "page")
}

func BenchmarkExit(b *testing.B) {
	for _, pages := range []int{16, 4096, 65536} {
		b.Run(fmt.Sprintf("pages=%d", pages), func(b *testing.B) {
			l := benchLab(b, nil)
			benchBatch(b, l.on(&l.duo, exitTime), pages, "page")
		})
	}
}

func BenchmarkTLBFlush(b *testing.B) {
	l := benchLab(b, nil)
	b.Run("cpus=2", func(b *testing.B) { benchBatch(b, l.on(&l.duo, tlbFlush), 1000, "flush") })
	b.Run("cpus=4", func(b *testing.B) { benchBatch(b, l.on(&l.quad, tlbFlush), 200, "flush") })
}

func BenchmarkDirectRead(b *testing.B) {
	l := benchLab(b, nil)
	for _, bytes := range []int{512, pageSize, 65536, megabyte} {
		b.Run(fmt.Sprintf("size=%d", bytes), func(b *testing.B) {
			b.SetBytes(int64(bytes))
			benchUnits(b, &l.disk, func(t *kernel.Thread) func() {
				fd, buf := openDisk(t), region(t, max(1, bytes/pageSize))
				return func() { reads(t, fd, buf, 1, bytes, 0) }
			})
		})
	}
}

func BenchmarkContextSwitch(b *testing.B) {
	l := benchLab(b, nil)
	benchBatch(b, l.on(&l.uni, futexPingPong), 1000, "roundtrip")
}

func BenchmarkSchedules(b *testing.B) {
	l := benchLab(b, nil)
	benchBatch(b, l.search(1), 100, "schedule")
}

// BenchmarkBoot boots and shuts down machines whose memory is recycled.
func BenchmarkBoot(b *testing.B) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, o := range []kernel.Options{
		{CPUs: 2, Memory: 1 << 20},
		{CPUs: 4, Memory: 256 << 20},
		{CPUs: 4, Memory: 64 << 30},
	} {
		o.Hosts = hosts
		b.Run(fmt.Sprintf("cpus=%d/mib=%d", o.CPUs, o.Memory>>20), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := kernel.Boot(o)
				if err != nil {
					b.Fatal(err)
				}
				m.Shutdown()
			}
		})
	}
}

func BenchmarkSwapOut(b *testing.B) { swapBench(b, swapOut) }
func BenchmarkSwapIn(b *testing.B) {
	b.Run("order=sequential", func(b *testing.B) { swapBench(b, swapIn) })
	b.Run("order=random", func(b *testing.B) { swapBench(b, swapInRandom) })
}

// swapBench runs a row of swap on its machine, whose area takes no time.
func swapBench(b *testing.B, w batch) {
	eachPolicy(b, []int{512, 4096}, func(b *testing.B, p mm.Policy, pages int) {
		l := benchLab(b, p)
		if p.Name() == "wp_page_count_noswap" && !swaps(&l.swap) {
			b.Skip("its patch keeps every mapped page out of swap")
		}
		benchBatch(b, l.on(&l.swap, w), pages, "page")
	})
}

// The benchmarks of swap run under every policy but the one whose patch lets nothing out.
func TestEveryPolicySwapsButOne(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, p := range policy.All() {
		l := newLab(hosts, smallMemory, false, p)
		assert.Equal(t, p.Name() != "wp_page_count_noswap", swaps(&l.swap), p.Name())
		l.close()
	}
}

// swaps reports whether a machine writes pages to its swap area when it is told to.
func swaps(x *machine) bool {
	return x.time(func(t *kernel.Thread) time.Duration {
		addr := swappable(t, 16)
		before := t.Machine().Trace().Sum(trace.PSwpOut)
		must(t.Madvise(addr, size(16), mm.MadvPageout), "madvise")
		must(t.Munmap(addr, size(16)), "munmap")
		return time.Duration(t.Machine().Trace().Sum(trace.PSwpOut) - before)
	}) > 0
}
