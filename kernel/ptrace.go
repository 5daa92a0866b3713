package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Debuggers: what ptrace and its relatives do to another process's memory. There is no
// attaching and no stopping: the other process runs on meanwhile, as under /proc/PID/mem
// of a tracee whose other threads run.

// PtracePeek reads the word at addr of another process's memory: PTRACE_PEEKDATA.
// Protections of the mapping do not count. Errors: ESRCH (no such process, or its
// memory has gone), EPERM (a process that is neither an ancestor nor was made by Fork),
// EIO (not mapped).
func (t *Thread) PtracePeek(pid int, addr uint64) (uint64, error) {
	var b [8]byte
	err := t.withTracee(SysPtrace, pid, addr, func(task *sched.Task, m *mm.MM) error {
		if t.m.sys.AccessProcessVM(task, m, addr, b[:], false /* write */) != len(b) {
			return unix.EIO
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// PtracePoke writes the word at addr of another process's memory: PTRACE_POKEDATA. A
// mapping that is read-only gets a page of its own: a private one, and, as 2.6.29 has it, a
// shared one that could be made writable, which is shared no more there, with small pages and
// huge ones alike (finding 41). Errors as PtracePeek, EIO also for a shared mapping of a
// file that was opened for reading only (VM_MAYWRITE is not set).
func (t *Thread) PtracePoke(pid int, addr, word uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, word)
	return t.withTracee(SysPtrace, pid, addr, func(task *sched.Task, m *mm.MM) error {
		if t.m.sys.AccessProcessVM(task, m, addr, b, true /* write */) != len(b) {
			return unix.EIO
		}
		return nil
	})
}

// ProcessVMReadv copies from another process's memory at addr into buf, and returns how
// much it could: process_vm_readv of Linux 3.2 with one range. buf is not emulated memory.
// Errors: ESRCH and EPERM as PtracePeek, EFAULT if nothing could be copied.
func (t *Thread) ProcessVMReadv(pid int, addr uint64, buf []byte) (int, error) {
	return t.processVM(SysProcessVMReadv, pid, addr, buf, false /* write */)
}

// ProcessVMWritev is ProcessVMReadv in the other direction.
func (t *Thread) ProcessVMWritev(pid int, addr uint64, buf []byte) (int, error) {
	return t.processVM(SysProcessVMWritev, pid, addr, buf, true /* write */)
}

func (t *Thread) processVM(nr Sysno, pid int, addr uint64, buf []byte, write bool) (n int, err error) {
	err = t.withTracee(nr, pid, addr, func(task *sched.Task, m *mm.MM) error {
		if n = t.m.sys.ReadProcessVM(task, m, addr, buf, write); n == 0 && len(buf) > 0 {
			return unix.EFAULT
		}
		return nil
	})
	return n, err
}

// withTracee runs a system call on another process's address space.
func (t *Thread) withTracee(nr Sysno, pid int, arg uint64, fn func(task *sched.Task, m *mm.MM) error) error {
	task := t.enter(nr, uint64(pid), arg)
	m, err := t.getTaskMM(task, pid)
	if err == nil {
		err = fn(task, m)
		m.MMPut(task)
	}
	t.leave(nr, result(0, err))
	return err
}

// getTaskMM returns a process's address space with a user for the caller
// (get_task_mm). A process that has a thread which has not begun to end has one; a process
// made from outside may be about to get its first.
func (t *Thread) getTaskMM(task *sched.Task, pid int) (*mm.MM, error) {
	m := t.m
	m.tasklist.Lock(task)
	p := m.findLocked(pid)
	var space *mm.MM
	err := error(unix.ESRCH)
	if p != nil && p.state == procRunning && p.live > 0 {
		err = unix.EPERM
		if !p.started || p.ancestorOfLocked(t.p) {
			if space = p.space; space != nil {
				space.MMGet(task)
				err = nil
			}
		}
	}
	m.tasklist.Unlock(task)
	return space, err
}

// ancestorOfLocked reports whether o descends from p, or is p.
func (p *Process) ancestorOfLocked(o *Process) bool {
	for ; o != nil; o = o.parent {
		if o == p {
			return true
		}
	}
	return false
}
