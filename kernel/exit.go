package kernel

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Status is how a process ended, as wait(2) encodes it: a signal number in the
// low seven bits, or an exit code in the next eight.
type Status uint16

// Exited is the status of a process that called exit with the code.
func Exited(code int) Status { return Status(code&0xff) << 8 }

// KilledBy is the status of a process that a signal ended.
func KilledBy(s Signal) Status { return Status(s & 0x7f) }

// Exited reports whether the process ended by exit (WIFEXITED).
func (s Status) Exited() bool { return s&0x7f == 0 }

// ExitCode returns the argument of exit, 0 to 255, or -1 if a signal ended the process
// (WEXITSTATUS).
func (s Status) ExitCode() int {
	if !s.Exited() {
		return -1
	}
	return int(s >> 8)
}

// Signaled reports whether a signal ended the process (WIFSIGNALED).
func (s Status) Signaled() bool { return !s.Exited() }

// Signal returns the signal that ended the process, 0 for none (WTERMSIG).
func (s Status) Signal() Signal { return Signal(s & 0x7f) }

// String prints the status as a shell would.
func (s Status) String() string {
	if s.Signaled() {
		return "killed by " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitCode())
}

// Exit ends the process with all its threads: exit_group(2). The low eight bits of
// the code are what the parent sees. It does not return; deferred functions of the
// user function run, but can no longer act on the machine.
func (t *Thread) Exit(code int) {
	t.enter(SysExitGroup, uint64(code), 0)
	t.groupExit(Exited(code))
	t.unwind()
}

// ExitThread ends the calling thread only: pthread_exit. The process goes on until
// its last thread ends. It does not return.
func (t *Thread) ExitThread() {
	task := t.enter(SysExit, 0, 0)
	// From here on the thread must not act any more, whatever its deferred
	// functions try.
	t.m.sched.Signal(task, task, true /* fatal */)
	t.unwind()
}

// groupExit begins the end of the whole process (do_group_exit); the caller is to
// unwind. The first one to come decides on the status.
func (t *Thread) groupExit(s Status) {
	task, p := t.task, t.p
	off := p.sighand.LockIRQSave(task)
	p.startGroupExitLocked(task, s)
	p.sighand.UnlockIRQRestore(task, off)
}

// startGroupExitLocked marks the process as ending and kills its threads
// (zap_other_threads). by is the running task, of this process or another.
//
// Preconditions:
//   - sighand is held, interrupts are disabled
func (p *Process) startGroupExitLocked(by *sched.Task, s Status) {
	if p.groupExiting {
		return
	}
	p.groupExiting, p.exitStatus = true, s
	for _, th := range p.threads {
		p.m.sched.Signal(by, th.task, true /* fatal */)
	}
}

// doExit takes the thread apart, after its user function has returned or has been
// unwound. Linux 2.6.29 kernel/exit.c:do_exit.
func (t *Thread) doExit() {
	task, m, p := t.task, t.m, t.p
	task.User = false
	m.tasklist.Lock(task)
	p.live--
	last := p.live == 0 // group_dead
	m.tasklist.Unlock(task)

	t.mmRelease(last)
	if last {
		t.exitAIO() // what Linux does in mmput, before the mappings go
		p.space = nil
	}
	mm.ExitMM(task)
	if last {
		p.files.closeAll(task)
	}
	t.exitNotify(last)
}

// mmRelease lets a vfork's parent go on (mm_release): when the last thread ends, and only that
// thread looks whether there is one who waits.
func (t *Thread) mmRelease(last bool) {
	if !last || t.p.vforkDone == nil {
		return
	}
	d := t.p.vforkDone
	t.p.vforkDone = nil
	d.Complete(t.task)
}

// exitNotify makes a process whose last thread has ended a zombie, hands its
// children on and tells its parent (exit_notify). A process whose parent does not
// care is released at once.
func (t *Thread) exitNotify(last bool) {
	task, m, p := t.task, t.m, t.p
	m.tasklist.Lock(task)
	off := p.sighand.LockIRQSave(task)
	p.removeThread(t)
	status := p.exitStatus
	p.sighand.UnlockIRQRestore(task, off)
	t.ended = true
	parent := p.parent
	if last {
		p.status, p.state = status, procZombie
		m.reparentLocked(p)
		if parent == &m.root || parent.ignoresChildren(task) {
			m.releaseLocked(p)
		}
		m.noteExitLocked(p)
		if parent != &m.root {
			// Nobody can reap p before the parent has the signal.
			parent.sendSignal(task, nil, SigInfo{Signal: SIGCHLD, PID: p.pid, Code: childCode(status)})
			parent.childrenEnded.Wake(task)
		}
	}
	m.tasklist.Unlock(task)
	t.joiners.Wake(task)
}

// reparentLocked hands p's children to the machine, which waits for everybody at
// once, as init does (forget_original_parent).
func (m *Machine) reparentLocked(p *Process) {
	for c := p.child; c != nil; c = p.child {
		c.leaveParentLocked()
		c.adoptedByLocked(&m.root)
		if c.state == procZombie {
			m.releaseLocked(c)
		}
	}
}

// The codes of SIGCHLD (CLD_EXITED, CLD_KILLED).
const (
	ChldExited = 1
	ChldKilled = 2
)

func childCode(s Status) int {
	if s.Exited() {
		return ChldExited
	}
	return ChldKilled
}
