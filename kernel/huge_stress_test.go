package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Processes that map, store, fork, pin, truncate and unmap huge pages of one file and of
// their own, while the pool is resized under them. What each finds in its own memory is
// what it stored; the pool is whole in the end.
func TestHugeStress(t *testing.T) {
	const rounds = 100
	stress := func(t *testing.T, o Options, seed uint64) {
		o = hugeOptions(o, 8)
		o.Memory += 16 * hugeSize
		o.Disks = []Disk{{Name: "vda", Size: 1 << 20}}
		m := boot(t, o)
		out := m.Run(func(th *Thread) {
			require.NoError(t, th.SetNrOvercommitHugepages(4))
			fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
			require.NoError(t, err)
			disk, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
			require.NoError(t, err)
			var pids []int
			for p := range uint64(3) {
				pid, err := th.Fork(func(c *Thread) {
					rng := rand.New(rand.NewPCG(seed, p))
					for i := range rounds {
						c.hugeRound(t, rng, fd, disk, uint64(i)+p<<32)
					}
				})
				require.NoError(t, err)
				pids = append(pids, pid)
			}
			for i := range 10 {
				_, err := th.SetNrHugepages(uint64(4 + i%6))
				require.NoError(t, err)
				require.NoError(t, th.Ftruncate(fd, 0)) // never up: see TestHugeReservedUnderflow
				th.Usleep(50)
			}
			for _, pid := range pids {
				_, status, err := th.Wait(pid)
				require.NoError(t, err)
				if !status.Signaled() {
					assert.Equal(t, Exited(0), status)
				} else { // the pool had nothing for it
					assert.Contains(t, []Signal{SIGKILL, SIGBUS}, status.Signal())
				}
			}
			_, err = th.SetNrHugepages(8)
			require.NoError(t, err)
			require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
		})
		require.NotEqual(t, sched.Oopsed, out.Reason, out.Detail)
		require.Equal(t, sched.Quiet, out.Reason, out.Detail)
		atRest(t, m)
		p := m.HugePool(hugeSize)
		assert.Equal(t, p.Total, p.Free)
		assert.Zero(t, p.Reserved)
		assert.Zero(t, p.Surplus)
	}
	t.Run("parallel", func(t *testing.T) { stress(t, Options{CPUs: 4}, *firstSeed) })
	for seed := *firstSeed; seed < *firstSeed+6; seed++ {
		t.Run(fmt.Sprint("free/seed=", seed), func(t *testing.T) {
			stress(t, Options{CPUs: 3, Regime: sched.Free, Strategy: sched.NewRandom(seed), Preempt: sched.PreemptFull}, seed)
		})
	}
}

// hugeRound is one turn of a process of TestHugeStress.
func (t *Thread) hugeRound(tb testing.TB, rng *rand.Rand, fd, disk int, v uint64) {
	file := rng.IntN(2) == 0
	flags, n := mm.MapPrivate, uint64(1+rng.IntN(2))
	var a uint64
	var err error
	if file {
		flags = mm.MapShared // a private one makes the file longer without a promise
		a, err = t.Mmap(0, n*hugeSize, protRW, flags, fd, 0)
	} else {
		a, err = t.Mmap(0, n*hugeSize, protRW, flags|anonHuge, -1, 0)
	}
	if err != nil {
		t.Yield()
		return // too many others have promises
	}
	at := a + uint64(rng.IntN(int(n)))*hugeSize + uint64(rng.IntN(500))*4096
	stored := t.TryStore64(at, v) == nil // others truncate the file
	mine := stored && !file
	check := func(want uint64) {
		if got, err := t.TryLoad64(at); mine && (err != nil || got != want) {
			tb.Errorf("%#x has %#x, not %#x: %v", at, got, want, err)
		}
	}
	switch rng.IntN(4) {
	case 0:
		pid, err := t.Fork(func(c *Thread) {
			if got, err := c.TryLoad64(at); mine && err == nil && got != v {
				tb.Errorf("the child has %#x, not %#x", got, v)
			}
			_ = c.TryStore64(at+8, 1)
		})
		if err == nil {
			_ = t.TryStore64(at, v+1)
			check(v + 1)
			_, _, _ = t.Wait(pid)
		}
	case 1:
		if _, err := t.Pread(disk, at&^4095, 8192, 0); err == nil && mine {
			check(0) // the disk is empty
		}
	case 2:
		r, err := t.RegisterMemory(at, 4096, RegisterOptions{Write: true, Fast: rng.IntN(2) == 0})
		if err == nil {
			_ = t.DeviceWrite(r, 16, []byte{1, 2, 3})
			_ = t.UnregisterMemory(r)
		}
		check(v)
	default:
		if t.Mprotect(a, hugeSize, mm.ProtRead) == nil {
			_ = t.Mprotect(a, hugeSize, protRW)
		}
		check(v)
	}
	if err := t.Munmap(a, n*hugeSize); err != nil {
		tb.Error(err)
	}
}

// TestTruncateBesideMprotect: truncation of a hugetlbfs file walks the VMAs of others without
// their mmap_sem, so it must not look at what mprotect changes. The race detector is the judge.
func TestTruncateBesideMprotect(t *testing.T) {
	run(t, hugeOptions(Options{CPUs: 2}, 4), func(th *Thread) {
		fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
		require.NoError(t, err)
		a, err := th.Mmap(0, hugeSize, protRW, mm.MapShared, fd, 0)
		require.NoError(t, err)
		other := th.Go("mprotect", func(c *Thread) {
			for i := range 200 {
				assert.NoError(t, c.Mprotect(a, hugeSize, []mm.Prot{mm.ProtRead, protRW}[i%2]))
			}
		})
		for range 200 {
			require.NoError(t, th.Ftruncate(fd, 0))
		}
		require.NoError(t, th.Join(other))
	})
}
