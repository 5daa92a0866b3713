package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// What reclaim needs of a zone: its lists taken apart and put together again
// under the LRU lock, its watermarks, and what reclaim remembers of it.
//
//	list --IsolateZone--> caller's buffer --+--> PutbackZone      as its flags say
//	        (one reference more, LRU clear) +--> DeactivateZone   inactive list
//	                                        +--> FreeFrozen       gone
//
// Only the free regime has more than one zone; see zone.

// ZoneStat is what reclaim remembers of a zone (struct zone_reclaim_stat and its
// neighbours in struct zone). All of it is statistics that order nothing: atomic,
// without points.
type ZoneStat struct {
	// Scanned and Rotated count pages that left the lists to be looked at, and of
	// these the ones found in use; [0] anonymous, [1] of files.
	Scanned, Rotated [2]x86.Word64
	// SavedScan is scanning work too small to be done yet (nr_saved_scan).
	SavedScan [NumLRU]x86.Word64
	// PagesScanned counts pages looked at since one was last freed; Unreclaimable
	// is set when it is hopeless (ZONE_ALL_UNRECLAIMABLE). Freeing clears both.
	PagesScanned  x86.Word64
	Unreclaimable x86.Word32
}

// NumZones returns the number of zones.
func (m *Map) NumZones() int { return len(m.zones) }

// ZoneStat returns what reclaim remembers of zone z.
func (m *Map) ZoneStat(z int) *ZoneStat { return &m.zones[z].stat }

// ZoneLRULen returns the length of a list of zone z. Without the LRU lock the
// number may be stale.
func (m *Map) ZoneLRULen(z int, l LRUList) uint64 {
	if m.single {
		return uint64(max(m.mach.Trace().Gauge(l.counter()), 0))
	}
	return m.zones[z].lru[l].n // several zones: the machine is deterministic
}

// ZonePages returns how many frames zone z has. It may be stale: the host may be refusing some just now.
//
//go:norace
func (m *Map) ZonePages(z int) uint64 { return uint64(m.zones[z].end - m.zones[z].start) }

// ZoneFree returns how many pages of zone z are free. It may be stale.
func (m *Map) ZoneFree(z int) uint64 { return m.zones[z].free.Peek() }

// ZoneWatermarks returns pages_min, pages_low and pages_high of zone z.
func (m *Map) ZoneWatermarks(z int) (minimum, low, high uint64) {
	w := &m.zones[z].wmark
	return w[wmarkMin], w[wmarkLow], w[wmarkHigh]
}

// ZoneOK reports whether zone z would have more than mark pages free after an
// allocation of the given order, enough of them in large blocks
// (zone_watermark_ok).
func (m *Map) ZoneOK(t *sched.Task, z, order int, mark uint64) bool {
	zn := &m.zones[z]
	if order == 0 {
		return zn.free.Peek() > mark
	}
	off := zn.lock.LockIRQSave(t)
	ok := zn.highOrderOK(order, int64(mark))
	zn.lock.UnlockIRQRestore(t, off)
	return ok
}

// freed notes that pages have come back to the zone.
func (s *ZoneStat) freed() {
	if s.PagesScanned.Peek() != 0 {
		s.PagesScanned.Poke(0)
	}
	if s.Unreclaimable.Peek() != 0 {
		s.Unreclaimable.Poke(0)
	}
}

// IsolateZone takes up to len(buf) pages off the old end of a list of zone z,
// after looking at no more than scan of them, and stores them in buf
// (isolate_lru_pages). Each has one more reference and LRU clear; Active stays as
// it is. Pages about to be freed are passed over, to the list's new end. It
// returns how many it took and how many it looked at.
func (m *Map) IsolateZone(t *sched.Task, z int, l LRUList, scan int, buf []x86.PFN) (taken, scanned int) {
	zn := &m.zones[z]
	off := zn.lruLock.LockIRQSave(t)
	t.WriteOf(zn, "lru")
	for n := zn.lru[l].n; n > 0 && taken < len(buf) && scanned < scan; n-- {
		pfn := zn.lru[l].last
		scanned++
		if m.isolate(t, zn, m.page(pfn)) {
			buf[taken] = x86.PFN(pfn)
			taken++
			continue
		}
		m.unlink(&zn.lru[l], pfn)
		m.pushFront(&zn.lru[l], pfn)
	}
	zn.stat.PagesScanned.RawAdd(uint64(scanned))
	zn.stat.Scanned[fileIndex(l.File())].RawAdd(uint64(taken))
	zn.lruLock.UnlockIRQRestore(t, off)
	return taken, scanned
}

func fileIndex(file bool) int {
	if file {
		return 1
	}
	return 0
}

// PutbackZone returns isolated pages of one zone to the new ends of the lists that
// their flags say, and drops the references of the isolation: the end of
// shrink_inactive_list. Pages that may not be reclaimed go to the unevictable list.
func (m *Map) PutbackZone(t *sched.Task, pages []x86.PFN) {
	var back [releaseBatch]x86.PFN
	for len(pages) > 0 {
		n := 0
		z := m.zoneOf(uint32(pages[0]))
		off := z.lruLock.LockIRQSave(t)
		t.WriteOf(z, "lru")
		for ; len(pages) > 0 && n < len(back); pages = pages[1:] {
			p := m.Page(pages[0])
			if !m.Evictable(t, p) {
				z.lruLock.UnlockIRQRestore(t, off)
				m.PutbackLRU(t, p)
				off = z.lruLock.LockIRQSave(t)
				t.WriteOf(z, "lru")
				continue
			}
			m.SetFlag(t, p, LRU)
			l := lruOf(p.Flags.Peek())
			m.addToList(t, z, uint32(pages[0]), l)
			if l.Active() {
				z.stat.Rotated[fileIndex(l.File())].RawAdd(1)
			}
			back[n] = pages[0]
			n++
		}
		z.lruLock.UnlockIRQRestore(t, off)
		m.ReleasePages(t, back[:n], RefTemp, false /* cold */)
	}
}

// DeactivateZone puts isolated pages of one zone, at most PagevecSize of them, at
// the new end of their inactive lists: the middle of shrink_active_list. The
// references of the isolation are still the caller's.
func (m *Map) DeactivateZone(t *sched.Task, pages []x86.PFN) {
	if len(pages) == 0 {
		return
	}
	z := m.zoneOf(uint32(pages[0]))
	off := z.lruLock.LockIRQSave(t)
	t.WriteOf(z, "lru")
	for _, pfn := range pages {
		p := m.Page(pfn)
		m.SetFlag(t, p, LRU)
		m.ClearFlag(t, p, Active)
		m.addToList(t, z, uint32(pfn), baseLRU(p.Flags.Peek()))
	}
	z.lruLock.UnlockIRQRestore(t, off)
	t.C.Trace.Add(trace.PGDeactivate, uint64(len(pages)))
}

// Evictable reports whether reclaim may take the page at all (page_evictable): it
// may not while a locked VMA maps it.
func (m *Map) Evictable(t *sched.Task, p *Page) bool { return !m.SeeFlag(t, p, Mlocked) }

// SeeFlag is Has for who acts upon a flag that others may be changing: it tells a search so.
func (m *Map) SeeFlag(t *sched.Task, p *Page, f Flag) bool {
	t.C.Touch(x86.PageObj(m.PFN(p), x86.PageFlags), x86.AccRead)
	return p.Has(f)
}

// FreeLocked frees a page that FreezeRefs has frozen and the caller has locked:
// nobody else can have it, so nobody waits for the lock (__clear_page_locked).
func (m *Map) FreeLocked(t *sched.Task, p *Page) {
	m.DisownLock(t, p)
	p.PokeClear(Locked)
	m.FreeFrozen(t, p)
}

// AbandonLock takes the lock off a page that nobody else has seen yet
// (__clear_page_locked).
func (m *Map) AbandonLock(t *sched.Task, p *Page) {
	m.DisownLock(t, p)
	p.PokeClear(Locked)
}

// FailSite counts an allocation of kernel memory that the emulator does not take
// from its own pages, such as a node of a tree, and reports whether it is to
// fail; see FailAt.
func (m *Map) FailSite(t *sched.Task, site string) bool {
	if m.inj == nil || !m.inj.fails(t, site, true) {
		return false
	}
	t.C.Trace.Inc(trace.EmuAllocFailInjected)
	return true
}
