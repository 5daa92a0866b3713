package sched

import (
	"fmt"
	"sort"
	"strings"
)

// A deadlock in which somebody waits for what has come true is a missed wake-up: whoever
// made it true did not see him wait, or he looked too early. When a deterministic machine
// has come to a stop, it wakes everybody who sleeps in a WaitEvent once more, so that he
// looks at his condition again; then he goes back to sleep.

// InEvent says that the task is about to sleep until a condition holds, and that a
// spurious wake-up makes it look again; see Recheck.
func (t *Task) InEvent(in bool) { t.event = in }

// Recheck is called by a task that waits for a condition and has found that it holds. It
// reports true if the machine only wanted to know: the task then sleeps on.
func (t *Task) Recheck() bool {
	if !t.M.probing {
		return false
	}
	t.missed = true
	return true
}

// probe finds out who has missed a wake-up. The machine stands still.
func (m *Machine) probe() (missed []string) {
	var waiting []*Task
	m.tasksLock.Lock()
	for _, t := range m.tasks {
		if t.event && t.State() != TaskRunning {
			waiting = append(waiting, t)
		}
	}
	m.tasksLock.Unlock()
	if len(waiting) == 0 {
		return nil
	}
	sort.Slice(waiting, func(i, j int) bool { return waiting[i].ID < waiting[j].ID })
	observer := m.observer
	m.probing, m.observer = true, nil
	for _, t := range waiting {
		t.missed = false
		m.wake(nil, t, false)
	}
	m.runDet()
	m.probing, m.observer = false, observer
	for _, t := range waiting {
		if t.missed {
			missed = append(missed, fmt.Sprintf("task %d %s missed a wake-up: what it waits for at %s holds", t.ID, t.Name, m.ObjName(t.waitObj)))
		}
	}
	return missed
}

// deadlock describes a machine in which nothing can happen any more.
func (m *Machine) deadlock() string {
	var b strings.Builder
	b.WriteString("nothing can happen any more\n")
	if m.det {
		for _, s := range m.probe() {
			b.WriteString("  " + s + "\n")
		}
	}
	m.describeTasks(&b)
	return b.String()
}
