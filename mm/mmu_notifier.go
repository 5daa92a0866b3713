package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// mmu notifiers: Linux 2.6.29 mm/mmu_notifier.c.
//
// A device with page tables of its own (a virtual machine's shadow tables, a GRU) could
// pin every page it maps. Or it pins nothing, and is told in time: before the process's
// pte stops saying what the device's says, for a whole range, or just after the pte was
// cleared and flushed and before the page goes, for a single one.
//
//	invalidate_range_start ... ptes change, pages go ... invalidate_range_end
//	     drop, and take nothing new                            may take again
//
//	ptep_clear_flush, invalidate_page       the page is still referenced: drop
//	set_pte_at, change_pte                  another page, or less permission: follow
//
// An address space without notifiers pays one comparison with nil.

// MMUNotifier is one user of an address space that wants to be told: struct
// mmu_notifier with its ops. A method that is nil is not called. All are called in an RCU
// read side and so must not sleep; InvalidatePage, ChangePTE and ClearFlushYoung with
// the ptl held besides. The fields must not change between registering and the end of
// MMUNotifierUnregister.
type MMUNotifier struct {
	// Release is called once: when the address space is about to lose its pages, or by
	// MMUNotifierUnregister before that. Nothing may be taken any more when it returns.
	Release func(t *sched.Task, m *MM)
	// ClearFlushYoung makes the user's entry for the page old, and reports whether it was
	// young. A user without such a bit may drop the entry and report whether there was one.
	ClearFlushYoung func(t *sched.Task, m *MM, addr uint64) bool
	// ChangePTE says that the page's pte has been set to e without having been invalidated
	// (2.6.32). If it is nil InvalidatePage is called.
	ChangePTE func(t *sched.Task, m *MM, addr uint64, e x86.PTE)
	// InvalidatePage says that the pte of one page was cleared and flushed.
	InvalidatePage func(t *sched.Task, m *MM, addr uint64)
	// InvalidateRangeStart comes before, InvalidateRangeEnd after all that is done to the
	// ptes in [start, end). Pairs of several tasks overlap. In between nothing in the range may be
	// taken; pages that were taken go only after the start.
	InvalidateRangeStart, InvalidateRangeEnd func(t *sched.Task, m *MM, start, end uint64)
}

// mmuNotifierMM is what an address space keeps of its notifiers: struct mmu_notifier_mm.
type mmuNotifierMM struct {
	lock lock.SpinLock // orders registering, unregistering and release
	obj  x86.ObjID     // names the list; immutable
	raw  x86.RawSpin   // host-level: readers of the list have only RCU
	list []*MMUNotifier
	// list is replaced and never changed: written under lock and raw, read under raw.
}

// snapshot reads the list, as hlist_for_each_entry_rcu does. The caller is in an RCU read
// side.
func (n *mmuNotifierMM) snapshot(t *sched.Task) []*MMUNotifier {
	t.C.Point(x86.OpRead, n.obj)
	n.raw.Lock()
	l := n.list
	n.raw.Unlock()
	return l
}

// publish makes l the list. n.lock is held.
func (n *mmuNotifierMM) publish(t *sched.Task, l []*MMUNotifier) {
	t.C.Point(x86.OpWrite, n.obj)
	t.C.Drain()
	n.raw.Lock()
	n.list = l
	n.raw.Unlock()
}

// without returns a copy of the list without mn, and whether it was there.
func (n *mmuNotifierMM) without(mn *MMUNotifier) ([]*MMUNotifier, bool) {
	out := make([]*MMUNotifier, 0, len(n.list))
	for _, o := range n.list {
		if o != mn {
			out = append(out, o)
		}
	}
	return out, len(out) < len(n.list)
}

// MMUNotifierRegister has mn told of what happens to m's ptes from now on
// (mmu_notifier_register). It takes a reference on m's structure, which only
// MMUNotifierUnregister gives back, and that must be called, before or after the address
// space has lost its pages. Errors: ENOMEM, and EINTR if the task was sent a signal.
//
// Preconditions:
//   - the caller has a user of m and holds no lock
func MMUNotifierRegister(t *sched.Task, m *MM, mn *MMUNotifier) error {
	if m.Users.Peek() <= 0 {
		t.Oops("mmu_notifier_register: address space %d has no users", m.ID)
	}
	if m.Sys.Pages.FailSite(t, "mmu_notifier_mm") {
		return unix.ENOMEM
	}
	fresh := &mmuNotifierMM{obj: t.M.NewObj(x86.ClassWord)}
	fresh.lock.Init(t.M, lock.MMUNotifier)
	m.MmapSem.DownWrite(t)
	err := m.takeAllLocks(t)
	if err == nil {
		if m.notifiers == nil {
			m.notifiers = fresh
		}
		m.MMGrab(t)
		n := m.notifiers
		n.lock.Lock(t)
		n.publish(t, append([]*MMUNotifier{mn}, n.list...))
		n.lock.Unlock(t)
		m.dropAllLocks(t)
	}
	m.MmapSem.UpWrite(t)
	return err
}

// MMUNotifierUnregister ends that (mmu_notifier_unregister): when it returns no method of
// mn runs or will run. It calls Release if the end of the address space has not.
//
// Preconditions:
//   - MMUNotifierRegister has succeeded; the task may sleep and holds no lock
func MMUNotifierUnregister(t *sched.Task, m *MM, mn *MMUNotifier) {
	n := m.notifiers
	n.lock.Lock(t)
	if l, ok := n.without(mn); ok {
		n.publish(t, l)
		// The end of the address space waits for this read side before it frees pages.
		lock.RCUReadLock(t)
		n.lock.Unlock(t)
		if mn.Release != nil {
			mn.Release(t, m)
		}
		lock.RCUReadUnlock(t)
	} else {
		n.lock.Unlock(t)
	}
	lock.SynchronizeRCU(t)
	m.MMDrop(t)
}

// mmuNotifierRelease tells the notifiers that the pages go (mmu_notifier_release):
// exit_mmap begins with it.
func (m *MM) mmuNotifierRelease(t *sched.Task) {
	if m.notifiers != nil {
		m.mmuNotifierReleaseSlow(t)
	}
}

//go:noinline
func (m *MM) mmuNotifierReleaseSlow(t *sched.Task) {
	n := m.notifiers
	n.lock.Lock(t)
	for len(n.list) > 0 {
		mn := n.list[0]
		n.publish(t, n.list[1:])
		// This read side holds up an MMUNotifierUnregister that finds mn gone.
		lock.RCUReadLock(t)
		n.lock.Unlock(t)
		if mn.Release != nil {
			mn.Release(t, m)
		}
		lock.RCUReadUnlock(t)
		n.lock.Lock(t)
	}
	n.lock.Unlock(t)
	// One that MMUNotifierUnregister took off the list may be inside Release.
	lock.SynchronizeRCU(t)
}

// mmuNotifierDestroy checks that nobody is left when the structure goes
// (mmu_notifier_mm_destroy).
func (m *MM) mmuNotifierDestroy(t *sched.Task) {
	if m.notifiers != nil && len(m.notifiers.list) != 0 {
		t.Oops("address space %d freed with %d mmu notifiers", m.ID, len(m.notifiers.list))
	}
}

// mmuNotifierInvalidatePage says that the pte for addr was cleared and flushed
// (mmu_notifier_invalidate_page). The ptl is held.
func (m *MM) mmuNotifierInvalidatePage(t *sched.Task, addr uint64) {
	if m.notifiers != nil {
		m.notifyPage(t, addr)
	}
}

// mmuNotifierInvalidateRangeStart and mmuNotifierInvalidateRangeEnd stand around whatever
// changes the ptes of [start, end) and frees pages. No ptl is held.
func (m *MM) mmuNotifierInvalidateRangeStart(t *sched.Task, start, end uint64) {
	if m.notifiers != nil {
		m.notifyRange(t, start, end, true)
	}
}

func (m *MM) mmuNotifierInvalidateRangeEnd(t *sched.Task, start, end uint64) {
	if m.notifiers != nil {
		m.notifyRange(t, start, end, false)
	}
}

// mmuNotifierClearFlushYoung makes secondary entries for addr old, and reports whether one
// was young (mmu_notifier_clear_flush_young). The ptl is held.
func (m *MM) mmuNotifierClearFlushYoung(t *sched.Task, addr uint64) bool {
	return m.notifiers != nil && m.notifyYoung(t, addr)
}

func (m *MM) notified(t *sched.Task, what, start, end uint64) {
	t.C.Trace.Inc(trace.EmuMMUNotifier)
	t.C.Trace.Event(trace.EvMMUNotify, t.C.Now(), start, end, what)
}

//go:noinline
func (m *MM) notifyPage(t *sched.Task, addr uint64) {
	lock.RCUReadLock(t)
	for _, mn := range m.notifiers.snapshot(t) {
		if mn.InvalidatePage != nil {
			m.notified(t, trace.MMUInvalidatePage, addr, addr+x86.PageSize)
			mn.InvalidatePage(t, m, addr)
		}
	}
	lock.RCUReadUnlock(t)
}

//go:noinline
func (m *MM) notifyRange(t *sched.Task, start, end uint64, begin bool) {
	lock.RCUReadLock(t)
	for _, mn := range m.notifiers.snapshot(t) {
		fn, what := mn.InvalidateRangeStart, uint64(trace.MMURangeStart)
		if !begin {
			fn, what = mn.InvalidateRangeEnd, trace.MMURangeEnd
		}
		if fn != nil {
			m.notified(t, what, start, end)
			fn(t, m, start, end)
		}
	}
	lock.RCUReadUnlock(t)
}

//go:noinline
func (m *MM) notifyYoung(t *sched.Task, addr uint64) (young bool) {
	lock.RCUReadLock(t)
	for _, mn := range m.notifiers.snapshot(t) {
		if mn.ClearFlushYoung != nil {
			m.notified(t, trace.MMUClearFlushYoung, addr, addr+x86.PageSize)
			young = mn.ClearFlushYoung(t, m, addr) || young
		}
	}
	lock.RCUReadUnlock(t)
	return young
}

//go:noinline
func (m *MM) notifyChange(t *sched.Task, addr uint64, e x86.PTE) {
	lock.RCUReadLock(t)
	for _, mn := range m.notifiers.snapshot(t) {
		switch {
		case mn.ChangePTE != nil:
			m.notified(t, trace.MMUChangePTE, addr, addr+x86.PageSize)
			mn.ChangePTE(t, m, addr, e)
		case mn.InvalidatePage != nil:
			m.notified(t, trace.MMUInvalidatePage, addr, addr+x86.PageSize)
			mn.InvalidatePage(t, m, addr)
		}
	}
	lock.RCUReadUnlock(t)
}

// PtepClearFlushNotify is PtepClearFlush, and the notifiers are told
// (ptep_clear_flush_notify). The ptl is held.
func (s *System) PtepClearFlushNotify(t *sched.Task, v *VMA, addr uint64, ref x86.PTERef) x86.PTE {
	pte := s.PtepClearFlush(t, v, addr, ref)
	v.MM.mmuNotifierInvalidatePage(t, addr)
	return pte
}

// ptepClearFlushYoungNotify is ptepClearFlushYoung for all page tables there are
// (ptep_clear_flush_young_notify). The ptl is held.
func (s *System) ptepClearFlushYoungNotify(t *sched.Task, v *VMA, addr uint64, ref x86.PTERef) bool {
	young := s.ptepClearFlushYoung(t, v, addr, ref)
	return v.MM.mmuNotifierClearFlushYoung(t, addr) || young
}

// setPTEAtNotify sets an entry that was cleared and flushed without telling anybody, and
// has the notifiers follow: Linux 2.6.32 set_pte_at_notify, mmu_notifier_change_pte. The
// ptl is held.
func (s *System) setPTEAtNotify(t *sched.Task, m *MM, addr uint64, ref x86.PTERef, e x86.PTE) {
	ref.Set(t.C, e)
	TracePTE(t, addr, 0, e)
	if m.notifiers != nil {
		m.notifyChange(t, addr, e)
	}
}

// takeAllLocks shuts everybody out who could be looking at m's ptes: with mmap_sem, which
// the caller holds for writing, the locks of all lists by which rmap and truncation find
// them. Linux 2.6.29 mm/mmap.c:mm_take_all_locks. The error is EINTR; nothing is locked then.
//
// A task takes many locks of one class here. That cannot deadlock: everybody else takes
// one at a time, and this one has mm_all_locks_mutex.
func (m *MM) takeAllLocks(t *sched.Task) error {
	s := m.Sys
	s.allLocks.DownWrite(t)
	done := make(map[any]bool)
	for v := m.firstVMA(); v != nil; v = m.nextVMA(v) {
		if as := v.Mapping; as != nil && !done[as] {
			if t.SignalPending() {
				m.dropLocks(t, done)
				return unix.EINTR
			}
			as.IMmapLock.LockNestLock(t, &m.MmapSem)
			done[as] = true
		}
	}
	for v := m.firstVMA(); v != nil; v = m.nextVMA(v) {
		if a := v.AnonVMA; a != nil && !done[a] {
			if t.SignalPending() {
				m.dropLocks(t, done)
				return unix.EINTR
			}
			a.Lock.LockNestLock(t, &m.MmapSem)
			done[a] = true
		}
	}
	return nil
}

// dropAllLocks undoes takeAllLocks (mm_drop_all_locks).
func (m *MM) dropAllLocks(t *sched.Task) {
	all := make(map[any]bool)
	for v := m.firstVMA(); v != nil; v = m.nextVMA(v) {
		if v.Mapping != nil {
			all[v.Mapping] = true
		}
		if v.AnonVMA != nil {
			all[v.AnonVMA] = true
		}
	}
	m.dropLocks(t, all)
}

// dropLocks releases the locks in held, in the order of the VMAs, and lets others in.
func (m *MM) dropLocks(t *sched.Task, held map[any]bool) {
	for v := m.firstVMA(); v != nil; v = m.nextVMA(v) {
		if a := v.AnonVMA; a != nil && held[a] {
			a.Lock.UnlockNestLock(t)
			delete(held, a)
		}
		if as := v.Mapping; as != nil && held[as] {
			as.IMmapLock.UnlockNestLock(t)
			delete(held, as)
		}
	}
	m.Sys.allLocks.UpWrite(t)
}
