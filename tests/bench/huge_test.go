package bench

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// Huge pages, in host time of the parallel regime. An operation is one page of 2 MiB.
//
//	go test -run '^$' -bench Huge ./tests/bench

// benchHuge runs fn as a process of a machine with 64 huge pages, for each policy.
func benchHuge(b *testing.B, pages int, fn func(b *testing.B, t *kernel.Thread)) {
	eachPolicy(b, []int{pages}, func(b *testing.B, p mm.Policy, pages int) {
		b.SetBytes(int64(pages) * mm.HugePage2M)
		benchHugeOf(b, p, fn)
	})
}

func benchHugeOf(b *testing.B, p mm.Policy, fn func(b *testing.B, t *kernel.Thread)) {
	m, err := kernel.Boot(kernel.Options{CPUs: 1, Memory: 192 << 20, HugePages: 64, Prefault: true, Policy: p})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Shutdown()
	out := m.Run(func(t *kernel.Thread) { fn(b, t) })
	switch err := out.Err(); {
	case err == nil:
	case len(out.Bugs) > 0 && out.Result.Err() == nil && p.Name() != "stock":
		b.Skip(err) // what a patch gets wrong is no failure of the benchmark
	default:
		b.Fatal(err)
	}
}

// A policy that trips an assertion of the kernel is skipped, so that -bench . measures the others
// and comes to its end; whoever else does fails.
func TestBenchmarkOfABrokenPolicy(t *testing.T) {
	benchtime := flag.Lookup("test.benchtime").Value
	before := benchtime.String()
	require.NoError(t, benchtime.Set("1x"))
	defer func() { _ = benchtime.Set(before) }()
	for _, c := range []struct {
		policy          string
		fn              func(b *testing.B, t *kernel.Thread)
		skipped, failed bool
	}{
		{"stock", hugeCOW, false, false},
		{"vm_dontcow", hugeCOW, true, false}, // its patch looks for a page table where a huge page is
		{"stock", func(b *testing.B, t *kernel.Thread) { t.Task().Warn("no") }, false, true},
		{"vm_dontcow", func(b *testing.B, t *kernel.Thread) { t.Exit(1) }, false, true},
	} {
		var skipped, failed bool
		testing.Benchmark(func(b *testing.B) {
			defer func() { skipped, failed = b.Skipped(), b.Failed() }()
			benchHugeOf(b, policy.Lookup(c.policy), c.fn)
		})
		assert.Equal(t, []bool{c.skipped, c.failed}, []bool{skipped, failed}, c.policy)
	}
}

// BenchmarkHugeFault maps a huge page, touches it and unmaps it: most of it is clearing.
func BenchmarkHugeFault(b *testing.B) {
	benchHuge(b, 1, func(b *testing.B, t *kernel.Thread) {
		for b.Loop() {
			addr := t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
			t.Store8(addr, 1)
			must(t.Munmap(addr, mm.HugePage2M), "munmap")
		}
	})
}

// BenchmarkHugeCOW breaks COW: the page is pinned, so every write to a read-only entry copies.
func BenchmarkHugeCOW(b *testing.B) { benchHuge(b, 1, hugeCOW) }

func hugeCOW(b *testing.B, t *kernel.Thread) {
	addr := t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
	t.Store8(addr, 1)
	for b.Loop() {
		r, err := t.RegisterMemory(addr, pageSize, kernel.RegisterOptions{Write: true})
		must(err, "register")
		must(t.Mprotect(addr, mm.HugePage2M, mm.ProtRead), "mprotect")
		must(t.Mprotect(addr, mm.HugePage2M, mm.ProtRead|mm.ProtWrite), "mprotect")
		t.Store8(addr, 1)
		must(t.UnregisterMemory(r), "unregister")
	}
}

// BenchmarkHugeFork forks a process with 32 huge pages and waits for the child, which ends at
// once. The parent's next store to each page reuses it.
func BenchmarkHugeFork(b *testing.B) {
	benchHuge(b, 32, func(b *testing.B, t *kernel.Thread) {
		const pages = 32
		addr := t.MustMmapHuge(pages, mm.HugePage2M, mm.MapPrivate)
		for b.Loop() {
			for i := range uint64(pages) {
				t.Store8(addr+i*mm.HugePage2M, 1)
			}
			pid, err := t.Fork(leave)
			must(err, "fork")
			_, _, err = t.Wait(pid)
			must(err, "wait")
		}
	})
}

// BenchmarkHugeGUPFast takes 512 small pages of a huge page by gup-fast, and gives them back.
func BenchmarkHugeGUPFast(b *testing.B) {
	benchHuge(b, 1, func(b *testing.B, t *kernel.Thread) {
		addr := t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
		t.Store8(addr, 1)
		for b.Loop() {
			r, err := t.RegisterMemory(addr, mm.HugePage2M, kernel.RegisterOptions{Fast: true})
			must(err, "register")
			must(t.UnregisterMemory(r), "unregister")
		}
	})
}
