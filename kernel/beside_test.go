package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// What two tasks may do at the same time without a common lock must not meet in a Go variable. The
// race detector is the judge of all of these tests; without it they say little.

// beside runs fn on a machine in the parallel regime. The ledger is off: its lock, which every
// reference passes, would put in order what the machine's own locks do not.
func beside(t *testing.T, o Options, fn func(*Thread)) {
	t.Helper()
	m := boot(t, o)
	m.Pages().UseLedger(false)
	require.NoError(t, m.Run(fn).Err())
	atRest(t, m)
}

// Fork copies what belongs to the process without its mmap_sem, while a thread changes it.
func forkBeside(t *testing.T, change func(c *Thread, i uint64)) {
	t.Helper()
	beside(t, Options{CPUs: 2}, func(th *Thread) {
		other := th.Go("other", func(c *Thread) {
			for i := range uint64(300) {
				change(c, i)
			}
		})
		for range 30 {
			pid, err := th.Fork(func(*Thread) {})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		}
		require.NoError(t, th.Join(other))
	})
}

func TestForkBesideSetrlimit(t *testing.T) {
	forkBeside(t, func(c *Thread, i uint64) { assert.NoError(t, c.Setrlimit(RlimitAS, 1<<40+i, mm.RlimInfinity)) })
}

func TestForkBesideBrk(t *testing.T) {
	forkBeside(t, func(c *Thread, i uint64) { c.Brk(heapStart + i) })
}

// The threads of a child of vfork end at the same time.
func TestVforkOfThreads(t *testing.T) {
	beside(t, Options{CPUs: 3}, func(th *Thread) {
		for range 100 {
			pid, err := th.Vfork(func(c *Thread) {
				for range 2 {
					c.Go("sibling", func(*Thread) {})
				}
				c.ExitThread()
			})
			require.NoError(t, err)
			_, status, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, Exited(0), status)
		}
	})
}

// mlock asks whether it may before it takes mmap_sem, under which setrlimit writes.
func TestMlockBesideSetrlimit(t *testing.T) {
	beside(t, Options{CPUs: 2}, func(th *Thread) {
		th.MM().Limits.Unprivileged = true
		a := th.MustMmap(x86.PageSize)
		other := th.Go("setrlimit", func(c *Thread) {
			for i := range uint64(300) {
				assert.NoError(t, c.Setrlimit(RlimitMemlock, 1<<20+i, mm.RlimInfinity))
			}
		})
		for range 300 {
			require.NoError(t, th.Mlock(a, x86.PageSize))
		}
		require.NoError(t, th.Mlockall(mm.MCLFuture))
		require.NoError(t, th.Join(other))
	})
}

// Who unlocks a page looks for others that have it locked, and they may be ending.
func TestMunlockBesideExit(t *testing.T) {
	const pages = 16
	beside(t, Options{CPUs: 2}, func(th *Thread) {
		a := th.MustMmap(pages << x86.PageShift)
		th.Fill(a, pages<<x86.PageShift, 1)
		require.NoError(t, th.Mprotect(a, pages<<x86.PageShift, mm.ProtRead))
		for range 20 {
			require.NoError(t, th.Mlock(a, pages<<x86.PageShift))
			pid, err := th.Fork(func(c *Thread) {
				assert.NoError(t, c.Mlock(a, pages<<x86.PageShift))
			})
			require.NoError(t, err)
			for done := 0; done == 0; {
				require.NoError(t, th.Munlock(a, pages<<x86.PageShift))
				require.NoError(t, th.Mlock(a, pages<<x86.PageShift))
				done, _, err = th.Wait4(pid, WNOHANG)
				require.NoError(t, err)
			}
			require.NoError(t, th.Munlock(a, pages<<x86.PageShift))
		}
	})
}

// The owner of a page gives others a copy by way of rmap, without their mmap_sem.
func TestDirectedCOWBesideMprotect(t *testing.T) {
	const pages = 16
	beside(t, Options{CPUs: 2, Policy: policy.DirectedCOW{}}, func(th *Thread) {
		a := th.MustMmap(pages << x86.PageShift)
		for round := range uint64(10) {
			for i := range uint64(pages) {
				th.Store64(a+i<<x86.PageShift, round)
			}
			pid, err := th.Fork(func(c *Thread) {
				for i := range 60 {
					assert.NoError(t, c.Mprotect(a, pages<<x86.PageShift, []mm.Prot{mm.ProtRead, protRW}[i%2]))
				}
			})
			require.NoError(t, err)
			for i := range uint64(pages) {
				th.Store64(a+i<<x86.PageShift, round+1)
				th.Usleep(1)
			}
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		}
	})
}

// The owner of a private mapping takes a page away from its child, because the pool is empty, while
// somebody truncates the file: then the page has gone from the owner too, and the store comes again.
func TestUnmapRefPrivateBesideTruncate(t *testing.T) {
	const rounds = 20
	beside(t, hugeOptions(Options{CPUs: 3}, 1), func(th *Thread) {
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		for range rounds {
			a, err := th.Mmap(0, hugeSize, protRW, mm.MapPrivate, fd, 0)
			require.NoError(t, err)
			th.Store64(a, 1)
			pid, err := th.Fork(func(c *Thread) { c.Usleep(1_000_000) })
			require.NoError(t, err)
			other := th.Go("truncate", func(c *Thread) {
				assert.NoError(t, c.Ftruncate(fd, 0))
			})
			_ = th.TryStore64(a, 2) // SIGBUS if the file was truncated before
			require.NoError(t, th.Join(other))
			require.NoError(t, th.Kill(pid, SIGKILL))
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			require.NoError(t, th.Munmap(a, hugeSize))
		}
		require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
	})
}

// Fork copies a huge page for the child at once, with the locks dropped, while somebody truncates the file:
// then there is nothing to copy, and nothing to make writable again.
func TestDontCOWBesideTruncate(t *testing.T) {
	const rounds = 8
	beside(t, hugeOptions(Options{CPUs: 3}, 3), func(th *Thread) {
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		for range rounds {
			a, err := th.Mmap(0, hugeSize, protRW, mm.MapPrivate, fd, 0)
			require.NoError(t, err)
			require.NoError(t, th.Madvise(a, hugeSize, mm.MadvDontCOW))
			th.Store64(a, 1)
			other := th.Go("truncate", func(c *Thread) {
				for range 20 {
					assert.NoError(t, c.Ftruncate(fd, 0))
				}
			})
			pid, err := th.Fork(func(*Thread) {})
			require.NoError(t, err)
			require.NoError(t, th.Join(other))
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			require.NoError(t, th.Munmap(a, hugeSize))
		}
		require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
	})
}
