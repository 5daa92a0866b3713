package conformance

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Linux tools/testing/selftests/mm/gup_longterm.c: may memory of a file be pinned for long?
// On the kinds of file there are here, which are tmpfs and hugetlbfs, always. Beyond asking
// whether the pin is had, the device must see the memory as it is.
//
// Its kinds of file are memfd, tmpfile, local tmpfile and memfd hugetlb. The first three are
// one thing here; local files come with file systems.

// Longterm returns the cases of gup_longterm.c.
func Longterm() []*Case {
	var cs []*Case
	add := func(title string, private bool, o kernel.RegisterOptions) {
		c := &Case{
			Name: fmt.Sprintf("longterm %d: %s", len(cs)+1, title), On: []string{"shmem", "hugetlbfs2M", "hugetlbfs1G"}, Stock: always("pass"),
			Run: func(e *Env) { longterm(e, private, o) },
		}
		cs = append(cs, c)
	}
	for _, private := range []bool{false, true} {
		where := " of a MAP_SHARED mapping"
		if private {
			where = " of a MAP_PRIVATE mapping"
		}
		add("R/W pin"+where, private, kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
		add("R/W GUP-fast pin"+where, private, kernel.RegisterOptions{Write: true, Fast: true, Kind: mm.PinLongterm})
		add("R/O pin"+where, private, kernel.RegisterOptions{Kind: mm.PinLongterm})
		add("R/O GUP-fast pin"+where, private, kernel.RegisterOptions{Fast: true, Kind: mm.PinLongterm})
		// A fixed buffer is registered for writing whatever it is used for.
		add("iouring fixed buffer (a driver's here)"+where, private, kernel.RegisterOptions{Write: true, Umem: true, Kind: mm.PinLongterm})
	}
	return cs
}

// longterm faults the memory in by filling it, takes write permission away if the pin is
// for reading, and pins.
func longterm(e *Env, private bool, o kernel.RegisterOptions) {
	if !private {
		e.Mem, e.Other = e.Other, e.Mem
	}
	e.modify(e.Thread)
	if !o.Write {
		e.must("mprotect", e.Mprotect(e.Mem, e.Size, mm.ProtRead))
	}
	r := e.pin(o)
	e.deviceSees(e.look(e.Thread, e.Mem), r)
	e.unpin(r)
}

// Linux tools/testing/selftests/mm/hugetlb_dio.c: a direct write from huge pages, with
// starts and ends that are aligned to base pages or not, must leave no pin behind. Here it
// runs on all kinds of private memory, and the disk must hold what the memory held. On huge pages the free
// ones are counted, as there; on small ones the machine's ledger of references is asked,
// as after every case.

// DirectIO returns the cases of hugetlb_dio.c.
func DirectIO() []*Case {
	const half = x86.PageSize / 2
	var cs []*Case
	for i, c := range []struct {
		title      string
		start, end uint64
	}{
		{"start and end aligned to pages", 0, 3 * x86.PageSize},
		{"start aligned, end not", 0, 3*x86.PageSize - half},
		{"start not aligned, end aligned", half, 3 * x86.PageSize},
		{"neither aligned", half, 3*x86.PageSize + half},
	} {
		cs = append(cs, &Case{
			Name: fmt.Sprintf("hugetlb_dio %d: O_DIRECT write, %s", i+1, c.title), On: anon, Bytes: 4 * x86.PageSize, Stock: always("pass"),
			Run: func(e *Env) { directWrite(e, c.start, c.end) },
		})
	}
	return cs
}

func directWrite(e *Env, start, end uint64) {
	fd := e.openDisk()
	n := int(end - start)
	free := e.hugeFree()
	got, err := e.Pwrite(fd, e.Mem+start, n, 0)
	e.all("write", got, n, err)
	e.same("the disk", e.Bytes(e.Mem+start, n), e.Machine().DiskData("vda")[:n])
	pages := e.Size / e.Kind.Size
	e.must("munmap", e.Munmap(e.Mem, e.Size))
	if now := e.hugeFree(); e.Kind.Size > x86.PageSize && now != free+int(pages) {
		e.fail("%d huge pages are free after munmap, and %d were before", now, free)
	}
}

// hugeFree is how many pages of the kind's size are free in the pool: HugePages_Free of
// /proc/meminfo for 2 MiB, free_hugepages of sysfs for 1 GiB.
func (e *Env) hugeFree() int { return int(e.Machine().HugePool(e.Kind.Size).Free) }
