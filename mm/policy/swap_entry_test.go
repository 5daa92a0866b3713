package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// pinnedFork pins a page for a device to write to, has reclaim unmap it if pageout is set,
// forks, stores to another byte of the page, and lets the device write. It returns what
// parent and child find in the device's byte.
func pinnedFork(t *testing.T, p mm.Policy, pageout bool) (parent, child uint8, out *kernel.Outcome) {
	t.Helper()
	m, err := kernel.Boot(kernel.Options{
		CPUs: 1, Memory: 1 << 20, Regime: sched.Timed, Policy: p, NoStack: true,
		Disks: []kernel.Disk{{Name: "swap", Size: 256 << 10, Swap: true}},
	})
	require.NoError(t, err)
	t.Cleanup(m.Shutdown)
	out = m.Run(func(th *kernel.Thread) {
		assert.NoError(t, th.Swapon("/dev/swap", 0))
		a := th.MustMmap(x86.PageSize)
		th.Store8(a, 1)
		r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Write: true, Fast: true})
		if !assert.NoError(t, err) {
			return
		}
		for range 3 {
			if pageout {
				assert.NoError(t, th.Madvise(a, x86.PageSize, mm.MadvPageout))
			}
		}
		pid, err := th.Fork(func(c *kernel.Thread) {
			c.Nanosleep(10_000_000)
			child = c.Load8(a + 100)
		})
		assert.NoError(t, err)
		th.Store8(a+1, 2)
		assert.NoError(t, th.DeviceWrite(r, 100, []byte{42}))
		assert.NoError(t, th.UnregisterMemory(r))
		parent = th.Load8(a + 100)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
	})
	require.Equal(t, sched.Quiet, out.Reason, out.Detail)
	return parent, child, out
}

// TestForkOfTheSwapEntryOfAPinnedPage pins that neither pg_gup nor pg_dontcow sees a
// pinned page which reclaim has unmapped. It waits in the swap cache, marked; the pte is an
// entry of swap, which copy_one_pte copies before the patches' tests. The parent's next
// store finds two users of the entry and copies, and the device writes to a page that only
// the child will see. In pg_dontcow its own VM_BUG_ON fires at that store.
func TestForkOfTheSwapEntryOfAPinnedPage(t *testing.T) {
	for _, p := range []mm.Policy{policy.PGGUP{}, policy.PGDontCOW{}} {
		parent, child, out := pinnedFork(t, p, false /* pageout */)
		assert.Equal(t, []uint8{42, 0}, []uint8{parent, child}, "%s: without swap the fix works", p.Name())
		assert.Empty(t, out.Bugs, p.Name())

		parent, child, out = pinnedFork(t, p, true /* pageout */)
		assert.Equal(t, []uint8{0, 42}, []uint8{parent, child}, "%s: through swap the read is lost", p.Name())
		if p.Name() == "pg_dontcow" {
			if assert.NotEmpty(t, out.Bugs) {
				assert.Contains(t, out.Bugs[0].Msg, "VM_BUG_ON: do_wp_page does not reuse")
			}
		} else {
			assert.Empty(t, out.Bugs)
		}
	}
	parent, _, _ := pinnedFork(t, policy.Stock{}, false /* pageout */)
	assert.Zero(t, parent, "stock loses it either way")
}
