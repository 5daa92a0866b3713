package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// A writer of more than the pipe holds and a reader with another rhythm.
func TestPipeBetweenProcesses(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		want := content(100_000)
		run(t, o, func(th *Thread) {
			r, w, err := th.Pipe()
			require.NoError(t, err)
			a, b := th.MustMmap(100_000), th.MustMmap(100_000)
			pid, err := th.Fork(func(c *Thread) {
				assert.NoError(t, c.Close(r))
				c.Write(a, want)
				for done, part := 0, 1; done < len(want); part = part*7%9001 + 1 {
					n, err := c.WriteFD(w, a+uint64(done), min(part, len(want)-done))
					if err != nil {
						assert.NoError(t, err)
						return
					}
					done += n
				}
			})
			require.NoError(t, err)
			assert.NoError(t, th.Close(w))
			got := 0
			for part := 1; ; part = part*5%7001 + 1 {
				n, err := th.ReadFD(r, b+uint64(got), min(part, len(want)-got+1))
				if n == 0 || err != nil {
					assert.NoError(t, err)
					break
				}
				got += n
			}
			assert.Equal(t, len(want), got)
			assert.Equal(t, want, th.Bytes(b, got))
			_, _, err = th.Wait(pid)
			assert.NoError(t, err)
		})
	})
}

func TestPipeErrors(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o Options) {
		run(t, withDisk(o), func(th *Thread) {
			a := th.MustMmap(20 * 4096)
			r, w, err := th.Pipe2(fs.ONonblock)
			require.NoError(t, err)
			is := func(want error, n int, err error) {
				t.Helper()
				assert.ErrorIs(t, err, want)
				assert.Zero(t, n)
			}
			n, err := th.ReadFD(r, a, 1)
			is(unix.EAGAIN, n, err)
			n, err = th.ReadFD(w, a, 1)
			is(unix.EBADF, n, err)
			n, err = th.WriteFD(r, a, 1)
			is(unix.EBADF, n, err)
			n, err = th.Pread(r, a, 1, 0)
			is(unix.ESPIPE, n, err)
			n, err = th.Pwrite(w, a, 1, -1)
			is(unix.EINVAL, n, err)
			_, err = th.Lseek(r, 0, fs.SeekSet)
			assert.ErrorIs(t, err, unix.ESPIPE)
			n, err = th.WriteFD(w, 0x1000, 1)
			is(unix.EFAULT, n, err)
			n, err = th.WriteFD(w, a, 20*4096)
			assert.NoError(t, err)
			assert.Equal(t, fs.PipeBuffers*4096, n)
			n, err = th.WriteFD(w, a, 1)
			is(unix.EAGAIN, n, err)
			n, err = th.Vmsplice(w, a, 4096, fs.SpliceNonblock)
			is(unix.EAGAIN, n, err)
			n, err = th.ReadFD(r, 0x1000, 10)
			is(unix.EFAULT, n, err)
			n, err = th.ReadFD(r, a, 20*4096)
			assert.NoError(t, err)
			assert.Equal(t, fs.PipeBuffers*4096, n)
			n, err = th.Vmsplice(w, a+1, 4096, fs.SpliceGift)
			is(unix.EINVAL, n, err)
			n, err = th.Vmsplice(w, 0x1000, 4096, 0)
			is(unix.EFAULT, n, err)
			disk, err := th.Open("/dev/vda", fs.ORdwr)
			require.NoError(t, err)
			n, err = th.Vmsplice(disk, a, 4096, 0)
			is(unix.EBADF, n, err)
			n, err = th.Splice(disk, w, 10, 0)
			is(unix.EINVAL, n, err)
			_, _, err = th.Pipe2(fs.OAppend)
			assert.ErrorIs(t, err, unix.EINVAL)
			n, err = th.WriteFD(w, a, 10)
			assert.NoError(t, err)
			assert.Equal(t, 10, n)
			assert.NoError(t, th.Close(w))
			n, err = th.ReadFD(r, a, 100)
			assert.NoError(t, err)
			assert.Equal(t, 10, n)
			n, err = th.ReadFD(r, a, 100)
			assert.NoError(t, err)
			assert.Zero(t, n)
		})
	})
}

func TestPipeBroken(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			r, w, err := th.Pipe()
			require.NoError(t, err)
			a := th.MustMmap(4096)
			assert.NoError(t, th.Close(r))
			pid, err := th.Fork(func(c *Thread) {
				_, _ = c.WriteFD(w, a, 1)
				c.Exit(3)
			})
			require.NoError(t, err)
			_, st, err := th.Wait(pid)
			assert.NoError(t, err)
			assert.Equal(t, SIGPIPE, st.Signal())
			assert.NoError(t, th.SigIgnore(SIGPIPE))
			_, err = th.WriteFD(w, a, 1)
			assert.ErrorIs(t, err, unix.EPIPE)
			_, err = th.Vmsplice(w, a, 4096, 0)
			assert.ErrorIs(t, err, unix.EPIPE)
		})
	})
}

// What is read is what the page holds then, and the reference goes with the reading.
func TestVmsplice(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m, _ := run(t, withDisk(o), func(th *Thread) {
			r, w, err := th.Pipe()
			require.NoError(t, err)
			a, b := th.MustMmap(20*4096), th.MustMmap(20*4096)
			th.Fill(a, 20*4096, 1)
			n, err := th.Vmsplice(w, a+100, 4096, 0)
			assert.NoError(t, err)
			assert.Equal(t, 4096, n)
			th.Fill(a, 4096, 2)
			n, err = th.ReadFD(r, b, 8192)
			assert.NoError(t, err)
			assert.Equal(t, 4096, n)
			assert.EqualValues(t, 2, th.Load8(b))
			assert.EqualValues(t, 2, th.Load8(b+3995))
			assert.EqualValues(t, 1, th.Load8(b+3996))
			n, err = th.Vmsplice(w, a, 20*4096, 0)
			assert.NoError(t, err)
			assert.Equal(t, fs.PipeBuffers*4096, n)
			assert.NoError(t, th.Munmap(a, 20*4096))
			n, err = th.Vmsplice(r, b, 4096, 0)
			assert.NoError(t, err)
			assert.Equal(t, 4096, n)
			assert.EqualValues(t, 2, th.Load8(b+4095))
			disk, err := th.Open("/dev/vda", fs.ORdwr)
			require.NoError(t, err)
			n, err = th.Splice(r, disk, 10_000, 0)
			assert.NoError(t, err)
			assert.Equal(t, 10_000, n)
			n, err = th.Pread(disk, b, 10_001, 0)
			assert.NoError(t, err)
			assert.Equal(t, 10_001, n)
			assert.EqualValues(t, 1, th.Load8(b+9999))
			assert.EqualValues(t, 0, th.Load8(b+10_000))
			// the rest goes with the pipe
		})
		assert.EqualValues(t, 2+16, m.Trace().Sum(trace.EmuVmsplicePages))
	})
}

// Two that wait for each other are reported, with the pipe.
func TestPipeDeadlock(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Regime: sched.Timed})
	out := m.Run(func(th *Thread) {
		r, _, err := th.Pipe()
		require.NoError(t, err)
		_, _ = th.ReadFD(r, th.MustMmap(4096), 1)
	})
	assert.Equal(t, sched.Deadlock, out.Reason)
	assert.Contains(t, out.Detail, "pipe:[1], 0 of 16 buffers, 1 readers, 1 writers")
}

// A writer that waits for room in the pipe, killed there, leaves nothing behind.
func TestKilledInPipe(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			_, w, err := th.Pipe()
			require.NoError(t, err)
			a := th.MustMmap(32 * 4096)
			pid, err := th.Fork(func(c *Thread) {
				_, _ = c.Vmsplice(w, a, 16*4096, 0)
				_, _ = c.Vmsplice(w, a, 16*4096, 0)
				assert.Fail(t, "there was room")
			})
			require.NoError(t, err)
			th.Usleep(1000)
			assert.NoError(t, th.Kill(pid, SIGKILL))
			_, _, err = th.Wait(pid)
			assert.NoError(t, err)
		})
	})
}

func TestPtrace(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m, _ := run(t, o, func(th *Thread) {
			a := th.MustMmap(3 * 4096)
			word := th.MustMmapShared(4096)
			th.Store64(a, 7)
			th.Store64(a+4096, 8)
			assert.NoError(t, th.Mprotect(a+4096, 4096, mm.ProtRead))
			pid, err := th.Fork(func(c *Thread) {
				for c.Load32(word) == 0 {
					_ = c.FutexWait(word, 0, 0, FutexShared)
				}
				assert.EqualValues(t, 70, c.Load64(a))
				assert.EqualValues(t, 80, c.Load64(a+4096))
				_, err := c.TryLoad8(a + 8192)
				assert.NoError(t, err)
			})
			require.NoError(t, err)
			v, err := th.PtracePeek(pid, a)
			assert.NoError(t, err)
			assert.EqualValues(t, 7, v)
			v, err = th.PtracePeek(pid, a+4092)
			assert.NoError(t, err)
			assert.EqualValues(t, uint64(8)<<32, v)
			assert.NoError(t, th.PtracePoke(pid, a, 70))
			assert.NoError(t, th.PtracePoke(pid, a+4096, 80), "force")
			buf := make([]byte, 4096)
			n, err := th.ProcessVMReadv(pid, a+3*4096-100, buf)
			assert.NoError(t, err)
			assert.GreaterOrEqual(t, n, 100)
			_, err = th.ProcessVMWritev(pid, a+4096, buf[:8])
			assert.ErrorIs(t, err, unix.EFAULT, "no force")
			_, err = th.PtracePeek(pid, 0x1000)
			assert.ErrorIs(t, err, unix.EIO)
			_, err = th.PtracePeek(999, a)
			assert.ErrorIs(t, err, unix.ESRCH)
			th.Store32(word, 1)
			_, _ = th.FutexWake(word, 1, FutexShared)
			_, _, err = th.Wait(pid)
			assert.NoError(t, err)
			assert.EqualValues(t, 7, th.Load64(a), "the parent's own")
			_, err = th.PtracePeek(pid, a)
			assert.ErrorIs(t, err, unix.ESRCH)
		})
		assert.Positive(t, m.Trace().Sum(trace.EmuAccessVMPages))
	})
}

func TestRegisterMemory(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4 * 4096)
			for _, ro := range []RegisterOptions{{}, {Write: true}, {Fast: true}, {Write: true, Fast: true}, {Umem: true}, {Umem: true, Write: true}} {
				th.Fill(a, 4*4096, 3)
				reg, err := th.RegisterMemory(a+100, 9000, ro)
				require.NoError(t, err)
				assert.Len(t, reg.Pages(), 3)
				assert.NoError(t, th.DeviceWrite(reg, 4000, []byte{1, 2, 4}))
				assert.Equal(t, []byte{3, 1, 2, 4, 3}, th.Bytes(a+4099, 5))
				var b [5]byte
				assert.NoError(t, th.DeviceRead(reg, 3999, b[:]))
				assert.Equal(t, []byte{3, 1, 2, 4, 3}, b[:])
				assert.ErrorIs(t, th.DeviceRead(reg, 8998, b[:]), unix.EINVAL)
				assert.NoError(t, th.UnregisterMemory(reg))
				assert.ErrorIs(t, th.UnregisterMemory(reg), unix.EINVAL)
				assert.NoError(t, th.Munmap(a+4096, 4096))
				_, err = th.RegisterMemory(a, 3*4096, ro)
				assert.ErrorIs(t, err, unix.EFAULT)
				_, err = th.Mmap(a+4096, 4096, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous|mm.MapFixed, -1, 0)
				assert.NoError(t, err)
			}
			_, err := th.RegisterMemory(a, 0, RegisterOptions{})
			assert.ErrorIs(t, err, unix.EINVAL)
		})
	})
}
