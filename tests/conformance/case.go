package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Case is one test of a suite.
type Case struct {
	// Name is the case's number, a colon, and what its suite calls it.
	Name string
	// On lists the kinds of page that it runs on.
	On []string
	// Pages is how many pages the memory under test has; zero means one.
	Pages uint64
	// Bytes, if not zero, is how long the memory has to be instead: one page, if that is large.
	Bytes uint64
	// Stock is what 2.6.29 does.
	Stock Stock
	// Races is set if something is not in lock-step, a device or a thread, so that a case
	// that fails does so in some schedules only.
	Races bool
	// Run is the program. It begins with memory that is full of ones.
	Run func(e *Env)
}

// Stock is what 2.6.29 does, by kind of page; "" stands for the kinds not named. It is
// "pass", or "pass: " and why one might have thought otherwise, or "fail: " and why, in a
// line that names the step.
type Stock map[string]string

// always is the Stock of a case that ends the same way on every kind.
func always(s string) Stock { return Stock{"": s} }

// Expect returns what 2.6.29 does on a kind of page.
func (c *Case) Expect(kind string) string {
	if s, ok := c.Stock[kind]; ok {
		return s
	}
	return c.Stock[""]
}

// RunsOn reports whether the case makes sense on a kind of page.
func (c *Case) RunsOn(k *Kind) bool { return slices.Contains(c.On, k.Name) }

// pages is how many pages of a kind the memory under test has.
func (c *Case) pages(k *Kind) uint64 { return max(c.Pages, (c.Bytes+k.Size-1)/k.Size, 1) }

// The verdicts of a case. One that stops the machine, or leaves something behind, has that
// of a workload: bug, deadlock, livelock, oom, leak.
const (
	Pass   workload.Verdict = "pass"
	Fail   workload.Verdict = "fail"
	Broken workload.Verdict = "broken" // the program itself did not work
)

// Verdicts returns all verdicts that a case may have.
func Verdicts() []workload.Verdict {
	return []workload.Verdict{Pass, Fail, Broken, workload.Bug, workload.Deadlock, workload.Livelock, workload.OOM, workload.Leak}
}

// Result is what a case showed.
type Result struct {
	Verdict workload.Verdict
	// Detail is the evidence, in a line.
	Detail string
}

// String returns the result in a line.
func (r Result) String() string {
	if r.Detail == "" {
		return string(r.Verdict)
	}
	return fmt.Sprintf("%s: %s", r.Verdict, r.Detail)
}

// The bytes that memory holds: before anybody modifies it, and after.
const (
	oldByte = 0x01
	newByte = 0xff
)

const (
	rw      = mm.ProtRead | mm.ProtWrite
	private = mm.MapPrivate | mm.MapAnonymous
	shared  = mm.MapShared | mm.MapAnonymous

	diskPath = "/dev/vda"
	diskSize = 64 << 10
	swapDisk = "/dev/swap"
	swapSize = 64 * x86.PageSize
)

// Env is a case being run.
type Env struct {
	*kernel.Thread
	// Kind is what is behind the memory.
	Kind *Kind
	// Mem is the memory under test, Size its length in bytes.
	Mem, Size uint64
	// Other is the second mapping of kinds that have one.
	Other uint64

	swapping bool
	words    uint64 // shared memory: events
	nwords   uint64
	failed   string
	noted    string
	broken   string
}

// result is what a case showed that ran to its end.
func (e *Env) result() Result {
	switch {
	case e.broken != "":
		return Result{Broken, e.broken}
	case e.failed != "":
		return Result{Fail, e.failed}
	}
	return Result{Pass, e.noted}
}

// stepLimit is after how many points a run counts as a livelock: a case takes a few
// thousand.
const stepLimit = 300_000

// Execute runs a case on a kind of page under a policy. The runs of one machine are
// deterministic. The error is that of a machine that cannot be had, or ctx's.
func Execute(ctx context.Context, c *Case, k *Kind, o kernel.Options) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	o.Memory = 4 << 20
	pages := c.pages(k)
	if o.StepLimit = k.Steps * pages; o.StepLimit == 0 {
		o.StepLimit = stepLimit
	}
	o.Disks = []kernel.Disk{{Name: "vda", Size: diskSize}, {Name: "swap", Size: swapSize, Swap: true}}
	if k.Options != nil {
		k.Options(&o, pages)
	}
	m, err := kernel.Boot(o)
	if err != nil {
		return Result{}, err
	}
	defer m.Shutdown()
	defer context.AfterFunc(ctx, func() { m.Stop("interrupted") })()
	e := &Env{Kind: k, Size: pages * k.Size}
	out := m.Run(func(t *kernel.Thread) {
		e.Thread = t
		e.words = t.MustMmapShared(x86.PageSize)
		e.Mem = k.Map(e, pages)
		if e.Other == 0 && e.broken == "" {
			e.fill(t, oldByte)
		}
		if k.Prepare != nil && e.broken == "" {
			k.Prepare(e)
		}
		if e.broken == "" {
			c.Run(e)
		}
	})
	if out.Reason == sched.Stopped {
		return Result{}, errors.Join(ctx.Err(), out.Err())
	}
	return e.conclude(m, out), nil
}

// conclude looks at how the machine came to rest: that counts before what the case saw.
func (e *Env) conclude(m *kernel.Machine, out *kernel.Outcome) Result {
	first, _, _ := strings.Cut(strings.TrimSpace(out.Detail), "\n")
	switch out.Reason {
	case sched.Quiet:
	case sched.Deadlock:
		return Result{workload.Deadlock, "nobody can go on"}
	case sched.Livelock:
		return Result{workload.Livelock, "a system call does not return"}
	case sched.Oopsed:
		what, _, _ := strings.Cut(out.Oops.Error(), " at 0x") // where differs
		what, _, _ = strings.Cut(what, "\n")
		return Result{workload.Bug, what}
	default:
		return Result{workload.Bug, fmt.Sprintf("%v: %s", out.Reason, first)}
	}
	if len(out.Bugs) > 0 {
		return Result{workload.Bug, out.Bugs[0].Msg}
	}
	if len(out.Victims) > 0 {
		return Result{workload.OOM, out.Victims[0].String()}
	}
	if err := out.Err(); err != nil {
		return Result{Broken, err.Error()}
	}
	if errs := m.Check(); len(errs) > 0 {
		return Result{workload.Bug, "invariant: " + errs[0].Error()}
	}
	if leaks := m.Leaks(); len(leaks) > 0 {
		return Result{workload.Leak, leaks[0]}
	}
	return e.result()
}

// fail records what was wrong; the first counts.
func (e *Env) fail(format string, args ...any) {
	if e.failed == "" {
		e.failed = fmt.Sprintf(format, args...)
	}
}

// note records what a case that passes has to say.
func (e *Env) note(format string, args ...any) { e.noted = fmt.Sprintf(format, args...) }

// must records a call that should have worked.
func (e *Env) must(what string, err error) bool {
	if err != nil && e.broken == "" {
		e.broken = fmt.Sprintf("%s: %v", what, err)
	}
	return err == nil
}

// all records a transfer that should have moved n bytes.
func (e *Env) all(what string, n, want int, err error) bool {
	if err == nil && n != want {
		err = fmt.Errorf("%d bytes of %d", n, want)
	}
	return e.must(what, err)
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

// ahead is how much of a very large page is looked at in each place: its beginning, its middle
// and its end.
const ahead = 2 * x86.PageSize

// pagePlace is how long the first place of a page is: all of it, unless it is very large.
func (e *Env) pagePlace() uint64 {
	if e.Kind.Size <= wholeUpTo {
		return e.Kind.Size
	}
	return ahead
}

// places calls fn for the parts of the memory that a case looks at: all of it, unless its
// pages are very large.
func (e *Env) places(fn func(off, n uint64)) {
	if e.Kind.Size <= wholeUpTo {
		fn(0, e.Size)
		return
	}
	for page := uint64(0); page < e.Size; page += e.Kind.Size {
		for _, off := range []uint64{0, e.Kind.Size / 2, e.Kind.Size - ahead} {
			fn(page+off, ahead)
		}
	}
}

// fill fills the memory.
func (e *Env) fill(t *kernel.Thread, b byte) {
	e.places(func(off, n uint64) { t.Fill(e.Mem+off, n, b) })
}

// modify is what the suites do to memory: all of it becomes something else.
func (e *Env) modify(t *kernel.Thread) { e.fill(t, newByte) }

// look returns what the memory at addr, Mem or Other, holds.
func (e *Env) look(t *kernel.Thread, addr uint64) (b []byte) {
	e.places(func(off, n uint64) { b = append(b, t.Bytes(addr+off, int(n))...) })
	return b
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

// protectAndBack is mprotect to read-only and back: the ptes stay read-only.
func (e *Env) protectAndBack(t *kernel.Thread) {
	e.must("mprotect", t.Mprotect(e.Mem, e.Size, mm.ProtRead))
	e.must("mprotect", t.Mprotect(e.Mem, e.Size, rw))
}

// splice puts the memory into a pipe, as much of it as goes, and returns the pipe's
// reading end and how much that was.
func (e *Env) splice(t *kernel.Thread) (in, n int) {
	in, out, err := t.Pipe()
	e.must("pipe", err)
	n, err = t.Vmsplice(out, e.Mem, int(e.Size), 0)
	e.all("vmsplice", n, e.pipeful(), err)
	return in, n
}

// pipeful is how much of the memory goes into a pipe.
func (e *Env) pipeful() int { return int(min(e.Size, pipePages*x86.PageSize)) }

// pipePages is how many pages a pipe holds.
const pipePages = 16

// drain reads what splice put in.
func (e *Env) drain(t *kernel.Thread, in, n int) []byte {
	into := t.MustMmap(uint64(n))
	for got := 0; got < n; {
		k, err := t.ReadFD(in, into+uint64(got), n-got)
		if !e.must("read", err) || k == 0 {
			break
		}
		got += k
	}
	return t.Bytes(into, n)
}

// pin has a driver take the memory: all of it, or of very large pages the first place.
func (e *Env) pin(o kernel.RegisterOptions) *kernel.Registration {
	r, err := e.RegisterMemory(e.Mem, e.firstPlace(), o)
	if !e.must("pin", err) {
		return nil
	}
	return r
}

// firstPlace is the length of the first place.
func (e *Env) firstPlace() (length uint64) {
	e.places(func(off, n uint64) {
		if off == 0 {
			length = n
		}
	})
	return length
}

// deviceSees fails the case unless the device reads, from what pin took, what look returned.
func (e *Env) deviceSees(want []byte, r *kernel.Registration) {
	if r == nil {
		return
	}
	got := make([]byte, e.firstPlace())
	e.must("device read", e.DeviceRead(r, 0, got))
	e.same("the device", want[:len(got)], got)
}

func (e *Env) unpin(r *kernel.Registration) {
	if r != nil {
		e.must("unpin", e.UnregisterMemory(r))
	}
}

// count returns a counter of the machine.
func (e *Env) count(c trace.Counter) uint64 { return e.Machine().Trace().Sum(c) }

// gauge returns a counter that goes both ways.
func (e *Env) gauge(c trace.Counter) int64 { return e.Machine().Trace().Gauge(c) }
