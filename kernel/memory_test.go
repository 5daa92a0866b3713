package kernel

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

func TestOutOfMemoryInAFaultKills(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		o.Memory = 1 << 20
		m := boot(t, o)
		out := m.Run(func(th *Thread) {
			pid, err := th.Fork(func(c *Thread) {
				a, err := c.Mmap(0, 4<<20, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous|mm.MapNoReserve, -1, 0)
				if !assert.NoError(t, err) {
					return
				}
				for i := uint64(0); i < 4<<20; i += 4096 {
					c.Store64(a+i, i)
				}
				t.Error("more memory than there is")
			})
			require.NoError(t, err)
			_, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, KilledBy(SIGKILL), st)
			a := th.MustMmap(4096)
			th.Store64(a, 1)
		})
		require.NoError(t, out.Err())
		require.Len(t, out.Victims, 1)
		assert.Equal(t, 2, out.Victims[0].PID)
		assert.Greater(t, out.Victims[0].Pages, uint64(50))
		assert.EqualValues(t, 1, m.Trace().Sum(trace.EmuOOMKills))
		atRest(t, m)
	})
}

func TestOutOfMemoryInFork(t *testing.T) {
	for nth := 1; nth <= 8; nth++ {
		regimes(t, 2, func(t *testing.T, o Options) {
			m := boot(t, o)
			failed := false
			out := m.Run(func(th *Thread) {
				a := th.MustMmap(64 << 10)
				for i := uint64(0); i < 64<<10; i += 4096 {
					th.Store64(a+i, i)
				}
				m.Pages().FailAt("", nth)
				pid, err := th.Fork(func(c *Thread) { assert.Equal(t, uint64(4096), c.Load64(a+4096)) })
				m.Pages().FailAt("", 0)
				if err != nil {
					failed = true
					assert.ErrorIs(t, err, unix.ENOMEM)
					_, _, err = th.Wait(-1)
					assert.ErrorIs(t, err, unix.ECHILD)
				} else {
					_, _, err = th.Wait(pid)
					assert.NoError(t, err)
				}
				for i := uint64(0); i < 64<<10; i += 4096 {
					assert.Equal(t, i, th.Load64(a+i))
					th.Store64(a+i, 1)
				}
			})
			require.NoError(t, out.Result.Err())
			if nth < 4 {
				assert.True(t, failed)
			}
			atRest(t, m)
		})
	}
}

func TestTooLittleMemoryForInit(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Memory: 1 << 20, Regime: sched.Timed})
	m.Pages().FailAt("pgd_alloc", 1)
	out := m.Run(func(*Thread) { t.Error("it ran") })
	require.NoError(t, out.Result.Err())
	assert.Equal(t, KilledBy(SIGKILL), out.Exits[0].Status)
	assert.Len(t, out.Victims, 1)
}

func TestMemorySystemCalls(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			_, err := th.Mmap(0, 0, 3, mm.MapPrivate|mm.MapAnonymous, -1, 0)
			assert.ErrorIs(t, err, unix.EINVAL)
			_, err = th.Mmap(0, 4096, 3, mm.MapPrivate, 5, 0)
			assert.ErrorIs(t, err, unix.EBADF)
			a := th.MustMmap(3 * 4096)
			th.Fill(a, 3*4096, 9)
			assert.NoError(t, th.Madvise(a, 4096, mm.MadvDontNeed))
			assert.Zero(t, th.Load8(a))
			assert.Equal(t, uint8(9), th.Load8(a+4096))
			assert.ErrorIs(t, th.Madvise(a+1, 4096, mm.MadvDontNeed), unix.EINVAL)
			assert.NoError(t, th.Munmap(a+4096, 4096))
			assert.ErrorIs(t, th.Mprotect(a, 3*4096, mm.ProtRead), unix.ENOMEM)
			vec, err := th.Mincore(a, 4096)
			assert.NoError(t, err)
			assert.Equal(t, []byte{1}, vec)
			_, err = th.Mremap(a, 4096, 4096, 8, 0)
			assert.ErrorIs(t, err, unix.EINVAL)
			at, err := th.Mremap(a, 4096, 8192, 0, 0)
			assert.NoError(t, err)
			assert.Equal(t, a, at)
			start := th.Brk(0)
			assert.Equal(t, uint64(heapStart), start)
			old, err := th.Sbrk(10000)
			assert.NoError(t, err)
			assert.Equal(t, start, old)
			th.Fill(start, 10000, 1)
			assert.Equal(t, start, th.Brk(start))
			_, err = th.TryLoad8(start)
			assert.Error(t, err)
			_, err = th.Sbrk(1 << 46)
			assert.ErrorIs(t, err, unix.ENOMEM)
			sp := uint64(x86.TaskSize) - 100
			th.Store64(sp-200000, 5) // grows the stack
			assert.Equal(t, uint64(5), th.Load64(sp-200000))
		})
	})
}

func TestMustMmapAborts(t *testing.T) {
	m := boot(t, Options{CPUs: 1})
	out := m.Run(func(th *Thread) { th.MustMmap(1 << 60); t.Error("alive") })
	require.NoError(t, out.Result.Err())
	assert.Equal(t, KilledBy(SIGABRT), out.Exits[0].Status)
	assert.ErrorContains(t, out.Err(), "killed by SIGABRT")
}

func TestClockAndCompute(t *testing.T) {
	for _, r := range []sched.Regime{sched.Parallel, sched.Timed} {
		run(t, Options{CPUs: 2, Regime: r}, func(th *Thread) {
			a := th.ClockGettime()
			th.Compute(1_000_000)
			b := th.ClockGettime()
			assert.GreaterOrEqual(t, b-a, uint64(1_000_000))
			assert.NoError(t, th.Nanosleep(5_000_000))
			assert.GreaterOrEqual(t, th.ClockGettime()-b, uint64(4_999_000))
			th.Compute(0)
			th.Yield()
		})
	}
}

func TestTimedRunsAreEqual(t *testing.T) {
	one := func() (uint64, uint64, []uint64) {
		m, out := run(t, Options{CPUs: 3, Regime: sched.Timed, Events: true}, func(th *Thread) {
			a := th.MustMmap(64 << 10)
			th.Fill(a, 64<<10, 1)
			mu := Mutex{Addr: a}
			th.Store32(a, 0)
			for range 3 {
				_, _ = th.Fork(func(c *Thread) { c.Fill(a+4096, 20<<10, 2); c.Usleep(3) })
			}
			w := th.Go("w", func(w *Thread) {
				for range 50 {
					mu.Lock(w)
					w.Add32(a+8, 1)
					mu.Unlock(w)
				}
			})
			for range 50 {
				mu.Lock(th)
				th.Add32(a+8, 1)
				mu.Unlock(th)
			}
			_ = th.Join(w)
			for range 3 {
				_, _, _ = th.Wait(-1)
			}
		})
		return out.NS, out.Steps, m.Trace().Snapshot()
	}
	ns, steps, sum := one()
	for range 3 {
		ns2, steps2, sum2 := one()
		assert.Equal(t, ns, ns2)
		assert.Equal(t, steps, steps2)
		assert.Equal(t, sum, sum2)
	}
}

func TestSnapshot(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: sched.Timed})
	var s *Snapshot
	var h [2]uint64
	var addr uint64
	out := m.Run(func(th *Thread) {
		addr = th.MustMmap(8192)
		th.Store64(addr, 1)
		pid, _ := th.Fork(func(c *Thread) { c.Load64(addr); forever(c) })
		th.Usleep(10)
		h[0] = m.StateHash()
		assert.Equal(t, h[0], m.StateHash())
		s = m.Snapshot(s)
		th.Store64(addr, 2)
		h[1] = m.StateHash()
		_ = th.Kill(pid, SIGKILL)
		_, _, _ = th.Wait(pid)
	})
	require.NoError(t, out.Err())
	assert.NotEqual(t, h[0], h[1])
	require.Len(t, s.Spaces, 2)
	e, ok := s.Leaf(1, addr)
	require.True(t, ok)
	assert.False(t, e.Write(), "write-protected by fork")
	p := s.Page(e.PFN())
	require.NotNil(t, p)
	assert.Equal(t, 2, p.MapCount)
	c, ok := s.Leaf(2, addr)
	require.True(t, ok)
	assert.Equal(t, e.PFN(), c.PFN())
	assert.Len(t, s.TLBs, 2)
	_, ok = s.Leaf(3, addr)
	assert.False(t, ok)
	assert.Nil(t, s.Page(0))
}

func TestEventsAndNames(t *testing.T) {
	m, _ := run(t, Options{CPUs: 2, Regime: sched.Timed, Events: true}, func(th *Thread) {
		a := th.MustMmap(4096)
		th.Store64(a, 1)
		_, _ = th.Fork(func(c *Thread) { c.Store64(a, 2) })
		_, _, _ = th.Wait(-1)
	})
	var b strings.Builder
	require.NoError(t, trace.WriteFtrace(&b, m.Trace().Events(), m.View()))
	for _, want := range []string{"init-1", "fork_begin", "cow_copy", "NR 61", "init.2"} {
		assert.Contains(t, b.String(), want)
	}
}

func TestNoAllocationOnTheFastPaths(t *testing.T) {
	m := boot(t, Options{CPUs: 1})
	out := m.Run(func(th *Thread) {
		a := th.MustMmap(1 << 20)
		th.Store64(a, 1)
		assert.Zero(t, testing.AllocsPerRun(100, func() { th.Store64(a, th.Load64(a)+1) }), "load and store")
		next := a + 4096
		assert.Zero(t, testing.AllocsPerRun(100, func() { th.Store8(next, 1); next += 4096 }), "fault")
		assert.Zero(t, testing.AllocsPerRun(100, func() { th.Yield() }), "system call")
		b := make([]byte, 5000)
		assert.Zero(t, testing.AllocsPerRun(100, func() { th.Read(a, b); th.Write(a+100, b) }), "bulk")
	})
	require.NoError(t, out.Err())
}

// A program that asks for a nonlinear mapping is told why it gets none, and goes on.
func TestRemapFilePagesIsRefused(t *testing.T) {
	run(t, Options{CPUs: 1, Regime: sched.Timed}, func(th *Thread) {
		a := th.MustMmapShared(2 << 12)
		th.Store64(a, 7)
		err := th.RemapFilePages(a, 4096, 0, 1, 0)
		assert.ErrorIs(t, err, unix.ENOSYS)
		assert.ErrorContains(t, err, "map each part with MAP_FIXED")
		assert.EqualValues(t, 7, th.Load64(a))
	})
}
