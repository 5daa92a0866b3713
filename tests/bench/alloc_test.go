package bench

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
)

// testLab makes machines small enough for the Go heap, where the race detector
// wants them.
func testLab(t *testing.T, p mm.Policy) *lab {
	hosts := kernel.NewHosts()
	l := newLab(hosts, 32<<20, false /* prefault */, p)
	t.Cleanup(func() {
		l.close()
		hosts.Close()
	})
	return l
}

// TestHotPathsAllocateNothing runs on one CPU: testing.AllocsPerRun counts what
// everybody allocates meanwhile.
func TestHotPathsAllocateNothing(t *testing.T) {
	const runs, pages = 200, 2000
	for _, p := range policy.All() {
		t.Run(p.Name(), func(t *testing.T) {
			l := testLab(t, p)
			require.NoError(t, l.uni.run(func(th *kernel.Thread) {
				addr := th.MustMmap(size(pages))
				next := 0
				store := func() {
					th.Store64(addr+size(next), 1)
					next++
				}
				for range 2 * runs { // page tables, pagevecs and the like
					store()
				}
				assert.Zero(t, testing.AllocsPerRun(runs, store), "minor fault")
				assert.Zero(t, testing.AllocsPerRun(runs, func() { th.Load64(addr) }), "load")
				assert.Zero(t, testing.AllocsPerRun(runs, func() { th.Store64(addr, 1) }), "store")

				gate := th.MustMmapShared(pageSize)
				pid, err := th.Fork(func(c *kernel.Thread) { sleepOn(c, gate) })
				require.NoError(t, err)
				next = 0
				for range runs {
					store()
				}
				assert.Zero(t, testing.AllocsPerRun(runs, store), "COW fault, copy")
				release(th, gate)
				wait(th, pid)
				assert.Zero(t, testing.AllocsPerRun(runs/2, store), "COW fault, reuse")

				buf := make([]*page.Page, 16)
				kernelMode(th, func(task *sched.Task) {
					s := mm.SystemOf(task)
					assert.Zero(t, testing.AllocsPerRun(runs, func() {
						n, err := takeFast(task, addr, buf)
						if n != len(buf) || err != nil {
							task.Oops("gup-fast: %d, %v", n, err)
						}
						s.PutUserPages(task, buf, mm.PinGet)
					}), "gup-fast")
				})
			}))
		})
	}
}

// TestForkAllocatesNothingForPages: a fork allocates for the process and its
// mappings, as Linux does from its slabs, but not for pages.
func TestForkAllocatesNothingForPages(t *testing.T) {
	for i, p := range policy.All() {
		if testing.Short() && i%4 != 0 {
			continue
		}
		t.Run(p.Name(), func(t *testing.T) {
			l := testLab(t, p)
			require.NoError(t, l.uni.run(func(th *kernel.Thread) {
				const runs, pages = 50, 600 // more than one page table
				addr := th.MustMmap(size(pages))
				fork := func() {
					pid, err := th.Fork(leave)
					must(err, "fork")
					wait(th, pid)
				}
				touch(th, addr, 16)
				for range 2 * runs { // pools, and pids of three digits: children are named by them
					fork()
				}
				few := testing.AllocsPerRun(runs, fork)
				touch(th, addr, pages)
				fork()
				assert.LessOrEqual(t, testing.AllocsPerRun(runs, fork), few, "%d pages instead of 16", pages)
			}))
		})
	}
}

// TestPressureAllocatesNothingForPages: what swap, mremap, vmsplice, a fault of a huge page
// and a pass of KSM allocate does not grow with the number of pages. A node of the swap
// cache's tree for 64 pages is what Linux takes from a slab as well.
func TestPressureAllocatesNothingForPages(t *testing.T) {
	const runs, few, many = 20, 32, 512
	o := kernel.Options{CPUs: 1, Memory: 24 << 20, HugePages: 4, KSM: true, Disks: []kernel.Disk{{Name: "swap", Size: 8 << 20, Swap: true}}}
	m, err := kernel.Boot(o)
	require.NoError(t, err)
	defer m.Shutdown()
	out := m.Run(func(th *kernel.Thread) {
		must(th.Swapon("/dev/swap", 0), "swapon")
		// grows compares what fn allocates for many pages with what it does for few.
		grows := func(what string, mayFor uint64, fn func(pages uint64) func()) {
			allocs := func(pages uint64) float64 {
				do := fn(pages)
				for range 3 { // pools
					do()
				}
				return testing.AllocsPerRun(runs, do)
			}
			a, b := allocs(few), allocs(many)
			limit := a
			if mayFor > 0 {
				limit += float64((many - few) / mayFor)
			}
			assert.LessOrEqual(t, b, limit, "%s: %v for %d pages, %v for %d", what, a, few, b, many)
		}
		grows("swap", 32, func(pages uint64) func() {
			addr := region(th, int(pages))
			return func() {
				for range 3 { // the first looks at the accessed bits
					must(th.Madvise(addr, pages*pageSize, mm.MadvPageout), "MADV_PAGEOUT")
					_ = th.Nanosleep(1_000_000)
				}
				for i := range pages {
					th.Store8(addr+i*pageSize, 1)
				}
			}
		})
		grows("mremap", 0, func(pages uint64) func() {
			a, to := region(th, int(pages)), th.MustMmap((pages+1)*pageSize)+pageSize
			return func() {
				_, err := th.Mremap(a, pages*pageSize, pages*pageSize, mm.MremapMayMove|mm.MremapFixed, to)
				must(err, "mremap")
				a, to = to, a
			}
		})
		grows("KSM", 0, func(pages uint64) func() {
			addr := th.MustMmap(pages * pageSize)
			must(th.Madvise(addr, pages*pageSize, mm.MadvMergeable), "madvise")
			touch(th, addr, int(pages))
			return func() { must(th.KSMScan(1), "KSMScan") }
		})
		r, w, err := th.Pipe()
		must(err, "pipe")
		from, to := region(th, 16), region(th, 16)
		splice := func(pages int) float64 {
			return testing.AllocsPerRun(runs, func() {
				n, err := th.Vmsplice(w, from, pages*pageSize, 0)
				must(err, "vmsplice")
				_, err = th.ReadFD(r, to, n)
				must(err, "read")
			})
		}
		splice(16)
		assert.LessOrEqual(t, splice(16), splice(1), "vmsplice")

		huge := func(flags mm.MapFlags) func() {
			return func() {
				addr := th.MustMmapHuge(1, mm.HugePage2M, flags)
				th.Store8(addr, 1)
				must(th.Munmap(addr, mm.HugePage2M), "munmap")
			}
		}
		untouched := func() { must(th.Munmap(th.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate), mm.HugePage2M), "munmap") }
		untouched()
		huge(mm.MapPrivate)()
		assert.LessOrEqual(t, testing.AllocsPerRun(runs, huge(mm.MapPrivate)), testing.AllocsPerRun(runs, untouched)+1, "a fault of a huge page: the record of its reservation")
	})
	require.NoError(t, out.Err())
	assert.Greater(t, m.Trace().Sum(trace.PSwpOut), uint64(runs*many/2), "it did not swap")
	assert.Positive(t, m.Trace().Sum(trace.EmuKSMMerges))
}
