package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Stacks: VMAs that grow down to an address that is touched below them. Linux 2.6.29
// mm/mmap.c.

// DefaultStack is RLIMIT_STACK where nobody has set it.
const DefaultStack = 8 << 20

// expandStack makes v, which lies above addr, begin at addr's page (expand_stack,
// expand_downwards).
//
//   - ENOMEM: RLIMIT_STACK, RLIMIT_AS, RLIMIT_MEMLOCK, too little memory, or the
//     guard below the stack
//   - EPERM: addr is among the lowest addresses
//
// Preconditions:
//   - mmap_sem is held, for reading at least
//   - v.Flags has VMGrowsDown, and nothing is mapped between addr and v
//
// The bounds change though mmap_sem is only held for reading: the anon_vma's lock keeps
// two threads from growing a stack at once, and rmap from being confused. Somebody who
// looks for a VMA meanwhile finds the old bounds or the new.
func expandStack(t *sched.Task, v *VMA, addr uint64) error {
	if err := AnonVMAPrepare(t, v); err != nil {
		return err
	}
	addr &= x86.PageMask
	if addr < mmapMinAddr {
		return unix.EPERM
	}
	m := v.MM
	_, prev := m.findVMAPrev(t, addr)
	a := v.anonVMA()
	a.Lock.Lock(t)
	var err error
	if addr < v.Start {
		if err = m.acctStackGrowth(v, prev, addr); err == nil {
			t.C.Touch(m.stackObj(), x86.AccWrite)
			v.growDown(addr)
		}
	}
	a.Lock.Unlock(t)
	return err
}

// growDown sets the new bounds and the counts. It is apart because readers of
// v.Start race with it on purpose; and, as in Linux, two stacks that grow at the same
// time may miscount.
//
//go:norace
func (v *VMA) growDown(addr uint64) {
	grow := (v.Start - addr) >> x86.PageShift
	v.Start = addr
	v.PgOff -= grow
	v.MM.TotalVM += grow
	if v.Flags&VMLocked != 0 {
		v.MM.LockedVM += grow
	}
}

// acctStackGrowth checks whether the stack v may begin at addr, prev being the VMA
// below, and charges for it (acct_stack_growth).
func (m *MM) acctStackGrowth(v, prev *VMA, addr uint64) error {
	grow := (v.Start - addr) >> x86.PageShift
	if !m.mayExpandVM(grow) || v.End-addr > limit(m.Limits.Stack, DefaultStack) {
		return unix.ENOMEM
	}
	if prev != nil && prev.Flags&VMGrowsDown == 0 && addr-prev.End < m.Limits.StackGuard {
		return unix.ENOMEM
	}
	if v.Flags&VMLocked != 0 && m.mayLock(grow<<x86.PageShift, false /* asked */) != nil {
		return unix.ENOMEM
	}
	// As in 2.6.29 the growth is charged whether the VMA is charged or not; what a mapping
	// made with MAP_GROWSDOWN and MAP_NORESERVE grows by is never given back.
	return m.Sys.vmEnoughMemory(m, grow)
}

// findExtendVMA returns the VMA that contains addr, growing a stack down to it if
// need be; nil if there is none (find_extend_vma).
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func findExtendVMA(t *sched.Task, m *MM, addr uint64) *VMA {
	addr &= x86.PageMask
	v := m.findVMA(t, addr)
	if v == nil {
		return nil
	}
	start := v.Start
	if start <= addr {
		return v
	}
	if v.Flags&VMGrowsDown == 0 || expandStack(t, v, addr) != nil {
		return nil
	}
	if v.Flags&VMLocked != 0 {
		m.mlockVMAPagesRange(t, v, addr, start)
	}
	return v
}
