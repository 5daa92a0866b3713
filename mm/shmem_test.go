package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
)

// A tmpfs of so many pages gives SIGBUS for the page after the last one, and gives room
// back when a file is truncated or ends. Its pages are charged as they come.
func TestTmpfsLimit(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		m := u.s.NewShmemMount(3)
		var as *AddressSpace
		u.kernel(func(t2 *sched.Task) {
			var err error
			as, err = u.s.NewShmemFile(t2, m, 10)
			assert.NoError(t, err)
		})
		before := u.s.CommittedPages()
		u.mmap(10, MmapRequest{Addr: at(10), Prot: ProtRead | ProtWrite, Flags: MapShared | MapFixed, File: as.Ops.(*shmem), Mapping: as})
		u.kernel(func(t2 *sched.Task) { as.Get(t2) })
		for i := range uint64(3) {
			u.store(at(10+int(i)), i+1)
		}
		assert.EqualValues(t, 3, u.s.CommittedPages()-before)
		sig, ok := u.tryStore(at(15), 8, 1)
		assert.False(t, ok)
		assert.Equal(t, unix.SIGBUS, sig.Signo)
		assert.EqualValues(t, 3, u.s.CommittedPages()-before, "a refusal charges nothing")
		assert.NoError(t, u.tryMunmap(at(10), 10*pg))
		u.kernel(func(t2 *sched.Task) { ShmemTruncate(t2, as, 1) })
		u.kernel(func(t2 *sched.Task) { assert.EqualValues(t, 2, m.FreePages(t2)) })
		assert.EqualValues(t, 1, u.s.CommittedPages()-before)
		u.kernel(func(t2 *sched.Task) { as.Put(t2); as.Put(t2) })
		u.kernel(func(t2 *sched.Task) { assert.EqualValues(t, 3, m.FreePages(t2)) })
	})
	r.end()
}
