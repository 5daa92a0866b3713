package conformance

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Case is one test of a suite.
type Case struct {
	// Name is the case's number and what its suite calls it.
	Name string
	// Stock is what 2.6.29 does: "pass", or "fail: " and why, in a line that names the
	// step.
	Stock string
	// Run is the program. It begins with one page of memory that is full of ones.
	Run func(e *Env)
}

// Pass is the result of a case in which nothing was wrong.
const Pass = "pass"

// The bytes that memory holds: before anybody modifies it, and after.
const (
	oldByte = 0x01
	newByte = 0xff
)

// Env is a case being run.
type Env struct {
	*kernel.Thread
	// Mem is the memory under test, Size its length in bytes.
	Mem, Size uint64

	words  uint64 // shared memory: events
	nwords uint64
	result string
	broken string
}

// Result is what a case showed: Pass, or what was wrong.
func (e *Env) Result() string {
	switch {
	case e.broken != "":
		return "broken: " + e.broken
	case e.result != "":
		return e.result
	}
	return Pass
}

// Execute runs a case under a policy. The runs of one machine are deterministic.
func Execute(c *Case, o kernel.Options) (result string, err error) {
	o.Memory = 4 << 20
	if o.StepLimit == 0 {
		o.StepLimit = 500_000 // a case takes a few thousand
	}
	m, err := kernel.Boot(o)
	if err != nil {
		return "", err
	}
	defer m.Shutdown()
	e := &Env{Size: x86.PageSize}
	out := m.Run(func(t *kernel.Thread) {
		e.Thread = t
		e.words = t.MustMmapShared(x86.PageSize)
		e.Mem = t.MustMmap(e.Size)
		t.Fill(e.Mem, e.Size, oldByte)
		c.Run(e)
	})
	if err := out.Err(); err != nil {
		return "", err
	}
	problems := append(m.Check(), asErrors(m.Leaks())...)
	for _, b := range out.Bugs {
		problems = append(problems, fmt.Errorf("bug: %s", b.Msg))
	}
	if len(problems) > 0 {
		return "", fmt.Errorf("%s: %w", e.Result(), problems[0])
	}
	return e.Result(), nil
}

func asErrors(text []string) (errs []error) {
	for _, s := range text {
		errs = append(errs, fmt.Errorf("leak: %s", s))
	}
	return errs
}

// fail records what was wrong; the first counts.
func (e *Env) fail(format string, args ...any) {
	if e.result == "" {
		e.result = "fail: " + fmt.Sprintf(format, args...)
	}
}

// must records a call that should have worked.
func (e *Env) must(what string, err error) bool {
	if err != nil && e.broken == "" {
		e.broken = fmt.Sprintf("%s: %v", what, err)
	}
	return err == nil
}

// same fails the case if bytes are not what they should be.
func (e *Env) same(what string, want, got []byte) {
	for i := range want {
		if want[i] != got[i] {
			e.fail("%s holds %#02x at %#x instead of %#02x", what, got[i], i, want[i])
			return
		}
	}
}

// event is a place where processes wait for each other.
type event uint64

func (e *Env) event() event {
	e.nwords++
	return event(e.words + e.nwords*64)
}

func (v event) signal(t *kernel.Thread) {
	t.Store32(uint64(v), 1)
	_, _ = t.FutexWake(uint64(v), 1<<30, kernel.FutexShared)
}

func (v event) wait(t *kernel.Thread) {
	for t.Load32(uint64(v)) == 0 {
		_ = t.FutexWait(uint64(v), 0, 0 /* no timeout */, kernel.FutexShared)
	}
}

// fork starts a child and returns what waits for its end. The child must do all that it
// does to the case through its own thread.
func (e *Env) fork(fn func(c *kernel.Thread)) (reap func()) {
	pid, err := e.Fork(func(c *kernel.Thread) {
		fn(c)
		c.Exit(0)
	})
	if !e.must("fork", err) {
		return func() {}
	}
	return func() {
		_, st, err := e.Wait(pid)
		if e.must("wait", err) && st != kernel.Exited(0) {
			e.broken = fmt.Sprintf("child: %v", st)
		}
	}
}

// modify is what the suites do to memory: all of it becomes something else.
func (e *Env) modify(t *kernel.Thread) { t.Fill(e.Mem, e.Size, newByte) }

// protectAndBack is mprotect to read-only and back: the ptes stay read-only.
func (e *Env) protectAndBack(t *kernel.Thread) {
	e.must("mprotect", t.Mprotect(e.Mem, e.Size, mm.ProtRead))
	e.must("mprotect", t.Mprotect(e.Mem, e.Size, mm.ProtRead|mm.ProtWrite))
}

// splice puts the memory into a pipe.
func (e *Env) splice(t *kernel.Thread) (in, out int) {
	in, out, err := t.Pipe()
	e.must("pipe", err)
	n, err := t.Vmsplice(out, e.Mem, int(e.Size), 0)
	if e.must("vmsplice", err) && uint64(n) != e.Size {
		e.broken = "vmsplice put only a part into the pipe"
	}
	return in, out
}

// drain reads what splice put in.
func (e *Env) drain(t *kernel.Thread, in int) []byte {
	into := t.MustMmap(e.Size)
	for got := uint64(0); got < e.Size; {
		n, err := t.ReadFD(in, into+got, int(e.Size-got))
		if !e.must("read", err) || n == 0 {
			break
		}
		got += uint64(n)
	}
	return t.Bytes(into, int(e.Size))
}

// pin has a driver take the memory, and returns what the device then reads and what
// releases it.
func (e *Env) pin(o kernel.RegisterOptions) *kernel.Registration {
	r, err := e.RegisterMemory(e.Mem, e.Size, o)
	if !e.must("pin", err) {
		return nil
	}
	return r
}

// device returns what the device reads from a registration.
func (e *Env) device(r *kernel.Registration, n uint64) []byte {
	b := make([]byte, n)
	if r != nil {
		e.must("device read", e.DeviceRead(r, 0, b))
	}
	return b
}

func (e *Env) unpin(r *kernel.Registration) {
	if r != nil {
		e.must("unpin", e.UnregisterMemory(r))
	}
}

// count returns a counter of the machine.
func (e *Env) count(c trace.Counter) uint64 { return e.Machine().Trace().Sum(c) }
