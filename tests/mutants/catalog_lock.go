package mutants

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// lockMutants are mistakes with locks and wait queues.
func lockMutants() []*Mutant {
	return []*Mutant{
		{
			Name: "locks in the wrong order", Where: "anon_vma_prepare", Break: mm.BreakLockOrder,
			Program: func(t *kernel.Thread, r *Run) {
				r.Begin()
				t.Store64(t.MustMmap(pageSize), 1)
			},
		},
		{
			Name: "the condition is tested before prepare_to_wait", Where: "a driver", Wrong: true,
			Program: func(t *kernel.Thread, r *Run) { waitAndWake(t, r, r.Wrong, false) },
		},
		{
			Name: "waitqueue_active without a barrier", Where: "a driver", Wrong: true,
			Options: kernel.Options{TSO: true},
			Program: func(t *kernel.Thread, r *Run) { waitAndWake(t, r, false, r.Wrong) },
		},
	}
}

// waitAndWake has a thread wait for a flag that another one sets. late tests the flag
// before the thread is on the queue only; noBarrier looks whether anybody waits without a
// barrier behind the store of the flag.
func waitAndWake(t *kernel.Thread, r *Run, late, noBarrier bool) {
	var q lock.WaitQueue
	var flag x86.Word32
	m := t.Machine().Sched()
	q.Init(m)
	obj := m.NewObj(x86.ClassWord)
	r.Begin()
	w := t.Go("waiter", func(w *kernel.Thread) {
		r.must(w.Kernel(func(task *sched.Task) error {
			if !late {
				q.WaitEvent(task, func() bool { return flag.Peek() != 0 })
				return nil
			}
			if flag.Load(task.C, obj) == 0 {
				q.Prepare(task, sched.TaskUninterruptible)
				task.Schedule()
				q.Finish(task)
			}
			return nil
		}))
	})
	r.must(t.Kernel(func(task *sched.Task) error {
		flag.Store(task.C, obj, 1)
		if !noBarrier {
			task.C.Fence()
		}
		task.Point(x86.OpRead, q.Obj())
		if !q.Empty() {
			q.Wake(task)
		}
		return nil
	}))
	r.must(t.Join(w))
}
