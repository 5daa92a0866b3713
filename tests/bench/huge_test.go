package bench

import (
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Huge pages, in host time of the parallel regime. An operation is one page of 2 MiB.
//
//	go test -run '^$' -bench Huge ./tests/bench

// benchHuge runs fn as a process of a machine with 64 huge pages, for each policy.
func benchHuge(b *testing.B, pages int, fn func(b *testing.B, t *kernel.Thread)) {
	eachPolicy(b, []int{pages}, func(b *testing.B, p mm.Policy, pages int) {
		m, err := kernel.Boot(kernel.Options{CPUs: 1, Memory: 192 << 20, HugePages: 64, Prefault: true, Policy: p})
		if err != nil {
			b.Fatal(err)
		}
		defer m.Shutdown()
		b.SetBytes(int64(pages) * mm.HugePage2M)
		if out := m.Run(func(t *kernel.Thread) { fn(b, t) }); out.Err() != nil {
			b.Fatal(out.Err())
		}
	})
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
func BenchmarkHugeCOW(b *testing.B) {
	benchHuge(b, 1, func(b *testing.B, t *kernel.Thread) {
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
	})
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
