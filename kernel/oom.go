package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// Running out of memory: Linux 2.6.29 mm/oom_kill.c.
//
//	allocator --> reclaim frees nothing --> out_of_memory: whoever scores highest, or a
//	                                        child of his, is killed; try again
//	          --> still nothing, for the one being killed, or for lack of anybody:
//	              the allocation fails --> a system call returns ENOMEM
//	                                   --> a page fault kills the process whose it is
//
// The last is not what Linux 2.6.29 arch/x86/mm/fault.c:do_page_fault does, which calls
// pagefault_out_of_memory for another victim and takes the fault again. It is reached when
// an allocation is made to fail, and who dies then should be a property of the
// failure.

// oomNap is how long who invoked the killer waits for the victim to die.
const oomNap = 4_000_000

// Victim is a process that was killed because memory ran out.
type Victim struct {
	PID  int
	Name string
	// Pages is how many pages the process had mapped.
	Pages uint64
	// FreePages is how many pages the allocator had left.
	FreePages uint64
	// Score is the badness of the process, 0 if it was not the OOM killer's choice but its
	// own fault that failed. Chosen is the process with the highest score, which may be
	// the victim's parent. By is the task that needed memory.
	Score  uint64
	Chosen int
	By     string
	// Report is what the kernel prints: who asked for what, the state of memory, the
	// processes, and who is killed. Empty if no OOM killer ran.
	Report string
}

// String is the report that the kernel would print.
func (v Victim) String() string {
	if v.Score == 0 {
		return fmt.Sprintf("VM: killing process %d (%s): %d pages mapped, %d pages free", v.PID, v.Name, v.Pages, v.FreePages)
	}
	return fmt.Sprintf("%s invoked oom-killer: kill process %d score %d or a child: killed process %d (%s), %d pages mapped, %d pages free",
		v.By, v.Chosen, v.Score, v.PID, v.Name, v.Pages, v.FreePages)
}

// outOfMemory records that the thread's process is about to be killed because its fault
// could not be served.
func (t *Thread) outOfMemory() {
	task, m := t.task, t.m
	if t.p.space != nil && t.p.space.Memdie() {
		return // the killer has chosen it and said so
	}
	task.User = false
	m.recordVictim(task, Victim{PID: t.p.pid, Name: t.p.name, By: task.Name}, t.p.space)
	task.User = true
}

func (m *Machine) recordVictim(t *sched.Task, v Victim, space *mm.MM) {
	t.C.Trace.Inc(trace.EmuOOMKills)
	v.FreePages = m.pages.FreePages()
	if space != nil {
		v.Pages = space.AnonRSS.Peek() + space.FileRSS.Peek()
	}
	t.C.Trace.Event(trace.EvOOMKill, t.C.Now(), uint64(v.PID), v.Score, v.Pages)
	m.tasklist.Lock(t)
	m.victims = append(m.victims, v)
	m.tasklist.Unlock(t)
}

// racySpace reads the address space of a process that may be ending (task_lock in Linux).
//
//go:norace
func (p *Process) racySpace() *mm.MM { return p.space }

// racyExiting says whether the process is being ended, without its lock.
//
//go:norace
func (p *Process) racyExiting() bool { return p.groupExiting }

// racyCPU is where the process's first thread ran last (task_cpu).
//
//go:norace
func (p *Process) racyCPU() int {
	if len(p.threads) == 0 || p.threads[0].task == nil || p.threads[0].task.C == nil {
		return 0
	}
	return p.threads[0].task.C.ID
}

// badness says how much would be won, and lost, by killing p: Linux 2.6.29
// mm/oom_kill.c:badness. The size of its address space, and half of those of its
// children; a quarter of a quarter of it for root, and without limit for who turns swap off. What Linux takes
// off for processes that have run long, from ten seconds of processor and 17 minutes of
// life on, there is not: no machine runs that long. The caller holds tasklist.
func (p *Process) badnessLocked(space *mm.MM) uint64 {
	if space.SwappingOff() {
		return ^uint64(0)
	}
	points := space.RacyTotalVM()
	for c := p.child; c != nil; c = c.older {
		if s := c.racySpace(); s != nil && s != space {
			points += s.RacyTotalVM()/2 + 1
		}
	}
	if space.Limits.Unprivileged {
		return points
	}
	return points / 4 / 4
}

// selectBadProcess returns the process to kill, nil if there is none; wait says that
// somebody is dying already and will give his memory back (select_bad_process). There is
// no process that cannot be chosen: number 1 is a program like any other. The caller
// holds tasklist.
func (m *Machine) selectBadProcessLocked(current *Process) (worst *Process, score uint64, wait bool) {
	m.eachProcess(func(p *Process) {
		space := p.racySpace()
		if space == nil || wait {
			return
		}
		points := uint64(0)
		switch {
		case space.Memdie():
			wait = true
			return
		case p.racyExiting():
			if p != current {
				wait = true
				return
			}
			points = ^uint64(0)
		default:
			points = p.badnessLocked(space)
		}
		if worst == nil || points > score || points == score && p.pid < worst.pid {
			worst, score = p, points
		}
	})
	return worst, score, wait
}

// nobody is the uid of processes without root's capabilities, which have no other.
const nobody = 65534

// uidOf is whose a process is, as far as there are users.
func uidOf(s *mm.MM) int {
	if s.Limits.Unprivileged {
		return nobody
	}
	return 0
}

// oomReport is the text that oom_kill_process and those it calls print, with
// vm.oom_dump_tasks set; without the back trace.
func (m *Machine) oomReport(t *sched.Task, gfp page.GFP, order int, chosen, victim *Process, score uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s invoked oom-killer: gfp_mask=%#x, order=%d, oom_adj=0\n", t.Name, uint32(gfp), order)
	m.sys.ShowMem(&b)
	b.WriteString("[ pid ]   uid  tgid total_vm      rss cpu oom_adj name\n")
	var all []*Process
	m.tasklist.Lock(t)
	m.eachProcess(func(p *Process) { all = append(all, p) })
	slices.SortFunc(all, func(a, b *Process) int { return a.pid - b.pid })
	for _, p := range all {
		if s := p.racySpace(); s != nil {
			fmt.Fprintf(&b, "[%5d] %5d %5d %8d %8d %3d     %3d %s\n",
				p.pid, uidOf(s), p.pid, s.RacyTotalVM(), s.AnonRSS.Peek()+s.FileRSS.Peek(), p.racyCPU(), 0, p.name)
		}
	}
	m.tasklist.Unlock(t)
	if !chosen.racyExiting() {
		fmt.Fprintf(&b, "Out of memory: kill process %d (%s) score %d or a child\n", chosen.pid, chosen.name, score)
		fmt.Fprintf(&b, "Killed process %d (%s)\n", victim.pid, victim.name)
	}
	return b.String()
}

// outOfMemoryKill is the allocator's last resort (out_of_memory): it kills a process and
// waits a moment. False means that there is nobody to kill.
func (m *Machine) outOfMemoryKill(t *sched.Task, gfp page.GFP, order int) bool {
	var current *Process
	if s := mm.CurrentMM(t); s != nil {
		current, _ = s.Owner.(*Process)
	}
	m.tasklist.Lock(t)
	chosen, score, wait := m.selectBadProcessLocked(current)
	var victim *Process
	var space *mm.MM
	var sharers []*Process
	if chosen != nil && !wait {
		victim, space = chosen, chosen.racySpace()
		// A child first, unless the process is ending anyway.
		for c := chosen.child; c != nil && !chosen.racyExiting(); c = c.older {
			if s := c.racySpace(); s != nil && s != chosen.racySpace() && (victim == chosen || c.pid < victim.pid) {
				victim, space = c, s
			}
		}
		m.eachProcess(func(p *Process) {
			if p != victim && p.racySpace() == space {
				sharers = append(sharers, p)
			}
		})
	}
	m.tasklist.Unlock(t)
	if victim == nil || space == nil {
		if wait {
			m.pages.SleepUninterruptible(t, oomNap)
		}
		return wait
	}
	space.SetMemdie()
	m.recordVictim(t, Victim{PID: victim.pid, Name: victim.name, Score: max(score, 1), Chosen: chosen.pid, By: t.Name,
		Report: m.oomReport(t, gfp, order, chosen, victim, score)}, space)
	kill := SigInfo{Signal: SIGKILL}
	victim.sendSignal(t, nil, kill)
	for _, p := range sharers {
		p.sendSignal(t, nil, kill)
	}
	if victim != current {
		m.pages.SleepUninterruptible(t, oomNap)
	}
	return true
}
