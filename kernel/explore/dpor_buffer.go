package explore

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Partial-order reduction where there are store buffers (x86-TSO).
//
// A CPU's buffer is an actor of its own: its step takes the oldest store out and writes it to memory.
// The CPU's step that put it in writes nothing that others see (x86.Footprint.Buffered). What
// orders the two of them, as footprints:
//
//	the nth store into the buffer of CPU i    writes object (i, n)
//	it leaves the buffer                      writes (i, n), (i, 0) and the word
//	an operation that waits for the buffer    reads (i, 0)
//
// Nothing else does. A CPU sees its own stores wherever they are, so what it loads commutes with
// their leaving the buffer, and the words that both touch are no conflict between these two.
// Nor can their order be reversed where there is one: a store has to go in before it comes out, and a
// barrier is not enabled before it has (sched.Actor.Held). So nobody disables anybody.
//
// There are operations of which it is not known beforehand that they wait for the buffer
// (x86.CPU.Drain), or that write a buffered word past it. They empty it in their own step. That is
// the same as if the buffer had done so just before, but hides what others could
// have seen in between. So such a step asks for a run in which the buffer goes first (early).

// pair finds the store buffers among the actors.
func (r *porRun) pair() {
	r.partner = r.partner[:0]
	for range r.actors {
		r.partner = append(r.partner, -1)
	}
	for i, c := range r.chains {
		for cpu := range r.cpus {
			if c == sched.DrainChain(cpu) {
				r.partner[cpu], r.partner[r.cpus+i] = int8(r.cpus+i), int8(cpu)
			}
		}
	}
}

// buffers reports whether two actors are a CPU and its store buffer.
func (r *porRun) buffers(a, b uint8) bool {
	if a > b {
		a, b = b, a
	}
	return int(a) < r.cpus && int(b) >= r.cpus && r.chains[int(b)-r.cpus] == sched.DrainChain(int(a))
}

// early asks for a run in which the buffer goes before the step at a position, if that step
// emptied it.
func (r *porRun) early(pos int) {
	e := &r.events[pos]
	if !e.drained || int(e.actor) >= r.cpus || r.partner[e.actor] < 0 {
		return
	}
	if mask := 1 << uint(r.partner[e.actor]) & r.enabled[pos]; mask != 0 {
		r.races = append(r.races, race{pos: pos, mask: mask, each: true})
	}
}

// ofBuffer reports whether a touch is one of those that order a CPU and its store buffer.
func ofBuffer(t *x86.Touch) bool { return t.Obj.Class() == x86.ClassBuffer }
