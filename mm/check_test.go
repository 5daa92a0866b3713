package mm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// wrong wants Check to complain, in words that contain each text, and to be content
// again after undo.
func (r *pinRig) wrong(undo func(), texts ...string) {
	r.t.Helper()
	var all strings.Builder
	for _, err := range r.s.Check() {
		fmt.Fprintln(&all, err)
	}
	require.NotEmpty(r.t, all.String())
	for _, text := range texts {
		require.Contains(r.t, all.String(), text)
	}
	undo()
	r.sound()
}

// Each invariant is broken by hand, and noticed.
func TestCheckNotices(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 4, protRW, 0)
		r.fill(k, addr, 4, 1)
		child, err := r.s.DupMM(k, mm)
		require.NoError(t, err)
		r.sound()
		p := r.pageAt(mm, addr)
		pfn := r.s.Pages.PFN(p)
		require.NoError(t, r.s.CheckPage(pfn))

		maps := p.MapCount.Peek()
		p.MapCount.Poke(maps - 1)
		require.ErrorContains(t, r.s.CheckPage(pfn), "rmap finds 2 ptes")
		r.wrong(func() { p.MapCount.Poke(maps) }, "2 ptes map it")

		p.MapCount.Poke(0)
		r.wrong(func() { p.MapCount.Poke(maps) }, "pte at")

		refs := p.Count.Peek()
		p.Count.Poke(1)
		require.ErrorContains(t, r.s.CheckPage(pfn), "fewer references")
		r.wrong(func() { p.Count.Poke(refs) }, "fewer references than mappings")

		index := p.Index
		p.Index++
		r.wrong(func() { p.Index = index }, "rmap does not find")

		child.AnonRSS.RawAdd(1)
		r.wrong(func() { child.AnonRSS.RawAdd(^uint64(0)) }, "anon_rss is 5, 4 ptes")

		mm.NrPTEs++
		r.wrong(func() { mm.NrPTEs-- }, "nr_ptes is 2")

		ref, ptl, ok := mm.lookupPTE(k.C, addr)
		require.True(t, ok)
		old := ref.Peek()
		r.load(k, addr)
		ref.Poke(0)
		r.wrong(func() { ref.Poke(old.MkYoung()) }, "nothing is mapped", "anon_rss")

		// A stale writable translation, while nobody owes a flush.
		r.store(k, addr+pgSize, 5)
		ref1, _, _ := mm.lookupPTE(k.C, addr+pgSize)
		rw := ref1.Peek()
		ref1.Poke(rw.WrProtect())
		r.wrong(func() { ref1.Poke(rw) }, "the page is not writable")

		// What a lock guards is not looked at.
		ref1.Poke(rw.WrProtect())
		ptl.Lock(k)
		r.sound()
		ptl.Unlock(k)
		mm.MmapSem.DownWrite(k)
		r.sound()
		mm.MmapSem.UpWrite(k)
		ref1.Poke(rw)
		ptl.Lock(k)
		p.MapCount.Poke(1)
		require.NoError(t, r.s.CheckPage(pfn))
		p.MapCount.Poke(maps)
		ptl.Unlock(k)

		ref.Poke(x86.MkPTE(x86.NoPFN-1, old))
		k.C.FlushTLBAll()
		r.wrong(func() { ref.Poke(old) }, "there is no such frame")

		require.NoError(t, SysMprotect(k, mm, addr, 4*pgSize, ProtRead))
		ro := ref.Peek()
		ref.Poke(ro.MkWrite())
		r.wrong(func() { ref.Poke(ro) }, "its VMA is not writable")

		require.Len(t, r.s.MMs(), 2)
		require.NotEmpty(t, r.s.Leaks())
		child.MMPut(k)
	})
}

// stepChecker looks at everything before every n-th step.
type stepChecker struct {
	r     *pinRig
	every uint64
	errs  []error
	steps uint64
}

func (c *stepChecker) look(step uint64) {
	if step%c.every == 0 && len(c.errs) == 0 {
		c.steps++
		if errs := c.r.s.Check(); len(errs) > 0 {
			c.errs = append(errs, fmt.Errorf("at step %d", step))
		}
		if errs := c.r.s.Pages.CheckStep(); len(errs) > 0 {
			c.errs = append(c.errs, errs...)
		}
	}
}

func (c *stepChecker) Step(step uint64, _ *sched.Task, _ x86.Op, _ x86.ObjID) { c.look(step) }
func (c *stepChecker) Device(step uint64, _ sched.Event)                      { c.look(step) }

// Threads, children, pins, reclaim's scans and unmapping, at random: the invariants
// hold at every step, whatever the schedule, inline and through hooks.
func TestInvariantsAtEveryStep(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		for _, preempt := range []sched.Preempt{sched.PreemptNone, sched.PreemptFull} {
			r := newPinRig(t, pinOptions{cpus: 3, regime: sched.Free, seed: seed, preempt: preempt, force: seed%2 == 1})
			c := &stepChecker{r: r, every: 1}
			r.m.SetObserver(c)
			r.run(func(k *sched.Task, mm *MM) { r.mixed(k, mm, seed, 2, 16) })
			require.Empty(t, c.errs, "seed %d", seed)
			require.Positive(t, c.steps)
		}
	}
}

// The same load with real parallelism, checked at the end.
func TestMixedParallel(t *testing.T) {
	for seed := range uint64(3) {
		r := newPinRig(t, pinOptions{cpus: 3, regime: sched.Parallel, bytes: 16 << 20})
		r.run(func(k *sched.Task, mm *MM) { r.mixed(k, mm, seed, 4, 150) })
	}
}

// mixed runs two threads and their children on all CPUs, over n private and n shared
// pages.
func (r *pinRig) mixed(k *sched.Task, mm *MM, seed uint64, n, steps int) {
	private := r.mmap(k, mm, n, protRW, 0)
	shared := r.mmap(k, mm, n, protRW, MapShared)
	mm.MMGet(k)
	r.start(k, "thread", 1, mm, func(k *sched.Task) {
		r.mix(k, mm, private, shared, n, rand.New(rand.NewPCG(seed, 1)), steps, 2)
	})
	r.mix(k, mm, private, shared, n, rand.New(rand.NewPCG(seed, 2)), steps, 2)
}

// mix makes random steps in one task.
func (r *pinRig) mix(k *sched.Task, mm *MM, private, shared uint64, n int, rnd *rand.Rand, steps, forks int) {
	base := [2]uint64{private, shared}
	var pages [8]*page.Page
	for range steps {
		i := uint64(rnd.IntN(n))
		addr := base[rnd.IntN(2)] + i*pgSize
		span := 1 + rnd.IntN(n-int(i))
		switch rnd.IntN(13) {
		case 0, 1, 10:
			_ = store(k, addr, rnd.Uint64())
		case 2, 11, 12:
			_, _ = load(k, addr)
		case 3, 4:
			got, _ := GetUserPagesFast(k, addr, span, rnd.IntN(2) == 0, PinGet, pages[:])
			_ = store(k, addr, 1)
			r.s.PutUserPages(k, pages[:got], PinGet)
		case 5:
			got, _ := slow(k, mm, addr, span, GUPFlags(rnd.IntN(2))*GUPWrite, pages[:])
			r.s.PutUserPages(k, pages[:got], PinGet)
		case 6:
			if got, _ := GetUserPagesFast(k, addr, 1, false, PinGet, pages[:]); got == 1 {
				_ = r.s.PageReferenced(k, pages[0], false)
				r.s.PutUserPages(k, pages[:1], PinGet)
			}
		case 7:
			_ = SysMadvise(k, mm, addr, uint64(span)*pgSize, MadvDontNeed)
		case 8:
			prot := []Prot{ProtRead, protRW, protRW}[rnd.IntN(3)]
			_ = SysMprotect(k, mm, addr, uint64(span)*pgSize, prot)
		case 9:
			if forks == 0 {
				continue
			}
			forks--
			child, err := r.s.DupMM(k, mm)
			if err != nil {
				k.Oops("fork: %v", err)
			}
			seed, forks := rnd.Uint64(), forks // the child's own: the parent counts on
			r.start(k, "child", rnd.IntN(3), child, func(k *sched.Task) {
				r.mix(k, child, private, shared, n, rand.New(rand.NewPCG(seed, 3)), steps, forks)
			})
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{256, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newPinRig(b, pinOptions{regime: sched.Parallel, bytes: 64 << 20})
			r.run(func(k *sched.Task, mm *MM) {
				addr := r.mmap(k, mm, n, protRW, 0)
				r.fill(k, addr, n, 1)
				b.ResetTimer()
				for range b.N {
					if errs := r.s.Check(); len(errs) > 0 {
						b.Error(errs)
						return
					}
				}
				b.StopTimer()
			})
		})
	}
}
