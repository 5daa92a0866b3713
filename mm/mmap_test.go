package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// call runs a system call and returns its error.
func (u *user) call(fn func(t *sched.Task) error) (err error) {
	u.kernel(func(t *sched.Task) { err = fn(t) })
	return err
}

func (u *user) tryMmap(req MmapRequest, off uint64) (addr uint64, err error) {
	u.kernel(func(t *sched.Task) { addr, err = SysMmap(t, u.mm, req, off) })
	return addr, err
}

func (u *user) tryMunmap(addr, size uint64) error {
	return u.call(func(t *sched.Task) error { return SysMunmap(t, u.mm, addr, size) })
}

func (u *user) mprotect(addr, size uint64, p Prot) error {
	return u.call(func(t *sched.Task) error { return SysMprotect(t, u.mm, addr, size, p) })
}

func (u *user) madvise(addr, size uint64, a Advice) error {
	return u.call(func(t *sched.Task) error { return SysMadvise(t, u.mm, addr, size, a) })
}

// TestMmapErrors goes through what mmap refuses, in the order in which 2.6.29 looks.
func TestMmapErrors(t *testing.T) {
	const anon, private, shared, fixed = MapAnonymous, MapPrivate, MapShared, MapFixed
	ro, wo := &plainFile{name: "ro", mode: FModeRead}, &plainFile{name: "wo", mode: FModeWrite}
	grumpy := &plainFile{name: "grumpy", mode: FModeRead | FModeWrite, err: unix.ENODEV}
	r := boot(t, timed())
	r.run(func(u *user) {
		as := u.s.NewAddressSpace(shmemOps{}, nil, 10)
		for _, c := range []struct {
			name string
			req  MmapRequest
			off  uint64
			err  error
		}{
			{"unaligned offset before anything else", MmapRequest{}, 1, unix.EINVAL},
			{"no file", MmapRequest{Len: pg, Flags: private}, 0, unix.EBADF},
			{"no length", MmapRequest{Flags: anon | private}, 0, unix.EINVAL},
			{"length wraps", MmapRequest{Len: ^uint64(0), Flags: anon | private}, 0, unix.ENOMEM},
			{"length beyond user space", MmapRequest{Len: x86.TaskSize + pg, Flags: anon | private}, 0, unix.ENOMEM},
			{"huge offset", MmapRequest{Len: 2 * pg, Flags: private, File: ro, Mapping: as}, ^uint64(0) &^ (pg - 1), nil},
			{"neither shared nor private", MmapRequest{Len: pg, Flags: anon}, 0, unix.EINVAL},
			{"both", MmapRequest{Len: pg, Flags: anon | private | shared}, 0, unix.EINVAL},
			{"fixed, unaligned", MmapRequest{Addr: window + 1, Len: pg, Flags: anon | private | fixed}, 0, unix.EINVAL},
			{"fixed, beyond the end", MmapRequest{Addr: x86.TaskSize, Len: pg, Flags: anon | private | fixed}, 0, unix.ENOMEM},
			{"fixed, the last page", MmapRequest{Addr: x86.TaskSize - pg, Len: pg, Flags: anon | private | fixed}, 0, nil},
			{"fixed, page zero", MmapRequest{Len: pg, Flags: anon | private | fixed}, 0, nil},
			{"writable shared map of a read-only file", MmapRequest{Len: pg, Prot: ProtWrite, Flags: shared, File: ro, Mapping: as}, 0, unix.EACCES},
			{"readable one", MmapRequest{Len: pg, Prot: ProtRead, Flags: shared, File: ro, Mapping: as}, 0, nil},
			{"private writable one", MmapRequest{Len: pg, Prot: ProtRead | ProtWrite, Flags: private, File: ro, Mapping: as}, 0, nil},
			{"write-only file", MmapRequest{Len: pg, Prot: ProtWrite, Flags: shared, File: wo, Mapping: as}, 0, unix.EACCES},
			{"file that grows down", MmapRequest{Len: pg, Flags: private | MapGrowsDown, File: ro, Mapping: as}, 0, unix.EINVAL},
			{"file that cannot be mapped", MmapRequest{Len: pg, Flags: private, File: grumpy, Mapping: as}, 0, unix.ENODEV},
			{"more than fits", MmapRequest{Len: 1 << 40, Prot: ProtWrite, Flags: anon | private}, 0, unix.ENOMEM},
			{"more than fits, shared", MmapRequest{Len: 1 << 40, Prot: ProtWrite, Flags: anon | shared}, 0, unix.ENOMEM},
			{"more than fits, not reserved", MmapRequest{Len: 1 << 40, Prot: ProtWrite, Flags: anon | private | MapNoReserve}, 0, nil},
			{"more than fits, not writable", MmapRequest{Len: 1 << 40, Prot: ProtRead, Flags: anon | private}, 0, nil},
		} {
			before, total := u.mm.DebugString(), u.s.CommittedPages()
			addr, err := u.tryMmap(c.req, c.off)
			if c.err != nil {
				assert.Equal(t, c.err, err, c.name)
				assert.Equal(t, before, u.mm.DebugString(), c.name)
			} else if assert.NoError(t, err, c.name) {
				assert.NoError(t, u.tryMunmap(addr, c.req.Len), c.name)
			}
			assert.Equal(t, total, u.s.CommittedPages(), c.name)
			assert.NoError(t, u.mm.validateMM())
		}
		// A read-only file mapped shared cannot become writable later.
		addr, err := u.tryMmap(MmapRequest{Len: pg, Prot: ProtRead, Flags: shared, File: ro, Mapping: as}, 0)
		assert.NoError(t, err)
		assert.Equal(t, unix.EACCES, u.mprotect(addr, pg, ProtRead|ProtWrite))
		assert.Equal(t, VMMayShare, u.mm.lookupVMA(addr).Flags&(VMShared|VMMayWrite|VMMayShare))
		assert.NoError(t, u.tryMunmap(addr, pg))
		as.Put(u.t)
	})
	assert.Zero(t, ro.refs)
	assert.Zero(t, grumpy.refs)
	r.end()
}

func TestMmapLimits(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		anon := MmapRequest{Len: 10 * pg, Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate}
		locked := anon
		locked.Flags |= MapLocked
		u.mm.Limits.AS = 15 * pg
		a, err := u.tryMmap(anon, 0)
		assert.NoError(t, err)
		_, err = u.tryMmap(anon, 0)
		assert.Equal(t, unix.ENOMEM, err)
		anon.Addr, anon.Flags = a, anon.Flags|MapFixed // what it replaces is gone first
		_, err = u.tryMmap(anon, 0)
		assert.NoError(t, err)
		u.mm.Limits.AS = 0
		u.mm.Limits.Memlock, u.mm.Limits.Unprivileged = 15*pg, true
		b, err := u.tryMmap(locked, 0)
		assert.NoError(t, err)
		assert.EqualValues(t, 10, u.mm.LockedVM)
		for i := range uint64(10) {
			assert.True(t, u.mm.PeekPTE(b+i*pg).Write(), "locked memory is there at once")
		}
		_, err = u.tryMmap(locked, 0)
		assert.Equal(t, unix.EAGAIN, err)
		u.mm.Limits.Memlock = 100
		_, err = u.tryMmap(locked, 0)
		assert.Equal(t, unix.EPERM, err)
		assert.Equal(t, unix.EINVAL, u.madvise(b, pg, MadvDontNeed))
		assert.NoError(t, u.tryMunmap(b+2*pg, 3*pg))
		assert.EqualValues(t, 7, u.mm.LockedVM)
		assert.NoError(t, u.mm.validateMM())
	})
	r.end()
}

func TestOvercommit(t *testing.T) {
	r := boot(t, timed())
	half := uint64(8<<20) / pg
	try := func(u *user, pages uint64) error {
		a, err := u.tryMmap(MmapRequest{Len: pages * pg, Prot: ProtWrite, Flags: MapAnonymous | MapPrivate}, 0)
		if err == nil {
			assert.EqualValues(t, pages, u.s.CommittedPages())
			assert.NoError(t, u.tryMunmap(a, pages*pg))
		}
		assert.Zero(t, u.s.CommittedPages())
		return err
	}
	r.run(func(u *user) {
		assert.NoError(t, try(u, half+100))
		assert.Equal(t, unix.ENOMEM, try(u, 2*half))
	})
	r.s.SetOvercommit(OvercommitNever, 0)
	r.run(func(u *user) {
		assert.NoError(t, try(u, half-1))
		assert.Equal(t, unix.ENOMEM, try(u, half+100))
	})
	r.s.SetOvercommit(OvercommitAlways, 0)
	r.run(func(u *user) { assert.NoError(t, try(u, 1000*half)) })
	r.end()
}

// What is private becomes charged when it becomes writable, and stays so.
func TestAccountingOfMprotect(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		a := u.mmap(10, MmapRequest{Prot: ProtRead, Flags: MapAnonymous | MapPrivate})
		assert.Zero(t, u.s.CommittedPages())
		assert.NoError(t, u.mprotect(a+2*pg, 3*pg, ProtRead|ProtWrite))
		assert.EqualValues(t, 3, u.s.CommittedPages())
		assert.NoError(t, u.mprotect(a, 10*pg, ProtRead))
		assert.EqualValues(t, 3, u.s.CommittedPages())
		assert.NoError(t, u.mprotect(a, 10*pg, ProtRead|ProtWrite))
		assert.EqualValues(t, 10, u.s.CommittedPages())
		u.wait(u.fork(func(c *user) { assert.EqualValues(t, 20, c.s.CommittedPages()) }))
		assert.EqualValues(t, 10, u.s.CommittedPages())
	})
	assert.Zero(t, r.s.CommittedPages())
	r.end()
}

func TestMunmapErrors(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		u.mm.PickMmapLayout()
		a := u.mmap(4)
		for _, c := range []struct {
			addr, size uint64
			err        error
		}{
			{a + 1, pg, unix.EINVAL},
			{a, 0, unix.EINVAL},
			{x86.TaskSize + pg, pg, unix.EINVAL},
			{a, x86.TaskSize, unix.EINVAL},
			{a, ^uint64(0), unix.EINVAL},
			{window, pg, nil}, // nothing there
			{window, 1, nil},
			{a + 4*pg, pg, nil},
		} {
			assert.Equal(t, c.err, u.tryMunmap(c.addr, c.size), "%#x+%#x", c.addr, c.size)
		}
		assert.EqualValues(t, 4, u.mm.TotalVM)
		assert.NoError(t, u.tryMunmap(a+pg, 1)) // rounded up to a page
		assert.EqualValues(t, 3, u.mm.TotalVM)
		assert.NoError(t, u.tryMunmap(0, x86.TaskSize))
		assert.Zero(t, u.mm.TotalVM)
		assert.Zero(t, u.mm.MapCount)
	})
	r.end()
}

// The search goes down from MmapBase, takes the highest hole that fits, and begins
// where it ended last.
func TestUnmappedArea(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		u.mm.PickMmapLayout()
		base := u.mm.MmapBase
		assert.EqualValues(t, x86.TaskSize-128<<20, base)
		shared := MmapRequest{Prot: ProtRead, Flags: MapAnonymous | MapShared}
		a, b, c := u.mmap(4, shared), u.mmap(2, shared), u.mmap(3, shared)
		assert.Equal(t, []uint64{base - 4*pg, base - 6*pg, base - 9*pg}, []uint64{a, b, c})
		u.munmap(b, 2)
		assert.Equal(t, b, u.mmap(2, shared), "the hole is used again")
		u.munmap(b, 2)
		assert.Equal(t, base-12*pg, u.mmap(3, shared), "the hole is too small")
		assert.Equal(t, base-13*pg, u.mmap(1, shared), "and is forgotten")

		hint := shared
		hint.Addr = window + 5
		assert.Equal(t, window, u.mmap(2, hint), "a hint is rounded down")
		assert.NotEqual(t, window, u.mmap(2, hint), "and is only a hint")
		hint.Addr = 0x2000
		assert.EqualValues(t, mmapMinAddr, u.mmap(2, hint))
		hint.Addr, hint.Flags = 0, hint.Flags|Map32Bit
		assert.EqualValues(t, 0x40000000, u.mmap(2, hint))
		assert.EqualValues(t, 0x40002000, u.mmap(2, hint))

		// Full below: the search goes up from a third of user space.
		full := shared
		full.Addr, full.Flags = mmapMinAddr, MapAnonymous|MapPrivate|MapFixed|MapNoReserve
		u.mmap(int((base-mmapMinAddr)/pg), full)
		assert.Equal(t, base, u.mmap(1, shared))
		full.Addr = base
		u.mmap(int((x86.TaskSize-base)/pg), full)
		_, err := u.tryMmap(MmapRequest{Len: pg, Flags: MapAnonymous | MapShared}, 0)
		assert.Equal(t, unix.ENOMEM, err)
		u.munmap(base+7*pg, 1)
		assert.Equal(t, base+7*pg, u.mmap(1, shared))
		assert.NoError(t, u.mm.validateMM())
	})
	r.end()
}

func TestPopulateAndShared(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		a := u.mmap(8, MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapPopulate})
		ro := u.mmap(8, MmapRequest{Prot: ProtRead, Flags: MapAnonymous | MapShared | MapPopulate})
		lazy := u.mmap(8, MmapRequest{Prot: ProtRead, Flags: MapAnonymous | MapShared | MapPopulate | MapNonBlock})
		for i := range uint64(8) {
			assert.True(t, u.mm.PeekPTE(a+i*pg).Write())
			assert.True(t, u.mm.PeekPTE(ro+i*pg).HWPresent())
			assert.False(t, u.mm.PeekPTE(ro+i*pg).Write())
			assert.True(t, u.mm.PeekPTE(lazy+i*pg).None())
		}
		s := u.mmap(2, MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapShared})
		u.store(s, 5)
		u.wait(u.fork(func(c *user) { c.store(s, c.load(s)+1) }))
		assert.EqualValues(t, 6, u.load(s))
		assert.NoError(t, u.madvise(s, 2*pg, MadvDontNeed))
		assert.EqualValues(t, 6, u.load(s), "the object keeps what the mapping forgets")
		assert.Contains(t, u.mm.Maps(), "rw-s 00000000 00:00 0")
		assert.Contains(t, u.mm.Maps(), " /dev/zero (deleted)\n")
	})
	r.end()
}

func TestBrk(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		brk := func(addr uint64) (at uint64) {
			u.kernel(func(t *sched.Task) { at = SysBrk(t, u.mm, addr) })
			return at
		}
		start := uint64(0x600000)
		u.mm.StartBrk, u.mm.Brk = start, start
		assert.Equal(t, start, brk(0), "how it is asked for")
		assert.Equal(t, start+100, brk(start+100))
		u.store(start+8, 1)
		assert.Equal(t, start+3*pg, brk(start+3*pg))
		u.store(start+2*pg, 2)
		assert.Equal(t, 1, u.mm.MapCount, "the heap is one VMA")
		assert.Contains(t, u.mm.Maps(), "00600000-00603000 rw-p 00000000 00:00 0                                  [heap]\n")
		assert.EqualValues(t, 3, u.s.CommittedPages())
		assert.Equal(t, start+pg+1, brk(start+pg+1))
		assert.EqualValues(t, 2, u.mm.TotalVM)
		_, _, ok := u.tryLoad(start+2*pg, 8)
		assert.False(t, ok)
		assert.Equal(t, start+pg+1, brk(start-1), "below the start")

		wall := MmapRequest{Addr: start + 10*pg, Prot: ProtRead, Flags: MapAnonymous | MapPrivate | MapFixed}
		u.mmap(1, wall)
		assert.Equal(t, start+pg+1, brk(start+10*pg), "a page is kept free below the next mapping")
		assert.Equal(t, start+9*pg, brk(start+9*pg))
		u.mm.Limits.Data = 10 * pg
		assert.Equal(t, start+9*pg, brk(start+11*pg))
		assert.Equal(t, start+9*pg, brk(^uint64(0)))
		u.mm.Limits.Data = 0
		assert.Equal(t, start+9*pg, brk(^uint64(0)))
		assert.Equal(t, start, brk(start))
		assert.Equal(t, 1, u.mm.MapCount)
		u.munmap(start+10*pg, 1)
		assert.Equal(t, start+9*pg, brk(start+9*pg))
		assert.Zero(t, u.load(start+8), "the heap comes back empty")
		assert.NoError(t, u.mm.validateMM())
	})
	r.end()
}

func TestStackGrowth(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		top := window + 1<<30
		stack := MmapRequest{Addr: top - 2*pg, Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapFixed | MapGrowsDown}
		u.mmap(2, stack)
		v := u.mm.lookupVMA(top - pg)
		u.store(top-10*pg, 1)
		assert.Equal(t, top-10*pg, v.Start)
		assert.EqualValues(t, 10, u.mm.TotalVM)
		assert.EqualValues(t, 10, u.s.CommittedPages())
		assert.EqualValues(t, (top-10*pg)/pg, v.PgOff)
		u.wait(u.fork(func(c *user) { c.store(top-12*pg, 1) }))
		assert.Equal(t, top-10*pg, v.Start, "a child's stack is its own")

		u.mm.Limits.Stack = 20 * pg
		sig, ok := u.tryStore(top-21*pg, 8, 1)
		assert.False(t, ok)
		assert.Equal(t, SegvMapErr, sig.Code)
		u.store(top-20*pg, 1)
		u.mm.Limits.Stack = 0
		u.mm.Limits.AS = 25 * pg
		_, ok = u.tryStore(top-26*pg, 8, 1)
		assert.False(t, ok)
		u.mm.Limits.AS = 0

		// Down to the next mapping without a gap, as in 2.6.29.
		wall := MmapRequest{Addr: top - 41*pg, Prot: ProtRead, Flags: MapAnonymous | MapPrivate | MapFixed}
		u.mmap(1, wall)
		u.mm.Limits.StackGuard = 2 * pg
		_, ok = u.tryStore(top-39*pg, 8, 1)
		assert.False(t, ok)
		u.store(top-38*pg, 1)
		u.mm.Limits.StackGuard = 0
		u.store(top-40*pg, 1)
		assert.Equal(t, top-40*pg, v.Start)
		_, ok = u.tryStore(top-41*pg, 8, 1)
		assert.False(t, ok, "the wall is read-only")

		// get_user_pages grows it too.
		low := MmapRequest{Addr: window, Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapFixed | MapGrowsDown}
		u.mmap(1, low)
		var pages [1]*page.Page
		u.kernel(func(t2 *sched.Task) {
			u.mm.MmapSem.DownRead(t2)
			n, err := GetUserPages(t2, u.mm, window-3*pg, 1, GUPWrite, PinGet, pages[:])
			u.mm.MmapSem.UpRead(t2)
			assert.Equal(t, 1, n)
			assert.NoError(t, err)
			u.s.PutUserPage(t2, pages[0], PinGet)
			u.mm.MmapSem.DownRead(t2)
			assert.Nil(t, findExtendVMA(t2, u.mm, 0x8000), "among the lowest addresses")
			u.mm.MmapSem.UpRead(t2)
		})
		assert.Equal(t, window-3*pg, u.mm.lookupVMA(window).Start)
		assert.NoError(t, u.mm.validateMM())
		assert.Empty(t, u.s.Check())
	})
	assert.Zero(t, r.s.CommittedPages())
	r.end()
}

func TestInsertVMA(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		u.kernel(func(t2 *sched.Task) {
			m := u.mm
			flags := VMRead | VMWrite | VMMayRead | VMMayWrite | VMGrowsDown | VMAccount
			v := func() *VMA { return &VMA{Start: at(0), End: at(1), Flags: flags, Prot: vmGetPageProt(flags)} }
			m.MmapSem.DownWrite(t2)
			assert.NoError(t, m.InsertVMA(t2, v()))
			m.TotalVM++
			assert.Equal(t, unix.ENOMEM, m.InsertVMA(t2, v()))
			big := v()
			big.Start, big.End = at(10), at(1<<30)
			assert.Equal(t, unix.ENOMEM, m.InsertVMA(t2, big))
			m.MmapSem.UpWrite(t2)
			m.StackTop = at(1)
		})
		u.store(at(0), 1)
		assert.Contains(t, u.mm.Maps(), " [stack]\n")
		assert.EqualValues(t, 1, u.s.CommittedPages())
	})
	r.end()
}

func TestMaps(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		k := newVMAScript(u)
		k.run("map 0-2 rw; map 2-3 -; file 4-6 rx 5; touch 0")
		assert.Equal(t, `10000000000-10000002000 rw-p 00000000 00:00 0
10000002000-10000003000 ---p 00000000 00:00 0
10000004000-10000006000 r-xp 00005000 00:00 0                            file
`, u.mm.Maps())
		assert.Contains(t, u.mm.DebugString(), "flags 0x100073 pgoff 0x10000000 anon_vma ")
		k.run("unmap 0-6")
		k.as.Put(u.t)
	})
	r.end()
}

func TestMunmapCountsAndFlushes(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		a := u.mmap(100)
		for i := range uint64(100) {
			u.store(a+i*pg, i)
		}
		u.munmap(a, 100)
		assert.EqualValues(t, 100, r.sum(trace.EmuZapPages))
		_, _, ok := u.tryLoad(a, 8)
		assert.False(t, ok)
	})
	r.end()
}
