package mm

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
)

// KSM, kernel samepage merging: Linux 2.6.32 mm/ksm.c. A program says of a part of its
// memory that it may hold copies of what others have (MadvMergeable); a kernel thread, ksmd,
// looks for equal pages there and maps one page, read-only, in place of all. The next store
// to it is a copy-on-write fault.
//
//	each page, once in a pass:
//	  equal to a KSM page (stable tree)?  ------------- yes --> map that one
//	      | no
//	  has changed since the last pass?  ---- yes --> next pass
//	      | no
//	  equal to another such (unstable tree)?  ---------- yes --> a new KSM page, both map it
//	      | no
//	  into the unstable tree, which is forgotten when the pass is over
//
// A page under I/O must not be merged: the device would go on with a page that nobody maps.
// See writeProtectPage. In 2.6.32 a KSM page is on no LRU list and never swapped.

// MadvMergeable and MadvUnmergeable are advice of 2.6.32. They are EINVAL on a machine
// without KSM.
const (
	MadvMergeable   Advice = 12
	MadvUnmergeable Advice = 13
)

// The values of /sys/kernel/mm/ksm/run.
const (
	KSMRunStop    = 0 // ksmd stops; what is merged stays merged
	KSMRunMerge   = 1 // ksmd runs
	KSMRunUnmerge = 2 // ksmd stops, and every merged page is broken up
)

// KSMTunables are the files of /sys/kernel/mm/ksm that say how much ksmd does.
type KSMTunables struct {
	// PagesToScan is how many pages are looked at between two naps: 100.
	PagesToScan uint64
	// SleepMillisecs is how long ksmd naps: 20.
	SleepMillisecs uint64
	// MaxKernelPages bounds the KSM pages, which cannot be swapped; 0 is no bound. A
	// quarter of memory.
	MaxKernelPages uint64
}

// KSMStats are the files of /sys/kernel/mm/ksm that say what ksmd has done.
type KSMStats struct {
	// PagesShared counts KSM pages, PagesSharing the addresses that have one besides the first.
	PagesShared, PagesSharing uint64
	// PagesUnshared counts pages that are looked at and unique, PagesVolatile those that
	// change too fast.
	PagesUnshared, PagesVolatile uint64
	// FullScans counts passes over everything mergeable.
	FullScans uint64
}

// String writes the statistics as the files' names and contents, one in a line.
func (st KSMStats) String() string {
	var b strings.Builder
	for _, f := range []struct {
		name string
		n    uint64
	}{
		{"pages_shared", st.PagesShared}, {"pages_sharing", st.PagesSharing},
		{"pages_unshared", st.PagesUnshared}, {"pages_volatile", st.PagesVolatile}, {"full_scans", st.FullScans},
	} {
		fmt.Fprintf(&b, "%s %d\n", f.name, f.n)
	}
	return b.String()
}

// ksmState is the KSM of a machine: the static variables of mm/ksm.c.
type ksmState struct {
	on     bool          // there is KSM (CONFIG_KSM); immutable
	thread lock.RWSem    // ksm_thread_mutex: one scans, or unmerges, at a time
	mmlist lock.SpinLock // ksm_mmlist_lock
	wait   lock.WaitQueue
	run    x86.Word32  // KSMRunStop and so on; written under thread
	task   *sched.Task // ksmd; made at the first KSMRunMerge, protected by thread

	pagesToScan, sleepMS, maxPages x86.Word64 // the tunables; each by itself

	head ksmSlot // anchors the list of slots; protected by mmlist
	// scan is the cursor. Its slot is protected by mmlist, the rest by thread.
	scan struct {
		slot *ksmSlot
		addr uint64
		list **ksmItem  // where the next item of the slot is, or is to be put
		seq  x86.Word64 // passes; written under thread
	}
	stable, unstable ksmTree // protected by thread

	// The statistics: written under thread, read by anybody.
	shared, sharing, unshared, items x86.Word64

	bufs [2][x86.SectorSize]byte // scratch of comparisons; protected by thread

	// countFirst compares the counts before the pte is cleared and flushed: the mistake
	// that tests look for. Immutable.
	countFirst bool
}

// ksmMM is what an address space keeps for KSM.
type ksmMM struct {
	slot *ksmSlot // found by hashing in Linux; protected by ksm_mmlist_lock
	// mergeable is MMF_VM_MERGEABLE: there is, or was lately, a slot. Atomic, without
	// points: whoever relies on it looks for the slot.
	mergeable x86.Word32
}

func (k *ksmState) init(s *System) {
	k.on = s.options.KSM
	k.thread.Init(s.M, lock.KSMThread)
	k.mmlist.Init(s.M, lock.KSMMMList)
	k.wait.Init(s.M)
	k.head.prev, k.head.next = &k.head, &k.head
	k.scan.slot = &k.head
	k.pagesToScan.Poke(100)
	k.sleepMS.Poke(20)
	k.maxPages.Poke(s.Pages.Frames() / 4)
}

// SetKSMTunables writes the files that say how much ksmd does. Zero leaves a value as it
// is; MaxKernelPages is written if any page count is meant: ^0 is no bound.
func (s *System) SetKSMTunables(o KSMTunables) {
	k := &s.ksm
	if o.PagesToScan != 0 {
		k.pagesToScan.Poke(o.PagesToScan)
	}
	if o.SleepMillisecs != 0 {
		k.sleepMS.Poke(o.SleepMillisecs)
	}
	switch o.MaxKernelPages {
	case 0:
	case ^uint64(0):
		k.maxPages.Poke(0)
	default:
		k.maxPages.Poke(o.MaxKernelPages)
	}
}

// KSMStats returns the statistics. While the machine runs they are approximate.
func (s *System) KSMStats() KSMStats {
	k := &s.ksm
	st := KSMStats{PagesShared: k.shared.Peek(), PagesSharing: k.sharing.Peek(), PagesUnshared: k.unshared.Peek(), FullScans: k.scan.seq.Peek()}
	if v := int64(k.items.Peek() - st.PagesShared - st.PagesSharing - st.PagesUnshared); v > 0 {
		st.PagesVolatile = uint64(v)
	}
	return st
}

// KSMRun writes /sys/kernel/mm/ksm/run (run_store). Errors: EINVAL for another value than
// the three, or if the machine has no KSM; ENOMEM and EINTR where pages could not be broken up,
// and then ksmd has stopped.
//
// Preconditions:
//   - the task may sleep and holds no lock
func (s *System) KSMRun(t *sched.Task, run int) error {
	k := &s.ksm
	if !k.on || run < KSMRunStop || run > KSMRunUnmerge {
		return unix.EINVAL
	}
	var err error
	k.thread.DownWrite(t)
	if int(k.run.Peek()) != run {
		t.C.Touch(k.runObj(), x86.AccWrite)
		k.run.Poke(int32(run))
		if run == KSMRunUnmerge {
			if err = s.unmergeAndRemoveAll(t); err != nil {
				t.C.Touch(k.runObj(), x86.AccWrite)
				k.run.Poke(KSMRunStop)
			}
		}
	}
	var made *sched.Task
	if run == KSMRunMerge && k.task == nil {
		made = s.M.NewTask(sched.TaskOptions{Name: "ksmd", Daemon: true}, s.ksmd)
		s.InitTask(made, nil)
		k.task = made
	}
	k.thread.UpWrite(t)
	switch {
	case made != nil:
		s.M.Start(t, made)
	case run == KSMRunMerge:
		k.wait.Wake(t)
	}
	return err
}

// runObj names run, which ksmd looks at without the mutex.
func (k *ksmState) runObj() x86.ObjID { return k.wait.Obj() | 1<<40 }

// ksmdShouldRun is ksmd_should_run.
func (k *ksmState) ksmdShouldRun(t *sched.Task) bool {
	t.C.Touch(k.runObj(), x86.AccRead)
	if k.run.Peek() != KSMRunMerge {
		return false
	}
	k.mmlist.Lock(t)
	t.WriteOf(k, "ksm_mmlist")
	some := k.head.next != &k.head
	k.mmlist.Unlock(t)
	return some
}

// ksmd is the kernel thread (ksm_scan_thread).
func (s *System) ksmd(t *sched.Task) {
	k := &s.ksm
	for {
		k.thread.DownWrite(t)
		if k.ksmdShouldRun(t) {
			s.ksmDoScan(t, k.pagesToScan.Peek())
		}
		k.thread.UpWrite(t)
		if k.ksmdShouldRun(t) {
			t.SleepFor(k.sleepMS.Peek() * 1e6)
			continue
		}
		for {
			k.wait.Prepare(t, sched.TaskInterruptible)
			if k.ksmdShouldRun(t) {
				break
			}
			t.Schedule()
		}
		k.wait.Finish(t)
	}
}

// KSMScan makes n passes over everything mergeable, in the calling task, whatever run says: a
// program that has to know when pages have been merged need not wait for ksmd. A pass that
// ksmd is in the middle of counts as the first. The pages that wait in this CPU's pagevecs go
// to their lists before, as the reference of the pagevec would keep them from being merged.
// Nothing in Linux calls it. EINVAL if the machine has no KSM; ENOMEM: the pass stopped for
// lack of memory, where ksmd would try again after its nap.
//
// Preconditions:
//   - the task may sleep and holds no lock
func (s *System) KSMScan(t *sched.Task, n int) error {
	k := &s.ksm
	if !k.on {
		return unix.EINVAL
	}
	s.Pages.LRUAddDrain(t)
	k.thread.DownWrite(t)
	err := error(nil)
	for end := k.scan.seq.Peek() + uint64(n); err == nil && k.scan.seq.Peek() < end; {
		pass := k.scan.seq.Peek()
		if s.ksmDoScan(t, 1) || k.scan.seq.Peek() != pass {
			continue
		}
		if k.nothing(t) {
			break
		}
		err = unix.ENOMEM
	}
	k.thread.UpWrite(t)
	return err
}

// nothing reports whether there is nothing to scan.
func (k *ksmState) nothing(t *sched.Task) bool {
	k.mmlist.Lock(t)
	t.WriteOf(k, "ksm_mmlist")
	none := k.head.next == &k.head
	k.mmlist.Unlock(t)
	return none
}

// ksmMadvise takes the two advices for [start, end) of v, and returns what v's flags are to
// be (ksm_madvise). What cannot be merged is left alone without an error.
//
// Preconditions:
//   - mmap_sem is held for writing
func (s *System) ksmMadvise(t *sched.Task, v *VMA, start, end uint64, advice Advice) (VMFlags, error) {
	m, flags := v.MM, v.Flags
	if !s.ksm.on {
		return flags, unix.EINVAL
	}
	if advice == MadvMergeable {
		if flags&(VMMergeable|VMShared|VMMayShare|VMPFNMap|VMIO|VMDontExpand|VMHugetlb|VMInsertPage) != 0 {
			return flags, nil
		}
		if m.ksm.mergeable.Peek() == 0 {
			if err := s.ksmEnter(t, m); err != nil {
				return flags, err
			}
		}
		return flags | VMMergeable, nil
	}
	if flags&VMMergeable == 0 {
		return flags, nil
	}
	if v.seeAnonVMA(t) != nil {
		if err := s.unmergeKSMPages(t, v, start, end); err != nil {
			return flags, err
		}
	}
	return flags &^ VMMergeable, nil
}

// ksmBeforeMove breaks up the KSM pages of [start, end) of v, which mremap is about to move: at
// the new place they could meet items of other pages that were unmapped there
// (2.6.32 move_vma). The VMA stays mergeable.
func (s *System) ksmBeforeMove(t *sched.Task, v *VMA, start, end uint64) error {
	if v.Flags&VMMergeable == 0 {
		return nil
	}
	_, err := s.ksmMadvise(t, v, start, end, MadvUnmergeable)
	return err
}

// ksmEnter puts m on the list of what is scanned, just before the cursor: it is looked at
// last, when it has settled down (__ksm_enter). The error is ENOMEM.
func (s *System) ksmEnter(t *sched.Task, m *MM) error {
	k := &s.ksm
	if s.Pages.FailSite(t, "ksm_mm_slot") {
		return unix.ENOMEM
	}
	slot := &ksmSlot{mm: m}
	k.mmlist.Lock(t)
	t.WriteOf(k, "ksm_mmlist")
	wake := k.head.next == &k.head
	m.ksm.slot = slot
	k.link(slot, k.scan.slot.prev)
	k.mmlist.Unlock(t)
	m.ksm.mergeable.Poke(1)
	m.MMGrab(t)
	if wake && k.wait.Active(t.C) {
		k.wait.Wake(t)
	}
	return nil
}

// ksmFork has a child scanned whose parent is (ksm_fork). Both mmap_sems are held for writing.
func (m *MM) ksmFork(t *sched.Task, old *MM) error {
	if old.ksm.mergeable.Peek() != 0 {
		return m.Sys.ksmEnter(t, m)
	}
	return nil
}

// ksmExit is called when the last user of m has gone, before the pages go (ksm_exit). It
// leaves the items to whoever scans next, and waits for whoever works in m now.
func (m *MM) ksmExit(t *sched.Task) {
	if m.ksm.mergeable.Peek() != 0 {
		m.Sys.ksmExitSlow(t, m)
	}
}

//go:noinline
func (s *System) ksmExitSlow(t *sched.Task, m *MM) {
	k := &s.ksm
	k.mmlist.Lock(t)
	t.WriteOf(k, "ksm_mmlist")
	slot := m.ksm.slot
	free := false
	if slot != nil && k.scan.slot != slot {
		if slot.items == nil {
			k.unlink(slot)
			free = true
		} else { // next to be looked at
			k.unlist(slot)
			k.link(slot, k.scan.slot)
		}
	}
	k.mmlist.Unlock(t)
	switch {
	case free:
		m.ksm.mergeable.Poke(0)
		m.MMDrop(t)
	case slot != nil:
		m.MmapSem.DownWrite(t)
		m.MmapSem.UpWrite(t)
	}
}

// link puts slot behind prev, unlist takes it off the list; unlink is unlist for good.
// mmlist is held.
func (k *ksmState) link(slot, prev *ksmSlot) {
	slot.prev, slot.next = prev, prev.next
	prev.next.prev, prev.next = slot, slot
}

func (k *ksmState) unlist(slot *ksmSlot) {
	slot.prev.next, slot.next.prev = slot.next, slot.prev
}

func (k *ksmState) unlink(slot *ksmSlot) {
	k.unlist(slot)
	slot.mm.ksm.slot = nil
}

// moveTo puts the cursor on the beginning of slot. mmlist is held.
func (k *ksmState) moveTo(slot *ksmSlot) {
	k.scan.slot, k.scan.addr, k.scan.list = slot, 0, &slot.items
}

// unmergeAndRemoveAll breaks up every KSM page and forgets every item, and the slots of
// address spaces that have ended (unmerge_and_remove_all_rmap_items). ksm_thread_mutex is held.
func (s *System) unmergeAndRemoveAll(t *sched.Task) error {
	k := &s.ksm
	k.mmlist.Lock(t)
	t.WriteOf(k, "ksm_mmlist")
	slot := k.head.next
	k.moveTo(slot)
	k.mmlist.Unlock(t)
	for slot != &k.head {
		m := slot.mm
		m.MmapSem.DownRead(t)
		var err error
		for v := m.firstVMAOf(t); v != nil && err == nil && !m.ksmTestExit(t); v = m.nextVMA(v) {
			if v.Flags&VMMergeable != 0 && v.seeAnonVMA(t) != nil {
				err = s.unmergeKSMPages(t, v, v.Start, v.End)
			}
		}
		if err != nil {
			m.MmapSem.UpRead(t)
			k.mmlist.Lock(t)
			t.WriteOf(k, "ksm_mmlist")
			k.moveTo(&k.head)
			k.mmlist.Unlock(t)
			return err
		}
		k.dropTrailing(t, &slot.items)
		k.mmlist.Lock(t)
		t.WriteOf(k, "ksm_mmlist")
		next := slot.next
		k.moveTo(next)
		gone := m.ksmTestExit(t)
		if gone {
			k.unlink(slot)
		}
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
	k.scan.seq.Poke(0)
	return nil
}

// firstVMAOf is firstVMA of an address space that may have ended.
func (m *MM) firstVMAOf(t *sched.Task) *VMA {
	if m.ksmTestExit(t) {
		return nil
	}
	return m.firstVMA()
}

// DropKSM lets go of what KSM keeps of address spaces that have ended, as ksmd would in its next
// pass: for the end of a machine, before Leaks. What others have merged is broken up.
func (s *System) DropKSM(t *sched.Task) {
	k := &s.ksm
	if !k.on {
		return
	}
	k.thread.DownWrite(t)
	if err := s.unmergeAndRemoveAll(t); err != nil {
		t.Warn("ksm: %v", err)
	}
	k.thread.UpWrite(t)
}
