package bench

import (
	"testing"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// BenchmarkKSM is what a pass costs for each page: that looks at pages for the first time
// (checksum), that merges equal ones, that finds them merged, and taking a merged page apart.
func BenchmarkKSM(b *testing.B) {
	const pages = 4096
	hosts := kernel.NewHosts()
	x := machine{o: kernel.Options{Hosts: hosts, Memory: smallMemory, Prefault: true, KSM: true}}
	b.Cleanup(func() {
		x.stop()
		hosts.Close()
	})
	// pass times fn after so many passes over fresh, equal pages.
	pass := func(after int, fn func(t *kernel.Thread, addr uint64)) func(n int) time.Duration {
		return func(int) time.Duration {
			return x.time(func(t *kernel.Thread) time.Duration {
				addr := t.MustMmap(size(pages))
				must(t.Madvise(addr, size(pages), mm.MadvMergeable), "madvise")
				touch(t, addr, pages)
				must(t.KSMScan(after), "KSMScan")
				start := time.Now()
				fn(t, addr)
				return time.Since(start)
			})
		}
	}
	scan := func(t *kernel.Thread, _ uint64) { must(t.KSMScan(1), "KSMScan") }
	b.Run("checksum", func(b *testing.B) { benchBatch(b, pass(0, scan), pages, "page") })
	b.Run("merge", func(b *testing.B) { benchBatch(b, pass(1, scan), pages, "page") })
	b.Run("merged", func(b *testing.B) { benchBatch(b, pass(2, scan), pages, "page") })
	b.Run("unmerge", func(b *testing.B) {
		benchBatch(b, pass(2, func(t *kernel.Thread, addr uint64) {
			must(t.Madvise(addr, size(pages), mm.MadvUnmergeable), "madvise")
		}), pages, "page")
	})
}
