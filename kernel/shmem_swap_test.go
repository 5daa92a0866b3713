package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// mmapShared maps shared anonymous memory.
func mmapShared(t *testing.T, th *Thread, pages uint64) uint64 {
	t.Helper()
	a, err := th.Mmap(0, pages<<12, mm.ProtRead|mm.ProtWrite, mm.MapShared|mm.MapAnonymous|mm.MapNoReserve, -1, 0)
	require.NoError(t, err)
	return a
}

// A shared working set of three times RAM goes out and comes back as it was, for parent and
// child: each writes half of the pages and reads what the other wrote.
func TestSharedMemoryHoldsThreeTimesRAM(t *testing.T) {
	swapRegimes(t, 2, 1, func(t *testing.T, o Options) {
		pages, rounds := uint64(700), uint64(2)
		if testing.Short() {
			rounds = 1
		}
		o = withSwapDisk(Options{CPUs: o.CPUs, Regime: o.Regime, Strategy: o.Strategy, Memory: 1 << 20, NoStack: true}, 16384)
		if o.Regime == sched.Parallel {
			// Several tasks that reclaim 256 frames may meet the OOM killer early, as in 2.6.29: who
			// finds nothing in the passes from priority 3 on, because others have taken what he sent
			// to swap, has had his chance, though the zone is not all_unreclaimable
			// (do_try_to_free_pages returns nr_reclaimed, and only later kernels return 1).
			o.Memory, pages = 16<<20, 12288
		}
		m, out := run(t, o, func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := mmapShared(t, th, pages+1)
			for round := range rounds {
				pid, err := th.Fork(func(c *Thread) {
					for i := uint64(0); i < pages; i += 2 {
						c.Store64(a+i<<12+8, pattern(i, round))
					}
				})
				require.NoError(t, err)
				for i := uint64(1); i < pages; i += 2 {
					th.Store64(a+i<<12+8, pattern(i, round))
				}
				_, st, err := th.Wait(pid)
				require.NoError(t, err)
				require.Equal(t, Exited(0), st)
				for i := range pages {
					require.Equal(t, pattern(i, round), th.Load64(a+i<<12+8), "page %d", i)
					require.Zero(t, th.Load64(a+i<<12), "page %d", i)
				}
			}
			assert.Zero(t, th.Load64(a+pages<<12), "nobody wrote there")
		})
		assert.Empty(t, out.Victims)
		assert.Greater(t, m.Trace().Sum(trace.PSwpOut), pages)
		assert.Greater(t, m.Trace().Sum(trace.PSwpIn), pages)
		total, free := m.MM().SwapPages()
		assert.Equal(t, total, free)
	})
}

// Swapoff gives every page back to the object that it belongs to, mapped or not; and the
// end of the last mapping frees entries that nobody brought back.
func TestSwapoffOfSharedMemory(t *testing.T) {
	swapRegimes(t, 2, 5, func(t *testing.T, o Options) {
		const pages = 60
		o = small(o)
		o.Memory = 2 << 20
		m, _ := run(t, o, func(th *Thread) {
			m := th.Machine()
			m.MM().SetOvercommit(mm.OvercommitAlways, 0)
			require.NoError(t, th.Swapon(swapDev, 0))
			a, b := mmapShared(t, th, pages), mmapShared(t, th, pages)
			out := func() {
				for range 3 {
					require.NoError(t, th.Madvise(a, pages<<12, mm.MadvPageout))
					require.NoError(t, th.Madvise(b, pages<<12, mm.MadvPageout))
					th.Nanosleep(5_000_000)
					_ = th.Kernel(func(task *sched.Task) error { m.MM().DropClean(task); return nil })
				}
				th.Nanosleep(5_000_000)
			}
			for i := range uint64(pages) {
				th.Store64(a+i<<12, i+1)
				th.Store64(b+i<<12, i+1000)
			}
			out()
			total, free := m.MM().SwapPages()
			assert.Greater(t, total-free, uint64(pages/2), "it is in swap")
			assert.NoError(t, th.Swapoff(swapDev))
			total, free = m.MM().SwapPages()
			assert.Zero(t, total)
			assert.Zero(t, free)
			for i := range uint64(pages) {
				require.Equal(t, i+1, th.Load64(a+i<<12))
				require.Equal(t, i+1000, th.Load64(b+i<<12))
			}
			require.NoError(t, th.Swapon(swapDev, 0))
			out()
			require.NoError(t, th.Munmap(a, pages<<12))
		})
		total, free := m.MM().SwapPages()
		assert.Equal(t, total, free, "what was in swap went with the object")
	})
}

// A few pages of shared memory, on which two processes store, page out, unmap, and turn swap
// off, in many schedules with the invariants checked as it goes.
func TestSharedSwapSoak(t *testing.T) {
	seeds := *soakSeeds
	if seeds == 0 {
		seeds = 200
	}
	var written, hits uint64
	for seed := *firstSeed; seed < *firstSeed+seeds; seed++ {
		o := small(Options{CPUs: 3, Regime: sched.Free, Strategy: sched.NewRandom(seed)})
		if seed%3 == 1 {
			o.Strategy = sched.NewPCT(seed, 4, 15_000)
		} else if seed%3 == 2 {
			o.Preempt = sched.PreemptFull
		}
		m := boot(t, o)
		m.MM().SetOvercommit(mm.OvercommitAlways, 0)
		m.CheckSteps(61, nil)
		const pages = 3
		out := m.Run(func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := mmapShared(t, th, pages)
			for i := range uint64(pages) {
				th.Store64(a+i<<12, i)
			}
			pager := th.Go("pager", func(c *Thread) {
				for range 4 {
					_ = c.Madvise(a, pages<<12, mm.MadvPageout)
					_ = c.Kernel(func(task *sched.Task) error { m.MM().DropClean(task); return nil })
				}
			})
			pid, err := th.Fork(func(c *Thread) {
				for r := range uint64(3) {
					for i := range uint64(pages) {
						c.Store64(a+i<<12+8, r+1)
					}
					_ = c.Madvise(a, pages<<12, mm.MadvPageout)
					_ = c.Madvise(a, pages<<12, mm.MadvDontNeed)
				}
			})
			require.NoError(t, err)
			for r := range uint64(3) {
				for i := range uint64(pages) {
					th.Store64(a+i<<12+16, r+1)
					if got := th.Load64(a + i<<12 + 16); got != r+1 {
						t.Errorf("seed %d: page %d round %d: %d", seed, i, r, got)
					}
				}
				_ = th.Madvise(a, pages<<12, mm.MadvDontNeed)
			}
			_ = th.Swapoff(swapDev)
			_, _, _ = th.Wait(pid)
			_ = th.Join(pager)
			for i := range uint64(pages) {
				got := [3]uint64{th.Load64(a + i<<12), th.Load64(a + i<<12 + 8), th.Load64(a + i<<12 + 16)}
				assert.Equal(t, [3]uint64{i, 3, 3}, got, "seed %d page %d", seed, i)
			}
		})
		require.NoError(t, out.Err(), "seed %d", seed)
		m.Sched().SetObserver(nil)
		written += m.Trace().Sum(trace.PSwpOut)
		hits += m.Trace().Sum(trace.EmuSwapCacheHits)
		atRest(t, m)
		m.Shutdown()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d pages written, %d found in the swap cache", written, hits)
	assert.Positive(t, min(written, hits))
}
