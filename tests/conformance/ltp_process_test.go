package conformance

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// fork and vfork, pipes and splicing, futexes, other processes' memory.
var ltpProcess = []ltpCase{
	{"vmsplice01: memory to a pipe to a file", func(t *testing.T, th *kernel.Thread) {
		const n = 16 * 1024
		a, b := mapped(t, th, 4, rw, private), mapped(t, th, 4, rw, private)
		for i := range uint64(n / 8) {
			th.Store64(a+i*8, i)
		}
		r, w, err := th.Pipe()
		require.NoError(t, err)
		fd, err := th.Open("/dev/vda", fs.ORdwr)
		require.NoError(t, err)
		for done := 0; done < n; {
			k, err := th.Vmsplice(w, a+uint64(done), n-done, 0)
			require.NoError(t, err)
			got, err := th.Splice(r, fd, k, 0)
			require.NoError(t, err)
			assert.Equal(t, k, got)
			done += k
		}
		_, err = th.Pread(fd, b, n, 0)
		assert.NoError(t, err)
		assert.Equal(t, th.Bytes(a, n), th.Bytes(b, n))
	}},
	{"vmsplice02: errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		_, w, err := th.Pipe()
		require.NoError(t, err)
		fd, err := th.Open("/dev/vda", fs.ORdwr)
		require.NoError(t, err)
		_, err = th.Vmsplice(99, a, 128, 0)
		assert.ErrorIs(t, err, unix.EBADF)
		_, err = th.Vmsplice(fd, a, 128, 0)
		assert.ErrorIs(t, err, unix.EBADF, "not a pipe")
		_, err = th.Vmsplicev(w, make([]kernel.IOVec, 1025), 0)
		assert.ErrorIs(t, err, unix.EINVAL)
		n, err := th.Vmsplicev(w, nil, 0)
		assert.NoError(t, err)
		assert.Zero(t, n)
	}},
	{"vmsplice03: a pipe to memory", func(t *testing.T, th *kernel.Thread) {
		a, b := mapped(t, th, 2, rw, private), mapped(t, th, 2, rw, private)
		th.Fill(a, 2*pg, 0x42)
		r, w, err := th.Pipe()
		require.NoError(t, err)
		_, err = th.WriteFD(w, a, pg+10)
		require.NoError(t, err)
		n, err := th.Vmsplice(r, b, pg+10, 0)
		assert.NoError(t, err)
		assert.Equal(t, pg+10, n)
		assert.Equal(t, th.Bytes(a, pg+10), th.Bytes(b, pg+10))
	}},
	{"vmsplice04: a full pipe, NONBLOCK", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 16, rw, private)
		r, w, err := th.Pipe()
		require.NoError(t, err)
		n, err := th.Vmsplice(w, a, 16*pg, fs.SpliceNonblock)
		assert.NoError(t, err)
		assert.Equal(t, 16*pg, n)
		_, err = th.Vmsplice(w, a, pg, fs.SpliceNonblock)
		assert.ErrorIs(t, err, unix.EAGAIN)
		pid, err := th.Fork(func(c *kernel.Thread) {
			k, err := c.Vmsplice(w, a, pg, 0) // waits
			assert.NoError(t, err)
			assert.Equal(t, pg, k)
		})
		require.NoError(t, err)
		_, err = th.ReadFD(r, a, pg)
		assert.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
	}},
	{"fork01, vfork01: the child's memory, and the parent's", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		th.Store64(a, 1)
		pid, err := th.Fork(func(c *kernel.Thread) { c.Store64(a, 2); c.Exit(7) })
		require.NoError(t, err)
		got, st, err := th.Wait(pid)
		assert.NoError(t, err)
		assert.Equal(t, pid, got)
		assert.Equal(t, 7, st.ExitCode())
		assert.EqualValues(t, 1, th.Load64(a))
		pid, err = th.Vfork(func(c *kernel.Thread) { c.Store64(a, 3); c.Exit(0) })
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
		assert.EqualValues(t, 3, th.Load64(a))
	}},
	{"fork07, fork10: descriptors are inherited, with one position", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		fd, err := th.Open("/dev/vda", fs.ORdwr)
		require.NoError(t, err)
		th.Fill(a, 512, 'a')
		_, err = th.Pwrite(fd, a, 512, 512)
		require.NoError(t, err)
		children(t, th, 1, func(c *kernel.Thread, _ int) {
			if n, err := c.ReadFD(fd, a, 512); err != nil || n != 512 || c.Load8(a) != 0 {
				c.Exit(1)
			}
		})
		n, err := th.ReadFD(fd, a+1024, 512)
		assert.NoError(t, err)
		assert.Equal(t, 512, n)
		assert.EqualValues(t, 'a', th.Load8(a+1024), "the child has read what came before")
	}},
	{"fork08: a child's close is the child's", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		fd, err := th.Open("/dev/vda", fs.ORdonly)
		require.NoError(t, err)
		children(t, th, 1, func(c *kernel.Thread, _ int) {
			if c.Close(fd) != nil {
				c.Exit(1)
			}
			if _, err := c.Pread(fd, a, 512, 0); err != unix.EBADF {
				c.Exit(2)
			}
		})
		_, err = th.Pread(fd, a, 512, 0)
		assert.NoError(t, err)
	}},
	{"fork14: more than 16 TiB of mappings", func(t *testing.T, th *kernel.Thread) {
		const huge = 17 << 40
		a, err := th.Mmap(0, huge, rw, private|mm.MapNoReserve, -1, 0)
		require.NoError(t, err)
		th.Store8(a, 1)
		th.Store8(a+huge-1, 2)
		children(t, th, 1, func(c *kernel.Thread, _ int) {
			if c.Load8(a) != 1 || c.Load8(a+huge-1) != 2 {
				c.Exit(1)
			}
			c.Store8(a+huge/2, 3)
		})
		assert.Zero(t, th.Load8(a+huge/2))
	}},
	{"fork03, fork_procs: many children", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 2, rw, private)
		th.Store64(a, 42)
		children(t, th, 12, func(c *kernel.Thread, i int) {
			c.Compute(1000)
			c.Store64(a+8, uint64(i))
			if c.Load64(a) != 42 || c.Load64(a+8) != uint64(i) {
				c.Exit(1)
			}
		})
		assert.Zero(t, th.Load64(a+8))
	}},
	{"process_vm01: errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		b := make([]byte, 8)
		_, err := th.ProcessVMReadv(4711, a, b)
		errno(t, unix.ESRCH, err)
		_, err = th.ProcessVMWritev(4711, a, b)
		errno(t, unix.ESRCH, err)
		gone, err := th.Fork(func(*kernel.Thread) {})
		require.NoError(t, err)
		_, _, err = th.Wait(gone)
		require.NoError(t, err)
		_, err = th.ProcessVMReadv(gone, a, b)
		errno(t, unix.ESRCH, err)
		require.NoError(t, th.Munmap(a, pg))
		_, err = th.ProcessVMReadv(th.Getpid(), a, b)
		errno(t, unix.EFAULT, err)
	}},
	{"process_vm_readv02, process_vm_readv03, process_vm_writev02: a child's memory, pages of it and over a hole", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		w := mapped(t, th, 1, rw, shared)
		pid, err := th.Fork(func(c *kernel.Thread) {
			c.Fill(a, 3*pg, 5)
			if c.Munmap(a+3*pg, pg) != nil {
				c.Exit(1)
			}
			c.Store32(w, 1)
			_, _ = c.FutexWake(w, 1, kernel.FutexShared)
			for c.Load32(w+4) == 0 {
				_ = c.FutexWait(w+4, 0, 0, kernel.FutexShared)
			}
			if c.Load8(a+pg-1) != 9 || c.Load8(a+pg) != 9 || c.Load8(a) != 5 {
				c.Exit(2)
			}
		})
		require.NoError(t, err)
		for th.Load32(w) == 0 {
			_ = th.FutexWait(w, 0, 0, kernel.FutexShared)
		}
		b := make([]byte, 4*pg)
		n, err := th.ProcessVMReadv(pid, a+100, b)
		assert.NoError(t, err)
		assert.Equal(t, 3*pg-100, n, "up to the hole")
		assert.Equal(t, bytes.Repeat([]byte{5}, n), b[:n])
		n, err = th.ProcessVMWritev(pid, a+pg-1, []byte{9, 9})
		assert.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.Zero(t, th.Load8(a+pg), "and not the writer's own")
		th.Store32(w+4, 1)
		_, _ = th.FutexWake(w+4, 1, kernel.FutexShared)
		_, st, err := th.Wait(pid)
		assert.NoError(t, err)
		assert.Equal(t, kernel.Exited(0), st)
	}},
	{"futex_wait01, futex_wait05: another value, and a time that passes", func(t *testing.T, th *kernel.Thread) {
		for _, f := range []kernel.FutexFlags{0, kernel.FutexShared} {
			a := mapped(t, th, 1, rw, private)
			th.Store32(a, 1)
			errno(t, unix.EAGAIN, th.FutexWait(a, 2, 0, f))
			before := th.ClockGettime()
			errno(t, unix.ETIMEDOUT, th.FutexWait(a, 1, 5000, f))
			if th.Machine().Options().Regime != sched.Free { // where time is nothing
				assert.GreaterOrEqual(t, th.ClockGettime(), before+5000)
			}
		}
	}},
	{"futex_wait02, futex_wake03: processes that wait in shared memory", func(t *testing.T, th *kernel.Thread) {
		w := mapped(t, th, 1, rw, shared)
		const n = 5
		for range n {
			_, err := th.Fork(func(c *kernel.Thread) {
				c.Add32(w+4, 1)
				for c.Load32(w) == 0 {
					_ = c.FutexWait(w, 0, 0, kernel.FutexShared)
				}
			})
			require.NoError(t, err)
		}
		for th.Load32(w+4) < n {
			th.Usleep(1)
		}
		th.Store32(w, 1)
		woken, err := th.FutexWake(w, 1<<30, kernel.FutexShared)
		assert.NoError(t, err)
		assert.LessOrEqual(t, woken, n)
		for range n {
			_, st, err := th.Wait(-1)
			assert.NoError(t, err)
			assert.Equal(t, kernel.Exited(0), st)
		}
		woken, err = th.FutexWake(w, 1<<30, kernel.FutexShared)
		assert.NoError(t, err)
		assert.Zero(t, woken)
	}},
	{"futex_wait03, futex_wake02: threads that wait in private memory", func(t *testing.T, th *kernel.Thread) {
		w := mapped(t, th, 1, rw, private)
		const n = 6
		woken := uint64(0)
		go1 := th.Go("waker", func(k *kernel.Thread) {
			for k.Load32(w+4) < n {
				k.Usleep(1)
			}
			k.Store32(w, 1)
			for k.Load32(w+8) < n { // who was not asleep yet sees the store
				c, err := k.FutexWake(w, 1, 0)
				assert.NoError(t, err)
				assert.LessOrEqual(t, c, 1)
				woken += uint64(c)
				k.Usleep(1)
			}
		})
		threads(t, th, n, func(k *kernel.Thread, _ int) {
			k.Add32(w+4, 1)
			for k.Load32(w) == 0 {
				_ = k.FutexWait(w, 0, 0, 0)
			}
			k.Add32(w+8, 1)
		})
		require.NoError(t, th.Join(go1))
		assert.LessOrEqual(t, woken, uint64(n))
	}},
	{"futex_wait04: untouched memory holds zero", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		errno(t, unix.EAGAIN, th.FutexWait(a, 1, 0, 0))
		// A shared futex on memory that holds the zero page never returns in 2.6.29
		// (get_futex_key tries again for ever), so it has to be touched.
		b := mapped(t, th, 1, rw, private)
		th.Store32(b, 0)
		errno(t, unix.EAGAIN, th.FutexWait(b, 1, 0, kernel.FutexShared))
	}},
	{"futex_wake01: nobody waits", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		th.Store32(a, 0) // see futex_wait04
		for _, f := range []kernel.FutexFlags{0, kernel.FutexShared} {
			n, err := th.FutexWake(a, 1<<30, f)
			assert.NoError(t, err)
			assert.Zero(t, n)
		}
	}},
}
