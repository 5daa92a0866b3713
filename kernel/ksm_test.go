package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

const ksmPages = 40 // more than a pagevec holds, on any CPU

// mergeable maps n equal pages, and one that is not, that KSM may merge.
func mergeable(t testing.TB, th *Thread, n uint64, v byte) uint64 {
	a := th.MustMmap((n + 1) << 12)
	require.NoError(t, th.Madvise(a, (n+1)<<12, mm.MadvMergeable))
	th.Fill(a, n<<12, v)
	th.Fill(a+n<<12, 4096, v+1)
	return a
}

// pfnOf returns what the process's pte maps.
func pfnOf(th *Thread, addr uint64) x86.PFN { return th.m.sys.PeekPTEOf(th.p.space.ID, addr).PFN() }

// isKSM reports whether a KSM page is mapped at addr.
func isKSM(th *Thread, addr uint64) bool {
	e := th.m.sys.PeekPTEOf(th.p.space.ID, addr)
	return e.Present() && th.m.pages.Page(e.PFN()).KSM()
}

// ksmRun runs fn on a machine with KSM in the timed regime.
func ksmRun(t *testing.T, o Options, fn func(th *Thread)) *Machine {
	t.Helper()
	o.KSM = true
	o.Regime = sched.Timed
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	m, _ := run(t, o, fn)
	return m
}

func TestKSMMergesEqualPages(t *testing.T) {
	m := ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		free := th.m.pages.FreePages()
		require.NoError(t, th.KSMScan(1))
		assert.Equal(t, mm.KSMStats{PagesVolatile: ksmPages + 1, FullScans: 1}, th.m.KSMStats(), "first the checksums")
		require.NoError(t, th.KSMScan(1))
		assert.Equal(t, mm.KSMStats{PagesShared: 1, PagesSharing: ksmPages - 1, PagesUnshared: 1, FullScans: 2}, th.m.KSMStats())
		assert.Equal(t, "pages_shared 1\npages_sharing 39\npages_unshared 1\npages_volatile 0\nfull_scans 2\n", th.m.KSMStats().String())
		for i := range uint64(ksmPages) {
			require.True(t, isKSM(th, a+i<<12))
			require.Equal(t, pfnOf(th, a), pfnOf(th, a+i<<12))
			require.False(t, th.m.sys.PeekPTEOf(th.p.space.ID, a+i<<12).Write())
			require.Equal(t, byte(1), th.Load8(a+i<<12+4095))
		}
		assert.False(t, isKSM(th, a+ksmPages<<12))
		th.m.pages.FreePages()
		assert.Greater(t, th.m.pages.FreePages(), free+20, "the pages are free")
		// A later copy joins at once: the stable tree asks for no checksum.
		b := mergeable(t, th, 20, 1)
		require.NoError(t, th.KSMScan(1))
		assert.Equal(t, pfnOf(th, a), pfnOf(th, b))
	})
	assert.Equal(t, uint64(ksmPages+20), m.Trace().Sum(trace.EmuKSMMerges))
}

// A store to a merged page is a copy, whoever else has the page, and however many.
func TestKSMUnmergesByWrite(t *testing.T) {
	m := ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		for i := range uint64(ksmPages) {
			th.Store8(a+i<<12, byte(100+i)) // the last one too: a KSM page is never reused
			require.False(t, isKSM(th, a+i<<12))
		}
		for i := range uint64(ksmPages) {
			require.Equal(t, byte(100+i), th.Load8(a+i<<12))
			require.Equal(t, byte(1), th.Load8(a+i<<12+1))
		}
		require.NoError(t, th.KSMScan(2))
		assert.Zero(t, th.m.KSMStats().PagesShared)
	})
	assert.Equal(t, uint64(ksmPages), m.Trace().Sum(trace.EmuKSMBreaks))
}

func TestKSMUnmergesByAdvice(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		require.NoError(t, th.Madvise(a+4096, 4*4096, mm.MadvUnmergeable))
		for i := range uint64(ksmPages) {
			require.Equal(t, i < 1 || i >= 5, isKSM(th, a+i<<12), "page %d", i)
			require.Equal(t, byte(1), th.Load8(a+i<<12))
		}
		require.NoError(t, th.KSMScan(2))
		assert.Equal(t, uint64(ksmPages-4-1), th.m.KSMStats().PagesSharing, "they are not merged again")
	})
}

// A VMA that is not writable has its copies too: they are its own, and read-only.
func TestKSMUnmergesReadOnlyMemory(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.Mprotect(a, ksmPages<<12, mm.ProtRead))
		require.NoError(t, th.KSMScan(2))
		require.True(t, isKSM(th, a))
		require.NoError(t, th.Madvise(a, ksmPages<<12, mm.MadvUnmergeable))
		require.False(t, isKSM(th, a))
		require.NotEqual(t, pfnOf(th, a), pfnOf(th, a+4096))
		assert.Error(t, th.TryStore8(a, 1))
	})
}

func TestKSMRunTwoUnmergesEverything(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		require.NoError(t, th.KSMRun(mm.KSMRunUnmerge))
		assert.Equal(t, mm.KSMStats{}, th.m.KSMStats())
		for i := range uint64(ksmPages) {
			require.False(t, isKSM(th, a+i<<12))
		}
		require.NoError(t, th.KSMScan(2), "the memory is still mergeable")
		assert.True(t, isKSM(th, a))
		assert.Equal(t, unix.EINVAL, th.KSMRun(3))
		assert.Equal(t, unix.EINVAL, th.KSMRun(-1))
	})
}

func TestKSMAfterFork(t *testing.T) {
	ksmRun(t, Options{CPUs: 2}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		pid, err := th.Fork(func(c *Thread) {
			for i := range uint64(ksmPages) {
				if c.Load8(a+i<<12) != 1 || !isKSM(c, a+i<<12) {
					c.Exit(1)
				}
			}
			c.Store8(a, 9)
			if isKSM(c, a) || c.KSMScan(1) != nil || c.Load8(a) != 9 || c.Load8(a+4096) != 1 {
				c.Exit(2)
			}
			// The child's addresses have items of their own now.
			if n := c.m.KSMStats().PagesSharing; n != 2*ksmPages-2 {
				c.Exit(int(n))
			}
			if c.Madvise(a, ksmPages<<12, mm.MadvUnmergeable) != nil || isKSM(c, a+4096) {
				c.Exit(3)
			}
		})
		require.NoError(t, err)
		_, st, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, Exited(0), st)
		assert.True(t, isKSM(th, a))
		require.NoError(t, th.KSMScan(2))
		assert.Equal(t, uint64(ksmPages-1), th.m.KSMStats().PagesSharing, "the child's items have gone")
	})
}

// What fork shares is shared already: no KSM page is made of it.
func TestKSMLeavesForkedPagesAlone(t *testing.T) {
	ksmRun(t, Options{CPUs: 2}, func(th *Thread) {
		a := th.MustMmap(ksmPages << 12)
		require.NoError(t, th.Madvise(a, ksmPages<<12, mm.MadvMergeable))
		for i := range uint64(ksmPages) {
			th.Store64(a+i<<12, i) // all different
		}
		pid, err := th.Fork(func(c *Thread) { _ = c.Nanosleep(1_000_000_000) })
		require.NoError(t, err)
		require.NoError(t, th.Nanosleep(1_000_000))
		require.NoError(t, th.KSMScan(3))
		assert.Zero(t, th.m.KSMStats().PagesShared)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
	})
}

// Two processes that never had anything in common share a page.
func TestKSMMergesAcrossProcesses(t *testing.T) {
	ksmRun(t, Options{CPUs: 2}, func(th *Thread) {
		pid, err := th.Fork(func(c *Thread) {
			mergeable(t, c, ksmPages, 7)
			require.NoError(t, c.Nanosleep(1_000_000_000))
		})
		require.NoError(t, err)
		a := mergeable(t, th, ksmPages, 7)
		require.NoError(t, th.Nanosleep(1_000_000))
		require.NoError(t, th.KSMScan(3))
		assert.Equal(t, uint64(1), th.m.KSMStats().PagesShared)
		assert.Greater(t, th.m.KSMStats().PagesSharing, uint64(ksmPages))
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		require.NoError(t, th.KSMScan(1))
		assert.True(t, isKSM(th, a))
		assert.Equal(t, uint64(ksmPages-1), th.m.KSMStats().PagesSharing)
	})
}

// The last to share a page gets an ordinary one again in the next pass.
func TestKSMPageOfOneIsGivenBack(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		require.NoError(t, th.Munmap(a+4096, (ksmPages-1)<<12))
		require.True(t, isKSM(th, a))
		require.NoError(t, th.KSMScan(1))
		assert.False(t, isKSM(th, a))
		assert.Zero(t, th.m.KSMStats().PagesShared)
		assert.Equal(t, byte(1), th.Load8(a))
	})
}

// A page that changes between two passes is left alone.
func TestKSMLeavesVolatilePagesAlone(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 0)
		for round := range byte(5) {
			th.Fill(a, ksmPages<<12, round)
			require.NoError(t, th.KSMScan(1))
		}
		assert.Zero(t, th.m.KSMStats().PagesShared)
		assert.Equal(t, uint64(ksmPages), th.m.KSMStats().PagesVolatile)
	})
}

func TestKSMHasABound(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		th.m.SetKSMTunables(mm.KSMTunables{MaxKernelPages: 2})
		for v := range byte(4) {
			mergeable(t, th, ksmPages, 10*v)
		}
		require.NoError(t, th.KSMScan(3))
		assert.Equal(t, uint64(2), th.m.KSMStats().PagesShared)
		th.m.SetKSMTunables(mm.KSMTunables{MaxKernelPages: ^uint64(0)})
		require.NoError(t, th.KSMScan(2))
		assert.Equal(t, uint64(4), th.m.KSMStats().PagesShared)
	})
}

func TestKSMOnlyIfAskedFor(t *testing.T) {
	run(t, Options{}, func(th *Thread) {
		a := th.MustMmap(4096)
		assert.Equal(t, unix.EINVAL, th.Madvise(a, 4096, mm.MadvMergeable))
		assert.Equal(t, unix.EINVAL, th.Madvise(a, 4096, mm.MadvUnmergeable))
		assert.Equal(t, unix.EINVAL, th.KSMRun(mm.KSMRunMerge))
		assert.Equal(t, unix.EINVAL, th.KSMScan(1))
	})
	ksmRun(t, Options{}, func(th *Thread) {
		a := th.MustMmapShared(ksmPages << 12)
		assert.NoError(t, th.Madvise(a, ksmPages<<12, mm.MadvMergeable), "ignored")
		th.Fill(a, ksmPages<<12, 1)
		b := th.MustMmap(ksmPages << 12)
		th.Fill(b, ksmPages<<12, 1)
		require.NoError(t, th.KSMScan(2))
		assert.Equal(t, mm.KSMStats{}, th.m.KSMStats())
		assert.NotEqual(t, pfnOf(th, b), pfnOf(th, b+4096), "nobody asked for it")
	})
}

// ksmd does by itself what KSMScan does, sleeps when there is nothing to do, and does not keep
// the machine from coming to rest.
func TestKSMD(t *testing.T) {
	swapRegimes(t, 2, 8, func(t *testing.T, o Options) {
		n := uint64(ksmPages)
		if o.Regime == sched.Free {
			o.Memory, o.NoStack, n = 1<<20, true, 3
		}
		o.KSM = true
		m, _ := run(t, o, func(th *Thread) {
			th.m.SetKSMTunables(mm.KSMTunables{PagesToScan: 7, SleepMillisecs: 1})
			require.NoError(t, th.KSMRun(mm.KSMRunMerge))
			a := mergeable(t, th, n, 1)
			scanned := th.m.KSMStats().FullScans
			for th.m.KSMStats().FullScans < scanned+3 {
				require.NoError(t, th.Nanosleep(1_000_000))
			}
			require.Equal(t, byte(1), th.Load8(a))
			th.Store8(a, 2)
			require.NoError(t, th.KSMRun(mm.KSMRunStop))
			require.Equal(t, byte(2), th.Load8(a))
		})
		if o.Regime != sched.Free {
			assert.NotZero(t, m.Trace().Sum(trace.EmuKSMMerges))
		}
	})
}

// mremap breaks up what it moves, and it can be merged again where it is then.
func TestKSMAndMremap(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		to := th.MustMmap(ksmPages << 12)
		require.NoError(t, th.KSMScan(2))
		_, err := th.Mremap(a, 10<<12, 10<<12, mm.MremapMayMove|mm.MremapFixed, to)
		require.NoError(t, err)
		require.False(t, isKSM(th, to))
		require.Equal(t, byte(1), th.Load8(to))
		require.NoError(t, th.KSMScan(1))
		assert.Equal(t, pfnOf(th, a+10<<12), pfnOf(th, to))
	})
}

// In 2.6.32 merged pages are never swapped, and what is in swap is not merged.
func TestKSMAndSwap(t *testing.T) {
	ksmRun(t, withSwapDisk(Options{}, 256), func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		a := mergeable(t, th, ksmPages, 1)
		b := mergeable(t, th, 1, 1)
		require.NoError(t, th.KSMScan(1))
		require.True(t, pageoutTries(th, th.m, b))
		require.NoError(t, th.KSMScan(2))
		require.True(t, th.m.sys.PeekPTEOf(th.p.space.ID, b).IsSwap())
		require.True(t, isKSM(th, a))
		assert.False(t, pageoutTries(th, th.m, a))
		assert.True(t, isKSM(th, a))
		require.Equal(t, byte(1), th.Load8(b))
		require.NoError(t, th.KSMScan(2), "a page of the swap cache may be merged")
		assert.Equal(t, pfnOf(th, a), pfnOf(th, b))
	})
}

// A KSM page in locked, read-only memory is marked, and the mark goes with the mapping.
func TestKSMAndMlock(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		require.NoError(t, th.Mprotect(a, 4<<12, mm.ProtRead))
		require.NoError(t, th.Mlock(a, 8<<12))
		assert.True(t, isKSM(th, a), "read faults suffice")
		assert.False(t, isKSM(th, a+7<<12), "write faults break it up")
		require.NoError(t, th.Munlock(a, 8<<12))
		require.NoError(t, th.Mlock(a, 2<<12))
	})
}

// A page that is pinned through a writable pte is not merged. Behind a read-only pte, as a
// fork leaves it, 2.6.32 does not ask: the device goes on with a page that nobody has.
func TestKSMAndPins(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		last := a + (ksmPages-1)<<12
		r, err := th.RegisterMemory(last, 4096, RegisterOptions{Write: true, Fast: true})
		require.NoError(t, err)
		require.NoError(t, th.KSMScan(3))
		require.False(t, isKSM(th, last))
		require.True(t, isKSM(th, a))
		require.NoError(t, th.DeviceWrite(r, 0, []byte{5}))
		require.Equal(t, byte(5), th.Load8(last))
		require.NoError(t, th.DeviceWrite(r, 0, []byte{1}))

		pid, err := th.Fork(func(*Thread) {})
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		th.Load8(last) // into the TLB
		require.NoError(t, th.KSMScan(3))
		assert.True(t, isKSM(th, last), "merged though it is pinned")
		require.Empty(t, th.m.CheckStep(), "the entry was read-only before, and is flushed all the same")
		require.NoError(t, th.DeviceWrite(r, 0, []byte{5}))
		assert.Equal(t, byte(1), th.Load8(last), "the device's write is lost")
		require.NoError(t, th.UnregisterMemory(r))
	})
}

// A pinned page that comes first in each pass is the one in the unstable tree, and all that are
// equal to it try to merge with it and cannot.
func TestKSMPinnedPageKeepsOthersFromMerging(t *testing.T) {
	ksmRun(t, Options{}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		r, err := th.RegisterMemory(a, 4096, RegisterOptions{Write: true, Fast: true})
		require.NoError(t, err)
		require.NoError(t, th.KSMScan(4))
		assert.Zero(t, th.m.KSMStats().PagesShared)
		require.NoError(t, th.UnregisterMemory(r))
		require.NoError(t, th.KSMScan(1))
		assert.Equal(t, uint64(ksmPages-1), th.m.KSMStats().PagesSharing)
	})
}

// refuseKSM is a policy that never has a page merged.
type refuseKSM struct {
	mm.Stock
	asked *int
}

func (refuseKSM) Name() string      { return "refuse_ksm" }
func (refuseKSM) Hooks() mm.HookSet { return mm.HookKSM }
func (r refuseKSM) KSM(u *mm.Unmap) bool {
	if *r.asked++; u.Ref.Peek() != 0 || u.PTE.PFN() != u.T.M.Local.(*mm.System).Pages.PFN(u.Page) {
		u.T.Oops("KSM hook: %+v", u)
	}
	return false
}

// The policy has the last word, with the pte cleared and flushed; if it says no the pte is as
// it was.
func TestKSMAsksThePolicy(t *testing.T) {
	asked := 0
	ksmRun(t, Options{Policy: refuseKSM{asked: &asked}}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		before := th.m.sys.PeekPTEOf(th.p.space.ID, a)
		require.NoError(t, th.KSMScan(3))
		assert.False(t, isKSM(th, a))
		assert.Equal(t, before, th.m.sys.PeekPTEOf(th.p.space.ID, a))
		assert.Equal(t, byte(1), th.Load8(a))
	})
	assert.NotZero(t, asked)
	ksmRun(t, Options{ForceHooks: true}, func(th *Thread) {
		a := mergeable(t, th, ksmPages, 1)
		require.NoError(t, th.KSMScan(2))
		assert.True(t, isKSM(th, a), "stock says yes")
	})
}
