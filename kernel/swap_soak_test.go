package kernel

import (
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// soakSeeds is how many schedules of the small form are run: go test ./kernel -run Soak
// -args -soak 5000
var soakSeeds = flag.Uint64("soak", 0, "schedules of the small swap soak; 0 is a few")

// soakSmall is a program of few pages that reclaims by advice: threads that store, page
// out, fork, read from a disk, drop memory and turn swap off, all on the same pages. Each
// page keeps its number beside what is written to it, so that a page that is lost,
// stale or somebody else's shows.
func soakSmall(t *testing.T, pages uint64, rounds int) func(*Thread) {
	return func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		a := th.MustMmap(pages << 12)
		for i := range pages {
			th.Store64(a+i<<12, i)
		}
		check := func(who string, c *Thread) {
			for i := range pages {
				if got := c.Load64(a + i<<12); got != i {
					t.Errorf("%s: page %d is %#x", who, i, got)
				}
			}
		}
		_ = th.Madvise(a, pages<<12, mm.MadvPageout) // before they sit in another CPU's pagevec
		pager := th.Go("pager", func(c *Thread) {
			for range rounds {
				_ = c.Madvise(a, pages<<12, mm.MadvPageout)
			}
		})
		storer := th.Go("storer", func(c *Thread) {
			for r := range uint64(rounds) {
				for i := range pages {
					c.Store64(a+i<<12+8, r+1)
					if got := c.Load64(a + i<<12 + 8); got != r+1 {
						t.Errorf("storer: page %d round %d is %d", i, r, got)
					}
				}
			}
		})
		locker := th.Go("locker", func(c *Thread) {
			for i := range pages {
				_ = c.Mlock(a+i<<12, 4096)
				_ = c.Munlock(a, (i+1)<<12)
			}
		})
		_, err = th.Pread(fd, a+2048, 512, 512)
		require.NoError(t, err)
		pid, err := th.Fork(func(c *Thread) {
			check("child", c)
			_ = c.Madvise(a, pages<<12, mm.MadvPageout)
			for i := range pages {
				c.Store64(a+i<<12+16, 99)
			}
			check("child", c)
		})
		require.NoError(t, err)
		_ = th.Swapoff(swapDev)
		check("parent", th)
		_ = th.Swapon(swapDev, 0)
		_, _ = th.Pwrite(fd, a, 512, 0)
		_ = th.Join(pager)
		_ = th.Join(locker)
		_ = th.Join(storer)
		_, st, _ := th.Wait(pid)
		assert.Equal(t, Exited(0), st)
		check("parent", th)
		for i := range pages {
			if th.Load64(a+i<<12+16) == 99 {
				t.Errorf("parent: page %d shows the child's store", i)
			}
		}
	}
}

func TestSwapSoakSmall(t *testing.T) {
	seeds := *soakSeeds
	if seeds == 0 {
		seeds = 60
		if testing.Short() {
			seeds = 8
		}
	}
	var written, read, hits uint64
	for seed := *firstSeed; seed < *firstSeed+seeds; seed++ {
		o := Options{CPUs: 3, Regime: sched.Free, Strategy: sched.NewRandom(seed)}
		switch seed % 4 {
		case 1:
			o.Strategy = sched.NewPCT(seed, 4, 20_000)
		case 2:
			o.Preempt = sched.PreemptFull
		}
		m := boot(t, small(withDisk(o)))
		m.MM().SetPageCluster(int(seed % 3))
		m.MM().SetOvercommit(mm.OvercommitAlways, 0)
		m.CheckSteps(97, nil)
		out := m.Run(soakSmall(t, 4, 3))
		require.NoError(t, out.Err(), "seed %d", seed)
		written += m.Trace().Sum(trace.PSwpOut)
		read += m.Trace().Sum(trace.PSwpIn)
		hits += m.Trace().Sum(trace.EmuSwapCacheHits)
		m.Sched().SetObserver(nil)
		assert.Empty(t, m.Check(), "seed %d", seed)
		assert.Empty(t, m.Leaks(), "seed %d", seed)
		m.Shutdown()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d schedules: %d pages written, %d read, %d found in the swap cache", seeds, written, read, hits)
	assert.Positive(t, min(written, read, hits))
}

// The large form: a working set of three times RAM in several processes and threads, forks
// and direct reads, in the parallel regime.
func TestSwapSoak(t *testing.T) {
	const pages, workers = 3072, 3
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	o := small(withDisk(Options{CPUs: 4}))
	// With 256 frames instead of 1024 the OOM killer still comes now and then though swap
	// is nearly empty, as it would in 2.6.29: see FIDELITY.md at do_try_to_free_pages.
	o.Memory = 4 << 20
	o.Disks[1].Size = 16384 << 12
	m := boot(t, o)
	m.MM().SetOvercommit(mm.OvercommitAlways, 0)
	out := m.Run(func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		a := th.MustMmap(pages << 12)
		var joins []*Thread
		for w := range uint64(workers) {
			joins = append(joins, th.Go(fmt.Sprint("worker", w), func(c *Thread) {
				for r := range uint64(rounds) {
					for i := w; i < pages; i += workers {
						c.Store64(a+i<<12, pattern(i, r))
						if i%50 == w {
							if _, err := c.Pread(fd, a+i<<12+1024, 512, 1024); err != nil {
								t.Errorf("read: %v", err)
							}
						}
					}
					for i := w; i < pages; i += workers {
						if got := c.Load64(a + i<<12); got != pattern(i, r) {
							t.Errorf("worker %d round %d page %d: %#x", w, r, i, got)
						}
					}
				}
			}))
		}
		for range rounds {
			pid, err := th.Fork(func(c *Thread) {
				for i := uint64(0); i < pages; i += 7 {
					c.Store64(a+i<<12+64, i)
				}
				for i := uint64(0); i < pages; i += 7 {
					if c.Load64(a+i<<12+64) != i {
						t.Errorf("child: page %d", i)
					}
				}
			})
			require.NoError(t, err)
			_, st, _ := th.Wait(pid)
			assert.Equal(t, Exited(0), st)
		}
		for _, j := range joins {
			_ = th.Join(j)
		}
		for i := uint64(0); i < pages; i += 7 {
			if th.Load64(a+i<<12+64) != 0 {
				t.Errorf("parent: page %d shows a child's store", i)
			}
		}
	})
	require.NoError(t, out.Err())
	assert.Empty(t, out.Victims)
	assert.Positive(t, m.Trace().Sum(trace.PSwpIn))
	atRest(t, m)
}
