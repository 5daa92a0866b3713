package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// TestDecowOutlivesItsMapping: row 10's variable decow is set by the first COW mapping of a
// look-up and never cleared (8852, 8871), so that a shared mapping behind it, which the process may only
// read, is un-COWed too: do_wp_page copies the file's page, and the mapping is shared no more.
// Rows 4 and 5 set theirs for each mapping.
func TestDecowOutlivesItsMapping(t *testing.T) {
	for name, want := range map[string]byte{"stock": 2, "directio_sem": 1, "pg_dontcow": 2, "pg_dontcow_v2": 2, "gup_cow_break": 2} {
		_, out := run(t, name, slowDisk(), func(th *kernel.Thread) {
			f := th.MustMmapShared(pg)
			th.Store8(f, 1)
			buf := th.MustMmap(2 * pg)
			th.Store8(buf, 1)
			_, err := th.Mremap(f, 0, pg, mm.MremapMayMove|mm.MremapFixed, buf+pg)
			require.NoError(t, err)
			require.NoError(t, th.Mprotect(buf+pg, pg, mm.ProtRead))
			_ = th.Load8(buf + pg)
			// Read-only since the fork, so that gup-fast leaves both pages to the slow way.
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
			require.NoError(t, err)
			n, err := th.Pwrite(fd, buf, 2*pg, 0)
			require.NoError(t, err)
			require.Equal(t, 2*pg, n)
			th.Store8(f, 2)
			assert.Equal(t, want, th.Load8(buf+pg), name)
		})
		require.NoError(t, out.Err(), name)
	}
}
