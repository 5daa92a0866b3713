package conformance

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Direct and asynchronous I/O.
var ltpDirect = []ltpCase{
	{"diotest1: a copy of a device, directly", func(t *testing.T, th *kernel.Thread) {
		d := direct(t, th)
		for off := int64(0); off < d.size; off += 8 * pg {
			d.all(th.Pread(d.vda, d.buf, 8*pg, off))(8 * pg)
			d.all(th.Pwrite(d.vdb, d.buf, 8*pg, off))(8 * pg)
		}
		assert.Equal(t, th.Machine().DiskData("vda"), th.Machine().DiskData("vdb"))
	}},
	{"diotest2, diotest3: direct and buffered, also by children on parts of their own", func(t *testing.T, th *kernel.Thread) {
		d := direct(t, th)
		plain, err := th.Open("/dev/vdb", fs.ORdwr)
		require.NoError(t, err)
		for _, c := range []struct{ w, r int }{{plain, d.vdb}, {d.vdb, plain}, {d.vdb, d.vdb}} {
			children(t, th, 4, func(k *kernel.Thread, i int) {
				off, v := int64(i)*2*pg, byte(c.w*16+i)
				k.Fill(d.buf, 2*pg, v)
				if n, err := k.Pwrite(c.w, d.buf, 2*pg, off); err != nil || n != 2*pg {
					k.Exit(1)
				}
				k.Fill(d.buf, 2*pg, 0)
				if n, err := k.Pread(c.r, d.buf, 2*pg, off); err != nil || n != 2*pg || !bytes.Equal(k.Bytes(d.buf, 2*pg), bytes.Repeat([]byte{v}, 2*pg)) {
					k.Exit(2)
				}
			})
		}
	}},
	{"diotest4: errors", func(t *testing.T, th *kernel.Thread) {
		d := direct(t, th)
		fail := func(want unix.Errno, n int, err error) {
			t.Helper()
			errno(t, want, err)
			assert.LessOrEqual(t, n, 0)
		}
		n, err := th.Pread(d.vda, d.buf, pg, -1)
		fail(unix.EINVAL, n, err)
		n, err = th.Pread(d.vda, d.buf, 100, 0)
		fail(unix.EINVAL, n, err)
		n, err = th.Pwrite(d.vda, d.buf, 100, 0)
		fail(unix.EINVAL, n, err)
		n, err = th.Pread(d.vda, d.buf+1, pg, 0)
		fail(unix.EINVAL, n, err)
		n, err = th.Pread(d.vda, d.buf, pg, 100)
		fail(unix.EINVAL, n, err)
		_, err = th.Lseek(d.vda, -1, fs.SeekSet)
		errno(t, unix.EINVAL, err)
		n, err = th.Pread(d.vda, d.buf, pg, d.size)
		assert.NoError(t, err, "the end is no error")
		assert.Zero(t, n)
		n, err = th.Pread(d.vda, d.buf, 2*pg, d.size-pg)
		assert.NoError(t, err)
		assert.Equal(t, pg, n)
		n, err = th.Pread(99, d.buf, pg, 0)
		fail(unix.EBADF, n, err)
		ro, err := th.Open("/dev/vda", fs.ORdonly|fs.ODirect)
		require.NoError(t, err)
		n, err = th.Pwrite(ro, d.buf, pg, 0)
		fail(unix.EBADF, n, err)
		wo, err := th.Open("/dev/vda", fs.OWronly|fs.ODirect)
		require.NoError(t, err)
		n, err = th.Pread(wo, d.buf, pg, 0)
		fail(unix.EBADF, n, err)
		none := mapped(t, th, 1, rw, private)
		require.NoError(t, th.Munmap(none, pg))
		n, err = th.Pread(d.vda, none, pg, 0)
		fail(unix.EFAULT, n, err)
		n, err = th.Pwrite(d.vdb, none, pg, 0)
		fail(unix.EFAULT, n, err)
		fixed := mapped(t, th, 1, mm.ProtRead, private)
		n, err = th.Pread(d.vda, fixed, pg, 0)
		fail(unix.EFAULT, n, err)
		d.all(th.Pwrite(d.vdb, fixed, pg, 0))(pg) // may be read
		d.all(th.Pread(d.vda, mapped(t, th, 1, rw, shared), pg, 0))(pg)
	}},
	{"diotest5, diotest6: vectors, also by children", func(t *testing.T, th *kernel.Thread) {
		d := direct(t, th)
		children(t, th, 3, func(k *kernel.Thread, i int) {
			off := int64(i) * 4 * pg
			out := []kernel.IOVec{{Base: d.buf + 3*pg, Len: pg}, {Base: d.buf, Len: 2 * pg}, {Base: d.buf + 5*pg, Len: 512}}
			k.Fill(d.buf, 2*pg, byte(2*i+1))
			k.Fill(d.buf+3*pg, pg, byte(2*i+2))
			k.Fill(d.buf+5*pg, 512, 77)
			if n, err := k.Pwritev(d.vdb, out, off); err != nil || n != 3*pg+512 {
				k.Exit(1)
			}
			in := []kernel.IOVec{{Base: d.buf + 8*pg, Len: 2 * pg}, {Base: d.buf + 11*pg, Len: pg + 512}}
			if n, err := k.Preadv(d.vdb, in, off); err != nil || n != 3*pg+512 {
				k.Exit(2)
			}
			want := bytes.Repeat([]byte{byte(2*i + 2)}, pg)
			want = append(want, bytes.Repeat([]byte{byte(2*i + 1)}, 2*pg)...)
			want = append(want, bytes.Repeat([]byte{77}, 512)...)
			got := append(k.Bytes(d.buf+8*pg, 2*pg), k.Bytes(d.buf+11*pg, pg+512)...)
			if !bytes.Equal(want, got) {
				k.Exit(3)
			}
		})
		_, err := th.Preadv(d.vda, []kernel.IOVec{{Base: d.buf, Len: 100}}, 0)
		errno(t, unix.EINVAL, err)
	}},
	{"aio-stress: many requests, written and read again", func(t *testing.T, th *kernel.Thread) {
		d := direct(t, th)
		ctx, err := th.IoSetup(16)
		require.NoError(t, err)
		for _, op := range []fs.Opcode{kernel.IOCBCmdPwrite, kernel.IOCBCmdPread} {
			var reqs []kernel.IOCB
			for i := range uint64(16) {
				block := i * 7 % 16
				if op == kernel.IOCBCmdPwrite {
					th.Fill(d.buf+i*pg, pg, byte(block+1))
				} else {
					th.Fill(d.buf+i*pg, pg, 0)
				}
				reqs = append(reqs, kernel.IOCB{Op: op, FD: d.vdb, Buf: d.buf + i*pg, Len: pg, Off: int64(block * pg), Data: i})
			}
			n, err := th.IoSubmit(ctx, reqs)
			require.NoError(t, err)
			require.Equal(t, len(reqs), n)
			for got := 0; got < n; {
				ev, err := th.IoGetevents(ctx, 1, n, -1)
				require.NoError(t, err)
				for _, e := range ev {
					assert.EqualValues(t, pg, e.Res)
				}
				got += len(ev)
			}
		}
		for i := range uint64(16) {
			assert.Equal(t, bytes.Repeat([]byte{byte(i*7%16 + 1)}, pg), th.Bytes(d.buf+i*pg, pg))
		}
		assert.NoError(t, th.IoDestroy(ctx))
	}},
	{"aiocp: an asynchronous copy", func(t *testing.T, th *kernel.Thread) {
		d := direct(t, th)
		ctx, err := th.IoSetup(8)
		require.NoError(t, err)
		next, busy := int64(0), 0
		for next < d.size || busy > 0 {
			for ; busy < 4 && next < d.size; next += 2 * pg {
				n, err := th.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPread, FD: d.vda, Buf: d.buf + uint64(next)%(16*pg), Len: 2 * pg, Off: next, Data: uint64(next)}})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				busy++
			}
			ev, err := th.IoGetevents(ctx, 1, 8, -1)
			require.NoError(t, err)
			for _, e := range ev {
				d.all(th.Pwrite(d.vdb, d.buf+e.Data%(16*pg), 2*pg, int64(e.Data)))(2 * pg)
			}
			busy -= len(ev)
		}
		assert.NoError(t, th.IoDestroy(ctx))
		assert.Equal(t, th.Machine().DiskData("vda"), th.Machine().DiskData("vdb"))
	}},
}

// directIO is two disks, open for direct I/O, the first of which holds something, and a buffer.
type directIO struct {
	t        *testing.T
	vda, vdb int
	buf      uint64
	size     int64
}

func direct(t *testing.T, th *kernel.Thread) *directIO {
	t.Helper()
	d := &directIO{t: t, buf: mapped(t, th, 16, rw, private), size: 64 << 10}
	var err error
	d.vda, err = th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
	require.NoError(t, err)
	d.vdb, err = th.Open("/dev/vdb", fs.ORdwr|fs.ODirect)
	require.NoError(t, err)
	for i := range uint64(16) {
		th.Fill(d.buf+i*pg, pg, byte(i+100))
	}
	d.all(th.Pwrite(d.vda, d.buf, 16*pg, 0))(16 * pg)
	th.Fill(d.buf, 16*pg, 0)
	return d
}

// all wants a transfer to have moved everything.
func (d *directIO) all(n int, err error) func(want int) {
	return func(want int) {
		d.t.Helper()
		require.NoError(d.t, err)
		require.Equal(d.t, want, n)
	}
}
