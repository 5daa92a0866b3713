package kernel

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// A driver's pin and a device that writes through it, without a fork: what claim C15 is
// about.
type swapPin struct {
	m  *Machine
	th *Thread
	p  *page.Page
}

func pinForWrite(t *testing.T, m *Machine, th *Thread, addr uint64) *swapPin {
	d := &swapPin{m: m, th: th}
	require.NoError(t, th.Kernel(func(task *sched.Task) error {
		var pages [1]*page.Page
		n, err := mm.GetUserPagesFast(task, addr, 1, true, mm.PinGet, pages[:])
		require.Equal(t, 1, n)
		d.p = pages[0]
		return err
	}))
	return d
}

// dma stores a byte as the device would.
func (d *swapPin) dma(off uint64, b byte) {
	d.m.mem.DMAWrite(d.m.pages.PFN(d.p), off, []byte{b})
}

// end is the completion of a read: the page is dirty now, and let go of.
func (d *swapPin) end(t *testing.T, dirty bool) {
	require.NoError(t, d.th.Kernel(func(task *sched.Task) error {
		if dirty {
			d.m.sys.SetPageDirtyLock(task, d.p)
		}
		d.m.sys.PutUserPage(task, d.p, mm.PinGet)
		return nil
	}))
}

// pageoutTries reclaims a page until its entry is one of swap, and reports whether it
// became one.
func pageoutTries(th *Thread, m *Machine, addr uint64) bool {
	for range 4 {
		if th.Madvise(addr, 4096, mm.MadvPageout) != nil {
			return false
		}
		if m.sys.PeekPTEOf(th.p.space.ID, addr).IsSwap() {
			return true
		}
	}
	return false
}

// Reclaim unmaps a pinned page, but neither writes it nor frees it; the next touch finds
// the same page, in whatever way it touches, and the device and the process go on seeing
// each other's stores (LINUX.md 4.7).
func TestPinnedPageIsUnmappedAndStaysCoherent(t *testing.T) {
	for _, readFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("readFirst=%v", readFirst), func(t *testing.T) {
			swapRegimes(t, 2, 5, func(t *testing.T, o Options) {
				run(t, small(o), func(th *Thread) {
					m := th.m
					require.NoError(t, th.Swapon(swapDev, 0))
					a := th.MustMmap(4096)
					th.Store8(a, 1)
					pin := pinForWrite(t, m, th, a)
					require.True(t, pageoutTries(th, m, a))
					assert.Zero(t, m.trace.Sum(trace.PSwpOut), "it is not written")
					assert.True(t, pin.p.Has(page.SwapCache))
					for range 3 {
						require.NoError(t, th.Madvise(a, 4096, mm.MadvPageout))
					}
					pin.dma(100, 42)
					if readFirst {
						require.Equal(t, uint8(1), th.Load8(a))
					}
					th.Store8(a+1, 2)
					pin.dma(101, 43)
					assert.Equal(t, uint8(42), th.Load8(a+100))
					assert.Equal(t, uint8(43), th.Load8(a+101))
					assert.Equal(t, m.pages.PFN(pin.p), m.sys.PeekPTEOf(th.p.space.ID, a).PFN(), "the same page")
					pin.end(t, true)
				})
			})
		})
	}
}

// pageCount is the rule of row 7: a write fault reuses only what has no reference but its
// mapping.
type pageCount struct{ mm.Stock }

func (pageCount) Name() string      { return "page_count" }
func (pageCount) Hooks() mm.HookSet { return mm.HookWP }
func (pageCount) WP(f *mm.Fault) mm.WPNext {
	if f.MM.Sys.Pages.Refs(f.T, f.Page) != 1 {
		return mm.WPCopyPage
	}
	return f.LockAndReuse()
}

// With page_count in do_wp_page swap alone, without a fork, loses what a device reads: the
// page comes back read-only for a load, and the store after it copies (claim C15). A store
// that comes first maps the page writable in do_swap_page, and nothing is lost.
func TestPageCountLosesAReadThroughSwap(t *testing.T) {
	for _, readFirst := range []bool{false, true} {
		o := small(Options{CPUs: 1, Regime: sched.Timed, Policy: pageCount{}})
		run(t, o, func(th *Thread) {
			m := th.m
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(4096)
			th.Store8(a, 1)
			pin := pinForWrite(t, m, th, a)
			require.True(t, pageoutTries(th, m, a))
			if readFirst {
				th.Load8(a)
			}
			th.Store8(a+1, 2)
			pin.dma(100, 42)
			if readFirst {
				assert.Zero(t, th.Load8(a+100), "the read is lost")
			} else {
				assert.Equal(t, uint8(42), th.Load8(a+100))
			}
			pin.end(t, true)
		})
	}
}

// What a device wrote is kept through swap-out and swap-in only because the end of the
// transfer marks the page dirty: the pte that says so may be gone by then (claim C18).
func TestDMAIsKeptThroughSwapByDirtying(t *testing.T) {
	for _, dirty := range []bool{true, false} {
		run(t, small(Options{CPUs: 1, Regime: sched.Timed}), func(th *Thread) {
			m := th.m
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(4096)
			th.Store8(a, 1)
			for range 2 { // out and in: clean, in the swap cache
				require.True(t, pageoutTries(th, m, a))
				th.Nanosleep(1_000_000)
				require.Equal(t, uint8(1), th.Load8(a))
			}
			p := m.pages.Page(m.sys.PeekPTEOf(th.p.space.ID, a).PFN())
			if !p.Has(page.SwapCache) || p.Has(page.Dirty) {
				t.Fatalf("want a clean page of the swap cache, have %s", page.FlagNames(p.Flags.Peek()))
			}
			// A driver that takes the page for reading and writes it all the same, as
			// one whose pte lost its dirty bit would look.
			d := &swapPin{m: m, th: th, p: p}
			require.NoError(t, th.Kernel(func(task *sched.Task) error {
				m.pages.GetAs(task, p, page.RefPin)
				return nil
			}))
			d.dma(100, 42)
			d.end(t, dirty)
			require.True(t, pageoutTries(th, m, a))
			th.Nanosleep(1_000_000)
			_ = th.Kernel(func(task *sched.Task) error { m.pages.Reclaim(task, page.GFPKernel, 0); return nil })
			if dirty {
				assert.Equal(t, uint8(42), th.Load8(a+100))
			} else {
				assert.Zero(t, th.Load8(a+100), "the write is lost: the clean page was dropped")
			}
		})
	}
}
