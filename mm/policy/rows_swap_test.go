package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
)

// A device writes into a page that a process has pinned; reclaim looks at the page, the
// process touches it; nobody forks (thread line 7972).
type pinnedUnderReclaim struct {
	rounds    int  // how often reclaim looks at the page
	loadFirst bool // the process loads from the page before it stores
	cached    bool // the page is in the swap cache, being written, when it is pinned
}

// run reports whether reclaim unmapped the page, and whether the process sees what the
// device wrote.
func (c pinnedUnderReclaim) run(t *testing.T, p mm.Policy) (unmapped, seen bool) {
	t.Helper()
	_, out := runOn(t, p, withSwap(), func(th *kernel.Thread) {
		swapOn(t, th)
		a := th.MustMmap(x86.PageSize)
		th.Store8(a, 1)
		if c.cached {
			pageOut(th, a, 4)
			th.Store8(a, 1)
		}
		d := pinFast(t, th, a, true /* write */)
		if c.cached {
			th.Usleep(1_000_000)
		}
		unmapped = pageOut(th, a, c.rounds)
		if c.loadFirst {
			th.Load8(a)
		}
		th.Store8(a+1, 2)
		d.dma(100, 42)
		seen = th.Load8(a+100) == 42
		d.end()
	})
	require.NoError(t, out.Err())
	return unmapped, seen
}

// TestPinUnderReclaim pins what each row makes of a page that somebody has pinned for
// writing when reclaim comes by. Row 7 loses the read if the process loads before it stores
// (7972); its first form, with the count in reuse_swap_page, loses it in any case; row 8 and
// row 9 keep the pte.
func TestPinUnderReclaim(t *testing.T) {
	const rounds = 6
	for _, c := range []struct {
		policy            string
		unmapped          bool
		load, store       bool // is the device's byte seen, with and without a load before the store
		cached, cachedSee bool // the same for a page that is in the swap cache when it is pinned, with a load
	}{
		{"stock", true, true, true, true, true},
		{"pg_gup", true, true, true, true, true},
		{"wp_page_count", true, false, true, true, false},
		{"wp_page_count_reuse", true, false, false, true, false},
		{"pin_referenced", true, false, true, true, false},
		{"wp_page_count_noswap", false, true, true, false, true},
		{"wp_page_count_noswap_fixed", false, true, true, true, false},
		{"pinned_ptes_before", false, true, true, false, true},
		{"pinned_ptes_after", false, true, true, false, true},
		{"fork_lock", true, false, true, true, false},
	} {
		p := policy.Lookup(c.policy)
		require.NotNil(t, p, c.policy)
		unmapped, seen := pinnedUnderReclaim{rounds: rounds, loadFirst: true}.run(t, p)
		assert.Equal(t, c.unmapped, unmapped, "%s: unmapped", c.policy)
		assert.Equal(t, c.load, seen, "%s: load, store", c.policy)
		_, seen = pinnedUnderReclaim{rounds: rounds}.run(t, p)
		assert.Equal(t, c.store, seen, "%s: store", c.policy)
		unmapped, seen = pinnedUnderReclaim{rounds: rounds, loadFirst: true, cached: true}.run(t, p)
		assert.Equal(t, c.cached, unmapped, "%s: in the swap cache: unmapped", c.policy)
		assert.Equal(t, c.cachedSee, seen, "%s: in the swap cache", c.policy)
	}
}

// TestReclaimMutants takes the deciding line out of rows 8 and 9.
func TestReclaimMutants(t *testing.T) {
	for _, name := range []string{"wp_page_count_noswap_fixed without the test", "pinned_ptes_after without the test", "pinned_ptes_before without the test"} {
		unmapped, seen := pinnedUnderReclaim{rounds: 6, loadFirst: true}.run(t, policy.Mutants[name])
		assert.True(t, unmapped, name)
		assert.False(t, seen, name)
	}
}

// TestPinReferencedGivesOneRound: a pin by gup-fast counts as a use of the page, once; the
// next time reclaim asks, the pin that is still there says nothing.
func TestPinReferencedGivesOneRound(t *testing.T) {
	for name, used := range map[string]int{"wp_page_count": 0, "pin_referenced": 1} {
		_, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(x86.PageSize)
			th.Store8(a, 1)
			referenced := func(p *page.Page) (n int) {
				_ = th.Kernel(func(task *sched.Task) error {
					n = th.MM().Sys.PageReferenced(task, p, false /* locked */)
					return nil
				})
				return n
			}
			d := pinFast(t, th, a, true /* write */)
			referenced(d.p) // the store
			d.end()
			d = pinFast(t, th, a, true /* write */)
			assert.Equal(t, used, referenced(d.p), name)
			assert.Zero(t, referenced(d.p), name)
			d.end()
		})
		assert.NoError(t, out.Err())
	}
}

// TestNoSwapSwapsNothing pins what row 8 does to swap as it is written: no anonymous page
// is ever written out, so a working set that is larger than memory, with as much swap as it
// could want, ends in the OOM killer. As it is meant it swaps.
func TestNoSwapSwapsNothing(t *testing.T) {
	for name, swaps := range map[string]bool{"stock": true, "wp_page_count": true, "wp_page_count_noswap": false, "wp_page_count_noswap_fixed": true} {
		o := withSwap()
		o.StepLimit = 2_000_000
		m, out := run(t, name, o, func(th *kernel.Thread) {
			swapOn(t, th)
			const pages = 320 // of 256 frames
			a := th.MustMmap(pages << x86.PageShift)
			for i := range uint64(pages) {
				th.Store64(a+i<<x86.PageShift, i)
			}
			for i := range uint64(pages) {
				require.Equal(t, i, th.Load64(a+i<<x86.PageShift), "%s: page %d", name, i)
			}
		})
		assert.Equal(t, swaps, sum(m, trace.PSwpOut) > 0, "%s: pages written", name)
		assert.Equal(t, swaps, len(out.Victims) == 0, "%s: %v", name, out.Victims)
	}
}

// TestPinnedPTEsRaceWithGUPFast: when the count is compared before the pte is cleared,
// gup-fast can take its reference in between; the page is unmapped, and a load and a store
// lose the read. When it is compared behind the flush, nothing is lost.
func TestPinnedPTEsRaceWithGUPFast(t *testing.T) {
	skipLongSearch(t)
	const lost = "lost-read"
	for name, want := range map[string]bool{"pinned_ptes_before": true, "pinned_ptes_after": false} {
		seen := searchProgram(t, policy.Lookup(name), withSwap(), 0, func(th *kernel.Thread, begin func(), say func(string)) {
			if th.Swapon("/dev/swap", 0) != nil {
				say("broken")
				return
			}
			a := th.MustMmap(x86.PageSize)
			th.Store8(a, 1)
			begin()
			var d *pin
			other := th.Go("driver", func(th *kernel.Thread) { d = pinFast(t, th, a, true /* write */) })
			_ = th.Madvise(a, x86.PageSize, mm.MadvPageout)
			_ = th.Join(other)
			th.Load8(a)
			th.Store8(a+1, 2)
			d.dma(100, 42)
			if th.Load8(a+100) != 42 {
				say(lost)
			}
			d.th = th
			d.end()
		})
		t.Logf("%s: %v", name, seen)
		assert.Equal(t, want, seen[lost] > 0, name)
		assert.Zero(t, seen["broken"])
	}
}

// TestReclaimInTheMiddleOfFork: between the copy of a marked page's pte and its un-sharing
// in the child nobody holds a ptl. Row 4 does not expect reclaim there: if it unmaps the page
// while it is being copied, the kernel stops. Row 5 tries again.
func TestReclaimInTheMiddleOfFork(t *testing.T) {
	skipLongSearch(t)
	for name, want := range map[string]bool{"pg_dontcow_v2": true, "pg_dontcow": false} {
		seen := searchProgram(t, policy.Lookup(name), withSwap(), 500, func(th *kernel.Thread, begin func(), say func(string)) {
			if th.Swapon("/dev/swap", 0) != nil {
				say("broken")
				return
			}
			s := th.MM().Sys
			a := th.MustMmap(x86.PageSize)
			th.Store8(a, 1)
			r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Write: true})
			if err != nil || th.UnregisterMemory(r) != nil {
				say("broken")
				return
			}
			_ = th.Kernel(func(task *sched.Task) error {
				p := s.Pages.Page(s.PeekPTEOf(th.MM().ID, a).PFN())
				s.Pages.LRUAddDrain(task)
				s.PageReferenced(task, p, false /* locked */)
				s.Pages.IsolateLRU(task, p) // to the inactive list, as if nobody had used it for long
				s.Pages.ClearFlag(task, p, page.Active)
				s.Pages.PutbackLRU(task, p)
				s.Pages.LRUAddDrain(task)
				return nil
			})
			begin()
			other := th.Go("reclaim", func(th *kernel.Thread) {
				_ = th.Kernel(func(task *sched.Task) error { s.DropClean(task); return nil })
			})
			pid, err := th.Fork(func(*kernel.Thread) {})
			if err == nil {
				_, _, _ = th.Wait(pid)
			}
			_ = th.Join(other)
		})
		t.Logf("%s: %v", name, seen)
		assert.Equal(t, want, seen["bug"] > 0, name)
		assert.Zero(t, seen["broken"], name)
	}
}
