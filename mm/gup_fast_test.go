package mm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// slowTaker is gup-fast with its window held open: before it takes its reference it
// lets everybody else go on for a while, with interrupts off.
type slowTaker struct {
	Stock
	points int
	freed  *int // windows in which the page was seen free
	asked  *int // windows in which a flush waited for this CPU
}

func (slowTaker) Hooks() HookSet { return HookFastTake }

func (p slowTaker) FastTake(f *Fast, ref x86.PTERef, pte x86.PTE, pg *page.Page) bool {
	for range p.points {
		f.T.C.Point(x86.OpYield, 0)
		if pg.Count.Peek() <= 0 || pg.Has(page.Buddy) {
			*p.freed++
			return false
		}
	}
	if f.T.C.Pending() != 0 {
		*p.asked++
	}
	return p.Stock.FastTake(f, ref, pte, pg)
}

// A CPU in gup-fast has interrupts off, so whoever unmaps the page cannot free it
// until the walk is over: neither the page nor the tables on the way to it.
func TestGUPFastHoldsOffFlush(t *testing.T) {
	freed, asked, taken := 0, 0, 0
	for seed := range uint64(200) {
		pol := slowTaker{points: 12, freed: &freed, asked: &asked}
		r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Free, seed: seed, policy: pol})
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 2, protRW, 0)
			r.fill(k, addr, 2, 1)
			mm.MMGet(k)
			r.start(k, "unmapper", 1, mm, func(k *sched.Task) {
				_ = SysMunmap(k, mm, addr, 2*pgSize)
				r.sound()
			})
			var pages [2]*page.Page
			n, _ := GetUserPagesFast(k, addr, 2, true, PinGet, pages[:])
			for _, p := range pages[:n] {
				require.Positive(t, r.s.Pages.Refs(k, p))
				taken++
			}
			r.s.PutUserPages(k, pages[:n], PinGet)
		})
	}
	require.Zero(t, freed, "a page was freed under the walk")
	require.Positive(t, asked, "no seed had a flush waiting")
	require.Positive(t, taken)
}

// The same for the walk without hooks, in all schedules with one preemption: taking
// a reference on a page that is free is an oops.
func TestGUPFastUnmapSweep(t *testing.T) {
	for _, force := range []bool{false, true} {
		taken, failed := 0, 0
		for step, done := uint64(0), uint64(0); step <= done+1; step++ {
			r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Free, choose: switchAt{step}, force: force})
			r.run(func(k *sched.Task, mm *MM) {
				addr := r.mmap(k, mm, 2, protRW, 0)
				r.fill(k, addr, 2, 1)
				r.s.Pages.LRUAddDrain(k)
				mm.MMGet(k)
				r.start(k, "unmapper", 1, mm, func(k *sched.Task) { _ = SysMunmap(k, mm, addr, 2*pgSize) })
				var pages [2]*page.Page
				n, _ := GetUserPagesFast(k, addr, 2, true, PinGet, pages[:])
				done = r.m.Steps()
				taken += n
				failed += 2 - n
				r.s.PutUserPages(k, pages[:n], PinGet)
			})
		}
		require.Positive(t, taken)
		require.Positive(t, failed)
	}
}

// irqWatch looks whether interrupts are off whenever gup-fast reads an entry or takes
// a reference.
type irqWatch struct {
	on            bool
	enabled, seen int
}

func (w *irqWatch) Device(uint64, sched.Event) {}

func (w *irqWatch) Step(_ uint64, k *sched.Task, op x86.Op, _ x86.ObjID) {
	if !w.on || op != x86.OpPTERead && op != x86.OpAdd {
		return
	}
	w.seen++
	if !k.C.IRQsDisabled() {
		w.enabled++
	}
}

func TestGUPFastInterruptsOff(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		r := newPinRig(t, o)
		w := &irqWatch{}
		r.m.SetObserver(w)
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 4, protRW, 0)
			r.fill(k, addr, 4, 1)
			var pages [4]*page.Page
			w.on = true
			n, _ := GetUserPagesFast(k, addr, 4, true, PinGet, pages[:])
			w.on = false
			require.Equal(t, 4, n)
			require.Equal(t, 3+4+4, w.seen, "three upper levels, four entries, four references")
			require.Zero(t, w.enabled)
			r.s.PutUserPages(k, pages[:], PinGet)
		})
	})
}

// TestGUPFastHoldsOffFlush with real parallelism, for the race detector.
func TestGUPFastParallelUnmap(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 3, regime: sched.Parallel, bytes: 16 << 20})
	r.run(func(k *sched.Task, mm *MM) {
		const area = 8
		addr := r.mmap(k, mm, area, protRW, 0)
		for cpu := 1; cpu < 3; cpu++ {
			mm.MMGet(k)
			r.start(k, fmt.Sprint("pinner", cpu), cpu, mm, func(k *sched.Task) {
				var pages [area]*page.Page
				for i := range 300 {
					n, _ := GetUserPagesFast(k, addr, area, i%2 == 0, PinGet, pages[:])
					for _, p := range pages[:n] {
						if p.Count.Peek() <= 0 {
							k.Oops("pinned page is free")
						}
					}
					r.s.PutUserPages(k, pages[:n], PinGet)
				}
			})
		}
		for i := range 150 {
			for j := range uint64(area) {
				_ = store(k, addr+j*pgSize, uint64(i))
			}
			require.NoError(t, SysMadvise(k, mm, addr, area*pgSize, MadvDontNeed))
		}
	})
}

// huge puts a 2 MiB page into mm's tables by hand: there is no hugetlb yet.
func (r *pinRig) huge(k *sched.Task, mm *MM, addr uint64, flags x86.PTE) (head *page.Page, pmd x86.PTERef) {
	head = r.s.Pages.Alloc(k, page.GFPKernel|page.GFPComp, 9, "test huge")
	require.NotNil(r.t, head)
	table, err := mm.pteAlloc(k, addr-pgSize) // makes the levels above, next door
	require.NoError(r.t, err)
	require.NotZero(r.t, table)
	up := mm.PGD
	for level := x86.LevelPGD; level > x86.LevelPMD; level-- {
		up = mm.entry(up, level, addr).Peek().PFN()
	}
	pmd = mm.entry(up, x86.LevelPMD, addr)
	pmd.Poke(x86.MkPTE(r.s.Pages.PFN(head), flags).MkHuge())
	return head, pmd
}

func TestGUPFastHugePage(t *testing.T) {
	const addr = 0x40000000 + 8*x86.PMDSize
	bothWays(t, func(t *testing.T, o pinOptions) {
		r := newPinRig(t, o)
		r.run(func(k *sched.Task, mm *MM) {
			r.mmapAt(k, mm, addr-pgSize, 1, protRW, 0)
			r.store(k, addr-pgSize, 1)
			head, pmd := r.huge(k, mm, addr, maskStock|x86.PteRW)
			pages := make([]*page.Page, 20)
			n, err := GetUserPagesFast(k, addr-pgSize, 20, true, PinGet, pages)
			require.NoError(t, err)
			require.Equal(t, 20, n)
			require.Same(t, r.pageAt(mm, addr-pgSize), pages[0])
			for i, p := range pages[1:] {
				require.Same(t, r.s.Pages.Subpage(head, i), p)
			}
			require.Equal(t, 20, r.s.Pages.Refs(k, head), "one for each page, all on the head")
			r.s.PutUserPages(k, pages, PinGet)

			// In the middle of it, to its end.
			n, err = GetUserPagesFast(k, addr+500*pgSize, 12, false, PinGet, pages)
			require.NoError(t, err)
			require.Equal(t, 12, n)
			require.Same(t, r.s.Pages.Subpage(head, 511), pages[11])
			r.s.PutUserPages(k, pages[:n], PinGet)

			// Not writable: the slow way finds no VMA.
			pmd.Poke(pmd.Peek().WrProtect())
			n, err = GetUserPagesFast(k, addr, 2, true, PinGet, pages)
			require.Error(t, err)
			require.Zero(t, n)
			require.Equal(t, 1, r.s.Pages.Refs(k, head))
			pmd.Poke(0)
			r.s.Pages.Put(k, head)
		})
	})
}

// partHuge takes fewer references than asked for, as row 2 does when the entry
// changes in the middle.
type partHuge struct{ Stock }

func (partHuge) Hooks() HookSet { return HookFastHuge }

func (p partHuge) FastHuge(f *Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	return p.Stock.FastHuge(f, ref, pte, head, min(n, 3))
}

func TestGUPFastHugePartial(t *testing.T) {
	const addr = 0x40000000 + 8*x86.PMDSize
	r := newPinRig(t, pinOptions{regime: sched.Timed, policy: partHuge{}})
	r.run(func(k *sched.Task, mm *MM) {
		r.mmapAt(k, mm, addr-pgSize, 1, protRW, 0)
		r.store(k, addr-pgSize, 1)
		head, pmd := r.huge(k, mm, addr, maskStock|x86.PteRW)
		pages := make([]*page.Page, 8)
		n, err := GetUserPagesFast(k, addr-pgSize, 8, true, PinGet, pages)
		require.NoError(t, err)
		require.Equal(t, 4, n)
		require.Same(t, r.s.Pages.Subpage(head, 2), pages[3])
		require.Equal(t, 4, r.s.Pages.Refs(k, head))
		r.s.PutUserPages(k, pages[:n], PinGet)
		pmd.Poke(0)
		r.s.Pages.Put(k, head)
	})
}

// beginEnd refuses walks before or after the fact.
type beginEnd struct {
	Stock
	begin, end bool
	mask       x86.PTE
}

func (beginEnd) Hooks() HookSet { return HookFast }

func (p beginEnd) FastMask(f *Fast) x86.PTE { return p.Stock.FastMask(f) | p.mask }
func (p beginEnd) FastBegin(*Fast) bool     { return p.begin }
func (p beginEnd) FastEnd(*Fast) bool       { return p.end }
func TestGUPFastPolicyRefuses(t *testing.T) {
	for _, c := range []struct {
		pol  beginEnd
		fast uint64
	}{
		{beginEnd{begin: true, end: true}, 4},
		{beginEnd{begin: false, end: true}, 0},
		{beginEnd{begin: true, end: false}, 0},
		{beginEnd{begin: true, end: true, mask: x86.PteGlobal}, 0},
	} {
		r := newPinRig(t, pinOptions{regime: sched.Timed, policy: c.pol})
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmap(k, mm, 4, protRW, 0)
			r.fill(k, addr, 4, 1)
			pages := make([]*page.Page, 4)
			n, err := GetUserPagesFast(k, addr, 4, true, PinGet, pages)
			require.NoError(t, err)
			require.Equal(t, 4, n)
			require.False(t, k.C.IRQsDisabled())
			require.Equal(t, c.fast, k.C.Trace.Value(trace.EmuGUPFastPages))
			require.Equal(t, 4-c.fast, k.C.Trace.Value(trace.EmuGUPSlowPages))
			for _, p := range pages {
				require.Equal(t, 2, r.refs(k, p))
			}
			r.s.PutUserPages(k, pages, PinGet)
		})
	}
}

// biased counts pins of kind PinPin in units, as later kernels do.
type biased struct{ Stock }

const bias = 1024

func (biased) Hooks() HookSet { return HookPut }

func (biased) Take(t *sched.Task, p *page.Page, kind PinKind, n int) {
	if kind != PinGet {
		n *= bias
	}
	SystemOf(t).Pages.GetNAs(t, p, page.RefPin, n)
}

func (biased) Put(t *sched.Task, p *page.Page, kind PinKind, n int) {
	if kind != PinGet {
		n *= bias
	}
	SystemOf(t).Pages.PutNAs(t, p, page.RefPin, n)
}

// Whichever way a page is reached, a policy that counts pins counts it.
func TestGUPCountsByKind(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed, policy: biased{}})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 2, protRW, 0)
		r.store(k, addr, 1) // the second page comes the slow way
		var pages [2]*page.Page
		for kind, want := range map[PinKind]int{PinGet: 2, PinPin: 1 + bias, PinLongterm: 1 + bias} {
			n, err := GetUserPagesFast(k, addr, 2, true, kind, pages[:])
			require.NoError(t, err)
			require.Equal(t, 2, n)
			require.Equal(t, want, r.refs(k, pages[0]))
			require.Equal(t, want, r.refs(k, pages[1]))
			r.s.PutUserPages(k, pages[:], kind)
		}
	})
}

// grabber takes gup-fast's pages itself, and sends walks back if refuse is set.
type grabber struct {
	Stock
	refuse bool
}

func (grabber) Hooks() HookSet { return HookFast | HookFastTake | HookFastHuge }

func (grabber) FastTake(f *Fast, _ x86.PTERef, _ x86.PTE, p *page.Page) bool {
	SystemOf(f.T).Pages.GetAs(f.T, p, page.RefPin)
	return true
}

func (g grabber) FastEnd(*Fast) bool { return !g.refuse }

// A page that is pinned counts once as acquired, whoever took the reference, and a plain
// reference never does. What a refused walk got is acquired and released.
func TestPinsAreCountedOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		force  bool
		again  uint64 // pages that were given back in between
	}{
		{name: "inline", policy: Stock{}}, {name: "hooks", policy: Stock{}, force: true},
		{name: "put", policy: biased{}}, {name: "grabs", policy: grabber{}},
		{name: "refuses", policy: grabber{refuse: true}, again: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newPinRig(t, pinOptions{regime: sched.Timed, policy: c.policy, force: c.force})
			r.run(func(k *sched.Task, mm *MM) {
				acquired := func() uint64 { return k.M.Trace().Sum(trace.EmuNrFollPinAcquired) }
				released := func() uint64 { return k.M.Trace().Sum(trace.EmuNrFollPinReleased) }
				for _, kind := range []PinKind{PinGet, PinPin, PinLongterm} {
					addr := r.mmap(k, mm, 2, protRW, 0)
					r.store(k, addr, 1) // the second page comes the slow way
					var pages [2]*page.Page
					got, gone := acquired(), released()
					want, again := uint64(2), c.again
					if kind == PinGet {
						want, again = 0, 0
					}
					n, err := GetUserPagesFast(k, addr, 2, true, kind, pages[:])
					require.NoError(t, err)
					require.Equal(t, 2, n)
					require.Equal(t, want+again, acquired()-got)
					require.Equal(t, again, released()-gone)
					r.s.TakeUserPage(k, pages[0], kind)
					r.s.PutUserPage(k, pages[0], kind)
					r.s.PutUserPages(k, pages[:], kind)
					require.Equal(t, acquired()-got, released()-gone)
				}
			})
		})
	}
}

func BenchmarkGUPFast(b *testing.B) {
	for _, hooks := range []bool{false, true} {
		b.Run(map[bool]string{false: "inline", true: "hooks"}[hooks], func(b *testing.B) {
			benchGUP(b, hooks, func(k *sched.Task, _ *MM, addr uint64, pages []*page.Page) (int, error) {
				return GetUserPagesFast(k, addr, len(pages), true, PinGet, pages)
			})
		})
	}
}

func BenchmarkGUPSlow(b *testing.B) {
	benchGUP(b, false, func(k *sched.Task, mm *MM, addr uint64, pages []*page.Page) (int, error) {
		return slow(k, mm, addr, len(pages), GUPWrite, pages)
	})
}

// benchGUP reports nanoseconds a page of calls for 64 pages each, the put apart.
func benchGUP(b *testing.B, force bool, get func(*sched.Task, *MM, uint64, []*page.Page) (int, error)) {
	r := newPinRig(b, pinOptions{regime: sched.Parallel, force: force})
	r.s.Pages.UseLedger(false)
	r.run(func(k *sched.Task, mm *MM) {
		const n = 64
		addr := r.mmap(k, mm, n, protRW, 0)
		r.fill(k, addr, n, 1)
		pages := make([]*page.Page, n)
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			if got, err := get(k, mm, addr, pages); got != n || err != nil {
				b.Error(got, err)
				return
			}
		}
		b.StopTimer()
		for _, p := range pages {
			r.s.Pages.PutNAs(k, p, page.RefPin, b.N)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/page")
	})
}
