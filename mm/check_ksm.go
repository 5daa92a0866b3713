package mm

import "github.com/cowlab/cowlab/arch/x86"

// The invariants of KSM.
//
//	invariant                                                guard
//	a pte that maps a KSM page is read-only                   ptl of the pte
//	it lies in a mergeable VMA                               mmap_sem (write), ptl of the pte
//	map count = ptes                                          every ptl: there is no rmap
//	pages_shared, _sharing, _unshared, items = trees, lists   ksm_thread_mutex
//	slots = address spaces that say they have one             ksm_mmlist_lock

// ksmPTE looks at an entry that maps a KSM page.
func (sc *tableScan) ksmPTE(e x86.PTE, addr uint64) {
	if e.Write() {
		sc.k.bad("address space %d: pte at %#x is %v, and maps a KSM page", sc.m.ID, addr, e)
	}
	if v := sc.vma; sc.vmas && v != nil && v.Flags&(VMMergeable|VMShared) != VMMergeable {
		sc.k.bad("address space %d: a KSM page at %#x of VMA %#x-%#x, whose flags are %#x", sc.m.ID, addr, v.Start, v.End, uint64(v.Flags))
	}
}

// checkKSM compares what KSM counts with what it has.
func (s *System) checkKSM(ck *checkState, rest bool) {
	k := &s.ksm
	if !k.on || !rest && k.mmlist.Locked() {
		return
	}
	var shared, sharing, unshared, items, young uint64
	for slot := k.head.next; slot != &k.head; slot = slot.next {
		if slot.next.prev != slot || slot.mm.ksm.slot != slot || slot.mm.Refs.Peek() <= 0 {
			ck.bad("ksm: the slot of address space %d is not in order", slot.mm.ID)
			return
		}
		if !rest && !k.thread.Idle() {
			continue
		}
		last := uint64(0)
		for it := slot.items; it != nil; it = it.next {
			items++
			switch {
			case it.stable && it.node:
				shared++
			case it.stable:
				sharing++
			case it.node:
				unshared++
				if it.seq == uint8(k.scan.seq.Peek()) {
					young++
				}
			}
			if it.mm != slot.mm || it != slot.items && it.addr <= last {
				ck.bad("ksm: item for %#x of address space %d behind %#x in the list of %d", it.addr, it.mm.ID, last, slot.mm.ID)
			}
			last = it.addr
		}
	}
	if !rest && !k.thread.Idle() {
		return
	}
	if nodes, all := k.stable.count(k.stable.root); nodes != shared || all != shared+sharing {
		ck.bad("ksm: the stable tree has %d nodes and %d items, the lists %d and %d", nodes, all, shared, shared+sharing)
	}
	// Between passes the tree is that of the last one, and nobody looks at it any more.
	if nodes, _ := k.unstable.count(k.unstable.root); k.scan.slot != &k.head && nodes != young {
		ck.bad("ksm: the unstable tree has %d nodes, the lists have %d of this pass", nodes, young)
	}
	for _, c := range []struct {
		name    string
		n, have uint64
	}{
		{"pages_shared", k.shared.Peek(), shared}, {"pages_sharing", k.sharing.Peek(), sharing},
		{"pages_unshared", k.unshared.Peek(), unshared}, {"rmap_items", k.items.Peek(), items},
	} {
		if c.n != c.have {
			ck.bad("ksm: %s is %d, there are %d", c.name, c.n, c.have)
		}
	}
}

// count returns how many nodes the tree below it has, and how many items with those behind
// each.
func (tr *ksmTree) count(it *ksmItem) (nodes, all uint64) {
	if it == nil {
		return 0, 0
	}
	nodes, all = 1, 1
	for o := it.shareNext; o != nil; o = o.shareNext {
		all++
	}
	for _, child := range [2]*ksmItem{it.tree.left, it.tree.right} {
		n, a := tr.count(child)
		nodes, all = nodes+n, all+a
	}
	return nodes, all
}
