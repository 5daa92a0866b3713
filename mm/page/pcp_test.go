package page

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

func TestPCPSize(t *testing.T) {
	for _, tc := range []struct {
		bytes       uint64
		batch, high int
	}{
		{1 << 20, 0, 0}, {16 << 20, 0, 0}, {32 << 20, 1, 6}, {64 << 20, 3, 18},
		{256 << 20, 15, 90}, {512 << 20, 31, 186}, {64 << 30, 31, 186},
	} {
		batch, high := pcpSize(tc.bytes >> x86.PageShift)
		require.Equal(t, []int{tc.batch, tc.high}, []int{batch, high}, "%d MiB", tc.bytes>>20)
	}
	batch, high := pcpSize(1 << 32)
	require.Less(t, high+batch, ringSize)
}

func TestPCPHotAndCold(t *testing.T) {
	r := newRig(t, 128<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		a, b, c := m.Alloc(k, GFPKernel, 0, "t"), m.Alloc(k, GFPKernel, 0, "t"), m.Alloc(k, GFPKernel, 0, "t")
		assert.Equal(t, []x86.PFN{1, 2, 3}, []x86.PFN{m.PFN(a), m.PFN(b), m.PFN(c)}, "ascending")
		assert.Equal(t, 4, m.PCPPages())
		m.Put(k, a)
		m.Put(k, b)
		m.ReleasePages(k, []x86.PFN{m.PFN(c)}, RefTemp, true /* cold */)
		assert.Same(t, c, m.Alloc(k, GFPKernel|GFPCold, 0, "t"))
		assert.Same(t, b, m.Alloc(k, GFPKernel, 0, "t"))
		assert.Same(t, a, m.Alloc(k, GFPKernel, 0, "t"))
		m.Put(k, a)
		m.Put(k, b)
		m.Put(k, c)
	})
	r.ok()
	r.empty()
	require.Zero(t, r.p.PCPPages())
}

func TestPCPGivesBatchesBack(t *testing.T) {
	r := newRig(t, 128<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		var all []*Page
		for range 1000 {
			all = append(all, m.Alloc(k, GFPKernel, 0, "t"))
		}
		most := 0
		for _, p := range all {
			m.Put(k, p)
			most = max(most, m.PCPPages())
		}
		assert.Equal(t, 41, most)
		assert.Empty(t, m.Check())
		m.DrainLocalPages(k)
		assert.Zero(t, m.PCPPages())
		assert.Equal(t, m.Frames()-1, m.FreePages())
	})
	r.empty()
}

func TestDrainOfAnotherCPU(t *testing.T) {
	for _, regime := range []sched.Regime{sched.Parallel, sched.Timed, sched.Free} {
		t.Run(regime.String(), func(t *testing.T) {
			r := newRig(t, 128<<20, sched.Options{CPUs: 3, Regime: regime})
			for cpu := range 3 {
				r.start(cpu, fmt.Sprint("user", cpu), func(k *sched.Task) {
					p := r.p.Alloc(k, GFPKernel, 0, "t")
					r.p.LRUCacheAdd(k, p, InactiveFile)
					r.p.Put(k, p)
				})
			}
			require.NoError(t, r.m.Run().Err())
			require.Positive(t, r.p.PCPPages())
			require.Equal(t, 3, r.p.PagevecPages())
			require.Len(t, r.p.Leaks(), 3)
			r.ok()
			r.empty()
		})
	}
}

// TestAllocationCommutesInFreeRegime runs two tasks on two CPUs under many
// schedules: each must get the same frames every time.
func TestAllocationCommutesInFreeRegime(t *testing.T) {
	var first [2][]x86.PFN
	for seed := range uint64(40) {
		r := newRig(t, 1<<20, sched.Options{CPUs: 2, Regime: sched.Free, Strategy: sched.NewRandom(seed + 1)})
		var got [2][]x86.PFN
		for cpu := range 2 {
			r.start(cpu, fmt.Sprint("user", cpu), func(k *sched.Task) {
				var live []*Page
				for i := range 40 {
					if i%5 == 4 {
						r.p.Put(k, live[0])
						live = live[1:]
						continue
					}
					p := r.p.Alloc(k, GFPKernel, 0, "t")
					got[cpu] = append(got[cpu], r.p.PFN(p))
					live = append(live, p)
				}
				for _, p := range live {
					r.p.Put(k, p)
				}
			})
		}
		require.NoError(t, r.m.Run().Err())
		r.ok()
		if seed == 0 {
			first = got
			for _, pfn := range got[0] {
				require.False(t, slices.Contains(got[1], pfn))
			}
			continue
		}
		require.Equal(t, first, got)
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	if debug {
		t.Skip("debug builds keep a ledger")
	}
	for _, regime := range []sched.Regime{sched.Parallel, sched.Timed} {
		r := newRig(t, 512<<20, sched.Options{Regime: regime})
		r.run(func(k *sched.Task) {
			m := r.p
			n := testing.AllocsPerRun(1000, func() {
				p := m.Alloc(k, GFPKernel, 0, "t")
				m.Get(k, p)
				m.IncMap(k, p)
				m.DecMap(k, p)
				m.SetFlag(k, p, Referenced)
				m.Put(k, p)
				m.Put(k, p)
			})
			assert.Zero(t, n, "%v: single page", regime)
			var batch [64]x86.PFN
			n = testing.AllocsPerRun(100, func() {
				for i := range batch {
					p := m.Alloc(k, GFPKernel, 0, "t")
					p.PokeSet(SwapBacked)
					m.LRUCacheAdd(k, p, ActiveAnon)
					batch[i] = m.PFN(p)
				}
				m.LRUAddDrain(k)
				m.ReleasePages(k, batch[:], RefTemp, false)
			})
			assert.Zero(t, n, "%v: batch through the LRU", regime)
			n = testing.AllocsPerRun(100, func() {
				m.Put(k, m.Alloc(k, GFPKernel|GFPComp, 9, "t"))
			})
			assert.Zero(t, n, "%v: huge page", regime)
		})
		r.empty()
	}
}
