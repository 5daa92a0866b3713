package mm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Every test of the basics runs with the core's own code, and again with every
// decision sent through Stock's methods.
func bothWays(t *testing.T, fn func(t *testing.T, o pinOptions)) {
	t.Run("inline", func(t *testing.T) { fn(t, pinOptions{cpus: 1, regime: sched.Timed}) })
	t.Run("hooks", func(t *testing.T) { fn(t, pinOptions{cpus: 1, regime: sched.Timed, force: true}) })
}

func TestGUPFastTakesMappedPages(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		r := newPinRig(t, o)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 16, protRW, 0)
			r.fill(k, addr, 16, 100)
			pages := make([]*page.Page, 16)
			for _, write := range []bool{false, true} {
				n, err := GetUserPagesFast(k, addr+17, 16, write, PinGet, pages)
				require.NoError(t, err)
				require.Equal(t, 16, n)
				require.False(t, k.C.IRQsDisabled())
				for i, p := range pages {
					require.Same(t, r.pageAt(mm, addr+uint64(i)*pgSize), p)
					require.Equal(t, 2, r.refs(k, p))
				}
				r.sound()
				r.s.PutUserPages(k, pages, PinGet)
			}
			require.Equal(t, uint64(32), k.C.Trace.Value(trace.EmuGUPFastPages))
			require.Zero(t, k.C.Trace.Value(trace.EmuGUPFastFallback))
			require.Equal(t, 1, r.refs(k, pages[0]))
		})
	})
}

func TestGUPFastLeavesTheRestToTheSlowWay(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		r := newPinRig(t, o)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 8, protRW, 0)
			r.fill(k, addr, 3, 1) // the others have never been touched
			pages := make([]*page.Page, 8)
			n, err := GetUserPagesFast(k, addr, 8, true, PinGet, pages)
			require.NoError(t, err)
			require.Equal(t, 8, n)
			require.Equal(t, uint64(3), k.C.Trace.Value(trace.EmuGUPFastPages))
			require.Equal(t, uint64(5), k.C.Trace.Value(trace.EmuGUPSlowPages))
			for i, p := range pages {
				require.Same(t, r.pageAt(mm, addr+uint64(i)*pgSize), p)
			}
			r.s.PutUserPages(k, pages, PinGet)
		})
	})
}

// The walk must go on correctly where a table of any level ends.
func TestGUPFastCrossesTables(t *testing.T) {
	for _, at := range []uint64{x86.PMDSize * 5, x86.PUDSize * 3, x86.PGDSize * 2} {
		bothWays(t, func(t *testing.T, o pinOptions) {
			r := newPinRig(t, o)
			r.run(func(k *sched.Task, mm *MM) {
				addr := r.mmapAt(k, mm, at-3*pgSize, 6, protRW, 0)
				r.fill(k, addr, 6, 1)
				pages := make([]*page.Page, 6)
				n, err := GetUserPagesFast(k, addr, 6, true, PinGet, pages)
				require.NoError(t, err)
				require.Equal(t, 6, n)
				require.Equal(t, uint64(6), k.C.Trace.Value(trace.EmuGUPFastPages))
				for i, p := range pages {
					require.Same(t, r.pageAt(mm, addr+uint64(i)*pgSize), p)
				}
				r.s.PutUserPages(k, pages, PinGet)
			})
		})
	}
}

func TestGUPFastReturnValues(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 4, protRW, 0)
		require.NoError(t, SysMunmap(k, mm, addr+2*pgSize, 2*pgSize))
		ro := r.mmap(k, mm, 1, ProtRead, 0)
		pages := make([]*page.Page, 8)
		for _, c := range []struct {
			name  string
			start uint64
			n     int
			write bool
			want  int
			err   error
		}{
			{"nothing asked", addr, 0, true, 0, nil},
			{"negative", addr, -1, true, 0, nil},
			{"hole after two pages", addr, 4, true, 2, nil},
			{"hole at once", addr + 2*pgSize, 1, true, 0, unix.EFAULT},
			{"not writable", ro, 1, true, 0, unix.EFAULT},
			{"beyond user space", x86.TaskSize, 1, true, 0, unix.EFAULT},
			{"across the end of user space", x86.TaskSize - pgSize, 2, true, 0, unix.EFAULT},
			{"wraps", ^uint64(0) - pgSize, 8, true, 0, unix.EFAULT},
		} {
			n, err := GetUserPagesFast(k, c.start, c.n, c.write, PinGet, pages)
			require.Equal(t, c.want, n, c.name)
			require.Equal(t, c.err, err, c.name)
			r.s.PutUserPages(k, pages[:n], PinGet)
		}
	})
}

// What the permissions of the VMA, write and force make of a request
// (LINUX.md 4.9).
func TestGUPPermissions(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		for _, c := range []struct {
			prot   Prot
			shared bool
			flags  GUPFlags
			err    error
		}{
			{ProtRead, false, 0, nil},
			{ProtRead, false, GUPWrite, unix.EFAULT},
			{ProtRead, false, GUPWrite | GUPForce, nil},
			{ProtNone, false, 0, unix.EFAULT},
			{ProtNone, false, GUPForce, nil},
			{ProtNone, false, GUPIgnoreVMAPerm, nil},
			{ProtWrite, false, 0, unix.EFAULT}, // VM_WRITE alone is not VM_READ
			{protRW, false, GUPWrite, nil},
			{protRW, true, GUPWrite, nil},
			{ProtRead, true, GUPWrite, unix.EFAULT},
		} {
			flags := MapPrivate
			if c.shared {
				flags = MapShared
			}
			addr := r.mmap(k, mm, 1, c.prot, flags)
			var pages [1]*page.Page
			n, err := slow(k, mm, addr, 1, c.flags, pages[:])
			require.Equal(t, c.err, err, "%+v", c)
			r.s.PutUserPages(k, pages[:n], PinGet)
			require.NoError(t, SysMunmap(k, mm, addr, pgSize))
		}
	})
}

// A forced write pin in a private mapping that is read-only breaks COW and leaves
// the pte read-only: the loop must not ask for a writable pte a second time.
func TestGUPForceOnSharedReadOnlyPage(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		o.cpus = 2
		r := newPinRig(t, o)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 7)
			require.NoError(t, SysMprotect(k, mm, addr, pgSize, ProtRead))
			done := false
			r.fork(k, mm, 1, func(k *sched.Task, _ *MM) { until(k, func() bool { return done }) })
			shared := r.pageAt(mm, addr)
			var pages [1]*page.Page
			n, err := slow(k, mm, addr, 1, GUPWrite|GUPForce, pages[:])
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NotSame(t, shared, pages[0], "COW was not broken")
			require.Same(t, r.pageAt(mm, addr), pages[0])
			require.False(t, mm.PeekPTE(addr).Write())
			require.Equal(t, uint64(7), r.load(k, addr))
			r.sound()
			r.s.PutUserPages(k, pages[:], PinGet)
			done = true
		})
	})
}

// A read of anonymous memory that nobody has touched gets the zero page and makes
// no page table; a write pin and a fault do.
func TestGUPZeroPage(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		r := newPinRig(t, o)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 4, protRW, 0)
			pages := make([]*page.Page, 4)
			n, err := GetUserPagesFast(k, addr, 4, false, PinGet, pages)
			require.NoError(t, err)
			require.Equal(t, 4, n)
			zero := r.s.ZeroPage(k)
			for _, p := range pages {
				require.Same(t, zero, p)
			}
			require.True(t, zero.Has(page.Reserved))
			require.Equal(t, int32(5), zero.Count.Peek())
			require.Zero(t, mm.NrPTEs)
			require.Zero(t, mm.AnonRSS.Peek())
			r.s.PutUserPages(k, pages, PinGet)

			// Neither shared memory nor make_pages_present are content with zeroes.
			shm := r.mmap(k, mm, 1, protRW, MapShared)
			n, err = slow(k, mm, shm, 1, 0, pages)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NotSame(t, zero, pages[0])
			r.s.PutUserPages(k, pages[:1], PinGet)
			n, err = slow(k, mm, addr, 2, GUPWrite, nil)
			require.NoError(t, err)
			require.Equal(t, 2, n)
			require.Equal(t, uint64(2), mm.AnonRSS.Peek())
			require.Equal(t, 1, r.refs(k, r.pageAt(mm, addr)))
		})
	})
}

func TestGUPTouchesPages(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, 0)
		r.store(k, addr, 1)
		p := r.pageAt(mm, addr)
		require.False(t, p.Has(page.Referenced))
		var pages [1]*page.Page
		_, err := slow(k, mm, addr, 1, GUPWrite, pages[:])
		require.NoError(t, err)
		require.True(t, p.Has(page.Referenced), "mark_page_accessed")
		require.False(t, p.Has(page.Dirty), "the pte is dirty: the page need not be")
		r.s.PutUserPages(k, pages[:], PinGet)

		// gup-fast does neither.
		r.s.Pages.ClearFlag(k, p, page.Referenced)
		_, err = GetUserPagesFast(k, addr, 1, true, PinGet, pages[:])
		require.NoError(t, err)
		require.False(t, p.Has(page.Referenced))
		r.s.PutUserPages(k, pages[:], PinGet)
	})
}

func TestGUPIsKilled(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 4, protRW, 0)
		r.m.Signal(k, k, true)
		pages := make([]*page.Page, 4)
		n, err := slow(k, mm, addr, 4, GUPWrite, pages)
		require.Zero(t, n)
		require.Equal(t, unix.EINTR, err)
		n, err = slow(k, mm, addr, 4, GUPWrite|GUPIgnoreSigkill, pages)
		require.NoError(t, err)
		require.Equal(t, 4, n)
		r.s.PutUserPages(k, pages, PinGet)
	})
}

func TestGUPOutOfMemory(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 4, protRW, 0)
		pages := make([]*page.Page, 4)
		r.s.Pages.FailAt("do_anonymous_page", 3)
		n, err := slow(k, mm, addr, 4, GUPWrite, pages)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		r.s.PutUserPages(k, pages[:n], PinGet)
		r.s.Pages.FailAt("do_anonymous_page", 1)
		n, err = slow(k, mm, addr+2*pgSize, 2, GUPWrite, pages)
		require.Equal(t, unix.ENOMEM, err)
		require.Zero(t, n)
		r.s.Pages.FailNever()
	})
}

// A pin on a stack grows it.
func TestGUPGrowsStack(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmapAt(k, mm, 0x100000000, 1, protRW, MapGrowsDown)
		var pages [1]*page.Page
		n, err := GetUserPagesFast(k, addr-3*pgSize, 1, true, PinGet, pages[:])
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Same(t, r.pageAt(mm, addr-3*pgSize), pages[0])
		r.s.PutUserPages(k, pages[:], PinGet)
	})
}

// A stack that grows and is locked calls get_user_pages in the middle of itself.
func TestGUPNested(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmapAt(k, mm, 0x100000000, 1, protRW, MapGrowsDown|MapLocked)
		pages := make([]*page.Page, 4)
		n, err := slow(k, mm, addr-3*pgSize, 4, GUPWrite, pages)
		require.NoError(t, err)
		require.Equal(t, 4, n)
		for i, p := range pages {
			require.Same(t, r.pageAt(mm, addr-3*pgSize+uint64(i)*pgSize), p)
			require.Equal(t, 2, r.refs(k, p))
		}
		r.s.PutUserPages(k, pages, PinGet)
	})
}

// Behind a SPECIAL entry there is no struct Page to refer to.
func TestGUPSpecialEntry(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 2, protRW, 0)
		r.fill(k, addr, 2, 1)
		ref, _, ok := mm.lookupPTE(k.C, addr+pgSize)
		require.True(t, ok)
		pte := ref.Peek()
		ref.Poke(pte.MkSpecial())
		var pages [2]*page.Page
		n, err := GetUserPagesFast(k, addr, 2, true, PinGet, pages[:])
		require.NoError(t, err)
		require.Equal(t, 1, n)
		r.s.PutUserPages(k, pages[:1], PinGet)
		n, err = GetUserPagesFast(k, addr+pgSize, 1, false, PinGet, pages[:])
		require.Equal(t, unix.EFAULT, err)
		require.Zero(t, n)
		ref.Poke(pte)
	})
}

// gupPolicy records and bends what slow get_user_pages asks.
type gupPolicy struct {
	Stock
	vma    func(g *GUP) GUPNext
	follow func(g *GUP, pte x86.PTE, p *page.Page) FollowNext
	taken  func(g *GUP, p *page.Page)
}

func (gupPolicy) Hooks() HookSet { return HookGUPVMA | HookFollow | HookTaken }

func (p gupPolicy) GUPVMA(g *GUP) GUPNext {
	if p.vma != nil {
		return p.vma(g)
	}
	return GUPGo
}

func (p gupPolicy) Follow(g *GUP, pte x86.PTE, pg *page.Page) FollowNext {
	if p.follow != nil {
		return p.follow(g, pte, pg)
	}
	return FollowTake
}

func (p gupPolicy) Taken(g *GUP, pg *page.Page) {
	if p.taken != nil {
		p.taken(g, pg)
	}
}

// De-COW as row 5 of POLICIES.md does it: a read pin of a COW mapping that forces a
// write fault. Of memory that was never touched, FOLL_ANON and FOLL_WRITE are
// then both set, which 2.6.29 says cannot be.
func TestGUPForcedWriteMeetsZeroPage(t *testing.T) {
	pol := gupPolicy{vma: func(g *GUP) GUPNext {
		if g.VMA.Flags.IsCOW() && g.Want {
			g.Foll |= FollWrite
		}
		return GUPGo
	}}
	r := newPinRig(t, pinOptions{regime: sched.Timed, policy: pol})
	r.oops("FOLL_ANON and FOLL_WRITE", func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, 0)
		var pages [1]*page.Page
		_, _ = slow(k, mm, addr, 1, 0, pages[:])
	})
}

// The same forced write is asked for again for each page, though the fault of the
// one before took it away.
func TestGUPForcedWriteIsPerPage(t *testing.T) {
	var seen []FollFlags
	pol := gupPolicy{
		vma:   func(g *GUP) GUPNext { g.Foll |= FollWrite; g.Foll &^= FollAnon; return GUPGo },
		taken: func(g *GUP, _ *page.Page) { seen = append(seen, g.Foll&FollWrite) },
	}
	r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Timed, policy: pol})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 2, protRW, 0)
		r.fill(k, addr, 2, 1)
		require.NoError(t, SysMprotect(k, mm, addr, 2*pgSize, ProtRead))
		done := false
		r.fork(k, mm, 1, func(k *sched.Task, _ *MM) { until(k, func() bool { return done }) })
		shared := [2]*page.Page{r.pageAt(mm, addr), r.pageAt(mm, addr+pgSize)}
		var pages [2]*page.Page
		n, err := slow(k, mm, addr, 2, 0, pages[:])
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.NotSame(t, shared[0], pages[0])
		require.NotSame(t, shared[1], pages[1])
		require.Equal(t, []FollFlags{0, 0}, seen, "dropped for both: VM_WRITE is not set")
		r.s.PutUserPages(k, pages[:], PinGet)
		done = true
	})
}

// A policy may drop mmap_sem in GUPVMA, as row 3's conversion does.
func TestGUPLookupAgain(t *testing.T) {
	calls := 0
	pol := gupPolicy{vma: func(g *GUP) GUPNext {
		if calls++; calls > 1 {
			return GUPGo
		}
		g.MM.MmapSem.UpRead(g.T)
		g.MM.MmapSem.DownWrite(g.T)
		g.VMA.Flags |= VMPolicy0
		g.MM.MmapSem.DowngradeWrite(g.T)
		return GUPLookup
	}}
	r := newPinRig(t, pinOptions{regime: sched.Timed, policy: pol})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 2, protRW, 0)
		var pages [2]*page.Page
		n, err := GetUserPagesFast(k, addr, 2, true, PinGet, pages[:])
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, 2, calls)
		r.s.PutUserPages(k, pages[:], PinGet)
	})
}

// Row 2's follow_page: an anonymous page whose pte is not writable is not handed out;
// the fault that follows is a write fault.
func TestGUPFollowAsksForWriteFault(t *testing.T) {
	pol := gupPolicy{follow: func(g *GUP, pte x86.PTE, p *page.Page) FollowNext {
		if p.Anon() && !pte.Write() {
			g.Foll |= FollWrite
			return FollowFault
		}
		return FollowTake
	}}
	t.Run("writable vma", func(t *testing.T) {
		r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Timed, policy: pol})
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 9)
			done := false
			r.fork(k, mm, 1, func(k *sched.Task, _ *MM) { until(k, func() bool { return done }) })
			shared := r.pageAt(mm, addr)
			var pages [1]*page.Page
			n, err := slow(k, mm, addr, 1, 0, pages[:])
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NotSame(t, shared, pages[0])
			require.True(t, mm.PeekPTE(addr).Write())
			r.s.PutUserPages(k, pages[:], PinGet)
			done = true
		})
	})
	// In a VMA that is not writable the pte never becomes so: the patch's loop does
	// not end, and neither does ours.
	t.Run("read-only vma", func(t *testing.T) {
		r := newPinRig(t, pinOptions{regime: sched.Timed, policy: pol, steps: 100_000})
		res := r.user(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 9)
			require.NoError(t, SysMprotect(k, mm, addr, pgSize, ProtRead))
			var pages [1]*page.Page
			_, _ = slow(k, mm, addr, 1, 0, pages[:])
		})
		require.Equal(t, sched.Livelock, res.Reason, res.Detail)
	})
}
