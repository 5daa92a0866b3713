package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/trace"
)

// bench runs fn as a user of a machine with one CPU in the parallel regime.
func bench(b *testing.B, bytes uint64, fn func(u *user)) {
	o := rigOptions{bytes: bytes}
	o.CPUs = 1
	r := boot(b, o)
	r.s.SetOvercommit(OvercommitAlways, 0)
	require.True(b, r.mem.Prefault(1, int(bytes>>12)-1))
	r.run(fn)
}

const benchPages = 32 << 10 // 128 MiB

func BenchmarkMinorFault(b *testing.B) {
	bench(b, 256<<20, func(u *user) {
		b.ResetTimer()
		for i := 0; i < b.N; i += benchPages {
			b.StopTimer()
			a := u.mmap(benchPages)
			b.StartTimer()
			for j := range uint64(benchPages) {
				u.store(a+j*pg, 1)
			}
			b.StopTimer()
			u.munmap(a, benchPages)
		}
	})
}

func BenchmarkForkPage(b *testing.B) {
	bench(b, 256<<20, func(u *user) {
		a := u.mmap(benchPages)
		for j := range uint64(benchPages) {
			u.store(a+j*pg, 1)
		}
		b.ResetTimer()
		for i := 0; i < b.N; i += benchPages {
			var m *MM
			m, _ = u.s.DupMM(u.t, u.mm)
			b.StopTimer()
			m.MMPut(u.t)
			b.StartTimer()
		}
	})
}

func BenchmarkForkFixed(b *testing.B) {
	bench(b, 64<<20, func(u *user) {
		u.store(u.mmap(4), 1)
		b.ResetTimer()
		for range b.N {
			m, _ := u.s.DupMM(u.t, u.mm)
			m.MMPut(u.t)
		}
	})
}

func BenchmarkExitPage(b *testing.B) {
	bench(b, 256<<20, func(u *user) {
		a := u.mmap(benchPages)
		for j := range uint64(benchPages) {
			u.store(a+j*pg, 1)
		}
		b.ResetTimer()
		for i := 0; i < b.N; i += benchPages {
			b.StopTimer()
			m, _ := u.s.DupMM(u.t, u.mm)
			b.StartTimer()
			m.MMPut(u.t)
		}
	})
}

func BenchmarkMunmapPage(b *testing.B) {
	bench(b, 256<<20, func(u *user) {
		b.ResetTimer()
		for i := 0; i < b.N; i += benchPages {
			b.StopTimer()
			a := u.mmap(benchPages)
			for j := range uint64(benchPages) {
				u.store(a+j*pg, 1)
			}
			b.StartTimer()
			u.munmap(a, benchPages)
		}
	})
}

func benchCOW(b *testing.B, reuse bool) {
	const pages = 8 << 10
	bench(b, 256<<20, func(u *user) {
		a := u.mmap(pages)
		for j := range uint64(pages) {
			u.store(a+j*pg, 1)
		}
		b.ResetTimer()
		for i := 0; i < b.N; i += pages {
			b.StopTimer()
			m, _ := u.s.DupMM(u.t, u.mm)
			if reuse {
				m.MMPut(u.t)
			}
			b.StartTimer()
			for j := range uint64(pages) {
				u.store(a+j*pg, 1)
			}
			b.StopTimer()
			if !reuse {
				m.MMPut(u.t)
			}
		}
	})
}

func BenchmarkCOWCopy(b *testing.B)  { benchCOW(b, false) }
func BenchmarkCOWReuse(b *testing.B) { benchCOW(b, true) }

// One thread forks nothing but flushes, another spins in user mode on its own CPU.
func BenchmarkFlushRemote(b *testing.B) {
	o := rigOptions{}
	o.CPUs = 2
	r := boot(b, o)
	r.run(func(u *user) {
		a := u.mmap(2)
		u.store(a, 0)
		th := u.threadOn(u.otherCPU(), "spinner", func(u *user) {
			u.store(a+8, 1)
			for u.load(a) == 0 {
			}
		})
		for u.load(a+8) == 0 {
		}
		b.ResetTimer()
		for range b.N {
			u.s.FlushTLBMM(u.t, u.mm)
		}
		b.StopTimer()
		u.store(a, 1)
		u.wait(th)
	})
	require.GreaterOrEqual(b, r.sum(trace.EmuTLBRemoteFlush), int64(b.N))
}

// The hot paths allocate nothing.
func TestHotPathsAllocateNothing(t *testing.T) {
	const runs = 200
	o := rigOptions{bytes: 32 << 20}
	r := boot(t, o)
	r.run(func(u *user) {
		a := u.mmap(4 * runs)
		next := uint64(0)
		touch := func() { u.store(a+next*pg, 1); next++ }
		for range 2 * runs {
			touch() // tables, pagevecs and the like
		}
		assert.Zero(t, testing.AllocsPerRun(runs, touch), "minor fault")

		m, err := u.s.DupMM(u.t, u.mm)
		require.NoError(t, err)
		next = 0
		assert.Zero(t, testing.AllocsPerRun(runs, touch), "COW fault, copy")
		m.MMPut(u.t)
		assert.Zero(t, testing.AllocsPerRun(runs, touch), "COW fault, reuse")

		assert.Zero(t, testing.AllocsPerRun(runs, func() {
			v := u.mm.findVMA(u.t, a)
			u.mm.ZapPageRange(u.t, v, a, 3*pg)
			next = 0
			touch()
			touch()
			touch()
		}), "zap")
		assert.Zero(t, testing.AllocsPerRun(runs, func() { u.s.FlushTLBMM(u.t, u.mm) }), "flush")

		// Fork allocates for the address space and its VMAs; pages cost nothing.
		fork := func() {
			m, _ := u.s.DupMM(u.t, u.mm)
			m.MMPut(u.t)
		}
		few := testing.AllocsPerRun(20, fork)
		next = 0
		for range 4 * runs {
			touch()
		}
		assert.LessOrEqual(t, testing.AllocsPerRun(20, fork), few, "fork of more pages")
	})
	r.end()
}
