package kernel

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Thread is a thread of a process: the user function and, in its system calls,
// the kernel working for it.
//
// Its methods are the machine's instructions (Load64, Store64, CAS32, Read, Write)
// and system calls (Fork, Mmap, Wait, ...). They must be called on the thread's own
// stack: a function passed to Fork or Go gets a Thread of its own and must use that
// one. Methods that are for anybody say so.
type Thread struct {
	m    *Machine    // immutable
	p    *Process    // immutable
	task *sched.Task // immutable
	tid  int         // immutable once the thread runs

	fn      func(*Thread) // immutable
	exiting bool          // the user function is being unwound. Owner.

	pending sigset         // signals for this thread; protected by the process's sighand
	infos   []SigInfo      // of pending; protected by the process's sighand
	blocked sigsetWord     // atomic; written by the owner
	ended   bool           // protected by tasklist
	joiners lock.WaitQueue // who waits for the thread to end

	fq      futexWaiter // the thread's place in a futex queue
	lastNS  uint64      // last value of ClockGettime. Owner.
	scratch []byte      // a page, for Fill. Owner.
	aio     submission  // Owner.
}

// threadExit is the panic that unwinds a user function whose thread ends. The
// deferred functions of the user function run; one that recovers the panic only
// delays it until the thread's next access or system call.
type threadExit struct{ t *Thread }

// newThread makes a thread without a task. A nil fn does nothing.
func (p *Process) newThread(fn func(*Thread)) *Thread {
	if fn == nil {
		fn = func(*Thread) {}
	}
	m := p.m
	th := &Thread{m: m, p: p, fn: fn}
	th.joiners.Init(m.sched)
	th.fq.t = th
	return th
}

// newTask makes the thread's task. space is its address space, with a user
// reference that becomes the task's, or nil.
func (th *Thread) newTask(name string, space *mm.MM) {
	m := th.m
	th.task = m.sched.NewTask(sched.TaskOptions{Name: name}, th.main)
	th.task.Owner = th
	m.sys.InitTask(th.task, space)
	if m.opts.Events {
		m.taskNames.add(th.task.ID, name)
	}
}

// main is the thread's life.
func (th *Thread) main(*sched.Task) {
	if th.p.space != nil || th.exec() {
		th.userMode()
	}
	th.doExit()
}

// userMode runs the user function, and returns when it has returned or the
// thread's end has unwound it.
func (th *Thread) userMode() {
	defer func() {
		if th.exiting {
			if r := recover(); r != nil {
				if e, ok := r.(threadExit); !ok || e.t != th {
					panic(r)
				}
			}
		}
	}()
	task := th.task
	task.User = true
	if task.SignalPending() {
		th.takeSignals()
	}
	th.fn(th)
	task.User = false
	if th.tid == th.p.pid && !th.exiting {
		th.groupExit(Exited(0)) // main returned: exit(0)
	}
}

// unwind leaves the user function for good.
func (th *Thread) unwind() {
	th.exiting = true
	panic(threadExit{th})
}

// Exiting reports whether the thread is leaving its user function for good, because of Exit
// or a signal: what deferred functions may ask. It is false while a machine is cut short.
func (th *Thread) Exiting() bool { return th.exiting }

// Machine returns the machine. For anybody.
func (t *Thread) Machine() *Machine { return t.m }

// Process returns the thread's process. For anybody.
func (t *Thread) Process() *Process { return t.p }

// Task returns the scheduler's task, for code that works inside the kernel (a
// driver that pins user memory, say). It must set Task.User to false meanwhile;
// see Thread.Kernel. For anybody.
func (t *Thread) Task() *sched.Task { return t.task }

// MM returns the process's address space.
func (t *Thread) MM() *mm.MM { return t.p.space }

// Tid returns the thread's number (gettid); that of a process's first thread is
// the process's. For anybody.
func (t *Thread) Tid() int { return t.tid }

// Getpid returns the number of the thread's process. For anybody.
func (t *Thread) Getpid() int { return t.p.pid }

// Getppid returns the number of the parent process, 0 if the process was made by
// Start or Run or its parent has ended.
func (t *Thread) Getppid() int {
	task := t.enter(SysGetppid, 0, 0)
	t.m.tasklist.Lock(task)
	ppid := t.p.parent.pid
	t.m.tasklist.Unlock(task)
	t.leave(SysGetppid, int64(ppid))
	return ppid
}

// CPU returns the number of the processor that the thread runs on. It may change
// at every access.
func (t *Thread) CPU() int { return t.task.C.ID }

// Go starts another thread of the same process that runs fn: pthread_create. Both
// use the same emulated memory. The new thread ends when fn returns or calls
// ExitThread, and at the latest when the process ends: as in C, when the function
// of the first thread returns, all others are killed, so Join them before.
//
// A thread that cannot be made ends the process with SIGABRT, as in a program that takes
// for granted that it can; CreateThread returns the error.
func (t *Thread) Go(name string, fn func(*Thread)) *Thread {
	th, err := t.CreateThread(name, fn)
	if err != nil {
		_ = t.Kill(t.p.pid, SIGABRT)
		t.Exit(127) // it was blocked or handled
	}
	return th
}

// threadSites are the structures of a new thread. Immutable.
var threadSites = [...]string{"task_struct", "pid"}

// CreateThread is Go with an error: ENOMEM (pthread_create makes it EAGAIN). Linux 2.6.29
// kernel/fork.c:copy_process with CLONE_THREAD.
func (t *Thread) CreateThread(name string, fn func(*Thread)) (*Thread, error) {
	task := t.enter(SysClone, 0, 0)
	p := t.p
	for _, site := range threadSites {
		if t.m.pages.FailSite(task, site) {
			t.leave(SysClone, result(0, unix.ENOMEM))
			return nil, unix.ENOMEM
		}
	}
	th := p.newThread(fn)
	p.space.MMGet(task)
	if !p.addThread(task, th, name) {
		p.space.MMPut(task)
		t.leave(SysClone, result(0, unix.EINTR)) // does not return: we are being killed ourselves
		return nil, unix.EINTR
	}
	task.C.Trace.Inc(trace.EmuClone)
	t.started(th)
	t.m.sched.Start(task, th.task)
	t.leave(SysClone, int64(th.tid))
	return th, nil
}

// started records that t has made th.
func (t *Thread) started(th *Thread) {
	c := t.task.C
	c.Trace.Event(trace.EvTaskStart, c.Now(), uint64(th.task.ID), uint64(t.task.ID), 0)
}

// Join waits until th has ended: pthread_join. Signals are taken meanwhile. Joining
// oneself or a thread of another process is EDEADLK or EINVAL; nil is EINVAL.
func (t *Thread) Join(th *Thread) error {
	switch {
	case th == nil || th.p != t.p:
		return unix.EINVAL
	case th == t:
		return unix.EDEADLK
	}
	for {
		task := t.enter(SysFutex, 0, uint64(th.tid))
		err := th.joiners.WaitEventInterruptible(task, func() bool {
			t.m.tasklist.Lock(task)
			ended := th.ended
			t.m.tasklist.Unlock(task)
			return ended
		})
		t.leave(SysFutex, result(0, err))
		if err == nil {
			return nil
		}
	}
}

// Kernel runs fn as kernel code of the thread, as a system call of a driver does:
// fn gets the thread's task and may call into package mm and others. It must not
// touch user memory through the thread. Fn's error is returned.
func (t *Thread) Kernel(fn func(task *sched.Task) error) error {
	task := t.enter(SysIoctl, 0, 0)
	err := fn(task)
	t.leave(SysIoctl, result(0, err))
	return err
}

// Mark writes a mark into the machine's trace (trace_marker in debugfs): a number that says
// what it is, and two more. It is no system call: it takes no time, and passes no schedule point.
func (t *Thread) Mark(code, a, b uint64) {
	c := t.task.C
	c.Trace.Event(trace.EvMark, c.Now(), code, a, b)
}

// childName names a forked child.
func (p *Process) childName(pid int) string { return p.name + "." + strconv.Itoa(pid) }
