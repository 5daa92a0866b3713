package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// MaxOrder is one more than the largest order: blocks have 1 to 1024 pages
// (MAX_ORDER).
const MaxOrder = 11

// Alloc returns 1<<order pages in a row, with one reference on the first
// (alloc_pages), or nil. Flags, Private and Policy are zero, no contents are
// promised unless GFPZero is given. With GFPComp an order above 0 makes a
// compound page. site names the caller for failure injection and for reports;
// it is a constant like "do_wp_page".
//
// Preconditions:
//   - with GFPWait, the caller may sleep
//   - order is 0 to MaxOrder-1
func (m *Map) Alloc(t *sched.Task, gfp GFP, order int, site string) *Page {
	if gfp&GFPWait != 0 && (t.PreemptDisabled() || t.C.IRQsDisabled()) {
		t.Oops("alloc_pages: %s may sleep (gfp %v) in atomic context", site, gfp)
	}
	if uint(order) >= MaxOrder {
		return nil
	}
	if m.inj != nil && m.inj.fails(t, site, gfp&GFPNoFail == 0) {
		t.C.Trace.Inc(trace.EmuAllocFailInjected)
		return nil
	}
	p := m.fromFreelist(t, gfp, order, wmarkLow, 0)
	if p == nil {
		if p = m.allocSlow(t, gfp, order); p == nil {
			return nil
		}
	}
	m.prep(t, p, gfp, order, site)
	return p
}

// fromFreelist tries the zones, the CPU's own first, as long as they have more
// free pages than the watermark (get_page_from_freelist).
func (m *Map) fromFreelist(t *sched.Task, gfp GFP, order, mark, flags int) *Page {
	off := t.C.IRQSave()
	c := t.C
	first := m.localZone(c.ID)
	for i := range m.zones {
		k := first + i
		if k >= len(m.zones) {
			k -= len(m.zones)
		}
		z := &m.zones[k]
		low := z.limit(mark, flags)
		if int64(z.free.Peek())-1<<order+1 <= low {
			continue
		}
		var pfn uint32
		if order == 0 {
			pfn = m.rmqueuePCP(t, z, low, gfp&GFPCold != 0)
		} else {
			z.lock.Lock(t)
			if z.highOrderOK(order, low) {
				if pfn = m.rmqueue(c, z, order); pfn != 0 {
					z.take(c, 1<<order)
				}
			}
			z.lock.Unlock(t)
		}
		if pfn != 0 {
			c.Trace.Add(trace.PGAllocNormal, 1<<order)
			c.IRQRestore(off)
			return m.page(pfn)
		}
	}
	c.IRQRestore(off)
	return nil
}

// limit returns how many pages must be left free, -1 for no limit.
func (z *zone) limit(mark, flags int) int64 {
	if flags&allocNoWatermarks != 0 {
		return -1
	}
	n := int64(z.wmark[mark])
	if flags&allocHigh != 0 {
		n -= n / 2
	}
	if flags&allocHarder != 0 {
		n -= n / 4
	}
	return n
}

// highOrderOK reports whether enough of the free pages are in large blocks
// (zone_watermark_ok; there it is done without the lock, from counts that may
// be stale). The caller holds z.lock.
func (z *zone) highOrderOK(order int, low int64) bool {
	free := int64(z.free.Peek()) - 1<<order + 1
	if free <= low {
		return false
	}
	for o := range order {
		free -= int64(z.area[o].n) << o
		low >>= 1
		if free <= low {
			return false
		}
	}
	return true
}

// take accounts pages that leave the zone. The caller holds z.lock.
func (z *zone) take(c *x86.CPU, n uint64) {
	z.free.RawAdd(-n)
	c.Trace.Sub(trace.NrFreePages, n)
}

// give accounts pages that come back to the zone. The caller holds z.lock.
func (z *zone) give(c *x86.CPU, n uint64) {
	z.free.RawAdd(n)
	z.stat.freed()
	c.Trace.Add(trace.NrFreePages, n)
}

// rmqueue takes a block out of the zone (__rmqueue_smallest); 0 if there is
// none. The low half of what is split is returned, so blocks ascend. The
// caller holds z.lock.
func (m *Map) rmqueue(c *x86.CPU, z *zone, order int) uint32 {
	for {
		for o := order; o < MaxOrder; o++ {
			pfn := z.area[o].first
			if pfn == 0 {
				continue
			}
			m.unlink(&z.area[o], pfn)
			m.page(pfn).Flags.Poke(0)
			for o > order {
				o--
				m.addFree(z, pfn+1<<o, o)
			}
			return pfn
		}
		if !m.carve(c, z, order) {
			return 0
		}
	}
}

// addFree puts a block at the head of its free list. The caller holds z.lock.
func (m *Map) addFree(z *zone, pfn uint32, order int) {
	p := m.page(pfn)
	p.order = uint8(order)
	p.Flags.Poke(1 << Buddy)
	m.pushFront(&z.area[order], pfn)
}

// carve moves frames from the wilderness to the free lists, in aligned blocks,
// until there is one of at least the given order. It reports whether there is.
// The caller holds z.lock.
func (m *Map) carve(c *x86.CPU, z *zone, order int) bool {
	limit := max(order, m.carveOrder)
	for z.skipHole(); z.brk < z.end; z.skipHole() {
		k := limit
		for z.brk&(1<<k-1) != 0 || z.end-z.brk < 1<<k {
			k--
		}
		ok := m.mem.Touch(x86.PFN(z.brk), 1<<k)
		for !ok && k > order {
			k--
			ok = m.mem.Touch(x86.PFN(z.brk), 1<<k)
		}
		if !ok {
			if order == 0 {
				// The host has no memory left: the machine stays as large as it is.
				lost := z.wild()
				z.end = z.brk
				z.take(c, uint64(lost))
				m.lost.RawAdd(uint64(lost))
			}
			return false
		}
		m.addFree(z, z.brk, k)
		z.brk += 1 << k
		if k >= order {
			return true
		}
	}
	return false
}

// freeOne puts a block back and merges it with its buddy as long as that is
// free as a whole (__free_one_page). The caller holds z.lock.
//
// The buddy of a block differs from it in one bit of the pfn. A buddy in the
// wilderness has a zero Page, without flag Buddy, and does not merge.
func (m *Map) freeOne(z *zone, pfn uint32, order int) {
	for order < MaxOrder-1 {
		buddy := pfn ^ 1<<order
		if buddy < z.start || buddy >= z.brk {
			break
		}
		b := m.page(buddy)
		if b.Flags.Peek()&(1<<Buddy) == 0 || int(b.order) != order {
			break
		}
		m.unlink(&z.area[order], buddy)
		b.Flags.Poke(0)
		b.order = 0
		pfn &= buddy
		order++
	}
	m.addFree(z, pfn, order)
}

// prep makes a block that was just taken out of the free lists ready for use
// (prep_new_page).
func (m *Map) prep(t *sched.Task, p *Page, gfp GFP, order int, site string) {
	for i := range uint32(1) << order {
		q := m.page(uint32(m.PFN(p)) + i)
		if q.Flags.Peek()&checkAtPrep != 0 || q.Count.Peek() != 0 || q.MapCount.Peek() != 0 || q.Mapping != 0 {
			m.badPage(t, q, "free page in use")
		}
	}
	p.order = uint8(order)
	p.Private = 0
	p.Index = 0
	if order > 0 && gfp&GFPComp != 0 {
		m.prepCompound(p, order)
	}
	p.Count.Poke(1)
	if m.led != nil {
		m.led.alloc(t, m.PFN(p), order, site)
	}
	if t.C.Trace.On() {
		t.C.Trace.Event(trace.EvPageAlloc, t.C.Now(), uint64(m.PFN(p)), uint64(order), uint64(gfp))
	}
	if gfp&GFPZero != 0 {
		for i := range x86.PFN(1) << order {
			m.mem.ClearPage(t.C, m.PFN(p)+i)
		}
	}
}

// FreeBlock drops the reference on a block of 1<<order pages that was allocated
// without GFPComp (__free_pages).
func (m *Map) FreeBlock(t *sched.Task, p *Page, order int) {
	if !m.putTestZero(t, p, RefTemp, 1) {
		return
	}
	if order == 0 || p.Flags.Peek()&compoundFlags != 0 {
		m.releaseLast(t, p)
		return
	}
	if int(p.order) != order {
		m.badPage(t, p, "block freed with the wrong order")
	}
	p.order = 0
	m.freeBlock(t, p, order)
}

// freeBlock gives pages with no references back to their zone (__free_pages_ok).
func (m *Map) freeBlock(t *sched.Task, p *Page, order int) {
	pfn := uint32(m.PFN(p))
	if m.OnFree != nil {
		m.OnFree(t, p)
	}
	if m.led != nil {
		m.led.free(t, m.PFN(p), order)
	}
	for i := range uint32(1) << order {
		m.cleanFreed(t, m.page(pfn+i))
	}
	if t.C.Trace.On() {
		t.C.Trace.Event(trace.EvPageFree, t.C.Now(), uint64(pfn), uint64(order), 0)
	}
	z := m.zoneOf(pfn)
	off := z.lock.LockIRQSave(t)
	c := t.C
	c.Trace.Add(trace.PGFree, 1<<order)
	z.give(c, 1<<order)
	m.freeOne(z, pfn, order)
	z.lock.UnlockIRQRestore(t, off)
}

// cleanFreed checks a page that is being freed and wipes what its user left
// (free_pages_check).
func (m *Map) cleanFreed(t *sched.Task, p *Page) {
	if p.Anon() {
		p.Mapping = 0
	}
	flags := p.Flags.Peek()
	if flags&(1<<Mlocked) != 0 { // free_page_mlock
		flags &^= 1 << Mlocked
		t.C.Trace.Dec(trace.NrMlock)
		t.C.Trace.Inc(trace.UnevictablePGsMlockFreed)
		p.PokeClear(Mlocked)
	}
	if flags&checkAtFree != 0 || p.Mapping != 0 || p.Count.Peek() != 0 || p.MapCount.Peek() != 0 {
		m.badPage(t, p, "page in use is freed")
	}
	if flags != 0 {
		p.Flags.Poke(0)
	}
	if p.Policy.Peek() != 0 {
		p.Policy.Poke(0)
	}
}
