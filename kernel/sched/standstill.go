package sched

import (
	"runtime"
	"sync/atomic"
)

// In the parallel regime a CPU in a busy wait looks alive: its clock goes on. If what it waits
// for never comes, because a spinlock's holder sleeps, has ended, or is the waiter himself,
// nothing but the state of all CPUs says so. A machine has come to a standstill when, at one
// instant, every CPU is idle with nothing to do or in a busy wait whose condition does not
// hold, no interrupt can be taken, and no event is pending or happens. Then nobody will ever
// change what the others wait for. No clock has a part in finding this, so a host
// that runs nothing for a while changes nothing about it.
//
// Each CPU numbers its busy waits (spinning.episode) and counts their rounds. A CPU begins a
// new episode before it does anything else that others could see: when it waits for
// something else, takes an interrupt, switches tasks. Who looks (standstill.look) reads
// the episodes of all, then, after this instant T, the counts of rounds; when later every count
// is greater by two or more in the same episode, every CPU was waiting at T and has
// found its condition wanting after T:
//
//   - the first new count was made after T in the episode from before T: the CPU has done
//     nothing but wait between;
//   - between it and the second one the CPU has looked at its condition, and at its interrupts.
//
// Idle CPUs are looked at as for quiet: see Machine.advance, whose count of moves is
// used here as well. Suppose some CPU does something after T, the first of all: its condition
// was false after T, and nobody had changed anything since.
//
// A busy wait that may be preempted stands still only if nobody is there to be switched to.

// spinning is what a CPU in a busy wait tells the others.
type spinning struct {
	// episode numbers the busy waits, times two, plus one if the task cannot be preempted.
	// Written by the owner, read by anybody.
	episode atomic.Uint64
	// rounds counts the looks. Written by the owner, read by anybody.
	rounds atomic.Uint64
}

// begin begins an episode.
func (s *spinning) begin(pinned bool) {
	e := (s.episode.Load() | 1) + 1
	if pinned {
		e |= 1
	}
	s.episode.Store(e)
}

// interrupted ends an episode that may go on afterwards.
func (s *spinning) interrupted() { s.episode.Store(s.episode.Load() + 2) }

// standstill is what a waiting CPU remembers from one look at the others to the next. Owner.
type standstill struct {
	taken bool
	moves uint64
	seen  [MaxCPUs]struct {
		idle            bool
		episode, rounds uint64
	}
}

// lookEvery is how many rounds of a busy wait lie between two looks.
const lookEvery = 256

// look reports whether the machine has come to a standstill. It takes two or more calls.
func (s *standstill) look(m *Machine) bool {
	if !s.taken {
		s.take(m)
		return false
	}
	for i, c := range m.cpus {
		if was := &s.seen[i]; was.idle != c.isIdle.Load() || !was.idle && c.spin.episode.Load() != was.episode {
			s.taken = false
			return false
		}
	}
	for i, c := range m.cpus {
		if was := &s.seen[i]; !was.idle && c.spin.rounds.Load() < was.rounds+2 {
			return false // the host has not run it yet
		}
	}
	// After the rounds: what came between shows in the episodes.
	for i, c := range m.cpus {
		if was := &s.seen[i]; !was.idle && c.spin.episode.Load() != was.episode {
			s.taken = false
			return false
		}
	}
	still := m.par.firing.Load() == 0 && m.par.moves.Load() == s.moves && m.events.nextAt() == never && !s.runnable(m)
	s.taken = false
	return still && m.par.moves.Load() == s.moves
}

// take begins a look.
func (s *standstill) take(m *Machine) {
	s.moves = m.par.moves.Load()
	if m.par.firing.Load() != 0 || m.events.nextAt() != never {
		return
	}
	for i, c := range m.cpus {
		was := &s.seen[i]
		was.idle = c.isIdle.Load() && c.Pending() == 0 && c.rq.n.Load() == 0
		was.episode = c.spin.episode.Load()
		if m.par.seenIdle != nil {
			m.par.seenIdle(c.ID)
		}
	}
	// This is the instant T.
	for i, c := range m.cpus {
		s.seen[i].rounds = c.spin.rounds.Load()
	}
	s.taken = true
}

// runnable reports whether a task in the queue of a waiting CPU could run yet: there, or on an idle
// CPU, which is told to look for it.
func (s *standstill) runnable(m *Machine) bool {
	free := false
	for i, c := range m.cpus {
		free = free || s.seen[i].idle && !c.isolated
	}
	for i, c := range m.cpus {
		if s.seen[i].idle {
			continue
		}
		pinned := s.seen[i].episode&1 != 0
		if !pinned && (c.rq.n.Load() > 0 || m.rcu.n.Load() != 0) {
			return true
		}
		if free && !c.isolated && c.rq.stealable() {
			m.attendEvent(0)
			return true
		}
	}
	return false
}

// stealable reports whether there is a task that another CPU could take.
func (q *runQueue) stealable() bool {
	q.lock.Lock()
	defer q.lock.Unlock() // no points inside: cannot be cut
	for t := q.head; t != nil; t = t.next {
		if !t.preempted && !t.onCPU.Load() {
			return true
		}
	}
	return false
}

// spinAgain is a round of a long busy wait. The one waited for may need this host core.
func (m *Machine) spinAgain(c *cpu, t *Task, round int) {
	if round == 1 {
		c.spin.begin(t.PreemptDisabled() || c.IRQsDisabled())
	}
	c.spin.rounds.Store(c.spin.rounds.Load() + 1)
	c.SetNow(m.parTime())
	runtime.Gosched()
	if round%lookEvery == 0 && c.still.look(m) {
		m.fail(&Result{Reason: Deadlock}) // Run describes it, when the other CPUs have stopped
		return
	}
	if round%4096 == 0 {
		m.checkProgress(c, m.parTime())
		if m.events.nextAt() <= m.parTime() {
			m.fireDue(c, m.parTime())
		}
	}
}
