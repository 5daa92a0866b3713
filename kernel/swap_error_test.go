package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// fillAndCheck needs more memory than there is and says whether it keeps it.
func fillAndCheck(t *testing.T, th *Thread, pages uint64) {
	a := th.MustMmap(pages << 12)
	for i := range pages {
		th.Store64(a+i<<12, pattern(i, 1))
	}
	for i := range pages {
		if got := th.Load64(a + i<<12); got != pattern(i, 1) {
			t.Fatalf("page %d: %#x", i, got)
		}
	}
}

// A page that cannot be written is dirty again and tried again.
func TestSwapWriteErrors(t *testing.T) {
	swapRegimes(t, 2, 2, func(t *testing.T, o Options) {
		o = small(o)
		o.Disks[0].Inject = []blk.Fault{{First: 8, Last: 1 << 20, Writes: true, Skip: 5, Count: 20}}
		m, _ := run(t, o, func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			fillAndCheck(t, th, 400)
		})
		assert.EqualValues(t, 20, m.Trace().Sum(trace.EmuBioErrors))
	})
}

// A page that cannot be read is SIGBUS for who needs it.
func TestSwapReadErrors(t *testing.T) {
	o := small(Options{CPUs: 1, Regime: sched.Timed})
	o.Disks[0].Inject = []blk.Fault{{First: 8, Last: 1 << 20, Reads: true}}
	m := boot(t, o)
	out := m.Run(func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		pid, err := th.Fork(func(c *Thread) {
			fillAndCheck(t, c, 400)
			t.Error("it could be read")
		})
		require.NoError(t, err)
		_, st, _ := th.Wait(pid)
		assert.Equal(t, KilledBy(SIGBUS), st)
	})
	require.NoError(t, out.Err())
	atRest(t, m)
}

// Every allocation of swap's own can fail: pages stay in memory, faults are taken again or
// kill, and nothing is left behind.
func TestSwapAllocationFailures(t *testing.T) {
	for _, site := range []string{"add_to_swap_cache", "read_swap_cache_async", "swapon", "swap_map"} {
		for nth := 1; nth <= 6; nth++ {
			m := boot(t, small(Options{CPUs: 2, Regime: sched.Timed}))
			m.Pages().FailAt(site, nth)
			out := m.Run(func(th *Thread) {
				if err := th.Swapon(swapDev, 0); err != nil {
					return
				}
				_, err := th.Fork(func(c *Thread) { fillAndCheck(t, c, 350) })
				require.NoError(t, err)
				_, _, _ = th.Wait(-1)
			})
			require.NoError(t, out.Err(), "%s %d", site, nth)
			require.Positive(t, m.Pages().SiteCounts()[site], site)
			atRest(t, m)
		}
	}
}

// With every decision sent through Stock's methods the run is the same, to the counter.
func TestSwapThroughHooks(t *testing.T) {
	var want []uint64
	for _, force := range []bool{false, true} {
		o := small(Options{CPUs: 2, Regime: sched.Timed, ForceHooks: force})
		m, _ := run(t, o, func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			_, err := th.Fork(func(c *Thread) { fillAndCheck(t, c, 300) })
			require.NoError(t, err)
			fillAndCheck(t, th, 200)
			_, _, _ = th.Wait(-1)
		})
		var got []uint64
		for _, c := range []trace.Counter{trace.PSwpIn, trace.PSwpOut, trace.PGFault, trace.EmuRmapUnmaps, trace.EmuCOWReuse, trace.PGStealNormal} {
			got = append(got, m.Trace().Sum(c))
		}
		if want == nil {
			want = got
		}
		assert.Equal(t, want, got)
	}
}

// Areas are used by priority, those of one priority in turn.
func TestSwapPriorities(t *testing.T) {
	o := small(Options{CPUs: 1, Regime: sched.Timed})
	o.Disks = append(o.Disks, Disk{Name: "fast", Size: 64 << 12, Swap: true}, Disk{Name: "twin", Size: 64 << 12, Swap: true})
	run(t, o, func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		require.NoError(t, th.Swapon("/dev/fast", mm.SwapFlagPrefer|5))
		require.NoError(t, th.Swapon("/dev/twin", mm.SwapFlagPrefer|5))
		a := th.MustMmap(32 << 12)
		th.Fill(a, 32<<12, 1)
		require.NoError(t, th.Madvise(a, 32<<12, mm.MadvPageout))
		used := map[uint8]int{}
		for i := range uint64(32) {
			if e := th.m.sys.PeekPTEOf(th.p.space.ID, a+i<<12); e.IsSwap() {
				used[e.Swap().Type]++
			}
		}
		assert.Zero(t, used[0])
		assert.Positive(t, used[1])
		assert.InDelta(t, used[1], used[2], 1)
	})
}
