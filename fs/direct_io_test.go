package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

func TestDirectReadWrite(t *testing.T) {
	for _, c := range []struct {
		name        string
		pages       int
		off, n, pos int
	}{
		{"a page", 1, 0, 4096, 4096},
		{"a sector", 1, 1024, 512, 512},
		{"across pages", 3, 512, 8192, 1536},
		{"unaligned in file", 2, 0, 8192, 512},
		{"many pages", 70, 3584, 69 * 4096, 8192},
	} {
		t.Run(c.name, func(t *testing.T) {
			regimes(t, 2, 3, func(t *testing.T, cfg config) {
				r := newRig(t, cfg)
				data := fill(c.n, 0x5a)
				r.run(func(u *user) {
					f := u.open(ORdwr | ODirect)
					a := u.mmap(c.pages)
					u.put(a, fill(c.pages*4096, 9))
					n, err := f.Pread(u.t, a+uint64(c.off), uint64(c.n), int64(c.pos))
					u.want("pread", n, err, int64(c.n), nil)
					u.holds(a+uint64(c.off), c.n, c.pos)
					if c.off > 0 && u.get(a, 1)[0] != fill(1, 9)[0] {
						u.t.Oops("byte before the buffer has changed")
					}
					u.put(a+uint64(c.off), data)
					n, err = f.Pwrite(u.t, a+uint64(c.off), uint64(c.n), int64(c.pos))
					u.want("pwrite", n, err, int64(c.n), nil)
					f.Put(u.t)
				})
				assert.Equal(t, data, r.disk[c.pos:c.pos+c.n])
				assert.Equal(t, pattern(c.pos-1), r.disk[c.pos-1])
				assert.Equal(t, pattern(c.pos+c.n), r.disk[c.pos+c.n])
			})
		})
	}
}

// TestVectors: segments share a page, and one bio where they meet.
func TestVectors(t *testing.T) {
	regimes(t, 2, 10, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdwr | ODirect)
			a := u.mmap(4)
			u.put(a, fill(4*4096, 3))
			iov := []IOVec{{a, 512}, {a + 512, 1024}, {a + 4096 + 512, 4096}, {a + 3*4096, 512}}
			n, err := f.Preadv(u.t, iov, 1024)
			u.want("preadv", n, err, 6144, nil)
			u.holds(a, 1536, 1024)
			u.holds(a+4096+512, 4096, 1024+1536)
			u.holds(a+3*4096, 512, 1024+1536+4096)
			n, err = f.Pwritev(u.t, iov, 64<<10)
			u.want("pwritev", n, err, 6144, nil)
			n, err = f.Preadv(u.t, nil, 0)
			u.want("no buffers", n, err, 0, nil)
			n, err = f.Preadv(u.t, make([]IOVec, maxIOVec+1), 0)
			u.want("too many buffers", n, err, 0, unix.EINVAL)
			n, err = f.Preadv(u.t, []IOVec{{a, 512}, {^uint64(0) - 4095, 512}}, 0)
			u.want("second buffer outside user space", n, err, 512, nil)
			n, err = f.Preadv(u.t, []IOVec{{1 << 47, 512}, {a, 512}}, 0)
			u.want("first buffer outside user space", n, err, 0, unix.EFAULT)
			f.Put(u.t)
		})
		assert.Equal(t, r.disk[1024:1024+6144], r.disk[64<<10:64<<10+6144])
	})
}

func TestAlignment(t *testing.T) {
	for _, c := range []struct {
		sector       int
		off, n, pos  int
		wantN        int64
		wantErr      error
		comment      string
		ignoreResult bool
	}{
		{512, 0, 512, 0, 512, nil, "a sector", false},
		{512, 0, 512, 511, 0, unix.EINVAL, "offset", false},
		{512, 1, 512, 0, 0, unix.EINVAL, "buffer", false},
		{512, 0, 513, 0, 0, unix.EINVAL, "length", false},
		{512, 256, 512, 0, 0, unix.EINVAL, "half a sector", false},
		{4096, 0, 4096, 4096, 4096, nil, "a 4 KiB sector", false},
		{4096, 512, 4096, 0, 0, unix.EINVAL, "buffer, 4 KiB sectors", false},
		{4096, 0, 4096, 512, 0, unix.EINVAL, "offset, 4 KiB sectors", false},
		{4096, 0, 512, 0, 0, unix.EINVAL, "length, 4 KiB sectors", false},
		{512, 1, 512, 1 << 20, 0, nil, "misaligned at the end: nothing to read", false},
	} {
		t.Run(c.comment, func(t *testing.T) {
			cfg := one()
			cfg.disk.SectorSize = c.sector
			r := newRig(t, cfg)
			r.run(func(u *user) {
				f := u.open(ORdonly | ODirect)
				a := u.mmap(2)
				n, err := f.Pread(u.t, a+uint64(c.off), uint64(c.n), int64(c.pos))
				u.want(c.comment, n, err, c.wantN, c.wantErr)
				f.Put(u.t)
			})
		})
	}
}

// TestBlockBits: the block size follows the size of the device (bd_set_size).
func TestBlockBits(t *testing.T) {
	for bytes, want := range map[int]uint{1 << 20: 12, 1<<20 + 2048: 11, 1<<20 + 512: 9, 512: 9, 4096: 12} {
		cfg := one()
		cfg.bytes = bytes
		r := newRig(t, cfg)
		assert.Equal(t, want, r.fs.inodes["/dev/vda"].BlockBits(), "%d bytes", bytes)
	}
}

// TestEnd: what happens at the end of the device, whose size is no multiple of a page.
func TestEnd(t *testing.T) {
	for _, flags := range []OpenFlags{ORdwr, ORdwr | ODirect} {
		const size = 20*4096 + 1024
		cfg := one()
		cfg.bytes = size
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(flags)
			a := u.mmap(4)
			n, err := f.Pread(u.t, a, 8192, size-1536)
			u.want("read across the end", n, err, 1536, nil)
			u.holds(a, 1536, size-1536)
			for _, pos := range []int64{size, size + 512, 1 << 40} {
				n, err = f.Pread(u.t, a, 512, pos)
				u.want("read at the end", n, err, 0, nil)
				n, err = f.Pwrite(u.t, a, 512, pos)
				u.want("write at the end", n, err, 0, unix.ENOSPC)
			}
			n, err = f.Pwrite(u.t, a, 0, size)
			u.want("empty write at the end", n, err, 0, nil)
			n, err = f.Pwrite(u.t, a, 0, size+512)
			u.want("empty write beyond the end", n, err, 0, unix.ENOSPC)
			u.put(a, fill(8192, 1))
			n, err = f.Pwrite(u.t, a, 8192, size-1024)
			u.want("write across the end", n, err, 1024, nil)
			n, err = f.Preadv(u.t, []IOVec{{a, 4096}, {a + 4096, 4096}, {a + 8192, 4096}}, size-4096-512)
			u.want("vector across the end", n, err, 4096+512, nil)
			f.Put(u.t)
		})
		assert.Equal(t, fill(8192, 1)[:1024], r.disk[size-1024:])
	}
}

func TestRefusals(t *testing.T) {
	cfg := one()
	r := newRig(t, cfg)
	r.run(func(u *user) {
		a := u.mmap(1)
		ro, wo := u.open(ORdonly|ODirect), u.open(OWronly|ODirect)
		n, err := ro.Pwrite(u.t, a, 512, 0)
		u.want("write to a read-only file", n, err, 0, unix.EBADF)
		n, err = wo.Pread(u.t, a, 512, 0)
		u.want("read from a write-only file", n, err, 0, unix.EBADF)
		n, err = ro.Pread(u.t, a, 512, -512)
		u.want("negative position", n, err, 0, unix.EINVAL)
		n, err = ro.Pread(u.t, a, ^uint64(0)-511, 0)
		u.want("negative length", n, err, 0, unix.EINVAL)
		n, err = ro.Pread(u.t, 1<<47, 512, 0)
		u.want("address of the kernel", n, err, 0, unix.EFAULT)
		n, err = ro.Pread(u.t, 0x5000, 512, 0)
		u.want("nothing mapped", n, err, 0, unix.EFAULT)
		u.must(mm.SysMprotect(u.t, u.m, a, 4096, mm.ProtRead))
		n, err = ro.Pread(u.t, a, 512, 0)
		u.want("read-only buffer", n, err, 0, unix.EFAULT)
		n, err = wo.Pwrite(u.t, a, 512, 0)
		u.want("write from a read-only buffer", n, err, 512, nil)
		ro.Put(u.t)
		wo.Put(u.t)
	})
}

// TestUnmappedPart: the buffer ends before the request does.
func TestUnmappedPart(t *testing.T) {
	regimes(t, 1, 10, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdwr | ODirect)
			a := u.mmap(4)
			u.put(a, fill(4*4096, 0x33))
			u.munmap(a+2*4096, 2)
			n, err := f.Pread(u.t, a, 4*4096, 0)
			u.want("pread", n, err, 0, unix.EFAULT)
			u.holds(a, 8192, 0) // what was there has been read all the same
			u.put(a, fill(8192, 0x33))
			// The blocks were mapped before the look-up failed: they get zeroes.
			n, err = f.Pwrite(u.t, a, 4*4096, 64<<10)
			u.want("pwrite", n, err, 0, unix.EFAULT)
			f.Put(u.t)
		})
		assert.Equal(t, fill(8192, 0x33), r.disk[64<<10:72<<10])
		assert.Equal(t, make([]byte, 8192), r.disk[72<<10:80<<10])
		assert.Equal(t, pattern(80<<10), r.disk[80<<10])
	})
}

// TestErrors: injected errors come back as EIO, and no reference is left.
func TestErrors(t *testing.T) {
	regimes(t, 2, 10, func(t *testing.T, cfg config) {
		cfg.disk.MaxSegments = 2
		r := newRig(t, cfg)
		r.dev.Inject.Add(blk.Fault{First: 20, Last: 25, Reads: true, Writes: true})
		r.run(func(u *user) {
			f := u.open(ORdwr | ODirect)
			a := u.mmap(10)
			n, err := f.Pread(u.t, a, 10*4096, 0)
			u.want("pread", n, err, 0, unix.EIO)
			n, err = f.Pread(u.t, a, 4096, 8192+2048) // 20..27
			u.want("pread of bad sectors", n, err, 0, unix.EIO)
			n, err = f.Pwrite(u.t, a, 10*4096, 512)
			u.want("pwrite", n, err, 0, unix.EIO)
			n, err = f.Pread(u.t, a, 4096, 26*512)
			u.want("pread of good sectors", n, err, 4096, nil)
			if l := u.r.mm.Pages.Ledger(); l != nil {
				for i := range 10 {
					if p, _ := u.extra(a + uint64(i)*4096); l.Held(p, page.RefPin) != 0 {
						u.t.Oops("page %d: references left: %s", i, l.Describe(p))
					}
				}
			}
			f.Put(u.t)
		})
		assert.Positive(t, r.dev.Inject.Failed())
	})
}

// TestReap: more bios than are allowed to pile up.
func TestReap(t *testing.T) {
	regimes(t, 1, 2, func(t *testing.T, cfg config) {
		cfg.disk.MaxSegments = 1
		cfg.disk.Depth = 4
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			a := u.mmap(80)
			// Every other page, so that no two are neighbours in memory or file.
			iov := make([]IOVec, 0, 160)
			for i := range 80 {
				iov = append(iov, IOVec{a + uint64(79-i)*4096, 512}, IOVec{a + uint64(79-i)*4096 + 1024, 512})
			}
			n, err := f.Preadv(u.t, iov, 0)
			u.want("preadv", n, err, 80*1024, nil)
			for i := range 80 {
				u.holds(a+uint64(79-i)*4096, 512, i*1024)
				u.holds(a+uint64(79-i)*4096+1024, 512, i*1024+512)
			}
			f.Put(u.t)
		})
		assert.Greater(t, r.sum(trace.EmuBios), uint64(2*reapEvery))
	})
}

// TestReadDirties: pages that were read into are dirty.
func TestReadDirties(t *testing.T) {
	regimes(t, 1, 3, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdwr | ODirect)
			a := u.mmap(2)
			u.put(a, fill(8192, 0))
			for i, read := range []bool{true, false} {
				p, _ := u.extra(a + uint64(i)*4096)
				if p.Has(page.Dirty) {
					u.r.mm.Pages.ClearFlag(u.t, p, page.Dirty)
				}
				if read {
					_, err := f.Pread(u.t, a, 512, 0)
					u.must(err)
				} else {
					_, err := f.Pwrite(u.t, a+4096, 512, 0)
					u.must(err)
				}
				if p.Has(page.Dirty) != read {
					u.t.Oops("read %v: dirty %v", read, p.Has(page.Dirty))
				}
			}
			f.Put(u.t)
		})
	})
}

// TestTimedDeterminism: the same virtual time and number of steps each run.
func TestTimedDeterminism(t *testing.T) {
	once := func() (uint64, uint64, []uint64) {
		disk := blk.Disk2009()
		cfg := config{Options: sched.Options{CPUs: 2, Regime: sched.Timed}, disk: blk.DeviceOptions{Latency: &disk}}
		r := newRig(t, cfg)
		for cpu := range 2 {
			r.start(cpu, func(u *user) {
				f := u.open(ORdwr | ODirect)
				a := u.mmap(8)
				for i := range 4 {
					n, err := f.Pread(u.t, a+512, 6*4096, int64(cpu*500_000+i*8192)&^511)
					u.want("pread", n, err, 6*4096, nil)
					n, err = f.Pwrite(u.t, a, 4096, int64(i*65536))
					u.want("pwrite", n, err, 4096, nil)
				}
				f.Put(u.t)
			})
		}
		res := r.finish()
		return res.NS, res.Steps, r.m.Trace().Snapshot()
	}
	ns, steps, counts := once()
	for range 2 {
		ns2, steps2, counts2 := once()
		require.Equal(t, ns, ns2)
		require.Equal(t, steps, steps2)
		require.Equal(t, counts, counts2)
	}
	assert.Greater(t, ns, uint64(16*4_000_000), "sixteen turns of a disk")
}

// TestImage: what a program writes is in the host's file.
func TestImage(t *testing.T) {
	regimes(t, 2, 3, func(t *testing.T, cfg config) {
		path := filepath.Join(t.TempDir(), "disk.img")
		data := make([]byte, 256<<10)
		for i := range data {
			data[i] = pattern(i)
		}
		require.NoError(t, os.WriteFile(path, data, 0o600))
		img, err := blk.OpenImage(path, false)
		require.NoError(t, err)
		defer img.Close()
		cfg.disk.Backing = img
		r := newRig(t, cfg)
		r.fs.AddDevice("/images/disk", r.dev)
		data2 := fill(9*4096, 0x77)
		r.run(func(u *user) {
			f, err := u.r.fs.Open(u.t, "/images/disk", ORdwr|ODirect)
			u.must(err)
			a := u.mmap(10)
			n, err := f.Pread(u.t, a+512, 9*4096, 1024)
			u.want("pread", n, err, 9*4096, nil)
			u.holds(a+512, 9*4096, 1024)
			u.put(a+1024, data2)
			n, err = f.Pwrite(u.t, a+1024, 9*4096, 128<<10)
			u.want("pwrite", n, err, 9*4096, nil)
			f.Put(u.t)
		})
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		copy(data[128<<10:], data2)
		assert.Equal(t, data, got)
	})
}

func TestReadOnlyDevice(t *testing.T) {
	cfg := one()
	cfg.disk.ReadOnly = true
	r := newRig(t, cfg)
	r.run(func(u *user) {
		_, err := u.r.fs.Open(u.t, "/dev/vda", ORdwr|ODirect)
		u.want("open", 0, err, 0, unix.EROFS)
		f := u.open(ORdonly | ODirect)
		a := u.mmap(1)
		n, err := f.Pread(u.t, a, 512, 0)
		u.want("pread", n, err, 512, nil)
		f.Put(u.t)
	})
}

// TestParallelMix runs both directions on two CPUs over common pages.
func TestParallelMix(t *testing.T) {
	regimes(t, 2, 5, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			a := u.mmap(16)
			f := u.open(ORdwr | ODirect)
			u.m.MMGet(u.t)
			other := u.r.spawn(u.t, 1, u.m, func(u *user) {
				for i := range 12 {
					n, err := f.Pread(u.t, a+512, 15*4096, int64(i*4096))
					u.want("pread", n, err, 15*4096, nil)
				}
			})
			for i := range 12 {
				n, err := f.Pwrite(u.t, a, 16*4096, 512<<10+int64(i*512))
				u.want("pwrite", n, err, 16*4096, nil)
				u.put(a+4096, fill(100, byte(i)))
			}
			other.Wait(u.t)
			f.Put(u.t)
		})
	})
}

func benchmarkRead(b *testing.B, bytes uint64) {
	l := blk.Instant()
	cfg := config{disk: blk.DeviceOptions{Latency: &l}, bytes: 4 << 20}
	r := newRig(b, cfg)
	r.run(func(u *user) {
		f := u.open(ORdonly | ODirect)
		a := u.mmap(256)
		u.put(a, make([]byte, 1<<20))
		b.ReportAllocs()
		b.SetBytes(int64(bytes))
		for b.Loop() {
			if n, err := f.Pread(u.t, a, bytes, 0); n != int64(bytes) {
				u.t.Oops("pread: %d, %v", n, err)
			}
			u.t.Progress()
		}
		f.Put(u.t)
	})
}

func BenchmarkDirectRead(b *testing.B) {
	for _, n := range []uint64{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) { benchmarkRead(b, n) })
	}
}
