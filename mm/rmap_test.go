package mm

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

func TestAnonVMASlots(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, _ *MM) {
		s := &r.s.anon
		seen := map[*AnonVMA]bool{}
		var all []*AnonVMA
		for range 1000 {
			a := s.alloc(k)
			require.False(t, seen[a])
			require.Same(t, a, s.of(a.handle()))
			seen[a] = true
			all = append(all, a)
		}
		require.Equal(t, 1000, s.live())
		last := all[len(all)-1]
		s.free(k, last)
		require.Same(t, last, s.alloc(k), "a slot is re-used at once")
		for _, a := range all {
			s.free(k, a)
		}
		require.Zero(t, s.live())
		made := s.n
		for i := range all {
			all[i] = s.alloc(k)
		}
		require.Equal(t, made, s.n)
		for _, a := range all {
			s.free(k, a)
		}
	})
}

// list returns the VMAs of an AnonVMA in order, checking the links both ways.
func (r *pinRig) list(a *AnonVMA) (out []*VMA) {
	var prev *VMA
	for v := a.head; v != nil; prev, v = v, v.anonNext {
		require.Same(r.t, prev, v.anonPrev)
		require.Same(r.t, a, v.AnonVMA)
		out = append(out, v)
	}
	require.Same(r.t, prev, a.tail)
	return out
}

// Relatives share an AnonVMA: the VMA, its copies by fork, and its parts.
func TestAnonVMAFamily(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 4, protRW, 0)
		v := mm.lookupVMA(addr)
		require.Nil(t, v.AnonVMA)
		r.store(k, addr, 1)
		a := v.AnonVMA
		require.Equal(t, []*VMA{v}, r.list(a))

		first, err := r.s.DupMM(k, mm)
		require.NoError(t, err)
		second, err := r.s.DupMM(k, mm)
		require.NoError(t, err)
		c1, c2 := first.lookupVMA(addr), second.lookupVMA(addr)
		require.Equal(t, []*VMA{v, c1, c2}, r.list(a), "in order of arrival")

		require.NoError(t, SysMprotect(k, mm, addr+2*pgSize, 2*pgSize, ProtRead))
		low, high := mm.lookupVMA(addr), mm.lookupVMA(addr+2*pgSize)
		require.NotSame(t, low, high)
		require.ElementsMatch(t, []*VMA{low, c1, c2, high}, r.list(a))

		first.MMPut(k)
		require.ElementsMatch(t, []*VMA{low, c2, high}, r.list(a))
		require.NoError(t, SysMunmap(k, mm, addr, 4*pgSize))
		require.Equal(t, []*VMA{c2}, r.list(a))
		require.Equal(t, 1, r.s.anon.live())
		second.MMPut(k)
		require.Zero(t, r.s.anon.live())
		require.True(t, a.empty())
	})
}

// Threads that fault in one VMA for the first time make one AnonVMA.
func TestAnonVMAPrepareTogether(t *testing.T) {
	for _, regime := range []sched.Regime{sched.Free, sched.Parallel} {
		for seed := range uint64(20) {
			r := newPinRig(t, pinOptions{cpus: 3, regime: regime, seed: seed})
			r.run(func(k *sched.Task, mm *MM) {
				addr := r.mmap(k, mm, 3, protRW, 0)
				for cpu := 1; cpu < 3; cpu++ {
					mm.MMGet(k)
					r.start(k, "thread", cpu, mm, func(k *sched.Task) { _ = store(k, addr+uint64(cpu)*pgSize, 1) })
				}
				r.store(k, addr, 1)
			})
			require.Zero(t, r.s.anon.live())
		}
	}
}

func TestPageLockAnonVMA(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, 0)
		r.store(k, addr, 1)
		p := r.pageAt(mm, addr)
		a := r.s.pageLockAnonVMA(k, p)
		require.Same(t, mm.lookupVMA(addr).AnonVMA, a)
		require.True(t, k.PreemptDisabled())
		pageUnlockAnonVMA(k, a)
		require.False(t, k.PreemptDisabled())

		r.s.Pages.Get(k, p)
		require.NoError(t, SysMunmap(k, mm, addr, pgSize))
		require.NotZero(t, p.Mapping, "it stays until the page is freed")
		require.Nil(t, r.s.pageLockAnonVMA(k, p), "not mapped")
		require.False(t, k.PreemptDisabled())

		// The slot now belongs to somebody else; nothing of theirs is found to be p.
		other := r.mmap(k, mm, 1, protRW, 0)
		r.store(k, other, 2)
		require.Same(t, a, mm.lookupVMA(other).AnonVMA)
		require.NoError(t, r.s.CheckPage(r.s.Pages.PFN(p)))
		require.Zero(t, r.s.PageReferenced(k, p, false))
		require.Nil(t, r.s.spaces.of(p.Mapping))
		r.s.Pages.Put(k, p)
	})
}

// Whoever holds a page of an AnonVMA that goes away under it finds nothing, or the
// truth, but never loses its way.
func TestRmapAgainstExit(t *testing.T) {
	for seed := range uint64(60) {
		r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Free, seed: seed})
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 1)
			p := r.pageAt(mm, addr)
			r.s.Pages.Get(k, p)
			r.start(k, "scanner", 1, nil, func(k *sched.Task) {
				for range 3 {
					n := r.s.PageReferenced(k, p, false)
					require.LessOrEqual(t, n, 3)
				}
				r.s.Pages.Put(k, p)
			})
			require.NoError(t, SysMunmap(k, mm, addr, pgSize))
			// Re-use the slot while the scanner may be on its way to it.
			again := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, again, 1)
		})
	}
}

func TestPageReferenced(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, 0)
		r.store(k, addr, 1)
		p := r.pageAt(mm, addr)
		require.True(t, mm.PeekPTE(addr).Young())
		require.Equal(t, 1, r.s.PageReferenced(k, p, false))
		require.False(t, mm.PeekPTE(addr).Young())
		require.Zero(t, r.s.PageReferenced(k, p, false))
		r.sound()
		r.load(k, addr)
		require.Equal(t, 1, r.s.PageReferenced(k, p, false), "the TLB was flushed, so the walk set A again")

		child, err := r.s.DupMM(k, mm)
		require.NoError(t, err)
		r.load(k, addr)
		require.Equal(t, 1, r.s.PageReferenced(k, p, false), "the child's entry is old")
		r.s.Pages.SetFlag(k, p, page.Referenced)
		require.Equal(t, 1, r.s.PageReferenced(k, p, false))
		child.MMPut(k)

		shm := r.mmap(k, mm, 1, protRW, MapShared)
		r.store(k, shm, 1)
		q := r.pageAt(mm, shm)
		require.Equal(t, 1, r.s.PageReferenced(k, q, false))
		require.Zero(t, r.s.PageReferenced(k, q, false))
	})
}

// unswap stands in for the swap that is still to come: it empties the entries that
// TryToUnmap left.
func (r *pinRig) unswap(k *sched.Task, mm *MM, addr uint64) {
	ref, ptl, ok := mm.LockPTE(k, addr)
	require.True(r.t, ok)
	require.True(r.t, ref.Peek().IsSwap())
	ref.Set(k.C, 0)
	ptl.Unlock(k)
}

func TestTryToUnmap(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		r := newPinRig(t, o)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 1)
			child, err := r.s.DupMM(k, mm)
			require.NoError(t, err)
			p := r.pageAt(mm, addr)
			var pages [1]*page.Page
			_, err = GetUserPagesFast(k, addr, 1, false, PinGet, pages[:])
			require.NoError(t, err)
			r.s.Pages.LRUAddDrain(k)

			entry := x86.SwapEntry{Type: 1, Offset: 77}
			r.s.Pages.LockPage(k, p)
			r.s.Pages.SetFlag(k, p, page.SwapCache)
			p.Private = uint64(x86.MkSwapPTE(entry))
			require.Equal(t, SwapFail, r.s.TryToUnmap(k, p), "just used")
			require.Equal(t, int32(2), p.MapCount.Peek())
			require.False(t, p.Has(page.Dirty))
			require.Equal(t, SwapSuccess, r.s.TryToUnmap(k, p), "a pin does not matter")
			require.True(t, p.Has(page.Dirty), "the pte's D bit")
			require.Zero(t, p.MapCount.Peek())
			require.Equal(t, 1, r.s.Pages.Refs(k, p), "the pin's")
			for _, m := range []*MM{mm, child} {
				require.Equal(t, entry, m.PeekPTE(addr).Swap())
				require.Zero(t, m.AnonRSS.Peek())
			}
			r.sound()
			r.unswap(k, mm, addr)
			r.unswap(k, child, addr)
			r.s.Pages.ClearFlag(k, p, page.SwapCache)
			r.s.Pages.UnlockPage(k, p)
			r.s.PutUserPages(k, pages[:], PinGet)
			child.MMPut(k)
		})
	})
}

// Another CPU uses the page while it is being unmapped: no TLB may keep it.
func TestTryToUnmapFlushes(t *testing.T) {
	unmapped := 0
	for seed := range uint64(60) {
		r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Free, seed: seed})
		c := &stepChecker{r: r, every: 1}
		r.m.SetObserver(c)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 1)
			p := r.pageAt(mm, addr)
			r.s.Pages.Get(k, p)
			r.s.Pages.LockPage(k, p)
			r.s.Pages.SetFlag(k, p, page.SwapCache)
			p.Private = uint64(x86.MkSwapPTE(x86.SwapEntry{Offset: 3}))
			mm.MMGet(k)
			done := false
			r.start(k, "user", 1, mm, func(k *sched.Task) {
				for !done && k.C.Store(addr, 8, 2) == x86.NoFault {
				}
			})
			for range 5 {
				if r.s.TryToUnmap(k, p) == SwapSuccess {
					unmapped++
					r.unswap(k, mm, addr)
					break
				}
			}
			done = true
			r.s.Pages.ClearFlag(k, p, page.SwapCache)
			r.s.Pages.UnlockPage(k, p)
			r.s.Pages.Put(k, p)
		})
		require.Empty(t, c.errs, "seed %d", seed)
	}
	require.Positive(t, unmapped)
}

func TestTryToUnmapLockedAndFile(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, MapLocked)
		p := r.pageAt(mm, addr)
		require.NotNil(t, p)
		r.s.Pages.LockPage(k, p)
		require.Equal(t, SwapMlock, r.s.TryToUnmap(k, p))
		r.s.Pages.UnlockPage(k, p)

		shm := r.mmap(k, mm, 1, protRW, MapShared)
		r.store(k, shm, 5)
		q := r.pageAt(mm, shm)
		r.s.Pages.LockPage(k, q)
		require.Equal(t, SwapFail, r.s.TryToUnmap(k, q))
		require.Equal(t, SwapSuccess, r.s.TryToUnmap(k, q))
		r.s.Pages.UnlockPage(k, q)
		require.True(t, mm.PeekPTE(shm).None())
		require.Zero(t, mm.FileRSS.Peek())
		require.Equal(t, uint64(5), r.load(k, shm), "the page is still in its cache")
		require.Same(t, q, r.pageAt(mm, shm))
	})
}

// unmapPolicy refuses before or after the entry is cleared: the two readings of row 9.
type unmapPolicy struct {
	Stock
	before, after bool
}

func (unmapPolicy) Hooks() HookSet            { return HookReclaim }
func (p unmapPolicy) UnmapBefore(*Unmap) bool { return p.before }
func (p unmapPolicy) Unmap(u *Unmap) bool     { return p.after && u.PTE.Present() && u.Swap.IsSwap() }
func TestTryToUnmapRefused(t *testing.T) {
	for _, pol := range []unmapPolicy{{before: false, after: true}, {before: true, after: false}} {
		r := newPinRig(t, pinOptions{regime: sched.Timed, policy: pol})
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 1, protRW, 0)
			r.store(k, addr, 1)
			p := r.pageAt(mm, addr)
			r.s.PageReferenced(k, p, false)
			pte := mm.PeekPTE(addr)
			r.s.Pages.LockPage(k, p)
			r.s.Pages.SetFlag(k, p, page.SwapCache)
			p.Private = uint64(x86.MkSwapPTE(x86.SwapEntry{Offset: 3}))
			require.Equal(t, SwapFail, r.s.TryToUnmap(k, p))
			require.Equal(t, pte, mm.PeekPTE(addr))
			require.Equal(t, uint64(1), mm.AnonRSS.Peek())
			r.sound()
			r.s.Pages.ClearFlag(k, p, page.SwapCache)
			r.s.Pages.UnlockPage(k, p)
			require.Equal(t, uint64(1), r.load(k, addr))
		})
	}
}

func TestShmemSurvivesForkAndIsFreed(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 4, protRW, MapShared)
		as := mm.lookupVMA(addr).Mapping
		r.store(k, addr, 11)
		require.Equal(t, 1, as.NrPages())
		require.Equal(t, uint64(1), mm.FileRSS.Peek())
		require.Equal(t, uint64(1), r.m.Trace().Sum(trace.NrMapped))
		done := false
		r.fork(k, mm, 1, func(k *sched.Task, child *MM) {
			require.Nil(t, r.pageAt(child, addr), "found again by a fault")
			require.Equal(t, uint64(11), r.load(k, addr))
			r.store(k, addr, 12)
			r.store(k, addr+pgSize, 13)
			require.Same(t, r.pageAt(mm, addr), r.pageAt(child, addr))
			r.sound()
			done = true
		})
		until(k, func() bool { return done })
		require.Equal(t, uint64(12), r.load(k, addr))
		require.Equal(t, uint64(13), r.load(k, addr+pgSize))
		require.Equal(t, 2, as.NrPages())
		require.NoError(t, SysMunmap(k, mm, addr, pgSize))
		require.Equal(t, 2, as.NrPages(), "a part is still mapped")
		require.NoError(t, SysMunmap(k, mm, addr+pgSize, 3*pgSize))
	})
	require.Zero(t, r.m.Trace().Sum(trace.NrFilePages))
}

func TestShmemFaultTogether(t *testing.T) {
	for _, regime := range []sched.Regime{sched.Free, sched.Parallel} {
		for seed := range uint64(20) {
			r := newPinRig(t, pinOptions{cpus: 3, regime: regime, seed: seed})
			r.run(func(k *sched.Task, mm *MM) {
				addr := r.mmap(k, mm, 2, protRW, MapShared)
				for cpu := 1; cpu < 3; cpu++ {
					r.fork(k, mm, cpu, func(k *sched.Task, _ *MM) {
						_ = store(k, addr+8*uint64(cpu), uint64(cpu))
						var pages [2]*page.Page
						n, _ := GetUserPagesFast(k, addr, 2, true, PinGet, pages[:])
						r.s.PutUserPages(k, pages[:n], PinGet)
					})
				}
				_ = store(k, addr, 1)
				until(k, func() bool {
					return r.load(k, addr+8) == 1 && r.load(k, addr+16) == 2
				})
			})
		}
	}
}

// The tree of a page cache against a map.
func TestPageTree(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []uint64{100, 5000, 1 << 40, 1<<64 - 1} {
		var tree pageTree
		model := map[uint64]x86.PFN{}
		keys := []uint64{0, limit - 1}
		for range 300 {
			keys = append(keys, rnd.Uint64N(limit))
		}
		for range 5000 {
			i := keys[rnd.IntN(len(keys))]
			switch pfn := x86.PFN(rnd.Uint32N(1000) + 1); rnd.IntN(4) {
			case 0, 1:
				if got, was := tree.insert(i, pfn), model[i]; got != (was == 0) {
					t.Fatalf("insert %d: %v, but %d is there", i, got, was)
				}
				if model[i] == 0 {
					model[i] = pfn
				}
			case 2:
				if got := tree.remove(i); got != model[i] {
					t.Fatalf("remove %d: %d, want %d", i, got, model[i])
				}
				delete(model, i)
			default:
				if got := tree.get(i); got != model[i] {
					t.Fatalf("get %d: %d, want %d", i, got, model[i])
				}
			}
			if tree.n != len(model) {
				t.Fatalf("%d pages, want %d", tree.n, len(model))
			}
		}
		seen := 0
		buf := make([]x86.PFN, 7)
		for from := uint64(0); ; {
			n, last := tree.gang(from, buf)
			if seen += n; n == 0 || last == limit-1 {
				break
			}
			require.GreaterOrEqual(t, last, from)
			require.Equal(t, model[last], buf[n-1])
			from = last + 1
		}
		require.Equal(t, len(model), seen)
		for i := range model {
			tree.remove(i)
		}
		require.Equal(t, pageTree{spare: tree.spare, spares: tree.spares}, tree)
	}
}

func BenchmarkPageDupRmap(b *testing.B) {
	r := newPinRig(b, pinOptions{regime: sched.Parallel})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, 0)
		r.store(k, addr, 1)
		p, v := r.pageAt(mm, addr), mm.lookupVMA(addr)
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			r.s.PageDupRmap(k, p, v, addr)
			r.s.PageRemoveRmap(k, p)
		}
		b.StopTimer()
	})
}
