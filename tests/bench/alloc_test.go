package bench

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
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
	for _, p := range policy.All() {
		t.Run(p.Name(), func(t *testing.T) {
			l := testLab(t, p)
			require.NoError(t, l.uni.run(func(th *kernel.Thread) {
				const runs, pages = 50, 2048
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
