package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// directWrite runs a program that prepares a buffer and writes it to a disk by O_DIRECT.
func directWrite(t *testing.T, name string, pages int, prepare func(th *kernel.Thread, buf uint64)) *kernel.Outcome {
	t.Helper()
	m, err := kernel.Boot(kernel.Options{
		CPUs: 1, Memory: 4 << 20, Regime: sched.Timed, Policy: policy.Lookup(name), StepLimit: 50_000,
		Disks: []kernel.Disk{{Name: "vda", Size: 1 << 20}},
	})
	require.NoError(t, err)
	t.Cleanup(m.Shutdown)
	return m.Run(func(th *kernel.Thread) {
		buf := th.MustMmap(uint64(pages) * x86.PageSize)
		prepare(th, buf)
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		if !assert.NoError(t, err) {
			return
		}
		n, err := th.Pwrite(fd, buf, pages*x86.PageSize, 0)
		assert.NoError(t, err)
		assert.Equal(t, pages*x86.PageSize, n)
	})
}

// TestReadPinOfUntouchedMemory pins what three of the patches do to a program that writes
// memory to a disk which it has never touched. get_user_pages offers the zero page for
// it (FOLL_ANON); the patches add FOLL_WRITE for a COW mapping; follow_page has a BUG_ON
// for the two together (Linux 2.6.29 mm/memory.c:follow_page). Stock hands out the zero
// page, and so does pg_gup, which only looks at pages that are present.
func TestReadPinOfUntouchedMemory(t *testing.T) {
	for name, bug := range map[string]bool{
		"stock": false, "pg_gup_v1": false, "pg_gup": false, "vm_dontcow": false, "pg_dontcow_v2": true, "pg_dontcow": true, "directio_sem": true,
	} {
		out := directWrite(t, name, 1, func(*kernel.Thread, uint64) {})
		if bug {
			require.Equal(t, sched.Oopsed, out.Reason, "%s: %s", name, out.Detail)
			assert.Contains(t, out.Oops.Msg, "FOLL_ANON", name)
		} else {
			assert.NoError(t, out.Err(), name)
		}
	}
}

// TestReadPinBehindASharedPage pins the same BUG_ON in pg_gup: its follow_page sets
// FOLL_WRITE in the caller's flags for a read-only page and nobody clears it, so that an
// untouched page behind it in the same request meets both flags.
func TestReadPinBehindASharedPage(t *testing.T) {
	out := directWrite(t, "pg_gup", 2, func(th *kernel.Thread, buf uint64) {
		th.Store64(buf, 1)
		pid, err := th.Fork(func(c *kernel.Thread) { c.Exit(0) })
		assert.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
	})
	require.Equal(t, sched.Oopsed, out.Reason, "%s", out.Detail)
	assert.Contains(t, out.Oops.Msg, "FOLL_ANON")
}

// TestReadPinOfReadOnlyMemory pins that pg_gup never returns from a read pin of an
// anonymous page in a mapping that the process may not write: the write fault cannot make
// the pte writable, __get_user_pages drops FOLL_WRITE, and the patch's follow_page sets it
// again.
func TestReadPinOfReadOnlyMemory(t *testing.T) {
	for name, want := range map[string]sched.Reason{
		"stock": sched.Quiet, "pg_gup": sched.Livelock, "pg_dontcow": sched.Quiet, "directio_sem": sched.Quiet,
		"pg_gup_v1": sched.Quiet, "fork_lock_lookup": sched.Livelock,
	} {
		out := directWrite(t, name, 1, func(th *kernel.Thread, buf uint64) {
			th.Store64(buf, 1)
			assert.NoError(t, th.Mprotect(buf, x86.PageSize, mm.ProtRead))
		})
		assert.Equal(t, want, out.Reason, "%s: %s", name, out.Detail)
	}
}
