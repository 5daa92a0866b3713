package mm

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// flagPolicy marks the pages that gup-fast takes, and has fork copy them for the
// child: row 2 of POLICIES.md, as far as it concerns small pages. Without recheck
// gup-fast does not look at the pte again once the flag is visible.
type flagPolicy struct {
	Stock
	recheck bool
	backed  *int // references given back because the pte had changed
	copied  *int // pages that fork copied
}

const pageGUP = page.Policy0

func (flagPolicy) Hooks() HookSet { return HookFastTake | HookFollow | HookForkPTE }

func (p flagPolicy) FastTake(f *Fast, ref x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	t, pages := f.T, f.MM.Sys.Pages
	pages.GetAs(t, pg, page.RefPin)
	if !pg.Anon() {
		return true
	}
	if !pages.TestFlag(t, pg, pageGUP) {
		pages.SetFlag(t, pg, pageGUP)
	}
	t.C.Fence()
	// As the patch has it: a walk for reading can never pass.
	if p.recheck && ref.Load(t.C)&(f.Mask|x86.PteSpecial) != f.Mask|x86.PteRW {
		pages.PutAs(t, pg, page.RefPin)
		*p.backed++
		return false
	}
	return true
}

func (flagPolicy) Follow(g *GUP, pte x86.PTE, pg *page.Page) FollowNext {
	if !pg.Anon() {
		return FollowTake
	}
	if !pte.Write() {
		g.Foll |= FollWrite
		return FollowFault
	}
	if pages := g.MM.Sys.Pages; !pages.TestFlag(g.T, pg, pageGUP) {
		pages.SetFlag(g.T, pg, pageGUP)
	}
	return FollowTake
}

func (p flagPolicy) ForkPTE(f *Fork) ForkNext {
	t, s := f.T, f.Src.Sys
	pg := s.NormalPage(f.SrcVMA, f.PTE)
	if !f.SrcVMA.Flags.IsCOW() || !f.PTE.Write() || pg == nil || !pg.Anon() {
		return f.CopyOnePTE()
	}
	f.SrcPTE.SetWrprotect(t.C)
	f.AddMapping(pg)
	t.C.Fence()
	force := false
	if s.Pages.TestFlag(t, pg, pageGUP) {
		if !s.Pages.TrylockPage(t, pg) {
			force = true
		} else {
			cached := 0
			if pg.Has(page.SwapCache) {
				cached = 1
			}
			force = s.Pages.Refs(t, pg) != s.Pages.MapRefs(t, pg)+cached
			s.Pages.UnlockPage(t, pg)
		}
	}
	if !force {
		f.DstPTE.Set(t.C, f.PTE.WrProtect().MkOld())
		return ForkGo
	}
	s.FlushTLBPage(t, f.SrcVMA, f.Addr)
	f.Page = pg
	return ForkStop
}

func (p flagPolicy) ForkBreak(f *Fork) ForkNext {
	next := f.CopyToChild("fork_pre_cow")
	f.DropMapping(f.Page)
	f.SrcPTE.Set(f.T.C, f.SrcPTE.Load(f.T.C).MkWrite())
	f.Unlock()
	if next == ForkGo {
		*p.copied++
	}
	return next
}

// switchAt runs CPU 0 until the given step and CPU 1 from then on, the other one
// where the first cannot: all schedules with one preemption, one for each step.
type switchAt struct{ step uint64 }

func (switchAt) Begin(int) {}

func (s switchAt) Pick(ch *sched.Choice) int {
	want := 0
	if ch.Step >= s.step {
		want = 1
	}
	for i := range ch.Enabled {
		if ch.Enabled[i].CPU == want {
			return i
		}
	}
	return 0
}

// lostRead has one thread read from a device into a page while another forks and
// then stores to another part of the page. It reports whether the reader does not
// find what the device has written, and at which step it had its page.
func lostRead(t *testing.T, o pinOptions, delay uint64, check bool) (lost bool, pinned uint64) {
	const marker = 0x1122334455667788
	o.cpus, o.regime = 2, sched.Free
	r := newPinRig(t, o)
	var checker *stepChecker
	if check {
		checker = &stepChecker{r: r, every: 1}
		r.m.SetObserver(checker)
	}
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, 0)
		r.store(k, addr, 1)
		r.s.Pages.LRUAddDrain(k) // a pagevec's reference looks like a pin
		stored := false
		mm.MMGet(k)
		r.start(k, "forker", 1, mm, func(k *sched.Task) {
			child, err := r.s.DupMM(k, mm)
			if err != nil {
				k.Oops("fork: %v", err)
			}
			_ = store(k, addr+2048, 3)
			stored = true
			k.C.Point(x86.OpYield, 0)
			child.MMPut(k)
		})
		for range delay {
			k.C.Point(x86.OpYield, 0)
		}
		var pages [1]*page.Page
		n, err := GetUserPagesFast(k, addr, 1, true, PinGet, pages[:])
		require.NoError(t, err)
		require.Equal(t, 1, n)
		pinned = r.m.Steps()
		until(k, func() bool { return stored }) // the device is slow
		var data [8]byte
		binary.LittleEndian.PutUint64(data[:], marker)
		r.s.Mem.DMAWrite(r.s.Pages.PFN(pages[0]), 0, data[:])
		r.s.PutUserPages(k, pages[:], PinGet)
		lost = r.load(k, addr) != marker
	})
	if check {
		require.Empty(t, checker.errs)
	}
	return lost, pinned
}

// The race this project is about, before any file system exists. Stock loses reads;
// marking pages and copying them at fork is not enough, because gup-fast takes its
// reference after fork has looked; looking at the pte once more is.
func TestForkAgainstGUPFast(t *testing.T) {
	var backed, copied int
	flag := flagPolicy{backed: &backed, copied: &copied}
	recheck := flag
	recheck.recheck = true
	sweep := func(pol Policy) (lost, schedules int) {
		for step := uint64(0); ; step++ {
			l, pinned := lostRead(t, pinOptions{choose: switchAt{step}, policy: pol}, 0, step%8 == 0)
			if schedules++; l {
				lost++
			}
			if step > pinned {
				return lost, schedules
			}
		}
	}
	stock, n := sweep(Stock{})
	t.Logf("stock: %d of %d schedules with one preemption lose the read", stock, n)
	require.Positive(t, stock)

	without, n := sweep(flag)
	t.Logf("flag, no re-check: %d of %d, %d pages copied", without, n, copied)
	require.Positive(t, without, "the window between gup-fast's look and its reference")
	require.Positive(t, copied)
	require.Zero(t, backed)

	with, n := sweep(recheck)
	t.Logf("flag and re-check: %d of %d, %d pins backed out", with, n, backed)
	require.Zero(t, with)
	require.Positive(t, backed)

	seeds := uint64(300)
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		if lost, _ := lostRead(t, pinOptions{seed: seed, policy: recheck}, seed%200, seed%32 == 0); lost {
			t.Errorf("seed %d: read lost with re-check", seed)
		}
	}
}
