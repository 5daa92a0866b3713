package kernel

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
)

func TestWaitForAnyChildAndForNone(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		_, out := run(t, o, func(th *Thread) {
			_, _, err := th.Wait(-1)
			assert.ErrorIs(t, err, unix.ECHILD)
			want := map[int]Status{}
			for i := range 4 {
				pid, err := th.Fork(func(c *Thread) { c.Exit(10 + i) })
				require.NoError(t, err)
				want[pid] = Exited(10 + i)
			}
			got := map[int]Status{}
			for range 4 {
				pid, st, err := th.Wait(-1)
				require.NoError(t, err)
				got[pid] = st
			}
			assert.Equal(t, want, got)
			_, _, err = th.Wait(-1)
			assert.ErrorIs(t, err, unix.ECHILD)
			_, _, err = th.Wait(-2)
			assert.ErrorIs(t, err, unix.EINVAL)
			_, _, err = th.Wait4(-1, 64)
			assert.ErrorIs(t, err, unix.EINVAL)
		})
		assert.EqualValues(t, 5, out.Ended)
	})
}

func TestWaitNoHang(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			sh := th.MustMmapShared(4096)
			bar := Barrier{Addr: sh, N: 2, Shared: true}
			pid, err := th.Fork(func(c *Thread) { bar.Wait(c) })
			require.NoError(t, err)
			got, _, err := th.Wait4(pid, WNOHANG)
			assert.NoError(t, err)
			assert.Zero(t, got)
			bar.Wait(th)
			got, st, err := th.Wait(pid)
			assert.NoError(t, err)
			assert.Equal(t, pid, got)
			assert.Equal(t, Exited(0), st)
		})
	})
}

func TestForkOfForkAndOrphans(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		var seen uint64
		m, out := run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			th.Store64(a, 1)
			_, err := th.Fork(func(c *Thread) {
				c.Store64(a, 2)
				_, err := c.Fork(func(g *Thread) {
					g.Usleep(10)
					seen = g.Load64(a)
					g.Exit(3)
				})
				require.NoError(t, err)
			})
			require.NoError(t, err)
			_, _, err = th.Wait(-1)
			require.NoError(t, err)
			assert.Equal(t, uint64(1), th.Load64(a))
		})
		assert.Equal(t, uint64(2), seen)
		st, ok := out.Status(3)
		assert.True(t, ok, "the machine waits for orphans")
		assert.Equal(t, Exited(3), st)
		assert.Empty(t, m.Processes())
	})
}

func TestIgnoringSIGCHLDReapsChildren(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			require.NoError(t, th.SigIgnore(SIGCHLD))
			for range 3 {
				_, err := th.Fork(func(c *Thread) {})
				require.NoError(t, err)
			}
			_, _, err := th.Wait(-1)
			assert.ErrorIs(t, err, unix.ECHILD)
		})
	})
}

func TestVforkBorrowsMemoryAndBlocksTheParent(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			th.Store64(a, 1)
			childDone := false
			pid, err := th.Vfork(func(c *Thread) {
				c.Store64(a, 2)
				c.Usleep(50)
				childDone = true
			})
			require.NoError(t, err)
			assert.True(t, childDone)
			assert.Equal(t, uint64(2), th.Load64(a))
			_, st, err := th.Wait(pid)
			assert.NoError(t, err)
			assert.Equal(t, Exited(0), st)
		})
	})
}

func TestThreadsShareMemory(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			var workers []*Thread
			for range 4 {
				workers = append(workers, th.Go("worker", func(w *Thread) {
					assert.Equal(t, th.Getpid(), w.Getpid())
					assert.NotEqual(t, th.Tid(), w.Tid())
					for range 20 {
						w.Add32(a, 1)
					}
				}))
			}
			for _, w := range workers {
				assert.NoError(t, th.Join(w))
				assert.NoError(t, th.Join(w), "joining again is harmless")
			}
			assert.Equal(t, uint32(80), th.Load32(a))
			assert.ErrorIs(t, th.Join(th), unix.EDEADLK)
			assert.ErrorIs(t, th.Join(nil), unix.EINVAL)
		})
	})
}

func TestReturnOfMainKillsOtherThreads(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		deferred := false
		_, out := run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			th.Go("endless", func(w *Thread) {
				defer func() { deferred = true }()
				for {
					w.Add32(a, 1)
				}
			})
			for th.Load32(a) == 0 {
				th.Yield()
			}
		})
		assert.True(t, deferred)
		assert.Equal(t, Exited(0), out.Exits[0].Status)
	})
}

func TestExitThreadOfTheLeaderLeavesTheOthers(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		ran := false
		_, out := run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			th.Go("second", func(w *Thread) {
				w.Usleep(20)
				w.Store32(a, 1)
				ran = true
			})
			th.ExitThread()
			t.Error("ExitThread returned")
		})
		assert.True(t, ran)
		assert.Equal(t, Exited(0), out.Exits[0].Status)
	})
}

func TestExitFromAnyThreadEndsTheProcess(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		out := m.Run(func(th *Thread) {
			w := th.Go("exiter", func(w *Thread) { w.Exit(300) })
			_ = th.Join(w)
			for {
				th.Yield()
			}
		})
		require.NoError(t, out.Result.Err())
		assert.Equal(t, Exited(300&0xff), out.Exits[0].Status)
		assert.ErrorContains(t, out.Err(), "exit status 44")
		atRest(t, m)
	})
}

func TestDeferredFunctionsOfAKilledThreadCannotAct(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		var shared uint64
		steps := ""
		_, _ = run(t, o, func(th *Thread) {
			sh := th.MustMmapShared(4096)
			pid, err := th.Fork(func(c *Thread) {
				defer func() { steps += "c" }()
				defer func() { c.Store64(sh, 99); steps += "b" }()
				defer func() { steps += "a" }()
				c.Exit(1)
			})
			require.NoError(t, err)
			_, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, Exited(1), st)
			shared = th.Load64(sh)
		})
		assert.Zero(t, shared)
		assert.Equal(t, "ac", steps)
	})
}

func TestSwallowedExitOnlyDelays(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			after := false
			pid, err := th.Fork(func(c *Thread) {
				func() {
					defer func() { _ = recover() }()
					c.Exit(5)
				}()
				c.Yield()
				after = true
			})
			require.NoError(t, err)
			_, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, Exited(5), st)
			assert.False(t, after)
		})
	})
}

func TestStartSeveralAndRunAgain(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		n := 0
		var mark [3]bool
		for round := range 3 {
			for i := range mark {
				m.Start("p", func(th *Thread) {
					a := th.MustMmap(8192)
					th.Store64(a, uint64(i))
					mark[i] = th.Load64(a) == uint64(i)
				})
			}
			out := m.Run(func(*Thread) { n++ })
			require.NoError(t, out.Err())
			assert.Len(t, out.Exits, 4, "round %d", round)
			assert.Equal(t, [3]bool{true, true, true}, mark)
			atRest(t, m)
		}
		assert.Equal(t, 3, n)
		assert.Equal(t, 12, m.lastPID)
	})
}

func TestGetppid(t *testing.T) {
	run(t, Options{CPUs: 2, Regime: sched.Timed}, func(th *Thread) {
		assert.Zero(t, th.Getppid())
		pid, err := th.Fork(func(c *Thread) { assert.Equal(t, 1, c.Getppid()) })
		require.NoError(t, err)
		_, _, _ = th.Wait(pid)
	})
}

func TestGoexitEndsTheRun(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		out := m.Run(func(th *Thread) {
			_, _ = th.Fork(func(c *Thread) { runtime.Goexit() })
			_, _, _ = th.Wait(-1)
		})
		assert.Equal(t, sched.Exited, out.Reason)
	})
}

func TestDeadlockIsReportedAndShutdownUnwinds(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m := boot(t, o)
		unwound := false
		out := m.Run(func(th *Thread) {
			a := th.MustMmap(4096)
			defer func() { unwound = true; th.Store64(a, 1); _, _, _ = th.Wait(-1) }()
			_ = th.FutexWait(a, 0, 0, 0)
		})
		assert.Equal(t, sched.Deadlock, out.Reason)
		assert.Contains(t, out.Detail, "init")
		m.Shutdown()
		assert.True(t, unwound)
		assert.Equal(t, sched.Stopped, m.Run(nil).Reason)
	})
}

func TestUseOfAnothersThreadIsFound(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: sched.Timed})
	out := m.Run(func(th *Thread) {
		a := th.MustMmap(4096)
		_, _ = th.Vfork(func(c *Thread) {
			c.Usleep(10) // the parent sleeps for certain
			_ = th.Munmap(a, 4096)
		})
	})
	assert.Equal(t, sched.Panicked, out.Reason)
	assert.Contains(t, out.Detail, "must use its own argument")
}

func TestDeadlockReportNamesWhatIsWaitedFor(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: sched.Timed})
	out := m.Run(func(th *Thread) {
		a := th.MustMmap(4096)
		w := th.Go("worker", func(w *Thread) { _ = w.FutexWait(a, 0, 0, 0) })
		_, _ = th.Fork(func(c *Thread) {
			_, _ = c.Fork(func(g *Thread) { _ = g.FutexWait(a, 0, 0, 0) })
			_, _, _ = c.Wait(-1)
		})
		_ = th.Join(w)
	})
	assert.Equal(t, sched.Deadlock, out.Reason)
	for _, want := range []string{"end of thread 2 of process 1", "children of process 3 init.3", "futex"} {
		assert.Contains(t, out.Detail, want)
	}
}

func TestUserPanicIsAnOutcome(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: sched.Free})
	out := m.Run(func(th *Thread) { panic("user bug") })
	assert.Equal(t, sched.Panicked, out.Reason)
	assert.Contains(t, out.Detail, "user bug")
	assert.Contains(t, out.Detail, "process_test.go")
}
