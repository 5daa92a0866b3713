package kernel

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

const anonHuge = mm.MapAnonymous | mm.MapHugetlb

// timedHuge is a machine with two CPUs and n huge pages.
func timedHuge(n int) Options { return hugeOptions(Options{CPUs: 2, Regime: sched.Timed}, n) }

// What is promised at mmap is there when it is touched, and mmap refuses the rest.
func TestHugeReservations(t *testing.T) {
	run(t, timedHuge(4), func(th *Thread) {
		m := th.Machine()
		a := th.MustMmapHuge(3, hugeSize, mm.MapPrivate)
		wantPool(t, m, 4, 4, 3, 0)
		_, err := th.Mmap(0, 2*hugeSize, protRW, mm.MapPrivate|anonHuge, -1, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
		wantPool(t, m, 4, 4, 3, 0)
		_, err = th.Mmap(0, 2*hugeSize, mm.ProtRead, mm.MapPrivate|anonHuge, -1, 0)
		assert.ErrorIs(t, err, unix.ENOMEM, "mprotect might make it writable")

		// Who promised himself nothing gets what is over, and no more.
		b, err := th.Mmap(0, 2*hugeSize, protRW, mm.MapPrivate|mm.MapNoReserve|anonHuge, -1, 0)
		require.NoError(t, err)
		wantPool(t, m, 4, 4, 3, 0)
		require.NoError(t, th.TryStore64(b, 1))
		wantPool(t, m, 4, 3, 3, 0)
		pid, err := th.Fork(func(c *Thread) {
			c.Store64(b+hugeSize, 1)
			t.Error("what is left is promised to others")
		})
		require.NoError(t, err)
		_, status, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, KilledBy(SIGKILL), status)
		for i := range uint64(3) {
			require.NoError(t, th.TryStore64(a+i*hugeSize, i))
		}
		wantPool(t, m, 4, 0, 0, 0)

		// A hole in the middle gives pages back, and no promise for them.
		require.NoError(t, th.Munmap(a+hugeSize, hugeSize))
		wantPool(t, m, 4, 1, 0, 0)
		require.NoError(t, th.Munmap(b, 2*hugeSize))
		wantPool(t, m, 4, 2, 0, 0)
		require.NoError(t, th.Munmap(a, hugeSize))
		require.NoError(t, th.Munmap(a+2*hugeSize, hugeSize))
		wantPool(t, m, 4, 4, 0, 0)

		// Untouched parts of a mapping that is split keep their promises apart.
		a = th.MustMmapHuge(4, hugeSize, mm.MapPrivate)
		th.Store64(a+hugeSize, 1)
		wantPool(t, m, 4, 3, 3, 0)
		require.NoError(t, th.Munmap(a, 2*hugeSize))
		wantPool(t, m, 4, 4, 2, 0)
		require.NoError(t, th.Munmap(a+2*hugeSize, 2*hugeSize))
		wantPool(t, m, 4, 4, 0, 0)
	})
}

// The promises of a shared mapping are the file's, and each page of it is promised once.
func TestHugeSharedReservations(t *testing.T) {
	run(t, timedHuge(4), func(th *Thread) {
		m := th.Machine()
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		share := func(n, off uint64) uint64 {
			a, err := th.Mmap(0, n*hugeSize, protRW, mm.MapShared, fd, off*hugeSize)
			require.NoError(t, err)
			return a
		}
		a := share(1, 2)
		wantPool(t, m, 4, 4, 1, 0)
		b := share(3, 0)
		wantPool(t, m, 4, 4, 3, 0)
		c := share(3, 0)
		wantPool(t, m, 4, 4, 3, 0)
		th.Store64(b+2*hugeSize, 5)
		assert.Equal(t, uint64(5), th.Load64(a))
		assert.Equal(t, uint64(5), th.Load64(c+2*hugeSize))
		wantPool(t, m, 4, 3, 2, 0)
		for _, x := range [][2]uint64{{a, 1}, {b, 3}, {c, 3}} {
			require.NoError(t, th.Munmap(x[0], x[1]*hugeSize))
		}
		wantPool(t, m, 4, 3, 2, 0) // the file keeps its page and its promises
		require.NoError(t, th.Ftruncate(fd, hugeSize))
		wantPool(t, m, 4, 4, 1, 0)
		_, err = th.Mmap(0, 4*hugeSize, protRW, mm.MapShared, fd, hugeSize)
		assert.ErrorIs(t, err, unix.ENOMEM)
		// Who wanted no promise uses none up, though another mapping of the file has one.
		d, err := th.Mmap(0, hugeSize, protRW, mm.MapShared|mm.MapNoReserve, fd, hugeSize)
		require.NoError(t, err)
		wantPool(t, m, 4, 4, 1, 0)
		th.Store64(d, 1)
		wantPool(t, m, 4, 3, 1, 0)
		require.NoError(t, th.Munmap(d, hugeSize))
		require.NoError(t, th.Ftruncate(fd, hugeSize))
		wantPool(t, m, 4, 4, 1, 0)
		require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
		assert.ErrorIs(t, th.Unlink(fs.HugetlbfsDir+"/f"), unix.ENOENT)
		wantPool(t, m, 4, 4, 1, 0)
		require.NoError(t, th.Close(fd))
		wantPool(t, m, 4, 4, 0, 0)
	})
}

// A shared mapping takes a promised page whether it was promised one or not. Where a file was
// truncated and has grown again without a new mmap it was not, and HugePages_Rsvd goes
// below zero: what 2.6.29 shows as 18446744073709551615. The invariant notices.
func TestHugeReservedUnderflow(t *testing.T) {
	m := boot(t, timedHuge(2))
	out := m.Run(func(th *Thread) {
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		a, err := th.Mmap(0, hugeSize, protRW, mm.MapShared, fd, 0)
		require.NoError(t, err)
		require.NoError(t, th.Ftruncate(fd, 0))
		wantPool(t, m, 2, 2, 0, 0)
		require.NoError(t, th.Ftruncate(fd, hugeSize))
		th.Store64(a, 1)
		assert.Contains(t, m.Meminfo(), "HugePages_Rsvd:    18446744073709551615\n")
		require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
	})
	require.NoError(t, out.Err())
	require.Len(t, m.Check(), 1)
	assert.ErrorContains(t, m.Check()[0], "pool of 2048 KiB pages")
}

// A file with a name outlives the processes, pages and all, and is no leak.
func TestHugetlbfsFileStays(t *testing.T) {
	m, _ := run(t, timedHuge(2), func(th *Thread) {
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		a, err := th.Mmap(0, hugeSize, protRW, mm.MapShared, fd, 0)
		require.NoError(t, err)
		th.Store64(a+4096, 42)
	})
	wantPool(t, m, 2, 1, 0, 0)
	out := m.Run(func(th *Thread) {
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdonly)
		require.NoError(t, err)
		_, err = th.Mmap(0, hugeSize, protRW, mm.MapShared, fd, 0)
		assert.ErrorIs(t, err, unix.EACCES)
		a, err := th.Mmap(0, hugeSize, mm.ProtRead, mm.MapShared, fd, 0)
		require.NoError(t, err)
		assert.Equal(t, uint64(42), th.Load64(a+4096))
		assert.Error(t, th.TryStore64(a, 1))
		require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
	})
	require.NoError(t, out.Err())
	atRest(t, m)
	wantPool(t, m, 2, 2, 0, 0)
}

func TestHugetlbfsErrors(t *testing.T) {
	run(t, timedHuge(2), func(th *Thread) {
		const path = fs.HugetlbfsDir + "/f"
		_, err := th.Open(path, fs.ORdwr)
		assert.ErrorIs(t, err, unix.ENOENT)
		_, err = th.Open(path, fs.ORdwr|fs.OCreat|fs.ODirect)
		assert.ErrorIs(t, err, unix.EINVAL)
		_, err = th.Open(fs.HugetlbfsDir, fs.ORdwr)
		assert.ErrorIs(t, err, unix.EISDIR)
		fd, err := th.Open(path, fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		_, err = th.Open(path, fs.ORdwr|fs.OCreat|fs.OExcl)
		assert.ErrorIs(t, err, unix.EEXIST)
		for _, c := range []struct {
			addr, length, off uint64
			flags             mm.MapFlags
		}{
			{0, hugeSize + 4096, 0, mm.MapShared},
			{0, hugeSize, 4096, mm.MapShared},
			{hugeSize + 4096, hugeSize, 0, mm.MapShared | mm.MapFixed},
		} {
			_, err = th.Mmap(c.addr, c.length, protRW, c.flags, fd, c.off)
			assert.ErrorIs(t, err, unix.EINVAL, "%+v", c)
		}
		_, err = th.Mmap(0, hugeSize, protRW, mm.MapPrivate|anonHuge|16<<26, -1, 0) // 64 KiB
		assert.ErrorIs(t, err, unix.EINVAL)
		_, err = th.Mmap(0, 1, protRW, mm.MapPrivate|anonHuge|mm.MapHuge1G, -1, 0)
		assert.ErrorIs(t, err, unix.ENOMEM, "that pool is empty")
		assert.ErrorIs(t, th.Ftruncate(fd, -hugeSize), unix.EINVAL)
		a := th.MustMmapHuge(1, 1, mm.MapPrivate|mm.MapHuge2M) // the length is rounded up
		maps := th.Maps()
		assert.Contains(t, maps, "/anon_hugepage (deleted)")
		assert.Contains(t, th.Smaps(), "KernelPageSize:     2048 kB")
		assert.ErrorIs(t, th.Munmap(a, 4096), unix.EINVAL)
		assert.ErrorIs(t, th.Mprotect(a+4096, 4096, mm.ProtRead), unix.EINVAL)
		_, err = th.Mremap(a, hugeSize, 2*hugeSize, mm.MremapMayMove, 0)
		assert.ErrorIs(t, err, unix.EINVAL)
		assert.ErrorIs(t, th.Madvise(a, hugeSize, mm.MadvDontNeed), unix.EINVAL)
		assert.Equal(t, maps, th.Maps())
		require.NoError(t, th.Unlink(path))
	})
}

// Pages beyond the pool are made for who needs them and go back when he is done.
func TestHugeOvercommit(t *testing.T) {
	o := timedHuge(1)
	o.Memory += 8 * hugeSize
	m, _ := run(t, o, func(th *Thread) {
		m := th.Machine()
		require.NoError(t, th.SetNrOvercommitHugepages(2))
		_, err := th.Mmap(0, 4*hugeSize, protRW, mm.MapPrivate|anonHuge, -1, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
		wantPool(t, m, 1, 1, 0, 0)
		a := th.MustMmapHuge(3, hugeSize, mm.MapPrivate)
		wantPool(t, m, 3, 3, 3, 2)
		th.Store64(a, 1)
		wantPool(t, m, 3, 2, 2, 2)
		assert.Contains(t, m.Meminfo(), "HugePages_Surp:        2\n")
		assert.Contains(t, m.Meminfo(), "HugePages_Rsvd:        2\n")
		assert.Contains(t, m.SysHugepages(), "hugepages-2048kB/surplus_hugepages 2\n")
		require.NoError(t, th.Munmap(a, 3*hugeSize))
		wantPool(t, m, 1, 1, 0, 0)

		b, err := th.Mmap(0, 3*hugeSize, protRW, mm.MapPrivate|mm.MapNoReserve|anonHuge, -1, 0)
		require.NoError(t, err)
		for i := range uint64(3) {
			th.Store64(b+i*hugeSize, i)
		}
		wantPool(t, m, 3, 0, 0, 2)
		// What is in use when the pool grows is no surplus any more.
		n, err := th.SetNrHugepages(2)
		require.NoError(t, err)
		assert.EqualValues(t, 2, n)
		wantPool(t, m, 3, 0, 0, 1)
		require.NoError(t, th.Munmap(b, 3*hugeSize))
		wantPool(t, m, 2, 2, 0, 0)
	})
	var b strings.Builder
	require.NoError(t, m.VMStat(&b, false))
	assert.Contains(t, b.String(), "htlb_buddy_alloc_success 7\n") // boot 1, 2 for each failed or met demand, 2 faults
}

func TestHugeResize(t *testing.T) {
	o := timedHuge(2)
	o.Memory += 8 * hugeSize
	m, _ := run(t, o, func(th *Thread) {
		m := th.Machine()
		free := m.Pages().FreePages()
		n, err := th.SetNrHugepages(6)
		require.NoError(t, err)
		assert.EqualValues(t, 6, n)
		wantPool(t, m, 6, 6, 0, 0)
		assert.Equal(t, free-4*512, m.Pages().FreePages())
		a := th.MustMmapHuge(2, hugeSize, mm.MapPrivate)
		th.Store64(a, 7)
		n, err = th.SetNrHugepages(0)
		require.NoError(t, err)
		assert.EqualValues(t, 0, n, "what is in use or promised has become surplus")
		wantPool(t, m, 2, 1, 1, 2)
		assert.Equal(t, uint64(7), th.Load64(a))
		require.NoError(t, th.TryStore64(a+hugeSize, 8))
		require.NoError(t, th.Munmap(a, 2*hugeSize))
		wantPool(t, m, 0, 0, 0, 0)
		n, err = th.SetNrHugepages(1000)
		require.NoError(t, err)
		assert.Less(t, n, uint64(15))
		assert.Greater(t, n, uint64(6))
		n, err = th.SetNrHugepages(0)
		require.NoError(t, err)
		assert.Zero(t, n)
	})
	assert.NotZero(t, m.Trace().Sum(trace.HTLBBuddyAllocFail))
}

// Nobody promised the child anything: with the pool empty its fault kills it.
func TestHugePoolExhaustedKills(t *testing.T) {
	_, out := run(t, timedHuge(1), func(th *Thread) {
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		th.Store64(a, 1)
		pid, err := th.Fork(func(c *Thread) {
			assert.Equal(t, uint64(1), c.Load64(a))
			c.Store64(a, 2)
			t.Error("there was no page for the child")
		})
		require.NoError(t, err)
		_, status, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, KilledBy(SIGKILL), status)
		assert.Equal(t, uint64(1), th.Load64(a))
	})
	assert.Len(t, out.Victims, 1)
}

// The parent's store takes the page away from the child if it must (unmap_ref_private).
func TestHugeUnmapRefPrivate(t *testing.T) {
	run(t, timedHuge(1), func(th *Thread) {
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		th.Store64(a, 1)
		ready, stored := th.MustMmapShared(4096), uint64(0)
		stored = ready + 64
		pid, err := th.Fork(func(c *Thread) {
			assert.Equal(t, uint64(1), c.Load64(a))
			c.Store32(ready, 1)
			for c.Load32(stored) == 0 {
				c.Usleep(10)
			}
			_, err := c.TryLoad64(a)
			assert.ErrorContains(t, err, "nothing is behind", "SIGBUS, not zeroes")
			c.Load64(a)
			t.Error("the child's page is gone")
		})
		require.NoError(t, err)
		for th.Load32(ready) == 0 {
			th.Usleep(10)
		}
		th.Store64(a, 2)
		assert.Equal(t, uint64(2), th.Load64(a))
		wantPool(t, th.Machine(), 1, 0, 0, 0)
		th.Store32(stored, 1)
		_, status, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, KilledBy(SIGBUS), status)
	})
}

// A page that is pinned besides cannot be taken away from everybody: BUG_ON in hugetlb_cow.
func TestHugePinnedAndExhaustedIsABug(t *testing.T) {
	m := boot(t, timedHuge(1))
	out := m.Run(func(th *Thread) {
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		th.Store64(a, 1)
		_, err := th.RegisterMemory(a, 4096, RegisterOptions{Write: true})
		require.NoError(t, err)
		_, err = th.Fork(func(c *Thread) { c.Usleep(1000) })
		require.NoError(t, err)
		th.Store64(a, 2)
	})
	assert.Equal(t, sched.Oopsed, out.Reason)
	assert.ErrorContains(t, out.Err(), "page_count is 2 after unmap_ref_private")
}

// The options are checked, and the pool is there at boot.
func TestHugeOptions(t *testing.T) {
	for _, o := range []Options{{HugePages: -1}, {HugePages: 9}, {HugePages1G: 1}, {HugePages: 8}} {
		o.Memory = 16 << 20
		o.Hosts = testHosts
		_, err := Boot(o)
		assert.ErrorContains(t, err, "HugePages", "%+v", o)
	}
	for _, r := range []sched.Regime{sched.Parallel, sched.Timed, sched.Free} {
		m := boot(t, Options{CPUs: 3, Memory: 24<<20 + 12<<12, Regime: r, HugePages: 6})
		wantPool(t, m, 6, 6, 0, 0)
		assert.Empty(t, m.Check())
		require.NoError(t, m.Run(func(*Thread) {}).Err())
		atRest(t, m)
	}
}

// Fork and faults say so when there is no memory for the tables of huge pages.
func TestHugeTablesWithoutMemory(t *testing.T) {
	m := boot(t, timedHuge(2))
	out := m.Run(func(th *Thread) {
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		th.Store64(a, 1)
		m.Pages().FailAt("pmd_alloc_one", 1)
		_, err := th.Fork(func(*Thread) { t.Error("there is no child") })
		assert.ErrorIs(t, err, unix.ENOMEM)
		assert.Equal(t, uint64(1), th.Load64(a))
		th.Store64(a, 2)
		b, err := th.Mmap(1<<32, hugeSize, protRW, mm.MapPrivate|mm.MapFixed|anonHuge, -1, 0)
		require.NoError(t, err)
		m.Pages().FailAt("pmd_alloc_one", 1)
		th.Store64(b, 1)
		t.Error("the fault had no memory")
	})
	require.Len(t, out.Exits, 1)
	assert.Equal(t, KilledBy(SIGKILL), out.Exits[0].Status)
	atRest(t, m)
}
