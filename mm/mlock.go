package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Locked memory: Linux 2.6.29 mm/mlock.c. Pages of a VMLocked VMA are made present and
// bear the flag Mlocked, which keeps them on the unevictable list. That list is a
// convenience: where a page has not got there, reclaim meets the flag of the VMA and
// sends it.
//
//	mlock: VMA gets VMLocked --> pages present --> Mlocked --> unevictable list
//	munlock, munmap, exit, COW: Mlocked goes, unless another locked VMA maps the page

// mlockVMAPagesRange makes the pages of [start, end) in the VMLocked VMA v present
// and returns how many pages do not count as locked: all of them where v cannot be
// locked, and then it is not any more (mlock_vma_pages_range). Faults that fail are
// hidden from mmap's caller, as in Linux.
//
// Preconditions:
//   - mmap_sem is held
func (m *MM) mlockVMAPagesRange(t *sched.Task, v *VMA, start, end uint64) (notLocked uint64) {
	pages := (end - start) >> x86.PageShift
	if v.Flags&(VMIO|VMPFNMap) != 0 {
		v.clearLocked(t)
		return pages
	}
	if v.Flags&(VMDontExpand|VMHugetlb) != 0 {
		_ = makePagesPresent(t, m, start, end)
		v.clearLocked(t)
		return pages
	}
	_ = m.mlockRange(t, v, start, end)
	return 0
}

// mlockRange makes the pages of [start, end) of the VMLocked VMA v present and marks them
// (__mlock_vma_pages_range). In 2.6.29 it is a user of get_user_pages like any other, with
// references and all, and does not say that it is the kernel's own.
//
//   - EFAULT: the VMA has no permissions, or there is nothing behind an address
//   - ENOMEM: out of memory
//   - EINTR: the task is being killed
//
// Preconditions:
//   - mmap_sem is held
func (m *MM) mlockRange(t *sched.Task, v *VMA, start, end uint64) error {
	s := m.Sys
	pm := s.Pages
	if s.policy.MlockPopulates() {
		err := makePagesPresent(t, m, start, end)
		m.markRange(t, v, start, end, true)
		return err
	}
	flags := GUPFlags(0)
	if v.Flags&VMWrite != 0 {
		flags |= GUPWrite
	}
	var pages [16]*page.Page
	for addr := start; addr < end; {
		t.CondResched()
		n := min(int((end-addr)>>x86.PageShift), len(pages))
		got, err := GetUserPages(t, m, addr, n, flags, PinGet, pages[:n])
		if err != nil {
			return err
		}
		pm.LRUAddDrain(t)
		for _, p := range pages[:got] {
			pm.LockPage(t, p)
			if p.Mapping != 0 {
				s.mlockVMAPage(t, p)
			}
			pm.UnlockPage(t, p)
			s.PutUserPage(t, p, PinGet)
		}
		addr += uint64(got) << x86.PageShift
	}
	return nil
}

// clearLocked takes VMLocked away.
func (v *VMA) clearLocked(t *sched.Task) {
	t.C.Touch(v.MM.lockedObj(), x86.AccWrite)
	v.Flags &^= VMLocked
}

// munlockVMAPagesAll is munlock_vma_pages_all: v is about to go.
func (m *MM) munlockVMAPagesAll(t *sched.Task, v *VMA) {
	v.clearLocked(t)
	m.markRange(t, v, v.Start, v.End, false)
}

// makePagesPresent faults the pages of [addr, end), which one VMA contains, for
// writing if the VMA allows it (make_pages_present).
//
//   - ENOMEM: out of memory, or no VMA
//   - EFAULT: not all could be made present
//
// Preconditions:
//   - mmap_sem is held
func makePagesPresent(t *sched.Task, m *MM, addr, end uint64) error {
	v := m.findVMA(t, addr)
	if v == nil {
		return unix.ENOMEM
	}
	flags := GUPInternal
	if v.Flags&VMWrite != 0 {
		flags |= GUPWrite
	}
	n := int((pageAlign(end) - addr&x86.PageMask) >> x86.PageShift)
	got, err := GetUserPages(t, m, addr, n, flags, PinGet, nil)
	if err == nil && got != n {
		err = unix.EFAULT
	}
	return err
}

// mlockVMAPage marks a page as one of a locked VMA and moves it where reclaim does not
// look (mlock_vma_page). One that is on no list goes there when somebody puts it back.
//
// Preconditions:
//   - p is locked
func (s *System) mlockVMAPage(t *sched.Task, p *page.Page) {
	pm := s.Pages
	if pm.TestAndSet(t, p, page.Mlocked) {
		return
	}
	t.C.Trace.Inc(trace.NrMlock)
	t.C.Trace.Inc(trace.UnevictablePGsMlocked)
	if pm.IsolateLRU(t, p) {
		pm.PutbackLRU(t, p)
	}
}

// munlockVMAPage takes the mark off, unless another locked VMA maps the page
// (munlock_vma_page).
//
// Preconditions:
//   - p is locked
func (s *System) munlockVMAPage(t *sched.Task, p *page.Page) {
	pm := s.Pages
	if !pm.TestAndClear(t, p, page.Mlocked) {
		return
	}
	t.C.Trace.Dec(trace.NrMlock)
	switch {
	case pm.IsolateLRU(t, p):
		if !s.tryToMunlock(t, p) {
			t.C.Trace.Inc(trace.UnevictablePGsMunlocked)
		}
		pm.PutbackLRU(t, p)
	case pm.SeeFlag(t, p, page.Unevictable):
		t.C.Trace.Inc(trace.UnevictablePGsStranded)
	default:
		t.C.Trace.Inc(trace.UnevictablePGsMunlocked)
	}
}

// tryToMunlock looks for another locked VMA that maps an anonymous page and marks the
// page again for it (try_to_munlock). It reports whether there was one.
func (s *System) tryToMunlock(t *sched.Task, p *page.Page) (again bool) {
	if !p.Anon() {
		return false
	}
	a := s.pageLockAnonVMA(t, p)
	if a == nil {
		return false
	}
	for v := a.head; v != nil && !again; v = v.anonNext {
		addr, ok := vmaAddress(p.RacyIndex(), v)
		if !ok || !v.racyLocked(t) {
			continue
		}
		if _, ptl, ok := s.pageCheckAddress(t, p, v.MM, addr, true /* sync */); ok {
			ptl.Unlock(t)
			again = s.tryToMlockPage(t, p, v)
		}
	}
	pageUnlockAnonVMA(t, a)
	return again
}

// tryToMlockPage marks a page that rmap has met in a locked VMA, if the VMA holds still
// (try_to_mlock_page).
//
// Preconditions:
//   - p is locked, and so is the list that v is on
func (s *System) tryToMlockPage(t *sched.Task, p *page.Page, v *VMA) bool {
	if !v.MM.MmapSem.DownReadTry(t) {
		return false
	}
	locked := v.racyLocked(t) // exit_mmap clears it without mmap_sem, and then unlocks the page
	if locked {
		s.mlockVMAPage(t, p)
	}
	v.MM.MmapSem.UpRead(t)
	return locked
}

// markRange does to each page that is present in [start, end) of v what mlock or munlock
// does: __mlock_vma_pages_range for munlock, which there gets the pages as mlock does, and
// so faults them in first.
//
// Preconditions:
//   - mmap_sem is held, or nobody uses the address space
func (m *MM) markRange(t *sched.Task, v *VMA, start, end uint64, mlock bool) {
	s := m.Sys
	pm := s.Pages
	pm.LRUAddDrain(t)
	for addr := start; addr < end; {
		table, at, next, _, ok := m.nextTable(t.C, addr, end)
		if !ok {
			return
		}
		ptl := pm.PTL(table)
		for ; at < next; at += x86.PageSize {
			ptl.Lock(t)
			pte := m.entry(table, x86.LevelPTE, at).Load(t.C)
			var p *page.Page
			if pte.Present() {
				if p = s.NormalPage(v, pte); p != nil {
					pm.Get(t, p)
				}
			}
			ptl.Unlock(t)
			if p == nil {
				continue
			}
			pm.LockPage(t, p)
			if p.Mapping != 0 {
				if mlock {
					s.mlockVMAPage(t, p)
				} else {
					s.munlockVMAPage(t, p)
				}
			}
			pm.UnlockPage(t, p)
			pm.Put(t, p)
		}
		addr = next
	}
}

// SysMlock locks a range: its pages are made present and stay. SysMunlock takes that
// back. Linux 2.6.29 mm/mlock.c:sys_mlock. Pages that are locked already count twice
// against the limit.
//
//   - EPERM: RLIMIT_MEMLOCK is zero
//   - ENOMEM: part of the range is not mapped, or cannot be made present, or RLIMIT_MEMLOCK
//   - EAGAIN: out of memory
//   - EINVAL: the range wraps
func SysMlock(t *sched.Task, m *MM, start, length uint64) error {
	return sysMlock(t, m, start, length, true)
}

// SysMunlock unlocks a range; errors are those of SysMlock.
func SysMunlock(t *sched.Task, m *MM, start, length uint64) error {
	return sysMlock(t, m, start, length, false)
}

func sysMlock(t *sched.Task, m *MM, start, length uint64, on bool) error {
	if on && !m.canDoMlock() {
		return unix.EPERM
	}
	m.Sys.Pages.LRUAddDrain(t)
	m.MmapSem.DownWrite(t)
	end := start&x86.PageMask + pageAlign(length+start&^x86.PageMask)
	err := error(unix.ENOMEM)
	if !on || m.LockedVM+(end-start&x86.PageMask)>>x86.PageShift <= m.lockLimit() {
		err = m.doMlock(t, start&x86.PageMask, end, on)
	}
	m.MmapSem.UpWrite(t)
	return err
}

// doMlock is do_mlock.
func (m *MM) doMlock(t *sched.Task, start, end uint64, on bool) error {
	if end < start {
		return unix.EINVAL
	}
	for addr := start; addr < end; {
		v, prev := m.findVMAPrev(t, addr)
		if v == nil || v.Start > addr {
			return unix.ENOMEM
		}
		if addr > v.Start {
			prev = v
		}
		stop := min(v.End, end)
		flags := v.Flags &^ VMLocked
		if on {
			flags |= VMLocked
		}
		if err := m.mlockFixup(t, v, prev, addr, stop, flags); err != nil {
			return err
		}
		addr = stop
	}
	return nil
}

// mlockFixup gives [start, end) of v other flags, and its pages the mark or not
// (mlock_fixup, and __mlock_posix_error_return).
func (m *MM) mlockFixup(t *sched.Task, v, prev *VMA, start, end uint64, flags VMFlags) error {
	if flags == v.Flags || v.Flags&(VMIO|VMPFNMap) != 0 {
		return nil
	}
	on := flags&VMLocked != 0
	if v.Flags&(VMDontExpand|VMHugetlb) != 0 {
		if on {
			_ = makePagesPresent(t, m, start, end)
		}
		return nil
	}
	v, err := m.changeFlags(t, v, prev, start, end, flags)
	if err != nil {
		return err
	}
	pages := (end - start) >> x86.PageShift
	if !on {
		m.LockedVM -= pages
		m.markRange(t, v, start, end, false)
		return nil
	}
	m.LockedVM += pages
	switch err = m.mlockRange(t, v, start, end); err {
	case unix.EFAULT:
		err = unix.ENOMEM
	case unix.ENOMEM:
		err = unix.EAGAIN
	}
	return err
}

// The flags of mlockall.
const (
	MCLCurrent = 1
	MCLFuture  = 2
)

// SysMlockall locks all that is mapped (MCLCurrent), and what will be (MCLFuture);
// failures to make pages present are ignored, as in Linux. EINVAL: no flag, or others.
// EPERM: RLIMIT_MEMLOCK is zero. ENOMEM: MCLCurrent, and more is mapped than it allows.
func SysMlockall(t *sched.Task, m *MM, flags int) error {
	if flags == 0 || flags&^(MCLCurrent|MCLFuture) != 0 {
		return unix.EINVAL
	}
	if !m.canDoMlock() {
		return unix.EPERM
	}
	m.Sys.Pages.LRUAddDrain(t)
	m.MmapSem.DownWrite(t)
	err := error(unix.ENOMEM)
	if flags&MCLCurrent == 0 || m.TotalVM <= m.lockLimit() {
		m.lockAll(t, flags)
		err = nil
	}
	m.MmapSem.UpWrite(t)
	return err
}

// SysMunlockall takes back what mlockall and mlock did.
func SysMunlockall(t *sched.Task, m *MM) error {
	m.MmapSem.DownWrite(t)
	m.lockAll(t, 0)
	m.MmapSem.UpWrite(t)
	return nil
}

// lockAll is do_mlockall.
func (m *MM) lockAll(t *sched.Task, flags int) {
	m.DefFlags &^= VMLocked
	if flags&MCLFuture != 0 {
		m.DefFlags |= VMLocked
	}
	if flags == MCLFuture {
		return
	}
	for v := m.firstVMA(); v != nil; {
		want := v.Flags &^ VMLocked
		if flags&MCLCurrent != 0 {
			want |= VMLocked
		}
		end := v.End
		_ = m.mlockFixup(t, v, m.prevVMA(t, v), v.Start, v.End, want)
		if v = m.findVMA(t, end-1); v != nil {
			v = m.nextVMA(v)
		}
	}
}

// prevVMA is the VMA below v, nil if there is none.
func (m *MM) prevVMA(t *sched.Task, v *VMA) *VMA {
	_, prev := m.findVMAPrev(t, v.Start)
	return prev
}
