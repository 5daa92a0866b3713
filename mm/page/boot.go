package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Huge pages that are set aside before anything runs. Those of an order that the buddy
// allocator knows come out of its lists; larger ones are cut out of the wilderness of a
// zone, from its end downwards, and never come back (alloc_bootmem_huge_page).
//
//	start            brk        holeStart   holeEnd      end
//	 | lists, in use  | wilderness | 1 GiB pages | wilderness |

// AllocBoot sets a compound page of the given order aside for a pool: with no
// references, so that SetRefs makes it live. It is nil if there is no room, or if too
// little would be left. Nothing may be running.
func (m *Map) AllocBoot(order int, site string) *Page {
	var pfn uint32
	for i := range m.zones {
		// The zones in turn, the one with the most free pages first.
		z := &m.zones[i]
		for j := range m.zones {
			if m.zones[j].free.Peek() > z.free.Peek() {
				z = &m.zones[j]
			}
		}
		if z.free.Peek() <= z.wmark[wmarkHigh]+1<<order {
			return nil
		}
		if pfn = m.bootBlock(z, order); pfn != 0 {
			break
		}
	}
	if pfn == 0 {
		return nil
	}
	p := m.page(pfn)
	p.order = uint8(order)
	m.prepCompound(p, order)
	if m.led != nil {
		m.led.boot(x86.PFN(pfn), site)
	}
	return p
}

// bootBlock takes a block out of a zone; 0 if it has none.
func (m *Map) bootBlock(z *zone, order int) uint32 {
	c := m.mach.CPU(0)
	if order < MaxOrder {
		pfn := m.rmqueue(c, z, order)
		if pfn != 0 {
			z.take(c, 1<<order)
			c.Trace.Add(trace.PGAllocNormal, 1<<order)
		}
		return pfn
	}
	n := uint32(1) << order
	top := z.end
	if z.holeEnd != 0 {
		top = z.holeStart // the next one goes below
	}
	if top < n {
		return 0
	}
	pfn := (top - n) &^ (n - 1)
	if pfn < z.brk || z.holeEnd != 0 && pfn+n != z.holeStart {
		return 0
	}
	if z.holeEnd == 0 {
		z.holeEnd = pfn + n
	}
	z.holeStart = pfn
	z.take(c, uint64(n))
	m.gigantic += uint64(n)
	return pfn
}

// wild returns how many frames of a zone have never been used. The caller holds
// z.lock, or nothing runs.
func (z *zone) wild() uint32 {
	n := z.end - z.brk
	if z.brk <= z.holeStart {
		n -= z.holeEnd - z.holeStart
	}
	return n
}

// skipHole moves brk over what AllocBoot has cut out.
func (z *zone) skipHole() {
	if z.holeEnd != 0 && z.brk == z.holeStart {
		z.brk = z.holeEnd
	}
}
