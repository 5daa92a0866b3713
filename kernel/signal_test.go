package kernel

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/mm"
)

func TestSegfaultKills(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		_, out := run(t, o, func(th *Thread) {
			pid, err := th.Fork(func(c *Thread) { c.Load64(0x1000); t.Error("still alive") })
			require.NoError(t, err)
			_, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, KilledBy(SIGSEGV), st)
			assert.Equal(t, SIGSEGV, st.Signal())
			assert.Equal(t, -1, st.ExitCode())
			assert.Equal(t, "killed by SIGSEGV", st.String())
		})
		assert.Len(t, out.Exits, 2)
	})
}

func TestTryFormsReturnTheSignal(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(2 * 4096)
			th.Store64(a, 1)
			require.NoError(t, th.Mprotect(a, 4096, mm.ProtRead))
			require.NoError(t, th.Munmap(a+4096, 4096))
			v, err := th.TryLoad64(a)
			assert.NoError(t, err)
			assert.Equal(t, uint64(1), v)
			var se *SigError
			require.True(t, errors.As(th.TryStore64(a+8, 2), &se))
			assert.Equal(t, SigError{SIGSEGV, SegvAccErr, a + 8}, *se)
			_, err = th.TryLoad8(a + 4096)
			require.True(t, errors.As(err, &se))
			assert.Equal(t, SigError{SIGSEGV, SegvMapErr, a + 4096}, *se)
			b := make([]byte, 100)
			n, err := th.TryRead(a+4096-60, b)
			assert.Equal(t, 60, n)
			require.True(t, errors.As(err, &se))
			assert.Equal(t, a+4096, se.Addr)
			n, err = th.TryWrite(a, b)
			assert.Zero(t, n)
			assert.Error(t, err)
			_, err = th.TryLoad64(1 << 62)
			assert.Error(t, err)
		})
	})
}

func TestSignalHandlerRepairsTheFault(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			require.NoError(t, th.Mprotect(a, 4096, mm.ProtNone))
			calls := 0
			require.NoError(t, th.Sigaction(SIGSEGV, func(h *Thread, i SigInfo) {
				calls++
				assert.Same(t, th, h)
				assert.Equal(t, a+16, i.Addr)
				assert.Equal(t, SegvAccErr, i.Code)
				assert.NoError(t, h.Mprotect(a, 4096, mm.ProtRead|mm.ProtWrite))
			}))
			th.Store64(a+16, 42)
			assert.Equal(t, 1, calls)
			assert.Equal(t, uint64(42), th.Load64(a+16))
		})
	})
}

func TestSignalHandlerSkips(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			calls := 0
			require.NoError(t, th.Sigaction(SIGSEGV, func(h *Thread, i SigInfo) { calls++; i.Skip() }))
			assert.Zero(t, th.Load64(8))
			th.Store8(8, 1)
			assert.Zero(t, th.CAS32(8, 0, 1))
			assert.Equal(t, 3, calls)
			require.NoError(t, th.Sigaction(SIGBUS, func(h *Thread, i SigInfo) {
				assert.Equal(t, BusAdrAln, i.Code)
				i.Skip()
			}))
			a := th.MustMmap(4096)
			th.Xchg32(a+2, 1)
		})
	})
}

func TestSignalHandlerLeavesByPanic(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			type longjmp struct{}
			require.NoError(t, th.Sigaction(SIGSEGV, func(h *Thread, i SigInfo) { panic(longjmp{}) }))
			for range 3 {
				func() {
					defer func() { assert.Equal(t, longjmp{}, recover()) }()
					th.Load64(8)
				}()
			}
			a := th.MustMmap(4096)
			th.Store64(a, 1)
			assert.Equal(t, uint64(1), th.Load64(a))
		})
	})
}

func TestFaultInsideTheHandlerKills(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o Options) {
		m := boot(t, o)
		out := m.Run(func(th *Thread) {
			_ = th.Sigaction(SIGSEGV, func(h *Thread, i SigInfo) { h.Load64(16) })
			th.Load64(8)
		})
		require.NoError(t, out.Result.Err())
		assert.Equal(t, KilledBy(SIGSEGV), out.Exits[0].Status)
		atRest(t, m)
	})
}

func TestKill(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			for _, victim := range []func(c *Thread){
				forever,
				func(c *Thread) {
					a := c.MustMmap(4096)
					for {
						c.Add32(a, 1)
					}
				},
				func(c *Thread) { a := c.MustMmap(4096); _ = c.FutexWait(a, 0, 0, 0) },
				func(c *Thread) {
					w := c.Go("w", forever)
					_ = c.Join(w)
				},
				func(c *Thread) {
					_, _ = c.Fork(func(g *Thread) { g.Usleep(100) })
					_, _, _ = c.Wait(-1)
					for {
						c.Yield()
					}
				},
			} {
				pid, err := th.Fork(victim)
				require.NoError(t, err)
				th.Usleep(5)
				assert.NoError(t, th.Kill(pid, 0))
				assert.NoError(t, th.Kill(pid, SIGKILL))
				_, st, err := th.Wait(pid)
				require.NoError(t, err)
				assert.Equal(t, KilledBy(SIGKILL), st)
				assert.ErrorIs(t, th.Kill(pid, SIGKILL), unix.ESRCH)
			}
			assert.ErrorIs(t, th.Kill(0, SIGKILL), unix.EINVAL)
			assert.ErrorIs(t, th.Kill(1, 99), unix.EINVAL)
			assert.ErrorIs(t, th.Kill(1, SIGSTOP), unix.EINVAL)
			assert.ErrorIs(t, th.Sigaction(SIGKILL, nil), unix.EINVAL)
		})
	})
}

func TestAsynchronousSignalsAndBlocking(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			sh := th.MustMmapShared(4096)
			bar := Barrier{Addr: sh, N: 2, Shared: true}
			pid, err := th.Fork(func(c *Thread) {
				var got []Signal
				require.NoError(t, c.Sigaction(SIGUSR1, func(h *Thread, i SigInfo) {
					got = append(got, i.Signal)
					assert.Equal(t, 1, i.PID)
				}))
				unblock := c.Sigblock(SIGUSR1, SIGKILL)
				bar.Wait(c)
				bar.Wait(c)
				assert.Empty(t, got)
				unblock()
				assert.Equal(t, []Signal{SIGUSR1}, got, "pending once, however often sent")
				bar.Wait(c)
				for len(got) < 2 {
					c.Usleep(10)
				}
				require.NoError(t, c.SigIgnore(SIGUSR1))
				bar.Wait(c)
				bar.Wait(c)
			})
			require.NoError(t, err)
			bar.Wait(th)
			assert.NoError(t, th.Kill(pid, SIGUSR1))
			assert.NoError(t, th.Kill(pid, SIGUSR1))
			bar.Wait(th)
			bar.Wait(th)
			assert.NoError(t, th.Kill(pid, SIGUSR1))
			bar.Wait(th)
			assert.NoError(t, th.Kill(pid, SIGUSR1))
			bar.Wait(th)
			_, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, Exited(0), st)
		})
	})
}

func TestSignalInterruptsSleepAndWait(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			n := 0
			require.NoError(t, th.Sigaction(SIGCHLD, func(h *Thread, i SigInfo) { n++ }))
			pid, err := th.Fork(func(c *Thread) { c.Usleep(10) })
			require.NoError(t, err)
			err = th.Nanosleep(1 << 50)
			if n > 0 {
				assert.True(t, err == nil || errors.Is(err, unix.EINTR))
			}
			_, _, err = th.Wait(pid)
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
		})
	})
}

func TestTgkill(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			var took *Thread
			require.NoError(t, th.Sigaction(SIGUSR2, func(h *Thread, i SigInfo) {
				took = h
				h.Store32(a, 1)
				_, _ = h.FutexWake(a, 1, 0)
			}))
			w := th.Go("w", func(w *Thread) {
				for w.Load32(a) == 0 {
					_ = w.FutexWait(a, 0, 0, 0)
				}
			})
			assert.NoError(t, th.Tgkill(w, SIGUSR2))
			assert.NoError(t, th.Join(w))
			assert.Same(t, w, took)
			assert.ErrorIs(t, th.Tgkill(nil, SIGUSR2), unix.EINVAL)
		})
	})
}

// forever sleeps. In the free regime a sleep may end at any step.
func forever(t *Thread) {
	for {
		t.Usleep(1 << 30)
	}
}
