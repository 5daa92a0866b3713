package page

import (
	"fmt"
	"io"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// ShowFreeAreas writes the state of the allocator and of the LRU lists as the kernel
// prints it when an allocation fails: Linux 2.6.29 mm/page_alloc.c:show_free_areas,
// without the lines about swap. Nothing is locked: while the machine runs the numbers are
// approximate.
func (m *Map) ShowFreeAreas(w io.Writer) {
	tr := m.mach.Trace()
	n := func(c trace.Counter) uint64 { return uint64(max(tr.Gauge(c), 0)) }
	for z := range m.zones {
		fmt.Fprintf(w, "%s per-cpu:\n", m.zoneName(z))
		for i := range m.cpus {
			c := &m.cpus[i]
			fmt.Fprintf(w, "CPU %4d: hi:%5d, btch:%4d usd:%4d\n", i, c.high, c.batch, c.racyLen())
		}
	}
	fmt.Fprintf(w, "Active_anon:%d active_file:%d inactive_anon:%d\n inactive_file:%d unevictable:%d dirty:%d writeback:%d unstable:%d\n"+
		" free:%d slab:%d mapped:%d pagetables:%d bounce:%d\n",
		n(trace.NrActiveAnon), n(trace.NrActiveFile), n(trace.NrInactiveAnon), n(trace.NrInactiveFile), n(trace.NrUnevictable),
		n(trace.NrDirty), n(trace.NrWriteback), n(trace.NrUnstable), m.FreePages(),
		n(trace.NrSlabReclaimable)+n(trace.NrSlabUnreclaimable), n(trace.NrMapped), n(trace.NrPageTablePages), n(trace.NrBounce))
	for i := range m.zones {
		z := &m.zones[i]
		hopeless := "no"
		if z.stat.Unreclaimable.Peek() != 0 {
			hopeless = "yes"
		}
		fmt.Fprintf(w, "%s free:%dkB min:%dkB low:%dkB high:%dkB active_anon:%dkB inactive_anon:%dkB active_file:%dkB "+
			"inactive_file:%dkB unevictable:%dkB present:%dkB pages_scanned:%d all_unreclaimable? %s\nlowmem_reserve[]: 0\n",
			m.zoneName(i), kb(z.free.Peek()), kb(z.wmark[wmarkMin]), kb(z.wmark[wmarkLow]), kb(z.wmark[wmarkHigh]),
			kb(m.ZoneLRULen(i, ActiveAnon)), kb(m.ZoneLRULen(i, InactiveAnon)), kb(m.ZoneLRULen(i, ActiveFile)),
			kb(m.ZoneLRULen(i, InactiveFile)), kb(m.ZoneLRULen(i, UnevictableList)), kb(m.ZonePages(i)),
			z.stat.PagesScanned.Peek(), hopeless)
	}
	for i := range m.zones {
		m.showBlocks(w, i)
	}
	fmt.Fprintf(w, "%d total pagecache pages\n", n(trace.NrFilePages))
}

// showBlocks lists the free blocks of a zone by size. The wilderness is shown as the
// largest aligned blocks that lie in it, which is what a list would have.
//
//go:norace
func (m *Map) showBlocks(w io.Writer, i int) {
	z := &m.zones[i]
	var nr [MaxOrder]uint64
	for o := range nr {
		nr[o] = z.area[o].n
	}
	for at := z.brk; at < z.end; {
		o := MaxOrder - 1
		for at&(1<<o-1) != 0 || z.end-at < 1<<o {
			o--
		}
		nr[o]++
		at += 1 << o
	}
	fmt.Fprintf(w, "%s: ", m.zoneName(i))
	total := uint64(0)
	for o, k := range nr {
		fmt.Fprintf(w, "%d*%dkB ", k, kb(1)<<o)
		total += k << o
	}
	fmt.Fprintf(w, "= %dkB\n", kb(total))
}

// zoneName is the name of a zone, with its node where there are several.
func (m *Map) zoneName(i int) string {
	if m.single {
		return "Normal"
	}
	return fmt.Sprintf("Node %d Normal", i)
}

func kb(pages uint64) uint64 { return pages << (x86.PageShift - 10) }

// racyLen is how many pages the CPU's own list has.
//
//go:norace
func (c *cpuSet) racyLen() int { return c.n }
