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
	n    int
}

func (s *stepChecker) check() {
	if s.n++; len(s.errs) == 0 {
		s.errs = s.m.CheckStep()
	}
}
