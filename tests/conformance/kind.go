package conformance

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Kind is a kind of page that cases run on: what cow.c calls a runner. A case is a
// program on Env.Mem, which is filled with ones, and need not know what is behind it.
type Kind struct {
	// Name is the column of the table.
	Name string
	// About says in a line what it is.
	About string
	// Size is the size of a page. Cases look at everything up to wholeUpTo, and of larger
	// pages at a few places, so that nobody has to fill a gigabyte.
	Size uint64
	// Options, if not nil, adds to the machine of a case on so many pages.
	Options func(o *kernel.Options, pages uint64)
	// Steps is after how many points, for each page of the memory, a run counts as a livelock;
	// zero means stepLimit for all of it, which is enough where nobody copies a gigabyte.
	Steps uint64
	// Map maps n pages of the kind and returns where. Kinds of files set Env.Other too:
	// the same memory, mapped in another way, or memory like it.
	Map func(e *Env, n uint64) uint64
	// Prepare, if not nil, brings the pages into the state that the kind is about, after
	// they have been filled. It must make sure of it: there are no skipped cases.
	Prepare func(e *Env)
}

// wholeUpTo is the size up to which all bytes of a page are compared.
const wholeUpTo = x86.PMDSize

// The kinds that cases name. Private anonymous memory first, then what is not anonymous.
var (
	small = []string{"base", "swap", "swapcache"}
	anon  = []string{"base", "swap", "swapcache", "hugetlb2M", "hugetlb1G"}
	huge  = []string{"hugetlb2M", "hugetlb1G"}
	file  = []string{"zero", "shmem", "hugetlbfs2M", "hugetlbfs1G"}
)

// Kinds returns the kinds of page that the machine has, in the order of the columns.
func Kinds() []*Kind {
	return []*Kind{
		{Name: "base", Size: x86.PageSize, Map: mapAnon,
			About: "a page of private anonymous memory"},
		{Name: "swap", Size: x86.PageSize, Map: mapAnon, Prepare: (*Env).swapOut,
			About: "such a page, swapped out: its only copy is on the swap device"},
		{Name: "swapcache", Size: x86.PageSize, Map: mapAnon, Prepare: (*Env).swapOutKept,
			About: "such a page, swapped out and written, and still in the swap cache (cow.c takes whichever of the two it gets)"},
		{Name: "hugetlb2M", Size: x86.PMDSize, Map: mapHuge(x86.PMDSize, mm.MapHuge2M), Options: hugePool,
			About: "a huge page of 2 MiB, private (MAP_HUGETLB)"},
		{Name: "hugetlb1G", Size: 1 << 30, Map: mapHuge(1<<30, mm.MapHuge1G), Options: giantPool,
			Steps: 1_200_000, About: "a huge page of 1 GiB, private; cases look at a few places of it, and pin its beginning"},
		{Name: "zero", Size: x86.PageSize, Map: mapTwo, Prepare: (*Env).touchBoth,
			About: "private memory that has only been read; 2.6.29 has no shared zero page for it, later kernels do"},
		{Name: "shmem", Size: x86.PageSize, Map: mapShmem, Prepare: (*Env).touchBoth,
			About: "a private mapping of a page of shared memory: cow.c's memfd and tmpfile, one thing here"},
		{Name: "hugetlbfs2M", Size: x86.PMDSize, Map: mapHugeFile(x86.PMDSize, mm.MapHuge2M), Options: hugePool, Prepare: (*Env).touchBoth,
			About: "a private mapping of a huge page of shared memory: cow.c's memfd hugetlb"},
		{Name: "hugetlbfs1G", Size: 1 << 30, Map: mapHugeFile(1<<30, mm.MapHuge1G), Options: giantPool, Prepare: (*Env).touchBoth,
			Steps: 1_200_000, About: "the same with a page of 1 GiB"},
	}
}

// hugePool gives the machine a pool of a dozen pages of 2 MiB, giantPool one of 1 GiB: four for a
// case of one page, which may map it twice and copy it, eight for one of three. Boot writes into the
// struct pages of a pool, 16 MiB for each page, which is why it is not larger; the pages
// themselves cost the host what is written to.
func hugePool(o *kernel.Options, _ uint64) {
	o.Memory = 64 << 20
	o.HugePages = 12
}

func giantPool(o *kernel.Options, pages uint64) {
	o.Memory = (pages + 1) * 4 << 30 // in the free regime each CPU has a part of its own
	o.HugePages1G = int(2*pages + 2)
}

func mapAnon(e *Env, n uint64) uint64 { return e.MustMmap(n * x86.PageSize) }

func mapTwo(e *Env, n uint64) uint64 {
	e.Other = e.MustMmap(n * x86.PageSize)
	return e.MustMmap(n * x86.PageSize)
}

// mapShmem maps shared memory, and the same memory privately. The machine has no files of
// tmpfs that could be opened twice, so the object behind the first mapping is mapped again.
func mapShmem(e *Env, n uint64) uint64 {
	e.Other = e.MustMmapShared(n * x86.PageSize)
	e.Fill(e.Other, n*x86.PageSize, oldByte)
	return e.privately(e.Other, n*x86.PageSize)
}

func mapHuge(size uint64, flag mm.MapFlags) func(e *Env, n uint64) uint64 {
	return func(e *Env, n uint64) uint64 {
		a, err := e.Mmap(0, n*size, rw, private|mm.MapHugetlb|flag, -1, 0)
		e.must("mmap", err)
		return a
	}
}

func mapHugeFile(size uint64, flag mm.MapFlags) func(e *Env, n uint64) uint64 {
	return func(e *Env, n uint64) uint64 {
		a, err := e.Mmap(0, n*size, rw, shared|mm.MapHugetlb|flag, -1, 0)
		e.must("mmap", err)
		e.Other = a
		e.places(func(off, n uint64) { e.Fill(a+off, n, oldByte) })
		return e.privately(a, n*size)
	}
}

// privately maps the object behind a shared mapping once more, privately.
func (e *Env) privately(at, length uint64) (addr uint64) {
	e.must("mmap", e.Kernel(func(task *sched.Task) (err error) {
		m := e.MM()
		m.MmapSem.DownRead(task)
		v := m.FindVMA(task, at)
		req := mm.MmapRequest{Len: length, Prot: rw, Flags: mm.MapPrivate, File: v.File, Mapping: v.Mapping}
		m.MmapSem.UpRead(task)
		addr, err = mm.SysMmap(task, m, req, 0)
		return err
	}))
	return addr
}

// touchBoth reads every page of both mappings.
func (e *Env) touchBoth() {
	for at := uint64(0); at < e.Size; at += e.Kind.Size {
		e.Load8(e.Mem + at)
		e.Load8(e.Other + at)
	}
}

// swapTries bounds how often something is tried that other tasks may delay.
const swapTries = 60

// useSwap turns the machine's swap on, once.
func (e *Env) useSwap() {
	if !e.swapping {
		e.swapping = true
		e.must("swapon", e.Swapon(swapDisk, 0))
	}
}

// pageout is MADV_PAGEOUT until pagemap says that everything in [at, at+n) is in swap.
func (e *Env) pageout(t *kernel.Thread, at, n uint64) {
	if !e.tryPageout(t, at, n) {
		e.must("MADV_PAGEOUT", fmt.Errorf("pagemap does not say that it is swapped"))
	}
}

// tryPageout is pageout for memory that is pinned, which a policy may keep from being
// swapped: what the case asks is then answered before it begins.
func (e *Env) tryPageout(t *kernel.Thread, at, n uint64) bool {
	e.useSwap()
	for range swapTries {
		if !e.must("madvise", t.Madvise(at, n, mm.MadvPageout)) || swapped(t, at, n) {
			return true
		}
		_ = t.Nanosleep(1000)
	}
	return false
}

// swapped asks pagemap.
func swapped(t *kernel.Thread, at, n uint64) bool {
	es, err := t.Pagemap(at, n)
	for _, p := range es {
		if !p.Swapped() {
			return false
		}
	}
	return err == nil
}

// swapOutKept swaps the memory out, waits until it is written, and leaves it in the cache.
// A page whose writing ends at once is dropped by the reclaim that wrote it, which happens in
// the free regime: then all of it comes back, dirty, and goes again.
func (e *Env) swapOutKept() {
	for range swapTries {
		e.pageout(e.Thread, e.Mem, e.Size)
		e.written()
		if e.Machine().MM().SwapCachePages() == e.Size/x86.PageSize {
			break
		}
		for at := e.Mem; at < e.Mem+e.Size; at += x86.PageSize {
			e.Store8(at, e.Load8(at))
		}
	}
	e.swapOutCheck(e.Size / x86.PageSize)
}

// written waits until nothing is being written.
func (e *Env) written() {
	for range swapTries {
		if e.gauge(trace.NrWriteback) == 0 {
			return
		}
		_ = e.Nanosleep(10_000)
	}
}

// swapOut swaps the memory out and has reclaim drop it.
func (e *Env) swapOut() {
	e.pageout(e.Thread, e.Mem, e.Size)
	e.written()
	sys := e.Machine().MM()
	for range swapTries {
		if sys.SwapCachePages() == 0 {
			break
		}
		_ = e.Kernel(func(task *sched.Task) error { sys.DropClean(task); return nil })
	}
	e.swapOutCheck(0 /* cached */)
}

// swapOutCheck makes sure that all of the memory is swapped out and written, and so many
// pages of it are in the swap cache.
func (e *Env) swapOutCheck(cached uint64) {
	n, writing := e.Machine().MM().SwapCachePages(), e.gauge(trace.NrWriteback)
	if n != cached || writing != 0 || !swapped(e.Thread, e.Mem, e.Size) {
		e.must("swap out", fmt.Errorf("%d pages in the swap cache, %d being written", n, writing))
	}
}
