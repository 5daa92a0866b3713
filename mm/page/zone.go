package page

import (
	"math"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// The watermarks of a zone, as indices (pages_min, pages_low, pages_high).
const (
	wmarkMin = iota
	wmarkLow
	wmarkHigh
	numWmarks
)

// zone is a range of frames with its free lists and its LRU lists (struct
// zone). A machine has one, except in the free regime, where each CPU has its
// own, like a machine with one memory node for each CPU: what two CPUs
// allocate and free then has no lock and no frame in common, so a search
// need not try the orders of it.
type zone struct {
	// lock orders the free lists. Irq-safe.
	lock lock.SpinLock
	area [MaxOrder]list // free blocks by order; protected by lock
	// start and end bound the frames. end shrinks if the host refuses memory;
	// protected by lock. start is immutable.
	start, end uint32
	brk        uint32 // first frame of the wilderness, never used so far; protected by lock
	// holeStart and holeEnd bound the pages that are too large for the free lists; see
	// AllocBoot. Boot time only.
	holeStart, holeEnd uint32
	free               x86.Word64 // pages in the free lists and the wilderness; changed under lock, read without
	wmark              [numWmarks]uint64

	// lruLock orders the LRU lists. Irq-safe.
	lruLock lock.SpinLock
	lru     [NumLRU]list // protected by lruLock

	stat ZoneStat // what reclaim remembers

	_ [64]byte
}

// list is a doubly linked list of pages through Page.next and Page.prev. The
// zero value is empty. Protected by whatever protects the list.
type list struct {
	first, last uint32 // pfn; 0 is none
	n           uint64
}

func (m *Map) pushFront(l *list, pfn uint32) {
	p := m.page(pfn)
	p.prev, p.next = 0, l.first
	if l.first != 0 {
		m.page(l.first).prev = pfn
	} else {
		l.last = pfn
	}
	l.first = pfn
	l.n++
}

func (m *Map) pushBack(l *list, pfn uint32) {
	p := m.page(pfn)
	p.next, p.prev = 0, l.last
	if l.last != 0 {
		m.page(l.last).next = pfn
	} else {
		l.first = pfn
	}
	l.last = pfn
	l.n++
}

func (m *Map) unlink(l *list, pfn uint32) {
	p := m.page(pfn)
	if p.prev != 0 {
		m.page(p.prev).next = p.next
	} else {
		l.first = p.next
	}
	if p.next != 0 {
		m.page(p.next).prev = p.prev
	} else {
		l.last = p.prev
	}
	p.next, p.prev = 0, 0
	l.n--
}

// setupZones makes the zones: one, and in the free regime one for each CPU, so that what they
// allocate commutes.
func (m *Map) setupZones() {
	n := 1
	if m.mach.Regime() == sched.Free {
		n = m.mach.CPUs()
	}
	m.divide(n)
}

// divide makes n zones of the frames, and sets watermarks and the size of the per-CPU lists.
func (m *Map) divide(n int) {
	m.single = n == 1
	stripe := m.frames / uint64(n)
	for align := uint64(1 << (MaxOrder - 1)); align > 1; align >>= 1 {
		if stripe >= 2*align {
			stripe &^= align - 1
			break
		}
	}
	m.stripe = uint32(stripe)
	m.carveOrder = 9
	if m.mach.Det() {
		m.carveOrder = 5
	}
	m.zones = make([]zone, n)
	total := m.frames - 1
	minPages := minFreePages(total)
	for i := range m.zones {
		z := &m.zones[i]
		z.lock.Init(m.mach, lock.ZoneLock)
		z.lruLock.Init(m.mach, lock.LRULock)
		z.start, z.end = uint32(i)*m.stripe, uint32(i+1)*m.stripe
		if i == 0 {
			z.start = 1 // frame 0 is reserved: pfn 0 ends lists
		}
		if i == n-1 {
			z.end = uint32(m.frames)
		}
		z.brk = z.start
		present := uint64(z.end - z.start)
		z.free.Poke(present)
		// Linux 2.6.29 mm/page_alloc.c:setup_per_zone_pages_min.
		share := minPages * present / total
		z.wmark = [numWmarks]uint64{share, share + share/4, share + share/2}
		m.mach.Trace().CPU(0).Add(trace.NrFreePages, present)
	}
	batch, high := pcpSize(total)
	if m.mach.Regime() == sched.Free {
		// Small machines would have no per-CPU lists at all, and each free
		// would go to a zone that another CPU may own.
		batch = max(batch, min(7, int(stripe/64)))
		high = 6 * batch
	}
	for i := range m.cpus {
		m.cpus[i].batch, m.cpus[i].high = max(1, batch), high
	}
}

// minFreePages returns pages_min of the whole machine: min_free_kbytes is 4
// times the square root of the memory in KiB, 128 to 65536 (Linux 2.6.29
// mm/page_alloc.c:init_per_zone_pages_min), but never more than an eighth of
// a very small machine.
func minFreePages(pages uint64) uint64 {
	kbytes := pages * (x86.PageSize >> 10)
	minFree := uint64(math.Sqrt(float64(kbytes * 16)))
	minFree = min(max(minFree, 128), 65536)
	return min(minFree>>(x86.PageShift-10), pages/8)
}

// pcpSize returns how many pages move between a zone and a CPU's list at a
// time, and how many the list may hold: 31 and 186 on machines of 512 MiB and
// more, no list at all below 32 MiB (Linux 2.6.29
// mm/page_alloc.c:zone_batchsize, setup_pageset).
func pcpSize(pages uint64) (batch, high int) {
	n := pages / 1024
	if n*x86.PageSize > 512<<10 {
		n = 512 << 10 / x86.PageSize
	}
	n = max(n/4, 1)
	n += n / 2
	batch = 1
	for n > 1 {
		n >>= 1
		batch <<= 1
	}
	batch--
	return batch, 6 * batch
}

// zoneOf returns the zone that a frame belongs to.
func (m *Map) zoneOf(pfn uint32) *zone {
	if m.single {
		return &m.zones[0]
	}
	return &m.zones[min(int(pfn/m.stripe), len(m.zones)-1)]
}

// localZone returns the zone that a CPU allocates from first.
func (m *Map) localZone(cpu int) int {
	if m.single {
		return 0
	}
	return cpu
}

// FreePages returns the number of free pages (nr_free_pages): those of the
// zones, as in Linux without the per-CPU lists.
func (m *Map) FreePages() uint64 {
	var n uint64
	for i := range m.zones {
		n += m.zones[i].free.Peek()
	}
	return n
}

// Watermarks returns pages_min, pages_low and pages_high, in pages, summed over
// the zones.
func (m *Map) Watermarks() (minimum, low, high uint64) {
	for i := range m.zones {
		w := &m.zones[i].wmark
		minimum, low, high = minimum+w[wmarkMin], low+w[wmarkLow], high+w[wmarkHigh]
	}
	return minimum, low, high
}

// SetMinFree sets the watermarks as a write to min_free_kbytes would, in pages
// for the whole machine. Nothing may be running.
func (m *Map) SetMinFree(pages uint64) {
	total := m.frames - 1
	for i := range m.zones {
		z := &m.zones[i]
		share := pages * uint64(z.end-z.start) / total
		z.wmark = [numWmarks]uint64{share, share + share/4, share + share/2}
	}
}
