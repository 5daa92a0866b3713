package kernel

import (
	"math/bits"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Signal is a signal's number on x86-64 Linux, whatever the host.
type Signal uint8

// The signals.
const (
	SIGHUP    Signal = 1
	SIGINT    Signal = 2
	SIGQUIT   Signal = 3
	SIGILL    Signal = 4
	SIGTRAP   Signal = 5
	SIGABRT   Signal = 6
	SIGBUS    Signal = 7
	SIGFPE    Signal = 8
	SIGKILL   Signal = 9
	SIGUSR1   Signal = 10
	SIGSEGV   Signal = 11
	SIGUSR2   Signal = 12
	SIGPIPE   Signal = 13
	SIGALRM   Signal = 14
	SIGTERM   Signal = 15
	SIGSTKFLT Signal = 16
	SIGCHLD   Signal = 17
	SIGCONT   Signal = 18
	SIGSTOP   Signal = 19
	SIGTSTP   Signal = 20
	SIGTTIN   Signal = 21
	SIGTTOU   Signal = 22
	SIGURG    Signal = 23
	SIGXCPU   Signal = 24
	SIGXFSZ   Signal = 25
	SIGVTALRM Signal = 26
	SIGPROF   Signal = 27
	SIGWINCH  Signal = 28
	SIGIO     Signal = 29
	SIGPWR    Signal = 30
	SIGSYS    Signal = 31

	numSignals = 65
)

var signalNames = [32]string{
	"SIG0", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1",
	"SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP",
	"SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
}

// String returns the signal's name.
func (s Signal) String() string {
	if int(s) < len(signalNames) {
		return signalNames[s]
	}
	return "SIG" + strconv.Itoa(int(s))
}

// The codes of a SigInfo that say where a signal comes from.
const (
	SIUser      = 0    // sent by Kill
	SIKernel    = 0x80 // sent by the kernel
	SegvMapErr  = 1    // SIGSEGV: nothing is mapped at the address
	SegvAccErr  = 2    // SIGSEGV: the mapping does not permit the access
	BusAdrAln   = 1    // SIGBUS: a locked operation on a misaligned word
	BusAdrErr   = 2    // SIGBUS: nothing behind the mapping at the address
	BusObjErr   = 3    // SIGBUS: what is behind the mapping could not be read
	sigsetEmpty = sigset(0)
)

// SigInfo tells a handler about its signal (siginfo_t).
type SigInfo struct {
	Signal Signal
	// Code says where the signal comes from; see SIUser and the following.
	Code int
	// Addr is the address of a fault.
	Addr uint64
	// PID is the sender's number, or the child's for SIGCHLD.
	PID int

	skip *bool // set by Skip; nil if the signal is not a fault's
}

// Skip makes the access that faulted be abandoned when the handler returns: a load
// then gives zero, a store does nothing. It is what a handler in C does by changing
// the saved instruction pointer. For other signals it has no effect.
func (i SigInfo) Skip() {
	if i.skip != nil {
		*i.skip = true
	}
}

// Handler is a signal handler. It runs as user code on the stack of the thread that
// takes the signal, which is t; the signal is blocked meanwhile.
//
//   - After the handler of a fault returns, the access is made again, or given up if
//     the handler called Skip. A handler that changes nothing is called for ever.
//   - A handler may leave by a panic of its own that a function below recovers, as
//     siglongjmp does: the signal is unblocked.
//   - A handler may call Exit, or any other system call.
type Handler func(t *Thread, info SigInfo)

// action is a signal's disposition.
type action struct {
	handler Handler // nil: default
	ignore  bool    // SIG_IGN
}

// sigset has bit s-1 for signal s.
type sigset uint64

// sigsetWord is a sigset that others read while its owner writes.
type sigsetWord = x86.Word64

func (s Signal) bit() sigset { return 1 << (s - 1) }

func (s Signal) valid() bool { return s >= 1 && s < numSignals }

// stops reports whether the default action of s is to stop the process, which
// this kernel cannot do.
func (s Signal) stops() bool { return s >= SIGSTOP && s <= SIGTTOU }

// ignoredByDefault reports whether the default action of s is to do nothing.
func (s Signal) ignoredByDefault() bool {
	return s == SIGCHLD || s == SIGCONT || s == SIGURG || s == SIGWINCH
}

// Sigaction sets the handler of a signal for the whole process; nil restores the
// default action. Errors: EINVAL for no signal, SIGKILL, and the signals that stop
// a process (there is no job control).
func (t *Thread) Sigaction(s Signal, h Handler) error { return t.sigaction(s, action{handler: h}) }

// SigIgnore makes the process ignore a signal (SIG_IGN). Ignoring SIGCHLD makes
// children vanish when they end, without a Wait. Errors are those of Sigaction.
func (t *Thread) SigIgnore(s Signal) error { return t.sigaction(s, action{ignore: true}) }

func (t *Thread) sigaction(s Signal, a action) error {
	task := t.enter(SysRtSigaction, uint64(s), 0)
	if !s.valid() || s == SIGKILL || s.stops() {
		t.leave(SysRtSigaction, result(0, unix.EINVAL))
		return unix.EINVAL
	}
	p := t.p
	off := p.sighand.LockIRQSave(task)
	if p.actions == nil {
		p.actions = new([numSignals]action)
	}
	p.actions[s] = a
	if a.ignore {
		p.pending &^= s.bit()
		p.infos = forget(p.infos, s)
		for _, th := range p.threads {
			th.pending &^= s.bit()
			th.infos = forget(th.infos, s)
		}
	}
	p.sighand.UnlockIRQRestore(task, off)
	t.leave(SysRtSigaction, 0)
	return nil
}

// Sigblock adds signals to those that the thread does not take for now, and returns
// a function that puts the old set back (sigprocmask). SIGKILL cannot be blocked.
func (t *Thread) Sigblock(signals ...Signal) (restore func()) {
	old := t.blocked.Peek()
	set := old
	for _, s := range signals {
		if s.valid() && s != SIGKILL {
			set |= uint64(s.bit())
		}
	}
	t.setBlocked(set)
	return func() { t.setBlocked(old) }
}

func (t *Thread) setBlocked(set uint64) {
	task := t.enter(SysRtSigprocmask, set, 0)
	t.blocked.Poke(set)
	t.m.sched.Signal(task, task, false /* fatal */) // look again at what is pending
	t.leave(SysRtSigprocmask, 0)
}

// Kill sends a signal to a process: kill(2). Signal 0 only asks whether the process
// exists; a zombie does. Errors: ESRCH, EINVAL for no signal, for the signals
// that stop a process, and for a pid below 1 (there are no process groups).
func (t *Thread) Kill(pid int, s Signal) error {
	task := t.enter(SysKill, uint64(pid), uint64(s))
	err := t.m.kill(task, pid, SigInfo{Signal: s, Code: SIUser, PID: t.p.pid})
	t.leave(SysKill, result(0, err))
	return err
}

func (m *Machine) kill(by *sched.Task, pid int, info SigInfo) error {
	if s := info.Signal; s != 0 && !s.valid() || s.stops() || pid < 1 {
		return unix.EINVAL
	}
	m.tasklist.Lock(by)
	p := m.findLocked(pid)
	m.tasklist.Unlock(by)
	if p == nil {
		return unix.ESRCH
	}
	if info.Signal != 0 {
		p.sendSignal(by, nil, info)
	}
	return nil
}

// Tgkill sends a signal to one thread. Errors are those of Kill.
func (t *Thread) Tgkill(to *Thread, s Signal) error {
	if to == nil || s != 0 && !s.valid() || s.stops() {
		return unix.EINVAL
	}
	task := t.enter(SysTgkill, uint64(to.tid), uint64(s))
	if s != 0 {
		to.p.sendSignal(task, to, SigInfo{Signal: s, Code: SIUser, PID: t.p.pid})
	}
	t.leave(SysTgkill, 0)
	return nil
}

// actionLocked returns the disposition of s. The caller holds sighand.
func (p *Process) actionLocked(s Signal) action {
	if p.actions == nil {
		return action{}
	}
	return p.actions[s]
}

// ignoresChildren reports whether the process ignores SIGCHLD explicitly.
func (p *Process) ignoresChildren(t *sched.Task) bool {
	off := p.sighand.LockIRQSave(t)
	ignore := p.actionLocked(SIGCHLD).ignore
	p.sighand.UnlockIRQRestore(t, off)
	return ignore
}

// sendSignal queues a signal for thread to, or for whichever thread of the process
// takes it if to is nil, and wakes who is to take it. by is the running task.
// Linux 2.6.29 kernel/signal.c:__send_signal and complete_signal.
func (p *Process) sendSignal(by *sched.Task, to *Thread, info SigInfo) {
	s := info.Signal
	by.C.Trace.Inc(trace.EmuSignals)
	off := p.sighand.LockIRQSave(by)
	taker := p.takerLocked(to, s)
	a := p.actionLocked(s)
	switch {
	case p.groupExiting:
	case s != SIGKILL && taker != nil && (a.ignore || a.handler == nil && s.ignoredByDefault()):
	case s == SIGKILL || taker != nil && a.handler == nil:
		// Fatal for all: no need to wait until somebody takes it.
		by.C.Trace.Event(trace.EvSignal, by.C.Now(), p.traceTask(taker), uint64(s), uint64(info.Code))
		p.startGroupExitLocked(by, KilledBy(s))
	default:
		by.C.Trace.Event(trace.EvSignal, by.C.Now(), p.traceTask(taker), uint64(s), uint64(info.Code))
		set, infos := &p.pending, &p.infos
		if to != nil {
			set, infos = &to.pending, &to.infos
		}
		if *set&s.bit() == 0 {
			*set |= s.bit()
			if p.m.pages.FailSite(by, "sigqueue") {
				info = SigInfo{Signal: s, skip: info.skip} // as collect_signal makes one up
			}
			*infos = append(*infos, info)
		}
		if taker != nil {
			p.m.sched.Signal(by, taker.task, false /* fatal */)
		}
	}
	p.sighand.UnlockIRQRestore(by, off)
}

// takerLocked returns a thread that does not block s: to, or any one if to is nil.
func (p *Process) takerLocked(to *Thread, s Signal) *Thread {
	for _, th := range p.threads {
		if (to == nil || th == to) && th.blocked.Peek()&uint64(s.bit()) == 0 {
			return th
		}
	}
	return nil
}

func (p *Process) traceTask(th *Thread) uint64 {
	if th == nil || th.task == nil {
		return 0
	}
	return uint64(th.task.ID)
}

// forget removes the information on s.
func forget(infos []SigInfo, s Signal) []SigInfo {
	for i := range infos {
		if infos[i].Signal == s {
			return append(infos[:i], infos[i+1:]...)
		}
	}
	return infos
}

// copySighand gives a forked child the dispositions of its parent.
func (t *Thread) copySighand(task *sched.Task, child *Process) {
	p := t.p
	off := p.sighand.LockIRQSave(task)
	if p.actions != nil {
		a := *p.actions
		child.actions = &a
	}
	p.sighand.UnlockIRQRestore(task, off)
}

// dequeue takes a pending signal that the thread does not block, with its
// disposition (dequeue_signal). It returns false when there is none; the scheduler's
// mark is then cleared.
func (t *Thread) dequeue() (info SigInfo, a action, ok bool) {
	task, p := t.task, t.p
	off := p.sighand.LockIRQSave(task)
	open := ^sigset(t.blocked.Peek())
	set, infos := &t.pending, &t.infos
	if *set&open == 0 {
		set, infos = &p.pending, &p.infos
	}
	if m := *set & open; m != 0 {
		s := Signal(bits.TrailingZeros64(uint64(m)) + 1)
		for _, i := range *infos {
			if i.Signal == s {
				info = i
			}
		}
		*set &^= s.bit()
		*infos = forget(*infos, s)
		a, ok = p.actionLocked(s), true
	} else {
		task.ClearSignal()
	}
	p.sighand.UnlockIRQRestore(task, off)
	return info, a, ok
}

// takeSignals runs the handlers of all signals that are pending, and unwinds the
// user function if the thread is being killed: what do_notify_resume does on the way
// back to user mode. The thread is in user mode before and after.
//
//go:noinline
func (t *Thread) takeSignals() {
	task := t.task
	for {
		task.User = false
		if t.exiting || task.FatalSignalPending() {
			t.unwind()
		}
		info, a, ok := t.dequeue()
		if !ok {
			break
		}
		switch {
		case a.handler != nil:
			t.handle(a.handler, info)
		case !a.ignore && !info.Signal.ignoredByDefault():
			t.groupExit(KilledBy(info.Signal)) // it was blocked when it was sent
		}
	}
	task.User = true
}

// forceSignal delivers a signal that the thread itself has caused and cannot go on
// without (force_sig_info): blocked or ignored, it kills. It reports whether the
// access is to be given up. The thread is in user mode before and after.
func (t *Thread) forceSignal(info SigInfo) (skip bool) {
	task, p := t.task, t.p
	task.User = false
	c := task.C
	c.Trace.Inc(trace.EmuSignals)
	c.Trace.Event(trace.EvSignal, c.Now(), uint64(task.ID), uint64(info.Signal), uint64(info.Code))
	off := p.sighand.LockIRQSave(task)
	a := p.actionLocked(info.Signal)
	if t.blocked.Peek()&uint64(info.Signal.bit()) != 0 {
		a = action{}
	}
	if a.handler == nil {
		if !p.groupExiting && info.Signal != SIGKILL {
			p.fault = &SigError{Sig: info.Signal, Code: info.Code, Addr: info.Addr}
			p.endedAt = userLine()
		}
		p.startGroupExitLocked(task, KilledBy(info.Signal))
	}
	p.sighand.UnlockIRQRestore(task, off)
	if a.handler == nil {
		t.unwind()
	}
	info.skip = new(bool)
	t.handle(a.handler, info)
	task.User = true
	return *info.skip
}

// userLine finds the line of the user function that is being executed: the first one
// on the stack outside this package. It returns "" if there is none.
func userLine() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		const ours = "github.com/cowlab/cowlab/kernel."
		if f.Function != "" && (!strings.HasPrefix(f.Function, ours) || strings.HasSuffix(f.File, "_test.go")) {
			return filepath.Base(f.File) + ":" + strconv.Itoa(f.Line)
		}
		if !more {
			return ""
		}
	}
}

// handle runs a handler as user code, with its signal blocked.
func (t *Thread) handle(h Handler, info SigInfo) {
	old := t.blocked.Peek()
	t.blocked.Poke(old | uint64(info.Signal.bit()))
	defer t.sigreturn(old)
	t.task.User = true
	h(t, info)
}

// sigreturn restores the set of blocked signals, also when the handler leaves by
// a panic. Signals that came meanwhile are looked at on the way back to user mode.
func (t *Thread) sigreturn(old uint64) {
	t.blocked.Poke(old)
	t.m.sched.Signal(t.task, t.task, false /* fatal */)
}
