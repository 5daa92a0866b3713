package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/mm"
)

const (
	hugeSize = mm.HugePage2M
	protRW   = mm.ProtRead | mm.ProtWrite
)

// hugeOptions is a machine with n huge pages.
func hugeOptions(o Options, n int) Options {
	o.Memory = uint64(n+4) * hugeSize
	o.HugePages = n
	return o
}

// wantPool compares the counters that /proc/meminfo shows.
func wantPool(t *testing.T, m *Machine, total, free, resv, surplus uint64) {
	t.Helper()
	p := m.HugePool(hugeSize)
	assert.Equal(t, []uint64{total, free, resv, surplus}, []uint64{p.Total, p.Free, p.Reserved, p.Surplus}, "total, free, reserved, surplus")
}

func TestHugeForkCopies(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m, _ := run(t, hugeOptions(o, 4), func(th *Thread) {
			m := th.Machine()
			a := th.MustMmapHuge(2, hugeSize, mm.MapPrivate)
			wantPool(t, m, 4, 4, 2, 0)
			th.Store64(a+hugeSize-8, 1)
			wantPool(t, m, 4, 3, 1, 0)
			pid, err := th.Fork(func(c *Thread) {
				assert.Equal(t, uint64(1), c.Load64(a+hugeSize-8))
				c.Store64(a+hugeSize-8, 2)
				assert.Equal(t, uint64(2), c.Load64(a+hugeSize-8))
				c.Exit(0)
			})
			require.NoError(t, err)
			_, status, _ := th.Wait(pid)
			assert.Equal(t, "exit status 0", status.String())
			assert.Equal(t, uint64(1), th.Load64(a+hugeSize-8))
			th.Store64(a+hugeSize-8, 3)
			assert.Equal(t, uint64(3), th.Load64(a+hugeSize-8))
			wantPool(t, m, 4, 3, 1, 0)
			assert.ErrorIs(t, th.Munmap(a+4096, 4096), unix.EINVAL)
			require.NoError(t, th.Munmap(a, hugeSize))
			wantPool(t, m, 4, 4, 1, 0)
		})
		wantPool(t, m, 4, 4, 0, 0)
		assert.Empty(t, m.Leaks())
	})
}

func TestHugetlbfsFile(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m, _ := run(t, hugeOptions(o, 4), func(th *Thread) {
			m := th.Machine()
			fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
			require.NoError(t, err)
			a, err := th.Mmap(0, 2*hugeSize, protRW, mm.MapShared, fd, 0)
			require.NoError(t, err)
			assert.Zero(t, a%hugeSize)
			b, err := th.Mmap(0, 2*hugeSize, protRW, mm.MapPrivate, fd, 0)
			require.NoError(t, err)
			wantPool(t, m, 4, 4, 4, 0)
			th.Store64(a+8, 11)
			assert.Equal(t, uint64(11), th.Load64(b+8), "the file's page")
			th.Store64(b+8, 12)
			assert.Equal(t, uint64(11), th.Load64(a+8), "a private store stays private")
			wantPool(t, m, 4, 2, 2, 0)

			buf := th.MustMmap(4096)
			n, err := th.Pread(fd, buf, 4096, 0)
			require.NoError(t, err)
			assert.Equal(t, 4096, n)
			assert.Equal(t, uint64(11), th.Load64(buf+8))
			_, err = th.Pwrite(fd, buf, 8, 0)
			assert.ErrorIs(t, err, unix.EINVAL)

			assert.ErrorIs(t, th.Ftruncate(fd, 4096), unix.EINVAL)
			require.NoError(t, th.Ftruncate(fd, hugeSize))
			_, err = th.TryLoad64(a + hugeSize)
			assert.ErrorContains(t, err, "nothing is behind")
			assert.Equal(t, uint64(11), th.Load64(a+8))
			require.NoError(t, th.Ftruncate(fd, 0))
			_, err = th.TryLoad64(b + 8)
			assert.ErrorContains(t, err, "nothing is behind", "the private copy went too")
			require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
			require.NoError(t, th.Munmap(a, 2*hugeSize))
			require.NoError(t, th.Munmap(b, 2*hugeSize))
			require.NoError(t, th.Close(fd))
			wantPool(t, m, 4, 4, 0, 0)
		})
		assert.Empty(t, m.Leaks())
	})
}
