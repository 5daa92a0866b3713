package mm

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// NewSystem makes the memory manager of m, over the pages of pm, and takes the
// TLB-flush interrupts. Boot time only, once for each machine.
func NewSystem(m *sched.Machine, pm *page.Map, o Options) (*System, error) {
	if m.Local != nil {
		return nil, fmt.Errorf("mm: the machine has a memory manager already")
	}
	if pm.Machine() != m {
		return nil, fmt.Errorf("mm: the page map belongs to another machine")
	}
	s := &System{M: m, Mem: pm.Memory(), Pages: pm, policy: o.Policy, options: o, breaks: o.Break}
	if s.policy == nil {
		s.policy = Stock{}
	}
	s.hooks = s.policy.Hooks()
	s.commit.hugetlb = s.hugetlbTotalPages
	if o.ForceHooks {
		s.hooks |= AllHooks &^ HookHugeRmap
	}
	if s.Broken(BreakGUPFastIRQ) {
		s.hooks |= hookBroken
	}
	if s.hooks&HookPageFree != 0 {
		pm.OnFree = s.policy.PageFree
	}
	m.Local = s
	s.tlb.init(s)
	s.anon.init(s)
	s.spaces.init(s)
	s.swap.init(s)
	s.huge.init(s)
	s.scan.init(s)
	s.allLocks.Init(m, lock.MMAllLocks)
	s.ksm.init(s)
	s.ksm.countFirst = s.Broken(BreakKSMCount)
	return s, nil
}

// maxNested is how many faults a task may be in the middle of: one of its own,
// and those that a policy raises while it handles that one.
const maxNested = 3

// taskState is what the memory manager keeps of a task: task_struct's mm, and room
// for the structures of an operation in progress. They would escape to the heap
// from a stack frame, and the hot paths must not allocate.
type taskState struct {
	sys *System // immutable
	mm  *MM     // current->mm, nil for a kernel thread. Owner.

	faults [maxNested]Fault // owner
	depth  int              // faults in use; owner
	fork   Fork             // owner
	gather mmuGather        // owner
	gup    GUP              // owner
	fast   Fast             // owner
	scan   scanControl      // owner
	huge   []x86.PFN        // pages that unmapHugepages collects; owner

	// memalloc is set while the task frees memory (PF_MEMALLOC): it must not begin to
	// do so again, and may have the last page. Owner.
	memalloc bool
}

// NewTaskState returns the value for Task.Local of a task in address space m (nil
// for a kernel thread), which must be set before the task starts.
func NewTaskState(s *System, m *MM) any { return &taskState{sys: s, mm: m} }

// InitTask gives a task that has not started its address space: Ctx and Local. The
// caller has taken a reference on m's Users for the task (see MMGet).
func (s *System) InitTask(t *sched.Task, m *MM) {
	t.Local = NewTaskState(s, m)
	if m != nil {
		t.Ctx = m
	}
}

// stateOf returns the task's state; tasks that nobody prepared (idle tasks,
// kernel threads) get one when they first need it.
func stateOf(t *sched.Task) *taskState {
	if ts, ok := t.Local.(*taskState); ok {
		return ts
	}
	ts := &taskState{sys: t.M.Local.(*System)}
	t.Local = ts
	return ts
}

// SystemOf returns the memory manager of the task's machine. It works in interrupt
// handlers, whatever task they interrupted.
func SystemOf(t *sched.Task) *System { return t.M.Local.(*System) }

// CurrentMM returns the task's own address space (current->mm), nil for a kernel
// thread.
func CurrentMM(t *sched.Task) *MM { return stateOf(t).mm }

// fault returns a Fault to use; endFault gives it back. Faults nest.
func (ts *taskState) fault() *Fault {
	ts.depth++
	if ts.depth > maxNested {
		return new(Fault)
	}
	return &ts.faults[ts.depth-1]
}

func (ts *taskState) endFault() { ts.depth-- }

// Hooks returns the set of the policy's methods that are called.
func (s *System) Hooks() HookSet { return s.hooks }

// mmList is the machine's address spaces: for invariants and reports. It is the
// tool's, not the machine's: Linux keeps only those that have swap entries.
type mmList struct {
	lock x86.RawSpin
	last uint32         // protected by lock
	all  map[uint32]*MM // by ID; protected by lock
}

func (l *mmList) add(m *MM) {
	l.lock.Lock()
	if l.all == nil {
		l.all = make(map[uint32]*MM)
	}
	l.last++
	m.ID = l.last
	l.all[m.ID] = m
	l.lock.Unlock()
}

func (l *mmList) remove(m *MM) {
	l.lock.Lock()
	delete(l.all, m.ID)
	l.lock.Unlock()
}

// MMs returns the address spaces whose structure is still referenced, in the order
// in which they were made.
func (s *System) MMs() []*MM {
	l := &s.mms
	l.lock.Lock()
	out := make([]*MM, 0, len(l.all))
	for id := uint32(1); id <= l.last && len(out) < len(l.all); id++ {
		if m := l.all[id]; m != nil {
			out = append(out, m)
		}
	}
	l.lock.Unlock()
	return out
}

// initLocks prepares the locks of a new address space.
func (m *MM) initLocks(s *System) {
	m.MmapSem.Init(s.M, lock.MmapSem)
	m.PageTableLock.Init(s.M, lock.PageTableLock)
	m.obj = s.M.NewObj(x86.ClassWord)
}
