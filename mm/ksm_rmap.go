package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// What KSM knows of addresses: one item for each anonymous page that it has met, and
// where that stands. Linux 2.6.32 mm/ksm.c.
//
//	ksmSlot (one for each address space) --> item --> item --> item     by address
//	                                          |         |
//	            unstable tree <---------------+         +-----> stable tree
//	  pages that have not changed lately,           a node: the first address of a
//	  made anew with each pass                      KSM page; behind it the others

// ksmSlot is an address space that is scanned: struct mm_slot.
type ksmSlot struct {
	prev, next *ksmSlot // the list of all; protected by ksm_mmlist_lock
	mm         *MM      // immutable
	// items is the list by address. Written by whoever scans, with the cursor on this slot.
	items *ksmItem
}

// ksmItem is a virtual address that KSM keeps track of: struct rmap_item.
type ksmItem struct {
	next *ksmItem // the slot's list
	mm   *MM      // immutable
	addr uint64   // page aligned; immutable
	// stable says that the item belongs to the stable tree, and node that it is a node
	// of that, or else of the unstable tree, into which it came in pass seq (the flags
	// in the low bits of address).
	stable, node bool
	seq          uint8
	// checksum is what the page had when it was last looked at. Linux keeps it where
	// a member of the stable tree has its list pointer: it is lost then.
	checksum uint32

	tree ksmNode
	// sharePrev and shareNext link the items behind a node of the stable tree.
	sharePrev, shareNext *ksmItem
	// All but the immutable is protected by ksm_thread_mutex.
}

// followForKSM returns the page at addr with a reference, if there is one: follow_page with
// FOLL_GET alone. It is not asked for on behalf of anybody who will use the memory, so policies
// are not told.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (s *System) followForKSM(t *sched.Task, m *MM, addr uint64) *page.Page {
	ref, ptl, ok := m.lookupPTE(t.C, addr)
	if !ok {
		return nil
	}
	var p *page.Page
	ptl.Lock(t)
	if pte := ref.Load(t.C); pte.Present() && !pte.Special() {
		p = s.Pages.Page(pte.PFN())
		s.Pages.Get(t, p)
	}
	ptl.Unlock(t)
	return p
}

// ksmTestExit reports whether the last user of m has gone: then ksm_exit has been passed,
// or waits for mmap_sem, and m's page tables are not to be touched (ksm_test_exit).
func (m *MM) ksmTestExit(t *sched.Task) bool { return m.Users.Load(t.C, m.usersObj()) == 0 }

// mergeableVMA returns the VMA at addr if KSM may work in it. mmap_sem is held.
func (m *MM) mergeableVMA(t *sched.Task, addr uint64) *VMA {
	if m.ksmTestExit(t) {
		return nil
	}
	v := m.findVMA(t, addr)
	if v == nil || v.Start > addr || v.Flags&VMMergeable == 0 || v.seeAnonVMA(t) == nil {
		return nil
	}
	return v
}

// getMergeablePage returns the anonymous page at the item's address with a reference; nil
// if there is none, or no longer in a mergeable VMA (get_mergeable_page).
func (s *System) getMergeablePage(t *sched.Task, it *ksmItem) *page.Page {
	m := it.mm
	m.MmapSem.DownRead(t)
	var p *page.Page
	if m.mergeableVMA(t, it.addr) != nil {
		if p = s.followForKSM(t, m, it.addr); p != nil && !p.Anon() {
			s.Pages.Put(t, p)
			p = nil
		}
	}
	m.MmapSem.UpRead(t)
	return p
}

// getKSMPage is getMergeablePage if the page still is KSM's, so that its contents can be
// trusted to stay (get_ksm_page).
func (s *System) getKSMPage(t *sched.Task, it *ksmItem) *page.Page {
	p := s.getMergeablePage(t, it)
	if p != nil && !p.KSM() {
		s.Pages.Put(t, p)
		p = nil
	}
	return p
}

// newItem makes an item, nil if there is no memory (alloc_rmap_item).
func (k *ksmState) newItem(t *sched.Task, m *MM, addr uint64) *ksmItem {
	if m.Sys.Pages.FailSite(t, "ksm_rmap_item") {
		return nil
	}
	k.items.RawAdd(1)
	return &ksmItem{mm: m, addr: addr}
}

// removeFromTree takes the item out of whichever tree it is in
// (remove_rmap_item_from_tree). A KSM page whose node goes is found by the next item
// behind it.
func (k *ksmState) removeFromTree(t *sched.Task, it *ksmItem) {
	switch next := it.shareNext; {
	case it.stable && it.node && next != nil:
		k.stable.replace(it, next)
		next.node, next.sharePrev = true, nil
		k.sharing.RawAdd(^uint64(0))
	case it.stable && it.node:
		k.stable.erase(it)
		k.shared.RawAdd(^uint64(0))
	case it.stable:
		it.sharePrev.shareNext = next
		if next != nil {
			next.sharePrev = it.sharePrev
		}
		k.sharing.RawAdd(^uint64(0))
	case it.node:
		// Usually the tree that it was in has been forgotten as a whole. It must be taken
		// out if it came in during this pass: its address space is ending.
		age := uint8(k.scan.seq.Peek()) - it.seq
		if age > 1 {
			t.Oops("ksm: an item of the unstable tree is %d passes old", age)
		}
		if age == 0 {
			k.unstable.erase(it)
		}
		k.unshared.RawAdd(^uint64(0))
	}
	if it.stable {
		it.sharePrev, it.shareNext, it.checksum = nil, nil, 0
	}
	it.stable, it.node, it.seq = false, false, 0
	t.CondResched()
}

// dropTrailing frees all items from *list on (remove_trailing_rmap_items).
func (k *ksmState) dropTrailing(t *sched.Task, list **ksmItem) {
	for *list != nil {
		it := *list
		*list = it.next
		k.removeFromTree(t, it)
		k.items.RawAdd(^uint64(0))
	}
}

// nextItem returns the item for addr from the list that continues at *list, made if there
// is none and there is memory; those of lower addresses, where nothing is to be merged any
// more, go (get_next_rmap_item).
func (k *ksmState) nextItem(t *sched.Task, slot *ksmSlot, list **ksmItem, addr uint64) *ksmItem {
	for *list != nil {
		it := *list
		if it.addr == addr {
			if !it.stable {
				k.removeFromTree(t, it)
			}
			return it
		}
		if it.addr > addr {
			break
		}
		*list = it.next
		k.removeFromTree(t, it)
		k.items.RawAdd(^uint64(0))
	}
	it := k.newItem(t, slot.mm, addr)
	if it == nil {
		return nil
	}
	it.next, *list = *list, it
	return it
}

// nextToScan moves the cursor to the next anonymous page of a mergeable VMA, and returns
// its item, and the page with a reference. nil says that a pass is over, that there is nothing
// to scan, or no memory for an item: then the cursor stays (scan_get_next_rmap_item).
//
// Preconditions:
//   - ksm_thread_mutex is held, no mmap_sem is
func (s *System) nextToScan(t *sched.Task) (*ksmItem, *page.Page) {
	k := &s.ksm
	k.mmlist.Lock(t)
	empty := k.head.next == &k.head
	slot := k.scan.slot
	if !empty && slot == &k.head {
		k.unstable.root = nil
		slot = slot.next
		k.moveTo(slot)
	}
	k.mmlist.Unlock(t)
	if empty {
		return nil, nil
	}
	for slot != &k.head {
		m := slot.mm
		m.MmapSem.DownRead(t)
		it, p, ok := s.nextInSlot(t, slot)
		if it != nil || !ok {
			m.MmapSem.UpRead(t)
			return it, p
		}
		gone := m.ksmTestExit(t)
		if gone {
			k.scan.addr, k.scan.list = 0, &slot.items
		}
		// There is no mergeable VMA any more where these are.
		k.dropTrailing(t, k.scan.list)
		k.mmlist.Lock(t)
		next := slot.next
		// A whole address space without a mergeable VMA is not scanned any more, as if it
		// had ended.
		gone = k.scan.addr == 0
		if gone {
			k.unlink(slot)
		}
		k.moveTo(next)
		k.mmlist.Unlock(t)
		if gone {
			m.ksm.mergeable.Poke(0)
		}
		m.MmapSem.UpRead(t)
		if gone {
			m.MMDrop(t)
		}
		slot = next
	}
	k.scan.seq.RawAdd(1)
	return nil, nil
}

// nextInSlot is the part of scan_get_next_rmap_item within one address space; ok is false if
// there was no memory for an item. mmap_sem is held.
func (s *System) nextInSlot(t *sched.Task, slot *ksmSlot) (it *ksmItem, p *page.Page, ok bool) {
	k, m := &s.ksm, slot.mm
	sc := &k.scan
	var v *VMA
	if !m.ksmTestExit(t) {
		v = m.findVMA(t, sc.addr)
	}
	for ; v != nil; v = m.nextVMA(v) {
		if v.Flags&VMMergeable == 0 {
			continue
		}
		sc.addr = max(sc.addr, v.Start)
		if v.seeAnonVMA(t) == nil {
			sc.addr = v.End
		}
		for sc.addr < v.End {
			if m.ksmTestExit(t) {
				return nil, nil, true
			}
			if p := s.followForKSM(t, m, sc.addr); p != nil {
				if p.Anon() {
					it := k.nextItem(t, slot, sc.list, sc.addr)
					if it == nil {
						s.Pages.Put(t, p)
						return nil, nil, false
					}
					sc.list = &it.next
					sc.addr += x86.PageSize
					return it, p, true
				}
				s.Pages.Put(t, p)
			}
			sc.addr += x86.PageSize
			t.CondResched()
		}
	}
	return nil, nil, true
}
