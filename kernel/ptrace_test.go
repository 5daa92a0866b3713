package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/mm"
)

// A poke into a shared mapping that is read-only is seen by its process alone, as it is with a
// private one: get_user_pages has do_wp_page copy, which asks for VM_WRITE with VM_SHARED. Only
// where the file was opened for reading is it refused.
func TestPokeIntoASharedReadOnlyMapping(t *testing.T) {
	run(t, timedHuge(4), func(th *Thread) {
		a, word := th.MustMmapShared(4096), th.MustMmapShared(4096)
		th.Store64(a, 5)
		pid, err := th.Fork(func(c *Thread) {
			assert.NoError(t, c.Mprotect(a, 4096, mm.ProtRead))
			c.Store32(word, 1)
			for c.Load32(word) == 1 {
				c.Usleep(10)
			}
			assert.EqualValues(t, 6, c.Load64(a))
		})
		require.NoError(t, err)
		for th.Load32(word) == 0 {
			th.Usleep(10)
		}
		assert.NoError(t, th.PtracePoke(pid, a, 6))
		assert.EqualValues(t, 5, th.Load64(a))
		th.Store32(word, 2)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)

		const name = fs.HugetlbfsDir + "/f"
		fd, err := th.Open(name, fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		b, err := th.Mmap(0, hugeSize, mm.ProtRead|mm.ProtWrite, mm.MapShared, fd, 0)
		require.NoError(t, err)
		th.Store64(b, 1)
		fd, err = th.Open(name, fs.ORdonly)
		require.NoError(t, err)
		read, err := th.Mmap(0, hugeSize, mm.ProtRead, mm.MapShared, fd, 0)
		require.NoError(t, err)
		assert.ErrorIs(t, th.PtracePoke(th.Getpid(), read, 6), unix.EIO)
		assert.EqualValues(t, 1, th.Load64(read))
		require.NoError(t, th.Unlink(name))
	})
}
