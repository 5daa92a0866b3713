package policy_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// Every allocation of some small programs is made to fail, one at a time, and what is left
// behind is looked at: references, map counts, swap slots, promises, address spaces.

// failing is a run of a program in which an allocation fails: it collects the errors that
// system calls return, and what memory holds that should not.
type failing struct {
	errs  map[unix.Errno]bool
	wrong []string
}

// ok notes an error, and reports whether there was none.
func (f *failing) ok(err error) bool {
	if err == nil {
		return true
	}
	e := unix.Errno(0)
	if bus := new(kernel.SigError); errors.As(err, &bus) {
		e = unix.EFAULT
	} else if !errors.As(err, &e) {
		f.wrong = append(f.wrong, "no errno: "+err.Error())
	}
	f.errs[e] = true
	return false
}

func (f *failing) want(what string, got, want uint64) {
	if got != want {
		f.wrong = append(f.wrong, fmt.Sprintf("%s is %d, want %d", what, got, want))
	}
}

// anon maps private memory of n pages, each with its number stored.
func (f *failing) anon(th *kernel.Thread, n uint64) (uint64, bool) {
	a, err := th.MmapAnon(n * pg)
	if !f.ok(err) {
		return 0, false
	}
	for i := range n {
		if !f.ok(th.TryStore64(a+i*pg, i+1)) {
			return 0, false
		}
	}
	return a, true
}

func (f *failing) fork(th *kernel.Thread, fn func(*kernel.Thread)) {
	if pid, err := th.Fork(fn); f.ok(err) {
		_, _, err = th.Wait(pid)
		f.ok(err)
	}
}

type allocProgram struct {
	name string
	run  func(f *failing, th *kernel.Thread)
}

// allocPrograms are the programs. Each goes on after an error as a careful program would.
var allocPrograms = []allocProgram{
	{"fork", func(f *failing, th *kernel.Thread) {
		a, ok := f.anon(th, 3)
		if !ok {
			return
		}
		f.fork(th, func(c *kernel.Thread) {
			c.Store64(a, 99)
			f.want("child's page", c.Load64(a+pg), 2)
		})
		f.ok(th.TryStore64(a+8, 7))
		if v, err := th.TryLoad64(a); f.ok(err) {
			f.want("parent's page", v, 1)
		}
	}},
	{"swap", func(f *failing, th *kernel.Thread) {
		if !f.ok(th.Swapon("/dev/swap", 0)) {
			return
		}
		a, ok := f.anon(th, 3)
		if !ok {
			return
		}
		out := func() {
			for range 2 {
				f.ok(th.Madvise(a, 3*pg, mm.MadvPageout))
				th.Nanosleep(5_000_000)
			}
		}
		out()
		f.fork(th, func(c *kernel.Thread) { c.Store64(a, 99); f.want("child", c.Load64(a+pg), 2) })
		out()
		if v, err := th.TryLoad64(a); f.ok(err) {
			f.want("parent", v, 1)
		}
		f.ok(th.Swapoff("/dev/swap"))
		if v, err := th.TryLoad64(a + 2*pg); f.ok(err) {
			f.want("parent", v, 3)
		}
	}},
	{"shared", func(f *failing, th *kernel.Thread) {
		if !f.ok(th.Swapon("/dev/swap", 0)) {
			return
		}
		a, err := th.Mmap(0, 3*pg, mm.ProtRead|mm.ProtWrite, mm.MapShared|mm.MapAnonymous, -1, 0)
		if !f.ok(err) {
			return
		}
		f.fork(th, func(c *kernel.Thread) { c.Store64(a, 5) })
		f.ok(th.TryStore64(a+pg, 6))
		for range 2 {
			f.ok(th.Madvise(a, 3*pg, mm.MadvPageout))
			f.ok(th.Kernel(func(t *sched.Task) error { th.Machine().MM().DropClean(t); return nil }))
			th.Nanosleep(5_000_000)
		}
		if v, err := th.TryLoad64(a + pg); f.ok(err) && v != 0 {
			f.want("shared page", v, 6)
		}
		_, err = th.FutexWake(a, 1, kernel.FutexShared)
		f.ok(err)
		f.ok(th.Munmap(a+pg, pg))
		f.ok(th.Swapoff("/dev/swap"))
	}},
	{"private", func(f *failing, th *kernel.Thread) { // of shared memory: the first store copies
		a, err := th.Mmap(0, 2*pg, mm.ProtRead|mm.ProtWrite, mm.MapShared|mm.MapAnonymous, -1, 0)
		if !f.ok(err) || !f.ok(th.TryStore64(a, 5)) {
			return
		}
		var b uint64
		if !f.ok(th.Kernel(func(t *sched.Task) (err error) {
			m := mm.CurrentMM(t)
			m.MmapSem.DownRead(t)
			v := m.FindVMA(t, a)
			m.MmapSem.UpRead(t)
			b, err = mm.SysMmap(t, m, mm.MmapRequest{Len: 2 * pg, Prot: mm.ProtRead | mm.ProtWrite, Flags: mm.MapPrivate, File: v.File, Mapping: v.Mapping}, 0)
			return err
		})) {
			return
		}
		if f.ok(th.TryStore64(b+8, 6)) {
			if v, err := th.TryLoad64(b); f.ok(err) {
				f.want("private page", v, 5)
			}
		}
		if v, err := th.TryLoad64(a + 8); f.ok(err) {
			f.want("shared page", v, 0)
		}
	}},
	{"untouched", func(f *failing, th *kernel.Thread) { // a read pin gets the zero page
		a, err := th.MmapAnon(pg)
		if !f.ok(err) {
			return
		}
		if r, err := th.RegisterMemory(a, pg, kernel.RegisterOptions{}); f.ok(err) {
			buf := []byte{1}
			if f.ok(th.DeviceRead(r, 0, buf)) {
				f.want("the device's byte", uint64(buf[0]), 0)
			}
			f.ok(th.UnregisterMemory(r))
		}
	}},
	{"mappings", func(f *failing, th *kernel.Thread) {
		a, ok := f.anon(th, 8)
		if !ok {
			return
		}
		f.ok(th.Mprotect(a+2*pg, 2*pg, mm.ProtRead))
		f.ok(th.Mprotect(a+2*pg, 2*pg, mm.ProtRead|mm.ProtWrite))
		f.ok(th.Munmap(a+5*pg, pg))
		if b, err := th.Mremap(a, 2*pg, 4*pg, mm.MremapMayMove, 0); f.ok(err) {
			if v, err := th.TryLoad64(b + pg); f.ok(err) {
				f.want("moved page", v, 2)
			}
		}
		f.ok(th.Madvise(a+6*pg, pg, mm.MadvDontFork))
		f.ok(th.Mlock(a+7*pg, pg))
		f.ok(th.Munlock(a+7*pg, pg))
		b := th.Brk(0)
		th.Brk(b + 3*pg)
		_, err := th.Mincore(a+6*pg, pg)
		f.ok(err)
	}},
	{"direct", func(f *failing, th *kernel.Thread) {
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		if !f.ok(err) {
			return
		}
		// Touched: an untouched page trips two of the policies without any failure.
		a, ok := f.anon(th, 4)
		if !ok {
			return
		}
		if _, err = th.Pread(fd, a, pg, 0); f.ok(err) {
			_, err = th.Pwrite(fd, a, 2*pg, 0)
			f.ok(err)
		}
		ctx, err := th.IoSetup(4)
		if f.ok(err) {
			n, err := th.IoSubmit(ctx, []kernel.IOCB{
				{Op: fs.IOCBCmdPread, FD: fd, Buf: a + 2*pg, Len: pg, Data: 1},
				{Op: fs.IOCBCmdPwrite, FD: fd, Buf: a, Len: 512, Data: 2},
			})
			f.ok(err)
			f.fork(th, func(c *kernel.Thread) { c.Store8(a, 1) })
			if n > 0 {
				evs, err := th.IoGetevents(ctx, n, n, -1)
				f.ok(err)
				for _, e := range evs {
					if e.Res < 0 {
						f.errs[unix.Errno(-e.Res)] = true
					}
				}
			}
			f.ok(th.IoDestroy(ctx))
		}
		f.ok(th.Close(fd))
	}},
	{"pipe", func(f *failing, th *kernel.Thread) {
		r, w, err := th.Pipe()
		if !f.ok(err) {
			return
		}
		a, ok := f.anon(th, 2)
		if !ok {
			return
		}
		if n, err := th.Vmsplice(w, a, 2*pg, 0); f.ok(err) && n == 2*pg {
			f.fork(th, func(c *kernel.Thread) { c.Store64(a, 9) })
			_, err = th.ReadFD(r, a, pg)
			f.ok(err)
		}
		_, err = th.WriteFD(w, a, 100)
		f.ok(err)
		f.ok(th.Close(w))
		f.ok(th.Close(r))
	}},
	{"driver", func(f *failing, th *kernel.Thread) {
		a, ok := f.anon(th, 2)
		if !ok {
			return
		}
		// The owner of the memory may be killed with its registration; who is left gives
		// it back, as the end of its files would.
		var r *kernel.Registration
		f.fork(th, func(owner *kernel.Thread) {
			for _, o := range []kernel.RegisterOptions{{Write: true, Fast: true}, {Write: true}} {
				var err error
				if r, err = owner.RegisterMemory(a, 2*pg, o); !f.ok(err) {
					continue
				}
				f.fork(owner, func(c *kernel.Thread) { c.Store64(a, 9) })
				f.ok(owner.TryStore64(a+8, 3))
				f.ok(owner.DeviceWrite(r, 100, []byte{42}))
				f.ok(owner.UnregisterMemory(r))
			}
		})
		if r != nil {
			_ = th.UnregisterMemory(r) // EINVAL if that has been done
		}
	}},
	{"ptrace", func(f *failing, th *kernel.Thread) {
		a, ok := f.anon(th, 2)
		if !ok {
			return
		}
		pid, err := th.Fork(func(c *kernel.Thread) { c.Nanosleep(50_000_000) })
		if !f.ok(err) {
			return
		}
		if v, err := th.PtracePeek(pid, a); f.ok(err) {
			f.want("peek", v, 1)
		}
		f.ok(th.PtracePoke(pid, a+pg, 8))
		_, _, err = th.Wait(pid)
		f.ok(err)
	}},
	{"huge", func(f *failing, th *kernel.Thread) {
		const path = fs.HugetlbfsDir + "/f"
		if _, err := th.SetNrHugepages(6); !f.ok(err) {
			return
		}
		f.fork(th, func(c *kernel.Thread) { hugeProgram(f, c, path) })
		if err := th.Unlink(path); err != unix.ENOENT {
			f.ok(err)
		}
		f.ok(th.SetNrOvercommitHugepages(1))
		_, err := th.SetNrHugepages(0)
		f.ok(err)
		if a, err := th.Mmap(0, mm.HugePage2M, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous|mm.MapHugetlb, -1, 0); f.ok(err) {
			f.ok(th.TryStore64(a, 1)) // a surplus page
			f.ok(th.Munmap(a, mm.HugePage2M))
		}
	}},
	{"ksm", func(f *failing, th *kernel.Thread) {
		a, err := th.MmapAnon(4 * pg)
		if !f.ok(err) || !f.ok(th.Madvise(a, 4*pg, mm.MadvMergeable)) {
			return
		}
		for i := range uint64(4) {
			if !f.ok(th.TryStore64(a+i*pg, i/2+1)) {
				return
			}
		}
		f.ok(th.KSMScan(2))
		f.fork(th, func(c *kernel.Thread) { f.ok(c.KSMScan(2)); c.Store64(a, 9); f.want("child's twin", c.Load64(a+pg), 1) })
		f.ok(th.TryStore64(a+3*pg, 8))
		if v, err := th.TryLoad64(a + 2*pg); f.ok(err) {
			f.want("twin", v, 2)
		}
		f.ok(th.Madvise(a, 4*pg, mm.MadvUnmergeable))
	}},
	{"threads", func(f *failing, th *kernel.Thread) {
		a, ok := f.anon(th, 2)
		if !ok {
			return
		}
		f.ok(th.Sigaction(kernel.SIGUSR1, func(*kernel.Thread, kernel.SigInfo) {}))
		worker, err := th.CreateThread("worker", func(c *kernel.Thread) { c.Nanosleep(1_000_000) })
		if f.ok(err) {
			f.ok(th.Tgkill(worker, kernel.SIGUSR1))
			f.ok(th.Join(worker))
		}
		if d, err := th.MapDevice(a, 2*pg); f.ok(err) {
			f.ok(th.MappedWrite(d, 8, []byte{1}))
			f.ok(th.UnmapDevice(d))
		}
		_, err = th.Pagemap(a, 2*pg)
		f.ok(err)
		fd, err := th.Open("/dev/vda", fs.ORdwr)
		if !f.ok(err) {
			return
		}
		_, err = th.Readv(fd, slices.Repeat([]kernel.IOVec{{Base: a, Len: 8}}, 9))
		f.ok(err)
		for range 65 {
			_, err := th.Dup(fd)
			f.ok(err)
		}
	}},
}

// hugeProgram has a file of huge pages mapped in all ways, with copies on both sides of fork.
func hugeProgram(f *failing, th *kernel.Thread, path string) {
	fd, err := th.Open(path, fs.ORdwr|fs.OCreat)
	if !f.ok(err) {
		return
	}
	var at []uint64
	for _, flags := range []mm.MapFlags{mm.MapShared, mm.MapPrivate, mm.MapPrivate | mm.MapNoReserve, mm.MapShared | mm.MapNoReserve} {
		off := uint64(0)
		if flags == mm.MapShared|mm.MapNoReserve {
			off = mm.HugePage2M
		}
		if a, err := th.Mmap(0, mm.HugePage2M, mm.ProtRead|mm.ProtWrite, flags, fd, off); f.ok(err) {
			at = append(at, a)
		}
	}
	anon, err := th.Mmap(0, mm.HugePage2M, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous|mm.MapHugetlb, -1, 0)
	if f.ok(err) {
		at = append(at, anon)
	}
	for i, a := range at {
		if v, err := th.TryLoad64(a + 8); f.ok(err) {
			f.want("untouched word", v, 0)
		}
		f.ok(th.TryStore64(a, uint64(i)+1))
	}
	if err == nil {
		f.fork(th, func(c *kernel.Thread) { f.ok(c.TryStore64(anon, 77)) })
		if v, err := th.TryLoad64(anon); f.ok(err) {
			f.want("parent's huge page", v, uint64(len(at)))
		}
	}
	f.ok(th.Close(fd))
}

// failRun runs a program with one allocation failing and returns what was left over: "" if
// nothing was.
func failRun(t *testing.T, p mm.Policy, o kernel.Options, prog allocProgram, site string, nth int) (
	f *failing, out *kernel.Outcome, left []string, calls map[string]int) {
	t.Helper()
	huge := prog.name == "huge"
	o.CPUs, o.Policy, o.StepLimit, o.KSM = 2, p, 400_000, true
	if o.Memory = 1 << 20; huge {
		o.Memory = 18 << 20
	}
	o.Disks = []kernel.Disk{{Name: "vda", Size: 64 << 10}, {Name: "swap", Size: 256 << 10, Swap: true}}
	m, err := kernel.Boot(o)
	require.NoError(t, err)
	m.MM().SetOvercommit(mm.OvercommitAlways, 0)
	m.CountAllocs()
	if site != "" {
		m.FailAt(site, nth)
	}
	f = &failing{errs: map[unix.Errno]bool{}}
	out = m.Run(func(th *kernel.Thread) { prog.run(f, th) })
	_, calls = m.AllocSites()
	if out.Reason == sched.Quiet {
		for _, e := range m.Check() {
			left = append(left, e.Error())
		}
		left = append(left, m.Leaks()...)
		if pool := m.HugePool(mm.HugePage2M); pool.Reserved != 0 || pool.Free != pool.Total {
			left = append(left, fmt.Sprintf("huge pages: %+v", pool))
		}
	}
	m.Shutdown()
	return f, out, left, calls
}

// allocErrors are the errors that system calls may return when an allocation of a site
// fails. Where there is no row it is ENOMEM alone. EFAULT is what an access or a pin gets
// whose page cannot be had.
var allocErrors = map[string][]unix.Errno{
	"kiocb":             {unix.EAGAIN},
	"file":              {unix.ENFILE},
	"pipe_inode_info":   {unix.ENFILE},
	"shmem_inode":       {unix.ENOSPC},
	"mincore":           {unix.EAGAIN},
	"vm_area_struct":    {unix.ENOMEM, unix.EAGAIN}, // madvise
	"swap_map":          {unix.ENOMEM},
	"add_to_swap_cache": {unix.ENOMEM, unix.EFAULT, unix.EINTR},
	"hugetlbfs_inode":   {unix.ENOSPC},
	"sigqueue":          {}, // only what the signal would have said is lost
}

// stockSites are the sites that the programs must meet under Stock, all that it has. Only
// hugetlb_hstate_alloc_pages is left out: it is asked for before anything runs.
var stockSites = []string{
	"add_to_swap_cache", "aio_setup_ring", "alloc_buddy_huge_page", "alloc_fresh_huge_page", "alloc_huge_page",
	"anon_vma", "buffered_io", "dio", "do_anonymous_page", "do_fault", "do_wp_page", "driver_pages", "fdtable",
	"file", "file_region", "files_struct", "get_swap_page", "hugetlbfs_inode", "iovec", "kiocb", "kioctx",
	"ksm_mm_slot", "ksm_rmap_item", "mincore", "mm_struct", "mmu_notifier_mm", "pagemap_read", "pgd_alloc",
	"pid", "pipe_inode_info", "pipe_write", "pmd_alloc_one", "pte_alloc_one", "pud_alloc_one",
	"radix_tree_preload", "read_swap_cache_async", "resv_map", "shmem", "shmem_inode", "sighand_struct",
	"signal_struct", "sigqueue", "swap_map", "swapon", "task_struct", "try_to_merge_two_pages",
	"vm_area_struct", "zero_page",
}

// TestAllocationFailures lets each allocation of each program fail once, under Stock. There
// must be no oops, nothing left over, no wrong contents, and only the errors that Linux has.
func TestAllocationFailures(t *testing.T) {
	runs, sites := 0, map[string]bool{}
	for _, prog := range allocPrograms {
		_, out, left, calls := failRun(t, policy.Stock{}, kernel.Options{Regime: sched.Timed}, prog, "", 0)
		require.NoError(t, out.Err(), prog.name)
		require.Empty(t, left, prog.name)
		for site, n := range calls {
			sites[site] = true
			for nth := 1; nth <= min(n, 12); nth++ {
				for _, o := range []kernel.Options{{Regime: sched.Timed}, {Regime: sched.Free, Strategy: sched.NewRandom(uint64(nth))}} {
					if o.Regime == sched.Free && nth > 3 {
						continue
					}
					runs++
					what := fmt.Sprintf("%s: %s %d (%v)", prog.name, site, nth, o.Regime)
					f, out, left, _ := failRun(t, policy.Stock{}, o, prog, site, nth)
					if out.Reason != sched.Quiet || len(out.Bugs) > 0 {
						t.Errorf("%s: %v", what, out.Err())
					}
					assert.Empty(t, left, what)
					assert.Empty(t, f.wrong, what)
					may := allocErrors[site]
					if may == nil {
						may = []unix.Errno{unix.ENOMEM, unix.EFAULT, unix.EINTR}
					}
					if prog.name == "ptrace" {
						may = append(slices.Clone(may), unix.EIO, unix.ESRCH) // half a word; the child has ended
					}
					if prog.name == "ksm" {
						may = append(slices.Clone(may), unix.EAGAIN) // madvise
					}
					for e := range f.errs {
						if !slices.Contains(may, e) {
							t.Errorf("%s: %v", what, e)
						}
					}
				}
			}
		}
	}
	t.Logf("%d runs, %d sites: %v", runs, len(sites), slices.Sorted(maps.Keys(sites)))
	for _, site := range stockSites {
		assert.Contains(t, sites, site, "no program asks for it")
	}
}

// TestAllocationFailuresOfPolicies does the same with every policy and records what each
// leaves behind or trips over: a leak is a property of the patch. What only other schedules
// than that of the timed regime show is marked. testdata/alloc_fail.txt.
func TestAllocationFailuresOfPolicies(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	stock := map[string]bool{} // its sites
	for _, prog := range allocPrograms {
		_, _, _, calls := failRun(t, policy.Stock{}, kernel.Options{Regime: sched.Timed}, prog, "", 0)
		for site := range calls {
			stock[site] = true
		}
	}
	ran := func(name string) bool { // where the race detector looks on, some
		return !policy.Race || slices.Contains([]string{"pg_gup", "vm_dontcow", "pg_dontcow", "anon_exclusive"}, name)
	}
	t.Run("rows", func(t *testing.T) {
		for _, p := range policy.All() {
			if p.Name() == "stock" {
				continue // it has none: TestAllocationFailures
			}
			if !ran(p.Name()) {
				continue
			}
			t.Run(p.Name(), func(t *testing.T) {
				t.Parallel()
				found := failLines(t, p, stock)
				mu.Lock()
				lines = append(lines, found...)
				mu.Unlock()
			})
		}
	})
	sort.Strings(lines)
	const golden = "testdata/alloc_fail.txt"
	if policy.Rewrite() {
		require.NoError(t, os.WriteFile(golden, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	text, err := os.ReadFile(golden)
	require.NoError(t, err)
	want := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(text)), "\n"), func(line string) bool { return !ran(strings.Fields(line)[0]) })
	assert.Equal(t, want, lines)
}

// failLines are a policy's lines of the record. Its own sites fail in other schedules too.
func failLines(t *testing.T, p mm.Policy, stock map[string]bool) (lines []string) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	timed := kernel.Options{Regime: sched.Timed, Hosts: hosts}
	for _, prog := range allocPrograms {
		_, out, left, calls := failRun(t, p, timed, prog, "", 0)
		line := func(site string, nth int, verdict string) {
			if verdict != "" {
				lines = append(lines, fmt.Sprintf("%-26s %-9s %-24s %d  %s", p.Name(), prog.name, site, nth, verdict))
			}
		}
		if v := failVerdict(out, left); v != "" {
			line("(nothing fails)", 0, v) // what an allocation adds to that says nothing
			continue
		}
		for site, n := range calls {
			most := 8
			if stock[site] {
				most = 2
			}
			for nth := 1; nth <= min(n, most); nth++ {
				_, out, left, _ := failRun(t, p, timed, prog, site, nth)
				v := failVerdict(out, left)
				for seed := uint64(1); v == "" && !stock[site] && seed <= 5; seed++ {
					_, out, left, _ = failRun(t, p, kernel.Options{Regime: sched.Free, Strategy: sched.NewRandom(seed), Hosts: hosts}, prog, site, nth)
					if v = failVerdict(out, left); v != "" {
						v += fmt.Sprintf(" (free, seed %d)", seed)
					}
				}
				line(site, nth, v)
			}
		}
	}
	return lines
}

// failVerdict is what a run shows; "" if it is nothing.
func failVerdict(out *kernel.Outcome, left []string) string {
	switch {
	case out.Reason == sched.Oopsed || len(out.Bugs) > 0:
		return "bug"
	case out.Reason != sched.Quiet:
		return out.Reason.String()
	case len(left) > 0:
		return "leak"
	}
	return ""
}

// dropsNoReference is a policy that forgets the reference of a copy that cannot be made: what
// the harness must see.
type dropsNoReference struct{ mm.Stock }

func (dropsNoReference) Name() string      { return "drops_no_reference" }
func (dropsNoReference) Hooks() mm.HookSet { return mm.HookForkPTE }
func (dropsNoReference) ForkPTE(f *mm.Fork) mm.ForkNext {
	if p := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE); p != nil && p.Anon() {
		f.Page = p
		f.CopyOnePTE()
		return mm.ForkStop
	}
	return f.CopyOnePTE()
}
func (dropsNoReference) ForkBreak(f *mm.Fork) mm.ForkNext {
	sys := f.Src.Sys
	sys.Pages.Get(f.T, f.Page)
	f.Unlock()
	fresh := sys.AllocUserPage(f.T, "leaky")
	if fresh == nil {
		return mm.ForkNoMem // and the reference?
	}
	sys.Pages.Put(f.T, fresh)
	sys.Pages.Put(f.T, f.Page)
	return mm.ForkGo
}

func TestAllocationFailureHarnessSeesALeak(t *testing.T) {
	prog := allocPrograms[0]
	_, out, left, calls := failRun(t, dropsNoReference{}, kernel.Options{Regime: sched.Timed}, prog, "", 0)
	require.NoError(t, out.Err())
	assert.Empty(t, left)
	require.Positive(t, calls["leaky"])
	_, _, left, _ = failRun(t, dropsNoReference{}, kernel.Options{Regime: sched.Timed}, prog, "leaky", 1)
	assert.NotEmpty(t, left, "a missing put is seen")
}
