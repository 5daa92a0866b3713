package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// ringSize is the capacity of a per-CPU list: more than the largest high.
const ringSize = 256

// cpuSet is what a CPU keeps of free pages and of pages on their way to the LRU
// lists (struct per_cpu_pageset and the pagevecs of mm/swap.c).
type cpuSet struct {
	// ring is a double-ended queue of single free pages, by pfn: the hot end
	// holds what this CPU used last. Its owner with interrupts off.
	ring  [ringSize]uint32
	hot   uint8 // index of the hottest page; wraps. Same protection.
	n     int   // pages in the ring. Same protection.
	batch int   // pages moved from or to a zone at a time; immutable
	high  int   // the list gives a batch back when it reaches this; immutable

	lruAdd [NumLRU]pagevec // to be added to LRU lists; owner with preemption off
	rotate pagevec         // to go to the tail of an inactive list; owner with interrupts off

	_ [64]byte
}

// rmqueuePCP takes a page from the CPU's own list, which is filled from zone z
// down to its limit when empty (buffered_rmqueue). 0 if there is none.
//
// Preconditions:
//   - interrupts are off
func (m *Map) rmqueuePCP(t *sched.Task, z *zone, low int64, cold bool) uint32 {
	c := t.C
	s := &m.cpus[c.ID]
	if s.n == 0 {
		z.lock.Lock(t)
		want := int(min(int64(s.batch), int64(z.free.Peek())-low))
		taken := m.rmqueueBulk(c, z, s, want)
		z.take(c, uint64(taken))
		z.lock.Unlock(t)
		if taken == 0 {
			return 0
		}
	}
	s.n--
	if cold {
		return s.ring[s.hot+uint8(s.n)]
	}
	pfn := s.ring[s.hot]
	s.hot++
	return pfn
}

// rmqueueBulk moves up to want single pages from a zone to the empty list of a
// CPU and returns how many it moved (rmqueue_bulk). Blocks that are wanted as a
// whole are not split page by page, which gives the same pages in the same
// order. The caller holds z.lock.
func (m *Map) rmqueueBulk(c *x86.CPU, z *zone, s *cpuSet, want int) int {
	for s.n < want {
		o := 0
		for o < MaxOrder && z.area[o].first == 0 {
			o++
		}
		if o == MaxOrder || s.n+1<<o > want {
			o = 0
		}
		pfn := m.rmqueue(c, z, o)
		if pfn == 0 {
			break
		}
		for i := range uint32(1) << o {
			s.ring[s.hot+uint8(s.n)] = pfn + i
			s.n++
		}
	}
	return s.n
}

// freeHotCold puts a page without references on the CPU's own list
// (free_hot_cold_page): at the hot end, for it is likely to be in the CPU's
// cache, unless the caller says that it is not.
func (m *Map) freeHotCold(t *sched.Task, p *Page, cold bool) {
	if p.order != 0 {
		m.badPage(t, p, "block of several pages freed as one")
	}
	if m.OnFree != nil {
		m.OnFree(t, p)
	}
	if m.led != nil {
		m.led.free(t, m.PFN(p), 0)
	}
	m.cleanFreed(t, p)
	off := t.C.IRQSave()
	c := t.C
	pfn := uint32(m.PFN(p))
	if c.Trace.On() {
		c.Trace.Event(trace.EvPageFree, c.Now(), uint64(pfn), 0, 0)
	}
	c.Trace.Inc(trace.PGFree)
	s := &m.cpus[c.ID]
	if cold {
		s.ring[s.hot+uint8(s.n)] = pfn
	} else {
		s.hot--
		s.ring[s.hot] = pfn
	}
	s.n++
	if s.n >= s.high {
		m.freeBulk(t, s, s.batch)
	}
	c.IRQRestore(off)
}

// freeBulk gives n pages of the CPU's list back to their zones, the coldest
// first (free_pages_bulk).
//
// Preconditions:
//   - interrupts are off, or the CPU is at rest
func (m *Map) freeBulk(t *sched.Task, s *cpuSet, n int) {
	var z *zone
	given := uint64(0)
	for range min(n, s.n) {
		s.n--
		pfn := s.ring[s.hot+uint8(s.n)]
		if home := m.zoneOf(pfn); home != z {
			if z != nil {
				z.give(t.C, given)
				z.lock.Unlock(t)
			}
			z, given = home, 0
			z.lock.Lock(t)
		}
		given++
		m.freeOne(z, pfn, 0)
	}
	if z != nil {
		z.give(t.C, given)
		z.lock.Unlock(t)
	}
}

// DrainLocalPages gives all pages of this CPU's list back to the zones
// (drain_local_pages).
func (m *Map) DrainLocalPages(t *sched.Task) {
	off := t.C.IRQSave()
	c := t.C
	s := &m.cpus[c.ID]
	m.freeBulk(t, s, s.n)
	c.IRQRestore(off)
}

// DrainPagesOf gives back the pages on another CPU's list (drain_pages). That
// CPU must be at rest: asleep for good, or the caller's machine is quiet.
// drain_all_pages on a running machine is DrainLocalPages on every CPU.
func (m *Map) DrainPagesOf(t *sched.Task, cpu int) {
	off := t.C.IRQSave()
	c := t.C
	s := &m.cpus[cpu]
	m.freeBulk(t, s, s.n)
	c.IRQRestore(off)
}

// DrainAll empties the pagevecs and the per-CPU lists of all CPUs. The machine
// must be at rest.
func (m *Map) DrainAll(t *sched.Task) {
	for i := range m.cpus {
		m.LRUAddDrainCPU(t, i)
	}
	for i := range m.cpus {
		m.DrainPagesOf(t, i)
	}
}

// PCPPages returns how many free pages the per-CPU lists hold. The machine must
// be at rest for the number to be exact.
func (m *Map) PCPPages() int {
	n := 0
	for i := range m.cpus {
		n += m.cpus[i].n
	}
	return n
}
