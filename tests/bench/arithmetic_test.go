package bench

import (
	"slices"
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

// counts is what some work cost: the timed regime's counters.
type counts struct{ atomics, fences, copies, ipis uint64 }

func (c counts) minus(d counts) counts {
	return counts{c.atomics - d.atomics, c.fences - d.fences, c.copies - d.copies, c.ipis - d.ipis}
}

// cost runs fn as a system call on one CPU and returns what it cost beyond an empty one.
func cost(t *kernel.Thread, fn func(task *sched.Task)) counts {
	tr := t.Machine().Trace()
	read := func() counts {
		return counts{tr.Sum(trace.EmuAtomics), tr.Sum(trace.EmuFences), tr.Sum(trace.EmuForkCopies), tr.Sum(trace.EmuIPISent)}
	}
	once := func(fn func(task *sched.Task)) counts {
		before := read()
		_ = t.Kernel(func(task *sched.Task) error { fn(task); return nil })
		return read().minus(before)
	}
	empty := once(func(*sched.Task) {})
	return once(fn).minus(empty)
}

// timed runs fn on a machine of one CPU in the timed regime.
func timed(t *testing.T, p mm.Policy, fn func(th *kernel.Thread)) {
	t.Helper()
	m, err := kernel.Boot(kernel.Options{CPUs: 1, Memory: 16 << 20, Regime: sched.Timed, Policy: p, NoStack: true})
	require.NoError(t, err)
	defer m.Shutdown()
	require.NoError(t, m.Run(fn).Err())
}

// TestGUPFastArithmetic checks what 64 small pages cost in gup-fast against the patches,
// worked out by hand:
//
//	get_page                 one locked addition a page, all policies
//	pg_gup, first pin        one locked bit more (SetPageGUP) and one barrier a page
//	pg_gup, second pin       the bit is set already: one barrier a page
//	pg_dontcow, first pin    the pages are not marked: nothing is taken the fast way
//	pg_dontcow, later        one look at a flag more, which is neither locked nor a barrier
//	directio_sem             nothing but the mask
func TestGUPFastArithmetic(t *testing.T) {
	const n = 64
	for _, c := range []struct {
		policy        string
		first, second counts
		slow          bool // the first pin goes the slow way
	}{
		{policy: "stock", first: counts{atomics: n}, second: counts{atomics: n}},
		{policy: "pg_gup", first: counts{atomics: 2 * n, fences: n}, second: counts{atomics: n, fences: n}},
		{policy: "pg_dontcow", slow: true, second: counts{atomics: n}},
		{policy: "directio_sem", first: counts{atomics: n}, second: counts{atomics: n}},
	} {
		t.Run(c.policy, func(t *testing.T) {
			timed(t, policy.Lookup(c.policy), func(th *kernel.Thread) {
				buf := th.MustMmap(n * x86.PageSize)
				th.Fill(buf, n*x86.PageSize, 1)
				pages := make([]*page.Page, n)
				pin := func(task *sched.Task) {
					got, err := mm.GetUserPagesFast(task, buf, n, true /* write */, mm.PinGet, pages)
					assert.Equal(t, n, got)
					assert.NoError(t, err)
				}
				unpin := func(task *sched.Task) { th.MM().Sys.PutUserPages(task, pages, mm.PinGet) }
				slow := th.Machine().Trace().Sum(trace.EmuGUPSlowPages)
				first := cost(th, pin)
				slow = th.Machine().Trace().Sum(trace.EmuGUPSlowPages) - slow
				cost(th, unpin)
				second := cost(th, pin)
				cost(th, unpin)
				if c.slow {
					assert.EqualValues(t, n, slow)
					assert.Greater(t, first.atomics, uint64(2*n), "the slow way takes locks")
				} else {
					assert.Zero(t, slow)
					assert.Equal(t, c.first, first)
				}
				assert.Equal(t, c.second, second)
			})
		})
	}
}

// TestForkArithmetic checks what fork pays for 256 touched pages, 16 of them pinned: the
// pages copied for the child, and pg_gup's barrier for each writable anonymous pte, pinned
// or not; one more for each pte that is gone through again because its copy had to let go
// of the locks would show here too, and there is none.
func TestForkArithmetic(t *testing.T) {
	const n, pinned = 256, 16
	for _, c := range []struct {
		policy         string
		copies, fences uint64
	}{
		{"stock", 0, 0},
		{"pg_gup", pinned, n},
		{"pg_dontcow", pinned, 0},
		{"directio_sem", 0, 0},
	} {
		t.Run(c.policy, func(t *testing.T) {
			timed(t, policy.Lookup(c.policy), func(th *kernel.Thread) {
				buf := th.MustMmap(n * x86.PageSize)
				th.Fill(buf, n*x86.PageSize, 1)
				fork := func(task *sched.Task) {
					child, err := th.MM().Sys.DupMM(task, th.MM())
					if assert.NoError(t, err) {
						child.MMPut(task)
					}
				}
				none := cost(th, fork)
				assert.Zero(t, none.copies)
				assert.Equal(t, c.fences, none.fences)
				// The parent's ptes are read-only now: make them writable again.
				th.Fill(buf, n*x86.PageSize, 2)
				pages := make([]*page.Page, pinned)
				_ = th.Kernel(func(task *sched.Task) error {
					_, err := mm.GetUserPagesFast(task, buf, pinned, true /* write */, mm.PinGet, pages)
					return err
				})
				some := cost(th, fork)
				assert.Equal(t, c.copies, some.copies)
				assert.Equal(t, c.fences, some.fences)
				_ = th.Kernel(func(task *sched.Task) error {
					th.MM().Sys.PutUserPages(task, pages, mm.PinGet)
					return nil
				})
			})
		})
	}
}

// TestHugeRequestArithmetic checks what one request of 64 small pages inside a huge page costs
// in gup-fast, worked out by hand. Stock adds all references at once, by one locked
// addition. pg_gup's patch goes through them one by one: a get_page, a barrier and another
// look at the entry each, and once for the page's life a locked bit for the mark.
func TestHugeRequestArithmetic(t *testing.T) {
	const n = 64
	for _, c := range []struct {
		policy        string
		first, second counts
	}{
		{"stock", counts{atomics: 1}, counts{atomics: 1}},
		{"pg_gup", counts{atomics: n + 1, fences: n}, counts{atomics: n, fences: n}},
	} {
		t.Run(c.policy, func(t *testing.T) {
			m, err := kernel.Boot(kernel.Options{CPUs: 1, Memory: 16 << 20, HugePages: 2, Regime: sched.Timed, Policy: policy.Lookup(c.policy), NoStack: true})
			require.NoError(t, err)
			defer m.Shutdown()
			require.NoError(t, m.Run(func(th *kernel.Thread) {
				buf := th.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
				th.Store64(buf, 1)
				pages := make([]*page.Page, n)
				pin := func(task *sched.Task) {
					got, err := mm.GetUserPagesFast(task, buf+8*x86.PageSize, n, true /* write */, mm.PinGet, pages)
					assert.Equal(t, n, got)
					assert.NoError(t, err)
				}
				for _, want := range []counts{c.first, c.second} {
					assert.Equal(t, want, cost(th, pin))
					_ = th.Kernel(func(task *sched.Task) error {
						sys := th.MM().Sys
						head := sys.Pages.Head(pages[0])
						refs := sys.Pages.Refs(task, head)
						sys.PutUserPages(task, pages, mm.PinGet)
						assert.Equal(t, n, refs-sys.Pages.Refs(task, head), "references")
						return nil
					})
				}
			}).Err())
		})
	}
}

// TestForkWriteProtectsOnce checks that each written page is write-protected, and counted,
// once by fork, under every policy.
func TestForkWriteProtectsOnce(t *testing.T) {
	const n = 64
	for _, p := range policy.All() {
		timed(t, p, func(th *kernel.Thread) {
			buf := th.MustMmap(n * x86.PageSize)
			th.Fill(buf, n*x86.PageSize, 1)
			_ = th.Kernel(func(task *sched.Task) error {
				sys, tr := th.MM().Sys, th.Machine().Trace()
				sys.Pages.LRUAddDrain(task) // for the policies that go by references
				before := tr.Sum(trace.EmuForkWrprotect)
				child, err := sys.DupMM(task, th.MM())
				if assert.NoError(t, err) {
					child.MMPut(task)
				}
				assert.EqualValues(t, n, tr.Sum(trace.EmuForkWrprotect)-before, p.Name())
				return nil
			})
		})
	}
}

// TestForkWaitsForDirectIO checks what the policies with a lock until direct I/O is complete
// make of fork: with an asynchronous read in flight whose device takes a millisecond, fork
// takes at least as long, and under the other policies less.
func TestForkWaitsForDirectIO(t *testing.T) {
	latency := map[string]uint64{}
	for _, p := range policy.All() {
		latency[p.Name()] = forkLatency(t, p)
	}
	waits := []string{"directio_sem", "fork_lock", "kosaki_v3"}
	for name, ns := range latency {
		if slices.Contains(waits, name) {
			assert.Greater(t, ns, uint64(900_000), name)
		} else {
			assert.Less(t, ns, uint64(500_000), name)
		}
	}
}
