package page

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// allocTarget is a program of two tasks on two CPUs, each of which allocates and frees a page of its
// own so many times. shared puts all frames in one zone and takes the per-CPU lists away.
func allocTarget(host *x86.Host, coros *sched.Host, rounds int, shared bool) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) (obs explore.Observation) {
		mem, err := host.NewMemory(x86.MemoryOptions{Bytes: 2 << 20})
		if err != nil {
			panic(err)
		}
		gate := explore.NewGate(s)
		m, err := sched.New(sched.Options{CPUs: 2, Regime: sched.Free, Strategy: gate, Mem: mem, Host: coros, Watchdog: sched.NoWatchdog})
		if err != nil {
			panic(err)
		}
		m.SetObserver(o)
		p := NewMap(m, mem)
		if shared {
			p.divide(1)
			for i := range p.cpus {
				p.cpus[i].batch, p.cpus[i].high = 1, 0
			}
		}
		begin, end := m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
		ready, left, failed := 2, 2, 0
		for cpu := range 2 {
			m.Start(nil, m.NewTask(sched.TaskOptions{Name: "user", CPU: cpu + 1}, func(k *sched.Task) {
				if ready--; ready == 0 {
					gate.Open()
					k.C.Wrote(begin)
				}
				for n := 1; ready > 0; n++ {
					k.C.SpinWait(begin, n)
				}
				for range rounds {
					if own := p.Alloc(k, GFPKernel, 0, "test"); own != nil {
						p.Put(k, own)
					} else {
						failed++
					}
				}
				if left--; left == 0 {
					gate.Close()
					k.C.Wrote(end)
				}
				for n := 1; left > 0; n++ {
					k.C.SpinWait(end, n)
				}
			}))
		}
		r := m.Run()
		obs = explore.Observation{Verdict: explore.Safe, Steps: r.Steps, Result: r}
		if v := explore.VerdictOf(r); v != "" || failed > 0 {
			obs.Verdict, obs.Detail = "bug", r.Detail
		}
		m.Shutdown()
		mem.Release()
		return obs
	}
	return explore.Target{Name: "alloc", Policy: "none", Run: run}
}

// TestAllocationsOfCPUsCommute: what two CPUs allocate and free for themselves is one class of
// schedules, because each has a zone and a list of its own in the free regime. With one
// zone for both and no lists, the order in which they take its lock is told apart, and multiplies
// with everything else that a program does.
func TestAllocationsOfCPUsCommute(t *testing.T) {
	host, coros := x86.NewHost(), &sched.Host{}
	defer host.Close()
	for rounds, want := range []uint64{1: 6, 2: 70} {
		if want == 0 {
			continue
		}
		var classes [2]uint64
		for i, shared := range []bool{false, true} {
			r, err := explore.Reduce(context.Background(), allocTarget(host, coros, rounds, shared), explore.ReduceOptions{Schedules: 20_000})
			require.NoError(t, err)
			require.True(t, r.Complete)
			require.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%v", r.ByVerdict)
			classes[i] = r.Classes
		}
		t.Logf("%d rounds: %d classes with zones and lists of the CPUs' own, %d with one zone for both", rounds, classes[0], classes[1])
		assert.EqualValues(t, 1, classes[0])
		assert.Equal(t, want, classes[1], "%d critical sections of each CPU", 2*rounds)
	}
}
