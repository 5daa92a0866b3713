package kernel

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
)

// stepChecker checks the machine's invariants before every n-th step.
type stepChecker struct {
	m    *Machine
	n    uint64
	errs []string
}

func (s *stepChecker) Step(step uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	if step%s.n != 0 || len(s.errs) > 3 {
		return
	}
	for _, err := range s.m.CheckStep() {
		s.errs = append(s.errs, fmt.Sprintf("step %d, cpu %d, %s: %v %s: %v", step, t.C.ID, t.Name, op, s.m.sched.ObjName(obj), err))
	}
}

func (s *stepChecker) Device(uint64, sched.Event) {}

// busy is a program that does a bit of everything.
func busy(t *testing.T) func(th *Thread) {
	return func(th *Thread) {
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		a := th.MustMmap(5 * 4096)
		sh := th.MustMmapShared(4096)
		th.Fill(a, 3*4096, 1)
		w := th.Go("w", func(w *Thread) {
			w.Store64(a, 5)
			_, _ = w.Pread(fd, a+4096, 512, 0)
			w.Store64(a+2*4096, 6)
			_ = w.Madvise(a+3*4096, 4096, 4)
		})
		for range 2 {
			_, err := th.Fork(func(c *Thread) {
				c.Store64(a, 7)
				c.Add32(sh, 1)
				_, _ = c.Fork(func(g *Thread) { g.Store64(a+4096, 8) })
				_ = c.Munmap(a, 4096)
				_, _, _ = c.Wait(-1)
			})
			require.NoError(t, err)
			th.Store64(a+4096, 9)
			_ = th.Mprotect(a+4*4096, 4096, 1)
			_ = th.Mprotect(a+4*4096, 4096, 3)
		}
		_ = th.Join(w)
		for range 2 {
			_, _, _ = th.Wait(-1)
		}
		require.Equal(t, uint32(2), th.Load32(sh))
	}
}

func TestInvariantsHoldAtEveryStep(t *testing.T) {
	seeds := uint64(15)
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		for _, p := range []sched.Preempt{sched.PreemptNone, sched.PreemptFull} {
			t.Run(fmt.Sprintf("seed=%d/preempt=%d", seed, p), func(t *testing.T) {
				m := boot(t, withDisk(Options{CPUs: 3, Memory: 1 << 20, Regime: sched.Free, Strategy: sched.NewRandom(seed), Preempt: p}))
				s := &stepChecker{m: m, n: 5}
				m.Sched().SetObserver(s)
				out := m.Run(busy(t))
				require.NoError(t, out.Err())
				require.Empty(t, s.errs)
				m.Sched().SetObserver(nil)
				atRest(t, m)
			})
		}
	}
}

func TestBusyInAllRegimes(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, withDisk(o), busy(t))
	})
}

// The same seed gives the same run, to the last step.
func TestFreeRunsRepeat(t *testing.T) {
	one := func(seed uint64) (uint64, []uint64, uint64) {
		m := boot(t, withDisk(Options{CPUs: 3, Memory: 1 << 20, Regime: sched.Free, Strategy: sched.NewRandom(seed)}))
		out := m.Run(busy(t))
		require.NoError(t, out.Err())
		return out.Steps, m.Trace().Snapshot(), m.StateHash()
	}
	for seed := range uint64(5) {
		n1, c1, h1 := one(seed)
		n2, c2, h2 := one(seed)
		require.Equal(t, n1, n2)
		require.Equal(t, c1, c2)
		require.Equal(t, h1, h2)
	}
}
