package mm

import (
	"slices"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// How shmem's pages go to swap and come back. Linux 2.6.29 mm/shmem.c.

// WritePage implements Writepager: shmem_writepage. The page does not go to the device
// yet: it changes from the page cache to the swap cache, dirty, and reclaim writes it
// when it comes round again.
//
// The second user of the entry, our own, is counted before lock is dropped. 2.6.29 counts
// it afterwards, and an object that ends in between leaves the entry free with its page
// still in the swap cache; 2.6.39 moved it ("tmpfs: fix race between truncate and
// writepage").
func (f *shmem) WritePage(t *sched.Task, as *AddressSpace, p *page.Page) error {
	s, pm := f.s, f.s.Pages
	if total, _ := s.SwapPages(); total == 0 {
		pm.SetFlag(t, p, page.Dirty)
		return ErrWritepageActivate
	}
	e, ok := s.getSwapPage(t)
	index := p.Index
	f.lock.Lock(t)
	if _, stale := f.swap[index]; stale {
		t.Oops("shmem_writepage: page %d is in swap already", index)
	}
	f.recalcLocked(t)
	if !ok || s.addToSwapCache(t, p, e) != nil {
		f.lock.Unlock(t)
		if ok {
			s.unheld(t, e)
		}
		pm.SetFlag(t, p, page.Dirty)
		return ErrWritepageActivate
	}
	s.swapDup(t, e, 1 /* hold */)
	as.RemoveFromPageCache(t, p)
	if f.swap == nil {
		f.swap = map[uint64]x86.SwapEntry{}
	}
	f.swap[index] = e
	s.swap.held.RawAdd(^uint64(0))
	grabbed := !f.racyListed(t) && as.refs.AddUnless(t.C, as.obj, 1, 0) // igrab
	f.lock.Unlock(t)
	pm.SetFlag(t, p, page.Dirty)
	pm.UnlockPage(t, p)
	if grabbed {
		f.list(t)
		as.Put(t)
	}
	return nil
}

// swapin moves the page of an entry, which index holds, from swap to the page cache. It
// returns nil if it had to wait: then everything is to be looked at again.
//
// Preconditions:
//   - lock is held; it is not on return
func (f *shmem) swapin(t *sched.Task, index uint64, e x86.SwapEntry) (*page.Page, VMFault) {
	s, pm := f.s, f.s.Pages
	p := s.lookupSwapCache(t, e)
	if p == nil {
		f.lock.Unlock(t)
		t.C.Trace.Inc(trace.PGMajFault)
		if p = s.swapinReadahead(t, e); p == nil { // shmem_swapin
			f.lock.Lock(t)
			now, ok := f.swap[index]
			f.lock.Unlock(t)
			if ok && now == e {
				return nil, VMFaultOOM
			}
			return nil, 0
		}
		s.swapUnplug(t)
		pm.WaitOnLocked(t, p)
		pm.Put(t, p)
		return nil, VMFaultMajor
	}
	if !pm.TrylockPage(t, p) {
		f.lock.Unlock(t)
		s.swapUnplug(t)
		pm.WaitOnLocked(t, p)
		pm.Put(t, p)
		return nil, 0
	}
	if pm.TestFlag(t, p, page.Writeback) {
		f.lock.Unlock(t)
		s.swapUnplug(t)
		pm.WaitOnWriteback(t, p)
		pm.UnlockPage(t, p)
		pm.Put(t, p)
		return nil, 0
	}
	if !pm.TestFlag(t, p, page.Uptodate) {
		f.lock.Unlock(t)
		pm.UnlockPage(t, p)
		pm.Put(t, p)
		return nil, VMFaultSigbus
	}
	if !f.toPageCacheLocked(t, p, index, e) {
		f.lock.Unlock(t)
		pm.UnlockPage(t, p)
		pm.Put(t, p)
		return nil, 0
	}
	f.lock.Unlock(t)
	f.as.Ops.SetPageDirty(t, f.as, p)
	s.unheld(t, e)
	return p, 0
}

// toPageCacheLocked takes a page, which the caller has locked, out of the swap cache and
// puts it at index. The count of the entry that index had is the caller's to drop
// (unheld). It reports false if there is a page already, or no memory for the tree.
func (f *shmem) toPageCacheLocked(t *sched.Task, p *page.Page, index uint64, e x86.SwapEntry) bool {
	if !p.Has(page.SwapCache) || x86.PTE(p.Private).Swap() != e || f.as.AddToPageCache(t, p, index) != nil {
		return false
	}
	delete(f.swap, index)
	f.s.swap.held.RawAdd(1)
	f.s.deleteFromSwapCache(t, p)
	return true
}

// truncateSwap frees the entries of pages from index on (shmem_truncate_range), in order,
// and notices what has gone from the cache.
func (f *shmem) truncateSwap(t *sched.Task, index uint64) {
	var gone []uint64
	f.lock.Lock(t)
	for i := range f.swap {
		if i >= index {
			gone = append(gone, i)
		}
	}
	slices.Sort(gone)
	for _, i := range gone {
		e := f.swap[i]
		delete(f.swap, i)
		f.s.swap.held.RawAdd(1)
		f.s.freeSwapAndCache(t, x86.MkSwapPTE(e))
		f.s.swap.held.RawAdd(^uint64(0))
	}
	f.recalcLocked(t)
	f.lock.Unlock(t)
}

// ShmemTruncate makes an object of shmem end at so many pages (shmem_truncate). No pte maps
// what lies behind.
func ShmemTruncate(t *sched.Task, as *AddressSpace, pages uint64) {
	f, ok := as.Ops.(*shmem)
	if !ok {
		t.Oops("shmem_truncate of something else")
	}
	as.Pages.Store(t.C, as.obj, pages)
	as.TruncatePages(t, pages)
	f.truncateSwap(t, pages)
	as.TruncatePages(t, pages) // what came back from swap meanwhile
	f.lock.Lock(t)
	f.recalcLocked(t)
	f.lock.Unlock(t)
}

// list puts f on the list of objects that may have swap entries.
func (f *shmem) list(t *sched.Task) {
	l := &f.s.swap.shmems
	l.lock.Lock(t)
	if !f.listed {
		f.next, l.head = l.head, f
		f.setListed(t, true)
	}
	l.lock.Unlock(t)
}

// unlist takes f off, if it is on.
func (f *shmem) unlist(t *sched.Task) {
	if !f.racyListed(t) {
		return
	}
	l := &f.s.swap.shmems
	l.lock.Lock(t)
	l.remove(t, f)
	l.lock.Unlock(t)
}

// remove takes f off the list. The caller holds lock.
func (l *shmemList) remove(t *sched.Task, f *shmem) {
	for at := &l.head; *at != nil; at = &(*at).next {
		if *at == f {
			*at, f.next = f.next, nil
			f.setListed(t, false)
			return
		}
	}
}

// racyListed is list_empty, which looks without the lock.
//
//go:norace
func (f *shmem) racyListed(t *sched.Task) bool {
	t.C.Touch(f.listedObj(), x86.AccRead)
	return f.listed
}

//go:norace
func (f *shmem) setListed(t *sched.Task, on bool) {
	t.C.Touch(f.listedObj(), x86.AccWrite)
	f.listed = on
}

// listedObj names whether f is on the list.
func (f *shmem) listedObj() x86.ObjID { return f.as.obj | 10<<40 }

// shmemUnuse looks for the object that holds e, for swapoff, and moves the page there
// (shmem_unuse). It reports whether there was one: then the page has been unlocked and put.
//
// Preconditions:
//   - p is locked and the caller has a reference
func (s *System) shmemUnuse(t *sched.Task, e x86.SwapEntry, p *page.Page) bool {
	l := &s.swap.shmems
	l.lock.Lock(t)
	for f := l.head; f != nil; {
		next := f.next
		index, found := f.find(t, l, e)
		if !found {
			f = next
			continue
		}
		grabbed := f.as.refs.AddUnless(t.C, f.as.obj, 1, 0)
		l.lock.Unlock(t)
		if grabbed {
			f.unuse(t, index, e, p)
		}
		s.Pages.UnlockPage(t, p)
		s.Pages.Put(t, p)
		if grabbed {
			f.as.Put(t) // it may be the last, and lock the page
		}
		return true
	}
	l.lock.Unlock(t)
	return false
}

// find returns where f holds e (shmem_unuse_inode, first half). An object without entries
// leaves the list. The caller holds the list's lock.
func (f *shmem) find(t *sched.Task, l *shmemList, e x86.SwapEntry) (index uint64, found bool) {
	f.lock.Lock(t)
	if len(f.swap) == 0 {
		l.remove(t, f)
	}
	for i, o := range f.swap {
		if o == e {
			index, found = i, true
		}
	}
	f.lock.Unlock(t)
	return index, found
}

// unuse moves the page of e, which swapoff has read, to the page cache.
func (f *shmem) unuse(t *sched.Task, index uint64, e x86.SwapEntry, p *page.Page) {
	f.lock.Lock(t)
	now, ok := f.swap[index]
	moved := ok && now == e && f.toPageCacheLocked(t, p, index, e)
	f.lock.Unlock(t)
	if moved {
		f.as.Ops.SetPageDirty(t, f.as, p)
		f.s.unheld(t, e)
	}
}

// sawShmemSwap counts the entries that objects of shmem hold: for checkSwap. It reports whether
// somebody is about to change one of them: a page goes from one cache to the other under the
// object's lock, and the entry comes or goes at another step than its count.
func (s *System) sawShmemSwap(k *checkState) (busy bool) {
	s.spaces.each(func(as *AddressSpace) {
		f, ok := as.Ops.(*shmem)
		if !ok {
			return
		}
		busy = busy || f.lock.Locked()
		for index, e := range f.swap {
			a := s.swap.areas[e.Type]
			if a == nil || e.Offset >= a.max {
				k.bad("shmem object %d: entry %d:%#x at %d: there is no such slot", as.slot, e.Type, e.Offset, index)
				continue
			}
			n := &k.swap.ptes[e.Type]
			if uint64(len(*n)) < a.max {
				*n = make([]uint16, a.max)
			}
			(*n)[e.Offset]++
		}
	})
	return busy
}
