package mm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Each rule of __vm_enough_memory at the last page that it allows and at the first that it
// does not. The machine has no swap, 4096 frames, and as many pages in the page cache as
// the row says.
func TestEnoughMemory(t *testing.T) {
	type in struct {
		mode      Overcommit
		ratio     uint64
		user      bool   // without CAP_SYS_ADMIN
		cache     uint64 // NR_FILE_PAGES
		slab      uint64 // NR_SLAB_RECLAIMABLE
		hugetlb   uint64
		totalVM   uint64
		committed uint64
	}
	const frames, anything = 4096, 1 << 50
	for _, c := range []struct {
		name string
		in   in
		most func(free, high uint64) uint64 // the largest number of pages that is allowed
	}{
		{"guess: free above pages_high", in{}, func(free, high uint64) uint64 { return free - high - 1 }},
		{"guess: 3 per cent of it for root", in{user: true},
			func(free, high uint64) uint64 { return free - high - (free-high)/32 - 1 }},
		{"guess: page cache and slabs come on top", in{cache: 100, slab: 20},
			func(free, high uint64) uint64 { return free - high + 120 - 1 }},
		{"guess: 3 per cent of each", in{cache: 100, slab: 28, user: true},
			func(free, high uint64) uint64 { return free - high - (free-high)/32 + 128 - 128/32 - 1 }},
		{"guess: what others were promised is no matter", in{committed: 100_000},
			func(free, high uint64) uint64 { return free - high - 1 }},
		{"always", in{mode: OvercommitAlways, committed: 1 << 40}, func(_, _ uint64) uint64 { return anything }},
		{"never: half of memory, not reached", in{mode: OvercommitNever}, func(_, _ uint64) uint64 { return frames/2 - 1 }},
		{"never: less what is promised", in{mode: OvercommitNever, committed: 100},
			func(_, _ uint64) uint64 { return frames/2 - 101 }},
		{"never: another ratio", in{mode: OvercommitNever, ratio: 80}, func(_, _ uint64) uint64 { return frames*80/100 - 1 }},
		{"never: 3 per cent for root", in{mode: OvercommitNever, user: true},
			func(_, _ uint64) uint64 { return frames/2 - frames/2/32 - 1 }},
		{"never: a 1/32 of the process is held back", in{mode: OvercommitNever, totalVM: 3200},
			func(_, _ uint64) uint64 { return frames/2 - 101 }},
		{"never: huge pages are nobody's", in{mode: OvercommitNever, hugetlb: 1024},
			func(_, _ uint64) uint64 { return (frames-1024)/2 - 1 }},
		{"never: a process larger than all there is wraps, and may have anything",
			in{mode: OvercommitNever, totalVM: 32 * frames}, func(_, _ uint64) uint64 { return anything }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := boot(t, timed())
			r.run(func(u *user) {
				s, tr := u.s, u.t.C.Trace
				s.SetOvercommit(c.in.mode, c.in.ratio)
				if c.in.hugetlb != 0 {
					s.commit.hugetlb = func() uint64 { return c.in.hugetlb }
				}
				u.mm.Limits.Unprivileged = c.in.user
				before := u.mm.TotalVM
				u.mm.TotalVM = c.in.totalVM
				tr.Add(trace.NrFilePages, c.in.cache)
				tr.Add(trace.NrSlabReclaimable, c.in.slab)
				s.commit.pages.Poke(c.in.committed)
				_, _, high := s.Pages.Watermarks()
				most := c.most(s.Pages.FreePages(), high)
				if most < anything {
					assert.Equal(t, unix.ENOMEM, s.vmEnoughMemory(u.mm, most+1), "one page too many")
				}
				assert.Equal(t, c.in.committed, s.CommittedPages(), "a refusal promises nothing")
				assert.NoError(t, s.vmEnoughMemory(u.mm, most))
				assert.Equal(t, c.in.committed+most, s.CommittedPages())
				s.commit.pages.Poke(0)
				tr.Sub(trace.NrFilePages, c.in.cache)
				tr.Sub(trace.NrSlabReclaimable, c.in.slab)
				u.mm.TotalVM = before
			})
			r.end()
		})
	}
}

// What each kind of mapping is charged, and that nothing is left when it is gone. Pages
// are those of the program below, which is the same for each row.
func TestCommitCharges(t *testing.T) {
	const anon, shared = MapAnonymous | MapPrivate, MapAnonymous | MapShared
	rw := ProtRead | ProtWrite
	for _, c := range []struct {
		name string
		mode Overcommit
		req  MmapRequest
		then func(u *user, at uint64)
		want uint64
	}{
		{"private writable", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon}, nil, 10},
		{"private read-only", 0, MmapRequest{Len: 10 * pg, Prot: ProtRead, Flags: anon}, nil, 0},
		{"read-only, made writable in part", 0, MmapRequest{Len: 10 * pg, Prot: ProtRead, Flags: anon},
			func(u *user, at uint64) { u.mprotect(at+2*pg, 3*pg, rw) }, 3},
		{"and read-only again: the charge stays", 0, MmapRequest{Len: 10 * pg, Prot: ProtRead, Flags: anon},
			func(u *user, at uint64) { u.mprotect(at+2*pg, 3*pg, rw); u.mprotect(at+2*pg, 3*pg, ProtRead) }, 3},
		{"noreserve", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon | MapNoReserve}, nil, 0},
		{"noreserve, made writable later", 0, MmapRequest{Len: 10 * pg, Prot: ProtRead, Flags: anon | MapNoReserve},
			func(u *user, at uint64) { u.mprotect(at, 10*pg, rw) }, 0},
		{"noreserve in mode 1", OvercommitAlways, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon | MapNoReserve}, nil, 0},
		{"noreserve in mode 2 is ignored", OvercommitNever, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon | MapNoReserve}, nil, 10},
		{"shared: all of it, at once", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: shared}, nil, 10},
		{"shared read-only too", 0, MmapRequest{Len: 10 * pg, Prot: ProtRead, Flags: shared}, nil, 10},
		{"shared, half unmapped: the object stays", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: shared},
			func(u *user, at uint64) { _ = u.tryMunmap(at, 5*pg) }, 10},
		{"shared noreserve: page by page", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: shared | MapNoReserve},
			func(u *user, at uint64) { u.store(at, 1); u.store(at+3*pg, 1) }, 2},
		{"unmapped in part", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon},
			func(u *user, at uint64) { _ = u.tryMunmap(at+4*pg, 3*pg) }, 7},
		{"replaced by MAP_FIXED", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon},
			func(u *user, at uint64) {
				_, _ = u.tryMmap(MmapRequest{Addr: at, Len: 4 * pg, Prot: ProtRead, Flags: anon | MapFixed}, 0)
			}, 6},
		{"grown by mremap", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon},
			func(u *user, at uint64) {
				u.kernel(func(t *sched.Task) { _, _ = SysMremap(t, u.mm, at, 10*pg, 15*pg, MremapMayMove, 0) })
			}, 15},
		{"shrunk by mremap", 0, MmapRequest{Len: 10 * pg, Prot: rw, Flags: anon},
			func(u *user, at uint64) {
				u.kernel(func(t *sched.Task) { _, _ = SysMremap(t, u.mm, at, 10*pg, 4*pg, 0, 0) })
			}, 4},
		{"a stack grows", 0, MmapRequest{Addr: at(100), Len: 2 * pg, Prot: rw, Flags: anon | MapGrowsDown | MapFixed},
			func(u *user, at uint64) { u.store(at-3*pg, 1) }, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := boot(t, timed())
			r.run(func(u *user) {
				u.s.SetOvercommit(c.mode, 0)
				before := u.s.CommittedPages()
				a, err := u.tryMmap(c.req, 0)
				assert.NoError(t, err)
				if c.then != nil {
					c.then(u, a)
				}
				assert.Equal(t, int64(c.want), int64(u.s.CommittedPages()-before))
				// A child is promised its own copy of what is private, and shares the rest.
				private := c.want
				if c.req.Flags&MapShared != 0 {
					private = 0
				}
				u.kernel(func(t2 *sched.Task) {
					child, err := u.s.DupMM(t2, u.mm)
					assert.NoError(t, err)
					assert.Equal(t, int64(c.want+private), int64(u.s.CommittedPages()-before), "after fork")
					child.MMPut(t2)
				})
				assert.Equal(t, int64(c.want), int64(u.s.CommittedPages()-before), "after the child's end")
			})
			r.end() // nothing is promised to anybody: Leaks says so
		})
	}
}

// What 2.6.29 forgets: growth of a stack that is not charged is charged all the same, and
// never given back (acct_stack_growth).
func TestGrowthOfANoreserveStackStaysCharged(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		_, err := u.tryMmap(MmapRequest{Addr: at(100), Len: pg, Prot: ProtRead | ProtWrite,
			Flags: MapAnonymous | MapPrivate | MapFixed | MapGrowsDown | MapNoReserve}, 0)
		assert.NoError(t, err)
		u.store(at(97), 1)
	})
	assert.EqualValues(t, 3, r.s.CommittedPages())
	r.s.vmUnacctMemory(3)
	r.end()
}

// RLIMIT_MEMLOCK binds who has no CAP_IPC_LOCK, with another error at every door.
func TestMemlockLimit(t *testing.T) {
	lock := func(u *user, a, n uint64) (err error) {
		u.kernel(func(t *sched.Task) { err = SysMlock(t, u.mm, a, n) })
		return err
	}
	lockall := func(u *user, flags int) (err error) {
		u.kernel(func(t *sched.Task) { err = SysMlockall(t, u.mm, flags) })
		return err
	}
	req := MmapRequest{Len: 6 * pg, Prot: ProtRead | ProtWrite, Flags: MapAnonymous | MapPrivate}
	locked := req
	locked.Flags |= MapLocked
	for _, c := range []struct {
		name   string
		limits Limits
		call   func(u *user, a uint64) error
		want   error
	}{
		{"root may lock what it likes", Limits{Memlock: pg}, func(u *user, a uint64) error { return lock(u, a, 6*pg) }, nil},
		{"mlock within", Limits{Memlock: 6 * pg, Unprivileged: true}, func(u *user, a uint64) error { return lock(u, a, 6*pg) }, nil},
		{"mlock beyond", Limits{Memlock: 5 * pg, Unprivileged: true}, func(u *user, a uint64) error { return lock(u, a, 6*pg) }, unix.ENOMEM},
		{"mlock twice counts twice", Limits{Memlock: 8 * pg, Unprivileged: true},
			func(u *user, a uint64) error { assert.NoError(t, lock(u, a, 6*pg)); return lock(u, a, 6*pg) }, unix.ENOMEM},
		{"mlock without any", Limits{Memlock: 1, Unprivileged: true}, func(u *user, a uint64) error { return lock(u, a, pg) }, unix.EPERM},
		{"MAP_LOCKED beyond", Limits{Memlock: 5 * pg, Unprivileged: true},
			func(u *user, _ uint64) error { _, err := u.tryMmap(locked, 0); return err }, unix.EAGAIN},
		{"MAP_LOCKED without any", Limits{Memlock: 1, Unprivileged: true},
			func(u *user, _ uint64) error { _, err := u.tryMmap(locked, 0); return err }, unix.EPERM},
		{"mlockall beyond", Limits{Memlock: 5 * pg, Unprivileged: true}, func(u *user, _ uint64) error { return lockall(u, MCLCurrent) }, unix.ENOMEM},
		{"mlockall of the future is not checked yet", Limits{Memlock: 5 * pg, Unprivileged: true},
			func(u *user, _ uint64) error { return lockall(u, MCLFuture) }, nil},
		{"but the mapping is, with EAGAIN", Limits{Memlock: 5 * pg, Unprivileged: true},
			func(u *user, _ uint64) error {
				assert.NoError(t, lockall(u, MCLFuture))
				_, err := u.tryMmap(req, 0)
				return err
			}, unix.EAGAIN},
		{"mlockall without any", Limits{Memlock: 1, Unprivileged: true}, func(u *user, _ uint64) error { return lockall(u, MCLFuture) }, unix.EPERM},
		{"mremap of locked memory beyond", Limits{Memlock: 8 * pg, Unprivileged: true},
			func(u *user, a uint64) (err error) {
				assert.NoError(t, lock(u, a, 6*pg))
				u.kernel(func(t *sched.Task) { _, err = SysMremap(t, u.mm, a, 6*pg, 9*pg, MremapMayMove, 0) })
				return err
			}, unix.EAGAIN},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := boot(t, timed())
			r.run(func(u *user) {
				a, err := u.tryMmap(req, 0)
				assert.NoError(t, err)
				u.mm.Limits = c.limits
				assert.Equal(t, fmt.Sprint(c.want), fmt.Sprint(c.call(u, a)))
				u.mm.Limits = Limits{}
			})
			r.end()
		})
	}
}

// remap_file_pages says what it cannot do.
func TestRemapFilePagesIsRefused(t *testing.T) {
	err := SysRemapFilePages(nil, nil, 0x1000, 0x2000, 0, 5, 0)
	assert.ErrorIs(t, err, unix.ENOSYS)
	assert.ErrorContains(t, err, "MAP_FIXED")
}
