package bench

import (
	"time"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/tests/speed"
)

const (
	pageSize = x86.PageSize
	megabyte = 1 << 20
)

// size returns the bytes of n pages.
func size(n int) uint64 { return uint64(n) * pageSize }

// touch writes the first byte of each of n pages.
func touch(t *kernel.Thread, addr uint64, n int) {
	for end := addr + size(n); addr < end; addr += pageSize {
		t.Store8(addr, 1)
	}
}

// region maps n pages and touches them.
func region(t *kernel.Thread, n int) uint64 {
	addr := t.MustMmap(size(n))
	touch(t, addr, n)
	return addr
}

// loadHit does n loads that hit the TLB.
func loadHit(t *kernel.Thread, n int) time.Duration {
	base := region(t, speed.HitSpan/pageSize)
	off, sum := uint64(0), uint64(0)
	start := time.Now()
	for range n {
		sum += t.Load64(base + off)
		off = (off + speed.HitStride) & (speed.HitSpan - 1)
	}
	d := time.Since(start)
	t.Store64(base, sum)
	return d
}

// storeHit does n stores that hit the TLB.
func storeHit(t *kernel.Thread, n int) time.Duration {
	base := region(t, speed.HitSpan/pageSize)
	off := uint64(0)
	start := time.Now()
	for i := range n {
		t.Store64(base+off, uint64(i))
		off = (off + speed.HitStride) & (speed.HitSpan - 1)
	}
	return time.Since(start)
}

// loadMiss does n loads, each of which finds the TLB entry of another page in
// its place: two regions whose pages fall on the same entries take turns.
func loadMiss(t *kernel.Thread, n int) time.Duration {
	const pages, apart = 512, 4 << 20 // the TLB has 1024 entries
	base := t.MustMmap(2 * apart)
	touch(t, base, pages)
	touch(t, base+apart, pages)
	off, sum := uint64(0), uint64(0)
	start := time.Now()
	for range n / 2 {
		sum += t.Load64(base + off)
		sum += t.Load64(base + apart + off)
		off = (off + speed.HitStride) & (pages*pageSize - 1)
	}
	d := time.Since(start)
	t.Store64(base, sum)
	return d
}

// copyMiB writes the same MiB to the same place n times.
func copyMiB(t *kernel.Thread, n int) time.Duration {
	base := region(t, megabyte/pageSize)
	buf := make([]byte, megabyte)
	t.Write(base, buf)
	start := time.Now()
	for range n {
		t.Write(base, buf)
	}
	return time.Since(start)
}

// walk does n walks of warm tables.
func walk(t *kernel.Thread, n int) time.Duration {
	const span = 512 * pageSize
	base := region(t, span/pageSize)
	var d time.Duration
	kernelMode(t, func(task *sched.Task) {
		c, off := task.C, uint64(0)
		start := time.Now()
		for range n {
			c.Walk(base+off, false /* write */, true /* user */)
			off = (off + speed.HitStride) & (span - 1)
		}
		d = time.Since(start)
	})
	return d
}

// kernelMode runs fn as kernel code of the thread.
func kernelMode(t *kernel.Thread, fn func(task *sched.Task)) {
	_ = t.Kernel(func(task *sched.Task) error { // fn returns no error
		fn(task)
		return nil
	})
}

// faultMinor touches n pages for the first time.
func faultMinor(t *kernel.Thread, n int) time.Duration {
	addr := t.MustMmap(size(n))
	start := time.Now()
	touch(t, addr, n)
	d := time.Since(start)
	must(t.Munmap(addr, size(n)), "munmap")
	return d
}

// populate maps n pages at once.
func populate(t *kernel.Thread, n int) time.Duration {
	start := time.Now()
	addr, err := t.Mmap(0, size(n), mm.ProtRead|mm.ProtWrite,
		mm.MapPrivate|mm.MapAnonymous|mm.MapPopulate, -1, 0)
	d := time.Since(start)
	must(err, "mmap")
	must(t.Munmap(addr, size(n)), "munmap")
	return d
}

// munmap unmaps n touched pages.
func munmap(t *kernel.Thread, n int) time.Duration {
	addr := region(t, n)
	start := time.Now()
	must(t.Munmap(addr, size(n)), "munmap")
	return time.Since(start)
}

// mprotect makes n dirty pages read-only.
func mprotect(t *kernel.Thread, n int) time.Duration {
	addr := region(t, n)
	start := time.Now()
	must(t.Mprotect(addr, size(n), mm.ProtRead), "mprotect")
	return time.Since(start)
}

// mremap moves n pages to where they fit into other tables.
func mremap(t *kernel.Thread, n int) time.Duration {
	addr := region(t, n)
	room := t.MustMmap(size(n + 1))
	to := room
	if (to-addr)%x86.PMDSize == 0 {
		to += x86.PageSize
	}
	start := time.Now()
	_, err := t.Mremap(addr, size(n), size(n), mm.MremapMayMove|mm.MremapFixed, to)
	d := time.Since(start)
	must(err, "mremap")
	must(t.Munmap(room, size(n+1)), "munmap")
	return d
}

// The calls that native makes too.
const (
	fastCall = 240 // pages of one vmsplice
	slowCall = 256 // pages of one process_vm_readv
)

// gupFast takes n present pages; giving them back is not timed.
func gupFast(t *kernel.Thread, n int) time.Duration {
	return pin(t, n, fastCall, takeFast)
}

func takeFast(task *sched.Task, addr uint64, pages []*page.Page) (int, error) {
	return mm.GetUserPagesFast(task, addr, len(pages), true /* write */, mm.PinGet, pages)
}

// gupSlow does the same by get_user_pages.
func gupSlow(t *kernel.Thread, n int) time.Duration {
	space := t.MM()
	return pin(t, n, slowCall, func(task *sched.Task, addr uint64, pages []*page.Page) (int, error) {
		space.MmapSem.DownRead(task)
		got, err := mm.GetUserPages(task, space, addr, len(pages), 0, mm.PinGet, pages)
		space.MmapSem.UpRead(task)
		return got, err
	})
}

type pinner func(task *sched.Task, addr uint64, pages []*page.Page) (int, error)

func pin(t *kernel.Thread, n, call int, get pinner) (d time.Duration) {
	addr := region(t, n)
	pages := pageSlice(n)
	kernelMode(t, func(task *sched.Task) {
		start := time.Now()
		pinAll(task, addr, pages, call, get)
		d = time.Since(start)
		mm.SystemOf(task).PutUserPages(task, pages, mm.PinGet)
	})
	return d
}

// pageSlice makes room for n pages, in memory that the host has populated: the
// first touch of a page of it costs as much as a hundred references.
func pageSlice(n int) []*page.Page {
	pages := make([]*page.Page, n)
	clear(pages)
	return pages
}

// pinAll takes the pages from addr on, call at a time.
func pinAll(task *sched.Task, addr uint64, pages []*page.Page, call int, get pinner) {
	for at := 0; at < len(pages); {
		k := min(call, len(pages)-at)
		got, err := get(task, addr+size(at), pages[at:at+k])
		if got != k {
			task.Oops("took %d pages of %d: %v", got, k, err)
		}
		at += k
	}
}
