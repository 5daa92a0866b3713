package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// mlock and relatives, madvise, mincore.
var ltpLocked = []ltpCase{
	{"madvise01, madvise02: advice and errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		for _, ok := range []mm.Advice{mm.MadvNormal, mm.MadvRandom, mm.MadvSequential, mm.MadvDontNeed, mm.MadvDontFork, mm.MadvDoFork} {
			assert.NoError(t, th.Madvise(a, 4*pg, ok))
		}
		assert.ErrorIs(t, th.Madvise(a+100, pg, mm.MadvNormal), unix.EINVAL)
		assert.ErrorIs(t, th.Madvise(a, pg, 12345), unix.EINVAL)
		assert.ErrorIs(t, th.Madvise(a, pg, mm.MadvWillNeed), unix.EBADF)
		require.NoError(t, th.Munmap(a+pg, pg))
		assert.ErrorIs(t, th.Madvise(a, 4*pg, mm.MadvNormal), unix.ENOMEM)
		s := mapped(t, th, 2, rw, shared)
		assert.NoError(t, th.Madvise(s, 2*pg, mm.MadvWillNeed))
		l := mapped(t, th, 1, rw, private|mm.MapLocked)
		assert.ErrorIs(t, th.Madvise(l, pg, mm.MadvDontNeed), unix.EINVAL)
	}},
	{"madvise03: DONTNEED gives zeroes, shared memory keeps", func(t *testing.T, th *kernel.Thread) {
		a, s := mapped(t, th, 2, rw, private), mapped(t, th, 2, rw, shared)
		th.Fill(a, 2*pg, 3)
		th.Fill(s, 2*pg, 3)
		assert.NoError(t, th.Madvise(a, pg, mm.MadvDontNeed))
		assert.NoError(t, th.Madvise(s, pg, mm.MadvDontNeed))
		assert.Zero(t, th.Load8(a))
		assert.EqualValues(t, 3, th.Load8(a+pg))
		assert.EqualValues(t, 3, th.Load8(s))
	}},
	{"mincore01: errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		_, err := th.Mincore(a+1, pg)
		assert.ErrorIs(t, err, unix.EINVAL)
		_, err = th.Mincore(a, 1<<62)
		assert.ErrorIs(t, err, unix.ENOMEM)
		require.NoError(t, th.Munmap(a+pg, pg))
		vec, err := th.Mincore(a, 3*pg)
		assert.ErrorIs(t, err, unix.ENOMEM)
		assert.Len(t, vec, 1)
	}},
	{"mincore03: anonymous, untouched and touched", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		vec, err := th.Mincore(a, 4*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{0, 0, 0, 0}, vec)
		th.Store8(a+2*pg, 1)
		vec, err = th.Mincore(a, 4*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{0, 0, 1, 0}, vec)
	}},
	{"mincore04: shared memory that a child has touched", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, shared)
		pid, err := th.Fork(func(c *kernel.Thread) { c.Fill(a, 2*pg, 1) })
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		vec, err := th.Mincore(a, 3*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{1, 1, 0}, vec)
	}},
	{"madvise05: WILLNEED where there is nothing to read", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, mm.ProtRead, private)
		require.NoError(t, th.Munmap(a+pg, pg))
		errno(t, unix.EBADF, th.Madvise(a, 3*pg, mm.MadvWillNeed), "2.6.29: no file")
		errno(t, unix.ENOMEM, th.Madvise(a+pg, pg, mm.MadvWillNeed))
	}},
	{"mincore02: locked shared memory is all there", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 5, rw, shared)
		require.NoError(t, th.Mlock(a, 5*pg))
		vec, err := th.Mincore(a, 5*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{1, 1, 1, 1, 1}, vec)
	}},
	{"mlock01: memory of many lengths", func(t *testing.T, th *kernel.Thread) {
		for _, n := range []uint64{1, 1024, 10240, 102400} {
			pages := (n + pg - 1) / pg
			a := mapped(t, th, pages, rw, private)
			require.NoError(t, th.Mlock(a, n))
			assert.Equal(t, pages, th.MM().LockedVM)
			vec, err := th.Mincore(a, pages*pg)
			assert.NoError(t, err)
			assert.NotContains(t, vec, byte(0))
			require.NoError(t, th.Munlock(a, n))
			assert.Zero(t, th.MM().LockedVM)
		}
	}},
	{"mlock02, munlock02: a hole is ENOMEM", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		require.NoError(t, th.Munmap(a+pg, pg))
		errno(t, unix.ENOMEM, th.Mlock(a, 3*pg))
		errno(t, unix.ENOMEM, th.Munlock(a, 3*pg))
		errno(t, unix.ENOMEM, th.Mlock(a+pg, pg))
		errno(t, unix.ENOMEM, th.Munlock(a+pg, pg))
		errno(t, unix.EINVAL, th.Mlock(a, ^uint64(0)-a), "it wraps")
	}},
	{"mlock03: every mapping of the process, and back", func(t *testing.T, th *kernel.Thread) {
		mapped(t, th, 3, rw, private)
		_, err := th.Sbrk(2 * pg)
		require.NoError(t, err)
		for range 2 {
			for line := range strings.Lines(th.Maps()) {
				var from, to uint64
				_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
				require.NoError(t, err)
				assert.NoError(t, th.Mlock(from, to-from), line)
				assert.NoError(t, th.Munlock(from, to-from), line)
			}
		}
		assert.Zero(t, th.MM().LockedVM)
	}},
	{"mlock04: shared memory, locked and unlocked by parts", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 6, rw, shared)
		n := th.MM().MapCount
		require.NoError(t, th.Mlock(a, 6*pg))
		require.NoError(t, th.Munlock(a+2*pg, 2*pg))
		assert.Equal(t, n+2, th.MM().MapCount)
		assert.EqualValues(t, 4, th.MM().LockedVM)
		require.NoError(t, th.Munlock(a, 6*pg))
		assert.Equal(t, n, th.MM().MapCount, "it merges")
	}},
	{"mlock05: Rss in smaps is all of it", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 16, rw, private)
		require.NoError(t, th.Mlock(a, 16*pg))
		_, of, ok := strings.Cut(th.Smaps(), fmt.Sprintf("%x-", a))
		require.True(t, ok)
		assert.Regexp(t, `(?s)^[^R]*Rss: +64 kB`, of)
	}},
	{"mlockall01, munlockall01: current and future", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		require.NoError(t, th.Mlockall(mm.MCLCurrent))
		vec, err := th.Mincore(a, 4*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{1, 1, 1, 1}, vec)
		b := mapped(t, th, 1, rw, private|mm.MapNoReserve)
		vec, _ = th.Mincore(b, pg)
		assert.Equal(t, []byte{0}, vec, "not the future")
		require.NoError(t, th.Mlockall(mm.MCLFuture))
		c := mapped(t, th, 2, rw, private)
		vec, _ = th.Mincore(c, 2*pg)
		assert.Equal(t, []byte{1, 1}, vec)
		pid, err := th.Fork(func(k *kernel.Thread) {
			assert.Zero(t, k.MM().LockedVM, "not inherited")
		})
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
		require.NoError(t, th.Munlockall())
		assert.Zero(t, th.MM().LockedVM)
		d := mapped(t, th, 1, rw, private|mm.MapNoReserve)
		vec, _ = th.Mincore(d, pg)
		assert.Equal(t, []byte{0}, vec)
	}},
	{"mlockall02: RLIMIT_MEMLOCK of who is not root", func(t *testing.T, th *kernel.Thread) {
		mapped(t, th, 4, rw, private)
		l := &th.MM().Limits
		l.Unprivileged, l.Memlock = true, 2*pg
		errno(t, unix.ENOMEM, th.Mlockall(mm.MCLCurrent), "more than the limit")
		l.Memlock = 1 << 30
		assert.NoError(t, th.Mlockall(mm.MCLCurrent))
		assert.NoError(t, th.Munlockall())
	}},
	{"mlockall03: flags that there are not", func(t *testing.T, th *kernel.Thread) {
		errno(t, unix.EINVAL, th.Mlockall(0))
		errno(t, unix.EINVAL, th.Mlockall(8))
		errno(t, unix.EINVAL, th.Mlockall(^(mm.MCLCurrent | mm.MCLFuture)))
	}},
	{"munlock01: twice, and what was never locked", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		th.Fill(a, 4*pg, 5)
		assert.NoError(t, th.Munlock(a, 4*pg))
		assert.NoError(t, th.Mlock(a, pg))
		assert.NoError(t, th.Munlock(a, pg))
		assert.NoError(t, th.Munlock(a, pg))
		assert.EqualValues(t, 5, th.Load8(a))
	}},
}
