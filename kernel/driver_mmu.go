package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// A driver whose device has page tables of its own, filled from the process's as the
// device needs them and kept right by an mmu notifier; no page is pinned. That is how the GRU
// (Linux 2.6.29 drivers/misc/sgi-gru) works, and virtual machines (virt/kvm/kvm_main.c), whose
// way of filling an entry this is:
//
//	device                                    whoever changes the process's ptes
//	seq, as it is now                         invalidate_range_start: count up, entries out
//	get_user_pages                            ... ptes change, pages go ...
//	lock; count is 0 and seq the same?        invalidate_range_end: seq up, count down
//	  entry in; unlock; put_page
//	  else: again

// DeviceMap is memory that a device has mapped through its own page table. It must be given
// back with UnmapDevice; the end of the process empties it.
type DeviceMap struct {
	m        *Machine // immutable
	space    *mm.MM   // immutable
	addr     uint64   // page aligned; immutable
	len      uint64   // immutable
	notifier mm.MMUNotifier

	lock  lock.SpinLock  // mmu_lock: the device uses an entry under it, so an entry that is out is not in use
	table []secondary    // by page; protected by lock
	seq   uint64         // invalidations that are over; protected by lock
	count x86.Word32     // invalidations under way; written under lock
	idle  lock.WaitQueue // for count to become zero
	gone  bool           // the address space ends; protected by lock
	given bool           // back, by UnmapDevice; protected by lock
}

// secondary is an entry of the device's page table; p is nil if there is none.
type secondary struct {
	p     *page.Page
	write bool
}

// MapDevice lets a device use length bytes of the process's memory at addr, a multiple of
// the page size, from now on until UnmapDevice, whatever is mapped there. The system call is the
// driver's ioctl. Errors: EINVAL (not a range of user space), EINTR.
func (t *Thread) MapDevice(addr, length uint64) (*DeviceMap, error) {
	task := t.enter(SysIoctl, addr, length)
	d := &DeviceMap{m: t.m, space: t.p.space, addr: addr, len: length}
	err := error(unix.EINVAL)
	if addr&^x86.PageMask == 0 && length > 0 && length <= x86.TaskSize && addr <= x86.TaskSize-length {
		d.table = make([]secondary, (length+x86.PageSize-1)>>x86.PageShift)
		d.lock.Init(t.m.sched, lock.MMULock)
		d.idle.Init(t.m.sched)
		d.notifier = mm.MMUNotifier{
			Release: d.release, ClearFlushYoung: d.clearFlushYoung, ChangePTE: d.changePTE,
			InvalidatePage: d.invalidatePage, InvalidateRangeStart: d.rangeStart, InvalidateRangeEnd: d.rangeEnd,
		}
		err = mm.MMUNotifierRegister(task, d.space, &d.notifier)
	}
	t.leave(SysIoctl, result(0, err))
	if err != nil {
		return nil, err
	}
	return d, nil
}

// UnmapDevice takes the memory from the device. Any thread of any process may call it, also
// after the end of the one whose memory it was. Twice is EINVAL.
func (t *Thread) UnmapDevice(d *DeviceMap) error {
	task := t.enter(SysIoctl, d.addr, d.len)
	d.lock.Lock(task)
	again := d.given
	d.given = true
	d.lock.Unlock(task)
	err := error(unix.EINVAL)
	if !again {
		mm.MMUNotifierUnregister(task, d.space, &d.notifier)
		err = nil
	}
	t.leave(SysIoctl, result(0, err))
	return err
}

// MappedWrite has the device write data, off bytes from the start of the memory, through its
// page table: 512 bytes at a time, each a step. EINVAL if that is not within the memory, EIO for a
// thread that does not have it (the driver asks get_user_pages for the caller's), EFAULT if
// nothing is mapped there, or not with the permission, or if the memory was given back.
func (t *Thread) MappedWrite(d *DeviceMap, off uint64, data []byte) error {
	return t.mappedDMA(d, off, data, x86.OpDMAWrite)
}

// MappedRead is the other direction.
func (t *Thread) MappedRead(d *DeviceMap, off uint64, buf []byte) error {
	return t.mappedDMA(d, off, buf, x86.OpDMARead)
}

func (t *Thread) mappedDMA(d *DeviceMap, off uint64, buf []byte, op x86.Op) error {
	task := t.enter(SysIoctl, d.addr+off, uint64(len(buf)))
	var err error
	switch n := uint64(len(buf)); {
	case n > d.len || off > d.len-n:
		err = unix.EINVAL
	case t.p.space != d.space:
		err = unix.EIO
	}
	for len(buf) > 0 && err == nil {
		k := min(uint64(len(buf)), x86.SectorSize-off%x86.SectorSize)
		if err = d.access(task, off, buf[:k], op); err == nil {
			buf, off = buf[k:], off+k
		}
	}
	t.leave(SysIoctl, result(0, err))
	return err
}

// access moves one chunk, after as many faults of the device as it takes.
func (d *DeviceMap) access(task *sched.Task, off uint64, chunk []byte, op x86.Op) error {
	write := op == x86.OpDMAWrite
	for {
		d.lock.Lock(task)
		if d.gone || d.given {
			d.lock.Unlock(task)
			return unix.EFAULT
		}
		seq := d.seq
		if e := d.table[off>>x86.PageShift]; e.p != nil && (e.write || !write) {
			d.m.dma(task, e.p, off&^x86.PageMask, chunk, op)
			d.lock.Unlock(task)
			return nil
		}
		d.lock.Unlock(task)
		if err := d.fault(task, off&x86.PageMask, write, seq); err != nil {
			return err
		}
		task.CondResched()
	}
}

// fault fills the entry for the page at off, unless something has been invalidated since seq
// was read, or is being. It waits for the latter to be over.
func (d *DeviceMap) fault(task *sched.Task, off uint64, write bool, seq uint64) error {
	s := d.m.sys
	var pages [1]*page.Page
	flags := mm.GUPFlags(0)
	if write {
		flags = mm.GUPWrite
	}
	d.space.MmapSem.DownRead(task)
	_, err := mm.GetUserPages(task, d.space, d.addr+off, 1, flags, mm.PinGet, pages[:])
	d.space.MmapSem.UpRead(task)
	if err != nil {
		return err
	}
	d.lock.Lock(task)
	busy := d.count.Peek() != 0
	if !busy && d.seq == seq && !d.gone {
		d.table[off>>x86.PageShift] = secondary{p: pages[0], write: write}
	}
	d.lock.Unlock(task)
	s.PutUserPage(task, pages[0], mm.PinGet)
	if busy {
		d.idle.WaitEvent(task, func() bool {
			task.C.Touch(d.countObj(), x86.AccRead)
			return d.count.Peek() == 0
		})
	}
	return nil
}

// drop empties the entries for [start, end), and reports whether there were any. d.lock is held.
func (d *DeviceMap) drop(start, end uint64) (any bool) {
	start, end = max(start, d.addr), min(end, d.addr+uint64(len(d.table))<<x86.PageShift)
	for ; start < end; start += x86.PageSize {
		e := &d.table[(start-d.addr)>>x86.PageShift]
		any = any || e.p != nil
		*e = secondary{}
	}
	return any
}

func (d *DeviceMap) release(t *sched.Task, _ *mm.MM) {
	d.lock.Lock(t)
	d.gone = true
	d.drop(0, ^uint64(0))
	d.lock.Unlock(t)
}

// clearFlushYoung drops the entry: the device keeps no accessed bit.
func (d *DeviceMap) clearFlushYoung(t *sched.Task, _ *mm.MM, addr uint64) bool {
	d.lock.Lock(t)
	young := d.drop(addr, addr+x86.PageSize)
	d.lock.Unlock(t)
	return young
}

// changePTE has the device follow the process to another page, or to less permission.
func (d *DeviceMap) changePTE(t *sched.Task, _ *mm.MM, addr uint64, e x86.PTE) {
	d.lock.Lock(t)
	d.seq++
	if d.drop(addr, addr+x86.PageSize) {
		d.table[(addr-d.addr)>>x86.PageShift] = secondary{p: d.m.pages.Page(e.PFN()), write: e.Write()}
	}
	d.lock.Unlock(t)
}

func (d *DeviceMap) invalidatePage(t *sched.Task, _ *mm.MM, addr uint64) {
	d.lock.Lock(t)
	d.seq++
	d.drop(addr, addr+x86.PageSize)
	d.lock.Unlock(t)
}

func (d *DeviceMap) rangeStart(t *sched.Task, _ *mm.MM, start, end uint64) {
	d.lock.Lock(t)
	t.C.Touch(d.countObj(), x86.AccAdd)
	d.count.RawAdd(1)
	d.drop(start, end)
	d.lock.Unlock(t)
}

func (d *DeviceMap) rangeEnd(t *sched.Task, _ *mm.MM, _, _ uint64) {
	d.lock.Lock(t)
	d.seq++
	t.C.Touch(d.countObj(), x86.AccAdd)
	n := d.count.RawAdd(-1)
	d.lock.Unlock(t)
	switch {
	case n < 0:
		t.Oops("mmu notifier: more ends of invalidations than starts")
	case n == 0 && d.idle.Active(t.C):
		d.idle.Wake(t)
	}
}

// countObj names count, which who waits for idle looks at without the lock.
func (d *DeviceMap) countObj() x86.ObjID { return d.idle.Obj() | 1<<40 }
