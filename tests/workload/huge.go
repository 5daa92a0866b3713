package workload

import (
	"slices"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Programs whose buffer can be of huge pages. Two buffers that are aligned to small pages
// share a huge one, so that what needs an odd offset on small pages goes wrong here
// without; and hugetlb decides by other counts (thread lines 3556, 6850).
//
// The rest has no such form in the matrix because huge pages make no difference there: KSM and
// reclaim pass them by (ksm_pin, swap_pin); vfork shares the whole address space (user_ways
// way=3); exit waits for its asynchronous I/O before it looks at a mapping (unmap_pin exit=1);
// torn pin=0 has no copy at all; and memory that was never touched is the same zero page
// (readonly_buffer kind=1, kind=2). mprotect_pin aio=1 could have one; it would say of direct I/O what
// unmap_pin and fork_twice say.

// withHuge gives a program the parameter huge. pages is how many small pages its buffer has
// for how many processes at most: the pool holds a copy for each. variants are the
// settings with huge pages that the matrix runs; they are in the group Hugetlb.
func withHuge(w *Workload, pages func(Values) int64, variants ...string) *Workload {
	w.Params = append(w.Params, Param{Name: "huge", Usage: "1: the buffer is of huge pages", Max: 1})
	if len(w.Variants) == 0 {
		w.Variants = []string{""}
	}
	w.Variants = append(slices.Clip(w.Variants), variants...)
	needs, needsFor, memory, tune := w.Needs, w.NeedsFor, w.Memory, w.Tune
	w.NeedsFor = func(v Values) mm.Guarantee {
		g := needs
		if needsFor != nil {
			g = needsFor(v)
		}
		if v["huge"] == 1 {
			g |= mm.Hugetlb
		}
		return g
	}
	pool := func(v Values) uint64 {
		if v["huge"] == 0 {
			return 0
		}
		return hugeLength(uint64(pages(v))<<x86.PageShift) / mm.HugePage2M * 3
	}
	w.Memory = func(v Values) uint64 { return memory(v) + pool(v)*mm.HugePage2M }
	w.Tune = func(v Values, o *kernel.Options) {
		if tune != nil {
			tune(v, o)
		}
		o.HugePages = int(pool(v))
	}
	return w
}

// onePage is the size of a buffer of one page.
func onePage(Values) int64 { return 1 }

// hugeLength rounds up to huge pages.
func hugeLength(n uint64) uint64 { return (n + mm.HugePage2M - 1) &^ (mm.HugePage2M - 1) }

// bufferLength is how long a buffer of so many bytes is mapped.
func (r *Run) bufferLength(size uint64) uint64 {
	if r.Values["huge"] == 1 {
		return hugeLength(size)
	}
	return size
}

// mapBuffer maps a private buffer, of huge pages if the parameter says so.
func (r *Run) mapBuffer(t *kernel.Thread, size uint64) uint64 {
	if r.Values["huge"] == 0 {
		return t.MustMmap(size)
	}
	return t.MustMmapHuge(int(hugeLength(size)/mm.HugePage2M), mm.HugePage2M, mm.MapPrivate)
}

// unmapBuffer unmaps what mapBuffer has mapped.
func (r *Run) unmapBuffer(t *kernel.Thread, buf, size uint64) {
	r.failed(t.Munmap(buf, r.bufferLength(size)), "munmap")
}
