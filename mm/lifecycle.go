package mm

import (
	"github.com/google/btree"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// vmaDegree is the degree of a VMA tree: up to 63 VMAs are one sorted array.
const vmaDegree = 32

// NewMM makes an empty address space with one user and one reference: mm_alloc
// and mm_init. The only error is ENOMEM. The layout (brk, mmap base, stack) is the
// caller's to set.
func (s *System) NewMM(t *sched.Task) (*MM, error) {
	if s.Pages.FailSite(t, "mm_struct") {
		return nil, unix.ENOMEM
	}
	m := &MM{Sys: s}
	m.initLocks(s)
	m.vmas = btree.NewG(vmaDegree, vmaLess)
	m.Users.Poke(1)
	m.Refs.Poke(1)
	m.MmapBase = x86.TaskSize
	m.StackTop = x86.TaskSize
	p := s.Pages.Alloc(t, page.GFPKernel|page.GFPRepeat|page.GFPZero, 0, "pgd_alloc")
	if p == nil {
		return nil, unix.ENOMEM
	}
	s.Pages.Relabel(t, p, page.RefTemp, page.RefKernel, 1)
	m.PGD = s.Pages.PFN(p)
	s.mms.add(m)
	if s.hooks&HookMM != 0 {
		s.policy.MMInit(t, m)
	}
	return m, nil
}

// MMGet takes a reference on the address space's users (atomic_inc of mm_users):
// for a thread, or for whoever works on another task's memory.
//
// Preconditions:
//   - the caller knows of a user that cannot go away meanwhile
func (m *MM) MMGet(t *sched.Task) { m.Users.Add(t.C, m.usersObj(), 1) }

// MMPut drops a user (mmput); the last one takes the mappings down. It may sleep.
func (m *MM) MMPut(t *sched.Task) {
	if t.PreemptDisabled() {
		t.Oops("mmput may sleep, but preemption is disabled")
	}
	if m.Users.AddReturn(t.C, m.usersObj(), -1) == 0 {
		m.ksmExit(t)
		m.exitMmap(t)
		m.Sys.mmlistDel(t, m)
		m.MMDrop(t)
	}
}

// MMPutAtomic is mmput where the task may not sleep: for a patch that calls it in an
// interrupt handler. That goes well unless this is the last user, whose mappings cannot be
// taken down there.
func (m *MM) MMPutAtomic(t *sched.Task) {
	if m.Users.AddReturn(t.C, m.usersObj(), -1) == 0 {
		t.Oops("mmput of the last user of address space %d may sleep, but preemption is disabled", m.ID)
	}
}

// MMGrab takes a reference on the structure alone (atomic_inc of mm_count): the
// mappings may go, the MM and its top-level table stay.
func (m *MM) MMGrab(t *sched.Task) { m.Refs.Add(t.C, m.obj, 1) }

// MMDrop drops such a reference (mmdrop); the last one frees the structure. It may
// be called in interrupt context.
func (m *MM) MMDrop(t *sched.Task) {
	if n := m.Refs.AddReturn(t.C, m.obj, -1); n > 0 {
		return
	} else if n < 0 {
		t.Oops("mmdrop: address space %d has no references", m.ID)
	}
	s := m.Sys
	if s.hooks&HookMM != 0 {
		s.policy.MMExit(t, m)
	}
	m.mmuNotifierDestroy(t)
	s.mms.remove(m)
	s.Pages.PutAs(t, s.Pages.Page(m.PGD), page.RefKernel)
	m.PGD = 0
}

// exitMmap takes every mapping and page table down; nobody uses the address space
// any more, though CPUs may still have it loaded lazily, and rmap may look at its
// ptes until the VMAs leave their lists.
func (m *MM) exitMmap(t *sched.Task) {
	s := m.Sys
	m.mmuNotifierRelease(t)
	if m.MapCount == 0 {
		return
	}
	vmas := make([]*VMA, 0, m.MapCount)
	m.EachVMA(0, func(v *VMA) bool {
		vmas = append(vmas, v)
		return true
	})
	if m.LockedVM != 0 {
		for _, v := range vmas {
			if v.Flags&VMLocked != 0 {
				m.munlockVMAPagesAll(t, v)
			}
		}
	}
	s.Pages.LRUAddDrain(t)
	g := s.tlbGather(t, m, true)
	m.unmapVmas(t, g, vmas, 0, x86.TaskSize)
	m.freePgtables(t, g, vmas, 0, 0)
	g.finish(t)
	for _, v := range vmas {
		s.removeVMA(t, v)
	}
	m.dropTree()
	if m.NrPTEs != 0 {
		t.Oops("exit_mmap: address space %d has %d page tables left", m.ID, m.NrPTEs)
	}
	t.C.Trace.Inc(trace.EmuExit)
}

// SetMemdie lets the threads of an address space have the last pages, so that they can
// die; Memdie reports it (TIF_MEMDIE, which is one thread's).
func (m *MM) SetMemdie() { m.memdie.Poke(1) }

// Memdie reports whether SetMemdie was called.
func (m *MM) Memdie() bool { return m.memdie.Peek() != 0 }

// SwappingOff reports whether a thread of the address space turns swap off, which makes it
// the OOM killer's first choice (PF_SWAPOFF).
func (m *MM) SwappingOff() bool { return m.swapoff.Peek() != 0 }

// RacyTotalVM is TotalVM for the OOM killer, which does not hold MmapSem.
//
//go:norace
func (m *MM) RacyTotalVM() uint64 { return m.TotalVM }

// UseMM makes a kernel thread work in m (use_mm). The caller has a user reference.
//
// Preconditions:
//   - the task has no address space of its own
func (m *MM) UseMM(t *sched.Task) {
	ts := stateOf(t)
	if ts.mm != nil {
		t.Oops("use_mm: task has address space %d", ts.mm.ID)
	}
	m.activate(t, ts)
}

// ActivateMM gives the running task another address space, as exec does
// (activate_mm). The user reference on m becomes the task's; the one on the old
// address space, which is returned, becomes the caller's to put. It is nil for a
// task that had none.
func (m *MM) ActivateMM(t *sched.Task) (old *MM) {
	ts := stateOf(t)
	old = ts.mm
	m.activate(t, ts)
	return old
}

func (m *MM) activate(t *sched.Task, ts *taskState) {
	off := t.C.IRQSave()
	ts.mm, t.Ctx = m, m
	m.SwitchIn(t.C)
	t.C.IRQRestore(off)
}

// DropMM leaves the running task without an address space of its own (exit_mm,
// unuse_mm): the CPU goes on with the tables it has, lazily. The task's user
// reference is the caller's to put.
func DropMM(t *sched.Task) *MM {
	ts := stateOf(t)
	m := ts.mm
	if m == nil {
		return nil
	}
	off := t.C.IRQSave()
	ts.mm, t.Ctx = nil, nil
	m.Lazy(t.C)
	t.C.IRQRestore(off)
	return m
}

// ExitMM is DropMM and the put: what a task does when it ends.
func ExitMM(t *sched.Task) {
	if m := DropMM(t); m != nil {
		m.MMPut(t)
	}
}
