package page

import (
	"testing"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

func bench(b *testing.B, regime sched.Regime, fn func(k *sched.Task, m *Map)) {
	r := newRig(b, 512<<20, sched.Options{Regime: regime})
	b.ReportAllocs()
	r.run(func(k *sched.Task) { fn(k, r.p) })
}

func BenchmarkAllocFree(b *testing.B) {
	bench(b, sched.Parallel, func(k *sched.Task, m *Map) {
		for b.Loop() {
			m.Put(k, m.Alloc(k, GFPHighUserMovable, 0, "bench"))
		}
	})
}

// Batches empty and overflow the per-CPU list.
func BenchmarkAllocFree512(b *testing.B) {
	bench(b, sched.Parallel, func(k *sched.Task, m *Map) {
		var pages [512]*Page
		for b.Loop() {
			for i := range pages {
				pages[i] = m.Alloc(k, GFPHighUserMovable, 0, "bench")
			}
			for _, p := range pages {
				m.Put(k, p)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(pages)), "ns/page")
	})
}

func BenchmarkAllocFreeHuge(b *testing.B) {
	bench(b, sched.Parallel, func(k *sched.Task, m *Map) {
		for b.Loop() {
			m.Put(k, m.Alloc(k, GFPHighUserMovable|GFPComp, 9, "bench"))
		}
	})
}

func BenchmarkGetPut(b *testing.B) {
	bench(b, sched.Parallel, func(k *sched.Task, m *Map) {
		p := m.Alloc(k, GFPKernel, 0, "bench")
		for b.Loop() {
			m.Get(k, p)
			m.Put(k, p)
		}
		m.Put(k, p)
	})
}

// The whole way of an anonymous page, 512 at a time.
func BenchmarkLRU512(b *testing.B) {
	bench(b, sched.Parallel, func(k *sched.Task, m *Map) {
		var pages [512]x86.PFN
		for b.Loop() {
			for i := range pages {
				p := m.Alloc(k, GFPHighUserMovable, 0, "bench")
				p.PokeSet(SwapBacked)
				m.LRUCacheAdd(k, p, ActiveAnon)
				pages[i] = m.PFN(p)
			}
			m.LRUAddDrain(k)
			m.ReleasePages(k, pages[:], RefTemp, false)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(pages)), "ns/page")
	})
}
