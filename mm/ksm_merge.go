package mm

import (
	"bytes"
	"hash/crc32"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Merging pages, and breaking them up: the other half of Linux 2.6.32 mm/ksm.c. All but
// breakKSM and unmergeKSMPages runs with ksm_thread_mutex held.

// comparePages compares the contents of two pages as memcmp does (memcmp_pages). Nothing
// keeps them from being written meanwhile.
func (s *System) comparePages(t *sched.Task, p, q *page.Page) int {
	k := &s.ksm
	a, b := s.Pages.PFN(p), s.Pages.PFN(q)
	t.PreemptDisable() // kmap_atomic
	c, r := t.C, 0
	for off := uint64(0); off < x86.PageSize && r == 0; off += x86.SectorSize {
		s.Mem.ReadFrame(c, a, off, k.bufs[0][:])
		s.Mem.ReadFrame(c, b, off, k.bufs[1][:])
		r = bytes.Compare(k.bufs[0][:], k.bufs[1][:])
	}
	t.PreemptEnable()
	return r
}

// checksumPage returns a sum of the page's contents (calc_checksum, with another function).
func (s *System) checksumPage(t *sched.Task, p *page.Page) uint32 {
	k, pfn, sum := &s.ksm, s.Pages.PFN(p), uint32(0)
	t.PreemptDisable()
	for off := uint64(0); off < x86.PageSize; off += x86.SectorSize {
		s.Mem.ReadFrame(t.C, pfn, off, k.bufs[0][:])
		sum = crc32.Update(sum, crc32.IEEETable, k.bufs[0][:])
	}
	t.PreemptEnable()
	return sum
}

// breakKSM gives addr of v an ordinary page if a KSM page is mapped there: a write fault, in
// VMAs that are not writable too (break_ksm). The error is ENOMEM.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (s *System) breakKSM(t *sched.Task, v *VMA, addr uint64) error {
	for {
		t.CondResched()
		p := s.followForKSM(t, v.MM, addr)
		if p == nil {
			return nil
		}
		ret := VMFaultWrite
		if p.KSM() {
			ret = HandleMMFault(t, v, addr, true /* write */)
		}
		s.Pages.Put(t, p)
		switch {
		case ret&VMFaultOOM != 0:
			return unix.ENOMEM
		case ret&(VMFaultWrite|VMFaultSigbus) != 0:
			return nil
		}
		// The fault has backed out, as it may when the entry changes under it.
	}
}

// breakCOW is breakKSM for an item, wherever its address space is by now (break_cow).
func (s *System) breakCOW(t *sched.Task, it *ksmItem) {
	m := it.mm
	m.MmapSem.DownRead(t)
	if v := m.mergeableVMA(t, it.addr); v != nil {
		_ = s.breakKSM(t, v, it.addr) // the next pass tries again
	}
	m.MmapSem.UpRead(t)
}

// unmergeKSMPages breaks up every KSM page in [start, end) of v (unmerge_ksm_pages). Errors
// are ENOMEM, and EINTR if the task was sent a signal.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (s *System) unmergeKSMPages(t *sched.Task, v *VMA, start, end uint64) error {
	for addr := start; addr < end; addr += x86.PageSize {
		if v.MM.ksmTestExit(t) {
			return nil
		}
		if t.SignalPending() {
			return unix.EINTR
		}
		if err := s.breakKSM(t, v, addr); err != nil {
			return err
		}
	}
	return nil
}

// pageAddressInVMA returns where in v the page would be mapped, if rmap leads from it to v
// (page_address_in_vma).
func (s *System) pageAddressInVMA(p *page.Page, v *VMA) (addr uint64, ok bool) {
	a := v.anonVMA()
	if a == nil || p.RacyMapping() != a.handle() {
		return 0, false
	}
	return vmaAddress(p.RacyIndex(), v)
}

// writeProtectPage makes the pte that maps p in v read-only, if nobody has the page pinned, and
// returns it (write_protect_page).
//
// gup-fast takes no lock: between a look at the counts and the taking away of the permission it could
// take a reference and let a device write. So the entry goes first, and the flush waits for
// every CPU that is inside gup-fast; whoever comes later finds no entry. Then the counts are
// final: each mapping has one reference, the swap cache one, and two are the caller's.
//
// As in 2.6.32, an entry that is read-only already is taken as it is, and the counts are not
// compared: a page that was pinned before a fork or mprotect write-protected it is merged
// under the device's hands.
//
// Preconditions:
//   - p is locked; two references are the caller's; mmap_sem is held for reading
func (s *System) writeProtectPage(t *sched.Task, v *VMA, p *page.Page) (orig x86.PTE, ok bool) {
	m := v.MM
	addr, ok := s.pageAddressInVMA(p, v)
	if !ok {
		return 0, false
	}
	ref, ptl, ok := s.pageCheckAddress(t, p, m, addr, false /* sync */)
	if !ok {
		return 0, false
	}
	hooked := s.hooks&HookKSM != 0
	if write := ref.Load(t.C).Write(); write || hooked {
		early := s.ksm.countFirst && s.onlyMapped(t, p)
		e := s.PtepClearFlush(t, v, addr, ref)
		free := early || !s.ksm.countFirst && s.onlyMapped(t, p) || !write
		if free && hooked {
			// The lock keeps preemption off, so the CPU's scratch is ours.
			u := &s.anon.cpus[t.C.ID].unmap
			*u = Unmap{T: t, VMA: v, Addr: addr, Page: p, Ref: ref, PTE: e}
			free = s.policy.KSM(u)
		}
		if free {
			e = e.WrProtect()
		}
		s.setPTEAtNotify(t, m, addr, ref, e)
		if !free {
			ptl.Unlock(t)
			return 0, false
		}
	}
	orig = ref.Load(t.C)
	ptl.Unlock(t)
	return orig, true
}

// onlyMapped reports whether p has no references but those of its mappings, of the swap
// cache, and two.
func (s *System) onlyMapped(t *sched.Task, p *page.Page) bool {
	want := s.Pages.MapRefs(t, p) + 2
	if p.Has(page.SwapCache) { // p is locked
		want++
	}
	return want == s.Pages.Refs(t, p)
}

// pageAddKSMRmap counts a mapping of a KSM page; the first one makes it one
// (page_add_ksm_rmap). The ptl of the entry is held.
func (s *System) pageAddKSMRmap(t *sched.Task, p *page.Page) {
	if s.Pages.IncMap(t, p) == 1 {
		p.Mapping = page.MappingAnon
		t.C.Trace.Inc(trace.NrAnonPages)
	}
}

// replacePage maps kpage in the place of old, if the entry still is orig (replace_page).
func (s *System) replacePage(t *sched.Task, v *VMA, old, kpage *page.Page, orig x86.PTE) bool {
	m := v.MM
	addr, ok := s.pageAddressInVMA(old, v)
	if !ok {
		return false
	}
	ref, ptl, ok := m.lookupPTE(t.C, addr)
	if !ok {
		return false
	}
	ptl.Lock(t)
	if ref.Load(t.C) != orig {
		ptl.Unlock(t)
		return false
	}
	s.Pages.GetAs(t, kpage, page.RefMap)
	s.pageAddKSMRmap(t, kpage)
	s.PtepClearFlush(t, v, addr, ref)
	s.setPTEAtNotify(t, m, addr, ref, x86.MkPTE(s.Pages.PFN(kpage), vmGetPageProt(v.Flags&^VMWrite)))
	s.PageRemoveRmap(t, old)
	s.Pages.PutAs(t, old, page.RefMap)
	t.C.Trace.Inc(trace.EmuKSMMerges)
	t.C.Trace.Event(trace.EvKSM, t.C.Now(), uint64(s.Pages.PFN(old)), uint64(s.Pages.PFN(kpage)), addr)
	ptl.Unlock(t)
	return true
}

// mergeOnePage has v map kpage instead of old, if they are equal and old is nobody else's
// (try_to_merge_one_page). mmap_sem is held for reading.
func (s *System) mergeOnePage(t *sched.Task, v *VMA, old, kpage *page.Page) bool {
	if v.Flags&VMMergeable == 0 || !old.Anon() {
		return false
	}
	pm := s.Pages
	pm.Get(t, kpage)
	pm.Get(t, old)
	merged := false
	// Whether it is in the swap cache must not change while we count. A page that is
	// locked is left for another time.
	if pm.TrylockPage(t, old) {
		orig, ok := s.writeProtectPage(t, v, old)
		pm.UnlockPage(t, old)
		merged = ok && s.comparePages(t, old, kpage) == 0 && s.replacePage(t, v, old, kpage, orig)
	}
	pm.Put(t, old)
	pm.Put(t, kpage)
	return merged
}

// mergeWithKSMPage is mergeOnePage for an item (try_to_merge_with_ksm_page).
func (s *System) mergeWithKSMPage(t *sched.Task, it *ksmItem, p, kpage *page.Page) bool {
	m := it.mm
	m.MmapSem.DownRead(t)
	merged := false
	if !m.ksmTestExit(t) {
		if v := m.findVMA(t, it.addr); v != nil && v.Start <= it.addr {
			merged = s.mergeOnePage(t, v, p, kpage)
		}
	}
	m.MmapSem.UpRead(t)
	return merged
}

// mergeTwoPages makes a KSM page with the contents of p, and maps it in place of both
// (try_to_merge_two_pages).
func (s *System) mergeTwoPages(t *sched.Task, it1 *ksmItem, p *page.Page, it2 *ksmItem, q *page.Page) bool {
	k := &s.ksm
	if limit := k.maxPages.Peek(); limit != 0 && limit <= k.shared.Peek() {
		return false
	}
	kpage := s.Pages.Alloc(t, page.GFPHighUser, 0, "try_to_merge_two_pages")
	if kpage == nil {
		return false
	}
	m, merged := it1.mm, false
	m.MmapSem.DownRead(t)
	if !m.ksmTestExit(t) {
		if v := m.findVMA(t, it1.addr); v != nil && v.Start <= it1.addr {
			s.CowUserPage(t, kpage, p)
			kpage.PokeSet(page.Uptodate)
			merged = s.mergeOnePage(t, v, p, kpage)
		}
	}
	m.MmapSem.UpRead(t)
	if merged {
		if merged = s.mergeWithKSMPage(t, it2, q, kpage); !merged {
			s.breakCOW(t, it1) // it is alone on the KSM page
		}
	}
	s.Pages.Put(t, kpage)
	return merged
}

// stableFind walks the stable tree to the page equal to p. It returns the item that
// leads to that page, and the page with a reference; else where p belongs. stale says that a node
// on the way had no page any more, which ends the walk: the node is gone
// (stable_tree_search, and stable_tree_insert's walk).
func (s *System) stableFind(t *sched.Task, p *page.Page) (found *ksmItem, kpage *page.Page, parent *ksmItem, left, stale bool) {
	k := &s.ksm
	for it := k.stable.root; it != nil; {
		for it != nil {
			t.CondResched()
			if kpage = s.getKSMPage(t, it); kpage != nil {
				break
			}
			next := it.shareNext
			k.removeFromTree(t, it)
			it = next
		}
		if it == nil {
			return nil, nil, nil, false, true
		}
		r := s.comparePages(t, p, kpage)
		if r == 0 {
			return it, kpage, nil, false, false
		}
		s.Pages.Put(t, kpage)
		parent, left = it, r < 0
		if it = parent.tree.right; left {
			it = parent.tree.left
		}
	}
	return nil, nil, parent, left, false
}

// stableInsert makes it a node of the stable tree, for its KSM page, whose contents are those of
// p, and reports whether it could (stable_tree_insert). It cannot if somebody has merged the
// same contents meanwhile. p is the page that was merged and not the KSM page, as in 2.6.32:
// if another address still maps it, it may be written at this moment, and then the node is in the
// wrong place.
func (s *System) stableInsert(t *sched.Task, p *page.Page, it *ksmItem) bool {
	found, kpage, parent, left, stale := s.stableFind(t, p)
	if found != nil {
		s.Pages.Put(t, kpage)
		return false
	}
	if stale {
		return false
	}
	k := &s.ksm
	it.stable, it.node = true, true
	it.sharePrev, it.shareNext, it.checksum = nil, nil, 0
	k.stable.insert(it, parent, left)
	k.shared.RawAdd(1)
	return true
}

// stableAppend adds it to those who share the KSM page of node (stable_tree_append).
func (k *ksmState) stableAppend(it, node *ksmItem) {
	it.stable, it.checksum = true, 0
	it.sharePrev, it.shareNext = node, node.shareNext
	if node.shareNext != nil {
		node.shareNext.sharePrev = it
	}
	node.shareNext = it
	k.sharing.RawAdd(1)
}

// unstableFind walks the unstable tree to a page equal to p, and returns its item and the
// page with a reference; if there is none it becomes a node of the tree
// (unstable_tree_search_insert). A node without a page ends the walk without either.
func (s *System) unstableFind(t *sched.Task, p *page.Page, it *ksmItem) (*ksmItem, *page.Page) {
	k := &s.ksm
	var parent *ksmItem
	left := false
	for n := k.unstable.root; n != nil; {
		q := s.getMergeablePage(t, n)
		if q == nil {
			return nil, nil
		}
		if q == p { // shared by fork: no KSM page is worth that
			s.Pages.Put(t, q)
			return nil, nil
		}
		r := s.comparePages(t, p, q)
		if r == 0 {
			return n, q
		}
		s.Pages.Put(t, q)
		parent, left = n, r < 0
		if n = parent.tree.right; left {
			n = parent.tree.left
		}
	}
	it.node, it.seq = true, uint8(k.scan.seq.Peek())
	k.unstable.insert(it, parent, left)
	k.unshared.RawAdd(1)
	return nil, nil
}

// compareAndMerge does with one page what can be done (cmp_and_merge_page).
func (s *System) compareAndMerge(t *sched.Task, p *page.Page, it *ksmItem) {
	t.WriteOf(&s.ksm, "ksm.items")
	k := &s.ksm
	if it.stable {
		k.removeFromTree(t, it)
	}
	if node, kpage, _, _, _ := s.stableFind(t, p); node != nil {
		if p == kpage || s.mergeWithKSMPage(t, it, p, kpage) { // p == kpage: by fork
			k.stableAppend(it, node)
		}
		s.Pages.Put(t, kpage)
		return
	}
	if p.KSM() { // by fork too, and everybody else who had it has gone
		s.breakCOW(t, it)
	}
	if sum := s.checksumPage(t, p); it.checksum != sum {
		it.checksum = sum
		return
	}
	other, q := s.unstableFind(t, p, it)
	if other == nil {
		return
	}
	if s.mergeTwoPages(t, it, p, other, q) {
		k.unstable.erase(other)
		other.node, other.seq = false, 0
		k.unshared.RawAdd(^uint64(0))
		if s.stableInsert(t, q, other) {
			k.stableAppend(it, other)
		} else {
			s.breakCOW(t, other)
			s.breakCOW(t, it)
		}
	}
	s.Pages.Put(t, q)
}

// ksmDoScan looks at n pages, or fewer if a pass is over, and reports whether it was not
// (ksm_do_scan).
func (s *System) ksmDoScan(t *sched.Task, n uint64) bool {
	k := &s.ksm
	for range n {
		t.CondResched()
		it, p := s.nextToScan(t)
		if it == nil {
			return false
		}
		switch {
		case !p.KSM() || !it.stable:
			s.compareAndMerge(t, p, it)
		case s.Pages.MapRefs(t, p) == 1: // nobody shares it any more
			s.breakCOW(t, it)
			k.removeFromTree(t, it)
			it.checksum = s.checksumPage(t, p)
		}
		s.Pages.Put(t, p)
	}
	return true
}
