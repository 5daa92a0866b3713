package explore

import (
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Sink is where a capture's Snapshot puts the machine's state, as text in tables.
type Sink interface {
	// Panel begins a table: its short name for commands, its title, how many of its
	// columns name a row, its columns. Each snapshot of a run begins the same tables in
	// the same order.
	Panel(id, title string, names int, columns ...string)
	// Row begins the row with the given key, by which rows are sorted: hi first. sum is
	// a digest of all that the row shows. If the result is false the row is as it was
	// before; else Cells must follow.
	Row(hi, lo, sum uint64) bool
	// Cells are the row's texts, one for each column.
	Cells(cells ...string)
}

// snapshotMachine puts what every machine has: processors, tasks with the locks they
// hold, and what devices and timers have yet to do.
func snapshotMachine(m *sched.Machine, to Sink) {
	row := func(hi, lo uint64, cells ...string) {
		if to.Row(hi, lo, xxhash.Sum64String(strings.Join(cells, "\x00"))) {
			to.Cells(cells...)
		}
	}
	to.Panel("tasks", "CPUs, tasks and locks", 1, "who", "is", "interrupts", "holds")
	for i := range m.CPUs() {
		c := m.CPU(i)
		does := "idle"
		holds := "-"
		if t := m.Current(c); t != nil {
			if t.ID > 0 {
				does = "runs " + t.Name
				if t.User {
					does += ", in user code"
				}
			}
			if t.InIRQ() {
				does += ", interrupted"
			}
			holds = heldBy(t)
		}
		irqs := "on"
		if c.IRQsDisabled() {
			irqs = "off"
		}
		if n := c.Pending(); n != 0 {
			irqs += fmt.Sprintf(", pending %#x", n)
		}
		row(0, uint64(i), fmt.Sprint("CPU ", i), does, irqs, holds)
	}
	m.EachTask(func(t *sched.Task) {
		state := "runnable"
		if t.State() != sched.TaskRunning {
			state = "asleep (" + t.State().String() + ")"
			if o := t.WaitsFor(); o != 0 {
				state += ", waits for " + m.ObjName(o)
			}
		}
		row(1, uint64(t.ID), fmt.Sprintf("task %d", t.ID), t.Name+", "+state, "", heldBy(t))
	})
	to.Panel("events", "Pending events", 1, "event", "of", "will do", "to")
	m.EachEvent(func(seq uint64, ev sched.Event) {
		row(0, seq, fmt.Sprint("event ", seq), ev.Name(), ev.Op().String(), m.ObjName(ev.Obj()))
	})
}

// heldBy lists the locks that a task holds, "-" if none.
func heldBy(t *sched.Task) string {
	var names []string
	for _, h := range t.Held[:t.NumHeld] {
		n := h.Name
		if h.Read {
			n += " (read)"
		}
		names = append(names, n)
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}
