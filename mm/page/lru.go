package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// LRUList numbers the lists that reclaim works on (enum lru_list).
type LRUList uint8

// The lists.
const (
	InactiveAnon LRUList = iota
	ActiveAnon
	InactiveFile
	ActiveFile
	UnevictableList

	NumLRU = iota
)

const (
	lruActive = 1 // added to an inactive list's number
	lruFile   = 2 // added to an anonymous list's number
)

var lruNames = [NumLRU]string{"inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"}

// String returns the list's name as /proc/meminfo spells it.
func (l LRUList) String() string {
	if l < NumLRU {
		return lruNames[l]
	}
	return "lru?"
}

// File reports whether the list holds pages that go to a file.
func (l LRUList) File() bool { return l == InactiveFile || l == ActiveFile }

// Active reports whether the list is an active one.
func (l LRUList) Active() bool { return l == ActiveAnon || l == ActiveFile }

// counter returns the gauge of the list's length: the lists' numbers follow
// the order of the gauges.
func (l LRUList) counter() trace.Counter { return trace.NrInactiveAnon + trace.Counter(l) }

// baseLRU returns the inactive list of the page's kind (page_lru_base_type).
func baseLRU(flags uint64) LRUList {
	if flags&(1<<SwapBacked) != 0 {
		return InactiveAnon
	}
	return InactiveFile
}

// lruOf returns the list that a page with these flags is on or belongs on
// (page_lru).
func lruOf(flags uint64) LRUList {
	if flags&(1<<Unevictable) != 0 {
		return UnevictableList
	}
	l := baseLRU(flags)
	if flags&(1<<Active) != 0 {
		l += lruActive
	}
	return l
}

// LRUOf returns the list that the page is on, or belongs on (page_lru). No
// point; exact under the LRU lock.
func (m *Map) LRUOf(p *Page) LRUList { return lruOf(p.Flags.Peek()) }

// LRULen returns the length of a list, summed over the zones. Without the LRU
// lock the number may be stale.
func (m *Map) LRULen(l LRUList) uint64 { return m.mach.Trace().Sum(l.counter()) }

// OldestPages stores pages that reclaim may take in buf, in the order in which it would: the old
// ends of the inactive lists first. It returns how many. No points: for whoever acts while
// nobody is in the middle of kernel code.
func (m *Map) OldestPages(buf []x86.PFN) (n int) {
	for _, l := range [...]LRUList{InactiveAnon, InactiveFile, ActiveAnon, ActiveFile} {
		for i := range m.zones {
			for pfn := m.zones[i].lru[l].last; pfn != 0 && n < len(buf); pfn = m.page(pfn).prev {
				buf[n] = x86.PFN(pfn)
				n++
			}
		}
	}
	return n
}

// addToList puts a page at the head of a list (add_page_to_lru_list). The
// caller holds z.lruLock.
func (m *Map) addToList(t *sched.Task, z *zone, pfn uint32, l LRUList) {
	m.pushFront(&z.lru[l], pfn)
	t.C.Trace.Inc(l.counter())
}

// delFromList takes a page off a list. The caller holds z.lruLock.
func (m *Map) delFromList(t *sched.Task, z *zone, pfn uint32, l LRUList) {
	m.unlink(&z.lru[l], pfn)
	t.C.Trace.Dec(l.counter())
}

// delFromLRU takes a page without references off its list, on its way to the
// allocator (__page_cache_release).
func (m *Map) delFromLRU(t *sched.Task, p *Page) {
	z := m.zoneOf(uint32(m.PFN(p)))
	off := z.lruLock.LockIRQSave(t)
	t.WriteOf(z, "lru")
	m.delFreedFromLRU(t, z, p)
	z.lruLock.UnlockIRQRestore(t, off)
}

// delFreedFromLRU is del_page_from_lru for a page that nobody else can have.
// The caller holds z.lruLock.
func (m *Map) delFreedFromLRU(t *sched.Task, z *zone, p *Page) {
	flags := p.Flags.Peek()
	if flags&(1<<LRU) == 0 {
		m.badPage(t, p, "page to be freed left the LRU by itself")
	}
	m.delFromList(t, z, uint32(m.PFN(p)), lruOf(flags))
	p.Flags.Poke(flags &^ (1<<LRU | 1<<Active | 1<<Unevictable))
}

// ActivatePage moves a page that is on an inactive list to the active one
// (activate_page). A page that still sits in a pagevec stays as it is.
func (m *Map) ActivatePage(t *sched.Task, p *Page) {
	pfn := uint32(m.PFN(p))
	z := m.zoneOf(pfn)
	off := z.lruLock.LockIRQSave(t)
	t.WriteOf(z, "lru")
	flags := p.Flags.Load(t.C, x86.PageObj(x86.PFN(pfn), x86.PageFlags))
	if flags&(1<<LRU) != 0 && flags&(1<<Active|1<<Unevictable) == 0 {
		l := baseLRU(flags)
		m.delFromList(t, z, pfn, l)
		m.SetFlag(t, p, Active)
		m.addToList(t, z, pfn, l+lruActive)
		t.C.Trace.Inc(trace.PGActivate)
	}
	z.lruLock.UnlockIRQRestore(t, off)
}

// MarkPageAccessed tells reclaim that the page was used (mark_page_accessed):
//
//	inactive, unreferenced -> inactive, referenced
//	inactive, referenced   -> active, unreferenced
//	active, unreferenced   -> active, referenced
func (m *Map) MarkPageAccessed(t *sched.Task, p *Page) {
	p = m.Head(p)
	flags := p.Flags.Load(t.C, m.obj(p, x86.PageFlags))
	switch {
	case flags&(1<<Referenced) == 0:
		m.SetFlag(t, p, Referenced)
	case flags&(1<<Active|1<<Unevictable) == 0 && flags&(1<<LRU) != 0:
		m.ActivatePage(t, p)
		m.ClearFlag(t, p, Referenced)
	}
}

// AddToUnevictable puts a page that is on no list on the unevictable one, not
// by way of a pagevec (add_page_to_unevictable_list).
//
// Preconditions:
//   - the caller has a reference; neither LRU nor Active is set
func (m *Map) AddToUnevictable(t *sched.Task, p *Page) {
	pfn := uint32(m.PFN(p))
	z := m.zoneOf(pfn)
	off := z.lruLock.LockIRQSave(t)
	t.WriteOf(z, "lru")
	m.SetFlag(t, p, Unevictable)
	m.SetFlag(t, p, LRU)
	m.addToList(t, z, pfn, UnevictableList)
	z.lruLock.UnlockIRQRestore(t, off)
}

// IsolateLRU takes a page off its list and a reference for the caller
// (isolate_lru_page). It reports whether it did: a page in a pagevec, or
// isolated by somebody else, is on no list. Active and Unevictable stay as
// they are, for PutbackLRU.
//
// Preconditions:
//   - the caller has a reference already
func (m *Map) IsolateLRU(t *sched.Task, p *Page) bool {
	if !m.TestFlag(t, p, LRU) {
		return false
	}
	pfn := uint32(m.PFN(p))
	z := m.zoneOf(pfn)
	off := z.lruLock.LockIRQSave(t)
	t.WriteOf(z, "lru")
	ok := m.isolate(t, z, p)
	z.lruLock.UnlockIRQRestore(t, off)
	return ok
}

// IsolateListed is IsolateLRU for a caller without a reference, to whom the page may be anything by
// now. It looks only under the lock, as isolate_lru_pages does: without it the flags of a page
// that is being freed are its owner's alone.
func (m *Map) IsolateListed(t *sched.Task, pfn x86.PFN) bool {
	z := m.zoneOf(uint32(pfn))
	off := z.lruLock.LockIRQSave(t)
	t.WriteOf(z, "lru")
	p := m.page(uint32(pfn))
	ok := p.Flags.Peek()&(1<<Unevictable) == 0 && m.isolate(t, z, p)
	z.lruLock.UnlockIRQRestore(t, off)
	return ok
}

// isolate is __isolate_lru_page. The caller holds z.lruLock.
func (m *Map) isolate(t *sched.Task, z *zone, p *Page) bool {
	flags := p.Flags.Peek()
	if flags&(1<<LRU) == 0 || !m.TryGet(t, p) {
		return false
	}
	m.ClearFlag(t, p, LRU)
	m.delFromList(t, z, uint32(m.PFN(p)), lruOf(flags))
	return true
}

// IsolateTail takes up to len(buf) pages off the old end of a list, after
// looking at no more than scan of them, and stores them in buf
// (isolate_lru_pages). Each has one more reference and LRU clear; they go back
// with PutbackLRU. Pages about to be freed are passed over, to the list's new
// end. It returns how many it took and how many it looked at.
func (m *Map) IsolateTail(t *sched.Task, l LRUList, scan int, buf []x86.PFN) (taken, scanned int) {
	for i := range m.zones {
		z := &m.zones[i]
		off := z.lruLock.LockIRQSave(t)
		t.WriteOf(z, "lru")
		for n := z.lru[l].n; n > 0 && taken < len(buf) && scanned < scan; n-- {
			pfn := z.lru[l].last
			scanned++
			if m.isolate(t, z, m.page(pfn)) {
				buf[taken] = x86.PFN(pfn)
				taken++
				continue
			}
			m.unlink(&z.lru[l], pfn)
			m.pushFront(&z.lru[l], pfn)
		}
		z.lruLock.UnlockIRQRestore(t, off)
		if taken == len(buf) || scanned >= scan {
			break
		}
	}
	return taken, scanned
}

// PutbackLRU returns an isolated page to a list and drops the reference of the
// isolation (putback_lru_page): to the list of its kind and activity, or to the
// unevictable one if reclaim may not take it.
func (m *Map) PutbackLRU(t *sched.Task, p *Page) {
	flags := p.Flags.Load(t.C, m.obj(p, x86.PageFlags))
	was := flags&(1<<Unevictable) != 0
	for {
		if p.Has(Unevictable) {
			m.ClearFlag(t, p, Unevictable)
		}
		if m.Evictable(t, p) {
			l := baseLRU(flags)
			if flags&(1<<Active) != 0 {
				l += lruActive
			}
			m.LRUCacheAdd(t, p, l)
			if was {
				t.C.Trace.Inc(trace.UnevictablePGsRescued)
			}
			break
		}
		if p.Has(Active) {
			m.ClearFlag(t, p, Active)
		}
		m.AddToUnevictable(t, p)
		// The mark may have been taken off while the page was on no list, by
		// somebody who could not move it.
		if !m.Evictable(t, p) || !m.IsolateLRU(t, p) {
			if !was {
				t.C.Trace.Inc(trace.UnevictablePGsCulled)
			}
			break
		}
		m.Put(t, p)
	}
	m.Put(t, p)
}

// EachLRU calls fn for the pages of a list from the newest to the oldest, until
// it returns false. Nothing may be running.
func (m *Map) EachLRU(l LRUList, fn func(pfn x86.PFN, p *Page) bool) {
	for i := range m.zones {
		for pfn := m.zones[i].lru[l].first; pfn != 0; pfn = m.page(pfn).next {
			if !fn(x86.PFN(pfn), m.page(pfn)) {
				return
			}
		}
	}
}
