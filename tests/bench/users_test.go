package bench

import (
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// The other users of get_user_pages, and mremap, in host time of the parallel regime. An
// operation is a batch; ns/page is what a page costs.
//
//	go test -run '^$' -bench 'Vmsplice|Pipe|Ptrace|Driver|Mremap' ./tests/bench

// benchPages runs fn, which does b.Loop, on so many pages as a process of a machine for each
// policy. What it reports is ns for each page.
func benchPages(b *testing.B, pages int, fn func(b *testing.B, t *kernel.Thread)) {
	eachPolicy(b, []int{pages}, func(b *testing.B, p mm.Policy, pages int) {
		m, err := kernel.Boot(kernel.Options{CPUs: 1, Memory: 64 << 20, Policy: p})
		if err != nil {
			b.Fatal(err)
		}
		defer m.Shutdown()
		if out := m.Run(func(t *kernel.Thread) { fn(b, t) }); out.Err() != nil {
			b.Fatal(out.Err())
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(pages), "ns/page")
	})
}

// BenchmarkVmsplice puts 16 pages into a pipe and reads them.
func BenchmarkVmsplice(b *testing.B) {
	benchPages(b, 16, func(b *testing.B, t *kernel.Thread) {
		pipeLoop(b, t, func(w int, addr uint64, bytes int) (int, error) { return t.Vmsplice(w, addr, bytes, 0) })
	})
}

// BenchmarkPipe does the same with write.
func BenchmarkPipe(b *testing.B) {
	benchPages(b, 16, func(b *testing.B, t *kernel.Thread) { pipeLoop(b, t, t.WriteFD) })
}

func pipeLoop(b *testing.B, t *kernel.Thread, put func(w int, addr uint64, bytes int) (int, error)) {
	const batch = 16 * pageSize
	r, w, err := t.Pipe()
	must(err, "pipe")
	from, to := region(t, 16), region(t, 16)
	for b.Loop() {
		k, err := put(w, from, batch)
		must(err, "put")
		_, err = t.ReadFD(r, to, k)
		must(err, "read")
	}
}

// BenchmarkPtracePeek reads a word of another process's memory.
func BenchmarkPtracePeek(b *testing.B) {
	benchPages(b, 1, func(b *testing.B, t *kernel.Thread) {
		addr := region(t, 64)
		stop := t.MustMmapShared(pageSize)
		pid, err := t.Fork(func(c *kernel.Thread) {
			for c.Load32(stop) == 0 {
				_ = c.FutexWait(stop, 0, 0, kernel.FutexShared)
			}
		})
		must(err, "fork")
		for i := 0; b.Loop(); i++ {
			_, err := t.PtracePeek(pid, addr+size(i%64))
			must(err, "peek")
		}
		t.Store32(stop, 1)
		_, _ = t.FutexWake(stop, 1, kernel.FutexShared)
		_, _, err = t.Wait(pid)
		must(err, "wait")
	})
}

// BenchmarkDriver registers and unregisters 64 pages.
func BenchmarkDriver(b *testing.B) {
	benchPages(b, 64, func(b *testing.B, t *kernel.Thread) {
		addr := region(t, 64)
		for b.Loop() {
			r, err := t.RegisterMemory(addr, size(64), kernel.RegisterOptions{Write: true, Fast: true})
			must(err, "register")
			must(t.UnregisterMemory(r), "unregister")
		}
	})
}

// BenchmarkMremap moves 512 pages to and fro.
func BenchmarkMremap(b *testing.B) {
	benchPages(b, 512, func(b *testing.B, t *kernel.Thread) {
		a, to := region(t, 512), t.MustMmap(size(513))+pageSize
		for b.Loop() {
			_, err := t.Mremap(a, size(512), size(512), mm.MremapMayMove|mm.MremapFixed, to)
			must(err, "mremap")
			a, to = to, a
		}
	})
}
