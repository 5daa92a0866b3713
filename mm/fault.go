package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// SigInfo is the signal that a fault ends in: siginfo_t's part of it.
type SigInfo struct {
	Signo unix.Signal
	// Code is si_code.
	Code int
	// Addr is the address of the access, si_addr.
	Addr uint64
}

// The values of SigInfo.Code.
const (
	SegvMapErr = 1    // nothing is mapped there
	SegvAccErr = 2    // what is mapped does not permit the access
	BusAdrErr  = 2    // there is nothing behind the mapping
	SiKernel   = 0x80 // killed for want of memory
)

// DoPageFault resolves a fault at addr that the processor raised with code ec in
// address space m, which is the task's own. If it cannot, ok is false and sig is
// what becomes of the access: SIGSEGV, SIGBUS, or SIGKILL where memory ran out. If it
// can, the access is tried again, and may fault again. Linux 2.6.29
// arch/x86/mm/fault.c:do_page_fault.
//
//	VMA at addr?   none, or below a stack ............ SIGSEGV, MAPERR
//	               below a stack that may grow ....... expand_stack
//	permission?    write without VM_WRITE, anything
//	               in a VMA without any permission ... SIGSEGV, ACCERR
//	handle_mm_fault: no memory ....................... SIGKILL
//	                 nothing there ................... SIGBUS
//
// Two things differ. Linux has the OOM killer choose a victim and takes the fault
// again; here the task itself dies. And there is no stack pointer to compare with, so
// an access any distance below a stack makes it grow.
//
// Preconditions:
//   - the task may sleep and does not hold mmap_sem
func DoPageFault(t *sched.Task, m *MM, addr uint64, ec x86.FaultCode) (sig SigInfo, ok bool) {
	user := t.User
	t.User = false
	t.C.Charge(t.C.Cost.Trap)
	if !user {
		t.C.Trace.Inc(trace.EmuFaultsKernelMode)
	}
	t.C.Trace.Event(trace.EvFaultEnter, t.C.Now(), addr, uint64(ec), 0)
	sig, ret := doPageFault(t, m, addr, ec)
	t.C.Trace.Event(trace.EvFaultExit, t.C.Now(), addr, uint64(ec), uint64(ret))
	t.Progress()
	t.User = user
	return sig, sig.Signo == 0
}

func doPageFault(t *sched.Task, m *MM, addr uint64, ec x86.FaultCode) (SigInfo, VMFault) {
	if addr >= x86.TaskSize || m == nil {
		return SigInfo{unix.SIGSEGV, SegvMapErr, addr}, VMFaultSigbus
	}
	m.MmapSem.DownRead(t)
	v := m.findVMA(t, addr)
	if v != nil {
		t.ReadOf(v, "vma.flags")
	}
	if v == nil || v.Start > addr && (v.Flags&VMGrowsDown == 0 || expandStack(t, v, addr) != nil) {
		m.MmapSem.UpRead(t)
		return SigInfo{unix.SIGSEGV, SegvMapErr, addr}, VMFaultSigbus
	}
	if !permits(v.Flags, ec) {
		m.MmapSem.UpRead(t)
		return SigInfo{unix.SIGSEGV, SegvAccErr, addr}, VMFaultSigbus
	}
	ret := HandleMMFault(t, v, addr, ec&x86.FaultWrite != 0)
	m.MmapSem.UpRead(t)
	switch {
	case ret&VMFaultOOM != 0:
		return SigInfo{unix.SIGKILL, SiKernel, addr}, ret
	case ret&VMFaultSigbus != 0:
		return SigInfo{unix.SIGBUS, BusAdrErr, addr}, ret
	}
	return SigInfo{}, ret
}

// permits reports whether a VMA with these flags allows the access that faulted. A
// read of a page that was present is never allowed: the entry itself forbade it.
func permits(flags VMFlags, ec x86.FaultCode) bool {
	switch {
	case ec&x86.FaultWrite != 0:
		return flags&VMWrite != 0
	case ec&x86.FaultProt != 0:
		return false
	}
	return flags&(VMRead|VMExec|VMWrite) != 0
}
