package kernel

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
)

// withDisk adds a RAM disk of 64 KiB.
func withDisk(o Options) Options {
	o.Disks = []Disk{{Name: "vda", Size: 64 << 10}}
	return o
}

// content fills a buffer with bytes that tell where they belong.
func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9)*7 + byte(i)
	}
	return b
}

func TestDirectIORoundTrip(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, withDisk(o))
		want := content(12 << 10)
		out := m.Run(func(th *Thread) {
			fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
			require.NoError(t, err)
			assert.Zero(t, fd)
			a := th.MustMmap(32 << 10)
			th.Write(a+512, want)
			n, err := th.Pwrite(fd, a+512, len(want), 4096)
			assert.NoError(t, err)
			assert.Equal(t, len(want), n)
			n, err = th.Pread(fd, a+16<<10, len(want), 4096)
			assert.NoError(t, err)
			assert.Equal(t, len(want), n)
			assert.Equal(t, want, th.Bytes(a+16<<10, n))
			pos, err := th.Lseek(fd, 4096, fs.SeekSet)
			assert.NoError(t, err)
			assert.EqualValues(t, 4096, pos)
			n, err = th.ReadFD(fd, a, 512)
			assert.NoError(t, err)
			assert.Equal(t, want[:512], th.Bytes(a, n))
			n, err = th.Readv(fd, []IOVec{{Base: a, Len: 512}, {Base: a + 4096, Len: 1024}})
			assert.NoError(t, err)
			assert.Equal(t, 1536, n)
			assert.Equal(t, want[1024:2048], th.Bytes(a+4096, 1024))
			n, err = th.Preadv(fd, []IOVec{{Base: a, Len: 512}}, 1<<20)
			assert.NoError(t, err)
			assert.Zero(t, n, "end of file")
			_, err = th.Pread(fd, a+1, 512, 0)
			assert.ErrorIs(t, err, unix.EINVAL)
			_, err = th.Pread(fd, a, -1, 0)
			assert.ErrorIs(t, err, unix.EINVAL)
			_, err = th.Pread(fd, 0x1000, 512, 0)
			assert.ErrorIs(t, err, unix.EFAULT)
			assert.NoError(t, th.Fsync(fd))
			_, err = th.Mmap(0, 4096, 1, 1, fd, 0)
			assert.ErrorIs(t, err, unix.ENODEV)
			assert.NoError(t, th.Close(fd))
			assert.ErrorIs(t, th.Close(fd), unix.EBADF)
		})
		require.NoError(t, out.Err())
		assert.Equal(t, want, m.DiskData("vda")[4096:4096+len(want)])
		atRest(t, m)
	})
}

func TestDescriptors(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, withDisk(o), func(th *Thread) {
			_, err := th.Open("/dev/none", fs.ORdonly)
			assert.ErrorIs(t, err, unix.ENOENT)
			a, err := th.Open("/dev/vda", fs.ORdonly|fs.ODirect)
			require.NoError(t, err)
			b, err := th.Dup(a)
			require.NoError(t, err)
			assert.Equal(t, []int{0, 1}, []int{a, b})
			_, err = th.Dup(7)
			assert.ErrorIs(t, err, unix.EBADF)
			buf := th.MustMmap(4096)
			n, err := th.ReadFD(a, buf, 512)
			assert.NoError(t, err)
			assert.Equal(t, 512, n)
			pid, err := th.Fork(func(c *Thread) {
				pos, err := c.Lseek(b, 0, fs.SeekCur)
				assert.NoError(t, err)
				assert.EqualValues(t, 512, pos, "the position is shared")
				_, err = c.Lseek(b, 1024, fs.SeekSet)
				assert.NoError(t, err)
				assert.NoError(t, c.Close(a))
			})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			pos, err := th.Lseek(a, 0, fs.SeekCur)
			assert.NoError(t, err, "the table is not")
			assert.EqualValues(t, 1024, pos)
			assert.NoError(t, th.Close(a))
			c, err := th.Open("/dev/vda", fs.ORdonly)
			assert.NoError(t, err)
			assert.Equal(t, 0, c, "lowest free")
			_, err = th.Pwrite(b, buf, 512, 0)
			assert.ErrorIs(t, err, unix.EBADF)
			_, err = th.Pread(-1, buf, 512, 0)
			assert.ErrorIs(t, err, unix.EBADF)
		})
	})
}

func TestTooManyFiles(t *testing.T) {
	run(t, withDisk(Options{CPUs: 1}), func(th *Thread) {
		for i := range maxFDs {
			fd, err := th.Open("/dev/vda", fs.ORdonly)
			require.NoError(t, err)
			require.Equal(t, i, fd)
		}
		_, err := th.Open("/dev/vda", fs.ORdonly)
		assert.ErrorIs(t, err, unix.EMFILE)
		_, err = th.Dup(0)
		assert.ErrorIs(t, err, unix.EMFILE)
	})
}

func TestNoDisks(t *testing.T) {
	run(t, Options{CPUs: 1}, func(th *Thread) {
		_, err := th.Open("/dev/vda", fs.ORdonly)
		assert.ErrorIs(t, err, unix.ENOENT)
		_, err = th.IoSetup(1)
		assert.ErrorIs(t, err, unix.ENOSYS)
		assert.ErrorIs(t, th.IoDestroy(1), unix.ENOSYS)
		_, err = th.IoSubmit(1, nil)
		assert.ErrorIs(t, err, unix.ENOSYS)
		_, err = th.IoGetevents(1, 0, 1, 0)
		assert.ErrorIs(t, err, unix.ENOSYS)
	})
}

func TestAsynchronousIO(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, withDisk(o))
		want := content(64 << 10)
		copy(m.DiskData("vda"), want)
		out := m.Run(func(th *Thread) {
			fd, err := th.Open("/dev/vda", fs.ORdonly|fs.ODirect)
			require.NoError(t, err)
			ctx, err := th.IoSetup(4)
			require.NoError(t, err)
			a := th.MustMmap(16 << 10)
			var reqs []IOCB
			for i := range uint64(4) {
				reqs = append(reqs, IOCB{Op: IOCBCmdPread, FD: fd, Buf: a + i*4096, Len: 4096, Off: int64(i * 8192), Data: i})
			}
			n, err := th.IoSubmit(ctx, reqs)
			require.NoError(t, err)
			assert.Equal(t, 4, n)
			seen := map[uint64]bool{}
			for len(seen) < 4 {
				events, err := th.IoGetevents(ctx, 1, 4, -1)
				require.NoError(t, err)
				for _, e := range events {
					assert.EqualValues(t, 4096, e.Res)
					seen[e.Data] = true
					off := e.Data * 8192
					assert.Equal(t, want[off:off+4096], th.Bytes(a+e.Data*4096, 4096))
				}
			}
			events, err := th.IoGetevents(ctx, 1, 1, 1000)
			assert.NoError(t, err)
			assert.Empty(t, events)
			n, err = th.IoSubmit(ctx, []IOCB{{Op: IOCBCmdPread, FD: 9, Buf: a, Len: 512}})
			assert.ErrorIs(t, err, unix.EBADF)
			assert.Zero(t, n)
			_, err = th.IoGetevents(ctx, 2, 1, 0)
			assert.ErrorIs(t, err, unix.EINVAL)
			assert.NoError(t, th.IoDestroy(ctx))
			assert.ErrorIs(t, th.IoDestroy(ctx), unix.EINVAL)
		})
		require.NoError(t, out.Err())
		atRest(t, m)
	})
}

// A process that ends with transfers in flight waits for them; the pages they go to are
// not given to anybody else before.
func TestExitWithAsynchronousIOInFlight(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, withDisk(o), func(th *Thread) {
			for _, end := range []func(c *Thread){
				func(c *Thread) {},
				func(c *Thread) { c.Exit(0) },
				func(c *Thread) { _, _ = c.Vfork(func(v *Thread) {}) },
			} {
				pid, err := th.Fork(func(c *Thread) {
					fd, err := c.Open("/dev/vda", fs.ORdonly|fs.ODirect)
					require.NoError(t, err)
					ctx, err := c.IoSetup(1)
					require.NoError(t, err)
					a := c.MustMmap(8192)
					_, err = c.IoSubmit(ctx, []IOCB{{Op: IOCBCmdPread, FD: fd, Buf: a, Len: 8192}})
					require.NoError(t, err)
					end(c)
				})
				require.NoError(t, err)
				_, st, err := th.Wait(pid)
				require.NoError(t, err)
				assert.Equal(t, Exited(0), st)
			}
		})
	})
}

func TestDiskFaultsAndReadOnly(t *testing.T) {
	o := Options{CPUs: 1, Regime: sched.Timed, Disks: []Disk{
		{Name: "bad", Size: 8192, Inject: []blk.Fault{{First: 1, Last: 1, Reads: true}}},
		{Name: "ro", Size: 8192, ReadOnly: true},
	}}
	m, _ := run(t, o, func(th *Thread) {
		a := th.MustMmap(8192)
		fd, err := th.Open("/dev/bad", fs.ORdonly|fs.ODirect)
		require.NoError(t, err)
		_, err = th.Pread(fd, a, 512, 512)
		assert.ErrorIs(t, err, unix.EIO)
		_, err = th.Open("/dev/ro", fs.ORdwr)
		assert.ErrorIs(t, err, unix.EROFS)
	})
	assert.Equal(t, 1, m.Disk("bad").Inject.Failed())
	assert.Nil(t, m.Disk("none"))
	assert.Nil(t, m.DiskData("none"))
}

func TestImageFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{1}, 8192), 0o600))
	run(t, Options{CPUs: 1, Regime: sched.Timed, Disks: []Disk{{Name: "img", ImagePath: path}}}, func(th *Thread) {
		a := th.MustMmap(4096)
		th.Fill(a, 4096, 7)
		fd, err := th.Open("/dev/img", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		_, err = th.Pwrite(fd, a, 512, 4096)
		require.NoError(t, err)
		_, err = th.Pread(fd, a, 4096, 4096)
		require.NoError(t, err)
		assert.Equal(t, []byte{7, 1}, th.Bytes(a+511, 2))
	})
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, []byte{1, 7}, b[4095:4097])
	assert.Equal(t, []byte{7, 1}, b[4096+511:4096+513])
}
