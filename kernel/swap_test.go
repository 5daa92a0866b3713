package kernel

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

const swapDev = "/dev/swap"

// withSwapDisk gives a machine a disk of so many pages to swap to.
func withSwapDisk(o Options, pages uint64) Options {
	o.Disks = append(o.Disks, Disk{Name: "swap", Size: pages << 12, Swap: true})
	return o
}

// pattern is what the tests keep in page i.
func pattern(i, round uint64) uint64 { return i*0x9e3779b97f4a7c15 + round }

// small is a machine that has to swap: 256 frames.
func small(o Options) Options {
	o.Memory = 1 << 20
	o.NoStack = true
	return withSwapDisk(o, 1024)
}

// swapRegimes is regimes, with fewer seeds: these runs are long.
func swapRegimes(t *testing.T, n, seeds int, fn func(t *testing.T, o Options)) {
	if testing.Short() {
		seeds = 1
	}
	t.Run("parallel", func(t *testing.T) { fn(t, Options{CPUs: n}) })
	t.Run("timed", func(t *testing.T) { fn(t, Options{CPUs: n, Regime: sched.Timed}) })
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("free/seed=%d", seed), func(t *testing.T) {
			fn(t, Options{CPUs: n, Regime: sched.Free, Strategy: sched.NewRandom(*firstSeed + seed)})
		})
	}
}

// A working set of three times RAM goes out and comes back as it was.
func TestSwapHoldsThreeTimesRAM(t *testing.T) {
	swapRegimes(t, 2, 3, func(t *testing.T, o Options) {
		const pages = 768
		m, _ := run(t, small(o), func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(pages << 12)
			for round := range uint64(2) {
				for i := range uint64(pages) {
					th.Store64(a+i<<12+8, pattern(i, round))
				}
				for i := range uint64(pages) {
					require.Equal(t, pattern(i, round), th.Load64(a+i<<12+8), "page %d", i)
				}
			}
		})
		assert.Greater(t, m.Trace().Sum(trace.PSwpOut), uint64(pages))
		assert.Greater(t, m.Trace().Sum(trace.PSwpIn), uint64(pages))
		total, free := m.MM().SwapPages()
		assert.Equal(t, total, free)
	})
}

func TestSwaponErrors(t *testing.T) {
	o := withSwapDisk(Options{}, 16)
	o.Disks = append(o.Disks, Disk{Name: "plain", Size: 64 << 10}, Disk{Name: "ro", Size: 64 << 10, ReadOnly: true})
	run(t, o, func(th *Thread) {
		assert.Equal(t, unix.ENOENT, th.Swapon("/dev/none", 0))
		assert.Equal(t, unix.EINVAL, th.Swapon("/dev/plain", 0))
		assert.Equal(t, unix.EROFS, th.Swapon("/dev/ro", 0))
		assert.Equal(t, unix.EINVAL, th.Swapoff(swapDev))
		require.NoError(t, th.Swapon(swapDev, 0))
		assert.Equal(t, unix.EBUSY, th.Swapon(swapDev, 0))
		require.NoError(t, th.Swapoff(swapDev))
		require.NoError(t, th.Swapon(swapDev, 0))
	})
}

// Fork with pages in swap: each process sees the memory of the moment of the fork, and
// what it writes itself.
func TestForkWithSwappedPages(t *testing.T) {
	swapRegimes(t, 2, 4, func(t *testing.T, o Options) {
		o, pages := small(o), uint64(300)
		if o.Regime == sched.Parallel {
			// Three that reclaim 256 frames at once may meet the OOM killer early, as in 2.6.29: see
			// FIDELITY.md at do_try_to_free_pages.
			o.Memory, pages = 4<<20, 1200
			o.Disks[0].Size = 4096 << 12
		}
		run(t, o, func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(pages << 12)
			for i := range pages {
				th.Store64(a+i<<12, pattern(i, 0))
			}
			for n := range uint64(2) {
				_, err := th.Fork(func(c *Thread) {
					for i := range pages {
						if got := c.Load64(a + i<<12); got != pattern(i, n) {
							t.Errorf("child %d, page %d: %#x", n, i, got)
							c.Exit(1)
						}
						if i%3 == 0 {
							c.Store64(a+i<<12, 7)
						}
					}
					for i := uint64(0); i < pages; i += 3 {
						if c.Load64(a+i<<12) != 7 {
							c.Exit(2)
						}
					}
				})
				require.NoError(t, err)
				for i := range pages {
					th.Store64(a+i<<12, pattern(i, n+1))
				}
			}
			for range 2 {
				_, st, err := th.Wait(-1)
				require.NoError(t, err)
				require.Equal(t, Exited(0), st)
			}
			for i := range pages {
				require.Equal(t, pattern(i, 2), th.Load64(a+i<<12))
			}
		})
	})
}

// Swapoff brings everything back while other processes use their memory, and ends.
func TestSwapoff(t *testing.T) {
	swapRegimes(t, 2, 6, func(t *testing.T, o Options) {
		const pages = 120
		m := boot(t, small(o))
		m.MM().SetOvercommit(mm.OvercommitAlways, 0) // else swapoff wants as much free as the area is large
		out := m.Run(func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			keep := th.MustMmap(pages << 12)
			for i := range uint64(pages) {
				th.Store64(keep+i<<12, pattern(i, 5))
			}
			big := th.MustMmap(200 << 12) // pushes keep out
			th.Fill(big, 200<<12, 1)
			_, err := th.Fork(func(c *Thread) {
				require.NoError(t, c.Munmap(big, 200<<12))
				for i := range uint64(pages) {
					if c.Load64(keep+i<<12) != pattern(i, 5) {
						t.Errorf("child: page %d", i)
					}
				}
			})
			require.NoError(t, err)
			require.NoError(t, th.Munmap(big, 200<<12))
			require.NoError(t, th.Swapoff(swapDev))
			for i := range uint64(pages) {
				require.Equal(t, pattern(i, 5), th.Load64(keep+i<<12))
			}
			_, st, _ := th.Wait(-1)
			require.Equal(t, Exited(0), st)
		})
		require.NoError(t, out.Err())
		atRest(t, m)
		total, _ := m.MM().SwapPages()
		assert.Zero(t, total)
		assert.Zero(t, m.MM().SwapCachePages())
	})
}

// A parent and a child swap. The page that a step touched is checked right after it, everything
// at every 211th step.
func TestSwapInvariantsAtEveryStep(t *testing.T) {
	seeds := uint64(6)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := small(Options{CPUs: 3, Regime: sched.Free, Strategy: sched.NewRandom(*firstSeed + seed)})
			m := boot(t, o)
			m.MM().SetPageCluster(int(seed % 3))
			m.CheckSteps(211, nil)
			out := m.Run(func(th *Thread) {
				require.NoError(t, th.Swapon(swapDev, 0))
				const pages = 180
				a := th.MustMmap(pages << 12)
				for i := range uint64(pages) {
					th.Store64(a+i<<12, pattern(i, 0))
				}
				_, err := th.Fork(func(c *Thread) {
					for i := range uint64(pages) {
						c.Store64(a+i<<12, c.Load64(a+i<<12)+1)
					}
					for i := range uint64(pages) {
						if c.Load64(a+i<<12) != pattern(i, 0)+1 {
							t.Errorf("child: page %d", i)
						}
					}
				})
				require.NoError(t, err)
				for i := range uint64(pages) {
					if th.Load64(a+i<<12) != pattern(i, 0) {
						t.Errorf("page %d", i)
					}
				}
				_ = th.Madvise(a, 20<<12, 4)
				_, _, _ = th.Wait(-1)
			})
			require.NoError(t, out.Err())
			assert.Positive(t, m.Trace().Sum(trace.PSwpOut))
			m.Sched().SetObserver(nil)
			atRest(t, m)
		})
	}
}

// When swap is full too, the process with the highest score dies, and the others go on.
func TestOOMKillsTheWorst(t *testing.T) {
	swapRegimes(t, 2, 4, func(t *testing.T, o Options) {
		o = small(o)
		o.Disks[0].Size = 64 << 12
		m := boot(t, o)
		m.MM().SetOvercommit(mm.OvercommitAlways, 0)
		out := m.Run(func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(20 << 12)
			th.Fill(a, 20<<12, 3)
			hog, err := th.Fork(func(c *Thread) {
				b := c.MustMmap(4000 << 12)
				for i := range uint64(4000) {
					c.Store64(b+i<<12, i)
				}
				t.Error("the hog got what it wanted")
			})
			require.NoError(t, err)
			_, st, err := th.Wait(hog)
			require.NoError(t, err)
			require.Equal(t, KilledBy(SIGKILL), st)
			for i := range uint64(20 << 12) {
				if th.Load8(a+i) != 3 {
					t.Fatalf("byte %d", i)
				}
			}
		})
		require.NoError(t, out.Err())
		require.Len(t, out.Victims, 1)
		v := out.Victims[0]
		assert.Equal(t, 2, v.PID)
		assert.Positive(t, v.Score)
		assert.Contains(t, v.String(), "invoked oom-killer")
		atRest(t, m)
	})
}
