package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// TestMlockIsAPin pins what mlock, which in 2.6.29 gets its pages by get_user_pages and with
// mmap_sem held for writing, meets in the rows that do something about every look-up. Row 3
// gives a semaphore back that is not held that way ("caller might hold mmap_sem for write",
// 1364); rows 4 and 5 mark the page, and each fork copies it. In the
// kernels of the later rows mlock takes no references.
func TestMlockIsAPin(t *testing.T) {
	for _, p := range policy.All() {
		name := p.Name()
		reason, copies := sched.Quiet, uint64(0)
		switch name {
		case "vm_dontcow", "vm_dontcow_fixed", "vm_dontcow_amended":
			reason = sched.Oopsed
		case "pg_dontcow", "pg_dontcow_v2":
			copies = 1
		}
		_, out := runOn(t, p, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(2 * pg)
			th.Store8(a, 1)
			th.Store8(a+pg, 1)
			require.NoError(t, th.Mlock(a, pg))
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, copies, th.Machine().Trace().Sum(trace.EmuForkCopies), name)
		})
		assert.Equal(t, reason, out.Reason, "%s: %s", name, out.Detail)
		if reason != sched.Quiet {
			assert.Contains(t, out.Detail, "mmap_sem", name)
		}
	}
}

// TestMlockOfReadOnlyMemory: the endless loop of a read pin of read-only anonymous memory
// (TestReadPinOfReadOnlyMemory) is one of mlock too, and of mlockall, which comes by such
// memory in any process whose relocated data was made read-only.
func TestMlockOfReadOnlyMemory(t *testing.T) {
	for name, want := range map[string]sched.Reason{
		"stock": sched.Quiet, "pg_gup_v1": sched.Quiet, "pg_gup": sched.Livelock, "fork_lock_lookup": sched.Livelock,
		"pg_dontcow": sched.Quiet, "anon_exclusive": sched.Quiet,
	} {
		_, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(pg)
			th.Store8(a, 1)
			require.NoError(t, th.Mprotect(a, pg, mm.ProtRead))
			require.NoError(t, th.Mlockall(mm.MCLCurrent))
		})
		assert.Equal(t, want, out.Reason, "%s: %s", name, out.Detail)
	}
}

// TestMlockPopulates: in the kernels of the later rows mlock takes no references, and so leaves
// read-only memory shared that a read pin un-shares. Rows 4 and 5 un-COW it.
func TestMlockPopulates(t *testing.T) {
	for _, p := range policy.All() {
		name := p.Name()
		if !p.MlockPopulates() && name != "pg_dontcow" && name != "stock" {
			continue
		}
		m, out := runOn(t, p, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(pg)
			th.Store8(a, 1)
			pid, err := th.Fork(func(c *kernel.Thread) { c.Usleep(1000) })
			require.NoError(t, err)
			require.NoError(t, th.Mprotect(a, pg, mm.ProtRead))
			require.NoError(t, th.Mlock(a, pg))
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		})
		require.NoError(t, out.Err(), name)
		assert.Equal(t, name == "pg_dontcow", m.Trace().Sum(trace.EmuCOWCopy) > 0, name)
	}
	assert.True(t, policy.Lookup("dio_pin").MlockPopulates(), "by embedding")
}
