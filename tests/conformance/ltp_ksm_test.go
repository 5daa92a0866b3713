package conformance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// LTP's cases of KSM.
var ltpKSM = []ltpCase{
	{"ksm01: programs with the same contents, one of which changes a byte", func(t *testing.T, th *kernel.Thread) {
		const each = 4
		stage := mapped(t, th, 1, rw, shared)
		at := func(c *kernel.Thread, n uint32) {
			for c.Load32(stage) < n {
				_ = c.FutexWait(stage, c.Load32(stage), 100_000, kernel.FutexShared)
			}
		}
		ready := mapped(t, th, 1, rw, shared)
		for i := range 3 {
			_, err := th.Fork(func(c *kernel.Thread) {
				a := mapped(t, c, each, rw, private)
				c.Fill(a, each*pg, byte('a'+i/2)) // a, a, b
				if c.Madvise(a, each*pg, mm.MadvMergeable) != nil {
					c.Exit(1)
				}
				drainOwn(t, c)
				c.Add32(ready, 1)
				at(c, 1)
				if i == 0 {
					c.Store8(a+pg+1, 'x')
				}
				drainOwn(t, c)
				c.Add32(ready, 1)
				at(c, 2)
				want := byte('a' + i/2)
				for p := range uint64(each) {
					changed := i == 0 && p == 1
					if c.Load8(a+p*pg) != want || (c.Load8(a+p*pg+1) == 'x') != changed {
						c.Exit(2)
					}
				}
			})
			require.NoError(t, err)
		}
		wait := func(n uint32) {
			for th.Load32(ready) < n {
				require.NoError(t, th.Nanosleep(50_000))
			}
		}
		next := func() {
			th.Add32(stage, 1)
			_, err := th.FutexWake(stage, 10, kernel.FutexShared)
			require.NoError(t, err)
		}
		wait(3)
		st := merges(t, th, 3*each-2)
		assert.EqualValues(t, 2, st.PagesShared)
		next()
		wait(6)
		st = merges(t, th, 3*each-3)
		assert.Equal(t, [3]uint64{2, 1, 0}, [3]uint64{st.PagesShared, st.PagesUnshared, st.PagesVolatile})
		assert.GreaterOrEqual(t, st.FullScans, uint64(4))
		require.NoError(t, th.KSMRun(mm.KSMRunUnmerge))
		st = th.Machine().KSMStats()
		assert.Zero(t, st.PagesShared+st.PagesSharing)
		next()
		for range 3 {
			_, status, err := th.Wait(-1)
			require.NoError(t, err)
			assert.Equal(t, kernel.Exited(0), status)
		}
	}},
	{"ksm04: advice, again and on what cannot be merged", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		th.Fill(a, 3*pg, 1)
		for range 2 {
			assert.NoError(t, th.Madvise(a, 3*pg, mm.MadvMergeable))
		}
		merges(t, th, 2)
		for range 2 {
			assert.NoError(t, th.Madvise(a, 3*pg, mm.MadvUnmergeable))
		}
		require.NoError(t, th.KSMScan(1)) // which finds that they are gone
		assert.Zero(t, th.Machine().KSMStats().PagesSharing)
		assert.NoError(t, th.Madvise(mapped(t, th, 1, rw, shared), pg, mm.MadvMergeable), "left alone, without an error")
		errno(t, unix.EINVAL, th.KSMRun(3))
	}},
	{"ksm05: a mergeable process ends while ksmd scans", func(t *testing.T, th *kernel.Thread) {
		th.Machine().SetKSMTunables(mm.KSMTunables{PagesToScan: 20, SleepMillisecs: 1})
		require.NoError(t, th.KSMRun(mm.KSMRunMerge))
		for range 4 {
			children(t, th, 2, func(c *kernel.Thread, i int) {
				a := mapped(t, c, 8, rw, private)
				c.Fill(a, 8*pg, 5)
				_ = c.Madvise(a, 8*pg, mm.MadvMergeable)
				_ = c.Nanosleep(uint64(i+1) * 700_000)
			})
		}
		require.NoError(t, th.KSMRun(mm.KSMRunUnmerge))
	}},
}

// drainOwn empties the pagevecs of the CPU that the thread runs on, whose references keep pages
// from being merged. Who sleeps afterwards leaves nothing behind there.
func drainOwn(t *testing.T, c *kernel.Thread) {
	t.Helper()
	b := mapped(t, c, 1, rw, private)
	_ = c.Madvise(b, pg, mm.MadvDontNeed)
	_ = c.Munmap(b, pg)
}

// merges scans until so many addresses share a KSM page with others. What sits in the pagevec of
// another CPU has a reference too many and is not merged before that CPU has had more pages.
func merges(t *testing.T, th *kernel.Thread, sharing uint64) mm.KSMStats {
	t.Helper()
	for range 50 {
		require.NoError(t, th.KSMScan(2))
		if th.Machine().KSMStats().PagesSharing == sharing {
			break
		}
		threads(t, th, 3, func(w *kernel.Thread, _ int) {
			a := mapped(t, w, 16, rw, private)
			w.Fill(a, 16*pg, 1)
			_ = w.Nanosleep(1000)
			_ = w.Munmap(a, 16*pg)
		})
	}
	st := th.Machine().KSMStats()
	require.Equal(t, sharing, st.PagesSharing)
	return st
}
