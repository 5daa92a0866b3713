package kernel

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Huge pages. There are three ways to them:
//
//	t.MustMmapHuge(n, mm.HugePage2M, mm.MapPrivate)         anonymous, n huge pages
//	t.Mmap(0, len, prot, mm.MapPrivate|mm.MapAnonymous|mm.MapHugetlb|mm.MapHuge1G, -1, 0)
//	fd, err := t.Open("/hugetlbfs/name", fs.ORdwr|fs.OCreat)    a file; /hugetlbfs1G for 1 GiB
//
// Boot fills the pools: Options.HugePages and HugePages1G.

// bootHugePages fills the pools.
func (m *Machine) bootHugePages() error {
	// The large ones first: they need what is contiguous.
	for _, p := range []struct {
		name string
		n    int
		size uint64
	}{{"HugePages1G", m.opts.HugePages1G, mm.HugePage1G}, {"HugePages", m.opts.HugePages, mm.HugePage2M}} {
		if got := m.sys.BootHugePages(p.size, p.n); got != p.n {
			return &LimitError{p.name, uint64(p.n), uint64(got), "what fits into Memory next to everything else"}
		}
	}
	return nil
}

// MustMmapHuge maps n huge pages of the given size, mm.HugePage2M or mm.HugePage1G, anonymous,
// readable and writable; flags are mm.MapPrivate or mm.MapShared, and whatever else. If it
// fails, the process ends with SIGABRT.
func (t *Thread) MustMmapHuge(n int, size uint64, flags mm.MapFlags) uint64 {
	flags |= mm.MapAnonymous | mm.MapHugetlb
	if size == mm.HugePage1G {
		flags |= mm.MapHuge1G
	}
	addr, err := t.Mmap(0, uint64(n)*size, mm.ProtRead|mm.ProtWrite, flags, -1, 0)
	if err != nil {
		t.abort(fmt.Sprintf("mmap of %d huge pages of %d MiB: %v", n, size>>20, err))
	}
	return addr
}

// SetNrHugepages asks for a pool of n pages of 2 MiB and returns how many there are then:
// echo n > /proc/sys/vm/nr_hugepages. Pages in use stay.
func (t *Thread) SetNrHugepages(n uint64) (got uint64, err error) {
	err = t.Kernel(func(task *sched.Task) (err error) {
		got, err = t.m.sys.SetNrHugepages(task, mm.HugePage2M, n)
		return err
	})
	return got, err
}

// SetNrOvercommitHugepages allows n pages of 2 MiB beyond the pool, made when somebody needs
// them and given back afterwards: echo n > /proc/sys/vm/nr_overcommit_hugepages.
func (t *Thread) SetNrOvercommitHugepages(n uint64) error {
	return t.Kernel(func(task *sched.Task) error {
		return t.m.sys.SetNrOvercommitHugepages(task, mm.HugePage2M, n)
	})
}

// HugePool returns the pool of pages of the given size, mm.HugePage2M or mm.HugePage1G. For
// anybody; while the machine runs it is approximate.
func (m *Machine) HugePool(size uint64) mm.HugePool {
	for _, p := range m.sys.HugePools() {
		if p.Size == size {
			return p
		}
	}
	return mm.HugePool{}
}

// SysHugepages is what the directories of /sys/kernel/mm/hugepages hold, a line for each
// file. For anybody.
func (m *Machine) SysHugepages() string {
	var b strings.Builder
	for _, p := range m.sys.HugePools() {
		for _, f := range []struct {
			name string
			n    uint64
		}{
			{"nr_hugepages", p.Max}, {"nr_overcommit_hugepages", p.Overcommit}, {"free_hugepages", p.Free},
			{"resv_hugepages", p.Reserved}, {"surplus_hugepages", p.Surplus},
		} {
			fmt.Fprintf(&b, "hugepages-%dkB/%s %d\n", p.Size>>10, f.name, f.n)
		}
	}
	return b.String()
}

// Ftruncate sets the size of a file of hugetlbfs: ftruncate(2). Errors: EBADF, and those of
// fs.File.Truncate.
func (t *Thread) Ftruncate(fd int, size int64) error {
	_, err := t.withFile(SysFtruncate, fd, uint64(size), func(task *sched.Task, f *fs.File) (int64, error) {
		return 0, f.Truncate(task, size)
	})
	return err
}

// Unlink takes the name of a file of hugetlbfs away: unlink(2). Errors are those of
// fs.System.Unlink.
func (t *Thread) Unlink(path string) error {
	task := t.enter(SysUnlink, 0, 0)
	err := t.m.fs.Unlink(task, path)
	t.leave(SysUnlink, result(0, err))
	return err
}
