package conformance

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// LTP's cases of private huge pages, written for a machine that has MAP_HUGETLB and a pool
// of a dozen pages of 2 MiB. They run once the kind hugetlb2M is among Kinds.
var ltpHuge = []ltpCase{
	{"hugefork01: the parent's stores do not reach the child", func(t *testing.T, th *kernel.Thread) {
		a := hugeMapped(t, th, 1)
		th.Fill(a, hp, 'P')
		w := mapped(t, th, 1, rw, shared)
		pid, err := th.Fork(func(c *kernel.Thread) {
			for c.Load32(w) == 0 {
				_ = c.FutexWait(w, 0, 0, kernel.FutexShared)
			}
			if c.Load8(a) != 'P' || c.Load8(a+hp-1) != 'P' {
				c.Exit(1)
			}
		})
		require.NoError(t, err)
		th.Fill(a, hp, 'Q')
		th.Store32(w, 1)
		_, err = th.FutexWake(w, 1, kernel.FutexShared)
		require.NoError(t, err)
		_, st, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, kernel.Exited(0), st)
		assert.EqualValues(t, 'Q', th.Load8(a))
	}},
	{"hugemmap10: the pool's counters through map, touch and unmap", func(t *testing.T, th *kernel.Thread) {
		count := func() (free, rsvd int) {
			s := th.Machine().Meminfo()
			return meminfo(s, "HugePages_Free"), meminfo(s, "HugePages_Rsvd")
		}
		free, rsvd := count()
		a := hugeMapped(t, th, 2)
		f, r := count()
		assert.Equal(t, []int{free, rsvd + 2}, []int{f, r}, "promised")
		th.Store8(a, 1)
		f, r = count()
		assert.Equal(t, []int{free - 1, rsvd + 1}, []int{f, r}, "one is touched")
		require.NoError(t, th.Munmap(a, 2*hp))
		f, r = count()
		assert.Equal(t, []int{free, rsvd}, []int{f, r})
	}},
	{"hugemmap18: lengths and addresses that are not aligned", func(t *testing.T, th *kernel.Thread) {
		a := hugeMapped(t, th, 2)
		errno(t, unix.EINVAL, th.Munmap(a+pg, hp))
		errno(t, unix.EINVAL, th.Munmap(a, hp+pg))
		errno(t, unix.EINVAL, th.Mprotect(a+pg, hp, mm.ProtRead))
		_, err := th.Mmap(a+pg, hp, rw, private|mm.MapHugetlb|mm.MapHuge2M|mm.MapFixed, -1, 0)
		errno(t, unix.EINVAL, err)
	}},
	{"hugemmap21: threads that each break COW", func(t *testing.T, th *kernel.Thread) {
		a := hugeMapped(t, th, 2)
		th.Fill(a, 2*hp, 1)
		children(t, th, 1, func(c *kernel.Thread, _ int) {
			threads(t, c, 2, func(w *kernel.Thread, i int) { w.Fill(a+uint64(i)*hp, hp, byte(i+2)) })
			if c.Load8(a) != 2 || c.Load8(a+2*hp-1) != 3 {
				c.Exit(1)
			}
		})
		assert.EqualValues(t, 1, th.Load8(a))
		assert.EqualValues(t, 1, th.Load8(a+2*hp-1))
	}},
	{"hugemmap22: filled, looked at, filled again", func(t *testing.T, th *kernel.Thread) {
		a := hugeMapped(t, th, 2)
		for round := range byte(2) {
			for i := range uint64(2) {
				th.Fill(a+i*hp, hp, round+byte(i)+1)
			}
			for i := range uint64(2) {
				for at := uint64(0); at < hp; at += pg {
					require.EqualValues(t, round+byte(i)+1, th.Load8(a+i*hp+at))
				}
			}
		}
	}},
	{"hugemmap23: mprotect of a part", func(t *testing.T, th *kernel.Thread) {
		a := hugeMapped(t, th, 2)
		th.Store8(a, 1)
		th.Store8(a+hp, 2)
		require.NoError(t, th.Mprotect(a, hp, mm.ProtRead))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a, 9) })
		th.Store8(a+hp, 3)
		require.NoError(t, th.Mprotect(a, hp, rw))
		th.Store8(a, 4)
		require.NoError(t, th.Mprotect(a, 2*hp, mm.ProtNone))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(a + hp) })
	}},
	{"hugemmap29: a private mapping and a shared one", func(t *testing.T, th *kernel.Thread) {
		s, err := th.Mmap(0, hp, rw, shared|mm.MapHugetlb|mm.MapHuge2M, -1, 0)
		require.NoError(t, err)
		th.Store8(s, 1)
		p, err := again(t, th, s, 0, hp/pg, rw, mm.MapPrivate)
		require.NoError(t, err)
		assert.EqualValues(t, 1, th.Load8(p))
		th.Store8(p, 2)
		assert.EqualValues(t, 1, th.Load8(s))
		th.Store8(s, 3)
		assert.EqualValues(t, 2, th.Load8(p))
	}},
}

const hp = x86.PMDSize

func hugeMapped(t *testing.T, th *kernel.Thread, pages uint64) uint64 {
	t.Helper()
	a, err := th.Mmap(0, pages*hp, rw, private|mm.MapHugetlb|mm.MapHuge2M, -1, 0)
	require.NoError(t, err)
	return a
}

// meminfo returns a number of /proc/meminfo, 0 if there is none.
func meminfo(text, name string) (n int) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
			n, _ = strconv.Atoi(f[1])
		}
	}
	return n
}
