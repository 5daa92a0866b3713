package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Another process's memory: ptrace, /proc/PID/mem. Linux 2.6.29
// mm/memory.c:access_process_vm.
//
//	for each page:  get_user_pages, force     a reference, no look at the owner's TLBs
//	                copy                      by the kernel's own mapping of the frame
//	                set_page_dirty_lock       if written
//	                put_page
//
// A debugger that only looks takes the page as it is: shared pages stay shared. One
// that writes breaks COW first, as the owner's own store would, and "force" lets it
// write where the owner may not: into a private read-only mapping, which gets a page of
// its own that stays read-only.

// PinBegin tells the policy that an operation is about to look up user pages, if it
// wants to know; see Policy.PinBegin.
func (s *System) PinBegin(u *PinUser) error {
	if s.hooks&HookPin == 0 {
		return nil
	}
	return s.policy.PinBegin(u)
}

// PinEnd tells the policy that the operation is over. It may be called in interrupt
// context.
func (s *System) PinEnd(t *sched.Task, u *PinUser) {
	if s.hooks&HookPin != 0 {
		s.policy.PinEnd(t, u)
	}
}

// AccessProcessVM copies between m's memory at addr and buf: into buf, or out of it if
// write is set. It returns how many bytes it copied; that is fewer than len(buf) where
// a page cannot be had, and why is not told. The owner's permissions do not count as
// long as the mapping could be given them.
//
// Preconditions:
//   - the caller has a user of m (get_task_mm) and holds no lock; the task may sleep
func (s *System) AccessProcessVM(t *sched.Task, m *MM, addr uint64, buf []byte, write bool) int {
	flags := GUPForce | GUPInternal
	if write && s.policy.AccessWrite() {
		flags |= GUPWrite
	}
	return s.accessRemote(t, m, addr, buf, write, flags)
}

// ReadProcessVM is AccessProcessVM without force, for reading and for writing: what
// process_vm_readv and process_vm_writev of Linux 3.2 do for one range. The owner's
// permissions count.
//
// Preconditions: as AccessProcessVM
func (s *System) ReadProcessVM(t *sched.Task, m *MM, addr uint64, buf []byte, write bool) int {
	flags := GUPInternal
	if write {
		flags |= GUPWrite
	}
	return s.accessRemote(t, m, addr, buf, write, flags)
}

func (s *System) accessRemote(t *sched.Task, m *MM, addr uint64, buf []byte, write bool, flags GUPFlags) int {
	var user *PinUser
	if s.hooks&HookPin != 0 {
		user = &PinUser{T: t, MM: m, Kind: UserPtrace, Write: write, Ranges: []Range{{addr, uint64(len(buf))}}}
		if s.PinBegin(user) != nil {
			return 0
		}
	}
	done := 0
	var pages [1]*page.Page
	m.MmapSem.DownRead(t)
	for done < len(buf) {
		if n, _ := GetUserPages(t, m, addr, 1, flags, PinGet, pages[:]); n != 1 {
			break
		}
		p := pages[0]
		off := addr &^ x86.PageMask
		part := buf[done:]
		part = part[:min(uint64(len(part)), x86.PageSize-off)]
		pfn := s.Pages.PFN(p)
		if write {
			s.Mem.WriteFrame(t.C, pfn, off, part)
			s.SetPageDirtyLock(t, p)
		} else {
			s.Mem.ReadFrame(t.C, pfn, off, part)
		}
		s.PutUserPage(t, p, PinGet)
		t.C.Trace.Inc(trace.EmuAccessVMPages)
		done += len(part)
		addr += uint64(len(part))
	}
	m.MmapSem.UpRead(t)
	if user != nil {
		s.PinEnd(t, user)
	}
	return done
}
