package policytest

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// TestNothingIsTestedAfterAStuckMachine has a program wait in Go for ever: whenever the watchdog
// looks, that is what it finds. Each check gives up, and those after the first run nothing.
func TestNothingIsTestedAfterAStuckMachine(t *testing.T) {
	for name, check := range map[string]func(*suite) []Problem{
		"races": (*suite).races, "invariants": (*suite).invariants, "repeat": (*suite).repeat, "no_memory": (*suite).noMemory,
	} {
		t.Run(name, func(t *testing.T) {
			end := make(chan struct{})
			defer close(end)
			var mu sync.Mutex
			runs := 0
			w := *workload.Lookup("pin_fork")
			w.Tune = func(_ workload.Values, o *kernel.Options) {
				mu.Lock()
				runs++
				mu.Unlock()
				o.Watchdog = 40 * time.Millisecond
			}
			w.Main = func(*kernel.Thread, *workload.Run) { <-end }
			s := newSuite(t.Context(), base{}, Options{Short: true, Workloads: []*workload.Workload{&w, &w}})
			s.hosts = kernel.NewHosts()
			_ = check(s)
			require.Error(t, s.gaveUp(nil))
			assert.ErrorContains(t, s.gaveUp(nil), "a task blocks in Go")
			assert.Less(t, runs, 10)
			runs = 0
			assert.NotNil(t, s.repeat(), "they say why they saw nothing")
			assert.Zero(t, runs)
		})
	}
}

// relocker takes a spinlock that it holds.
type relocker struct{ base }

func (relocker) Hooks() mm.HookSet { return mm.HookForkPTE }
func (relocker) ForkPTE(f *mm.Fork) mm.ForkNext {
	f.Lock()
	return f.CopyOnePTE()
}

// sleeper goes to sleep with the ptls held, and nobody wakes it.
type sleeper struct{ base }

func (sleeper) Hooks() mm.HookSet { return mm.HookForkPTE }
func (sleeper) ForkPTE(f *mm.Fork) mm.ForkNext {
	f.Unlock()
	f.T.SetState(sched.TaskUninterruptible)
	f.T.Schedule()
	f.Lock()
	return f.CopyOnePTE()
}

// forgetful returns with mmap_sem held for writing, by a thread that then ends.
type forgetful struct{ base }

func (forgetful) Hooks() mm.HookSet { return mm.HookForkRange }
func (forgetful) ForkEnd(f *mm.Fork) {
	f.Src.MmapSem.DownWrite(f.T)
}

// TestPoliciesThatHangAreFoundInParallelRuns: by the machine's state, and so as deadlocks and at once,
// where the limit of virtual time would say livelock.
func TestPoliciesThatHangAreFoundInParallelRuns(t *testing.T) {
	for name, p := range map[string]mm.Policy{"relocker": relocker{}, "sleeper": sleeper{}, "forgetful": forgetful{}} {
		t.Run(name, func(t *testing.T) {
			out, err := workload.Execute(workload.Lookup("forkscrew"), workload.Options{Policy: p, Regime: sched.Parallel})
			require.NoError(t, err)
			if out.Verdict == workload.Bug {
				assert.True(t, underRace, "%s", out.Result.Detail) // the lock checker is on, and sees it before
				return
			}
			assert.Equal(t, workload.Deadlock, out.Verdict, out.Result.Detail)
		})
	}
}
