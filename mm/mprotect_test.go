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

func TestMprotectErrors(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		k := newVMAScript(u)
		k.run("map 0-4 rw; map 6-8 rw")
		for _, c := range []struct {
			name       string
			addr, size uint64
			prot       Prot
			err        error
			want       string
		}{
			{"unaligned", at(0) + 1, pg, ProtRead, unix.EINVAL, "0-4:rw 6-8:rw"},
			{"no length", at(0), 0, ProtRead, nil, "0-4:rw 6-8:rw"},
			{"no length, bad bits", at(0), 0, 0x40, nil, "0-4:rw 6-8:rw"},
			{"wraps", at(0), ^uint64(0) - at(0) + 1, ProtRead, unix.ENOMEM, "0-4:rw 6-8:rw"},
			{"bad bits", at(0), pg, 0x40, unix.EINVAL, "0-4:rw 6-8:rw"},
			{"both directions", at(0), pg, ProtRead | ProtGrowsDown | ProtGrowsUp, unix.EINVAL, "0-4:rw 6-8:rw"},
			{"up, which nothing does", at(0), pg, ProtRead | ProtGrowsUp, unix.EINVAL, "0-4:rw 6-8:rw"},
			{"down, no stack", at(0), pg, ProtRead | ProtGrowsDown, unix.EINVAL, "0-4:rw 6-8:rw"},
			{"nothing there", at(20), pg, ProtRead, unix.ENOMEM, "0-4:rw 6-8:rw"},
			{"begins in a hole", at(5), 2 * pg, ProtRead, unix.ENOMEM, "0-4:rw 6-8:rw"},
			{"over a hole: the pages before it change", at(3), 4 * pg, ProtRead, unix.ENOMEM, "0-3:rw 3-4:r 6-8:rw"},
			{"rounded up", at(0), pg + 1, ProtNone, nil, "0-2: 2-3:rw 3-4:r 6-8:rw"},
			{"semaphores", at(0), 4 * pg, ProtRead | ProtWrite | ProtSem, nil, "0-4:rw 6-8:rw"},
		} {
			assert.Equal(t, c.err, u.mprotect(c.addr, c.size, c.prot), c.name)
			assert.Equal(t, c.want, k.layout(), c.name)
		}
		stack := MmapRequest{Addr: at(10), Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapFixed | MapGrowsDown}
		u.mmap(4, stack)
		assert.NoError(t, u.mprotect(at(12), pg, ProtRead|ProtGrowsDown))
		assert.Equal(t, "0-4:rw 6-8:rw 10-13:r 13-14:rw", k.layout(), "from the start of the stack")
		k.as.Put(u.t)
	})
	r.end()
}

// What the ptes get: A and D stay, a private page never becomes writable by permission,
// a page without permission stays mapped.
func TestMprotectEntries(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		a := u.mmap(2)
		u.store(a, 7)
		first := u.mm.PeekPTE(a)
		assert.True(t, first.Write() && first.Dirty() && first.Young())
		assert.NoError(t, u.mprotect(a, 2*pg, ProtRead))
		e := u.mm.PeekPTE(a)
		assert.Equal(t, first.WrProtect(), e)
		_, ok := u.tryStore(a, 8, 1)
		assert.False(t, ok, "the flush came in time")
		assert.NoError(t, u.mprotect(a, 2*pg, ProtRead|ProtWrite))
		assert.Equal(t, first.WrProtect(), u.mm.PeekPTE(a), "the next store decides")
		u.store(a, 8)
		assert.Equal(t, first, u.mm.PeekPTE(a), "the same page again: nobody shares it")

		assert.NoError(t, u.mprotect(a, 2*pg, ProtNone))
		e = u.mm.PeekPTE(a)
		assert.True(t, e.ProtNone() && e.Present() && !e.HWPresent(), "%v", e)
		assert.Equal(t, first.PFN(), e.PFN())
		_, sig, ok := u.tryLoad(a, 8)
		assert.False(t, ok)
		assert.Equal(t, SegvAccErr, sig.Code)
		assert.NoError(t, u.mprotect(a, 2*pg, ProtRead|ProtWrite|ProtExec))
		assert.Zero(t, u.mm.PeekPTE(a)&x86.PteNX)
		assert.EqualValues(t, 8, u.load(a))
		assert.True(t, u.mm.PeekPTE(a+pg).None())

		// Shared memory that nobody writes back becomes writable at once.
		s := u.mmap(1, MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapShared})
		u.store(s, 1)
		assert.NoError(t, u.mprotect(s, pg, ProtRead))
		assert.False(t, u.mm.PeekPTE(s).Write())
		assert.NoError(t, u.mprotect(s, pg, ProtRead|ProtWrite))
		assert.True(t, u.mm.PeekPTE(s).Write())
		assert.EqualValues(t, 4+1+1, r.sum(trace.EmuMprotectPages))
		assert.Empty(t, u.s.Check())
	})
	r.end()
}

// upgrading is a policy that makes pages writable by mprotect if only one pte maps them.
type upgrading struct {
	Stock
	asked *int
}

func (upgrading) Name() string   { return "upgrading" }
func (upgrading) Hooks() HookSet { return HookMprotect }
func (p upgrading) Mprotect(v *VMA, _ x86.PTE, pg *page.Page) bool {
	*p.asked++
	return pg.MapCount.Peek() == 1
}

func TestMprotectPolicy(t *testing.T) {
	asked := 0
	o := timed()
	o.mm.Policy = upgrading{asked: &asked}
	r := boot(t, o)
	r.run(func(u *user) {
		a := u.mmap(3)
		u.store(a, 1)
		u.store(a+pg, 1)
		assert.NoError(t, u.mprotect(a, 3*pg, ProtRead))
		assert.Zero(t, asked)
		assert.NoError(t, u.mprotect(a, 3*pg, ProtRead|ProtWrite))
		assert.Equal(t, 2, asked)
		assert.True(t, u.mm.PeekPTE(a).Write())
		u.store(a, 2)
		u.wait(u.fork(func(c *user) {
			assert.NoError(t, c.mprotect(a, 3*pg, ProtRead))
			assert.NoError(t, c.mprotect(a, 3*pg, ProtRead|ProtWrite))
			assert.False(t, c.mm.PeekPTE(a).Write())
			c.store(a, 3)
		}))
		assert.EqualValues(t, 2, u.load(a))
	})
	r.end()
}

// One flush for the whole range, and one for each VMA whose flags change.
func TestMprotectFlushesOnce(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		a := u.mmap(1100)
		for i := range uint64(1100) {
			u.store(a+i*pg, i)
		}
		before := r.sum(trace.EmuTLBFlushAll)
		assert.NoError(t, u.mprotect(a, 1100*pg, ProtRead))
		assert.EqualValues(t, 1, r.sum(trace.EmuTLBFlushAll)-before)
		assert.EqualValues(t, 1100, r.sum(trace.EmuMprotectPages))
		before = r.sum(trace.EmuTLBFlushAll)
		assert.NoError(t, u.mprotect(a, 1100*pg, ProtRead))
		assert.Zero(t, r.sum(trace.EmuTLBFlushAll)-before, "nothing changes, nothing is flushed")
	})
	r.end()
}

func TestMadviseErrors(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		k := newVMAScript(u)
		k.run("map 0-4 rw; map 6-8 rw; shm 10-12 rw; shm 12-14 r; file 14-16 rw 3; touch 0; touch 7")
		for _, c := range []struct {
			name       string
			addr, size uint64
			advice     Advice
			err        error
		}{
			{"unaligned", at(0) + 1, pg, MadvNormal, unix.EINVAL},
			{"rounds to nothing", at(0), ^uint64(0), MadvNormal, unix.EINVAL},
			{"wraps", at(0), ^uint64(0) - at(0), MadvNormal, unix.EINVAL},
			{"no length", at(0), 0, MadvNormal, nil},
			{"no length, nothing there", at(100), 0, MadvNormal, nil},
			{"nothing there", at(100), pg, MadvDontNeed, unix.ENOMEM},
			{"in a hole", at(4), pg, MadvDontNeed, unix.ENOMEM},
			{"bad advice", at(0), pg, 12345, unix.EINVAL},
			{"bad advice, negative", at(0), pg, -1, unix.EINVAL},
			{"over a hole: the rest is done", at(0), 8 * pg, MadvDontNeed, unix.ENOMEM},
			{"read ahead, no file", at(0), pg, MadvWillNeed, unix.EBADF},
			{"read ahead, file", at(14), pg, MadvWillNeed, nil},
			{"remove, no file", at(0), pg, MadvRemove, unix.EINVAL},
			{"remove, read-only", at(12), pg, MadvRemove, unix.EACCES},
			{"remove, private", at(14), pg, MadvRemove, unix.EACCES},
		} {
			assert.Equal(t, c.err, u.madvise(c.addr, c.size, c.advice), c.name)
		}
		assert.True(t, u.mm.PeekPTE(at(0)).None())
		assert.True(t, u.mm.PeekPTE(at(7)).None())
		assert.Zero(t, u.load(at(7)))
		u.mm.lookupVMA(at(0)).Flags |= VMPFNMap
		assert.Equal(t, unix.EINVAL, u.madvise(at(0), pg, MadvDontNeed))
		u.mm.lookupVMA(at(0)).Flags |= VMIO
		assert.Equal(t, unix.EINVAL, u.madvise(at(0), pg, MadvDoFork))
		assert.NoError(t, u.madvise(at(0), pg, MadvDontFork))
		u.mm.lookupVMA(at(0)).Flags &^= VMPFNMap | VMIO
		u.mm.lookupVMA(at(2)).Flags &^= VMPFNMap | VMIO
		assert.NoError(t, u.mm.validateMM())
		k.run("unmap 14-16")
		k.as.Put(u.t)
	})
	r.end()
}

// A child lacks what MADV_DONTFORK names, however small, and has it again after DOFORK.
func TestDontFork(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		a := u.mmap(3)
		for i := range uint64(3) {
			u.store(a+i*pg, i+1)
		}
		assert.NoError(t, u.madvise(a+pg, pg, MadvDontFork))
		assert.Equal(t, 3, u.mm.MapCount)
		u.wait(u.fork(func(c *user) {
			assert.EqualValues(t, 1, c.load(a))
			_, sig, ok := c.tryLoad(a+pg, 8)
			assert.False(t, ok)
			assert.Equal(t, SegvMapErr, sig.Code)
			assert.EqualValues(t, 3, c.load(a+2*pg))
			assert.EqualValues(t, 2, c.mm.TotalVM)
		}))
		assert.True(t, u.mm.PeekPTE(a+pg).Write(), "fork did not touch it")
		assert.NoError(t, u.madvise(a, 3*pg, MadvDoFork))
		assert.Equal(t, 1, u.mm.MapCount)
		u.wait(u.fork(func(c *user) { assert.EqualValues(t, 2, c.load(a+pg)) }))
	})
	r.end()
}

// puncher is shared memory that can drop pages.
type puncher struct {
	shmemOps
	first, last uint64
	locked      bool
}

func (p *puncher) PunchHole(t *sched.Task, _ *AddressSpace, first, last uint64) error {
	p.first, p.last = first, last
	p.locked = CurrentMM(t).MmapSem.Idle()
	return unix.EIO
}

func TestMadviseRemove(t *testing.T) {
	r := boot(t, timed())
	p := &puncher{}
	r.run(func(u *user) {
		as := u.s.NewAddressSpace(p, nil, 100)
		f := &plainFile{name: "f", mode: FModeRead | FModeWrite}
		a, err := u.tryMmap(MmapRequest{Len: 10 * pg, Prot: ProtRead | ProtWrite, Flags: MapShared, File: f, Mapping: as}, 5*pg)
		assert.NoError(t, err)
		assert.Equal(t, unix.EIO, u.madvise(a+2*pg, 3*pg, MadvRemove))
		assert.Equal(t, []uint64{7, 9}, []uint64{p.first, p.last})
		assert.True(t, p.locked, "mmap_sem is dropped meanwhile")
		s := u.mmap(1, MmapRequest{Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapShared})
		assert.Equal(t, unix.ENOSYS, u.madvise(s, pg, MadvRemove))
		u.munmap(a, 10)
		as.Put(u.t)
	})
	r.end()
}

// Threads on several CPUs fault, look up, grow a stack, and change the mappings under
// each other: for the race detector, and for what must hold at the end.
func TestMappingsUnderLoad(t *testing.T) {
	regimes(t, 4, func(t *testing.T, o rigOptions) {
		rounds := 30
		if o.Regime == sched.Free {
			rounds = 2
			o.CPUs = 2
		}
		r := boot(t, o)
		r.run(func(u *user) {
			u.mmap(4, MmapRequest{Addr: at(1000), Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapFixed | MapGrowsDown})
			u.mmap(64, MmapRequest{Addr: at(0), Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapFixed})
			w1 := u.thread("faults", func(c *user) {
				for i := range uint64(rounds * 8) {
					c.tryStore(at(int(i*7%64)), 8, i)
				}
			})
			w2 := u.thread("maps", func(c *user) {
				for i := range rounds {
					p := 8 + i*5%40
					assert.NoError(t, c.mprotect(at(p), 3*pg, ProtRead))
					assert.NoError(t, c.madvise(at(p-2), 4*pg, MadvDontNeed))
					assert.NoError(t, c.madvise(at(p), 2*pg, MadvDontFork))
					assert.NoError(t, c.tryMunmap(at(p+1), 4*pg))
					c.mmap(4, MmapRequest{Addr: at(p + 1), Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate | MapFixed})
					assert.NoError(t, c.mprotect(at(0), 64*pg, ProtRead|ProtWrite))
					assert.NoError(t, c.madvise(at(0), 64*pg, MadvDoFork))
				}
			})
			w3 := u.thread("stack", func(c *user) {
				for i := range rounds {
					c.store(at(1000-i), uint64(i))
					c.load(at(1003))
				}
			})
			for i := range rounds {
				u.store(at(1000+i%4), 1)
				u.store(at(1000-i), 1)
			}
			u.wait(w1)
			u.wait(w2)
			u.wait(w3)
			assert.NoError(t, u.mm.validateMM())
			k := vmaScript{u: u}
			assert.NoError(t, k.unmerged(), u.mm.DebugString())
		})
		assert.Zero(t, r.s.CommittedPages())
		r.end()
	})
}

func BenchmarkMprotect(b *testing.B) {
	const pages = 20000
	r := boot(b, rigOptions{bytes: 256 << 20})
	r.run(func(u *user) {
		a := u.mmap(pages)
		for i := range uint64(pages) {
			u.store(a+i*pg, i)
		}
		p := ProtRead
		b.ReportAllocs()
		for b.Loop() {
			if err := u.mprotect(a, pages*pg, p); err != nil {
				b.Fatal(err)
			}
			p ^= ProtWrite
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/pages, "ns/page")
	})
}

func BenchmarkMmapMunmap(b *testing.B) {
	r := boot(b, rigOptions{})
	r.run(func(u *user) {
		for i := range 20 {
			u.mmap(1, MmapRequest{Addr: at(3 * i), Prot: ProtRead, Flags: MapAnonymous | MapPrivate | MapFixed})
		}
		b.ReportAllocs()
		for b.Loop() {
			u.munmap(u.mmap(4), 4)
		}
	})
}

// writtenBack is a file whose dirty pages are counted, so that the first store to each
// must fault.
type writtenBack struct{ shmemOps }

func (writtenBack) AccountDirty() bool { return true }

// A shared page of such a file becomes writable by mprotect only if it is dirty already.
func TestMprotectDirtyAccountable(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		as := u.s.NewAddressSpace(writtenBack{}, nil, 10)
		f := &plainFile{name: "f", mode: FModeRead | FModeWrite}
		a, err := u.tryMmap(MmapRequest{Len: 2 * pg, Prot: ProtRead | ProtWrite, Flags: MapShared, File: f, Mapping: as}, 0)
		assert.NoError(t, err)
		assert.Zero(t, u.mm.lookupVMA(a).Prot&x86.PteRW)
		u.load(a)
		u.store(a+pg, 1)
		assert.False(t, u.mm.PeekPTE(a).Write())
		assert.True(t, u.mm.PeekPTE(a+pg).Write())
		assert.NoError(t, u.mprotect(a, 2*pg, ProtRead))
		assert.False(t, u.mm.PeekPTE(a+pg).Write())
		assert.NoError(t, u.mprotect(a, 2*pg, ProtRead|ProtWrite))
		assert.False(t, u.mm.PeekPTE(a).Write())
		assert.True(t, u.mm.PeekPTE(a+pg).Write())
		u.store(a, 1)
		assert.True(t, u.mm.PeekPTE(a).Dirty())
		u.munmap(a, 2)
		as.Put(u.t)
	})
	assert.Zero(t, r.s.CommittedPages())
	r.end()
}

// Locked stacks, locked heaps, and what cannot be locked.
func TestLockedMemory(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		stack := MmapRequest{Addr: at(10), Prot: ProtRead | ProtWrite,
			Flags: MapAnonymous | MapPrivate | MapFixed | MapGrowsDown | MapLocked}
		u.mmap(1, stack)
		u.mm.Limits.Memlock, u.mm.Limits.Unprivileged = 4*pg, true
		u.store(at(8), 1)
		assert.EqualValues(t, 3, u.mm.LockedVM)
		_, ok := u.tryStore(at(5), 8, 1)
		assert.False(t, ok)
		u.kernel(func(t2 *sched.Task) {
			u.mm.MmapSem.DownRead(t2)
			assert.NotNil(t, findExtendVMA(t2, u.mm, at(7)))
			u.mm.MmapSem.UpRead(t2)
		})
		assert.True(t, u.mm.PeekPTE(at(7)).Write(), "get_user_pages makes what it adds to a locked stack present")

		u.mm.DefFlags = VMLocked // mlockall(MCL_FUTURE)
		u.mm.StartBrk, u.mm.Brk = at(100), at(100)
		brk := func(addr uint64) (end uint64) {
			u.kernel(func(t *sched.Task) { end = SysBrk(t, u.mm, addr) })
			return end
		}
		assert.Equal(t, at(100), brk(at(101)), "beyond RLIMIT_MEMLOCK")
		u.mm.Limits.Memlock = 0
		assert.Equal(t, at(101), brk(at(101)))
		assert.True(t, u.mm.PeekPTE(at(100)).Write())
		assert.EqualValues(t, 5, u.mm.LockedVM)

		// A device's memory is never locked.
		as := u.s.NewAddressSpace(shmemOps{}, nil, 10)
		dev := &plainFile{name: "dev", mode: FModeRead | FModeWrite, flags: VMIO}
		_, err := u.tryMmap(MmapRequest{Addr: at(50), Len: pg, Prot: ProtRead, Flags: MapShared | MapFixed, File: dev, Mapping: as}, 0)
		assert.NoError(t, err)
		assert.EqualValues(t, 5, u.mm.LockedVM)
		assert.NoError(t, u.mm.validateMM())
		u.munmap(at(50), 1)
		as.Put(u.t)
	})
	r.end()
}
