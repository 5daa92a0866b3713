package kernel

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Pages of 1 GiB: set aside at boot, mapped by PUD entries, pinned and copied like the
// others. The host pays for what is written only.
func TestHugePagesOf1G(t *testing.T) {
	const size = mm.HugePage1G
	o := Options{CPUs: 2, Regime: sched.Timed, Memory: 4 * size, HugePages1G: 2, HugePages: 2}
	var tooLarge *x86.SizeError
	if errors.As(o.Validate(), &tooLarge) {
		t.Skip("race-detector builds keep emulated memory in the Go heap: ", tooLarge)
	}
	m := boot(t, o)
	pool := func() (total, free, resv uint64) {
		p := m.HugePool(size)
		return p.Total, p.Free, p.Reserved
	}
	want := func(free, resv uint64) {
		t.Helper()
		n, f, r := pool()
		assert.Equal(t, [3]uint64{2, free, resv}, [3]uint64{n, f, r})
	}
	want(2, 0)
	assert.Empty(t, m.Check())
	out := m.Run(func(th *Thread) {
		a := th.MustMmapHuge(1, size, mm.MapPrivate)
		assert.Zero(t, a%size)
		want(2, 1)
		at := a + size - 3*hugeSize + 12345
		th.Write(at, []byte("gigantic"))
		want(1, 0)
		e, n := th.MM().PeekHugePTE(at)
		assert.EqualValues(t, size, n)
		for _, fast := range []bool{false, true} {
			r, err := th.RegisterMemory(at, 3*4096, RegisterOptions{Write: true, Fast: fast})
			require.NoError(t, err)
			assert.Equal(t, 5, hugeRefs(th, a))
			require.NoError(t, th.DeviceWrite(r, 8, []byte("!")))
			require.NoError(t, th.UnregisterMemory(r))
		}
		assert.Equal(t, []byte("gigantic!"), th.Bytes(at, 9))
		pid, err := th.Fork(func(c *Thread) {
			assert.Equal(t, []byte("gigantic!"), c.Bytes(at, 9))
			c.Store8(at, 'G')
			assert.Equal(t, []byte("Gigantic!"), c.Bytes(at, 9))
			want(0, 0)
		})
		require.NoError(t, err)
		_, status, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, Exited(0), status)
		th.Store8(at+1, 'I')
		assert.Equal(t, []byte("gIgantic!"), th.Bytes(at, 9))
		again, _ := th.MM().PeekHugePTE(at)
		assert.Equal(t, e.PFN(), again.PFN(), "the only reference is ours again")
		assert.ErrorIs(t, th.Munmap(a+hugeSize, hugeSize), unix.EINVAL)
		require.NoError(t, th.Munmap(a, size))
		want(2, 0)

		fd, err := th.Open(fs.Hugetlbfs1GDir+"/g", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		b, err := th.Mmap(0, size, protRW, mm.MapShared, fd, 0)
		require.NoError(t, err)
		th.Store64(b+size/2, 77)
		require.NoError(t, th.Munmap(b, size))
		buf := th.MustMmap(4096)
		_, err = th.Pread(fd, buf, 8, size/2)
		require.NoError(t, err)
		assert.Equal(t, uint64(77), th.Load64(buf))
		require.NoError(t, th.Unlink(fs.Hugetlbfs1GDir+"/g"))
		require.NoError(t, th.Close(fd))
		_, err = th.Mmap(0, 3*size, protRW, mm.MapPrivate|anonHuge|mm.MapHuge1G, -1, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
		// What the last user left is not there any more.
		c := th.MustMmapHuge(2, size, mm.MapPrivate)
		assert.Equal(t, make([]byte, 16), th.Bytes(c+size-3*hugeSize+12345, 16))
		assert.Equal(t, make([]byte, 16), th.Bytes(c+2*size-3*hugeSize+12345, 16))
		assert.True(t, bytes.Equal(make([]byte, 8), th.Bytes(c+size/2, 8)))
	})
	require.NoError(t, out.Err())
	atRest(t, m)
	want(2, 0)
}
