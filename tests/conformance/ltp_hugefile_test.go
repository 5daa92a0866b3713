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

// LTP's cases of hugetlbfs: files, pools and reservations.
var ltpHugeFile = []ltpCase{
	{"hugefork02: children that store to a shared segment", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		a := h.mmap(2, mm.MapShared)
		children(t, th, 2, func(c *kernel.Thread, i int) { c.Fill(a+uint64(i)*hp, hp, byte(i+5)) })
		assert.EqualValues(t, 5, th.Load8(a+hp-1))
		assert.EqualValues(t, 6, th.Load8(a+2*hp-1))
	}},
	{"hugemmap01: a file mapped and touched takes a page of the pool", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		before := h.pool()
		a := h.mmap(1, mm.MapShared)
		th.Store8(a, 1)
		assert.Equal(t, before.Free-1, h.pool().Free)
		assert.Equal(t, before.Reserved, h.pool().Reserved)
		require.NoError(t, th.Munmap(a, hp))
		assert.Equal(t, before.Free-1, h.pool().Free, "the file has it")
		h.gone()
		assert.Equal(t, before, h.pool())
	}},
	{"hugemmap02: below and above 4 GiB, with small pages on both sides", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		for i, at := range []uint64{1 << 30, 5 << 30} {
			for _, small := range []uint64{at - pg, at + hp} {
				got, err := th.Mmap(small, pg, rw, private|mm.MapFixed, -1, 0)
				require.NoError(t, err)
				th.Store8(got, 7)
			}
			a, err := th.Mmap(at, hp, rw, mm.MapShared|mm.MapFixed, h.fd, uint64(i)*hp)
			require.NoError(t, err)
			th.Fill(a, hp, byte(i+1))
			assert.EqualValues(t, 7, th.Load8(at-pg))
			assert.EqualValues(t, 7, th.Load8(at+hp))
			assert.EqualValues(t, i+1, th.Load8(at+hp-1))
		}
	}},
	{"hugemmap04: all pages of the pool in one mapping", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		n := h.pool().Free
		a := h.mmap(n, mm.MapShared)
		for i := range n {
			th.Store64(a+i*hp, i)
		}
		assert.Zero(t, h.pool().Free)
		_, err := th.Mmap(0, hp, rw, mm.MapShared, h.fd, n*hp)
		errno(t, unix.ENOMEM, err, "one more")
		for i := range n {
			require.Equal(t, i, th.Load64(a+i*hp))
		}
	}},
	{"hugemmap05: surplus pages beyond the pool, counted", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		before := h.pool()
		require.NoError(t, th.SetNrOvercommitHugepages(2))
		a := h.mmap(before.Total+2, mm.MapShared)
		p := h.pool()
		assert.Equal(t, [3]uint64{before.Total + 2, 2, before.Total + 2}, [3]uint64{p.Total, p.Surplus, p.Reserved})
		th.Store8(a, 1)
		assert.Equal(t, p.Reserved-1, h.pool().Reserved)
		_, err := th.Mmap(0, hp, rw, mm.MapShared, h.fd, (before.Total+2)*hp)
		errno(t, unix.ENOMEM, err)
		require.NoError(t, th.Munmap(a, (before.Total+2)*hp))
		h.gone()
		p = h.pool()
		assert.Equal(t, [4]uint64{before.Total, 0, 0, before.Total}, [4]uint64{p.Total, p.Surplus, p.Reserved, p.Free})
	}},
	{"hugemmap06: threads that map parts of one file, and unmap them", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		threads(t, th, 3, func(w *kernel.Thread, i int) {
			for k := range uint64(6) {
				off := (uint64(i) + k*3) % 4
				a, err := w.Mmap(0, 2*hp, rw, mm.MapShared, h.fd, off*hp)
				if err != nil {
					t.Error(err)
					return
				}
				w.Store64(a+uint64(i)*8, off+1)
				if got := w.Load64(a + uint64(i)*8); got != off+1 {
					t.Errorf("thread %d sees %d at page %d", i, got, off)
				}
				_ = w.Munmap(a, 2*hp)
			}
		})
		h.gone()
		p := h.pool()
		assert.Zero(t, p.Reserved)
		assert.Equal(t, p.Total, p.Free)
	}},
	{"hugemmap07: the heap does not grow into huge pages", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		top := th.Brk(0)
		at := (top + 2*hp) &^ (hp - 1)
		_, err := th.Mmap(at, hp, rw, mm.MapShared|mm.MapFixed, h.fd, 0)
		require.NoError(t, err)
		th.Store8(at, 4)
		assert.Equal(t, at-pg, th.Brk(at-pg))
		assert.Equal(t, at-pg, th.Brk(at), "sys_brk wants a page between")
		th.Store8(at-pg-1, 1)
		assert.EqualValues(t, 4, th.Load8(at))
	}},
	{"hugemmap08: two that fault the last page at once", func(t *testing.T, th *kernel.Thread) {
		for _, flags := range []mm.MapFlags{mm.MapShared, mm.MapPrivate} {
			h := hugeFile(t, th)
			all := h.pool()
			hold := h.mmap(all.Free-1, mm.MapShared)
			last, err := th.Mmap(0, hp, rw, flags, h.fd, 20*hp)
			require.NoError(t, err)
			threads(t, th, 2, func(w *kernel.Thread, i int) { w.Store8(last+uint64(i), byte(i+1)) })
			assert.Equal(t, []byte{1, 2}, th.Bytes(last, 2))
			require.NoError(t, th.Munmap(last, hp))
			require.NoError(t, th.Munmap(hold, (all.Free-1)*hp))
			h.gone()
			assert.Equal(t, all, h.pool())
		}
	}},
	{"hugemmap09: a store to a private mapping does not take over the file's page", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		a := h.mmap(1, mm.MapShared)
		th.Store8(a, 'C')
		require.NoError(t, th.Munmap(a, hp)) // only the page cache has it
		p := h.mmap(1, mm.MapPrivate)
		assert.EqualValues(t, 'C', th.Load8(p))
		th.Store8(p, 'X')
		require.NoError(t, th.Munmap(p, hp))
		assert.EqualValues(t, 'C', th.Load8(h.mmap(1, mm.MapShared)))
	}},
	{"hugemmap11: direct I/O from and to the mapping", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		a := h.mmap(1, mm.MapShared)
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		th.Fill(a, hp, 'a')
		n, err := th.Pwrite(fd, a, 8*pg, 0)
		require.NoError(t, err)
		assert.Equal(t, 8*pg, n)
		th.Fill(a, hp, 'b')
		n, err = th.Pread(fd, a+hp-8*pg, 8*pg, 0)
		require.NoError(t, err)
		assert.Equal(t, 8*pg, n)
		assert.EqualValues(t, 'b', th.Load8(a+hp-8*pg-1))
		assert.Equal(t, bytes.Repeat([]byte{'a'}, 8*pg), th.Bytes(a+hp-8*pg, 8*pg))
	}},
	{"hugemmap16: advice takes no promises", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		a := h.mmap(2, mm.MapShared)
		before := h.pool()
		_ = th.Madvise(a, 2*hp, mm.MadvWillNeed)
		assert.Equal(t, before, h.pool())
	}},
	{"hugemmap17, hugemmap19, hugemmap36: truncation at 4 GiB and beyond", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		a := h.mmap(1, mm.MapShared)
		th.Store8(a, 1)
		before := h.pool()
		for _, size := range []int64{4 << 30, 4<<30 + hp, 1 << 40, 4 << 30} {
			require.NoError(t, th.Ftruncate(h.fd, size))
			assert.EqualValues(t, 1, th.Load8(a))
			assert.Equal(t, before, h.pool(), "size %#x", size)
		}
		far, err := th.Mmap(0, hp, rw, mm.MapShared, h.fd, 4<<30-hp)
		require.NoError(t, err)
		th.Store8(far, 2)
		require.NoError(t, th.Ftruncate(h.fd, 2<<30))
		dies(t, th, kernel.SIGBUS, func(c *kernel.Thread) { c.Load8(far) })
		assert.EqualValues(t, 1, th.Load8(a))
	}},
	{"hugemmap20: locked mappings of any protection", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		for _, prot := range []mm.Prot{mm.ProtNone, mm.ProtRead, mm.ProtWrite, rw} {
			for _, flags := range []mm.MapFlags{mm.MapShared, mm.MapPrivate, mm.MapShared | mm.MapLocked} {
				a, err := th.Mmap(0, hp, prot, flags, h.fd, 0)
				require.NoError(t, err, "%v %v", prot, flags)
				if err := th.Mlock(a, hp); prot != mm.ProtNone {
					assert.NoError(t, err)
				}
				_ = th.Munlock(a, hp)
				assert.NoError(t, th.Munmap(a, hp))
			}
		}
	}},
	{"hugemmap27: who was promised nothing takes no promised page", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		n := h.pool().Free
		a := h.mmap(n, mm.MapShared)
		thief, err := th.Mmap(0, hp, rw, private|mm.MapHugetlb|mm.MapHuge2M|mm.MapNoReserve, -1, 0)
		require.NoError(t, err)
		dies(t, th, kernel.SIGKILL, func(c *kernel.Thread) { c.Store8(thief, 1) })
		for i := range n {
			th.Store8(a+i*hp, 1)
		}
		assert.Zero(t, h.pool().Reserved)
	}},
	{"hugemmap28: promises of private and shared mappings, counted", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		for _, c := range []struct {
			flags mm.MapFlags
			after uint64 // promised once it is unmapped
		}{{mm.MapPrivate, 0}, {mm.MapShared, 1}, {mm.MapPrivate | mm.MapNoReserve, 1}, {mm.MapShared | mm.MapNoReserve, 1}} {
			was := h.pool().Reserved
			a := h.mmap(2, c.flags)
			if c.flags&mm.MapNoReserve == 0 {
				assert.Equal(t, was+2, h.pool().Reserved, "%v", c.flags)
			}
			th.Store8(a, 1)
			require.NoError(t, th.Munmap(a, 2*hp))
			assert.Equal(t, c.after, h.pool().Reserved, "%v", c.flags)
		}
		h.gone()
		assert.Zero(t, h.pool().Reserved)
	}},
	{"hugemmap31: two shared mappings see each other's stores", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		a, b := h.mmap(1, mm.MapShared), h.mmap(1, mm.MapShared)
		th.Store8(a+100, 3)
		assert.EqualValues(t, 3, th.Load8(b+100))
		th.Store8(b+hp-1, 4)
		assert.EqualValues(t, 4, th.Load8(a+hp-1))
	}},
	{"hugemmap37: a mapping must end below the end of user space", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		const end = uint64(1) << 47
		for _, at := range []uint64{end - hp, end, end - 2*hp} {
			_, err := th.Mmap(at, 2*hp, rw, mm.MapShared|mm.MapFixed, h.fd, 0)
			errno(t, unix.ENOMEM, err, "%#x", at)
		}
	}},
	{"hugemmap38: truncation takes promises back, and what is mapped behind the end is SIGBUS", func(t *testing.T, th *kernel.Thread) {
		h := hugeFile(t, th)
		before := h.pool()
		a := h.mmap(3, mm.MapShared)
		th.Store8(a, 1)
		th.Store8(a+hp, 1)
		require.NoError(t, th.Ftruncate(h.fd, hp))
		p := h.pool()
		assert.Equal(t, [2]uint64{before.Free - 1, 0}, [2]uint64{p.Free, p.Reserved})
		dies(t, th, kernel.SIGBUS, func(c *kernel.Thread) { c.Load8(a + hp) })
		dies(t, th, kernel.SIGBUS, func(c *kernel.Thread) { c.Store8(a+2*hp, 1) })
		assert.EqualValues(t, 1, th.Load8(a))
	}},
}

// hugefs is a file of hugetlbfs.
type hugefs struct {
	t  *testing.T
	th *kernel.Thread
	fd int
}

const hugePath = fs.HugetlbfsDir + "/ltp"

func hugeFile(t *testing.T, th *kernel.Thread) *hugefs {
	t.Helper()
	fd, err := th.Open(hugePath, fs.ORdwr|fs.OCreat)
	require.NoError(t, err)
	return &hugefs{t: t, th: th, fd: fd}
}

// mmap maps the file's first pages.
func (h *hugefs) mmap(pages uint64, flags mm.MapFlags) uint64 {
	h.t.Helper()
	a, err := h.th.Mmap(0, pages*hp, rw, flags, h.fd, 0)
	require.NoError(h.t, err)
	return a
}

func (h *hugefs) pool() mm.HugePool { return h.th.Machine().HugePool(mm.HugePage2M) }

// gone closes and unlinks the file.
func (h *hugefs) gone() {
	h.t.Helper()
	require.NoError(h.t, h.th.Close(h.fd))
	require.NoError(h.t, h.th.Unlink(hugePath))
}
