package kernel

import (
	"golang.org/x/sys/unix"
)

// WaitOptions are the options of Wait4.
type WaitOptions int

// WNOHANG makes Wait4 return at once when no child has ended.
const WNOHANG WaitOptions = 1

// Wait waits until a child has ended and reaps it: waitpid(2). pid is the child's
// number, or -1 for any. It returns the child's number and how it ended.
//
// Errors: ECHILD if there is no such child, EINTR if a signal handler ran, EINVAL
// for a pid below -1 (there are no process groups).
func (t *Thread) Wait(pid int) (int, Status, error) { return t.Wait4(pid, 0) }

// Wait4 is Wait with options. With WNOHANG the number is 0 if the child, or every
// child, is still running.
func (t *Thread) Wait4(pid int, o WaitOptions) (int, Status, error) {
	if pid < -1 || o&^WNOHANG != 0 {
		return 0, 0, unix.EINVAL
	}
	task := t.enter(SysWait4, uint64(pid), uint64(o))
	var (
		got    int
		status Status
		err    error
	)
	// Called with the task's state already set: it may take spinlocks only.
	waitErr := t.p.childrenEnded.WaitEventInterruptible(task, func() bool {
		t.m.tasklist.Lock(task)
		got, status, err = t.p.reapLocked(pid)
		t.m.tasklist.Unlock(task)
		return got != 0 || err != nil || o&WNOHANG != 0
	})
	if err == nil {
		err = waitErr
	}
	t.leave(SysWait4, result(int64(got), err))
	return got, status, err
}

// reapLocked releases a zombie child that matches pid, the one that has been a
// child longest (do_wait, wait_task_zombie). It returns 0 if none has ended yet.
func (p *Process) reapLocked(pid int) (int, Status, error) {
	var zombie *Process
	any := false
	for c := p.child; c != nil; c = c.older {
		if pid > 0 && c.pid != pid {
			continue
		}
		any = true
		if c.state == procZombie {
			zombie = c
		}
	}
	switch {
	case zombie != nil:
		p.m.releaseLocked(zombie)
		return zombie.pid, zombie.status, nil
	case !any:
		return 0, 0, unix.ECHILD
	}
	return 0, 0, nil
}
