package kernel

import (
	"github.com/cowlab/cowlab/kernel/trace"
)

// Running out of memory. A system call that needs memory and gets none fails with
// ENOMEM. A page fault has nobody to tell, so the process whose fault it is gets
// killed. That is not what Linux 2.6.29 arch/x86/mm/fault.c:do_page_fault does: it
// calls pagefault_out_of_memory, which kills a victim of the OOM killer's choice, and
// takes the fault again. There is no OOM killer yet that looks for a better victim:
// who dies is then a property of the schedule alone, which keeps verdicts comparable
// between policies.

// Victim is a process that was killed because memory ran out.
type Victim struct {
	PID  int
	Name string
	// Pages is how many pages the process had mapped.
	Pages uint64
	// FreePages is how many pages the allocator had left.
	FreePages uint64
}

// outOfMemory records that the thread's process is about to be killed.
func (t *Thread) outOfMemory() {
	task, m := t.task, t.m
	task.User = false
	c := task.C
	c.Trace.Inc(trace.EmuOOMKills)
	v := Victim{PID: t.p.pid, Name: t.p.name, FreePages: m.pages.FreePages()}
	if s := t.p.space; s != nil {
		v.Pages = s.AnonRSS.Peek() + s.FileRSS.Peek()
	}
	m.tasklist.Lock(task)
	m.victims = append(m.victims, v)
	m.tasklist.Unlock(task)
	task.User = true
}
