package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// tlbState is what the machine knows of its CPUs' TLBs, and the mailboxes of
// flushes. Linux 2.6.29 arch/x86/kernel/tlb_64.c.
type tlbState struct {
	sys   *System
	cpus  []cpuTLB
	slots [x86.NumFlushVectors]flushSlot
}

// cpuTLB says what a CPU has loaded: active_mm and mmu_state. Only the CPU itself
// touches it, with interrupts disabled or in a handler.
type cpuTLB struct {
	active *MM
	// lazy is TLBSTATE_LAZY: the CPU runs a kernel thread and only borrows active.
	lazy bool
	// borrowed is set while the CPU holds one of active's Refs, as active_mm of a
	// kernel thread does.
	borrowed bool

	_ [48]byte
}

// flushSlot is the mailbox of one sender vector. Sending CPUs share the eight of
// them by number.
type flushSlot struct {
	lock lock.SpinLock
	mm   *MM    // whose entries to flush, nil for everybody's; protected by lock
	va   uint64 // address, or trace.TLBAll; protected by lock
	from int    // sender's CPU; protected by lock
	// mask has a bit for each CPU that has not flushed yet. Atomic.
	mask x86.Word64
	obj  x86.ObjID // names mask; immutable

	_ [48]byte
}

func (ts *tlbState) init(s *System) {
	ts.sys = s
	ts.cpus = make([]cpuTLB, s.M.CPUs())
	for i := range ts.slots {
		f := &ts.slots[i]
		f.lock.Init(s.M, lock.FlushSlot)
		f.obj = s.M.NewObj(x86.ClassWord)
		v := x86.VecFlush0 + x86.Vector(i)
		s.M.RegisterIRQ(v, func(t *sched.Task) { s.invalidateInterrupt(t, f, v) })
	}
}

// SwitchIn makes m the CPU's active address space (switch_mm). It implements
// sched.Context.
//
// The bit in the new mask is set before the tables are loaded, so that no flush
// that begins later misses this CPU; the bit in the old one is cleared before,
// because from here on this CPU uses no translation of the old space.
func (m *MM) SwitchIn(c *x86.CPU) {
	cs := &m.Sys.tlb.cpus[c.ID]
	bit := uint64(1) << c.ID
	prev := cs.active
	if prev == m {
		cs.lazy = false
		if m.CPUMask.Or(c, m.maskObj(), bit)&bit == 0 {
			// leave_mm was here: the tables are no longer loaded.
			m.loadCR3(c)
		}
	} else {
		if prev != nil {
			prev.CPUMask.AndNot(c, prev.maskObj(), bit)
		}
		cs.active, cs.lazy = m, false
		m.CPUMask.Or(c, m.maskObj(), bit)
		m.loadCR3(c)
	}
	if cs.borrowed {
		cs.borrowed = false
		prev.MMDrop(m.Sys.M.Current(c))
	}
}

func (m *MM) loadCR3(c *x86.CPU) {
	before := c.Trace.Value(trace.EmuTLBFlushed)
	c.LoadCR3(m.PGD, m.ID)
	c.Trace.Event(trace.EvTLBFlush, c.Now(), trace.TLBAll, trace.FlushOnTaskSwitch, c.Trace.Value(trace.EmuTLBFlushed)-before)
}

// Lazy says that the CPU goes on without a user task and only borrows m
// (enter_lazy_tlb). It implements sched.Context. The CPU stays in the mask and
// keeps its TLB; the first flush that reaches it makes it leave.
func (m *MM) Lazy(c *x86.CPU) {
	cs := &m.Sys.tlb.cpus[c.ID]
	if cs.active != m || cs.borrowed {
		return
	}
	m.Refs.Add(c, m.obj, 1)
	cs.borrowed = true
	cs.lazy = true
}

// leaveMM takes a lazy CPU out of the mask of the address space it borrows, and
// its tables off the CPU (leave_mm).
func (s *System) leaveMM(t *sched.Task) {
	c := t.C
	cs := &s.tlb.cpus[c.ID]
	if !cs.lazy {
		t.Oops("leave_mm on a CPU whose task uses the address space")
	}
	cs.active.CPUMask.AndNot(c, cs.active.maskObj(), uint64(1)<<c.ID)
	c.LoadCR3(0, 0) // swapper_pg_dir: no user addresses
}

// invalidateInterrupt is the flush interrupt on a receiving CPU
// (smp_invalidate_interrupt).
func (s *System) invalidateInterrupt(t *sched.Task, f *flushSlot, v x86.Vector) {
	c := t.C
	bit := uint64(1) << c.ID
	c.Point(x86.OpRead, f.obj)
	if f.mask.Peek()&bit == 0 {
		return
	}
	from := uint64(f.from)
	c.Trace.Inc(trace.EmuTLBRemoteTaken)
	c.Trace.Event(trace.EvIPITake, c.Now(), uint64(v), from, 0)
	cs := &s.tlb.cpus[c.ID]
	if cs.active != nil && (f.mm == cs.active || f.mm == nil) {
		if cs.lazy {
			s.leaveMM(t)
		} else {
			flushLocal(c, f.va, trace.FlushRemoteShootdown)
		}
	}
	c.Point(x86.OpIPIAck, f.obj)
	c.Trace.Event(trace.EvIPIAck, c.Now(), from, uint64(v), 0)
	f.mask.RawAndNot(bit)
	c.Wrote(f.obj)
}

// flushLocal flushes this CPU's TLB, all of it or one address.
func flushLocal(c *x86.CPU, va uint64, reason uint64) {
	before := c.Trace.Value(trace.EmuTLBFlushed)
	if va == trace.TLBAll {
		c.FlushTLBAll()
	} else {
		c.FlushTLBOne(va)
	}
	c.Trace.Event(trace.EvTLBFlush, c.Now(), va, reason, c.Trace.Value(trace.EmuTLBFlushed)-before)
}

// FlushTLBMM flushes every translation of m on all CPUs (flush_tlb_mm). When it
// returns, no CPU uses one that was there before the call.
//
// Preconditions:
//   - interrupts are enabled: others may be waiting for this CPU
func (s *System) FlushTLBMM(t *sched.Task, m *MM) { s.flushTLB(t, m, trace.TLBAll) }

// FlushTLBRange is FlushTLBMM, as on x86-64 (flush_tlb_range).
func (s *System) FlushTLBRange(t *sched.Task, v *VMA, start, end uint64) {
	s.flushTLB(t, v.MM, trace.TLBAll)
}

// FlushTLBPage flushes the translations of one address (flush_tlb_page).
func (s *System) FlushTLBPage(t *sched.Task, v *VMA, va uint64) {
	s.flushTLB(t, v.MM, va&x86.PageMask)
}

func (s *System) flushTLB(t *sched.Task, m *MM, va uint64) {
	t.PreemptDisable()
	c := t.C
	cs := &s.tlb.cpus[c.ID]
	mask := m.CPUMask.Load(c, m.maskObj()) &^ (1 << c.ID)
	if cs.active == m {
		if !cs.lazy {
			reason := uint64(trace.FlushLocalShootdown)
			if va == trace.TLBAll {
				reason = trace.FlushLocalMMShootdown
			}
			flushLocal(c, va, reason)
		} else {
			s.leaveMM(t)
		}
	}
	if mask != 0 {
		s.flushTLBOthers(t, mask, m, va)
	}
	t.PreemptEnable()
}

// FlushTLBAll flushes everything everywhere (flush_tlb_all).
func (s *System) FlushTLBAll(t *sched.Task) {
	t.PreemptDisable()
	c := t.C
	if s.tlb.cpus[c.ID].lazy {
		s.leaveMM(t)
	} else {
		flushLocal(c, trace.TLBAll, trace.FlushLocalShootdown)
	}
	if others := (^uint64(0) >> (64 - s.M.CPUs())) &^ (1 << c.ID); others != 0 {
		s.flushTLBOthers(t, others, nil, trace.TLBAll)
	}
	t.PreemptEnable()
}

// flushTLBOthers sends the flush to the CPUs of mask and waits until all have done
// it (native_flush_tlb_others). m nil means whatever they have loaded.
//
// While it waits it takes interrupts itself: the CPU it waits for may be waiting
// for this one.
func (s *System) flushTLBOthers(t *sched.Task, mask uint64, m *MM, va uint64) {
	c := t.C
	if c.IRQsDisabled() {
		t.Oops("flush_tlb_others with interrupts disabled: the other CPU may wait for this one")
	}
	f := &s.tlb.slots[c.ID%x86.NumFlushVectors]
	v := x86.VecFlush0 + x86.Vector(c.ID%x86.NumFlushVectors)
	f.lock.Lock(t)
	f.mm, f.va, f.from = m, va, c.ID
	f.mask.Store(c, f.obj, f.mask.Peek()|mask)
	if !s.Broken(BreakFlushBarrier) {
		c.Fence() // the mailbox must be visible before the interrupt is
	}
	c.Trace.Inc(trace.EmuTLBRemoteFlush)
	c.Trace.Event(trace.EvTLBFlush, c.Now(), va, trace.FlushRemoteSend, 0)
	for i := 0; mask>>i != 0; i++ {
		if mask>>i&1 != 0 {
			c.SendIPI(s.M.CPU(i), v)
		}
	}
	if !c.Det || c.Account {
		c.Point(x86.OpRead, f.obj) // a search has the point of the wait
	}
	for n := 1; f.mask.Peek() != 0; n++ {
		c.SpinWait(f.obj, n)
	}
	f.mm, f.va = nil, 0
	f.lock.Unlock(t)
}

// flushBegin and flushEnd bracket what takes permissions away and flushes later.
func (m *MM) flushBegin() { m.flushPending.RawAdd(1) }
func (m *MM) flushEnd()   { m.flushPending.RawAdd(-1) }

// FlushPending reports whether somebody owes the address space a flush, so that
// TLBs may allow more than the page table does: for invariants.
func (m *MM) FlushPending() bool { return m.flushPending.Peek() != 0 }

// ActiveMM returns what a CPU has loaded and whether it only borrows it: for
// invariants and reports. The CPU must be at rest, or the caller run on it.
func (s *System) ActiveMM(cpu int) (m *MM, lazy bool) {
	cs := &s.tlb.cpus[cpu]
	return cs.active, cs.lazy
}

// DropLazy makes every CPU give up the address space it borrows, so that nothing is
// left of those whose tasks have ended. The other CPUs must be idle.
func (s *System) DropLazy(t *sched.Task) {
	s.FlushTLBAll(t)
	for i := range s.tlb.cpus {
		cs := &s.tlb.cpus[i]
		if !cs.borrowed {
			continue
		}
		m := cs.active
		*cs = cpuTLB{}
		m.MMDrop(t)
	}
}

// usersObj and maskObj name mm_users and cpu_vm_mask, which have nothing to do with
// mm_count: that is obj.
func (m *MM) usersObj() x86.ObjID { return m.obj | 1<<40 }
func (m *MM) maskObj() x86.ObjID  { return m.obj | 2<<40 }

// lockedObj, listedObj and stackObj name what others look at without a lock: which VMAs have VMLocked,
// whether m is on mmlist, and where the VMAs begin that grow.
func (m *MM) lockedObj() x86.ObjID { return m.obj | 3<<40 }
func (m *MM) listedObj() x86.ObjID { return m.obj | 4<<40 }
func (m *MM) stackObj() x86.ObjID  { return m.obj | 5<<40 }
