package mm

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// The invariants of the memory manager. Each holds only while the lock that
// guards it is free: between a page's new map count and its new pte the two
// differ, and that is no mistake.
//
//	invariant                                        guard
//	a table's frame exists and is in use             none
//	a pte's page has a mapping and a reference        none
//	map count = ptes that map the page               ptl of every table that may map it (1)
//	rmap finds every pte                             lock of the page's list, ptl of the pte
//	a pte lies in a VMA                              mmap_sem (write), ptl of the pte
//	rss = ptes                                       ptls of the address space (1)
//	NrPTEs = last-level tables                       page_table_lock
//	no TLB entry allows more than its pte            a flush on its way: see tlbExcused
//	no TLB entry names a free page                   one CPU only, where munmap frees first
//	what holds of huge pages                         see check_huge.go
//	gauges = distinct pages mapped                   all of the above; at rest only
//	a pte of a KSM page: read-only, mergeable VMA     as above; see check_ksm.go
//
// (1) and mmap_sem, where a policy has fork's loop in its hands: see forkCounts.
//
// The checks use neither points nor locks: they look at a machine that stands
// still, be it at rest or, in the deterministic regimes, between two steps.

// checkState is the scratch memory of Check, kept so that checking at every step
// stays cheap.
type checkState struct {
	maps   []uint32 // by pfn: ptes found; zero between checks
	seen   []x86.PFN
	tlb    []x86.TLBEntryInfo
	errs   []error
	anon   uint64 // distinct anonymous pages mapped
	file   uint64 // distinct other pages mapped
	guards bool   // some table was locked
	swap   swapScan
	huge   hugeScan
}

const maxCheckErrors = 50

func (k *checkState) bad(format string, args ...any) {
	if len(k.errs) < maxCheckErrors {
		k.errs = append(k.errs, fmt.Errorf("mm: "+format, args...))
	}
}

// Check returns what is wrong with the address spaces, the pages they map and the
// TLBs, as far as no lock is held that allows it. The machine must stand still:
// no other goroutine runs one of its CPUs.
func (s *System) Check() []error { return s.runChecks(false /* rest */) }

// CheckRest is Check for a machine at rest, where everything must hold, and
// that the pages are in order (page.Map.Check).
func (s *System) CheckRest() []error {
	return append(s.runChecks(true /* rest */), s.Pages.Check()...)
}

func (s *System) runChecks(rest bool) []error {
	k := &s.checks
	if k.maps == nil {
		k.maps = make([]uint32, s.Pages.Frames())
	}
	k.errs, k.seen, k.guards, k.anon, k.file = nil, k.seen[:0], false, 0, 0
	k.huge = hugeScan{ptes: k.huge.ptes}
	clear(k.huge.ptes)
	for _, m := range s.MMs() {
		s.checkMM(k, m, rest)
	}
	if s.swapOn() {
		s.checkSwap(k, rest)
	}
	s.checkHuge(k, rest)
	s.checkKSM(k, rest)
	for _, pfn := range k.seen {
		p := s.Pages.Page(pfn)
		s.checkCounts(k, pfn, p, int(k.maps[pfn]), rest)
		k.maps[pfn] = 0
		if p.Anon() {
			k.anon++
		} else {
			k.file++
		}
	}
	for cpu := range s.M.CPUs() {
		s.checkTLB(k, cpu, rest)
	}
	if rest {
		tr := s.M.Trace()
		if n := tr.Sum(trace.NrAnonPages); n != k.anon {
			k.bad("%v is %d, ptes map %d anonymous pages", trace.NrAnonPages, n, k.anon)
		}
		if n := tr.Sum(trace.NrMapped); n != k.file {
			k.bad("%v is %d, ptes map %d pages of the page cache", trace.NrMapped, n, k.file)
		}
	}
	return k.errs
}

// tableScan is the walk over one address space's tables.
type tableScan struct {
	s          *System
	k          *checkState
	m          *MM
	rest       bool
	vmas       bool // every pte must lie in a VMA
	tables     uint64
	anon, file uint64
	locked     bool   // some table's ptl was held
	vma        *VMA   // the VMA of the last pte, nil if it was in none
	handle     uint64 // what pages of vma have as Mapping if rmap finds vma from it; else 0
}

func (s *System) checkMM(k *checkState, m *MM, rest bool) {
	if m.PGD == 0 {
		return
	}
	sc := tableScan{s: s, k: k, m: m, rest: rest}
	sc.vmas = rest || m.Users.Peek() > 0 && !m.MmapSem.WriteLocked()
	sc.table(m.PGD, x86.LevelPGD, 0)
	if rest || !sc.locked && !s.forkCounts(m) {
		if n := m.AnonRSS.Peek(); n != sc.anon {
			k.bad("address space %d: anon_rss is %d, %d ptes", m.ID, n, sc.anon)
		}
		if n := m.FileRSS.Peek(); n != sc.file {
			k.bad("address space %d: file_rss is %d, %d ptes", m.ID, n, sc.file)
		}
	}
	if (rest || m.Users.Peek() > 0 && !m.PageTableLock.Locked() && !m.MmapSem.WriteLocked()) && m.NrPTEs != sc.tables {
		k.bad("address space %d: nr_ptes is %d, %d page tables", m.ID, m.NrPTEs, sc.tables)
	}
	k.guards = k.guards || sc.locked
}

// table visits the entries of one table, whose first entry translates addr.
func (sc *tableScan) table(pfn x86.PFN, level int, addr uint64) {
	s := sc.s
	if !s.Mem.Valid(pfn) || s.Pages.Page(pfn).Count.Peek() <= 0 {
		sc.k.bad("address space %d: level %d table at %#x is frame %#x, which is free or does not exist",
			sc.m.ID, level, addr, uint64(pfn))
		return
	}
	locked := false
	if level == x86.LevelPTE {
		sc.tables++
		locked = s.Pages.PTL(pfn).Locked()
		sc.locked = sc.locked || locked
	}
	size := x86.LevelSize(level)
	last := x86.EntriesPerTable
	if level == x86.LevelPGD {
		last /= 2 // the upper half is the kernel's
	}
	ref := x86.NewPTERef(s.Mem, pfn, 0, 0)
	for i := range last {
		if i > 0 {
			ref = ref.Next(0)
			addr += size
		}
		e := ref.Peek()
		if e == 0 {
			continue
		}
		switch {
		case level == x86.LevelPTE:
			if e.Present() {
				sc.pte(e, addr, locked && !sc.rest)
			} else if e.IsSwap() && s.swapOn() {
				s.sawSwap(sc.k, sc.m, addr, e)
			}
		case e.Huge() && level <= x86.LevelPUD:
			sc.huge(e, level, addr)
		case e.HWPresent():
			sc.table(e.PFN(), level-1, addr)
		}
	}
}

// pte looks at one present entry. locked says that its ptl is held.
func (sc *tableScan) pte(e x86.PTE, addr uint64, locked bool) {
	s, k, m := sc.s, sc.k, sc.m
	if e.Special() {
		return
	}
	pfn := e.PFN()
	if !s.Mem.Valid(pfn) {
		k.bad("address space %d: pte at %#x is %v: there is no such frame", m.ID, addr, e)
		return
	}
	p := s.Pages.Page(pfn)
	if p.MapCount.Peek() <= 0 && !locked {
		k.bad("address space %d: pte at %#x maps %s", m.ID, addr, s.describePage(pfn, p))
		return
	}
	if k.maps[pfn] == 0 {
		k.seen = append(k.seen, pfn)
	}
	k.maps[pfn]++
	if p.Anon() {
		sc.anon++
	} else {
		sc.file++
	}
	if locked {
		return
	}
	if v := sc.vma; v == nil || addr < v.Start || addr >= v.End {
		sc.enter(addr)
	}
	// Nearly always rmap finds the VMA that is there; otherwise ask it.
	v := sc.vma
	direct := v != nil && sc.handle != 0 && p.Mapping == sc.handle && p.Index == v.Index(addr)
	if p.KSM() {
		sc.ksmPTE(e, addr)
	} else if !direct && (sc.rest || !s.listLocked(p)) {
		found := false
		s.rmapPeek(p, func(v *VMA, at uint64) bool {
			found = v.MM == m && at == addr
			return !found
		})
		if !found {
			k.bad("rmap does not find %s at %#x of address space %d", s.describePage(pfn, p), addr, m.ID)
		}
	}
	switch {
	case !sc.vmas:
	case v == nil:
		k.bad("address space %d: pte at %#x is %v, but no VMA is there", m.ID, addr, e)
	case e.Write() && v.Flags&VMWrite == 0:
		k.bad("address space %d: pte at %#x is %v, but its VMA is not writable", m.ID, addr, e)
	default:
		if err := s.policy.CheckPTE(v, e, p); err != nil {
			k.bad("address space %d: pte at %#x is %v: %v", m.ID, addr, e, err)
		}
	}
}

// enter finds the VMA at addr, and whether it is on the list it belongs to.
func (sc *tableScan) enter(addr uint64) {
	sc.vma, sc.handle = nil, 0
	v := sc.m.lookupVMA(addr)
	if v == nil || addr < v.Start {
		return
	}
	sc.vma = v
	if a := v.AnonVMA; a != nil {
		for o := a.head; o != nil; o = o.anonNext {
			if o == v {
				sc.handle = a.handle()
			}
		}
	}
}

// listLocked reports whether the list of the VMAs that may map p is being changed.
func (s *System) listLocked(p *page.Page) bool {
	if a := s.anon.of(p.Mapping); a != nil {
		return a.Lock.Locked()
	}
	as := s.spaces.of(p.Mapping)
	return as != nil && as.IMmapLock.Locked()
}

// checkCounts compares the counts of a page that n ptes map.
func (s *System) checkCounts(k *checkState, pfn x86.PFN, p *page.Page, n int, rest bool) {
	if c, mc := p.Count.Peek(), p.MapCount.Peek(); c < mc || c <= 0 || p.Has(page.Buddy) {
		k.bad("%s is mapped by %d ptes, has fewer references than mappings, or is free", s.describePage(pfn, p), n)
	}
	free := rest || !s.mappingLocked(p)
	if p.KSM() && !rest { // no rmap says which tables to look at
		free = !k.guards && s.hooks&HookForkPTE == 0
	}
	if int(p.MapCount.Peek()) != n && free {
		k.bad("%s: %d ptes map it", s.describePage(pfn, p), n)
	}
}

// mappingLocked reports whether somebody may be changing how often p is mapped: a
// table where rmap would look for a pte of p is locked, or the list is.
func (s *System) mappingLocked(p *page.Page) bool {
	locked := s.listLocked(p)
	if locked || p.Mapping == 0 || s.swapOn() && p.Has(page.Locked) {
		return true // do_swap_page counts the mapping before it says where it is
	}
	s.rmapPeek(p, func(v *VMA, addr uint64) bool {
		table, ok := v.MM.peekTable(addr)
		locked = ok && s.Pages.PTL(table).Locked() || s.forkCounts(v.MM)
		return !locked
	})
	return locked
}

// forkCounts reports whether a fork into or out of m may have counted mappings
// whose entries it has not set although it holds no ptl: policies that copy pages
// in the middle of fork do so, as the patch of row 2 in POLICIES.md.
func (s *System) forkCounts(m *MM) bool {
	return s.hooks&HookForkPTE != 0 && m.MmapSem.WriteLocked()
}

// peekTable is walkTable without points, for invariants: frames that do not exist
// translate nothing.
func (m *MM) peekTable(addr uint64) (table x86.PFN, ok bool) {
	table = m.PGD
	for level := x86.LevelPGD; level > x86.LevelPTE; level-- {
		if table == 0 || !m.Sys.Mem.Valid(table) {
			return 0, false
		}
		e := x86.NewPTERef(m.Sys.Mem, table, x86.LevelIndex(addr, level), 0).Peek()
		if !e.HWPresent() || e.Huge() {
			return 0, false
		}
		table = e.PFN()
	}
	return table, m.Sys.Mem.Valid(table)
}

// PeekPTE returns the last-level entry for addr, 0 if there is no table: for
// invariants, tests and reports.
func (m *MM) PeekPTE(addr uint64) x86.PTE {
	table, ok := m.peekTable(addr)
	if !ok {
		return 0
	}
	return x86.NewPTERef(m.Sys.Mem, table, x86.PTEIndex(addr), 0).Peek()
}

// CheckPage returns what is wrong with one page: that its map count is not the
// number of ptes that rmap finds, or that it has fewer references than
// mappings. Its cost is that of one rmap walk. The machine must stand still.
func (s *System) CheckPage(pfn x86.PFN) error {
	p := s.Pages.Page(pfn)
	maps := p.MapCount.Peek()
	if c := p.Count.Peek(); c < maps || p.Has(page.Buddy) && maps != 0 {
		return fmt.Errorf("mm: %s has fewer references than mappings", s.describePage(pfn, p))
	}
	// Only pages that are mapped, or look as if they had been, have a Mapping that
	// leads to VMAs; that of a page table is its lock.
	if maps == 0 && !p.Has(page.SwapBacked) || p.KSM() || s.mappingLocked(p) {
		return nil
	}
	if p.Order() > 0 {
		return nil // a huge page, whose entries checkHugePage counts: there are no ptes to find
	}
	n := int32(0)
	s.rmapPeek(p, func(v *VMA, addr uint64) bool {
		if e := v.MM.PeekPTE(addr); e.Present() && e.PFN() == pfn {
			n++
		}
		return true
	})
	if n != maps {
		return fmt.Errorf("mm: %s: rmap finds %d ptes", s.describePage(pfn, p), n)
	}
	return nil
}

// checkTLB looks for translations of one CPU that allow more than the tables do.
func (s *System) checkTLB(k *checkState, cpu int, rest bool) {
	c := s.M.CPU(cpu)
	k.tlb = c.AppendTLB(k.tlb[:0])
	if len(k.tlb) == 0 {
		return
	}
	m := s.mmByID(c.Space)
	if m == nil || m.PGD != c.CR3 || m.CPUMask.Peek()>>cpu&1 == 0 {
		return // the CPU has left: it loads other tables before it uses an address
	}
	for i := range k.tlb {
		t := &k.tlb[i]
		leaf, size := s.Mem.PeekWalk(m.PGD, t.VA)
		why := ""
		switch {
		case size == 0:
			why = "nothing is mapped"
		case leaf.PFN()+x86.PFN(t.VA&(size-1)>>x86.PageShift) != t.PFN:
			why = "another page is mapped"
		case !leaf.User():
			why = "the page is not the user's"
		case t.Writable && !leaf.Write():
			why = "the page is not writable"
		default:
			continue
		}
		if s.hugeCOWStale(m, t, leaf) {
			continue
		}
		if t.Size == x86.PageSize && s.M.CPUs() > 1 && m.Users.Peek() > 0 && s.Pages.Page(t.PFN).Count.Peek() == 0 {
			// Whoever owes the flush must not have given the page back before.
			k.bad("cpu %d translates %#x of address space %d to pfn %#x, which is free", cpu, t.VA, m.ID, t.PFN)
			continue
		}
		if rest || !s.tlbExcused(m, cpu, t.VA) {
			k.bad("cpu %d translates %#x of address space %d to pfn %#x (writable %v), but %s: %v",
				cpu, t.VA, m.ID, t.PFN, t.Writable, why, leaf)
		}
	}
}

// tlbExcused reports whether whoever changed the entry for va still owes this CPU
// a flush: fork, munmap and mprotect hold mmap_sem for writing until they have
// flushed, faults and reclaim the ptl; zapping with mmap_sem held for reading
// announces itself; and the flush may be under way.
func (s *System) tlbExcused(m *MM, cpu int, va uint64) bool {
	if m.FlushPending() || m.MmapSem.WriteLocked() || m.Users.Peek() <= 0 {
		return true
	}
	if table, ok := m.peekTable(va); ok && s.Pages.PTL(table).Locked() {
		return true
	}
	if v := m.lookupVMA(va); v != nil && v.Flags&VMHugetlb != 0 && m.PageTableLock.Locked() {
		return true
	}
	for i := range s.tlb.slots {
		if f := &s.tlb.slots[i]; f.mask.Peek()>>cpu&1 != 0 && (f.mm == m || f.mm == nil) {
			return true
		}
	}
	return false
}

// mmByID finds an address space by number; nil if it is gone.
func (s *System) mmByID(id uint32) *MM {
	s.mms.lock.Lock()
	m := s.mms.all[id]
	s.mms.lock.Unlock()
	return m
}

// describePage says what a page is and who holds it.
func (s *System) describePage(pfn x86.PFN, p *page.Page) string {
	out := fmt.Sprintf("pfn %#x (count %d, mapcount %d, mapping %#x, index %#x, flags %s", uint64(pfn),
		p.Count.Peek(), p.MapCount.Peek(), p.Mapping, p.Index, page.FlagNames(p.Flags.Peek()))
	if l := s.Pages.Ledger(); l != nil {
		out += "; " + l.Describe(p)
	}
	return out + ")"
}

// Leaks lists what is left of a machine whose processes have all ended: address
// spaces, page caches, anon_vmas, pages. CPUs may borrow the last address space;
// see DropLazy. Pages in pagevecs count as leaks: drain them first. The machine
// must be at rest.
func (s *System) Leaks() []string {
	var out []string
	for _, m := range s.MMs() {
		out = append(out, fmt.Sprintf("address space %d: %d users, %d references, %d VMAs, anon_rss %d, file_rss %d",
			m.ID, m.Users.Peek(), m.Refs.Peek(), m.vmas.Len(), m.AnonRSS.Peek(), m.FileRSS.Peek()))
	}
	s.spaces.each(func(as *AddressSpace) {
		if as.huge != nil && as.huge.linked {
			return
		}
		out = append(out, fmt.Sprintf("address_space %d: %d references, %d pages", as.slot, as.refs.Peek(), as.NrPages()))
	})
	if n := s.anon.live(); n != 0 {
		out = append(out, fmt.Sprintf("%d anon_vmas", n))
	}
	if n := s.CommittedPages(); n != 0 {
		out = append(out, fmt.Sprintf("%d pages are still promised to somebody", int64(n)))
	}
	for _, l := range s.Pages.Leaks() {
		if as := s.spaces.of(s.Pages.Page(l.PFN).Mapping); as != nil && as.huge != nil && as.huge.linked && l.Count == 1 {
			continue // a file that has a name keeps its pages
		}
		out = append(out, l.String())
	}
	return out
}

// live counts the slots that are not free. The machine must be at rest.
func (s *anonVMAs) live() int {
	n := int(s.n) - len(s.shared)
	for i := range s.cpus {
		n -= s.cpus[i].n
	}
	return n
}
