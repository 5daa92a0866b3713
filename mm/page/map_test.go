package page

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

func TestReferences(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{})
	freed := 0
	r.p.OnFree = func(_ *sched.Task, p *Page) {
		assert.Zero(t, p.Count.Peek())
		assert.EqualValues(t, 42, p.Policy.Peek())
		freed++
	}
	r.run(func(k *sched.Task) {
		m := r.p
		p := m.Alloc(k, GFPKernel, 0, "test")
		assert.Equal(t, 1, m.Refs(k, p))
		p.Policy.Poke(42)
		m.Get(k, p)
		assert.True(t, m.TryGet(k, p))
		assert.Equal(t, 3, m.Refs(k, p))
		assert.False(t, m.FreezeRefs(k, p, 2))
		assert.True(t, m.FreezeRefs(k, p, 3))
		assert.False(t, m.TryGet(k, p), "a frozen page cannot be had")
		m.UnfreezeRefs(k, p, 3)
		m.Put(k, p)
		m.Put(k, p)
		assert.Zero(t, freed)
		m.Put(k, p)
		assert.Equal(t, 1, freed)
		assert.False(t, m.TryGet(k, p), "a free page cannot be had")
		assert.Zero(t, p.Policy.Peek())

		q := m.Alloc(k, GFPKernel, 0, "test")
		assert.Same(t, p, q, "the hottest page comes first")
		q.Policy.Poke(42)
		assert.True(t, m.FreezeRefs(k, q, 1))
		m.FreeFrozen(k, q)
		assert.Equal(t, 2, freed)
	})
	r.p.OnFree = nil
	r.empty()
}

func TestMapCounts(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		p := m.Alloc(k, GFPKernel, 0, "test")
		assert.False(t, m.Mapped(k, p))
		assert.Equal(t, 1, m.IncMap(k, p))
		m.DupMap(k, p)
		assert.Equal(t, 2, m.MapRefs(k, p))
		assert.True(t, p.Mapped())
		assert.Equal(t, 1, m.DecMap(k, p))
		assert.Equal(t, 0, m.DecMap(k, p))
		m.Put(k, p)
	})
	r.empty()
}

func TestBadPages(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		fn         func(k *sched.Task, m *Map, p *Page)
	}{
		{"mapped", "page in use is freed", func(k *sched.Task, m *Map, p *Page) { m.IncMap(k, p); m.Put(k, p) }},
		{"locked", "flags locked", func(k *sched.Task, m *Map, p *Page) { m.LockPage(k, p); m.Put(k, p) }},
		{"writeback", "flags writeback", func(k *sched.Task, m *Map, p *Page) { m.SetFlag(k, p, Writeback); m.Put(k, p) }},
		{"in a mapping", "mapping 0x10", func(k *sched.Task, m *Map, p *Page) { p.Mapping = 16; m.Put(k, p) }},
		{"put twice", "more references dropped", func(k *sched.Task, m *Map, p *Page) { m.Put(k, p); m.Put(k, p) }},
		{"get free", "taken on a free page", func(k *sched.Task, m *Map, p *Page) { m.Put(k, p); m.Get(k, p) }},
		{"unmapped twice", "unmapped more often", func(k *sched.Task, m *Map, p *Page) { m.DecMap(k, p) }},
		{"used after free", "free page in use", func(k *sched.Task, m *Map, p *Page) {
			m.Put(k, p)
			m.SetFlag(k, p, Dirty)
			m.Alloc(k, GFPKernel, 0, "test")
		}},
		{"block freed as one", "several pages", func(k *sched.Task, m *Map, p *Page) {
			m.Put(k, m.Alloc(k, GFPKernel, 2, "test"))
		}},
		{"wrong order", "wrong order", func(k *sched.Task, m *Map, p *Page) {
			m.FreeBlock(k, m.Alloc(k, GFPKernel, 2, "test"), 1)
		}},
		{"lost tail", "without its tail", func(k *sched.Task, m *Map, p *Page) {
			h := m.Alloc(k, GFPKernel|GFPComp, 2, "test")
			m.Subpage(h, 3).PokeClear(Tail)
			m.Put(k, h)
		}},
		{"sleeping with interrupts off", "atomic context", func(k *sched.Task, m *Map, p *Page) {
			k.C.IRQDisable()
			m.Alloc(k, GFPKernel, 0, "test")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 64<<20, sched.Options{})
			r.oops(tc.want, func(k *sched.Task) { tc.fn(k, r.p, r.p.Alloc(k, GFPKernel, 0, "test")) })
		})
	}
}

func TestAnonMappingIsWipedAtFree(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		p := r.p.Alloc(k, GFPKernel, 0, "test")
		p.Mapping = 16 | MappingAnon
		p.PokeSet(Uptodate)
		p.PokeSet(SwapBacked)
		p.PokeSet(Policy0)
		p.PokeSet(Dirty)
		r.p.Put(k, p)
		assert.Zero(t, p.Mapping)
		assert.Zero(t, p.Flags.Peek())
	})
	r.empty()
}

func TestCompound(t *testing.T) {
	r := newRig(t, 8<<20, sched.Options{CPUs: 2, Regime: sched.Free})
	freed := 0
	r.p.OnFree = func(*sched.Task, *Page) { freed++ }
	r.run(func(k *sched.Task) {
		m := r.p
		h := m.Alloc(k, GFPKernel|GFPComp|GFPZero, 9, "test")
		if !assert.NotNil(t, h) {
			return
		}
		assert.Equal(t, 9, h.Order())
		assert.Zero(t, m.PFN(h)%512)
		tail := m.Subpage(h, 511)
		assert.Same(t, h, m.Head(tail))
		assert.False(t, m.TryGet(k, tail), "tails have no references")
		m.Get(k, tail)
		assert.Equal(t, 2, m.Refs(k, tail))
		m.GetNAs(k, h, RefPin, 63)
		assert.Equal(t, 65, m.Refs(k, h))
		if m.Ledger() != nil {
			assert.Equal(t, 63, m.Ledger().Held(tail, RefPin))
		}
		m.PutNAs(k, tail, RefPin, 63)
		m.Put(k, h)
		assert.Zero(t, freed)
		m.Put(k, tail)
		assert.Equal(t, 1, freed)
		assert.Zero(t, tail.Flags.Peek())

		// A pool keeps its pages.
		var pool *Page
		m.OnLastPut(DtorHuge, func(_ *sched.Task, p *Page) { pool = p })
		h = m.Alloc(k, GFPKernel|GFPComp, 9, "test")
		m.SetDtor(h, DtorHuge)
		m.Put(k, m.Subpage(h, 7))
		assert.Same(t, h, pool)
		m.SetRefs(k, h, 1)
		pool = nil
		m.Put(k, h)
		assert.Same(t, h, pool)
		m.FreeCompound(k, h)
		assert.Equal(t, 2, freed)
	})
	r.p.OnFree = nil
	r.empty()
}

func TestCounters(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	tr := r.m.Trace()
	r.run(func(k *sched.Task) {
		p := r.p.Alloc(k, GFPKernel|GFPZero, 0, "test")
		q := r.p.Alloc(k, GFPKernel, 3, "test")
		assert.EqualValues(t, 9, tr.Sum(trace.PGAllocNormal))
		assert.EqualValues(t, 1, tr.Sum(trace.EmuPageClears))
		r.p.Put(k, p)
		r.p.FreeBlock(k, q, 3)
	})
	require.EqualValues(t, 9, tr.Sum(trace.PGFree))
	require.EqualValues(t, r.p.FreePages(), tr.Sum(trace.NrFreePages))
	r.empty()
}
