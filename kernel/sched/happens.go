package sched

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
)

// The checker of data races on what the emulated kernel keeps in plain fields. Go's own
// race detector sees none there: in the deterministic regimes one coroutine runs at a
// time, so that everything is ordered for it. This one knows what is ordered in the
// machine: it keeps vector clocks (Lamport 1978, Mattern 1989; the two rules of Pozniansky
// and Schuster, PPoPP 2003) over
//
//	unlock, or any write, of an object    -> lock, or any read, of it afterwards
//	wake-up, start                        -> the woken task goes on
//	interrupt sent                        -> interrupt taken
//	a task leaves a CPU                   -> the next one on it
//	every CPU's quiescent state           -> a callback of RCU
//
// x86 makes every store a release and every load an acquire, so each visible operation
// counts. Two accesses to a field, one of them a write, that are not ordered are a race:
// an oops that names both.

// happens is the state of the checker; nil in machines without.
type happens struct {
	objs   map[x86.ObjID]clock
	fields map[field]*history
}

// clock is a vector clock: by Task.slot, how far of that task's time is known.
type clock []uint32

func (c clock) at(slot int) uint32 {
	if slot < len(c) {
		return c[slot]
	}
	return 0
}

// join makes c the maximum of both.
func (c *clock) join(o clock) {
	for len(*c) < len(o) {
		*c = append(*c, 0)
	}
	for i, v := range o {
		(*c)[i] = max((*c)[i], v)
	}
}

// field is a plain field, or several that have one lock: a pointer and a name.
type field struct {
	of   any
	name string
}

// access is one access to a field.
type access struct {
	slot int
	at   uint32
	task string
	irq  bool
	pcs  [4]uintptr
	held [4]x86.ObjID
}

// history is what is known of a field: the last write, and the last read of each task
// since.
type history struct {
	write access
	reads []access
}

func newHappens() *happens {
	return &happens{objs: map[x86.ObjID]clock{}, fields: map[field]*history{}}
}

// tick begins a new moment of t's time.
func (t *Task) tick() {
	for len(t.clock) <= t.slot {
		t.clock = append(t.clock, 0)
	}
	t.clock[t.slot]++
}

// acquire orders what t does from here on behind what released obj.
func (h *happens) acquire(t *Task, obj x86.ObjID) {
	if c, ok := h.objs[obj]; ok {
		t.clock.join(c)
	}
}

// release orders what t has done before what acquires obj.
func (h *happens) release(t *Task, obj x86.ObjID) {
	c := h.objs[obj]
	c.join(t.clock)
	h.objs[obj] = c
	t.tick()
}

// step is what a visible operation of t orders.
func (h *happens) step(t *Task, op x86.Op, obj x86.ObjID) {
	if obj == 0 {
		return
	}
	switch op {
	case x86.OpLoad, x86.OpStore, x86.OpCopyRead, x86.OpCopyWrite, x86.OpYield, x86.OpFence, x86.OpFlushTLB, x86.OpAlloc:
		return // user memory orders programs, not the kernel
	case x86.OpRead, x86.OpPTERead, x86.OpLock, x86.OpReadLock, x86.OpIRQ:
		h.acquire(t, obj)
	case x86.OpWrite, x86.OpPTEWrite, x86.OpUnlock, x86.OpIPI, x86.OpIPIAck:
		h.release(t, obj)
	default:
		h.acquire(t, obj)
		h.release(t, obj)
	}
}

// orders makes everything that t has done happen before what next does.
func (t *Task) orders(next *Task) {
	if t.M.happens != nil && t != next {
		next.clock.join(t.clock)
		t.tick()
	}
}

// Acquired tells the checker of races that t has got a lock, after whatever wait.
func (t *Task) Acquired(obj x86.ObjID) {
	if h := t.M.happens; h != nil {
		h.acquire(t, obj)
	}
}

// ReadOf tells the checker of races that t is about to read plain fields of what of
// points to. Fields that one lock protects may share a name. Reads that race on purpose,
// as those of methods called Racy, do not call it. Without the checker it does nothing.
func (t *Task) ReadOf(of any, name string) {
	if t.M.happens != nil {
		t.M.happens.read(t, of, name)
	}
}

// WriteOf is ReadOf for a write.
func (t *Task) WriteOf(of any, name string) {
	if t.M.happens != nil {
		t.M.happens.wrote(t, of, name)
	}
}

func (h *happens) history(of any, name string) *history {
	k := field{of, name}
	x := h.fields[k]
	if x == nil {
		x = &history{}
		h.fields[k] = x
	}
	return x
}

// now describes the access that t makes, three calls up.
func (t *Task) now() access {
	a := access{slot: t.slot, at: t.clock.at(t.slot), task: t.Name, irq: t.InIRQ()}
	runtime.Callers(4, a.pcs[:])
	n := 0
	for i := t.NumHeld - 1; i >= 0 && n < len(a.held); i-- {
		a.held[n] = t.Held[i].Obj
		n++
	}
	return a
}

func (h *happens) read(t *Task, of any, name string) {
	if t.M.dying.Load() {
		return
	}
	x := h.history(of, name)
	if w := &x.write; w.at > t.clock.at(w.slot) && w.slot != t.slot {
		h.race(t, name, "reads", "wrote", w)
	}
	for i := range x.reads {
		if r := &x.reads[i]; r.slot == t.slot {
			if r.at != t.clock.at(t.slot) {
				*r = t.now()
			}
			return
		}
	}
	x.reads = append(x.reads, t.now())
}

func (h *happens) wrote(t *Task, of any, name string) {
	if t.M.dying.Load() {
		return
	}
	x := h.history(of, name)
	if w := &x.write; w.at > t.clock.at(w.slot) && w.slot != t.slot {
		h.race(t, name, "writes", "wrote", w)
	}
	for i := range x.reads {
		if r := &x.reads[i]; r.at > t.clock.at(r.slot) && r.slot != t.slot {
			h.race(t, name, "writes", "read", r)
		}
	}
	x.write, x.reads = t.now(), x.reads[:0]
}

// race reports two accesses that nothing orders.
func (h *happens) race(t *Task, name, does, did string, other *access) {
	mine := t.now()
	t.Oops("data race on %s: %s; before, not ordered with it: %s", name, mine.describe(t.M, does), other.describe(t.M, did))
}

func (a *access) describe(m *Machine, verb string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "task %s ", a.task)
	if a.irq {
		b.WriteString("(in an interrupt) ")
	}
	fmt.Fprintf(&b, "%s it in ", verb)
	n := 0
	for n < len(a.pcs) && a.pcs[n] != 0 {
		n++
	}
	frames := runtime.CallersFrames(a.pcs[:n])
	sep := ""
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if name := f.Function[strings.LastIndexByte(f.Function, '.')+1:]; name != "ReadOf" && name != "WriteOf" {
			b.WriteString(sep + name)
			sep = " < "
		}
	}
	b.WriteString(", holding ")
	for i, o := range a.held {
		switch {
		case o == 0 && i == 0:
			b.WriteString("no locks")
		case o == 0:
		case i > 0:
			b.WriteString(", " + m.ObjName(o))
		default:
			b.WriteString(m.ObjName(o))
		}
	}
	return b.String()
}
