package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Skeletons of two of the thread's patches: what the kit must be enough for. The
// real ones are in mm/policy.

// copyEarly is the shape of PG_gup: write-protect, look, and if the page is pinned
// copy it for the child and give the parent its permission back.
type copyEarly struct {
	Stock
	onBreak func(f *Fork) // what happens while the locks are dropped
}

func (copyEarly) Hooks() HookSet { return HookFollow | HookForkPTE }

func (copyEarly) Follow(g *GUP, pte x86.PTE, p *page.Page) FollowNext {
	if p.Anon() {
		if !pte.Write() {
			g.Foll |= FollWrite
			return FollowFault
		}
		g.MM.Sys.Pages.SetFlag(g.T, p, page.Policy0)
	}
	return FollowTake
}

func (copyEarly) ForkPTE(f *Fork) ForkNext {
	s, c := f.Src.Sys, f.T.C
	pte := f.PTE
	cow := f.SrcVMA.Flags.IsCOW() && pte.Write()
	if f.SrcVMA.Flags&VMShared != 0 {
		pte = pte.MkClean()
	}
	pte = pte.MkOld()
	if cow {
		f.SrcPTE.SetWrprotect(c)
	}
	if p := s.NormalPage(f.SrcVMA, pte); p != nil {
		f.AddMapping(p)
		if cow && p.Anon() {
			c.Fence()
			if s.Pages.TestFlag(f.T, p, page.Policy0) {
				s.FlushTLBPage(f.T, f.SrcVMA, f.Addr)
				f.Page = p
				return ForkStop
			}
		}
	}
	if cow {
		pte = pte.WrProtect()
	}
	f.DstPTE.Set(c, pte)
	return ForkGo
}

func (c copyEarly) ForkBreak(f *Fork) ForkNext {
	t, s, old := f.T, f.Src.Sys, f.Page
	src, dst := f.SrcPTE.Load(t.C), f.DstPTE.Load(t.C)
	s.Pages.Get(t, old)
	f.Unlock()
	p := s.AllocUserPage(t, "fork_pre_cow")
	if p != nil {
		s.CowUserPage(t, p, old)
		if c.onBreak != nil {
			c.onBreak(f)
		}
	}
	f.Lock()
	next := ForkGo
	switch {
	case p == nil:
		next = ForkNoMem
	case f.SrcPTE.Load(t.C) != src || f.DstPTE.Load(t.C) != dst:
		next = ForkAgain
		s.Pages.Put(t, p)
	default:
		f.SetChildPage(p)
	}
	f.DropMapping(old)
	s.Pages.Put(t, old)
	f.SrcPTE.Set(t.C, f.SrcPTE.Load(t.C).MkWrite())
	f.Unlock()
	return next
}

// copyLate is the shape of PG_dontcow: share first, then give the child a page of its
// own, under the child's ptl alone.
type copyLate struct {
	copyEarly
}

func (copyLate) ForkPTE(f *Fork) ForkNext {
	f.CopyOnePTE()
	if p := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE); p != nil && f.Src.Sys.Pages.TestFlag(f.T, p, page.Policy0) {
		f.Page = p
		return ForkStop
	}
	return ForkGo
}

func (c copyLate) ForkBreak(f *Fork) ForkNext {
	t, s, old, v := f.T, f.Src.Sys, f.Page, f.DstVMA
	pte := f.DstPTE.Load(t.C)
	s.Pages.Get(t, old)
	f.Unlock()
	p := s.AllocUserPage(t, "decow_one_pte")
	if p == nil {
		s.Pages.Put(t, old)
		return ForkNoMem
	}
	s.CowUserPage(t, p, old)
	if c.onBreak != nil {
		c.onBreak(f)
	}
	p.PokeSet(page.Uptodate)
	next := ForkGo
	f.DstPTL.Lock(t)
	if f.DstPTE.Load(t.C) == pte {
		s.PtepClearFlush(t, v, f.Addr, f.DstPTE)
		s.Pages.Relabel(t, p, page.RefTemp, page.RefMap, 1)
		s.PageAddNewAnonRmap(t, p, v, f.Addr)
		f.DstPTE.Set(t.C, MaybeMkWrite(s.MkPTE(p, v).MkDirty(), v))
		s.PageRemoveRmap(t, old)
		s.Pages.PutAs(t, old, page.RefMap)
	} else {
		s.ZapPTE(t, v, f.Addr, f.DstPTE)
		s.Pages.Put(t, p)
		next = ForkAgain
	}
	f.DstPTL.Unlock(t)
	s.Pages.Put(t, old)
	return next
}

// pinned forks with a page pinned for a device and then stores to it, and reports
// whether the parent still has the page, and what the child saw.
func pinned(t *testing.T, o rigOptions) (r *rig, kept bool, child uint64) {
	r = boot(t, o)
	var stored lock.Completion // the child must not give the page back before
	stored.Init(r.m)
	r.run(func(u *user) {
		a := u.mmap(600)
		for _, i := range []uint64{0, 1, 3, 550, 599} {
			u.store(a+i*pg, 40+i)
		}
		at := a + 550*pg
		var pages [1]*page.Page
		u.kernel(func(t *sched.Task) {
			u.mm.MmapSem.DownRead(t)
			n, err := GetUserPages(t, u.mm, at, 1, GUPWrite, PinGet, pages[:])
			u.mm.MmapSem.UpRead(t)
			if n != 1 {
				t.Oops("get_user_pages: %v", err)
			}
		})
		done := u.fork(func(c *user) {
			child = c.load(at)
			for _, i := range []uint64{0, 1, 3, 599} {
				if c.load(a+i*pg) != 40+i {
					c.t.Oops("page %d is wrong", i)
				}
			}
			c.kernel(func(t *sched.Task) { stored.Wait(t) })
			c.store(at, 1)
		})
		u.store(at, 2)
		u.kernel(func(t *sched.Task) { stored.Complete(t) })
		kept = u.s.Pages.Page(u.mm.PeekPTE(at).PFN()) == pages[0]
		u.wait(done)
		assert.EqualValues(t, 2, u.load(at))
		u.kernel(func(t *sched.Task) { u.s.PutUserPage(t, pages[0], PinGet) })
	})
	r.end()
	return r, kept, child
}

func TestKitIsEnoughForThePatches(t *testing.T) {
	changes := 0
	// The first time the locks are dropped, somebody else changes an entry: the
	// parent's for the one, the child's for the other.
	touchParent := func(f *Fork) {
		if changes++; changes == 1 {
			f.SrcPTE.Set(f.T.C, f.SrcPTE.Load(f.T.C).MkOld())
		}
	}
	touchChild := func(f *Fork) {
		if changes++; changes == 1 {
			f.DstPTE.Set(f.T.C, f.DstPTE.Load(f.T.C).MkYoung())
		}
	}
	for _, c := range []struct {
		name    string
		policy  Policy
		kept    bool
		copies  int64
		retries int64
	}{
		{"stock", nil, false, 0, 0},
		{"copy early", copyEarly{}, true, 1, 0},
		{"copy early, changed", copyEarly{onBreak: touchParent}, true, 1, 1},
		{"copy late", copyLate{}, true, 0, 0},
		{"copy late, changed", copyLate{copyEarly{onBreak: touchChild}}, true, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			regimes(t, 2, func(t *testing.T, o rigOptions) {
				changes = 0
				o.mm.Policy = c.policy
				r, kept, child := pinned(t, o)
				assert.Equal(t, c.kept, kept)
				assert.Contains(t, []uint64{590}, child)
				assert.Equal(t, c.copies, r.sum(trace.EmuForkCopies))
				assert.Equal(t, c.retries, r.sum(trace.EmuForkRetries))
			})
		})
	}
}

// With all hooks on, Stock does to the last counter what it does inlined.
func TestStockThroughHooksEqualsStock(t *testing.T) {
	var sums [2][]uint64
	for i := range sums {
		o := rigOptions{}
		o.CPUs, o.Regime = 2, sched.Timed
		o.mm.ForceHooks = i == 1
		r, kept, _ := pinned(t, o)
		assert.False(t, kept)
		sums[i] = r.m.Trace().Snapshot()
	}
	for i, n := range sums[0] {
		assert.Equal(t, n, sums[1][i], "%v", trace.Counter(i))
	}
}

// wpPolicy answers WP and WPCopy as told, and counts.
type wpPolicy struct {
	Stock
	wp, wpCopy          []WPNext
	asked, begun, ended int
}

func (*wpPolicy) Hooks() HookSet { return HookWP }

func (p *wpPolicy) WP(f *Fault) WPNext {
	p.asked++
	if len(p.wp) == 0 {
		return f.LockAndReuse()
	}
	n := p.wp[0]
	p.wp = p.wp[1:]
	if n == WPFinished {
		f.Unlock()
	}
	return n
}

func (p *wpPolicy) WPCopy(*Fault) WPNext {
	if len(p.wpCopy) > 0 {
		n := p.wpCopy[0]
		p.wpCopy = p.wpCopy[1:]
		return n
	}
	p.begun++
	return WPCopyPage
}

func (p *wpPolicy) WPDone(*Fault) { p.ended++ }

func TestWriteFaultHooks(t *testing.T) {
	p := &wpPolicy{
		wp:     []WPNext{WPRetry, WPFinished, WPRetry, WPCopyPage, WPCopyPage},
		wpCopy: []WPNext{WPRetry, WPCopyPage},
	}
	o := rigOptions{}
	o.Regime = sched.Timed
	o.mm.Policy = p
	r := boot(t, o)
	r.run(func(u *user) {
		a := u.mmap(1)
		u.store(a, 1)
		done := u.fork(func(c *user) { c.load(a) })
		u.store(a, 2)
		u.wait(done)
		assert.EqualValues(t, 2, u.load(a))
	})
	r.end()
	assert.Equal(t, 5, p.asked)
	assert.Equal(t, p.begun+1, p.ended, "the scripted answer counts too")
	assert.EqualValues(t, 3, r.sum(trace.EmuWPRetry))
	assert.EqualValues(t, 1, r.sum(trace.EmuCOWCopy))
}
