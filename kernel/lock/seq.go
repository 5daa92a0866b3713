package lock

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// SeqCount is seqcount_t: odd while a writer is inside. Writers are serialised by
// somebody else's lock.
type SeqCount struct {
	v   x86.Word32
	obj x86.ObjID // immutable after Init
}

// Init prepares the count.
func (s *SeqCount) Init(m *sched.Machine) { s.obj = m.NewObj(x86.ClassWord) }

// WriteBegin makes the count odd. The store is ordered before what follows.
func (s *SeqCount) WriteBegin(t *sched.Task) { s.v.Store(t.C, s.obj, s.v.Peek()+1) }

// WriteEnd makes the count even again.
func (s *SeqCount) WriteEnd(t *sched.Task) { s.v.Store(t.C, s.obj, s.v.Peek()+1) }

// Read returns the count; an odd one means that a writer is inside.
func (s *SeqCount) Read(t *sched.Task) int32 { return s.v.Load(t.C, s.obj) }

// Retry reports whether a writer has been inside since Read returned start.
func (s *SeqCount) Retry(t *sched.Task, start int32) bool {
	return start&1 != 0 || s.v.Load(t.C, s.obj) != start
}

// RCUReadLock begins a read-side critical section of classic RCU, which is to
// disable preemption.
func RCUReadLock(t *sched.Task) { t.PreemptDisable() }

// RCUReadUnlock ends it.
func RCUReadUnlock(t *sched.Task) { t.PreemptEnable() }

// SynchronizeRCU waits for a grace period: every read side that was inside when it
// was called has left when it returns.
func SynchronizeRCU(t *sched.Task) {
	var c Completion
	c.Init(t.M)
	t.M.CallRCU(t, func(by *sched.Task) { c.Complete(by) })
	c.Wait(t)
}
