package bench

import (
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// The other users of get_user_pages, and mremap, in host time of the parallel regime. An
// operation is one page.
//
//	go test -run '^$' -bench 'Vmsplice|Pipe|Ptrace|Driver|Mremap' ./tests/bench

func benchPages(b *testing.B, fn func(t *kernel.Thread, n int)) {
	m, err := kernel.Boot(kernel.Options{CPUs: 1, Memory: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Shutdown()
	if out := m.Run(func(t *kernel.Thread) { fn(t, b.N) }); out.Err() != nil {
		b.Fatal(out.Err())
	}
}

// BenchmarkVmsplice puts pages into a pipe and reads them, 16 at a time.
func BenchmarkVmsplice(b *testing.B) {
	benchPages(b, func(t *kernel.Thread, n int) {
		pipeLoop(b, t, n, func(w int, addr uint64, bytes int) (int, error) { return t.Vmsplice(w, addr, bytes, 0) })
	})
}

// BenchmarkPipe does the same with write.
func BenchmarkPipe(b *testing.B) {
	benchPages(b, func(t *kernel.Thread, n int) { pipeLoop(b, t, n, t.WriteFD) })
}

func pipeLoop(b *testing.B, t *kernel.Thread, n int, put func(w int, addr uint64, bytes int) (int, error)) {
	const batch = 16 * pageSize
	r, w, err := t.Pipe()
	must(err, "pipe")
	from, to := region(t, 16), region(t, 16)
	b.ResetTimer()
	for done := 0; done < n; done += 16 {
		k, err := put(w, from, batch)
		must(err, "put")
		_, err = t.ReadFD(r, to, k)
		must(err, "read")
	}
}

// BenchmarkPtracePeek reads a word of another process's memory.
func BenchmarkPtracePeek(b *testing.B) {
	benchPages(b, func(t *kernel.Thread, n int) {
		addr := region(t, 64)
		stop := t.MustMmapShared(pageSize)
		pid, err := t.Fork(func(c *kernel.Thread) {
			for c.Load32(stop) == 0 {
				_ = c.FutexWait(stop, 0, 0, kernel.FutexShared)
			}
		})
		must(err, "fork")
		b.ResetTimer()
		for i := range n {
			_, err := t.PtracePeek(pid, addr+size(i%64))
			must(err, "peek")
		}
		b.StopTimer()
		t.Store32(stop, 1)
		_, _ = t.FutexWake(stop, 1, kernel.FutexShared)
		_, _, err = t.Wait(pid)
		must(err, "wait")
	})
}

// BenchmarkDriver registers and unregisters 64 pages.
func BenchmarkDriver(b *testing.B) {
	benchPages(b, func(t *kernel.Thread, n int) {
		addr := region(t, 64)
		b.ResetTimer()
		for done := 0; done < n; done += 64 {
			r, err := t.RegisterMemory(addr, size(64), kernel.RegisterOptions{Write: true, Fast: true})
			must(err, "register")
			must(t.UnregisterMemory(r), "unregister")
		}
	})
}

// BenchmarkMremap moves 512 pages to and fro.
func BenchmarkMremap(b *testing.B) {
	benchPages(b, func(t *kernel.Thread, n int) {
		a, to := region(t, 512), t.MustMmap(size(513))+pageSize
		b.ResetTimer()
		for done := 0; done < n; done += 512 {
			_, err := t.Mremap(a, size(512), size(512), mm.MremapMayMove|mm.MremapFixed, to)
			must(err, "mremap")
			a, to = to, a
		}
	})
}
