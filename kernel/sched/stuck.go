package sched

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// StuckError says that a task of a machine blocks in Go, or loops in Go for ever. Go cannot
// interrupt it: the goroutine stays behind, and whoever gets the error had better come to an end.
type StuckError struct {
	// Detail names the tasks and their CPUs, and shows what Go executes.
	Detail string
}

// Error implements error.
func (e *StuckError) Error() string { return "stuck: " + strings.TrimSuffix(e.Detail, "\n") }

// Stuck returns a *StuckError if the machine ended so, else nil.
func (r *Result) Stuck() error {
	if r == nil || r.Reason != Stuck {
		return nil
	}
	return &StuckError{r.Detail}
}

// FirstRuns says which runs of a search are watched: the first ones. A goroutine and a timer for
// each would take a fifth of a search's speed, and a policy that loops or blocks in Go mostly
// does so soon. The zero value is ready, for any number of goroutines.
type FirstRuns struct{ n atomic.Int64 }

// watchedRuns is how many those are.
const watchedRuns = 64

// Watchdog returns the Watchdog of one more run: zero, which is the default, or NoWatchdog.
func (f *FirstRuns) Watchdog() time.Duration {
	if f.n.Load() < watchedRuns && f.n.Add(1) <= watchedRuns {
		return 0
	}
	return NoWatchdog
}

// runningTasks names the tasks that have a CPU, with the Go stacks of those that execute.
func (m *Machine) runningTasks() string {
	stacks := taskStacks(allStacks())
	var b strings.Builder
	m.tasksLock.Lock()
	for _, c := range m.cpus {
		t := m.tasks[int(c.running.Peek())]
		if t == nil {
			continue
		}
		fmt.Fprintf(&b, "  cpu %d runs task %d %s\n", c.ID, t.ID, t.Name)
		for _, s := range stacks {
			if strings.Contains(s, fmt.Sprintf("%p", t)) { // arguments are printed, and every kernel function has the task
				b.WriteString("    " + strings.ReplaceAll(s, "\n", "\n    ") + "\n")
			}
		}
	}
	m.tasksLock.Unlock()
	return b.String()
}

// allStacks are the stacks of all goroutines, as runtime.Stack prints them.
func allStacks() string {
	for n := 1 << 20; ; n *= 2 {
		buf := make([]byte, n)
		if used := runtime.Stack(buf, true); used < n || n >= 1<<26 {
			return string(buf[:used])
		}
	}
}

// taskStacks picks out the goroutines that are tasks in the middle of something: a task that
// has yielded waits as a coroutine.
func taskStacks(all string) (stacks []string) {
	for s := range strings.SplitSeq(all, "\n\n") {
		head, _, _ := strings.Cut(s, "\n")
		if strings.Contains(head, "[coroutine") || !strings.Contains(s, "sched.(*Task).main") {
			continue
		}
		s, _, _ = strings.Cut(s, "\niter.Pull[...].func1(") // what runs the task is of no interest
		stacks = append(stacks, strings.TrimSpace(s))
	}
	return stacks
}
