package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// A driver that registers user memory once and has its device read and write it much
// later, as InfiniBand's does, or a graphics card's. What it has from the registration
// are physical pages; the process's page tables are never looked at again. Linux
// 2.6.29 drivers/infiniband/core/umem.c.

// RegisterOptions say how memory is registered. The zero value is a registration for a
// device that only reads, by get_user_pages.
type RegisterOptions struct {
	// Write is set if the device writes to the memory.
	Write bool
	// Fast takes get_user_pages_fast.
	Fast bool
	// Umem takes what ib_umem_get takes: get_user_pages for writing whatever the device
	// does, and with force if it only reads. Linux holds mmap_sem for writing
	// meanwhile; here it is held for reading, as policies expect. Not with Fast.
	Umem bool
	// Kind is what kind of reference is taken. Drivers of 2.6.29 know only mm.PinGet.
	Kind mm.PinKind
}

// Registration is memory that a driver has registered. It must be given back with
// UnregisterMemory, by any thread of any process; the end of the process does not.
type Registration struct {
	addr  uint64          // immutable
	len   uint64          // immutable
	opts  RegisterOptions // immutable
	pages []*page.Page    // immutable until it is given back
	pin   mm.PinUser
}

// Pages returns the pages that are registered, in order of address.
func (r *Registration) Pages() []*page.Page { return r.pages }

// RegisterMemory pins length bytes of the process's memory at addr for a device. The
// system call is the driver's ioctl. Errors: EINVAL (no length, not in user space), EFAULT
// (part of it is not mapped, or not with the permission needed), ENOMEM, EINTR, and what
// the policy's PinBegin says.
func (t *Thread) RegisterMemory(addr, length uint64, o RegisterOptions) (*Registration, error) {
	task := t.enter(SysIoctl, addr, length)
	r := &Registration{addr: addr, len: length, opts: o}
	err := error(unix.EINVAL)
	if length > 0 && length <= x86.TaskSize && addr <= x86.TaskSize-length {
		err = t.pinMemory(task, r)
	}
	t.leave(SysIoctl, result(0, err))
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (t *Thread) pinMemory(task *sched.Task, r *Registration) error {
	s, m, o := t.m.sys, t.p.space, r.opts
	if s.Pages.FailSite(task, "driver_pages") {
		return unix.ENOMEM
	}
	n := int((r.addr&^x86.PageMask + r.len + x86.PageSize - 1) >> x86.PageShift)
	r.pin = mm.PinUser{T: task, MM: m, Kind: mm.UserDriver, Write: o.Write, Async: true, Ranges: []mm.Range{{Addr: r.addr, Len: r.len}}}
	if err := s.PinBegin(&r.pin); err != nil {
		return err
	}
	pages := make([]*page.Page, n)
	got := 0
	for got < n {
		at := r.addr&x86.PageMask + uint64(got)<<x86.PageShift
		var k int
		var err error
		if o.Fast {
			k, err = mm.GetUserPagesFast(task, at, n-got, o.Write, o.Kind, pages[got:])
		} else {
			var flags mm.GUPFlags
			if o.Write || o.Umem {
				flags = mm.GUPWrite
			}
			if o.Umem && !o.Write {
				flags |= mm.GUPForce
			}
			m.MmapSem.DownRead(task)
			k, err = mm.GetUserPages(task, m, at, n-got, flags, o.Kind, pages[got:])
			m.MmapSem.UpRead(task)
		}
		if k == 0 {
			s.PutUserPages(task, pages[:got], o.Kind)
			s.PinEnd(task, &r.pin)
			return err
		}
		got += k
	}
	r.pages = pages
	task.C.Trace.Add(trace.EmuDriverPages, uint64(n))
	return nil
}

// UnregisterMemory gives the pages back: they are marked dirty if the device may have
// written to them, and put. Twice is EINVAL.
func (t *Thread) UnregisterMemory(r *Registration) error {
	task := t.enter(SysIoctl, r.addr, r.len)
	err := error(unix.EINVAL)
	if r.pages != nil {
		s := t.m.sys
		for _, p := range r.pages {
			if r.opts.Write || r.opts.Umem {
				s.SetPageDirtyLock(task, p)
			}
			s.PutUserPage(task, p, r.opts.Kind)
		}
		r.pages = nil
		s.PinEnd(task, &r.pin)
		err = nil
	}
	t.leave(SysIoctl, result(0, err))
	return err
}

// DeviceWrite has the device write data to registered memory, off bytes from its start:
// 512 bytes at a time, each a step, whoever owns the pages now. It returns when the device
// is done. EINVAL if that is not within the registration.
func (t *Thread) DeviceWrite(r *Registration, off uint64, data []byte) error {
	return t.deviceDMA(r, off, data, x86.OpDMAWrite)
}

// DeviceRead is the other direction: it has the device read into buf.
func (t *Thread) DeviceRead(r *Registration, off uint64, buf []byte) error {
	return t.deviceDMA(r, off, buf, x86.OpDMARead)
}

func (t *Thread) deviceDMA(r *Registration, off uint64, buf []byte, op x86.Op) error {
	task := t.enter(SysIoctl, r.addr+off, uint64(len(buf)))
	err := error(unix.EINVAL)
	if n := uint64(len(buf)); r.pages != nil && n <= r.len && off <= r.len-n {
		err = nil
		for at := r.addr&^x86.PageMask + off; len(buf) > 0; {
			k := min(uint64(len(buf)), x86.SectorSize-at%x86.SectorSize)
			t.m.dma(task, r.pages[at>>x86.PageShift], at&^x86.PageMask, buf[:k], op)
			buf, at = buf[k:], at+k
		}
	}
	t.leave(SysIoctl, result(0, err))
	return err
}

// dma moves one chunk between a page and the device, as blk does.
func (m *Machine) dma(task *sched.Task, p *page.Page, off uint64, chunk []byte, op x86.Op) {
	pfn := m.pages.PFN(p)
	task.Point(op, x86.FrameObj(pfn, off))
	tr := task.C.Trace
	if m.pages.Head(p).Count.Peek() == 0 {
		tr.Inc(trace.EmuDMAFreed)
	}
	tr.Inc(trace.EmuDMAChunks)
	tr.Add(trace.EmuDMABytes, uint64(len(chunk)))
	dir := uint64(trace.DMAToMemory)
	if op == x86.OpDMARead {
		dir = trace.DMAFromMemory
		m.mem.DMARead(pfn, off, chunk)
	} else {
		m.mem.DMAWrite(pfn, off, chunk)
	}
	tr.Event(trace.EvDMA, task.C.Now(), uint64(pfn), off, dir)
}
