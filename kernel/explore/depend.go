package explore

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// What two steps have to do with each other.
//
// A step is what an actor does from one schedule point to its next. Its footprint is
// the list of objects that it accessed, and how: the operation that its point names
// (accessOf), and what the machine said it touched besides (x86.CPU.Touch): what a
// wake-up changes on its way through the scheduler, the interrupt word that is looked at
// before each step with interrupts enabled.
//
// Two steps of different actors are dependent if their footprints conflict: an object
// of both, accessed in ways that do not commute. Besides, a step depends on
// the one before it of the same actor, and an event's first step on the step that added
// the event. Enabling needs no rule of its own: a CPU that waits has read what
// it waits for, and who enables it writes that (an interrupt: its interrupt word).
// Nothing in the machine disables another actor, except what ends the run.
//
// The table, by operation:
//
//	read     load, pte read, read, dma read, copy read, waiting until a word has changed,
//	         alloc (if it was made to fail it writes: it used a failure up)
//	add      add, read lock (who has to queue writes), ipi and a device's interrupt
//	         (raising two vectors commutes; taking one writes)
//	write    everything else: waiting for a lock takes it, waiting in a queue joins it
//	nothing  fence, flush tlb (a TLB is its CPU's), yield, switch (the scheduler
//	         touches what it really changes), irq (taking it was the step before), reclaim (it
//	         touches the list of chosen pages; what happens to the page are steps of a task),
//	         wait on an interrupt word (the idle loop; touched)

// accessOf returns what an operation does to its object; ok is false if nothing that
// anybody else could see.
func accessOf(op x86.Op, obj x86.ObjID) (how x86.Access, ok bool) {
	if obj == 0 {
		return 0, false
	}
	switch op {
	case x86.OpLoad, x86.OpPTERead, x86.OpRead, x86.OpDMARead, x86.OpCopyRead, x86.OpAlloc:
		return x86.AccRead, true
	case x86.OpAdd, x86.OpReadLock, x86.OpIPI:
		return x86.AccAdd, true
	case x86.OpNone, x86.OpFence, x86.OpFlushTLB, x86.OpYield, x86.OpSwitch, x86.OpIRQ, x86.OpReclaim:
		return 0, false
	case x86.OpWait:
		if obj.Class() == x86.ClassWord {
			return x86.AccRead, true
		}
		return x86.AccWrite, obj.Class() != x86.ClassCPU
	case x86.OpEvent:
		if obj.Class() == x86.ClassCPU {
			return x86.AccAdd, true
		}
	}
	return x86.AccWrite, true
}

// appendFootprint appends what a step accessed: a is the actor as it was when it was
// chosen, f what the step touched.
func appendFootprint(to []x86.Touch, a *sched.Actor, f *x86.Footprint) []x86.Touch {
	if !f.Interrupted && f.Buffered != a.Obj {
		if how, ok := accessOf(a.Op, a.Obj); ok {
			to = append(to, x86.Touch{Obj: a.Obj, How: how})
		}
	}
	return append(to, f.Touches...)
}

// dependent reports whether two footprints conflict. buffers says that they are of a CPU and of
// its store buffer.
func dependent(a, b []x86.Touch, buffers bool) bool {
	for i := range a {
		if buffers && !ofBuffer(&a[i]) {
			continue
		}
		for j := range b {
			if a[i].Obj == b[j].Obj && a[i].How.Conflicts(b[j].How) {
				return true
			}
		}
	}
	return false
}
