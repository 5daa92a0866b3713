package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Fork makes a child process that runs fn: fork(2). It returns the child's number.
// Errors: ENOMEM, EAGAIN when a policy ends the fork, EINTR when killed meanwhile.
//
// Go cannot return twice from one call, so the child begins in a function of its
// own, and ends with exit status 0 when that returns:
//
//	if (fork() == 0) {            pid, err := t.Fork(func(c *kernel.Thread) {
//	        work();                       work(c)
//	        _exit(0);             })
//	}
//
// What fork promises holds for emulated memory: the child has a snapshot of all of
// it, and stores of either side are its own from then on. Go variables are not
// emulated memory. A variable that fn captures is shared between parent and child,
// like a variable between goroutines: in the deterministic regimes it is a handy
// way to tell a test what the child has seen; in the parallel regime it must not be
// used from both sides without a Wait between them.
//
// fn must use its own Thread, c, never the parent's.
//
// Only the calling thread exists in the child. Files are shared by reference, with
// their offsets; signal dispositions are copied; pending signals, asynchronous I/O
// contexts and mappings with VM_DONTCOPY are not inherited.
func (t *Thread) Fork(fn func(child *Thread)) (pid int, err error) {
	return t.doFork(SysFork, fn)
}

// Vfork makes a child process that borrows the caller's address space, and waits
// until the child ends: vfork(2), CLONE_VM|CLONE_VFORK. Nothing is copied, so the
// child's stores are the parent's. Errors are those of Fork.
//
// The wait cannot be interrupted, not even by a signal that kills.
func (t *Thread) Vfork(fn func(child *Thread)) (pid int, err error) {
	return t.doFork(SysVfork, fn)
}

// forkSites are the structures of a new process that copy_process allocates before it
// copies the address space, in that order. Immutable.
var forkSites = [...]string{"task_struct", "files_struct", "sighand_struct", "signal_struct"}

// doFork is do_fork and copy_process of Linux 2.6.29 kernel/fork.c for the two
// forms of clone that make processes.
func (t *Thread) doFork(nr Sysno, fn func(*Thread)) (int, error) {
	if fn == nil {
		return 0, unix.EINVAL
	}
	task := t.enter(nr, 0, 0)
	m := t.m
	for _, site := range forkSites {
		if m.pages.FailSite(task, site) {
			t.leave(nr, result(0, unix.ENOMEM))
			return 0, unix.ENOMEM
		}
	}
	child := m.newProcess("", fn)
	t.copySighand(task, child)
	t.p.files.copyTo(task, &child.files)
	space, err := t.copyMM(task, nr == SysVfork)
	if err != nil {
		child.files.closeAll(task)
		t.leave(nr, result(0, err))
		return 0, err
	}
	if m.pages.FailSite(task, "pid") {
		space.MMPut(task)
		child.files.closeAll(task)
		t.leave(nr, result(0, unix.ENOMEM))
		return 0, unix.ENOMEM
	}
	child.space = space
	if nr == SysFork {
		space.Owner = child
	}
	var done *lock.Completion
	if nr == SysVfork {
		done = new(lock.Completion)
		done.Init(m.sched)
		child.vforkDone = done
		child.borrowed = true
	}
	m.tasklist.Lock(task)
	if task.FatalSignalPending() {
		m.tasklist.Unlock(task)
		child.space = nil
		child.files.closeAll(task)
		space.MMPut(task)
		t.leave(nr, result(0, unix.EINTR)) // does not return
		return 0, unix.EINTR
	}
	m.attachLocked(child, t.p)
	pid := child.pid
	child.name = t.p.childName(pid)
	th := child.threads[0]
	th.blocked.Poke(t.blocked.Peek())
	th.newTask(child.name, space)
	m.tasklist.Unlock(task)

	t.started(th)
	m.sched.Start(task, th.task) // wake_up_new_task
	if done != nil {
		done.Wait(task)
	}
	t.leave(nr, int64(pid))
	return pid, nil
}

// copyMM returns the address space of a child, with a user reference for it: a
// copy, or the caller's own (copy_mm).
func (t *Thread) copyMM(task *sched.Task, share bool) (*mm.MM, error) {
	if share {
		t.p.space.MMGet(task)
		return t.p.space, nil
	}
	return t.m.sys.DupMM(task, t.p.space)
}
