package policy

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/tests/matrix"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files")

var (
	memHost   = x86.NewHost()
	schedHost = &sched.Host{}
)

const (
	c1Addr  = 0x10000
	c1Value = 0xaa
)

// c1 is the smallest program of the race: one thread pins a page by gup-fast for a
// device to write to, another forks and then stores to another part of the page. The
// device writes when both are done. The parent must see what it wrote.
type c1 struct {
	s        *mm.System
	parent   *mm.MM
	child    *mm.MM
	pinned   [1]*page.Page
	under    x86.Word32 // threads that have not come to their end
	underObj x86.ObjID
	gate     *explore.Gate
	verdict  string
	detail   string
	state    explore.StateHash // of the page when the verdict is known
}

func (c *c1) store(t *sched.Task, addr, v uint64) {
	for {
		ec := t.C.Store(addr, 8, v)
		if ec == x86.NoFault {
			return
		}
		if sig, ok := mm.DoPageFault(t, c.parent, t.C.CR2, ec); !ok {
			t.Oops("signal %v at %#x", sig.Signo, sig.Addr)
		}
	}
}

func (c *c1) load(t *sched.Task, addr uint64) uint64 {
	for {
		v, ec := t.C.Load(addr, 8)
		if ec == x86.NoFault {
			return v
		}
		if sig, ok := mm.DoPageFault(t, c.parent, t.C.CR2, ec); !ok {
			t.Oops("signal %v at %#x", sig.Signo, sig.Addr)
		}
	}
}

// directIO is the thread that does direct I/O: it pins the page for the device.
func (c *c1) directIO(t *sched.Task) {
	c.gate.Open()
	n, err := mm.GetUserPagesFast(t, c1Addr, 1, true /* write */, mm.PinPin, c.pinned[:])
	if n != 1 || err != nil {
		t.Oops("get_user_pages_fast: %d, %v", n, err)
	}
	c.end(t)
}

// doFork is the thread that forks and goes on storing.
func (c *c1) doFork(t *sched.Task) {
	c.gate.Open()
	child, err := c.s.DupMM(t, c.parent)
	if err != nil {
		t.Oops("fork: %v", err)
	}
	c.child = child
	c.store(t, c1Addr, 1)
	c.end(t)
}

// end lets the device write when both threads have come here.
func (c *c1) end(t *sched.Task) {
	if c.under.AddReturn(t.C, c.underObj, -1) == 0 {
		pfn := c.s.Pages.PFN(c.pinned[0])
		t.Point(x86.OpDMAWrite, x86.FrameObj(pfn, 512))
		c.s.Mem.DMAWrite(pfn, 512, []byte{c1Value})
		if got := c.load(t, c1Addr+512); got != c1Value {
			c.verdict, c.detail = "lost-read", fmt.Sprintf("want %#x, found %#x", c1Value, got)
		}
		c.look()
		c.gate.Close() // the verdict is known: how the program ends is not searched
		t.C.Wrote(c.underObj)
		c.s.PutUserPage(t, c.pinned[0], mm.PinPin)
		c.child.MMPut(t)
	}
	for n := 1; c.under.Peek() != 0; n++ {
		t.C.SpinWait(c.underObj, n) // and take interrupts
	}
	mm.ExitMM(t)
}

// look puts what there is to see of the page into the state.
func (c *c1) look() {
	var frames explore.Canon
	for _, m := range []*mm.MM{c.parent, c.child} {
		pte := c.s.PeekPTEOf(m.ID, c1Addr)
		c.state.PutUint("flags", uint64(pte.Flags()))
		c.state.PutUint("frame", frames.Number(uint64(pte.PFN())))
	}
	p := c.pinned[0]
	c.state.PutUint("pinned", frames.Number(uint64(c.s.Pages.PFN(p))))
	c.state.PutUint("flags", p.Flags.Peek())
	c.state.PutUint("count", uint64(p.Count.Peek()))
	c.state.PutUint("mapcount", uint64(p.MapCount.Peek()))
}

// c1Check checks the invariants of the memory manager as the program goes.
type c1Check struct {
	inner sched.Observer
	s     *mm.System
}

func (c *c1Check) Step(n uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	if c.inner != nil {
		c.inner.Step(n, t, op, obj)
	}
	if n%32 == 0 {
		for _, err := range c.s.Check() {
			t.Oops("invariant: %v", err)
		}
	}
}

func (c *c1Check) Device(n uint64, ev sched.Event) {
	if c.inner != nil {
		c.inner.Device(n, ev)
	}
}

// c1Target makes the program a target under policy p.
func c1Target(p mm.Policy) explore.Target { return c1TargetOn(p, sched.Options{}) }

// c1TargetOn is c1Target with the machine's options.
func c1TargetOn(p mm.Policy, o sched.Options) explore.Target {
	tso := o.TSO
	params := []explore.Param{{Key: explore.InParam, Value: "mm/policy"}}
	if tso {
		params = append(params, explore.Param{Key: "tso", Value: "1"})
	}
	return explore.Target{Name: "TestC1", Params: params, Policy: c1Name(p), Run: func(st sched.Strategy, o sched.Observer) explore.Observation {
		mem, err := memHost.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
		if err != nil {
			panic(err)
		}
		defer mem.Release()
		gate := explore.NewGate(st)
		m, err := sched.New(sched.Options{CPUs: 2, Regime: sched.Free, Strategy: gate, Mem: mem, Host: schedHost, StepLimit: 20000, TSO: tso})
		if err != nil {
			panic(err)
		}
		defer m.Shutdown()
		m.RegisterNamer(x86.ClassLock, lock.Namer)
		s, err := mm.NewSystem(m, page.NewMap(m, mem), mm.Options{Policy: p})
		if err != nil {
			panic(err)
		}
		m.SetObserver(&c1Check{inner: o, s: s})
		c := &c1{s: s, verdict: explore.Safe, gate: gate}
		c.under.Poke(2)
		c.underObj = m.NewObj(x86.ClassWord)
		start := func(t *sched.Task, name string, cpu int, fn func(*sched.Task)) {
			n := m.NewTask(sched.TaskOptions{Name: name, CPU: cpu}, fn)
			c.parent.MMGet(t)
			s.InitTask(n, c.parent)
			m.Start(t, n)
		}
		m.Start(nil, m.NewTask(sched.TaskOptions{Name: "init", CPU: 1}, func(t *sched.Task) {
			if c.parent, err = s.NewMM(t); err != nil {
				t.Oops("%v", err)
			}
			c.parent.MMGet(t)
			c.parent.ActivateMM(t)
			c.parent.MmapSem.DownWrite(t)
			_, err := mm.DoMmap(t, c.parent, mm.MmapRequest{Addr: c1Addr, Len: x86.PageSize, Prot: mm.ProtRead | mm.ProtWrite,
				Flags: mm.MapPrivate | mm.MapAnonymous | mm.MapFixed})
			c.parent.MmapSem.UpWrite(t)
			if err != nil {
				t.Oops("mmap: %v", err)
			}
			c.store(t, c1Addr, 0)
			start(t, "dio", 1, c.directIO)
			start(t, "fork", 2, c.doFork)
			c.parent.MMPut(t)
			mm.ExitMM(t)
		}))
		r := m.Run()
		obs := explore.Observation{Verdict: c.verdict, Detail: c.detail, Steps: r.Steps, Result: r}
		if v := explore.VerdictOf(r); v != "" {
			obs.Verdict, obs.Detail = v, r.Detail
		} else if errs := s.CheckRest(); len(errs) > 0 {
			obs.Verdict, obs.Detail = "bug", errs[0].Error()
		}
		c.state.PutString("verdict", obs.Verdict)
		obs.State = c.state.Sum()
		return obs
	}}
}

func searchC1(t *testing.T, p mm.Policy, n uint64) *explore.Report {
	t.Helper()
	r, err := explore.Search(context.Background(), c1Target(p), explore.Options{Schedules: n, Seed: 1})
	require.NoError(t, err)
	for _, w := range r.Witnesses {
		t.Logf("%s: %d of %d, %s: %s", w.Verdict, r.ByVerdict[w.Verdict], r.Schedules, w.Token.Command(), w.Detail)
	}
	return r
}

// TestC1 is claim C1 of the thread: gup-fast races with fork between its look-up and the
// flag, unless it looks at the pte again. It also replays the tokens of its program.
func TestC1(t *testing.T) {
	if replayC1(t) {
		return
	}
	assert.NotZero(t, searchC1(t, Stock{}, 300).ByVerdict["lost-read"], "stock loses the read")
	if !Race { // a long search of machines that one goroutine runs
		r := searchC1(t, PGGUP{noRecheck: true}, 3000)
		assert.NotZero(t, r.ByVerdict["lost-read"], "without the second look the race is open")
	}
	for _, p := range []mm.Policy{PGGUP{}, PGDontCOW{}} {
		n := uint64(3000)
		if Race {
			n = 300
		}
		r := searchC1(t, p, n)
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%s", p.Name())
	}
}

// TestC1Diagram draws the race of C1 in its simplest schedule.
func TestC1Diagram(t *testing.T) {
	if Race {
		t.Skip("a long search for a run of one goroutine, and its picture")
	}
	target := c1Target(PGGUP{noRecheck: true})
	r := searchC1(t, PGGUP{noRecheck: true}, 3000)
	w := r.Witness("lost-read")
	require.NotNil(t, w)
	min, err := explore.Shrink(context.Background(), target, w.Spec, explore.ShrinkOptions{})
	require.NoError(t, err)
	story := captureC1(target, min.Spec)
	got := story.Diagram(explore.DiagramOptions{Show: racing})
	const golden = "testdata/c1.txt"
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

// captureC1 runs the schedule and keeps its steps and the state at each.
func captureC1(target explore.Target, s explore.Spec) *explore.Story {
	return explore.Capture(target, s, matrix.CaptureOptions())
}

// racing shows the steps on the page, on its pte and of the interrupt, between
// gup-fast's first step and the device's write: what the thread drew.
func racing(s *explore.Step) bool {
	if s.Sched {
		return false
	}
	switch o := s.ObjID; o.Class() {
	case x86.ClassPTE:
		_, level, va := x86.SplitPTEObj(o)
		return level == x86.LevelPTE && va == c1Addr
	case x86.ClassPage:
		w := x86.PageWord(o.ID() & 7)
		return s.Shown && (w == x86.PageRef || w == x86.PageFlags)
	case x86.ClassCPU:
		return s.Op == x86.OpIPI.String()
	case x86.ClassFrame:
		return s.OpID == x86.OpDMAWrite || s.User && s.Shown
	}
	return s.Op == x86.OpIPIAck.String() || s.Op == x86.OpFence.String()
}
