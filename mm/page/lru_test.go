package page

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// newAnon allocates a page as a fault does and puts it on its way to list l.
func newAnon(k *sched.Task, m *Map, l LRUList) *Page {
	p := m.Alloc(k, GFPHighUserMovable, 0, "t")
	if !l.File() {
		p.PokeSet(SwapBacked)
	}
	m.LRUCacheAdd(k, p, l)
	return p
}

func listed(m *Map, l LRUList) (out []x86.PFN) {
	m.EachLRU(l, func(pfn x86.PFN, _ *Page) bool {
		out = append(out, pfn)
		return true
	})
	return out
}

func TestPagevecHoldsAReference(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.p.UseLedger(true)
	r.run(func(k *sched.Task) {
		m := r.p
		var pages []*Page
		for i := range PagevecSize {
			p := newAnon(k, m, ActiveAnon)
			pages = append(pages, p)
			if i < PagevecSize-1 {
				assert.Equal(t, 2, m.Refs(k, p), "the caller's and the pagevec's")
				assert.Equal(t, 1, m.Ledger().Held(p, RefPagevec))
				assert.False(t, p.Has(LRU))
			}
		}
		for _, p := range pages {
			assert.Equal(t, 1, m.Refs(k, p), "the pagevec was full")
			assert.True(t, p.Has(LRU))
			assert.True(t, p.Has(Active))
		}
		assert.EqualValues(t, 14, m.LRULen(ActiveAnon))
		p := newAnon(k, m, InactiveAnon)
		m.Put(k, p)
		assert.Equal(t, 1, m.Refs(k, p), "only the pagevec keeps it")
		assert.Empty(t, m.Check())
		m.LRUAddDrain(k)
		assert.Zero(t, p.Count.Peek(), "draining frees it")
		for _, p := range pages {
			m.Put(k, p)
		}
		assert.Zero(t, m.LRULen(ActiveAnon))
	})
	r.empty()
}

func TestMarkPageAccessed(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		p := newAnon(k, m, InactiveAnon)
		m.MarkPageAccessed(k, p)
		assert.True(t, p.Has(Referenced))
		m.MarkPageAccessed(k, p)
		assert.True(t, p.Has(Referenced))
		assert.False(t, p.Has(Active), "a page in a pagevec is not activated")
		m.LRUAddDrain(k)
		m.MarkPageAccessed(k, p)
		assert.True(t, p.Has(Active))
		assert.False(t, p.Has(Referenced))
		assert.Equal(t, []x86.PFN{m.PFN(p)}, listed(m, ActiveAnon))
		assert.Empty(t, listed(m, InactiveAnon))
		assert.EqualValues(t, 1, r.m.Trace().Sum(trace.PGActivate))
		m.MarkPageAccessed(k, p)
		assert.True(t, p.Has(Referenced))
		assert.Empty(t, m.Check())
		m.Put(k, p)
		assert.False(t, p.Has(Active))
	})
	r.empty()
}

func TestIsolateAndPutback(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		var pages []*Page
		var pfns []x86.PFN
		for range 5 {
			p := newAnon(k, m, InactiveFile)
			pages = append(pages, p)
			pfns = append(pfns, m.PFN(p))
		}
		assert.False(t, m.IsolateLRU(k, pages[0]), "still in a pagevec")
		m.LRUAddDrain(k)
		assert.True(t, m.IsolateLRU(k, pages[2]))
		assert.False(t, m.IsolateLRU(k, pages[2]))
		assert.Equal(t, 2, m.Refs(k, pages[2]))
		assert.EqualValues(t, 4, m.LRULen(InactiveFile))
		m.PutbackLRU(k, pages[2])
		m.LRUAddDrain(k)
		assert.Equal(t, []x86.PFN{pfns[2], pfns[4], pfns[3], pfns[1], pfns[0]}, listed(m, InactiveFile))

		// The old end, passing over a page that is about to be freed.
		assert.True(t, m.FreezeRefs(k, pages[0], 1))
		buf := make([]x86.PFN, 2)
		n, scanned := m.IsolateTail(k, InactiveFile, 32, buf)
		assert.Equal(t, 2, n)
		assert.Equal(t, 3, scanned)
		assert.Equal(t, []x86.PFN{pfns[1], pfns[3]}, buf)
		m.UnfreezeRefs(k, pages[0], 1)
		m.SetFlag(k, m.Page(buf[0]), Mlocked)
		m.PutbackLRU(k, m.Page(buf[0]))
		m.PutbackLRU(k, m.Page(buf[1]))
		m.LRUAddDrain(k)
		assert.Equal(t, []x86.PFN{pfns[1]}, listed(m, UnevictableList))
		assert.Empty(t, m.Check())
		m.ReleasePages(k, pfns, RefTemp, false)
	})
	r.empty()
}

func TestRotateReclaimable(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		m := r.p
		a, b := newAnon(k, m, InactiveAnon), newAnon(k, m, InactiveAnon)
		m.LRUAddDrain(k)
		assert.Equal(t, []x86.PFN{m.PFN(b), m.PFN(a)}, listed(m, InactiveAnon))
		assert.False(t, m.TestSetWriteback(k, b))
		m.SetFlag(k, b, Reclaim)
		assert.EqualValues(t, 1, r.m.Trace().Sum(trace.NrWriteback))
		m.EndPageWriteback(k, b)
		assert.Zero(t, r.m.Trace().Sum(trace.NrWriteback))
		assert.Equal(t, 2, m.Refs(k, b))
		m.LRUAddDrain(k)
		assert.Equal(t, []x86.PFN{m.PFN(a), m.PFN(b)}, listed(m, InactiveAnon))
		assert.Equal(t, 1, m.Refs(k, b))
		assert.EqualValues(t, 1, r.m.Trace().Sum(trace.PGRotated))
		m.Put(k, a)
		m.Put(k, b)
	})
	r.empty()
}

func TestPutFrozenOnLRU(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.run(func(k *sched.Task) {
		p := newAnon(k, r.p, InactiveAnon)
		r.p.LRUAddDrain(k)
		assert.True(t, r.p.FreezeRefs(k, p, 1))
		r.p.FreeFrozen(k, p)
	})
	r.empty()
}

func TestReleasePagesMixed(t *testing.T) {
	r := newRig(t, 16<<20, sched.Options{CPUs: 2, Regime: sched.Free})
	r.run(func(k *sched.Task) {
		m := r.p
		var pfns []x86.PFN
		for i := range 40 {
			p := newAnon(k, m, LRUList(i%4))
			pfns = append(pfns, m.PFN(p))
			if i%10 == 9 {
				m.Get(k, p)
				defer func() { m.Put(k, p) }()
			}
			if i == 20 {
				pfns = append(pfns, m.PFN(m.Alloc(k, GFPKernel|GFPComp, 2, "t")))
			}
		}
		m.LRUAddDrain(k)
		m.ReleasePages(k, pfns, RefTemp, false)
		assert.Empty(t, m.Check())
		assert.Len(t, m.Leaks(), 4)
	})
	r.empty()
}

func TestTwiceOnTheLRU(t *testing.T) {
	r := newRig(t, 64<<20, sched.Options{})
	r.oops("on an LRU list", func(k *sched.Task) {
		p := newAnon(k, r.p, InactiveAnon)
		r.p.LRUCacheAdd(k, p, InactiveAnon)
		r.p.LRUAddDrain(k)
	})
}

func TestPageLock(t *testing.T) {
	for _, regime := range []sched.Regime{sched.Parallel, sched.Timed, sched.Free} {
		t.Run(regime.String(), func(t *testing.T) {
			r := newRig(t, 1<<20, sched.Options{CPUs: 3, Regime: regime})
			var p *Page
			r.run(func(k *sched.Task) { p = r.p.Alloc(k, GFPKernel, 0, "t") })
			shared := 0
			for cpu := range 3 {
				r.start(cpu, "locker", func(k *sched.Task) {
					for range 50 {
						r.p.LockPage(k, p)
						v := shared
						k.Point(x86.OpYield, 0)
						k.CondResched()
						shared = v + 1
						r.p.UnlockPage(k, p)
					}
				})
			}
			require.NoError(t, r.m.Run().Err())
			require.Equal(t, 150, shared)
			r.run(func(k *sched.Task) {
				assert.True(t, r.p.TrylockPage(k, p))
				assert.False(t, r.p.TrylockPage(k, p))
				r.p.UnlockPage(k, p)
				r.p.WaitOnLocked(k, p)
			})
			// Writing ends on another CPU.
			done := false
			r.start(0, "writer", func(k *sched.Task) {
				r.p.TestSetWriteback(k, p)
				r.start(1, "waiter", func(k *sched.Task) {
					r.p.WaitOnWriteback(k, p)
					assert.True(t, done)
				})
				k.SleepFor(1_000_000)
				done = true
				r.p.EndPageWriteback(k, p)
			})
			require.NoError(t, r.m.Run().Err())
			r.run(func(k *sched.Task) { r.p.Put(k, p) })
			r.empty()
		})
	}
}

func TestUnlockOfUnlocked(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{})
	r.oops("released but not held", func(k *sched.Task) {
		r.p.UnlockPage(k, r.p.Alloc(k, GFPKernel, 0, "t"))
	})
	r = newRig(t, 1<<20, sched.Options{})
	r.oops("writing ended that never began", func(k *sched.Task) {
		r.p.EndPageWriteback(k, r.p.Alloc(k, GFPKernel, 0, "t"))
	})
}
