package kernel

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// Text in the formats of /proc of Linux 2.6.29.

// Maps returns /proc/self/maps.
func (t *Thread) Maps() string { return t.readProc((*mm.MM).Maps) }

// Smaps returns /proc/self/smaps.
func (t *Thread) Smaps() string { return t.readProc(t.m.smaps) }

// readProc formats something of the address space with mmap_sem held. Page tables
// are read without their locks, as in Linux: an entry may change meanwhile.
func (t *Thread) readProc(format func(*mm.MM) string) string {
	var s string
	_ = t.Kernel(func(task *sched.Task) error {
		t.p.space.MmapSem.DownRead(task)
		s = format(t.p.space)
		t.p.space.MmapSem.UpRead(task)
		return nil
	})
	return s
}

// Maps returns /proc/PID/maps. ESRCH if there is no such process or it has no address
// space. The machine must not be running.
func (m *Machine) Maps(pid int) (string, error) { return m.procText(pid, (*mm.MM).Maps) }

// Smaps returns /proc/PID/smaps; see Maps.
func (m *Machine) Smaps(pid int) (string, error) { return m.procText(pid, m.smaps) }

func (m *Machine) procText(pid int, format func(*mm.MM) string) (string, error) {
	p := m.findLocked(pid)
	if p == nil || p.space == nil {
		return "", unix.ESRCH
	}
	return format(p.space), nil
}

// pssShift makes room for fractions of bytes in the sum of proportional shares.
const pssShift = 12

// memUse is what smaps says of one mapping, in bytes (mem_size_stats).
type memUse struct {
	rss, pss, sharedClean, sharedDirty, privateClean, privateDirty, referenced, swap uint64
}

// smaps formats the mappings with their use (Linux 2.6.29
// fs/proc/task_mmu.c:show_smap).
func (m *Machine) smaps(space *mm.MM) string {
	heads := strings.SplitAfter(space.Maps(), "\n")
	var b strings.Builder
	i := 0
	space.EachVMA(0, func(v *mm.VMA) bool {
		b.WriteString(heads[i])
		i++
		u := m.memUse(space, v)
		for _, f := range []struct {
			name  string
			bytes uint64
		}{
			{"Size", v.End - v.Start}, {"Rss", u.rss}, {"Pss", u.pss >> pssShift},
			{"Shared_Clean", u.sharedClean}, {"Shared_Dirty", u.sharedDirty},
			{"Private_Clean", u.privateClean}, {"Private_Dirty", u.privateDirty},
			{"Referenced", u.referenced}, {"Swap", u.swap},
			{"KernelPageSize", v.KernelPageSize()}, {"MMUPageSize", v.KernelPageSize()},
		} {
			fmt.Fprintf(&b, "%-16s%8d kB\n", f.name+":", f.bytes>>10)
		}
		return true
	})
	return b.String()
}

// memUse adds up the ptes of a VMA (smaps_pte_range). Huge pages do not count, as in Linux.
func (m *Machine) memUse(space *mm.MM, v *mm.VMA) (u memUse) {
	for addr := v.Start; addr < v.End; {
		e, next := m.peekPTE(space, addr)
		if e.IsSwap() {
			u.swap += x86.PageSize
		}
		if e.Present() && m.mem.Valid(e.PFN()) {
			p := m.pages.Page(e.PFN())
			u.add(e, p)
		}
		addr = next
	}
	return u
}

func (u *memUse) add(e x86.PTE, p *page.Page) {
	u.rss += x86.PageSize
	if e.Young() || p.Has(page.Referenced) {
		u.referenced += x86.PageSize
	}
	n := max(uint64(p.MapCount.Peek()), 1)
	u.pss += x86.PageSize << pssShift / n
	switch {
	case n > 1 && e.Dirty():
		u.sharedDirty += x86.PageSize
	case n > 1:
		u.sharedClean += x86.PageSize
	case e.Dirty():
		u.privateDirty += x86.PageSize
	default:
		u.privateClean += x86.PageSize
	}
}

// peekPTE returns the last-level entry for addr, and the address at which to go on:
// the next page, or behind the first table that is missing.
func (m *Machine) peekPTE(space *mm.MM, addr uint64) (e x86.PTE, next uint64) {
	table := space.PGD
	for level := x86.LevelPGD; ; level-- {
		size := x86.LevelSize(level)
		e = x86.NewPTERef(m.mem, table, x86.LevelIndex(addr, level), x86.PTEObj(space.ID, level, addr)).Peek()
		if level == x86.LevelPTE {
			return e, addr + size
		}
		if !e.HWPresent() || e.Huge() || !m.mem.Valid(e.PFN()) {
			return 0, addr&^(size-1) + size
		}
		table = e.PFN()
	}
}

// VMStat writes /proc/vmstat. With emu set our own counters follow under the prefix
// emu_; without it the file is what Linux shows. While the machine runs the numbers
// are approximate. For anybody.
func (m *Machine) VMStat(w io.Writer, emu bool) error {
	return trace.WriteVMStat(w, m.trace.Snapshot(), emu)
}

// Meminfo returns /proc/meminfo (Linux 2.6.29 fs/proc/meminfo.c). While the machine
// runs the numbers are approximate. For anybody.
func (m *Machine) Meminfo() string {
	kb := func(c trace.Counter) uint64 { return uint64(max(m.trace.Gauge(c), 0)) << (x86.PageShift - 10) }
	total := m.pages.Frames() << (x86.PageShift - 10)
	swapCached := m.sys.SwapCachePages() << (x86.PageShift - 10)
	cached := kb(trace.NrFilePages)
	cached -= min(cached, swapCached) // they are not read at one moment
	swapTotal, swapFree := m.sys.SwapPages()
	active, inactive := kb(trace.NrActiveAnon)+kb(trace.NrActiveFile), kb(trace.NrInactiveAnon)+kb(trace.NrInactiveFile)
	var b strings.Builder
	for _, f := range []struct {
		name string
		kb   uint64
	}{
		{"MemTotal", total}, {"MemFree", m.pages.FreePages() << (x86.PageShift - 10)},
		{"Buffers", 0}, {"Cached", cached}, {"SwapCached", swapCached},
		{"Active", active}, {"Inactive", inactive},
		{"Active(anon)", kb(trace.NrActiveAnon)}, {"Inactive(anon)", kb(trace.NrInactiveAnon)},
		{"Active(file)", kb(trace.NrActiveFile)}, {"Inactive(file)", kb(trace.NrInactiveFile)},
		{"Unevictable", kb(trace.NrUnevictable)}, {"Mlocked", kb(trace.NrMlock)},
		{"SwapTotal", swapTotal << (x86.PageShift - 10)}, {"SwapFree", swapFree << (x86.PageShift - 10)},
		{"Dirty", kb(trace.NrDirty)}, {"Writeback", kb(trace.NrWriteback)},
		{"AnonPages", kb(trace.NrAnonPages)}, {"Mapped", kb(trace.NrMapped)},
		{"Slab", kb(trace.NrSlabReclaimable) + kb(trace.NrSlabUnreclaimable)},
		{"SReclaimable", kb(trace.NrSlabReclaimable)}, {"SUnreclaim", kb(trace.NrSlabUnreclaimable)},
		{"PageTables", kb(trace.NrPageTablePages)}, {"NFS_Unstable", kb(trace.NrUnstable)},
		{"Bounce", kb(trace.NrBounce)}, {"WritebackTmp", kb(trace.NrWritebackTemp)},
		{"CommitLimit", m.sys.CommitLimit() << (x86.PageShift - 10)}, {"Committed_AS", m.sys.CommittedPages() << (x86.PageShift - 10)},
		{"VmallocTotal", 34359738367}, {"VmallocUsed", 0}, {"VmallocChunk", 34359738367},
	} {
		fmt.Fprintf(&b, "%-16s%8d kB\n", f.name+":", f.kb)
	}
	// hugetlb_report_meminfo: the default size only.
	pool := m.HugePool(mm.HugePage2M)
	for _, f := range []struct {
		name string
		n    uint64
	}{
		{"HugePages_Total", pool.Total}, {"HugePages_Free", pool.Free},
		{"HugePages_Rsvd", pool.Reserved}, {"HugePages_Surp", pool.Surplus},
	} {
		fmt.Fprintf(&b, "%-19s%5d\n", f.name+":", f.n)
	}
	fmt.Fprintf(&b, "%-16s%8d kB\n", "Hugepagesize:", pool.Size>>10)
	// arch_report_meminfo: the kernel's own mapping of memory, which has no page tables here.
	fmt.Fprintf(&b, "%-16s%8d kB\n%-16s%8d kB\n", "DirectMap4k:", total&(2<<10-1), "DirectMap2M:", total&^(2<<10-1))
	return b.String()
}
