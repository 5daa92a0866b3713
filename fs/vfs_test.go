package fs

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/trace"
)

func TestOpen(t *testing.T) {
	r := newRig(t, one())
	assert.Equal(t, []string{"/dev/vda"}, r.fs.Paths())
	r.run(func(u *user) {
		for _, c := range []struct {
			path  string
			flags OpenFlags
			want  error
		}{
			{"/dev/vda", ORdwr, nil},
			{"/dev/vda", ORdwr | ODirect | OCreat | OTrunc, nil},
			{"", ORdonly, unix.ENOENT},
			{"/dev/vdb", ORdonly, unix.ENOENT},
			{"/dev/vdb", ORdwr | OCreat, unix.EROFS},
			{"/dev/vda", OCreat | OExcl, unix.EEXIST},
			{"/dev/vda", ODirectory, unix.ENOTDIR},
			{"/dev", OWronly, unix.EISDIR},
			{"/dev/", ORdonly, unix.EACCES},
		} {
			f, err := u.r.fs.Open(u.t, c.path, c.flags)
			if err != c.want {
				u.t.Oops("open %q with %#o: %v, want %v", c.path, c.flags, err, c.want)
			}
			if err == nil {
				f.Put(u.t)
			}
		}
	})
}

func TestPosition(t *testing.T) {
	r := newRig(t, one())
	r.run(func(u *user) {
		f := u.open(ORdwr | ODirect)
		a := u.mmap(2)
		n, err := f.Read(u.t, a, 512)
		u.want("read", n, err, 512, nil)
		n, err = f.Readv(u.t, []IOVec{{a, 512}, {a + 512, 1024}})
		u.want("readv", n, err, 1536, nil)
		u.holds(a, 1536, 512)
		n, err = f.Read(u.t, a, 100)
		u.want("misaligned read", n, err, 0, unix.EINVAL)
		n, err = f.Lseek(u.t, 0, SeekCur)
		u.want("lseek", n, err, 2048, nil)
		n, err = f.Write(u.t, a, 512)
		u.want("write", n, err, 512, nil)
		n, err = f.Writev(u.t, []IOVec{{a, 512}})
		u.want("writev", n, err, 512, nil)
		n, err = f.Lseek(u.t, -512, SeekEnd)
		u.want("lseek", n, err, 1<<20-512, nil)
		n, err = f.Read(u.t, a, 4096)
		u.want("read", n, err, 512, nil)
		n, err = f.Read(u.t, a, 4096)
		u.want("read", n, err, 0, nil)
		for _, c := range []struct {
			off    int64
			whence int
		}{{-1, SeekSet}, {1, SeekEnd}, {1<<20 + 1, SeekSet}, {0, 3}} {
			n, err = f.Lseek(u.t, c.off, c.whence)
			u.want("lseek", n, err, 0, unix.EINVAL)
		}
		n, err = f.Lseek(u.t, 0, SeekCur)
		u.want("lseek", n, err, 1<<20, nil)
		u.must(f.Fsync(u.t))
		f.Put(u.t)
	})
}

// TestBuffered: any alignment, any length.
func TestBuffered(t *testing.T) {
	regimes(t, 2, 5, func(t *testing.T, cfg config) {
		cfg.bytes = 40*4096 + 512
		r := newRig(t, cfg)
		want := append([]byte(nil), r.disk...)
		r.run(func(u *user) {
			f := u.open(ORdwr)
			a := u.mmap(4)
			n, err := f.Pread(u.t, a+3, 10000, 1001)
			u.want("pread", n, err, 10000, nil)
			u.holds(a+3, 10000, 1001)
			n, err = f.Preadv(u.t, []IOVec{{a, 1}, {a + 100, 5000}, {a + 6000, 7}}, 4095)
			u.want("preadv", n, err, 5008, nil)
			u.holds(a, 1, 4095)
			u.holds(a+100, 5000, 4096)
			u.holds(a+6000, 7, 9096)
			n, err = f.Pread(u.t, a, 4096, 40*4096+500)
			u.want("pread at the end", n, err, 12, nil)
			u.put(a, fill(9000, 0x21))
			n, err = f.Pwrite(u.t, a+1, 8999, 4000)
			u.want("pwrite", n, err, 8999, nil)
			n, err = f.Pwritev(u.t, []IOVec{{a, 10}, {a + 10, 8192}}, 20*4096)
			u.want("pwritev", n, err, 8202, nil)
			n, err = f.Pwrite(u.t, a, 4096, 40*4096+500)
			u.want("pwrite at the end", n, err, 12, nil)
			u.munmap(a+2*4096, 1)
			n, err = f.Pread(u.t, a+4096, 8192, 0)
			u.want("pread into a hole", n, err, 4096, nil)
			n, err = f.Pwrite(u.t, a+2*4096, 8192, 0)
			u.want("pwrite from a hole", n, err, 0, unix.EFAULT)
			f.Put(u.t)
		})
		copy(want[4000:], fill(9000, 0x21)[1:])
		copy(want[20*4096:], fill(9000, 0x21)[:8202])
		copy(want[40*4096+500:], fill(9000, 0x21)[:12])
		assert.Equal(t, want, r.disk)
	})
}

func TestBufferedErrors(t *testing.T) {
	r := newRig(t, one())
	r.dev.Inject.Add(blk.Fault{First: 16, Last: 16, Reads: true, Writes: true})
	r.run(func(u *user) {
		f := u.open(ORdwr)
		a := u.mmap(4)
		n, err := f.Pread(u.t, a, 16384, 0)
		u.want("pread up to a bad sector", n, err, 8192, nil)
		n, err = f.Pread(u.t, a, 100, 8192)
		u.want("pread of a bad sector", n, err, 0, unix.EIO)
		n, err = f.Pwrite(u.t, a, 4096, 8192)
		u.want("pwrite", n, err, 0, unix.EIO)
		n, err = f.Pwrite(u.t, a, 8192, 4096)
		u.want("pwrite", n, err, 4096, nil)
		f.Put(u.t)
	})
	assert.Positive(t, r.sum(trace.EmuBioErrors))
}

// TestBufferedAIO completes before io_submit returns.
func TestBufferedAIO(t *testing.T) {
	r := newRig(t, one())
	r.run(func(u *user) {
		f := u.open(ORdwr)
		a := u.mmap(4)
		id := u.setup(2)
		u.submit(id, &IOCB{File: f, Buf: a + 1, Nbytes: 5000, Offset: 77})
		zero := uint64(0)
		buf := make([]IOEvent, 2)
		n, err := u.r.fs.IoGetevents(u.t, id, 1, buf, &zero)
		u.want("io_getevents", int64(n), err, 1, nil)
		u.want("event", buf[0].Res, nil, 5000, nil)
		u.holds(a+1, 5000, 77)
		u.destroy(id)
		f.Put(u.t)
	})
}
