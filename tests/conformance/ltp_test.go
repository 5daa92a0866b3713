package conformance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/vmtest"
)

// LTP's cases of mmap, munmap, mprotect, mremap, madvise, mincore, fork, vmsplice and
// splice, in our own words, as far as they touch what is modelled. Left out:
//
//	mmap01-04, 06-11, 13, 16, 17, 19-22     files, or flags of later kernels
//	mremap07, madvise05-12                  userfaultfd, advice of later kernels, swap
//	mincore02, msync, mmapstress01, 02, 04  files that can be mapped
//	fork03-10, 13, 14                       descriptors, pids, LDT, 16 TiB of memory
//	splice01-09                             file to pipe needs a page cache
//	hugetlb, mlock, swapping, ksm, thp      not built yet
//	dirtyc0w, dirtypipe                     private maps of files; flags of 2.6.29's pipes do not leak

const (
	pg = 4096
)

// dies runs fn in a child and wants it to be killed by the signal.
func dies(t *testing.T, th *kernel.Thread, s kernel.Signal, fn func(c *kernel.Thread)) {
	t.Helper()
	pid, err := th.Fork(func(c *kernel.Thread) {
		fn(c)
		c.Exit(0)
	})
	require.NoError(t, err)
	_, st, err := th.Wait(pid)
	require.NoError(t, err)
	assert.Equal(t, s, st.Signal())
}

func mapped(t *testing.T, th *kernel.Thread, pages uint64, prot mm.Prot, flags mm.MapFlags) uint64 {
	t.Helper()
	a, err := th.Mmap(0, pages*pg, prot, flags, -1, 0)
	require.NoError(t, err)
	return a
}

var ltp = []struct {
	name string
	run  func(t *testing.T, th *kernel.Thread)
}{
	{"mmap05: PROT_NONE is SIGSEGV", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, mm.ProtNone, private)
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(a) })
	}},
	{"mmap12: MAP_POPULATE makes pages present", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 5, rw, private|mm.MapPopulate)
		vec, err := th.Mincore(a, 5*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{1, 1, 1, 1, 1}, vec)
	}},
	{"mmap14: MAP_LOCKED is counted", func(t *testing.T, th *kernel.Thread) {
		before := th.MM().LockedVM
		a := mapped(t, th, 4, rw, private|mm.MapLocked)
		assert.Equal(t, before+4, th.MM().LockedVM)
		at, err := th.Mremap(a, 4*pg, 6*pg, mm.MremapMayMove, 0)
		assert.NoError(t, err)
		assert.Equal(t, before+6, th.MM().LockedVM)
		assert.NoError(t, th.Munmap(at, 6*pg))
		assert.Equal(t, before, th.MM().LockedVM)
	}},
	{"mmap18: MAP_GROWSDOWN grows", func(t *testing.T, th *kernel.Thread) {
		room := mapped(t, th, 20, mm.ProtNone, private)
		require.NoError(t, th.Munmap(room, 20*pg))
		a, err := th.Mmap(room+15*pg, 2*pg, rw, private|mm.MapFixed|mm.MapGrowsDown, -1, 0)
		require.NoError(t, err)
		th.Store8(a-3*pg, 1)
		assert.EqualValues(t, 1, th.Load8(a-3*pg))
	}},
	{"munmap01: then SIGSEGV, all or part", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		th.Fill(a, 4*pg, 1)
		assert.NoError(t, th.Munmap(a+2*pg, pg))
		assert.EqualValues(t, 1, th.Load8(a+3*pg))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a+2*pg, 1) })
		assert.NoError(t, th.Munmap(a, 4*pg))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(a) })
	}},
	{"munmap03: EINVAL", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 2, rw, private)
		assert.ErrorIs(t, th.Munmap(a, 0), unix.EINVAL)
		assert.ErrorIs(t, th.Munmap(a+1, pg), unix.EINVAL)
		assert.ErrorIs(t, th.Munmap(1<<47, pg), unix.EINVAL)
	}},
	{"mprotect01: errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		assert.ErrorIs(t, th.Mprotect(0, 1024, mm.ProtRead), unix.ENOMEM)
		assert.ErrorIs(t, th.Mprotect(a+1, 1024, mm.ProtRead), unix.EINVAL)
	}},
	{"mprotect02: read-only in a child is SIGSEGV", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		require.NoError(t, th.Mprotect(a, pg, mm.ProtRead))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a, 1) })
		require.NoError(t, th.Mprotect(a, pg, rw))
		th.Store8(a, 1)
	}},
	{"mprotect05: split and merge", func(t *testing.T, th *kernel.Thread) {
		before := th.MM().MapCount
		a := mapped(t, th, 4, rw, private)
		one := th.MM().MapCount
		assert.NoError(t, th.Mprotect(a+pg, pg, mm.ProtRead))
		assert.GreaterOrEqual(t, th.MM().MapCount, one+1)
		assert.NoError(t, th.Mprotect(a+pg, pg, rw))
		assert.Equal(t, one, th.MM().MapCount)
		assert.NoError(t, th.Munmap(a, 4*pg))
		assert.Equal(t, before, th.MM().MapCount)
	}},
	{"mremap01: a shared mapping grows", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, shared)
		th.Store8(a+3*pg, 7)
		at, err := th.Mremap(a, 4*pg, 8*pg, mm.MremapMayMove, 0)
		require.NoError(t, err)
		assert.EqualValues(t, 7, th.Load8(at+3*pg))
		// The object has not grown: beyond its end is SIGBUS.
		dies(t, th, kernel.SIGBUS, func(c *kernel.Thread) { c.Load8(at + 4*pg) })
		twice, err := th.Mremap(at, 0, 4*pg, mm.MremapMayMove, 0)
		require.NoError(t, err)
		th.Store8(twice, 9)
		assert.EqualValues(t, 9, th.Load8(at), "the same pages a second time")
	}},
	{"mremap02, 03, 04: EINVAL, EFAULT, ENOMEM", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 2, rw, private)
		_, err := th.Mremap(a+4, pg, 2*pg, 0, 0)
		assert.ErrorIs(t, err, unix.EINVAL)
		_, err = th.Mremap(0x10000, pg, 2*pg, 0, 0)
		assert.ErrorIs(t, err, unix.EFAULT)
		_, err = th.Mremap(a, pg, 2*pg, 0, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
	}},
	{"mremap05: rules of MREMAP_FIXED", func(t *testing.T, th *kernel.Thread) {
		room := mapped(t, th, 8, mm.ProtNone, private)
		a := mapped(t, th, 2, rw, private)
		th.Store8(a+pg, 5)
		_, err := th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed, room)
		assert.ErrorIs(t, err, unix.EINVAL, "without MAYMOVE")
		_, err = th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed|mm.MremapMayMove, room+8)
		assert.ErrorIs(t, err, unix.EINVAL, "unaligned")
		_, err = th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed|mm.MremapMayMove, a+pg)
		assert.ErrorIs(t, err, unix.EINVAL, "overlap")
		at, err := th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed|mm.MremapMayMove, room+3*pg)
		assert.NoError(t, err)
		assert.Equal(t, room+3*pg, at)
		assert.EqualValues(t, 5, th.Load8(at+pg))
	}},
	{"mremap06: a page that goes and comes back merges", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		for i := range uint64(3) {
			th.Store64(a+i*pg, i+1)
		}
		one := th.MM().MapCount
		away, err := th.Mremap(a+pg, pg, pg, mm.MremapMayMove|mm.MremapFixed, a-1<<30)
		require.NoError(t, err)
		assert.Equal(t, one+2, th.MM().MapCount)
		_, err = th.Mremap(away, pg, pg, mm.MremapMayMove|mm.MremapFixed, a+pg)
		require.NoError(t, err)
		assert.Equal(t, one, th.MM().MapCount)
		for i := range uint64(3) {
			assert.Equal(t, i+1, th.Load64(a+i*pg))
		}
	}},
	{"vma03: a length that would wrap", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		_, err := th.Mremap(a, pg, 1<<63, mm.MremapMayMove, 0)
		assert.ErrorIs(t, err, unix.EFAULT, "2.6.29: what cannot be promised leaves ret as it was")
		b := mapped(t, th, 1, rw, private|mm.MapNoReserve)
		_, err = th.Mremap(b, pg, 1<<63, mm.MremapMayMove, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
	}},
	{"vma01: 2.6.29 merges a child's copy with its neighbour (later kernels do not)", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		require.NoError(t, th.Munmap(a+2*pg, pg))
		th.Store8(a, 1)
		pid, err := th.Fork(func(c *kernel.Thread) {
			n := c.MM().MapCount
			_, err := c.Mmap(a+2*pg, pg, rw, private|mm.MapFixed, -1, 0)
			assert.NoError(t, err)
			assert.Equal(t, n, c.MM().MapCount)
		})
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
	}},
	{"madvise01, 02: advice and errors", func(t *testing.T, th *kernel.Thread) {
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
	{"mmapstress08: pages 4 MiB apart", func(t *testing.T, th *kernel.Thread) {
		const far = 4 << 20
		a := mapped(t, th, 64*far/pg, rw, private|mm.MapNoReserve)
		for i := range uint64(64) {
			th.Store64(a+i*far, i)
		}
		b, err := th.Mremap(a, 64*far, 64*far, mm.MremapMayMove|mm.MremapFixed, a-1<<40)
		require.NoError(t, err)
		for i := range uint64(64) {
			assert.Equal(t, i, th.Load64(b+i*far))
		}
		assert.NoError(t, th.Munmap(b, 64*far))
	}},
	{"vmsplice01: memory to a pipe to a file", func(t *testing.T, th *kernel.Thread) {
		const n = 16 * 1024
		a, b := mapped(t, th, 4, rw, private), mapped(t, th, 4, rw, private)
		for i := range uint64(n / 8) {
			th.Store64(a+i*8, i)
		}
		r, w, err := th.Pipe()
		require.NoError(t, err)
		fd, err := th.Open("/dev/vda", fs.ORdwr)
		require.NoError(t, err)
		for done := 0; done < n; {
			k, err := th.Vmsplice(w, a+uint64(done), n-done, 0)
			require.NoError(t, err)
			got, err := th.Splice(r, fd, k, 0)
			require.NoError(t, err)
			assert.Equal(t, k, got)
			done += k
		}
		_, err = th.Pread(fd, b, n, 0)
		assert.NoError(t, err)
		assert.Equal(t, th.Bytes(a, n), th.Bytes(b, n))
	}},
	{"vmsplice02: errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		_, w, err := th.Pipe()
		require.NoError(t, err)
		fd, err := th.Open("/dev/vda", fs.ORdwr)
		require.NoError(t, err)
		_, err = th.Vmsplice(99, a, 128, 0)
		assert.ErrorIs(t, err, unix.EBADF)
		_, err = th.Vmsplice(fd, a, 128, 0)
		assert.ErrorIs(t, err, unix.EBADF, "not a pipe")
		_, err = th.Vmsplicev(w, make([]kernel.IOVec, 1025), 0)
		assert.ErrorIs(t, err, unix.EINVAL)
		n, err := th.Vmsplicev(w, nil, 0)
		assert.NoError(t, err)
		assert.Zero(t, n)
	}},
	{"vmsplice03: a pipe to memory", func(t *testing.T, th *kernel.Thread) {
		a, b := mapped(t, th, 2, rw, private), mapped(t, th, 2, rw, private)
		th.Fill(a, 2*pg, 0x42)
		r, w, err := th.Pipe()
		require.NoError(t, err)
		_, err = th.WriteFD(w, a, pg+10)
		require.NoError(t, err)
		n, err := th.Vmsplice(r, b, pg+10, 0)
		assert.NoError(t, err)
		assert.Equal(t, pg+10, n)
		assert.Equal(t, th.Bytes(a, pg+10), th.Bytes(b, pg+10))
	}},
	{"vmsplice04: a full pipe, NONBLOCK", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 16, rw, private)
		r, w, err := th.Pipe()
		require.NoError(t, err)
		n, err := th.Vmsplice(w, a, 16*pg, fs.SpliceNonblock)
		assert.NoError(t, err)
		assert.Equal(t, 16*pg, n)
		_, err = th.Vmsplice(w, a, pg, fs.SpliceNonblock)
		assert.ErrorIs(t, err, unix.EAGAIN)
		pid, err := th.Fork(func(c *kernel.Thread) {
			k, err := c.Vmsplice(w, a, pg, 0) // waits
			assert.NoError(t, err)
			assert.Equal(t, pg, k)
		})
		require.NoError(t, err)
		_, err = th.ReadFD(r, a, pg)
		assert.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
	}},
	{"fork01, vfork01: the child's memory, and the parent's", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		th.Store64(a, 1)
		pid, err := th.Fork(func(c *kernel.Thread) { c.Store64(a, 2); c.Exit(7) })
		require.NoError(t, err)
		got, st, err := th.Wait(pid)
		assert.NoError(t, err)
		assert.Equal(t, pid, got)
		assert.Equal(t, 7, st.ExitCode())
		assert.EqualValues(t, 1, th.Load64(a))
		pid, err = th.Vfork(func(c *kernel.Thread) { c.Store64(a, 3); c.Exit(0) })
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
		assert.EqualValues(t, 3, th.Load64(a))
	}},
}

func TestLTP(t *testing.T) {
	regimes := []kernel.Options{
		{CPUs: 2, Regime: sched.Timed, CheckLocks: true},
		{CPUs: 2, CheckLocks: true},
		{CPUs: 2, Regime: sched.Free, Strategy: sched.NewRandom(1), CheckLocks: true},
	}
	for _, c := range ltp {
		t.Run(c.name, func(t *testing.T) {
			for _, o := range regimes {
				o.Memory = 16 << 20
				o.Disks = []kernel.Disk{{Name: "vda", Size: 64 << 10}}
				if o.Regime == sched.Free {
					o.Strategy = sched.NewRandom(1)
				}
				vmtest.New(t, o).Run(func(th *kernel.Thread) { c.run(t, th) })
			}
		})
	}
}
