package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
)

// Accesses to emulated memory, as instructions of a user program.
//
//	t.Load64(addr)     TLB hit: a comparison, a point, a move
//	   | miss: hardware walk
//	   | page fault
//	   v
//	mm.DoPageFault ---ok---> the instruction again
//	   | signal
//	   v
//	handler? run it, then the instruction again, or nothing if it said Skip
//	   | none: the process ends, the user function is unwound
//
// The forms that begin with Try do not deliver the signal but return it as a
// *SigError, and the access is given up. They are for code that wants to see what an
// access comes to without being killed by it, and have no counterpart in C.
//
// Aligned accesses of 1, 2, 4 and 8 bytes are not torn. Pending signals are taken
// before an access.

// SigError is the signal that an access would have raised.
type SigError struct {
	Sig  Signal
	Code int    // SegvMapErr and so on
	Addr uint64 // of the access, as far as it faulted
}

// Error describes the fault in one line.
func (e *SigError) Error() string {
	why := fmt.Sprintf("code %d", e.Code)
	switch {
	case e.Sig == SIGSEGV && e.Code == SegvMapErr:
		why = "nothing is mapped there"
	case e.Sig == SIGSEGV && e.Code == SegvAccErr:
		why = "the mapping does not permit it"
	case e.Sig == SIGBUS && e.Code == BusAdrAln:
		why = "a locked operation on a misaligned word"
	case e.Sig == SIGBUS && e.Code == BusAdrErr:
		why = "nothing is behind the mapping"
	case e.Sig == SIGBUS && e.Code == BusObjErr:
		why = "what is behind the mapping cannot be read"
	}
	return fmt.Sprintf("%v at %#x (%s)", e.Sig, e.Addr, why)
}

// fault resolves a page fault of the access to va that failed with ec. It reports
// whether the access can be tried again; if not, info says why.
//
// Preconditions:
//   - no point was passed since the access: CR2 is still the fault's
func (t *Thread) fault(va uint64, ec x86.FaultCode) (info SigInfo, ok bool) {
	if ec == x86.FaultAlign {
		return SigInfo{Signal: SIGBUS, Code: BusAdrAln, Addr: va}, false
	}
	t.checkOwner()
	task := t.task
	sig, ok := mm.DoPageFault(task, mm.CurrentMM(task), task.C.CR2, ec)
	if ok {
		user := task.User
		task.User = false
		task.CondResched()
		task.User = user
		return SigInfo{}, true
	}
	return SigInfo{Signal: signalOf(sig.Signo), Code: sig.Code, Addr: sig.Addr}, false
}

// signalOf translates from the host's numbers, which differ from Linux' on some.
func signalOf(s unix.Signal) Signal {
	switch s {
	case unix.SIGBUS:
		return SIGBUS
	case unix.SIGKILL:
		return SIGKILL
	}
	return SIGSEGV
}

// faultOrDie is fault that delivers the signal; it reports whether the access is
// to be tried again, and does not return if the thread is killed.
func (t *Thread) faultOrDie(va uint64, ec x86.FaultCode) (again bool) {
	info, ok := t.fault(va, ec)
	if !ok {
		if info.Signal == SIGKILL {
			t.outOfMemory()
		}
		if t.forceSignal(info) {
			return false
		}
	}
	if t.task.SignalPending() {
		t.takeSignals()
	}
	return true
}

// faultOrError is fault that returns the signal as an error. Running out of memory
// kills all the same.
func (t *Thread) faultOrError(va uint64, ec x86.FaultCode) error {
	info, ok := t.fault(va, ec)
	if !ok {
		if info.Signal == SIGKILL {
			t.outOfMemory()
			t.forceSignal(info)
		}
		return &SigError{info.Signal, info.Code, info.Addr}
	}
	if t.task.SignalPending() {
		t.takeSignals()
	}
	return nil
}

// Load64 reads eight bytes.
func (t *Thread) Load64(addr uint64) uint64 {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	v, ec := t.task.C.Load(addr, 8)
	if ec != x86.NoFault {
		return t.loadSlow(addr, 8, ec)
	}
	return v
}

// Load32 reads four bytes.
func (t *Thread) Load32(addr uint64) uint32 {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	v, ec := t.task.C.Load(addr, 4)
	if ec != x86.NoFault {
		v = t.loadSlow(addr, 4, ec)
	}
	return uint32(v)
}

// Load16 reads two bytes.
func (t *Thread) Load16(addr uint64) uint16 {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	v, ec := t.task.C.Load(addr, 2)
	if ec != x86.NoFault {
		v = t.loadSlow(addr, 2, ec)
	}
	return uint16(v)
}

// Load8 reads a byte.
func (t *Thread) Load8(addr uint64) uint8 {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	v, ec := t.task.C.Load(addr, 1)
	if ec != x86.NoFault {
		v = t.loadSlow(addr, 1, ec)
	}
	return uint8(v)
}

//go:noinline
func (t *Thread) loadSlow(addr uint64, size int, ec x86.FaultCode) (v uint64) {
	for t.faultOrDie(addr, ec) {
		if v, ec = t.task.C.Load(addr, size); ec == x86.NoFault {
			return v
		}
	}
	return 0
}

// Store64 writes eight bytes.
func (t *Thread) Store64(addr uint64, v uint64) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	if ec := t.task.C.Store(addr, 8, v); ec != x86.NoFault {
		t.storeSlow(addr, 8, v, ec)
	}
}

// Store32 writes four bytes.
func (t *Thread) Store32(addr uint64, v uint32) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	if ec := t.task.C.Store(addr, 4, uint64(v)); ec != x86.NoFault {
		t.storeSlow(addr, 4, uint64(v), ec)
	}
}

// Store16 writes two bytes.
func (t *Thread) Store16(addr uint64, v uint16) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	if ec := t.task.C.Store(addr, 2, uint64(v)); ec != x86.NoFault {
		t.storeSlow(addr, 2, uint64(v), ec)
	}
}

// Store8 writes a byte.
func (t *Thread) Store8(addr uint64, v uint8) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	if ec := t.task.C.Store(addr, 1, uint64(v)); ec != x86.NoFault {
		t.storeSlow(addr, 1, uint64(v), ec)
	}
}

//go:noinline
func (t *Thread) storeSlow(addr uint64, size int, v uint64, ec x86.FaultCode) {
	for t.faultOrDie(addr, ec) {
		if ec = t.task.C.Store(addr, size, v); ec == x86.NoFault {
			return
		}
	}
}

// TryLoad64 is Load64 that returns a *SigError instead of raising the signal.
func (t *Thread) TryLoad64(addr uint64) (uint64, error) { return t.tryLoad(addr, 8) }

// TryLoad32 is Load32 that returns a *SigError instead of raising the signal.
func (t *Thread) TryLoad32(addr uint64) (uint32, error) {
	v, err := t.tryLoad(addr, 4)
	return uint32(v), err
}

// TryLoad8 is Load8 that returns a *SigError instead of raising the signal.
func (t *Thread) TryLoad8(addr uint64) (uint8, error) {
	v, err := t.tryLoad(addr, 1)
	return uint8(v), err
}

func (t *Thread) tryLoad(addr uint64, size int) (uint64, error) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	for {
		v, ec := t.task.C.Load(addr, size)
		if ec == x86.NoFault {
			return v, nil
		}
		if err := t.faultOrError(addr, ec); err != nil {
			return 0, err
		}
	}
}

// TryStore64 is Store64 that returns a *SigError instead of raising the signal.
func (t *Thread) TryStore64(addr uint64, v uint64) error { return t.tryStore(addr, 8, v) }

// TryStore32 is Store32 that returns a *SigError instead of raising the signal.
func (t *Thread) TryStore32(addr uint64, v uint32) error { return t.tryStore(addr, 4, uint64(v)) }

// TryStore8 is Store8 that returns a *SigError instead of raising the signal.
func (t *Thread) TryStore8(addr uint64, v uint8) error { return t.tryStore(addr, 1, uint64(v)) }

func (t *Thread) tryStore(addr uint64, size int, v uint64) error {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	for {
		ec := t.task.C.Store(addr, size, v)
		if ec == x86.NoFault {
			return nil
		}
		if err := t.faultOrError(addr, ec); err != nil {
			return err
		}
	}
}

// Read copies user memory at addr into b, as memcpy does: in the deterministic
// regimes with a point for each sector of 512 bytes. If a handler skips a fault, the
// rest of b stays as it is.
func (t *Thread) Read(addr uint64, b []byte) {
	_, _ = t.readBytes(addr, b, false /* try */)
}

// TryRead is Read that returns how many bytes were copied, and a *SigError if that
// is not all.
func (t *Thread) TryRead(addr uint64, b []byte) (int, error) {
	return t.readBytes(addr, b, true /* try */)
}

func (t *Thread) readBytes(addr uint64, b []byte, try bool) (n int, err error) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	for {
		k, ec := t.task.C.ReadBytes(addr+uint64(n), b[n:])
		n += k
		if ec == x86.NoFault {
			return n, nil
		}
		if again, err := t.faultIn(addr+uint64(n), ec, try); !again {
			return n, err
		}
	}
}

// Write copies b into user memory at addr; see Read.
func (t *Thread) Write(addr uint64, b []byte) {
	_, _ = t.writeBytes(addr, b, false /* try */)
}

// TryWrite is Write that returns how many bytes were copied, and a *SigError if that
// is not all.
func (t *Thread) TryWrite(addr uint64, b []byte) (int, error) {
	return t.writeBytes(addr, b, true /* try */)
}

func (t *Thread) writeBytes(addr uint64, b []byte, try bool) (n int, err error) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	for {
		k, ec := t.task.C.WriteBytes(addr+uint64(n), b[n:])
		n += k
		if ec == x86.NoFault {
			return n, nil
		}
		if again, err := t.faultIn(addr+uint64(n), ec, try); !again {
			return n, err
		}
	}
}

func (t *Thread) faultIn(va uint64, ec x86.FaultCode, try bool) (again bool, err error) {
	if try {
		err = t.faultOrError(va, ec)
		return err == nil, err
	}
	return t.faultOrDie(va, ec), nil
}

// Bytes returns a copy of n bytes of user memory at addr.
func (t *Thread) Bytes(addr uint64, n int) []byte {
	b := make([]byte, n)
	t.Read(addr, b)
	return b
}

// Fill stores v into each of the n bytes at addr: memset.
func (t *Thread) Fill(addr, n uint64, v byte) {
	if t.scratch == nil {
		t.scratch = make([]byte, x86.PageSize)
	}
	for i := range t.scratch {
		t.scratch[i] = v
	}
	for n > 0 {
		k := min(n, x86.PageSize-addr%x86.PageSize)
		t.Write(addr, t.scratch[:k])
		addr, n = addr+k, n-k
	}
}

// CAS32 is lock cmpxchg: it stores new at addr if the word there is old, and returns
// what it was. The address must be a multiple of 4; SIGBUS otherwise.
func (t *Thread) CAS32(addr uint64, old, new uint32) (prev uint32) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	prev, ec := t.task.C.CAS32(addr, old, new)
	for ec != x86.NoFault && t.faultOrDie(addr, ec) {
		prev, ec = t.task.C.CAS32(addr, old, new)
	}
	return prev
}

// Xchg32 is lock xchg: it swaps the word at addr with v and returns what it was.
func (t *Thread) Xchg32(addr uint64, v uint32) (old uint32) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	old, ec := t.task.C.Xchg32(addr, v)
	for ec != x86.NoFault && t.faultOrDie(addr, ec) {
		old, ec = t.task.C.Xchg32(addr, v)
	}
	return old
}

// Add32 is lock xadd: it adds d to the word at addr and returns the sum.
func (t *Thread) Add32(addr uint64, d uint32) (sum uint32) {
	if t.task.SignalPending() {
		t.takeSignals()
	}
	sum, ec := t.task.C.AddReturn32(addr, d)
	for ec != x86.NoFault && t.faultOrDie(addr, ec) {
		sum, ec = t.task.C.AddReturn32(addr, d)
	}
	return sum
}
