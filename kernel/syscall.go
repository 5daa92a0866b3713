package kernel

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Sysno is a system call's number on x86-64 Linux.
type Sysno uint16

// The system calls. Linux 2.6.29 arch/x86/include/asm/unistd_64.h; preadv and
// pwritev are of 2.6.30, process_vm_readv and process_vm_writev of 3.2.
const (
	SysRead          Sysno = 0
	SysWrite         Sysno = 1
	SysOpen          Sysno = 2
	SysClose         Sysno = 3
	SysLseek         Sysno = 8
	SysMmap          Sysno = 9
	SysMprotect      Sysno = 10
	SysMunmap        Sysno = 11
	SysBrk           Sysno = 12
	SysRtSigaction   Sysno = 13
	SysRtSigprocmask Sysno = 14
	SysIoctl         Sysno = 16
	SysPread64       Sysno = 17
	SysPwrite64      Sysno = 18
	SysReadv         Sysno = 19
	SysWritev        Sysno = 20
	SysPipe          Sysno = 22
	SysSchedYield    Sysno = 24
	SysMremap        Sysno = 25
	SysMincore       Sysno = 27
	SysMadvise       Sysno = 28
	SysDup           Sysno = 32
	SysNanosleep     Sysno = 35
	SysClone         Sysno = 56
	SysFork          Sysno = 57
	SysVfork         Sysno = 58
	SysExit          Sysno = 60
	SysWait4         Sysno = 61
	SysKill          Sysno = 62
	SysFsync         Sysno = 74
	SysFtruncate     Sysno = 77
	SysUnlink        Sysno = 87
	SysGetrlimit     Sysno = 97
	SysPtrace        Sysno = 101
	SysGetppid       Sysno = 110
	SysMlock         Sysno = 149
	SysMunlock       Sysno = 150
	SysMlockall      Sysno = 151
	SysMunlockall    Sysno = 152
	SysSetrlimit     Sysno = 160
	SysSwapon        Sysno = 167
	SysSwapoff       Sysno = 168
	SysFutex         Sysno = 202
	SysIoSetup       Sysno = 206
	SysIoDestroy     Sysno = 207
	SysIoGetevents   Sysno = 208
	SysIoSubmit      Sysno = 209
	SysRemapFile     Sysno = 216
	SysClockGettime  Sysno = 228
	SysExitGroup     Sysno = 231
	SysTgkill        Sysno = 234
	SysSplice        Sysno = 275
	SysVmsplice      Sysno = 278
	SysPipe2         Sysno = 293
	SysPreadv        Sysno = 295
	SysPwritev       Sysno = 296

	SysProcessVMReadv  Sysno = 310
	SysProcessVMWritev Sysno = 311
)

// String returns the system call's name.
func (n Sysno) String() string {
	switch n {
	case SysRead:
		return "read"
	case SysWrite:
		return "write"
	case SysOpen:
		return "open"
	case SysClose:
		return "close"
	case SysLseek:
		return "lseek"
	case SysMmap:
		return "mmap"
	case SysMprotect:
		return "mprotect"
	case SysMunmap:
		return "munmap"
	case SysBrk:
		return "brk"
	case SysRtSigaction:
		return "rt_sigaction"
	case SysRtSigprocmask:
		return "rt_sigprocmask"
	case SysIoctl:
		return "ioctl"
	case SysPread64:
		return "pread64"
	case SysPwrite64:
		return "pwrite64"
	case SysReadv:
		return "readv"
	case SysWritev:
		return "writev"
	case SysSchedYield:
		return "sched_yield"
	case SysMremap:
		return "mremap"
	case SysMincore:
		return "mincore"
	case SysRemapFile:
		return "remap_file_pages"
	case SysMadvise:
		return "madvise"
	case SysDup:
		return "dup"
	case SysNanosleep:
		return "nanosleep"
	case SysClone:
		return "clone"
	case SysFork:
		return "fork"
	case SysVfork:
		return "vfork"
	case SysExit:
		return "exit"
	case SysWait4:
		return "wait4"
	case SysKill:
		return "kill"
	case SysFtruncate:
		return "ftruncate"
	case SysUnlink:
		return "unlink"
	case SysFsync:
		return "fsync"
	case SysGetppid:
		return "getppid"
	case SysGetrlimit:
		return "getrlimit"
	case SysSetrlimit:
		return "setrlimit"
	case SysMlock:
		return "mlock"
	case SysMunlock:
		return "munlock"
	case SysMlockall:
		return "mlockall"
	case SysMunlockall:
		return "munlockall"
	case SysSwapon:
		return "swapon"
	case SysSwapoff:
		return "swapoff"
	case SysFutex:
		return "futex"
	case SysIoSetup:
		return "io_setup"
	case SysIoDestroy:
		return "io_destroy"
	case SysIoGetevents:
		return "io_getevents"
	case SysIoSubmit:
		return "io_submit"
	case SysClockGettime:
		return "clock_gettime"
	case SysExitGroup:
		return "exit_group"
	case SysTgkill:
		return "tgkill"
	case SysPreadv:
		return "preadv"
	case SysPipe:
		return "pipe"
	case SysPtrace:
		return "ptrace"
	case SysSplice:
		return "splice"
	case SysVmsplice:
		return "vmsplice"
	case SysPipe2:
		return "pipe2"
	case SysProcessVMReadv:
		return "process_vm_readv"
	case SysProcessVMWritev:
		return "process_vm_writev"
	case SysPwritev:
		return "pwritev"
	}
	return "sys_" + strconv.Itoa(int(n))
}

// enter takes the thread from user mode into the kernel. Every system call begins
// with it and ends with leave; there is no deferred leave, because a run that is cut
// short unwinds through the kernel's frames without touching anything.
func (t *Thread) enter(nr Sysno, arg0, arg1 uint64) *sched.Task {
	task := t.task
	t.checkOwner()
	if task.SignalPending() {
		t.takeSignals()
	}
	task.User = false
	c := task.C
	c.Trace.Inc(trace.EmuSyscalls)
	c.Charge(c.Cost.Syscall)
	c.Trace.Event(trace.EvSyscallEnter, c.Now(), uint64(nr), arg0, arg1)
	return task
}

// checkOwner panics if the thread is used on a stack that is not its own, as by a
// child's function that captured its parent's Thread. It finds the mistake only where
// the thread is not on a CPU itself, as while it waits for that child.
func (t *Thread) checkOwner() {
	if c := t.task.C; (c == nil || t.m.sched.Current(c) != t.task) && !t.m.down {
		panic("kernel: a Thread is used by another thread: a function passed to Fork or Go must use its own argument")
	}
}

// leave takes the thread back to user mode: it gives way if somebody else should
// run, and takes signals. ret is the result, or minus the error number. A call that
// achieved something counts as progress for livelock detection.
func (t *Thread) leave(nr Sysno, ret int64) {
	task := t.task
	c := task.C
	c.Trace.Event(trace.EvSyscallExit, c.Now(), uint64(nr), uint64(ret), 0)
	if ret > 0 || ret == 0 && nr != SysSchedYield && nr != SysWait4 && nr != SysIoGetevents {
		task.Progress()
	}
	task.CondResched()
	task.User = true
	if task.SignalPending() {
		t.takeSignals()
	}
}

// result encodes a system call's outcome as the kernel does in a register.
func result(n int64, err error) int64 {
	if err == nil {
		return n
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return -int64(errno)
	}
	return -int64(unix.EIO)
}
