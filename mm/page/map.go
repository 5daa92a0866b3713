package page

import (
	"unsafe"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Map is the machine's array of Pages (mem_map) with the allocator and the LRU
// lists that work on it.
type Map struct {
	base   unsafe.Pointer // the array; immutable
	frames uint64         // its length; immutable
	mem    *x86.Memory    // immutable
	mach   *sched.Machine // immutable

	zones      []zone   // immutable; what is in them is protected by their locks
	stripe     uint32   // frames of each zone but the last; immutable
	cpus       []cpuSet // by CPU number; each is its CPU's, with the protection named there
	carveOrder int      // how much wilderness is taken at a time; immutable
	single     bool     // there is one zone for all CPUs; immutable
	mustDrop   bool     // the ledger drops a reference before the count; immutable

	waiters lock.BitWait // who waits for Locked or Writeback to go
	congestion

	led  *Ledger    // nil unless references are recorded; immutable
	inj  *injector  // nil unless failures are injected; set while nothing runs
	lost x86.Word64 // frames of the wilderness that the host refused
	// gigantic counts frames in pages too large for the free lists. Boot time only.
	gigantic uint64
	dtor     [maxDtors]func(*sched.Task, *Page)

	// OnFree is called when a page's last reference has gone and before the
	// frame goes back to the allocator; for a compound page with its head, and
	// not when a destructor keeps it in a pool. The page is nobody's: the count
	// is zero, no page-layer lock is held; it may be an interrupt. Nil is none.
	OnFree func(t *sched.Task, p *Page)
	// Reclaim is called when an allocation that may sleep finds too little
	// memory (try_to_free_pages). It returns how many pages it freed. No
	// locks are held. It must pass GFPMemalloc to allocations of its own. Nil
	// frees nothing.
	Reclaim func(t *sched.Task, gfp GFP, order int) uint64
	// WakeKswapd is called when free memory has fallen below pages_low. It must
	// not sleep: the caller may be in an interrupt. Nil is none.
	WakeKswapd func(t *sched.Task, order int)
	// Memalloc reports whether the task may have the last page: it frees memory, or
	// it has been killed for want of it (PF_MEMALLOC, TIF_MEMDIE). Nil is nobody.
	Memalloc func(t *sched.Task) bool
	// OutOfMemory is called when Reclaim found nothing (out_of_memory). It
	// reports whether it killed somebody, so that trying again makes sense.
	// No locks are held. Nil kills nobody.
	OutOfMemory func(t *sched.Task, gfp GFP, order int) bool
}

// NewMap makes the array for all frames of mem. Nothing is touched but the
// reserved frame 0: boot takes the same time whatever the size of the machine.
// References are recorded (see Ledger) in the free regime and in race-detector
// and debug builds; UseLedger changes that.
func NewMap(m *sched.Machine, mem *x86.Memory) *Map {
	mm := &Map{
		base: mem.PageArray(Size), frames: mem.Frames(), mem: mem, mach: m,
		cpus: make([]cpuSet, m.CPUs()), mustDrop: !m.Det(),
	}
	mm.waiters.Init(m, lock.PageLock)
	mm.congestion.init(m)
	mm.setupZones()
	if m.Regime() == sched.Free || debug {
		mm.led = newLedger(mm)
	}
	if mem.Touch(0, 1) {
		p := mm.page(0)
		p.PokeSet(Reserved)
		p.Count.Poke(1)
	}
	return mm
}

// UseLedger turns the record of references on or off. It must be called before
// the first allocation.
func (m *Map) UseLedger(on bool) {
	m.led = nil
	if on {
		m.led = newLedger(m)
	}
}

// Ledger returns the record of references, nil if none is kept.
func (m *Map) Ledger() *Ledger { return m.led }

// Machine returns the machine whose memory this is.
func (m *Map) Machine() *sched.Machine { return m.mach }

// Memory returns the frames that the Pages describe.
func (m *Map) Memory() *x86.Memory { return m.mem }

// Frames returns the number of frames, the reserved one included.
func (m *Map) Frames() uint64 { return m.frames }

// Page returns the Page of a frame (pfn_to_page). A pfn outside the machine,
// which a corrupted page table may well hold, is a panic with x86.Nonsense.
func (m *Map) Page(pfn x86.PFN) *Page {
	if uint64(pfn) >= m.frames {
		m.badPFN(pfn)
	}
	return (*Page)(unsafe.Add(m.base, uintptr(pfn)<<shift))
}

// page is Page for a pfn out of our own lists.
func (m *Map) page(pfn uint32) *Page {
	return (*Page)(unsafe.Add(m.base, uintptr(pfn)<<shift))
}

//go:noinline
func (m *Map) badPFN(pfn x86.PFN) {
	panic(x86.Nonsense{What: "looking up a struct page", Frame: uint64(pfn)})
}

// PFN returns the number of the frame that p describes (page_to_pfn).
func (m *Map) PFN(p *Page) x86.PFN {
	return x86.PFN((uintptr(unsafe.Pointer(p)) - uintptr(m.base)) >> shift)
}

// obj names a word of p for schedule points.
func (m *Map) obj(p *Page, w x86.PageWord) x86.ObjID { return x86.PageObj(m.PFN(p), w) }

// Head returns the head of the compound page that p is part of, p itself
// otherwise (compound_head). No point: the caller has a reference, or has
// interrupts off in gup-fast, so the compound page cannot go away.
func (m *Map) Head(p *Page) *Page {
	if p.Has(Tail) {
		return m.page(p.head)
	}
	return p
}

// Get takes a reference (get_page). For a tail page it is the head's.
//
// Preconditions:
//   - the caller knows of a reference that cannot go away meanwhile: its own,
//     that of a page-table entry under its lock, or gup-fast's with
//     interrupts off. A free page is an oops.
func (m *Map) Get(t *sched.Task, p *Page) { m.GetAs(t, p, RefTemp) }

// GetAs is Get for a reference of the given kind.
func (m *Map) GetAs(t *sched.Task, p *Page, kind RefKind) {
	p = m.Head(p)
	pfn := m.PFN(p)
	t.C.Point(x86.OpAdd, x86.PageObj(pfn, x86.PageRef)) // Count.Add, inlined
	if p.Count.RawAdd(1) <= 1 {
		m.badPage(t, p, "reference taken on a free page")
	}
	if m.led != nil {
		m.led.take(t, pfn, kind, 1)
	}
	if t.C.Trace.On() {
		m.event(t, trace.EvPageGet, p)
	}
}

// GetN takes n references at once, as gup-fast does on a huge page's head.
func (m *Map) GetN(t *sched.Task, p *Page, n int) { m.GetNAs(t, p, RefTemp, n) }

// GetNAs is GetN for references of the given kind.
func (m *Map) GetNAs(t *sched.Task, p *Page, kind RefKind, n int) {
	p = m.Head(p)
	pfn := m.PFN(p)
	p.Count.Add(t.C, x86.PageObj(pfn, x86.PageRef), int32(n))
	if p.Count.Peek() <= int32(n) {
		m.badPage(t, p, "references taken on a free page")
	}
	if m.led != nil {
		m.led.take(t, pfn, kind, n)
	}
	if t.C.Trace.On() {
		m.event(t, trace.EvPageGet, p)
	}
}

// TryGet takes a reference unless there is none (get_page_unless_zero), and
// reports whether it did. p must not be a tail page.
func (m *Map) TryGet(t *sched.Task, p *Page) bool { return m.TryGetAs(t, p, RefTemp) }

// TryGetAs is TryGet for a reference of the given kind.
func (m *Map) TryGetAs(t *sched.Task, p *Page, kind RefKind) bool {
	pfn := m.PFN(p)
	if !p.Count.AddUnless(t.C, x86.PageObj(pfn, x86.PageRef), 1, 0) {
		return false
	}
	if m.led != nil {
		m.led.take(t, pfn, kind, 1)
	}
	if t.C.Trace.On() {
		m.event(t, trace.EvPageGet, p)
	}
	return true
}

// Put drops a reference (put_page); the last one frees the page. May be called
// with interrupts off and in interrupts.
func (m *Map) Put(t *sched.Task, p *Page) { m.PutAs(t, p, RefTemp) }

// PutAs is Put for a reference of the given kind.
func (m *Map) PutAs(t *sched.Task, p *Page, kind RefKind) {
	if m.putTestZero(t, p, kind, 1) {
		m.releaseLast(t, p)
	}
}

// PutN drops n references at once.
func (m *Map) PutN(t *sched.Task, p *Page, n int) { m.PutNAs(t, p, RefTemp, n) }

// PutNAs is PutN for references of the given kind.
func (m *Map) PutNAs(t *sched.Task, p *Page, kind RefKind, n int) {
	if m.putTestZero(t, p, kind, int32(n)) {
		m.releaseLast(t, p)
	}
}

// putTestZero drops n references of p's head and reports whether none is left
// (put_page_testzero).
func (m *Map) putTestZero(t *sched.Task, p *Page, kind RefKind, n int32) bool {
	p = m.Head(p)
	pfn := m.PFN(p)
	if m.led != nil && m.mustDrop {
		m.led.drop(t, pfn, kind, int(n))
	}
	t.C.Point(x86.OpRMW, x86.PageObj(pfn, x86.PageRef)) // Count.AddReturn, inlined
	left := p.Count.RawAdd(-n)
	if m.led != nil && !m.mustDrop {
		m.led.drop(t, pfn, kind, int(n))
	}
	if t.C.Trace.On() {
		m.event(t, trace.EvPagePut, p)
	}
	if left > 0 {
		return false
	}
	if left < 0 {
		m.badPage(t, p, "more references dropped than taken")
	}
	return true
}

// releaseLast frees a page whose count has reached zero (__put_page, or the
// destructor of a compound page).
func (m *Map) releaseLast(t *sched.Task, p *Page) {
	if p.Flags.Peek()&compoundFlags != 0 {
		m.freeCompound(t, m.Head(p))
		return
	}
	if p.Flags.Peek()&(1<<LRU) != 0 {
		m.delFromLRU(t, p)
	}
	m.freeHotCold(t, p, false /* cold */)
}

// FreezeRefs makes the count zero if it is n, so that nobody can take a
// reference (page_freeze_refs), and reports whether it did.
func (m *Map) FreezeRefs(t *sched.Task, p *Page, n int) bool {
	pfn := m.PFN(p)
	if !p.Count.CAS(t.C, x86.PageObj(pfn, x86.PageRef), int32(n), 0) {
		return false
	}
	if m.led != nil {
		m.led.freeze(pfn, true)
	}
	return true
}

// UnfreezeRefs gives a frozen page n references (page_unfreeze_refs).
func (m *Map) UnfreezeRefs(t *sched.Task, p *Page, n int) {
	pfn := m.PFN(p)
	p.Count.Store(t.C, x86.PageObj(pfn, x86.PageRef), int32(n))
	if m.led != nil {
		m.led.freeze(pfn, false)
	}
}

// FreeFrozen frees a page that FreezeRefs has frozen: what reclaim does after
// __remove_mapping. The references that were frozen are gone with it.
func (m *Map) FreeFrozen(t *sched.Task, p *Page) {
	if m.led != nil {
		m.led.forget(m.PFN(p))
	}
	m.releaseLast(t, p)
}

// Refs reads the number of references (page_count), of the head for a tail
// page: a visible read.
func (m *Map) Refs(t *sched.Task, p *Page) int {
	p = m.Head(p)
	return int(p.Count.Load(t.C, m.obj(p, x86.PageRef)))
}

// MapRefs reads the number of page-table entries that map the page
// (page_mapcount, one more than the kernel's _mapcount): a visible read.
func (m *Map) MapRefs(t *sched.Task, p *Page) int {
	return int(p.MapCount.Load(t.C, m.obj(p, x86.PageMap)))
}

// Mapped reports whether any page-table entry maps the page (page_mapped): a
// visible read.
func (m *Map) Mapped(t *sched.Task, p *Page) bool { return m.MapRefs(t, p) > 0 }

// IncMap counts one more mapping and returns how many there are: 1 means that
// the page was not mapped before (atomic_inc_and_test in page_add_*_rmap).
func (m *Map) IncMap(t *sched.Task, p *Page) int {
	return int(p.MapCount.AddReturn(t.C, m.obj(p, x86.PageMap), 1))
}

// DupMap counts one more mapping of a page that is mapped already; two of them
// commute (page_dup_rmap).
func (m *Map) DupMap(t *sched.Task, p *Page) {
	p.MapCount.Add(t.C, m.obj(p, x86.PageMap), 1)
}

// DecMap counts one mapping less and returns how many are left
// (atomic_add_negative in page_remove_rmap). Below zero is an oops.
func (m *Map) DecMap(t *sched.Task, p *Page) int {
	t.C.Point(x86.OpRMW, m.obj(p, x86.PageMap)) // MapCount.AddReturn, inlined
	n := p.MapCount.RawAdd(-1)
	if n < 0 {
		m.badPage(t, p, "unmapped more often than mapped")
	}
	return int(n)
}

func (m *Map) event(t *sched.Task, kind trace.EventKind, p *Page) {
	c := t.C
	c.Trace.Event(kind, c.Now(), uint64(m.PFN(p)), uint64(p.Count.Peek()), uint64(p.MapCount.Peek()))
}

// badPage reports a page in a state that cannot be (bad_page). Linux
// 2.6.29 prints and goes on with a repaired page; here the run ends.
//
//go:noinline
func (m *Map) badPage(t *sched.Task, p *Page, why string) {
	t.Oops("bad page: %s: pfn %#x count %d mapcount %d mapping %#x index %d flags %s%s",
		why, m.PFN(p), p.Count.Peek(), p.MapCount.Peek(), p.Mapping, p.Index, FlagNames(p.Flags.Peek()),
		m.led.describe(m.PFN(p)))
}
