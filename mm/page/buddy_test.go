package page

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// The model: who owns each frame.
type frameModel map[x86.PFN]bool

func (f frameModel) take(t *testing.T, pfn x86.PFN, order int) {
	for i := range x86.PFN(1) << order {
		if f[pfn+i] {
			t.Errorf("frame %#x handed out twice", pfn+i)
		}
		f[pfn+i] = true
	}
}

func (f frameModel) give(pfn x86.PFN, order int) {
	for i := range x86.PFN(1) << order {
		delete(f, pfn+i)
	}
}

func TestBuddyAgainstModel(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bytes uint64
		o     sched.Options
	}{
		{"1 MiB", 1 << 20, sched.Options{}},
		{"64 MiB, parallel", 64 << 20, sched.Options{}},
		{"16 MiB, timed", 16 << 20, sched.Options{Regime: sched.Timed, CPUs: 2}},
		{"odd size, free, 3 CPUs", 5<<20 + 3<<12, sched.Options{Regime: sched.Free, CPUs: 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, tc.bytes, tc.o)
			rng := rand.New(rand.NewPCG(1, uint64(tc.bytes)))
			steps := 4000
			if debug {
				steps = 1000
			}
			r.run(func(k *sched.Task) { randomAllocs(t, k, r.p, rng, steps) })
			r.empty()
		})
	}
}

func randomAllocs(t *testing.T, k *sched.Task, m *Map, rng *rand.Rand, steps int) {
	type block struct {
		p     *Page
		order int
		comp  bool
	}
	var live []block
	model := frameModel{}
	free := func(i int) {
		b := live[i]
		live[i] = live[len(live)-1]
		live = live[:len(live)-1]
		model.give(m.PFN(b.p), b.order)
		if b.comp || b.order == 0 {
			m.Put(k, b.p)
		} else {
			m.FreeBlock(k, b.p, b.order)
		}
	}
	for i := range steps {
		// Phases of growth and of shrinking, so that memory runs out at times.
		if grow := i/500%2 == 0; rng.IntN(10) < 3 == grow && len(live) > 0 {
			free(rng.IntN(len(live)))
		} else {
			b := block{comp: rng.IntN(2) == 0}
			if rng.IntN(3) == 0 {
				b.order = rng.IntN(MaxOrder)
			}
			gfp := GFPKernel
			if b.comp {
				gfp |= GFPComp
			}
			if b.p = m.Alloc(k, gfp, b.order, "model"); b.p == nil {
				continue
			}
			pfn := m.PFN(b.p)
			if pfn == 0 || pfn&(1<<b.order-1) != 0 || uint64(pfn)+1<<b.order > m.Frames() {
				t.Errorf("order %d: bad block %#x", b.order, pfn)
			}
			model.take(t, pfn, b.order)
			live = append(live, b)
		}
		if i%97 == 0 {
			if errs := m.Check(); len(errs) > 0 {
				t.Errorf("step %d: %v", i, errs)
				return
			}
			if got := m.Frames() - 1 - m.FreePages() - uint64(m.PCPPages()); got != uint64(len(model)) {
				t.Errorf("step %d: %d pages allocated, model has %d", i, got, len(model))
			}
		}
	}
	for len(live) > 0 {
		free(len(live) - 1)
	}
}

func TestBuddiesMerge(t *testing.T) {
	r := newRig(t, 16<<20, sched.Options{})
	var all []*Page
	r.run(func(k *sched.Task) {
		for {
			p := r.p.Alloc(k, GFPAtomic|GFPMemalloc, 0, "test")
			if p == nil {
				break
			}
			all = append(all, p)
		}
		assert.EqualValues(t, r.p.Frames()-1, len(all), "to the last page")
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(all)) {
			r.p.Put(k, all[i])
		}
		r.p.DrainLocalPages(k)
	})
	// Frames 1 to 4095 make one block of each order below 10, and three of 10.
	z := &r.p.zones[0]
	for o := range MaxOrder - 1 {
		require.EqualValues(t, 1, z.area[o].n, "order %d", o)
	}
	require.EqualValues(t, 3, z.area[MaxOrder-1].n)
	r.empty()
}

func TestBootTouchesNothing(t *testing.T) {
	if debug {
		t.Skip("race-detector builds cap the size of memory")
	}
	r := newRig(t, 64<<30, sched.Options{})
	require.EqualValues(t, 16<<20-1, r.p.FreePages())
	require.EqualValues(t, 1, r.p.zones[0].brk)
	r.run(func(k *sched.Task) {
		p := r.p.Alloc(k, GFPKernel, 0, "test")
		assert.Less(t, uint64(r.p.PFN(p)), uint64(16))
		h := r.p.Alloc(k, GFPKernel|GFPComp, 10, "test")
		assert.NotNil(t, h)
		r.p.Put(k, h)
		r.p.Put(k, p)
	})
	require.LessOrEqual(t, r.p.zones[0].brk, uint32(2048), "wilderness goes in small pieces")
	r.empty()
}

func TestWatermarksFollowMinFreeKbytes(t *testing.T) {
	for _, tc := range []struct{ bytes, minimum uint64 }{
		{1 << 20, 31},   // an eighth, 128 KiB would be 32
		{4 << 20, 63},   // sqrt(4092*16) = 255 KiB
		{64 << 20, 255}, // sqrt(65532*16) = 1023 KiB
		{1 << 30, 1023}, // sqrt(2^24-64) = 4095 KiB
		{64 << 30, 8191},
		{1 << 43, 16384}, // the cap of 64 MiB
	} {
		require.Equal(t, tc.minimum, minFreePages(tc.bytes>>x86.PageShift-1), "%d MiB", tc.bytes>>20)
	}
	r := newRig(t, 4<<20, sched.Options{})
	lo, mid, hi := r.p.Watermarks()
	require.Equal(t, []uint64{63, 78, 94}, []uint64{lo, mid, hi})
}

func TestExhaustion(t *testing.T) {
	for _, cpus := range []int{1, 4} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			r := newRig(t, 1<<20, sched.Options{CPUs: cpus, Regime: sched.Free})
			var live []*Page
			r.run(func(k *sched.Task) {
				m := r.p
				drain := func(gfp GFP) (n int) {
					for {
						p := m.Alloc(k, gfp, 0, "test")
						if p == nil {
							return n
						}
						live = append(live, p)
						n++
					}
				}
				minimum, _, high := m.Watermarks()
				kswapd, reclaims := 0, 0
				m.WakeKswapd = func(*sched.Task, int) { kswapd++ }
				m.Reclaim = func(*sched.Task, GFP, int) uint64 { reclaims++; return 0 }
				drain(GFPKernel)
				assert.InDelta(t, minimum, m.FreePages(), 8, "kernel allocations stop at pages_min")
				assert.Positive(t, kswapd)
				assert.Equal(t, 1, reclaims)
				assert.Positive(t, drain(GFPAtomic), "atomic ones go deeper")
				assert.InDelta(t, minimum*3/8, m.FreePages(), 5, "to half of it, less a quarter")
				assert.Zero(t, drain(GFPKernel))
				assert.Positive(t, drain(GFPKernel|GFPMemalloc), "reclaim takes the last page")
				assert.Zero(t, m.FreePages())
				assert.Zero(t, drain(GFPKernel|GFPMemalloc))

				// Reclaim that frees lets the allocation succeed.
				m.Reclaim = func(*sched.Task, GFP, int) uint64 {
					for range min(len(live), int(high)+10) {
						m.Put(k, live[len(live)-1])
						live = live[:len(live)-1]
					}
					m.DrainLocalPages(k)
					return 1
				}
				p := m.Alloc(k, GFPKernel, 0, "test")
				if assert.NotNil(t, p) {
					live = append(live, p)
				}
				// The OOM killer's turn comes when reclaim finds nothing.
				m.Reclaim = nil
				drain(GFPAtomic)
				kills := 0
				m.OutOfMemory = func(*sched.Task, GFP, int) bool {
					kills++
					for _, p := range live {
						m.Put(k, p)
					}
					live = live[:0]
					m.DrainLocalPages(k)
					return true
				}
				if p = m.Alloc(k, GFPKernel, 0, "test"); assert.NotNil(t, p) {
					m.Put(k, p)
				}
				assert.Equal(t, 1, kills)
			})
			r.p.WakeKswapd, r.p.OutOfMemory = nil, nil
			r.empty()
		})
	}
}

func TestNoFail(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{})
	r.oops("page allocation failure", func(k *sched.Task) {
		for {
			if r.p.Alloc(k, GFPKernel|GFPNoFail, 0, "test") == nil {
				t.Error("GFPNoFail failed")
				return
			}
		}
	})
}

func TestNoFragmentedHighOrder(t *testing.T) {
	r := newRig(t, 4<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		var all []*Page
		for p := m.Alloc(k, GFPKernel|GFPMemalloc, 0, "test"); p != nil; p = m.Alloc(k, GFPKernel|GFPMemalloc, 0, "test") {
			all = append(all, p)
		}
		var rest []*Page
		for _, p := range all {
			if m.PFN(p)%2 == 0 {
				m.Put(k, p)
			} else {
				rest = append(rest, p)
			}
		}
		m.DrainLocalPages(k)
		assert.EqualValues(t, 511, m.FreePages())
		assert.Nil(t, m.Alloc(k, GFPKernel, 1, "test"), "all free blocks are single pages")
		for _, p := range rest {
			m.Put(k, p)
		}
		m.DrainLocalPages(k)
		h := m.Alloc(k, GFPKernel|GFPComp, 9, "test")
		if assert.NotNil(t, h) {
			m.Put(k, h)
		}
	})
	r.empty()
}

func TestZero(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{Regime: sched.Timed})
	r.run(func(k *sched.Task) {
		p := r.p.Alloc(k, GFPKernel, 0, "test")
		b := r.p.Memory().Bytes(r.p.PFN(p))
		for i := range b {
			b[i] = 0xa5
		}
		r.p.Put(k, p)
		q := r.p.Alloc(k, GFPKernel|GFPZero, 0, "test")
		assert.Same(t, p, q)
		assert.Equal(t, make([]byte, x86.PageSize), b)
		r.p.Put(k, q)
	})
	r.empty()
}

func TestFailAt(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{})
	m := r.p
	require.Nil(t, m.SiteCounts())
	m.FailAt("cow", 2)
	r.run(func(k *sched.Task) {
		try := func(site string, gfp GFP) bool {
			p := m.Alloc(k, gfp, 0, site)
			if p != nil {
				m.Put(k, p)
			}
			return p != nil
		}
		assert.True(t, try("cow", GFPKernel))
		assert.True(t, try("fork", GFPKernel))
		assert.False(t, try("cow", GFPKernel), "the second of its site")
		assert.True(t, try("cow", GFPKernel))
		m.FailAt("", 3)
		assert.True(t, try("a", GFPKernel))
		assert.True(t, try("b", GFPKernel))
		assert.False(t, try("c", GFPKernel), "the third of all")
		m.FailAt("fork", -2)
		assert.True(t, try("fork", GFPKernel))
		assert.False(t, try("fork", GFPKernel))
		assert.False(t, try("fork", GFPKernel))
		assert.True(t, try("fork", GFPKernel|GFPNoFail))
		m.FailNever()
		assert.True(t, try("fork", GFPKernel))
	})
	require.Equal(t, map[string]int{"cow": 3, "fork": 6, "a": 1, "b": 1, "c": 1, "": 12}, m.SiteCounts())
	require.EqualValues(t, 4, r.m.Trace().Sum(trace.EmuAllocFailInjected))
	r.empty()
}
