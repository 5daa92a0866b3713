package page

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// stress takes, shares, lists and frees pages, sharing some with other tasks
// through slots: whatever another task may be about to free is only had by TryGet.
func stress(k *sched.Task, m *Map, slots []x86.Word64, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 7))
	var own []*Page
	for range steps {
		switch n := rng.IntN(12); {
		case n < 4:
			order := 0
			gfp := GFPHighUserMovable
			if rng.IntN(8) == 0 {
				order, gfp = rng.IntN(4), gfp|GFPComp
			}
			p := m.Alloc(k, gfp, order, "stress")
			if p == nil {
				continue
			}
			if order == 0 && rng.IntN(2) == 0 {
				p.PokeSet(SwapBacked)
				m.LRUCacheAdd(k, p, LRUList(rng.IntN(2)))
			}
			own = append(own, p)
		case n < 7 && len(own) > 0:
			i := rng.IntN(len(own))
			m.Put(k, own[i])
			own[i] = own[len(own)-1]
			own = own[:len(own)-1]
		case n < 8 && len(own) > 0:
			// Give the reference to whoever empties the slot.
			i := rng.IntN(len(own))
			pfn := slots[rng.IntN(len(slots))].Xchg(k.C, 1, uint64(m.PFN(own[i])))
			own[i] = own[len(own)-1]
			own = own[:len(own)-1]
			if pfn != 0 {
				own = append(own, m.Page(x86.PFN(pfn)))
			}
		case n < 9:
			// Speculate, as a lockless look-up does.
			pfn := slots[rng.IntN(len(slots))].Peek()
			if p := m.Page(x86.PFN(pfn)); pfn != 0 && !p.Has(Tail) && m.TryGet(k, p) {
				own = append(own, p)
			}
		case n < 10 && len(own) > 0:
			m.MarkPageAccessed(k, own[rng.IntN(len(own))])
		case n < 11:
			m.LRUAddDrain(k)
		default:
			var buf [8]x86.PFN
			got, _ := m.IsolateTail(k, LRUList(rng.IntN(2)), 16, buf[:])
			for _, pfn := range buf[:got] {
				m.PutbackLRU(k, m.Page(pfn))
			}
		}
		if len(own) > 300 {
			for _, p := range own[100:] {
				m.Put(k, p)
			}
			own = own[:100]
		}
		k.CondResched()
		k.Progress()
	}
	for _, p := range own {
		m.Put(k, p)
	}
}

func TestStress(t *testing.T) {
	steps := map[sched.Regime]int{sched.Parallel: 20000, sched.Timed: 3000, sched.Free: 1500}
	if debug {
		steps[sched.Parallel] = 4000
	}
	for _, regime := range []sched.Regime{sched.Parallel, sched.Timed, sched.Free} {
		for _, cpus := range []int{2, 4} {
			for _, bytes := range []uint64{4 << 20, 64 << 20} {
				t.Run(fmt.Sprintf("%v/%d cpus/%d MiB", regime, cpus, bytes>>20), func(t *testing.T) {
					r := newRig(t, bytes, sched.Options{CPUs: cpus, Regime: regime, Preempt: sched.PreemptFull})
					slots := make([]x86.Word64, 16)
					for i := range cpus + 2 {
						r.start(i%cpus, fmt.Sprint("stress", i), func(k *sched.Task) {
							stress(k, r.p, slots, uint64(i), steps[regime])
						})
					}
					require.NoError(t, r.m.Run().Err())
					r.ok()
					r.run(func(k *sched.Task) {
						for i := range slots {
							if pfn := slots[i].Peek(); pfn != 0 {
								r.p.Put(k, r.p.Page(x86.PFN(pfn)))
							}
						}
					})
					require.Positive(t, r.m.Trace().Sum(trace.PGAllocNormal))
					r.empty()
				})
			}
		}
	}
}

// stepChecker checks the invariants at every step of a machine.
type stepChecker struct {
	m    *Map
	errs []error
}

func (s *stepChecker) Step(_ uint64, _ *sched.Task, _ x86.Op, obj x86.ObjID) {
	if len(s.errs) > 0 {
		return
	}
	s.errs = s.m.CheckStep()
	if obj.Class() == x86.ClassPage {
		s.errs = append(s.errs, s.m.CheckPage(s.m.Page(x86.PFN(obj.ID()>>3)))...)
	}
}

func (s *stepChecker) Device(uint64, sched.Event) {}

func TestInvariantsAtEveryStep(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{CPUs: 2, Regime: sched.Free, Preempt: sched.PreemptFull})
	s := &stepChecker{m: r.p}
	r.m.SetObserver(s)
	slots := make([]x86.Word64, 4)
	for i := range 3 {
		r.start(i%2, fmt.Sprint("stress", i), func(k *sched.Task) { stress(k, r.p, slots, uint64(i), 150) })
	}
	require.NoError(t, r.m.Run().Err())
	require.Empty(t, s.errs)
}

// cpuObjects records which objects each CPU's points name.
type cpuObjects [2]map[x86.ObjID]bool

func (o *cpuObjects) Step(_ uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	if op.Writes() && obj.Class() != x86.ClassCPU && obj.Class() != x86.ClassTask {
		o[t.C.ID][obj] = true
	}
}

func (o *cpuObjects) Device(uint64, sched.Event) {}

// TestNoCommonObjectInFreeRegime wants that two CPUs that allocate, list and
// free pages of their own write to nothing that both know.
func TestNoCommonObjectInFreeRegime(t *testing.T) {
	r := newRig(t, 2<<20, sched.Options{CPUs: 2, Regime: sched.Free})
	o := &cpuObjects{{}, {}}
	r.m.SetObserver(o)
	for cpu := range 2 {
		r.start(cpu, fmt.Sprint("user", cpu), func(k *sched.Task) {
			for range 5 {
				var pages []x86.PFN
				for range 60 {
					pages = append(pages, r.p.PFN(newAnon(k, r.p, ActiveAnon)))
				}
				r.p.LRUAddDrain(k)
				r.p.ReleasePages(k, pages, RefTemp, false)
				r.p.Put(k, r.p.Alloc(k, GFPKernel|GFPComp, 3, "t"))
			}
		})
	}
	require.NoError(t, r.m.Run().Err())
	for obj := range o[0] {
		require.False(t, o[1][obj], "both write to %s", r.m.ObjName(obj))
	}
	require.Greater(t, len(o[0]), 60)
	require.Greater(t, len(o[1]), 60)
	r.empty()
}
