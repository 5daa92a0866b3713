package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

func (u *user) mremap(addr uint64, old, size int, flags MremapFlags, to uint64) (at uint64, err error) {
	u.kernel(func(t *sched.Task) {
		at, err = SysMremap(t, u.mm, addr, uint64(old)*pg, uint64(size)*pg, flags, to)
	})
	return at, err
}

func TestMremapErrors(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed, CheckLocks: true}})
	r.run(func(u *user) {
		const move, fixed = MremapMayMove, MremapMayMove | MremapFixed
		fixedAt := func(addr uint64, pages int) {
			u.mmap(pages, MmapRequest{Addr: addr, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous | MapFixed})
		}
		fixedAt(at(0), 4)
		fixedAt(at(10), 2)
		for _, c := range []struct {
			name      string
			addr      uint64
			old, size int
			flags     MremapFlags
			to        uint64
			want      error
		}{
			{"unknown flag", at(0), 1, 1, 4, 0, unix.EINVAL},
			{"unaligned", at(0) + 1, 1, 1, 0, 0, unix.EINVAL},
			{"no new length", at(0), 1, 0, move, 0, unix.EINVAL},
			{"fixed without may-move", at(0), 1, 1, MremapFixed, at(20), unix.EINVAL},
			{"new address unaligned", at(0), 1, 1, fixed, at(20) + 1, unix.EINVAL},
			{"beyond user space", at(0), 1, 1, fixed, x86.TaskSize, unix.EINVAL},
			{"overlap below", at(1), 2, 2, fixed, at(0), unix.EINVAL},
			{"overlap above", at(0), 2, 2, fixed, at(1), unix.EINVAL},
			{"nothing there", at(30), 1, 2, move, 0, unix.EFAULT},
			{"beyond the VMA", at(0), 5, 6, move, 0, unix.EFAULT},
			{"no room behind", at(10), 1, 2, 0, 0, unix.ENOMEM},
		} {
			_, err := u.mremap(c.addr, c.old, c.size, c.flags, c.to)
			assert.Equal(t, c.want, err, c.name)
		}
		// What is in the way of a fixed move goes first, even if the move then fails.
		_, err := u.mremap(at(30), 1, 1, fixed, at(10))
		assert.Equal(t, unix.EFAULT, err)
		assert.NotEqual(t, at(10), u.mm.lookupVMA(at(10)).Start)
	})
	r.end()
}

// A page that is moved stays the same page, pinned or not, shared or not.
func TestMremapMovesPages(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o rigOptions) {
		o.CheckLocks = true
		r := boot(t, o)
		r.run(func(u *user) {
			const n = 600 // more than a table
			a := u.mmap(n)
			for i := range uint64(n) {
				u.store(a+i*pg, i)
			}
			var pinned [1]*page.Page
			u.kernel(func(t *sched.Task) {
				if k, err := GetUserPagesFast(t, a+5*pg, 1, true, PinGet, pinned[:]); k != 1 {
					t.Oops("gup: %v", err)
				}
			})
			child := u.fork(func(c *user) {
				for i := range uint64(n) {
					if v := c.load(a + i*pg); v != i {
						c.t.Oops("child: page %d is %d", i, v)
					}
				}
			})
			b, err := u.mremap(a, n, n+100, MremapMayMove, 0)
			require.NoError(t, err)
			u.wait(child)
			if b == a { // there was room behind
				b, err = u.mremap(a, n+100, n+100, MremapMayMove|MremapFixed, a-1<<30)
				require.NoError(t, err)
			}
			if _, ok := u.tryStore(a, 8, 1); ok {
				u.t.Oops("the old place is still there")
			}
			for i := range uint64(n) {
				if v := u.load(b + i*pg); v != i {
					u.t.Oops("page %d is %d after the move", i, v)
				}
			}
			assert.Zero(t, u.load(b+n*pg))
			ref, _, ok := u.mm.lookupPTE(u.t.C, b+5*pg)
			require.True(t, ok)
			assert.Equal(t, u.s.Pages.PFN(pinned[0]), ref.Peek().PFN())
			assert.Empty(t, u.s.Check())
			u.kernel(func(t *sched.Task) { u.s.PutUserPage(t, pinned[0], PinGet) })
			u.munmap(b, n+100)
		})
		assert.GreaterOrEqual(t, r.sum(trace.EmuMremapPages), int64(600))
		assert.Zero(t, r.s.CommittedPages())
		r.end()
	})
}

// A thread that keeps storing to memory that moves away never stores to it again
// once mremap has returned, and loses nothing before.
func TestMremapAgainstStores(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o rigOptions) {
		r := boot(t, o)
		r.run(func(u *user) {
			a, word := u.mmap(1), u.mmap(1)
			u.store(a, 0)
			u.store(word, 0)
			other := u.threadOn(u.otherCPU(), "storer", func(c *user) {
				for i := uint64(1); ; i++ {
					if _, ok := c.tryStore(a, 8, i); !ok {
						return
					}
					c.store(word, i)
				}
			})
			for u.load(word) < 3 {
				u.kernel(func(t *sched.Task) { t.SleepFor(1000) })
			}
			_, err := u.mremap(a, 1, 1, MremapMayMove|MremapFixed, a-1<<30)
			require.NoError(t, err)
			last := u.load(a - 1<<30)
			u.wait(other)
			assert.Equal(t, last, u.load(a-1<<30))
			assert.Equal(t, last, u.load(word))
		})
		r.end()
	})
}

// When a page table cannot be had, everything is where it was.
func TestMremapOutOfMemory(t *testing.T) {
	for _, site := range []string{"pte_alloc_one", "pmd_alloc_one"} {
		for nth := 1; nth <= 2; nth++ {
			r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed, CheckLocks: true}})
			r.run(func(u *user) {
				const n = 700
				a := u.mmap(n)
				for i := range uint64(n) {
					u.store(a+i*pg, i+1)
				}
				u.s.Pages.FailAt(site, nth)
				_, err := u.mremap(a, n, n, MremapMayMove|MremapFixed, at(0))
				u.s.Pages.FailNever()
				assert.True(t, err != nil || site != "pte_alloc_one")
				if err != nil {
					assert.Equal(t, unix.ENOMEM, err)
					assert.NotEqual(t, at(0), u.mm.lookupVMA(at(0)).Start)
				} else {
					a = at(0)
				}
				for i := range uint64(n) {
					assert.Equal(t, i+1, u.load(a+i*pg))
				}
				assert.Empty(t, u.s.Check())
				u.munmap(a, n)
			})
			assert.Zero(t, r.s.CommittedPages(), "%s %d", site, nth)
			r.end()
		}
	}
}

// A piece out of the middle of an accounted mapping: nothing is charged twice.
func TestMremapAccounting(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
	r.run(func(u *user) {
		a := u.mmap(9)
		b, err := u.mremap(a+3*pg, 3, 5, MremapMayMove, 0)
		require.NoError(t, err)
		assert.EqualValues(t, 11, u.s.CommittedPages())
		assert.EqualValues(t, 11, u.mm.TotalVM)
		u.munmap(a, 9)
		u.munmap(b, 5)
	})
	assert.Zero(t, r.s.CommittedPages())
	r.end()
}

// The child of a process that has asked for it shares nothing with it.
func TestMadvDontCOW(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o rigOptions) {
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(4)
			u.store(a, 1)
			u.store(a+pg, 2)
			u.kernel(func(t *sched.Task) {
				if err := SysMadvise(t, u.mm, a, 2*pg, MadvDontCOW); err != nil {
					t.Oops("madvise: %v", err)
				}
			})
			u.store(a+2*pg, 3)
			pte := u.mm.PeekPTE(a)
			child := u.fork(func(c *user) {
				if c.load(a) != 1 || c.load(a+pg) != 2 || c.load(a+2*pg) != 3 {
					c.t.Oops("the child has %d %d %d", c.load(a), c.load(a+pg), c.load(a+2*pg))
				}
				c.store(a, 9)
			})
			assert.Equal(t, pte.PFN(), u.mm.PeekPTE(a).PFN())
			assert.True(t, u.mm.PeekPTE(a).Write())
			u.wait(child)
			assert.EqualValues(t, 1, u.load(a))
		})
		assert.EqualValues(t, 2, r.sum(trace.EmuForkCopies))
		r.end()
	})
}
