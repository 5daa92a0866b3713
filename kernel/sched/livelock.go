package sched

import (
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/cowlab/cowlab/arch/x86"
)

// In the Free regime a machine looks for livelock like this: once so many points have gone by
// in which no system call and no fault came to an end, and nothing is under way that could
// change anything by itself (an event, a buffered store), it takes a hash of its state
// every livelockEvery points. The state is the physical memory, with the page tables and
// struct pages in it, and for each task what it is about to do, what it holds and waits for. A
// state that comes back again and again is a loop. What tasks keep on their stacks is not
// seen, so a loop that counts has livelockTimes*livelockEvery points at least to come to
// its end; what is not found so, StepLimit ends.
const (
	livelockAfter = 16_384
	livelockEvery = 1_024
	livelockTimes = 16
)

// livelock is what is known of a machine that achieves nothing.
type livelock struct {
	progress uint64            // points at the last progress, or the last time something was under way
	seen     map[uint64]int    // states since, and how often
	first    map[uint64]uint64 // and at which point first
}

// achieved forgets: a system call or a fault has ended.
func (l *livelock) achieved(steps uint64) {
	l.progress = steps
	if l.seen != nil {
		l.seen, l.first = nil, nil
	}
}

// checkLivelock is called every livelockEvery points.
func (m *Machine) checkLivelock(c *cpu) {
	d := &m.det1
	l := &d.live
	if d.steps-l.progress < livelockAfter || m.opts.Regime != Free { // elsewhere time passes, and a loop may wait for it
		return
	}
	if len(m.events.heap) > 0 || m.buffered() {
		l.achieved(d.steps)
		return
	}
	h := m.stateHash()
	if l.seen == nil {
		l.seen, l.first = map[uint64]int{}, map[uint64]uint64{}
	}
	if l.seen[h]++; l.seen[h] == 1 {
		l.first[h] = d.steps
	}
	if l.seen[h] < livelockTimes {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the state at point %d was seen again %d times up to point %d, and nothing was achieved since point %d\n",
		l.first[h], l.seen[h]-1, d.steps, l.progress)
	m.tasksLock.Lock()
	m.describeTasks(&b)
	m.tasksLock.Unlock()
	for _, c := range m.cpus {
		if !c.waiting && c.cur != c.idle {
			fmt.Fprintf(&b, "  cpu %d runs %s, about to %s %s\n", c.ID, c.cur.Name, c.op, m.ObjName(c.obj))
		}
	}
	m.failFrom(c, &Result{Reason: Livelock, Detail: b.String()})
}

func (m *Machine) buffered() bool {
	for _, c := range m.cpus {
		if c.Buffered() > 0 {
			return true
		}
	}
	return false
}

// stateHash sums up what the machine is about to do, and its memory. It names frames by their
// numbers: it is compared with states of the same run only, where they mean the same. For
// final states, which are compared between runs, there is explore.StateHash.
func (m *Machine) stateHash() uint64 {
	var d xxhash.Digest
	d.Reset()
	put := func(vs ...uint64) {
		var b [8]byte
		for _, v := range vs {
			for i := range b {
				b[i] = byte(v >> (8 * i))
			}
			d.Write(b[:]) // a digest's writes do not fail
		}
	}
	for _, c := range m.cpus {
		put(uint64(c.cur.slot), uint64(c.op), uint64(c.obj), uint64(c.waitObj), c.Pending())
	}
	m.tasksLock.Lock()
	for id := 1; id <= m.nextTask; id++ {
		t := m.tasks[id]
		if t == nil {
			continue
		}
		put(uint64(id), uint64(t.State()), uint64(t.waitObj), uint64(t.NumHeld))
		for _, h := range t.Held[:t.NumHeld] {
			put(uint64(h.Obj))
		}
	}
	m.tasksLock.Unlock()
	m.opts.Mem.EachTouched(func(pfn x86.PFN, b []byte) {
		put(uint64(pfn))
		d.Write(b)
	})
	return d.Sum64()
}
