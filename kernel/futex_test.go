package kernel

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

func TestFutexErrors(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			assert.ErrorIs(t, th.FutexWait(a, 1, 0, 0), unix.EAGAIN)
			assert.ErrorIs(t, th.FutexWait(a+1, 0, 0, 0), unix.EINVAL)
			assert.ErrorIs(t, th.FutexWait(8, 0, 0, 0), unix.EFAULT)
			assert.ErrorIs(t, th.FutexWait(8, 0, 0, FutexShared), unix.EFAULT)
			assert.ErrorIs(t, th.FutexWait(a, 0, 1000, 0), unix.ETIMEDOUT)
			_, err := th.FutexWake(a+2, 1, 0)
			assert.ErrorIs(t, err, unix.EINVAL)
			_, err = th.FutexWake(8, 1, FutexShared)
			assert.ErrorIs(t, err, unix.EFAULT)
			n, err := th.FutexWake(a, 1, 0)
			assert.NoError(t, err)
			assert.Zero(t, n)
		})
	})
}

func TestFutexWakesNWaiters(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			const n = 20
			var ws []*Thread
			for range n {
				ws = append(ws, th.Go("w", func(w *Thread) {
					w.Add32(a+4, 1)
					for w.Load32(a) == 0 {
						_ = w.FutexWait(a, 0, 0, 0)
					}
				}))
			}
			for th.Load32(a+4) < n {
				th.Usleep(1)
			}
			woken := 0
			th.Store32(a, 1)
			for range 3 {
				k, err := th.FutexWake(a, 3, 0)
				assert.NoError(t, err)
				assert.LessOrEqual(t, k, 3)
				woken += k
			}
			k, err := th.FutexWake(a, 1<<30, 0)
			assert.NoError(t, err)
			assert.LessOrEqual(t, woken+k, n)
			for _, w := range ws {
				assert.NoError(t, th.Join(w))
			}
		})
	})
}

func TestMutexExcludes(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(8192)
			mu := Mutex{Addr: a}
			counter := a + 4096
			var ws []*Thread
			for range 3 {
				ws = append(ws, th.Go("w", func(w *Thread) {
					for range 15 {
						mu.Lock(w)
						v := w.Load64(counter)
						assert.False(t, mu.TryLock(w))
						w.Store64(counter, v+1)
						mu.Unlock(w)
					}
				}))
			}
			for _, w := range ws {
				assert.NoError(t, th.Join(w))
			}
			assert.Equal(t, uint64(45), th.Load64(counter))
			assert.True(t, mu.TryLock(th))
		})
	})
}

func TestCondQueue(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			mu, notEmpty := Mutex{Addr: a}, Cond{Addr: a + 64}
			queued, sum, done := a+128, a+192, a+256
			var ws []*Thread
			for range 2 {
				ws = append(ws, th.Go("consumer", func(w *Thread) {
					for {
						mu.Lock(w)
						for w.Load32(queued) == 0 && w.Load32(done) == 0 {
							notEmpty.Wait(w, &mu)
						}
						if w.Load32(queued) == 0 {
							mu.Unlock(w)
							return
						}
						w.Store32(queued, w.Load32(queued)-1)
						w.Store32(sum, w.Load32(sum)+1)
						mu.Unlock(w)
					}
				}))
			}
			for range 12 {
				mu.Lock(th)
				th.Store32(queued, th.Load32(queued)+1)
				mu.Unlock(th)
				notEmpty.Signal(th)
			}
			mu.Lock(th)
			th.Store32(done, 1)
			notEmpty.Broadcast(th)
			mu.Unlock(th)
			for _, w := range ws {
				assert.NoError(t, th.Join(w))
			}
			assert.Equal(t, uint32(12), th.Load32(sum))
			mu.Lock(th)
			assert.ErrorIs(t, notEmpty.TimedWait(th, &mu, 500), unix.ETIMEDOUT)
			assert.False(t, mu.TryLock(th), "held after a timeout")
			mu.Unlock(th)
		})
	})
}

func TestBarrierAndSharedMutexAcrossProcesses(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			sh := th.MustMmapShared(8192)
			bar := Barrier{Addr: sh, N: 3, Shared: true}
			mu := Mutex{Addr: sh + 64, Shared: true}
			counter := sh + 4096
			work := func(c *Thread) {
				for round := range uint64(3) {
					mu.Lock(c)
					c.Store64(counter, c.Load64(counter)+1)
					mu.Unlock(c)
					bar.Wait(c)
					assert.Equal(t, 3*(round+1), c.Load64(counter))
					bar.Wait(c)
				}
			}
			for range 2 {
				_, err := th.Fork(work)
				require.NoError(t, err)
			}
			work(th)
			for range 2 {
				_, _, err := th.Wait(-1)
				assert.NoError(t, err)
			}
		})
	})
}

func TestFutexTimeoutAgainstWake(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			for range 10 {
				var err error
				w := th.Go("w", func(w *Thread) { err = w.FutexWait(a, 0, 300, 0) })
				th.Compute(200)
				n, werr := th.FutexWake(a, 1, 0)
				assert.NoError(t, werr)
				assert.NoError(t, th.Join(w))
				if n == 1 {
					assert.NoError(t, err, "woken is woken, whatever the clock says")
				} else {
					assert.True(t, errors.Is(err, unix.ETIMEDOUT), "%v", err)
				}
			}
		})
	})
}

// A process waits on a word of shared memory while reclaim takes the page: another process
// finds it by the same key, wherever the page is by then.
func TestSharedFutexWhileThePageIsInSwap(t *testing.T) {
	swapRegimes(t, 2, 1, func(t *testing.T, o Options) {
		o = small(o)
		m, _ := run(t, o, func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmapShared(2 * 4096)
			const ballast = 400 // more than there is
			big := th.MustMmap(ballast << 12)
			push := func() {
				for i := range uint64(ballast) {
					th.Store64(big+i<<12, i)
				}
			}
			pid, err := th.Fork(func(c *Thread) {
				for r := range uint32(4) {
					for c.Load32(a) == r {
						if err := c.FutexWait(a, r, 0, FutexShared); err != nil {
							assert.ErrorIs(t, err, unix.EAGAIN)
						}
					}
					c.Store32(a+4096, r+1)
					_, err := c.FutexWake(a+4096, 1, FutexShared)
					assert.NoError(t, err)
				}
			})
			require.NoError(t, err)
			for r := range uint32(4) {
				push()
				th.Store32(a, r+1)
				_, err := th.FutexWake(a, 1, FutexShared)
				assert.NoError(t, err)
				for th.Load32(a+4096) == r {
					if err := th.FutexWait(a+4096, r, 0, FutexShared); err != nil {
						assert.ErrorIs(t, err, unix.EAGAIN)
					}
				}
			}
			_, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, Exited(0), st)
		})
		assert.Greater(t, m.Trace().Sum(trace.PGMajFault), uint64(4), "pages were in swap")
	})
}

// Who waits keeps the object: the mapping may go meanwhile, and what is mapped at the same
// address later is another word.
func TestFutexKeyKeepsTheObject(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmapShared(2 * 4096)
			th.Store32(a, 0)
			w := th.Go("w", func(c *Thread) {
				assert.ErrorIs(t, c.FutexWait(a, 0, 50_000_000, FutexShared), unix.ETIMEDOUT)
			})
			for th.Machine().Trace().Sum(trace.EmuFutexWaits) == 0 {
				th.Usleep(1)
			}
			n, err := th.FutexWake(a+4096, 1, FutexShared)
			assert.NoError(t, err)
			assert.Zero(t, n, "the same offset in another page")
			require.NoError(t, th.Munmap(a, 2*4096))
			b, err := th.Mmap(a, 4096, mm.ProtRead|mm.ProtWrite, mm.MapShared|mm.MapAnonymous|mm.MapFixed, -1, 0)
			require.NoError(t, err)
			th.Store32(b, 1)
			n, err = th.FutexWake(b, 1, FutexShared)
			assert.NoError(t, err)
			assert.Zero(t, n, "another object at the same address")
			_ = th.Join(w)
		})
	})
}

// After fork a word of private memory is each process's own, also for FutexShared, and
// before and after the page is copied; a private and a shared look-up do not meet.
func TestFutexOnACOWPage(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			th.Store32(a, 0)
			w := th.Go("w", func(c *Thread) { assert.NoError(t, c.FutexWait(a, 0, 0, FutexShared)) })
			for th.Machine().Trace().Sum(trace.EmuFutexWaits) == 0 {
				th.Usleep(1)
			}
			pid, err := th.Fork(func(c *Thread) {
				for _, store := range []bool{false, true} {
					if store {
						c.Store32(a, 1)
					}
					n, err := c.FutexWake(a, 1, FutexShared)
					assert.NoError(t, err)
					assert.Zero(t, n, "the parent's word is another")
				}
			})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			n, err := th.FutexWake(a, 1, 0)
			assert.NoError(t, err)
			assert.Zero(t, n, "looked up as private")
			th.Store32(a+8, 1) // copies the page: the key stays
			n, err = th.FutexWake(a, 1, FutexShared)
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
			_ = th.Join(w)
		})
	})
}

// A shared look-up of private memory that nobody has touched never returns: the zero page
// belongs to nothing (Linux 2.6.29 get_futex_key).
func TestSharedFutexOnTheZeroPageHangs(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Regime: sched.Timed, StepLimit: 20_000})
	out := m.Run(func(th *Thread) {
		_, _ = th.FutexWake(th.MustMmap(4096), 1, FutexShared)
		t.Error("it returned")
	})
	assert.Equal(t, sched.Livelock, out.Reason, out.Detail)
}

// So does that of a word behind the first small page of a huge one: a tail page has no mapping
// (fixed for 2.6.38 by looking at the head, and for the key's offset in 3.10: LTP's futex_wake04).
func TestSharedFutexBehindTheHeadOfAHugePageHangs(t *testing.T) {
	for _, c := range []struct {
		off  uint64
		want sched.Reason
	}{{x86.PageSize - 4, sched.Quiet}, {x86.PageSize, sched.Livelock}} {
		m := boot(t, Options{CPUs: 1, Regime: sched.Timed, StepLimit: 20_000, Memory: 8 << 20, HugePages: 1})
		out := m.Run(func(th *Thread) {
			a := th.MustMmapHuge(1, mm.HugePage2M, mm.MapShared)
			th.Store32(a, 1)
			_, _ = th.FutexWake(a+c.off, 1, FutexShared)
		})
		assert.Equal(t, c.want, out.Reason, "%#x: %v", c.off, out.Detail)
	}
}
