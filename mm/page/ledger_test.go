package page

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

func withLedger(t *testing.T) *rig {
	r := newRig(t, 64<<20, sched.Options{})
	r.p.UseLedger(true)
	return r
}

func TestLedgerNamesALeak(t *testing.T) {
	r := withLedger(t)
	r.run(func(k *sched.Task) {
		m := r.p
		p := m.Alloc(k, GFPKernel, 0, "do_anonymous_page")
		m.Relabel(k, p, RefTemp, RefMap, 1)
		m.GetAs(k, p, RefPin)
		m.IncMap(k, p)
		m.DecMap(k, p)
		m.PutAs(k, p, RefMap) // and the pin is forgotten
	})
	r.ok()
	leaks := r.p.Leaks()
	require.Len(t, leaks, 1)
	require.Equal(t, 1, leaks[0].Count)
	require.Contains(t, leaks[0].String(), "held by pin 1 (task 1); allocated by do_anonymous_page")
}

func TestLedgerSeesTheWrongHolder(t *testing.T) {
	r := withLedger(t)
	r.run(func(k *sched.Task) {
		p := r.p.Alloc(k, GFPKernel, 0, "t")
		r.p.GetAs(k, p, RefCache)
		r.p.Put(k, p)
		r.p.Put(k, p) // the cache's, as nobody's
	})
	require.NotEmpty(t, r.p.Ledger().Findings())
	require.Contains(t, r.p.Ledger().Findings()[0], "drops 1 temp reference(s); held by cache 1")
	require.NotEmpty(t, r.p.Check())
}

func TestLedgerSeesACountChangedByHand(t *testing.T) {
	r := withLedger(t)
	r.run(func(k *sched.Task) {
		p := r.p.Alloc(k, GFPKernel, 0, "t")
		p.Count.Poke(2)
	})
	errs := r.p.Check()
	require.Len(t, errs, 1)
	require.Contains(t, errs[0].Error(), "holders add up to 1")
}

func TestLedgerFollowsFreeze(t *testing.T) {
	r := withLedger(t)
	r.run(func(k *sched.Task) {
		m := r.p
		p := m.Alloc(k, GFPKernel, 0, "t")
		m.GetAs(k, p, RefCache)
		assert.True(t, m.FreezeRefs(k, p, 2))
		assert.Empty(t, m.Check())
		m.UnfreezeRefs(k, p, 2)
		assert.Empty(t, m.Check())
		assert.Equal(t, "held by temp 1 (task 1), cache 1 (task 1); allocated by t", m.Ledger().Describe(p))
		assert.True(t, m.FreezeRefs(k, p, 2))
		m.FreeFrozen(k, p)
	})
	r.empty()
}

// anyBlock returns a list of free blocks that is not empty.
func anyBlock(m *Map) *list {
	for o := range MaxOrder {
		if l := &m.zones[0].area[o]; l.n > 0 {
			return l
		}
	}
	panic("no free block")
}

// TestChecksCanFail breaks each structure in turn and wants to hear of it.
func TestChecksCanFail(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		fn         func(m *Map, used, free *Page)
	}{
		{"mapped free page", "free page in use", func(_ *Map, _, free *Page) { free.MapCount.Poke(1) }},
		{"held free page", "free page in use", func(_ *Map, _, free *Page) { free.Count.Poke(1) }},
		{"free page marked as on the lru", "free page in use", func(_ *Map, _, free *Page) { free.PokeSet(LRU) }},
		{"more mappings than references", "more mappings", func(_ *Map, used, _ *Page) { used.MapCount.Poke(2) }},
		{"lost block", "pages free by count", func(m *Map, _, _ *Page) {
			l := anyBlock(m)
			m.unlink(l, l.first)
		}},
		{"wrong length", "counted", func(m *Map, _, _ *Page) { anyBlock(m).n++ }},
		{"wrong order", "not marked", func(m *Map, _, _ *Page) { m.page(anyBlock(m).first).order = 10 }},
		{"broken link", "broken", func(m *Map, _, _ *Page) { m.page(anyBlock(m).first).prev = 9 }},
		{"free count", "pages free by count", func(m *Map, _, _ *Page) { m.zones[0].free.RawAdd(1) }},
		{"listed twice", "listed twice", func(m *Map, _, _ *Page) {
			s := &m.cpus[0]
			s.ring[s.hot+1] = s.ring[s.hot]
		}},
		{"page lost from a per-CPU list", "frames are not", func(m *Map, _, _ *Page) { m.cpus[0].n-- }},
		{"lru flag gone", "flags do not match", func(_ *Map, used, _ *Page) { used.PokeClear(LRU) }},
		{"wrong list", "flags do not match", func(_ *Map, used, _ *Page) { used.PokeSet(Active) }},
		{"flag without list", "pages have flag lru", func(m *Map, used, _ *Page) {
			m.unlink(&m.zones[0].lru[InactiveAnon], uint32(m.PFN(used)))
			m.mach.Trace().CPU(0).Dec(trace.NrInactiveAnon)
		}},
		{"pagevec without reference", "pagevec", func(m *Map, used, _ *Page) {
			m.cpus[0].lruAdd[0].add(uint32(m.PFN(used)))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := withLedger(t)
			var used, free *Page
			r.run(func(k *sched.Task) {
				used = newAnon(k, r.p, InactiveAnon)
				r.p.LRUAddDrain(k)
				a, b := r.p.Alloc(k, GFPKernel, 0, "t"), r.p.Alloc(k, GFPKernel, 0, "t")
				r.p.Alloc(k, GFPKernel, 0, "t")
				r.p.Put(k, a)
				r.p.Put(k, b)
				free = b
			})
			r.ok()
			tc.fn(r.p, used, free)
			errs := r.p.Check()
			require.NotEmpty(t, errs)
			var all strings.Builder
			for _, e := range errs {
				all.WriteString(e.Error() + "\n")
			}
			require.Contains(t, all.String(), tc.want)
		})
	}
}
