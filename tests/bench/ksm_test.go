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
	scan := func(t *kernel.Thread, _, _ uint64) { must(t.KSMScan(1), "KSMScan") }
	for _, c := range []struct {
		name  string
		after int // passes before
		fn    func(t *kernel.Thread, addr, bytes uint64)
	}{
		{"checksum", 0, scan}, {"merge", 1, scan}, {"merged", 2, scan},
		{"unmerge", 2, func(t *kernel.Thread, addr, bytes uint64) {
			must(t.Madvise(addr, bytes, mm.MadvUnmergeable), "madvise")
		}},
	} {
		b.Run("pass="+c.name, func(b *testing.B) {
			eachPolicy(b, []int{4096}, func(b *testing.B, p mm.Policy, pages int) {
				hosts := kernel.NewHosts()
				x := machine{o: kernel.Options{Hosts: hosts, Memory: smallMemory, Prefault: true, KSM: true, Policy: p}}
				b.Cleanup(func() {
					x.stop()
					hosts.Close()
				})
				benchBatch(b, func(n int) time.Duration {
					return x.time(func(t *kernel.Thread) time.Duration {
						addr := t.MustMmap(size(n))
						must(t.Madvise(addr, size(n), mm.MadvMergeable), "madvise")
						touch(t, addr, n)
						must(t.KSMScan(c.after), "KSMScan")
						start := time.Now()
						c.fn(t, addr, size(n))
						return time.Since(start)
					})
				}, pages, "page")
			})
		})
	}
}
