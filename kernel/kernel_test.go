package kernel

import (
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
)

var testHosts = NewHosts()

// firstSeed makes other schedules be tried: go test ./kernel -args -seed 1000
var firstSeed = flag.Uint64("seed", 0, "first seed of the free regime")

// boot makes a machine of 1 MiB (4 MiB in the parallel regime, where per-CPU lists
// hold much) unless o says otherwise, and checks it when the test ends.
func boot(t testing.TB, o Options) *Machine {
	t.Helper()
	o.Hosts = testHosts
	o.CheckRaces = o.Regime != sched.Parallel
	if o.Memory == 0 {
		o.Memory = 8 << 20
	}
	m, err := Boot(o)
	require.NoError(t, err)
	t.Cleanup(m.Shutdown)
	return m
}

// atRest checks a machine whose processes have all ended.
func atRest(t testing.TB, m *Machine) {
	t.Helper()
	assert.Empty(t, m.Check())
	assert.Empty(t, m.Leaks())
}

// regimes runs fn as a subtest in each regime, on n CPUs.
func regimes(t *testing.T, n int, fn func(t *testing.T, o Options)) {
	t.Run("parallel", func(t *testing.T) { fn(t, Options{CPUs: n}) })
	t.Run("timed", func(t *testing.T) { fn(t, Options{CPUs: n, Regime: sched.Timed}) })
	for seed := *firstSeed; seed < *firstSeed+20; seed++ {
		t.Run(fmt.Sprintf("free/seed=%d", seed), func(t *testing.T) {
			fn(t, Options{CPUs: n, Regime: sched.Free, Strategy: sched.NewRandom(seed)})
		})
	}
	t.Run("free/preempt", func(t *testing.T) {
		fn(t, Options{CPUs: n, Regime: sched.Free, Strategy: sched.NewRandom(99), Preempt: sched.PreemptFull})
	})
	t.Run("free/pct", func(t *testing.T) {
		fn(t, Options{CPUs: n, Regime: sched.Free, Strategy: sched.NewPCT(7, 3, 2000)})
	})
}

// run boots a machine, runs fn as init, and wants a quiet end with nothing left.
func run(t testing.TB, o Options, fn func(*Thread)) (*Machine, *Outcome) {
	t.Helper()
	m := boot(t, o)
	out := m.Run(fn)
	require.NoError(t, out.Err())
	atRest(t, m)
	return m, out
}

func TestInitRunsAndEnds(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		ran := false
		_, out := run(t, o, func(t *Thread) { ran = true })
		assert.True(t, ran)
		require.Len(t, out.Exits, 1)
		assert.Equal(t, Exit{PID: 1, Name: "init", Status: Exited(0), Root: true}, out.Exits[0])
	})
}

func TestLoadsAndStores(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			a := th.MustMmap(64 << 10)
			assert.Zero(t, th.Load64(a))
			th.Store64(a+8, 0x1122334455667788)
			assert.Equal(t, uint64(0x1122334455667788), th.Load64(a+8))
			assert.Equal(t, uint8(0x88), th.Load8(a+8))
			assert.Equal(t, uint16(0x7788), th.Load16(a+8))
			assert.Equal(t, uint32(0x55667788), th.Load32(a+8))
			th.Store8(a+9, 0xff)
			th.Store16(a+10, 0xabcd)
			th.Store32(a+12, 0x01020304)
			assert.Equal(t, uint64(0x01020304abcdff88), th.Load64(a+8))
			b := make([]byte, 5000)
			for i := range b {
				b[i] = byte(i)
			}
			th.Write(a+4000, b)
			assert.Equal(t, b, th.Bytes(a+4000, len(b)))
			th.Fill(a+100, 9000, 7)
			assert.Equal(t, uint8(7), th.Load8(a+9099))
			assert.NotEqual(t, uint8(7), th.Load8(a+99))
			assert.Zero(t, th.Load8(a+9100))
		})
	})
}

func TestForkGivesTheChildASnapshot(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		var child, parent uint64
		run(t, o, func(th *Thread) {
			a := th.MustMmap(3 * 4096)
			for i := range uint64(3) {
				th.Store64(a+i*4096, 100+i)
			}
			pid, err := th.Fork(func(c *Thread) {
				child = c.Load64(a) + c.Load64(a+4096) + c.Load64(a+2*4096)
				c.Store64(a+4096, 9999)
				c.Exit(7)
			})
			require.NoError(t, err)
			th.Store64(a, 5555)
			got, st, err := th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, pid, got)
			assert.Equal(t, Exited(7), st)
			parent = th.Load64(a) + th.Load64(a+4096)
		})
		assert.Equal(t, uint64(303), child)
		assert.Equal(t, uint64(5555+101), parent)
	})
}
