package mm

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// swapon and swapoff: Linux 2.6.29 mm/swapfile.c.

// The header is the first page of an area (union swap_header, version 2).
const (
	swapMagic     = "SWAPSPACE2"
	swapMagicAt   = x86.PageSize - len(swapMagic)
	swapVersionAt = 1024
	swapLastAt    = 1028
	swapBadAt     = 1032

	// SwapHeaderSize is what MakeSwap fills.
	SwapHeaderSize = x86.PageSize
	// MinSwap is the size of the smallest area, which has one slot.
	MinSwap = 3 * x86.PageSize
)

// SwapFlagPrefer in swapon's flags says that the lower 15 bits are a priority.
const (
	SwapFlagPrefer   = 0x8000
	swapFlagPrioMask = 0x7fff
)

// MakeSwap fills the first page of an area of so many bytes: mkswap(8). header has at
// least SwapHeaderSize bytes.
func MakeSwap(header []byte, bytes uint64) {
	clear(header[:SwapHeaderSize])
	copy(header[swapMagicAt:], swapMagic)
	binary.LittleEndian.PutUint32(header[swapVersionAt:], 1)
	binary.LittleEndian.PutUint32(header[swapLastAt:], uint32(bytes>>x86.PageShift)-1)
}

// SwapOn makes a device a swap area (sys_swapon). Areas of higher priority are used
// first; without SwapFlagPrefer each has less than the one before. As in 2.6.29 the
// last page of the area is not used.
//
//   - EINVAL: no signature, or fewer pages than it says
//   - EBUSY: the device is a swap area already
//   - EPERM: there are too many
//   - EROFS: the device is read-only
//   - EIO: the header cannot be read
//   - ENOMEM
func (s *System) SwapOn(t *sched.Task, dev *blk.Device, flags int) error {
	if dev.ReadOnly() {
		return unix.EROFS
	}
	p := s.Pages.Alloc(t, page.GFPKernel, 0, "swapon")
	if p == nil {
		return unix.ENOMEM
	}
	last, err := s.readSwapHeader(t, dev, p)
	s.Pages.Put(t, p)
	if err != nil {
		return err
	}
	a := &swapArea{dev: dev, lowest: 1, clusterNext: 1, max: last, highest: last - 1, pages: last - 1, writeOK: true}
	if s.Pages.FailSite(t, "swap_map") {
		return unix.ENOMEM
	}
	a.m = make([]uint16, a.max)
	sw := &s.swap
	sw.lock.Lock(t)
	err = unix.EPERM
	for i := range sw.areas {
		switch o := sw.areas[i]; {
		case o == nil && err == unix.EPERM:
			a.kind, err = uint8(i), nil
		case o != nil && o.dev == dev:
			sw.lock.Unlock(t)
			return unix.EBUSY
		}
	}
	if err != nil {
		sw.lock.Unlock(t)
		return err
	}
	if a.prio = flags & swapFlagPrioMask; flags&SwapFlagPrefer == 0 {
		sw.prio--
		a.prio = sw.prio
	}
	sw.areas[a.kind] = a
	s.enableSwap(t, a)
	t.C.Touch(usedObj, x86.AccWrite)
	sw.used.Poke(1)
	sw.lock.Unlock(t)
	return nil
}

// readSwapHeader returns the number of the last page that the header on dev names.
func (s *System) readSwapHeader(t *sched.Task, dev *blk.Device, p *page.Page) (last uint64, err error) {
	if dev.Bytes() < MinSwap {
		return 0, unix.EINVAL
	}
	bs := dev.System()
	b := bs.AllocBio(t, dev, blk.Read, 0, 1)
	b.AddPage(p, 0, x86.PageSize)
	err = bs.SubmitBioWait(t, b)
	bs.PutBio(t, b)
	if err != nil {
		return 0, err
	}
	h := s.Mem.Bytes(s.Pages.PFN(p))
	last = uint64(binary.LittleEndian.Uint32(h[swapLastAt:]))
	if string(h[swapMagicAt:swapMagicAt+len(swapMagic)]) != swapMagic || binary.LittleEndian.Uint32(h[swapVersionAt:]) != 1 ||
		binary.LittleEndian.Uint32(h[swapBadAt:]) != 0 || last < 2 || last > uint64(dev.Bytes())>>x86.PageShift {
		return 0, unix.EINVAL
	}
	return last, nil
}

// enableSwap puts an area among those that slots come from. swap_lock is held.
func (s *System) enableSwap(t *sched.Task, a *swapArea) {
	sw := &s.swap
	a.writeOK = true
	sw.nr.Add(t.C, sw.obj, a.pages)
	sw.total.RawAdd(a.pages)
	i := 0
	for i < len(sw.order) && sw.order[i].prio > a.prio {
		i++
	}
	sw.order = append(sw.order, nil)
	copy(sw.order[i+1:], sw.order[i:])
	sw.order[i] = a
	sw.next = 0
}

// disableSwap takes an area from among them. swap_lock is held. The slots still in use
// are missing from the number of free ones until they are freed: it can be negative.
func (s *System) disableSwap(t *sched.Task, a *swapArea) {
	sw := &s.swap
	a.writeOK = false
	sw.nr.Add(t.C, sw.obj, -a.pages)
	sw.total.RawAdd(-a.pages)
	for i, o := range sw.order {
		if o == a {
			sw.order = append(sw.order[:i], sw.order[i+1:]...)
			break
		}
	}
	sw.next = 0
}

// SwapOff brings everything back from an area and gives it up (sys_swapoff).
//
//   - EINVAL: the device is no swap area
//   - ENOMEM: there is not enough memory; part of it may have come back
//   - EINTR: a signal came
func (s *System) SwapOff(t *sched.Task, dev *blk.Device) error {
	sw := &s.swap
	var a *swapArea
	sw.lock.Lock(t)
	for _, o := range sw.order {
		if o.dev == dev {
			a = o
		}
	}
	if a == nil {
		sw.lock.Unlock(t)
		return unix.EINVAL
	}
	if err := s.vmEnoughMemory(CurrentMM(t), a.pages); err != nil {
		sw.lock.Unlock(t)
		return err
	}
	s.vmUnacctMemory(a.pages)
	s.disableSwap(t, a)
	sw.lock.Unlock(t)
	if m := CurrentMM(t); m != nil {
		m.swapoff.RawAdd(1)
	}
	err := s.tryToUnuse(t, a)
	if m := CurrentMM(t); m != nil {
		m.swapoff.RawAdd(-1)
	}
	sw.lock.Lock(t)
	if err != nil {
		s.enableSwap(t, a)
	} else {
		sw.areas[a.kind] = nil
	}
	sw.lock.Unlock(t)
	return err
}

// swapCount returns the count of an entry of an area (a look at swap_map, which Linux
// takes without the lock).
func (s *System) swapCount(t *sched.Task, a *swapArea, offset uint64) uint16 {
	s.swap.lock.Lock(t)
	n := a.m[offset]
	s.swap.lock.Unlock(t)
	return n
}

// nextToUnuse returns the first slot in use after the one at i, beginning again at the
// front; 0 if none is (find_next_to_unuse).
func (s *System) nextToUnuse(t *sched.Task, a *swapArea, i uint64) uint64 {
	s.swap.lock.Lock(t)
	found := uint64(0)
	for n := uint64(1); n < a.max && found == 0; n++ {
		if i++; i >= a.max {
			i = 1
		}
		if a.m[i] != 0 {
			found = i
		}
	}
	s.swap.lock.Unlock(t)
	return found
}

// tryToUnuse makes every entry of an area a page again (try_to_unuse). Each address
// space on the list is searched for each entry; Linux begins where the last one was
// found.
func (s *System) tryToUnuse(t *sched.Task, a *swapArea) error {
	pm := s.Pages
	for i := uint64(0); ; {
		if i = s.nextToUnuse(t, a, i); i == 0 {
			return nil
		}
		if t.SignalPending() {
			return unix.EINTR
		}
		e := x86.SwapEntry{Type: a.kind, Offset: i}
		p := s.readSwapCacheAsync(t, e)
		if p == nil {
			if s.swapCount(t, a, i) == 0 {
				continue // freed meanwhile; nobody takes it again
			}
			return unix.ENOMEM
		}
		s.swapUnplug(t)
		pm.WaitOnLocked(t, p)
		pm.WaitOnWriteback(t, p)
		pm.LockPage(t, p)
		pm.WaitOnWriteback(t, p)
		if s.swapCount(t, a, i) > 1 && s.shmemUnuse(t, e, p) {
			t.CondResched()
			continue
		}
		s.unuseAll(t, a, e, p)
		// Whoever is left, in the middle of a fork say, is to find it on the device.
		if s.swapCount(t, a, i) > 1 && pm.TestFlag(t, p, page.Dirty) && p.Has(page.SwapCache) {
			s.swapWritepage(t, p)
			s.swapUnplug(t)
			pm.LockPage(t, p)
			pm.WaitOnWriteback(t, p)
		}
		// It may have left the cache, and even have entered it for another area.
		if p.Has(page.SwapCache) && x86.PTE(p.Private).Swap() == e {
			s.deleteFromSwapCache(t, p)
		}
		pm.SetFlag(t, p, page.Dirty)
		pm.UnlockPage(t, p)
		pm.Put(t, p)
		t.CondResched()
	}
}

// unuseAll searches the address spaces for ptes that hold e, until only the cache uses
// it. The page is locked before and after, though not all the time.
func (s *System) unuseAll(t *sched.Task, a *swapArea, e x86.SwapEntry, p *page.Page) {
	r := &s.swap.mms
	var prev *MM
	r.lock.Lock(t)
	for m := r.head; m != nil; {
		if !m.Users.AddUnless(t.C, m.usersObj(), 1, 0) {
			m = m.swapNext
			continue
		}
		r.lock.Unlock(t)
		if prev != nil {
			prev.MMPut(t)
		}
		prev = m
		t.CondResched()
		n := s.swapCount(t, a, e.Offset)
		if n > 1 {
			s.unuseMM(t, m, e, p)
			n = s.swapCount(t, a, e.Offset)
		}
		r.lock.Lock(t)
		if n <= 1 {
			break
		}
		m = m.swapNext // prev holds a user: it is still on the list
	}
	r.lock.Unlock(t)
	if prev != nil {
		prev.MMPut(t)
	}
}

// unuseMM looks for e in one address space (unuse_mm). The lock of the page is given up
// where mmap_sem has to be waited for, as mmap_sem comes first.
func (s *System) unuseMM(t *sched.Task, m *MM, e x86.SwapEntry, p *page.Page) {
	if !m.MmapSem.DownReadTry(t) {
		s.Pages.ActivatePage(t, p)
		s.Pages.UnlockPage(t, p)
		m.MmapSem.DownRead(t)
		s.Pages.LockPage(t, p)
	}
	for v := m.firstVMA(); v != nil; v = m.nextVMA(v) {
		if v.seeAnonVMA(t) != nil && s.unuseVMA(t, v, e, p) {
			break
		}
	}
	m.MmapSem.UpRead(t)
}

// unuseVMA looks for e in one VMA: at the address where the page belongs, if it was
// mapped before, else everywhere (unuse_vma). It reports whether it found it.
func (s *System) unuseVMA(t *sched.Task, v *VMA, e x86.SwapEntry, p *page.Page) bool {
	addr, end := v.Start, v.End
	if p.Mapping != 0 {
		if p.Mapping != v.anonVMA().handle() { // a fault in v may be setting it
			return false
		}
		at, ok := vmaAddress(p.Index, v)
		if !ok {
			return false
		}
		addr, end = at, at+x86.PageSize
	}
	m := v.MM
	for addr < end {
		table, at, next, _, ok := m.nextTable(t.C, addr, end)
		if !ok {
			break
		}
		for ; at < next; at += x86.PageSize {
			ref := m.entry(table, x86.LevelPTE, at)
			if pte := ref.Load(t.C); pte.IsSwap() && pte.Swap() == e && s.unusePTE(t, v, at, table, pte, p) {
				return true
			}
		}
		addr = next
	}
	return false
}

// unusePTE maps the page where its entry was, read-only and old (unuse_pte).
func (s *System) unusePTE(t *sched.Task, v *VMA, addr uint64, table x86.PFN, pte x86.PTE, p *page.Page) bool {
	ref, ptl := v.MM.entry(table, x86.LevelPTE, addr), s.Pages.PTL(table)
	ptl.Lock(t)
	same := ref.Load(t.C) == pte
	if same {
		v.MM.AnonRSS.RawAdd(1)
		s.Pages.GetAs(t, p, page.RefMap)
		e := s.MkPTE(p, v).MkOld()
		ref.Set(t.C, e)
		TracePTE(t, addr, pte, e)
		s.PageAddAnonRmap(t, p, v, addr)
		s.policy.Unuse(t, pte, p)
		s.swapFree(t, pte.Swap())
		// It is likely to be wanted soon: it has been swapped out.
		s.Pages.ActivatePage(t, p)
	}
	ptl.Unlock(t)
	return same
}
