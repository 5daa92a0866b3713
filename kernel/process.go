package kernel

import (
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// procState is how far a process has come.
type procState uint8

const (
	procRunning procState = iota
	procZombie            // every thread has ended; the parent has not asked yet
	procReaped            // gone: only Go variables still know of it
)

// pidBuckets is the number of chains of the pid hash, a power of two.
const pidBuckets = 64

// Process is a thread group with what its threads share: address space, file
// descriptors, signal dispositions, children. In Linux these are separate
// structures that task_struct points to; here clone has only two forms, so they
// are one.
type Process struct {
	m    *Machine // immutable
	pid  int      // immutable
	name string   // immutable once it runs
	// started is set if Start or Run made the process. Immutable.
	started  bool
	recorded bool // the machine's list of exits has it; protected by tasklist

	// space is the address space; nil before the first thread has made it and
	// after the last one has left it. Written by the only thread there is.
	space *mm.MM
	// borrowed is set if the address space is the parent's (vfork). Immutable.
	borrowed bool

	parent        *Process // protected by tasklist; the machine's root for what Start made
	child         *Process // first child; protected by tasklist
	older, newer  *Process // siblings; protected by tasklist
	hashNext      *Process // protected by tasklist
	state         procState
	status        Status         // valid from procZombie on; protected by tasklist
	live          int            // threads that have not begun to end; protected by tasklist
	childrenEnded lock.WaitQueue // wait_chldexit: who waits for children

	// threads lists the threads that have not ended. Written under tasklist and
	// sighand, read under either.
	threads []*Thread
	one     [1]*Thread // backing of threads while there is only one

	sighand      lock.SpinLock
	actions      *[numSignals]action // nil: all default; protected by sighand
	pending      sigset              // signals for whichever thread takes them; protected by sighand
	infos        []SigInfo           // of pending; protected by sighand
	groupExiting bool                // the process is being ended; protected by sighand
	exitStatus   Status              // why, once groupExiting; protected by sighand
	fault        *SigError           // the access that was the reason; protected by sighand
	why          string              // or else, in words; protected by sighand
	endedAt      string              // where in the user's source that is; protected by sighand

	files files

	// vforkDone is completed when the process lets go of the address space that
	// it borrowed from its parent (vfork_done); nil for others. Set before
	// the first thread runs, from then on the last one's.
	vforkDone *lock.Completion
}

// newProcess makes a process with one thread, which does not run yet. The
// caller attaches it.
func (m *Machine) newProcess(name string, fn func(*Thread)) *Process {
	p := &Process{m: m, name: name}
	p.childrenEnded.Init(m.sched)
	p.sighand.Init(m.sched, lock.SigHand)
	p.files.init(m)
	th := p.newThread(fn)
	p.one[0] = th
	p.threads = p.one[:]
	p.live = 1
	return p
}

// attachLocked gives p a number and a parent. The caller holds tasklist, or the
// machine does not run.
func (m *Machine) attachLocked(p, parent *Process) {
	m.lastPID++
	p.pid = m.lastPID
	p.threads[0].tid = p.pid
	b := &m.pids[p.pid%pidBuckets]
	p.hashNext, *b = *b, p
	p.adoptedByLocked(parent)
}

// adoptedByLocked makes p the youngest child of parent.
func (p *Process) adoptedByLocked(parent *Process) {
	p.parent = parent
	p.older, p.newer = parent.child, nil
	if p.older != nil {
		p.older.newer = p
	}
	parent.child = p
}

// leaveParentLocked takes p off its parent's list of children.
func (p *Process) leaveParentLocked() {
	if p.newer != nil {
		p.newer.older = p.older
	} else {
		p.parent.child = p.older
	}
	if p.older != nil {
		p.older.newer = p.newer
	}
	p.older, p.newer = nil, nil
}

// releaseLocked makes the number free and the process history (release_task). The
// caller holds tasklist.
func (m *Machine) releaseLocked(p *Process) {
	p.leaveParentLocked()
	for b := &m.pids[p.pid%pidBuckets]; *b != nil; b = &(*b).hashNext {
		if *b == p {
			*b = p.hashNext
			break
		}
	}
	p.state = procReaped
	if p.parent == &m.root {
		m.recordExitLocked(p)
	}
}

// findLocked returns the process with the given number, nil if there is none.
// The caller holds tasklist, or the machine does not run.
func (m *Machine) findLocked(pid int) *Process {
	if pid <= 0 {
		return nil
	}
	for p := m.pids[pid%pidBuckets]; p != nil; p = p.hashNext {
		if p.pid == pid {
			return p
		}
	}
	return nil
}

// PID returns the process's number.
func (p *Process) PID() int { return p.pid }

// Name returns the name given to Start, or the parent's with a number.
func (p *Process) Name() string { return p.name }

// MM returns the address space, nil if the process has none yet or no longer.
// Only the process's own threads, and anybody while the machine does not run, may ask.
func (p *Process) MM() *mm.MM { return p.space }

// Status returns how the process ended; ok is false while it has not. The
// machine must not be running.
func (p *Process) Status() (s Status, ok bool) { return p.status, p.state != procRunning }

// Processes returns the processes that have not been reaped, by number. The
// machine must not be running.
func (m *Machine) Processes() []*Process {
	var out []*Process
	for pid := 1; pid <= m.lastPID; pid++ {
		if p := m.findLocked(pid); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// removeThread takes th off the list of threads.
//
// Preconditions:
//   - tasklist and sighand are held
func (p *Process) removeThread(th *Thread) {
	for i, o := range p.threads {
		if o == th {
			p.threads = append(p.threads[:i], p.threads[i+1:]...)
			return
		}
	}
}

// addThread makes th's task and puts th on the list of threads, unless the
// process is being ended. The caller has taken a user reference on the address
// space for it.
func (p *Process) addThread(t *sched.Task, th *Thread, name string) bool {
	m := p.m
	m.tasklist.Lock(t)
	off := p.sighand.LockIRQSave(t)
	ok := !p.groupExiting
	if ok {
		m.lastPID++
		th.tid = m.lastPID
		th.newTask(name, p.space)
		p.threads = append(p.threads, th)
		p.live++
	}
	p.sighand.UnlockIRQRestore(t, off)
	m.tasklist.Unlock(t)
	return ok
}
