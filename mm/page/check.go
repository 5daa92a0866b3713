package page

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// An invariant holds whenever the lock it names is free: a page that moves from
// one list to another is on neither for a moment.
type invariant struct {
	name string
	// free reports whether the invariant must hold now. Asked at every step of
	// a deterministic machine; at rest all must hold.
	free  func(m *Map) bool
	check func(c *checker)
}

// invariants is the list, in the order of the checks.
func invariants() []invariant {
	return []invariant{
		{"free lists", (*Map).zonesUnlocked, (*checker).freeLists},
		{"per-CPU lists", (*Map).interruptsOn, (*checker).pcpLists},
		{"lru lists", (*Map).lruUnlocked, (*checker).lruLists},
		{"pagevecs", never, (*checker).pagevecs},
		{"ledger", (*Map).always, (*checker).ledger},
		{"accounting", never, (*checker).accounting},
	}
}

func (m *Map) always() bool { return true }
func never(*Map) bool       { return false }

func (m *Map) zonesUnlocked() bool {
	for i := range m.zones {
		if m.zones[i].lock.Locked() {
			return false
		}
	}
	return true
}

func (m *Map) lruUnlocked() bool {
	for i := range m.zones {
		if m.zones[i].lruLock.Locked() {
			return false
		}
	}
	return true
}

func (m *Map) interruptsOn() bool {
	for i := range m.cpus {
		if m.mach.CPU(i).IRQsDisabled() {
			return false
		}
	}
	return m.zonesUnlocked()
}

// checker is one pass over the invariants.
type checker struct {
	m    *Map
	name string
	errs []error
	free map[uint32]bool // pages seen on a per-CPU list
	nPCP uint64
}

const maxErrors = 50

func (c *checker) bad(format string, args ...any) {
	if len(c.errs) < maxErrors {
		c.errs = append(c.errs, fmt.Errorf("page: %s: %s", c.name, fmt.Sprintf(format, args...)))
	}
}

func (c *checker) badPage(pfn uint32, what string) {
	p := c.m.page(pfn)
	c.bad("pfn %#x: %s: count %d mapcount %d flags %s%s", pfn, what, p.Count.Peek(), p.MapCount.Peek(),
		FlagNames(p.Flags.Peek()), c.m.led.describe(x86.PFN(pfn)))
}

// Check returns what is wrong with the pages of a machine at rest: no task is
// in the middle of anything.
//
//   - free lists: blocks are aligned, inside their zone, marked, do not
//     overlap, their pages are unused, and their sizes add up to nr_free_pages
//   - per-CPU lists: pages are unused, on one list only
//   - LRU lists: flags say the list the page is on, it has references, lengths
//     add up to the gauges; a page with flag LRU is on a list
//   - pagevecs: pages have references and are not on a list
//   - ledger: the count is the sum of the holders and no less than the map
//     count, nothing odd was seen
//   - accounting: frames are free, or allocated and not yet freed
func (m *Map) Check() []error { return m.runChecks(true) }

// CheckStep is Check for any step of a deterministic machine: invariants whose
// locks are held are left out.
func (m *Map) CheckStep() []error { return m.runChecks(false) }

func (m *Map) runChecks(rest bool) []error {
	c := &checker{m: m, free: map[uint32]bool{}}
	for _, inv := range invariants() {
		if rest || inv.free(m) {
			c.name = inv.name
			inv.check(c)
		}
	}
	return c.errs
}

// CheckPage returns what is wrong with one page, at any step of a deterministic
// machine: for checks after each step of the pages that the step touched.
//
//   - every mapping has a reference, so Count is at least MapCount
//   - the count is the sum of the ledger's holders
//   - a page in a free list is unused
func (m *Map) CheckPage(p *Page) []error {
	c := &checker{m: m, name: "page"}
	c.one(uint32(m.PFN(p)))
	return c.errs
}

func (c *checker) one(pfn uint32) {
	m, p := c.m, c.m.page(pfn)
	if p.Has(Buddy) {
		c.unused(pfn, 1<<Buddy)
		return
	}
	if m.led == nil {
		if n := p.MapCount.Peek(); n < 0 || n > 0 && n > p.Count.Peek() && p.Count.Peek() > 0 {
			c.badPage(pfn, "more mappings than references")
		}
		return
	}
	m.led.lock.Lock()
	h := *m.led.of(x86.PFN(pfn))
	m.led.lock.Unlock()
	if h.live && !h.frozen {
		c.holders(pfn, &h)
	}
}

// holders compares the counts of an allocated page with its record.
func (c *checker) holders(pfn uint32, h *holders) {
	p := c.m.page(pfn)
	if n := p.Count.Peek(); n != h.total() {
		c.badPage(pfn, fmt.Sprintf("holders add up to %d", h.total()))
	} else if p.MapCount.Peek() > n {
		c.badPage(pfn, "more mappings than references")
	}
}

// unused complains about a free page that somebody uses.
func (c *checker) unused(pfn uint32, allowed uint64) {
	p := c.m.page(pfn)
	if p.Count.Peek() != 0 || p.MapCount.Peek() != 0 || p.Mapping != 0 || p.Flags.Peek()&^allowed != 0 {
		c.badPage(pfn, "free page in use")
	}
	if l := c.m.led; l != nil {
		l.lock.Lock()
		n := l.of(x86.PFN(pfn)).total()
		l.lock.Unlock()
		if n != 0 {
			c.badPage(pfn, "free page has holders")
		}
	}
}

func (c *checker) freeLists() {
	m := c.m
	for i := range m.zones {
		z := &m.zones[i]
		sum := uint64(z.wild())
		for o := range MaxOrder {
			n, prev := uint64(0), uint32(0)
			for pfn := z.area[o].first; pfn != 0; prev, pfn = pfn, m.page(pfn).next {
				p := m.page(pfn)
				if n++; n > z.area[o].n || p.prev != prev {
					c.badPage(pfn, "free list is broken")
					return
				}
				if pfn < z.start || pfn+1<<o > z.brk || pfn&(1<<o-1) != 0 {
					c.badPage(pfn, fmt.Sprintf("block of order %d in the wrong place", o))
					continue
				}
				if !p.Has(Buddy) || int(p.order) != o {
					c.badPage(pfn, fmt.Sprintf("block of order %d not marked", o))
				}
				c.unused(pfn, 1<<Buddy)
				for j := uint32(1); j < 1<<o; j++ {
					c.unused(pfn+j, 0) // a second block inside would be marked
				}
			}
			if n != z.area[o].n || z.area[o].last != prev {
				c.bad("zone %d order %d: %d blocks on the list, %d counted", i, o, n, z.area[o].n)
			}
			sum += n << o
		}
		if free := z.free.Peek(); free != sum {
			c.bad("zone %d: %d pages free by count, %d by the lists", i, free, sum)
		}
	}
}

func (c *checker) pcpLists() {
	m := c.m
	for i := range m.cpus {
		s := &m.cpus[i]
		for j := range s.n {
			pfn := s.ring[s.hot+uint8(j)]
			if pfn == 0 || uint64(pfn) >= m.frames || c.free[pfn] {
				c.bad("cpu %d: pfn %#x is no page or listed twice", i, pfn)
				continue
			}
			c.free[pfn] = true
			c.unused(pfn, 0)
		}
		c.nPCP += uint64(s.n)
	}
}

func (c *checker) lruLists() {
	m := c.m
	var lens [NumLRU]uint64
	for i := range m.zones {
		z := &m.zones[i]
		for l := range LRUList(NumLRU) {
			n, prev := uint64(0), uint32(0)
			for pfn := z.lru[l].first; pfn != 0; prev, pfn = pfn, m.page(pfn).next {
				p := m.page(pfn)
				if n++; n > z.lru[l].n || p.prev != prev || m.zoneOf(pfn) != z {
					c.badPage(pfn, "lru list is broken")
					return
				}
				if flags := p.Flags.Peek(); flags&(1<<LRU) == 0 || lruOf(flags) != l {
					c.badPage(pfn, "flags do not match list "+l.String())
				}
				if p.Has(Buddy) {
					c.badPage(pfn, "free page on list "+l.String())
				}
			}
			if n != z.lru[l].n || z.lru[l].last != prev {
				c.bad("zone %d %v: %d pages on the list, %d counted", i, l, n, z.lru[l].n)
			}
			lens[l] += n
		}
	}
	for l := range LRUList(NumLRU) {
		if got := m.mach.Trace().Sum(l.counter()); got != lens[l] {
			c.bad("%v is %d, lists hold %d", l.counter(), got, lens[l])
		}
	}
}

func (c *checker) pagevecs() {
	for i := range c.m.cpus {
		s := &c.m.cpus[i]
		for l := range s.lruAdd {
			c.pagevec(&s.lruAdd[l], false)
		}
		c.pagevec(&s.rotate, true)
	}
}

func (c *checker) pagevec(v *pagevec, listed bool) {
	for _, pfn := range v.pages[:v.n] {
		p := c.m.page(pfn)
		if p.Count.Peek() < 1 || !listed && p.Has(LRU) {
			c.badPage(pfn, "odd page in a pagevec")
		}
		if l := c.m.led; l != nil && l.Held(p, RefPagevec) == 0 {
			c.badPage(pfn, "pagevec without a reference")
		}
	}
}

func (c *checker) ledger() {
	l := c.m.led
	if l == nil {
		return
	}
	for _, f := range l.Findings() {
		c.bad("%s", f)
	}
	for i, ch := range l.chunks {
		if ch == nil {
			continue
		}
		for j := range ch {
			h := &ch[j]
			pfn := uint32(i*chunkPages + j)
			if !h.live || h.frozen {
				continue
			}
			c.holders(pfn, h)
		}
	}
}

func (c *checker) accounting() {
	m := c.m
	tr := m.mach.Trace()
	total := m.frames - 1 - m.lost.Peek() - m.gigantic
	free := m.FreePages()
	live := tr.Sum(trace.PGAllocNormal) - tr.Sum(trace.PGFree)
	if total != free+c.nPCP+live {
		c.bad("%d frames are not %d free, %d on per-CPU lists and %d allocated", total, free, c.nPCP, live)
	}
	if g := tr.Sum(trace.NrFreePages); g != free {
		c.bad("nr_free_pages is %d, zones have %d", g, free)
	}
	onLRU := uint64(0)
	m.eachAllocated(func(pfn uint32, p *Page) {
		if p.Has(LRU) {
			onLRU++
		}
	})
	sum := uint64(0)
	for l := range LRUList(NumLRU) {
		sum += m.LRULen(l)
	}
	if onLRU != sum {
		c.bad("%d pages have flag lru, the lists hold %d", onLRU, sum)
	}
}

// eachAllocated calls fn for the first page of every allocated block. The
// machine must be at rest.
func (m *Map) eachAllocated(fn func(pfn uint32, p *Page)) {
	pcp := map[uint32]bool{}
	for i := range m.cpus {
		s := &m.cpus[i]
		for j := range s.n {
			pcp[s.ring[s.hot+uint8(j)]] = true
		}
	}
	for i := range m.zones {
		z := &m.zones[i]
		for pfn := z.start; pfn < z.brk; {
			if z.holeEnd != 0 && pfn == z.holeStart {
				pfn = z.holeEnd
				continue
			}
			p := m.page(pfn)
			switch {
			case pcp[pfn]:
				pfn++
				continue
			case !p.Has(Buddy):
				fn(pfn, p)
			}
			pfn += 1 << p.order
		}
	}
}

// Leak is a page that is still allocated when everything should be free.
type Leak struct {
	PFN      x86.PFN
	Order    int    // log2 of the block's pages
	Count    int    // references
	MapCount int    // mappings
	Flags    uint64 // bits of Flag
	Holders  string // who holds it, by the ledger; "" without one
}

// String describes the leak in one line.
func (l Leak) String() string {
	return fmt.Sprintf("pfn %#x order %d: count %d mapcount %d flags %s%s",
		l.PFN, l.Order, l.Count, l.MapCount, FlagNames(l.Flags), l.Holders)
}

// Leaks lists what is allocated, reserved pages and free huge pages of a pool apart: at
// shutdown, once the pagevecs are drained, there should be nothing. The machine must be at rest.
func (m *Map) Leaks() []Leak {
	var out []Leak
	m.eachAllocated(func(pfn uint32, p *Page) {
		if p.Has(Reserved) || p.Pooled() {
			return
		}
		out = append(out, Leak{
			PFN: x86.PFN(pfn), Order: int(p.order), Count: int(p.Count.Peek()), MapCount: int(p.MapCount.Peek()),
			Flags: p.Flags.Peek(), Holders: m.led.describe(x86.PFN(pfn)),
		})
	})
	return out
}
