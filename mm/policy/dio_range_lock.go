package policy

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// DIORangeLock is row 11: KAMEZAWA Hiroyuki's patch of January 2009 for Red Hat's 2.6.18,
// posted on 17 March 2009 (thread lines 7189-7679); that kernel had no gup-fast. Here it
// stands on 2.6.29.
//
// Direct I/O enters its user ranges into a table of the address space. A COW that would
// copy a page of such a range lets go of everything and has the fault tried again, until
// the I/O is over. A COW that goes on is counted, and new I/O waits until there is none;
// after a conflict it waits ten ticks besides, so that the fault gets a chance.
//
// Two lines keep it from doing that, and both are here. direct_io_worker clears dio->locks,
// where __blockdev_direct_IO, which calls it, has just put the entries: no entry is ever
// taken out again, every later COW in a range that was once read or written directly is
// retried for ever, and each entry keeps a reference on mm_users, so that the memory of the
// process outlives it. And the begin of a range is rounded up to a page instead of down: a
// buffer that begins inside a page leaves this page unprotected. A third is only seen in
// the fixed row: an entry that a signal keeps from being made is unlocked all the same;
// there the request fails with EINTR.
//
// What is not repaired: the look-up of a direct read is a COW in the read's own range, if
// another process shares the memory, and is retried for as long as it does; mmput is called in the completion's interrupt, where it must not be
// the last; and the hugetlb half passes a size for the end of the range, so that it never
// finds a conflict. And dio_lock looks at cows once more without its lock: a COW that gives up in
// between wakes nobody (docs/findings.md, 42).
type DIORangeLock struct {
	mm.Stock
	// initInOrder clears dio->locks before the entries are made; roundDown rounds the begin
	// of a range down. Both make the row dio_range_lock_fixed.
	initInOrder, roundDown bool
	// noRetry lets every COW go on: the deciding line, for mutants.
	noRetry bool
}

// DIORangeLockFixed is the row dio_range_lock_fixed.
func DIORangeLockFixed() DIORangeLock { return DIORangeLock{initInOrder: true, roundDown: true} }

// Name implements mm.Policy.
func (p DIORangeLock) Name() string {
	if p.initInOrder && p.roundDown {
		return "dio_range_lock_fixed"
	}
	return "dio_range_lock"
}

// Hooks implements mm.Policy.
func (DIORangeLock) Hooks() mm.HookSet { return mm.HookMM | mm.HookPin | mm.HookWP }

// Claims implements mm.Policy.
func (DIORangeLock) Claims() mm.Guarantee { return mm.Forward | mm.Reverse | mm.AIO }

// About implements mm.Policy.
func (p DIORangeLock) About() mm.About {
	a := mm.About{
		Row: 11, Title: "a COW of memory under direct I/O is tried again until the I/O is over",
		Who: "KAMEZAWA Hiroyuki", When: "January 2009, posted 17 March 2009", Lines: "7170-7679",
		Changes: []string{
			"fork: nothing; the child begins with an empty table",
			"direct I/O: enters the range of each buffer before it begins, and waits while a COW is under way or ten ticks after a conflict",
			"COW fault: if the page is in a range, lets go of everything and retries the fault; else counts itself until it is over; hugetlb too",
			"direct I/O: takes its ranges out when it has been completed, asynchronous or not",
		},
		Claims: "both directions of the race for O_DIRECT, asynchronous I/O and huge pages included",
		Open:   "the ranges are never taken out, so that faults are retried for ever and address spaces never go; a direct read into memory that a child shares waits for itself; the page in which a buffer begins is not covered; the conflict test for huge pages cannot succeed (docs/findings.md); other users of get_user_pages",
	}
	if p.initInOrder && p.roundDown {
		a.Title = "row 11 with its ranges taken out again, and rounded outwards"
		a.Changes = append(a.Changes, "fixed: dio->locks is cleared before the entries are made, the begin of a range is rounded down, a signal while waiting ends the request with EINTR")
		a.Open = "a direct read into memory that a child shares never returns, because its look-up is a COW in its own range (docs/findings.md); the child sees what the device writes; a thread that stores spins through faults for as long as the I/O takes; mmput in the completion's interrupt; huge pages; other users of get_user_pages"
	}
	return a
}

// dioLockHead is struct dio_lock_head.
type dioLockHead struct {
	lock  lock.SpinLock
	dios  []dioLockEnt   // protected by lock
	waitq lock.WaitQueue // a COW has ended, or a range was taken out
	obj   x86.ObjID      // names the words below; immutable
	// needDIOCheck is set once, under mmap_sem for writing. The counts change under lock
	// (conflicts also without) and are looked at without.
	needDIOCheck, cows, conflicts x86.Word32
}

// dioLockEnt is struct dio_lock_ent.
type dioLockEnt struct {
	u          *mm.PinUser
	start, end uint64
}

func dioLocks(m *mm.MM) *dioLockHead { return m.PolicyData.(*dioLockHead) }

// MMInit is dio_lock_init.
func (DIORangeLock) MMInit(t *sched.Task, m *mm.MM) {
	h := &dioLockHead{obj: t.M.NewObj(x86.ClassWord)}
	h.lock.Init(t.M, lock.PolicyLeaf)
	h.waitq.Init(t.M)
	m.PolicyData = h
}

// MMExit is dio_lock_free.
func (DIORangeLock) MMExit(t *sched.Task, m *mm.MM) {
	if len(dioLocks(m).dios) != 0 {
		t.Oops("dio_range_lock: address space %d goes with direct I/O in flight", m.ID)
	}
}

// PinBegin is dio_protect_all. There it is called before i_mutex is taken, and if it gets no
// memory for the entries the request fails and its struct dio is lost.
func (p DIORangeLock) PinBegin(u *mm.PinUser) error {
	if u.Kind != mm.UserDirectIO {
		return nil
	}
	if u.MM.Sys.Pages.FailSite(u.T, "dio_protect_all") {
		return unix.ENOMEM
	}
	for _, r := range u.Ranges {
		if err := p.dioLock(u, r.Addr, r.Addr+r.Len); err != nil && p.initInOrder {
			p.unlockAll(u.T, u)
			return err
		}
	}
	return nil
}

// dioLockTicks is how long new I/O waits after a conflict: ten ticks of 2.6.18's default HZ.
const dioLockTicks = 10 * 4_000_000

// dioLock is dio_lock.
func (p DIORangeLock) dioLock(u *mm.PinUser, start, end uint64) error {
	t, h := u.T, dioLocks(u.MM)
	for {
		if t.SignalPending() {
			return unix.EINTR
		}
		if h.needDIOCheck.Load(t.C, h.obj) == 0 {
			u.MM.MmapSem.DownWrite(t)
			h.needDIOCheck.Store(t.C, h.obj, 1)
			u.MM.MmapSem.UpWrite(t)
		}
		h.waitq.Prepare(t, sched.TaskInterruptible)
		off := h.lock.LockIRQSave(t)
		t.C.Touch(h.obj, x86.AccRead) // conflicts changes without the lock, too
		if h.cows.Peek() == 0 && h.conflicts.Peek() == 0 {
			break
		}
		h.lock.UnlockIRQRestore(t, off)
		t.C.Trace.Inc(trace.EmuPolicyWaits)
		if h.cows.Load(t.C, h.obj) != 0 {
			t.Schedule()
		} else {
			tm := t.StartTimer(dioLockTicks)
			t.Schedule()
			tm.Cancel()
			h.conflicts.Store(t.C, h.obj, 0)
		}
		h.waitq.Finish(t)
	}
	from := pageAlign(start)
	if p.roundDown {
		from = start & x86.PageMask
	}
	h.dios = append(h.dios, dioLockEnt{u, from, pageAlign(end) + x86.PageSize})
	u.MM.MMGet(t)
	h.lock.UnlockIRQRestore(t, false)
	h.waitq.Finish(t)
	return nil
}

// pageAlign is PAGE_ALIGN: upwards.
func pageAlign(addr uint64) uint64 { return (addr + x86.PageSize - 1) & x86.PageMask }

// PinReleased implements mm.Policy: dio_release_all_protection, behind aio_complete.
// dio->locks is nil there.
func (p DIORangeLock) PinReleased(t *sched.Task, u *mm.PinUser) {
	if p.initInOrder {
		p.unlockAll(t, u)
	}
}

// unlockAll is the loop of dio_release_all_protection.
func (DIORangeLock) unlockAll(t *sched.Task, u *mm.PinUser) {
	m := u.MM
	for range u.Ranges {
		if !dioUnlock(t, m, u) {
			return // the request failed before it had entered them all
		}
		if t.PreemptDisabled() {
			m.MMPutAtomic(t)
		} else {
			m.MMPut(t)
		}
	}
}

// dioUnlock is dio_unlock but for its mmput: it takes the first entry of the request out. It
// reports whether there was one.
func dioUnlock(t *sched.Task, m *mm.MM, u *mm.PinUser) bool {
	h := dioLocks(m)
	off := h.lock.LockIRQSave(t)
	i := slices.IndexFunc(h.dios, func(e dioLockEnt) bool { return e.u == u })
	if i >= 0 {
		h.dios = slices.Delete(h.dios, i, i+1)
		h.waitq.Wake(t)
	}
	h.lock.UnlockIRQRestore(t, off)
	return i >= 0
}

// cowStart is mm_cow_start; false means that the fault is to be retried.
func (p DIORangeLock) cowStart(t *sched.Task, m *mm.MM, start, end uint64) bool {
	h := dioLocks(m)
	if h.needDIOCheck.Load(t.C, h.obj) == 0 {
		return true
	}
	h.lock.LockIRQ(t)
	h.cows.Add(t.C, h.obj, 1)
	for _, e := range h.dios {
		if start < e.end && end > e.start && !p.noRetry {
			h.cows.Add(t.C, h.obj, -1)
			h.conflicts.Add(t.C, h.obj, 1)
			h.lock.UnlockIRQ(t)
			t.C.Trace.Inc(trace.EmuPolicyOverrides)
			return false
		}
	}
	h.lock.UnlockIRQ(t)
	return true
}

// cowEnd is mm_cow_end.
func (DIORangeLock) cowEnd(t *sched.Task, m *mm.MM) {
	h := dioLocks(m)
	if h.needDIOCheck.Load(t.C, h.obj) == 0 {
		return
	}
	h.lock.LockIRQ(t)
	if h.cows.AddReturn(t.C, h.obj, -1) == 0 {
		h.conflicts.Store(t.C, h.obj, 0)
		h.waitq.Wake(t)
	}
	h.lock.UnlockIRQ(t)
}

// WPCopy is do_wp_page and hugetlb_cow between the allocation of the new page and the copy.
// hugetlb_cow's second argument is HPAGE_SIZE, where mm_cow_start wants an end: a range above
// 2 MiB never conflicts.
func (p DIORangeLock) WPCopy(f *mm.Fault) mm.WPNext {
	start, end := f.Addr, f.Addr+x86.PageSize
	if size := f.Size(); size != x86.PageSize {
		start, end = f.Addr&^(size-1), size
	}
	if !p.cowStart(f.T, f.MM, start, end) {
		return mm.WPRetry
	}
	return mm.WPCopyPage
}

// WPDone is the end of do_wp_page's and hugetlb_cow's copy. It is called only behind a WPCopy
// that went on: the patch's dio_stop.
func (p DIORangeLock) WPDone(f *mm.Fault) { p.cowEnd(f.T, f.MM) }
