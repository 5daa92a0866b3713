package mm

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm/page"
)

// The invariants of swap.
//
//	invariant                                              guard
//	count of a slot = ptes that hold its entry              swap_lock, tree_lock, every ptl,
//	  + entries of shmem objects                            their locks
//	  + 1 if it is in the cache + counts on their way (1)
//	a slot's count is below none of these                   the same
//	slots in use, free slots = what the maps say            swap_lock
//	a page in the cache has the flag, its entry, a count    tree_lock
//
// (1) Between taking a slot and entering the cache, and the other way round, a task has
// a count in its hands: swapState.held says how many there are in all.

// swapScan is what the walk over the page tables finds of swap.
type swapScan struct {
	ptes [maxSwapAreas][]uint16 // by area and slot: ptes that hold the entry; zero between checks
}

// sawSwap counts an entry that a pte holds.
func (s *System) sawSwap(k *checkState, m *MM, addr uint64, pte x86.PTE) {
	e := pte.Swap()
	a := s.swap.areas[e.Type]
	if a == nil || e.Offset >= a.max {
		k.bad("address space %d: pte at %#x is %v: there is no such slot", m.ID, addr, pte)
		return
	}
	n := &k.swap.ptes[e.Type]
	if uint64(len(*n)) < a.max {
		*n = make([]uint16, a.max)
	}
	(*n)[e.Offset]++
}

// checkSwap compares the maps of the swap areas with the ptes that runChecks has
// counted, and the swap cache with its pages.
func (s *System) checkSwap(k *checkState, rest bool) {
	sw := &s.swap
	guarded := !rest && (sw.lock.Locked() || sw.cache.lock.Locked())
	held := sw.held.Peek()
	over, inuse, free := uint64(0), uint64(0), int64(0)
	exact := false // nobody has a count in his hands that the walk cannot have seen
	if !guarded {
		busy := s.sawShmemSwap(k)
		exact = rest || !busy && !k.guards
		s.checkSwapCache(k)
	}
	for i, a := range sw.areas {
		if a == nil {
			continue
		}
		ptes := k.swap.ptes[i]
		slots := uint64(0)
		for off := uint64(1); off < a.max && !guarded; off++ {
			c := uint64(a.m[off])
			if c != 0 {
				slots++
			}
			n := uint64(0)
			if uint64(len(ptes)) > off {
				n = uint64(ptes[off])
			}
			if sw.cache.tree.get(swapKey(x86.SwapEntry{Type: a.kind, Offset: off})) != 0 {
				n++
			}
			switch {
			case c == swapMapMax:
			case c < n && exact:
				k.bad("swap slot %d:%#x has %d users, its count is %d", i, off, n, c)
			default:
				over += c - min(n, c)
			}
		}
		if !guarded && slots != a.inuse {
			k.bad("swap area %d: %d slots in use by count, %d by the map", i, a.inuse, slots)
		}
		inuse += a.inuse
		free += int64(a.pages)
		if !a.writeOK {
			free -= int64(a.pages)
		}
		clear(ptes)
	}
	if guarded {
		return
	}
	if n := int64(sw.nr.Peek()); n != free-int64(inuse) {
		k.bad("%d free slots of swap by count, %d by the areas", n, free-int64(inuse))
	}
	if exact {
		if over != held {
			k.bad("the counts of swap slots are %d higher than their users, %d are on their way", over, held)
		}
		if rest && held != 0 {
			k.bad("%d counts of swap slots are on their way, and nobody runs", held)
		}
	}
}

// checkSwapCache looks at every page of the swap cache.
func (s *System) checkSwapCache(k *checkState) {
	sw := &s.swap
	var pfns [page.PagevecSize]x86.PFN
	total := uint64(0)
	for from := uint64(0); ; {
		n, last := sw.cache.tree.gang(from, pfns[:])
		for _, pfn := range pfns[:n] {
			total++
			p := s.Pages.Page(pfn)
			e := x86.PTE(p.Private).Swap()
			if !p.Has(page.SwapCache) || sw.cache.tree.get(swapKey(e)) != pfn || p.Count.Peek() <= 0 {
				k.bad("swap cache: %s, entry %d:%#x", s.describePage(pfn, p), e.Type, e.Offset)
			} else if a := sw.areas[e.Type]; a == nil || a.m[e.Offset] == 0 {
				k.bad("swap cache: %s, entry %d:%#x is free", s.describePage(pfn, p), e.Type, e.Offset)
			}
		}
		if n < len(pfns) {
			break
		}
		from = last + 1
	}
	if n := sw.cache.n.Peek(); n != total {
		k.bad("swap cache: %d pages by count, %d in the tree", n, total)
	}
}

// SwapLeaks lists the slots of swap that are in use although every process has ended and
// DropSwapCache has been called.
func (s *System) SwapLeaks() []string {
	var out []string
	for i, a := range s.swap.areas {
		if a == nil || a.inuse == 0 {
			continue
		}
		for off, c := range a.m {
			if c != 0 && len(out) < maxCheckErrors {
				out = append(out, fmt.Sprintf("swap slot %d:%#x: count %d", i, off, c))
			}
		}
	}
	return out
}
