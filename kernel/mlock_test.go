package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Locked pages stay where they are under pressure, and go back to the lists when they are
// unlocked.
func TestMlockedPagesStay(t *testing.T) {
	swapRegimes(t, 2, 4, func(t *testing.T, o Options) {
		const kept = 24
		m, _ := run(t, small(o), func(th *Thread) {
			m := th.m
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(kept << 12)
			th.Fill(a, kept/2<<12, 1) // half of it is there already
			require.NoError(t, th.Mlock(a, kept<<12))
			assert.EqualValues(t, kept, m.trace.Gauge(trace.NrMlock))
			big := th.MustMmap(400 << 12)
			th.Fill(big, 400<<12, 2)
			for i := range uint64(kept) {
				assert.True(t, m.sys.PeekPTEOf(th.p.space.ID, a+i<<12).Present(), "page %d", i)
			}
			assert.Positive(t, m.trace.Sum(trace.PSwpOut))
			pid, err := th.Fork(func(c *Thread) {
				c.Store8(a, 9) // the copy is not locked
				assert.Equal(t, uint8(1), c.Load8(a+4096))
			})
			require.NoError(t, err)
			_, _, _ = th.Wait(pid)
			require.NoError(t, th.Munlock(a, kept<<12))
			assert.EqualValues(t, 0, m.trace.Gauge(trace.NrMlock))
			th.Fill(big, 400<<12, 3)
			assert.Equal(t, uint8(1), th.Load8(a))

			assert.Equal(t, unix.EINVAL, th.Mlockall(0))
			require.NoError(t, th.Munmap(big, 400<<12))
			require.NoError(t, th.Mlockall(mm.MCLCurrent|mm.MCLFuture))
			more := th.MustMmap(4 << 12)
			assert.True(t, m.sys.PeekPTEOf(th.p.space.ID, more).Present())
			require.NoError(t, th.Munlockall())
			assert.EqualValues(t, 0, m.trace.Gauge(trace.NrMlock))
			assert.Equal(t, unix.ENOMEM, th.Mlock(a+1<<40, 4096))
			require.NoError(t, th.Mlock(a, 4096)) // and exit with it
		})
		assert.EqualValues(t, 0, m.trace.Gauge(trace.NrMlock))
		assert.EqualValues(t, 0, m.trace.Gauge(trace.NrUnevictable))
	})
}

// nr_unevictable is what lies on the unevictable list: locked pages, until they are unlocked.
// Neither tmpfs nor swap accounts dirty pages (BDI_CAP_NO_ACCT_DIRTY), so nr_dirty stays 0.
func TestUnevictableIsCounted(t *testing.T) {
	run(t, Options{CPUs: 1}, func(th *Thread) {
		const n = 6
		tr := th.m.trace
		a, s := th.MustMmap(n<<12), th.MustMmapShared(n<<12)
		require.NoError(t, th.Mlock(a, n<<12))
		require.NoError(t, th.Mlock(s, n<<12))
		th.Fill(s, n<<12, 1)
		assert.EqualValues(t, 2*n, tr.Gauge(trace.NrUnevictable))
		assert.EqualValues(t, 0, tr.Gauge(trace.NrDirty))
		require.NoError(t, th.Munlock(a, n<<12))
		assert.EqualValues(t, n, tr.Gauge(trace.NrUnevictable))
		require.NoError(t, th.Munlock(s, n<<12))
		assert.EqualValues(t, 0, tr.Gauge(trace.NrUnevictable))
	})
}

// A store after fork copies a locked page away from its owner: the old page is not locked
// any more (clear_page_mlock), the new one is.
func TestCopyOfALockedPage(t *testing.T) {
	m, _ := run(t, Options{CPUs: 1}, func(th *Thread) {
		a := th.MustMmap(4096)
		require.NoError(t, th.Mlock(a, 4096))
		cleared := th.m.trace.Sum(trace.UnevictablePGsCleared)
		pid, err := th.Fork(func(c *Thread) { c.Usleep(1000) })
		require.NoError(t, err)
		th.Store8(a, 1)
		assert.EqualValues(t, 1, th.m.trace.Sum(trace.UnevictablePGsCleared)-cleared)
		assert.EqualValues(t, 1, th.m.trace.Gauge(trace.NrMlock))
		_, _, _ = th.Wait(pid)
	})
	assert.EqualValues(t, 0, m.trace.Gauge(trace.NrMlock))
}

// mlock gets its pages sixteen at a time and stops at the first that it cannot have. That there is no memory is
// EAGAIN (__mlock_posix_error_return), and that nothing may be there is ENOMEM; what is there by then is marked.
func TestMlockErrors(t *testing.T) {
	run(t, Options{CPUs: 1}, func(th *Thread) {
		a := th.MustMmap(40 << 12)
		th.m.FailAt("do_anonymous_page", 17) // the first of the second call
		assert.Equal(t, unix.EAGAIN, th.Mlock(a, 40<<12))
		th.m.FailNever()
		assert.EqualValues(t, 16, th.m.trace.Gauge(trace.NrMlock))
		require.NoError(t, th.Munlock(a, 40<<12))
		require.NoError(t, th.Mprotect(a, 4096, mm.ProtNone))
		assert.Equal(t, unix.ENOMEM, th.Mlock(a, 4096))
	})
}
