package explore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

func reduce(t *testing.T, target explore.Target, o explore.ReduceOptions) *explore.Reduced {
	t.Helper()
	r, err := explore.Reduce(context.Background(), target, o)
	require.NoError(t, err)
	return r
}

// words has each of several tasks, on a CPU of its own, do things to words: a text of two
// letters for each step, what and to which word. r, w and a read, write and add; l and u
// take and release a spinlock, as the kernel's does; ? is a read that goes on to the next
// step only if the word is not zero, and skips one otherwise. f is a barrier, x an exchange-and-add,
// m asks for memory, which may fail; d is a write that empties the store buffer without saying so in its operation.
func (y *toys) words(tasks ...string) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		return y.run(gate, o, len(tasks), func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			p := newWordProgram(m, gate, tasks)
			p.tso = y.tso
			if y.fails > 0 {
				m.Offer(p, y.fails, 1)
			}
			for cpu, text := range tasks {
				start(m, fmt.Sprint("task", cpu), cpu, func(t *sched.Task) { p.run(t, text) })
			}
			return p.judge
		})
	}
	return explore.Target{Name: "words " + fmt.Sprint(tasks), Policy: "none", Run: run}
}

type wordProgram struct {
	gate        *explore.Gate
	w           [10]x86.Word32
	l           [10]x86.SpinWord
	obj, lobj   [10]x86.ObjID
	seen        []int32
	ready, left int
	start, end  x86.ObjID
	tso         bool
	armed       int
}

// Fire, Op, Obj and Name implement sched.Event: an allocation is made to fail.
func (p *wordProgram) Fire(*sched.Machine, *trace.CPU) { p.armed++ }
func (p *wordProgram) Op() x86.Op                      { return x86.OpFail }
func (p *wordProgram) Obj() x86.ObjID                  { return x86.Obj(x86.ClassInject, 1) }
func (p *wordProgram) Name() string                    { return "injector" }

func newWordProgram(m *sched.Machine, gate *explore.Gate, tasks []string) *wordProgram {
	p := &wordProgram{gate: gate, seen: make([]int32, len(tasks)), ready: len(tasks), left: len(tasks)}
	for i := range p.obj {
		p.obj[i], p.lobj[i] = m.NewObj(x86.ClassWord), m.NewObj(x86.ClassLock)
	}
	p.start, p.end = m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
	return p
}

func (p *wordProgram) run(t *sched.Task, text string) {
	if p.ready--; p.ready == 0 {
		p.gate.Open()
		t.C.Wrote(p.start)
	}
	for n := 1; p.ready > 0; n++ {
		t.C.SpinWait(p.start, n)
	}
	cpu := t.C.ID
	for i := 0; i < len(text); i += 2 {
		k := text[i+1] - '0'
		switch text[i] {
		case 'r':
			p.seen[cpu] = p.seen[cpu]*31 + p.w[k].Load(t.C, p.obj[k])
		case 'w':
			p.w[k].Store(t.C, p.obj[k], int32(cpu*10+i+1))
		case 'a':
			p.w[k].Add(t.C, p.obj[k], int32(cpu+1))
		case '?':
			if p.w[k].Load(t.C, p.obj[k]) == 0 {
				i += 2
			}
		case 'l':
			t.C.Want = &p.l[k]
			t.C.Point(x86.OpLock, p.lobj[k])
			t.C.Want = nil
			for n := 1; !p.l[k].TryLock(); n++ {
				t.C.SpinWait(p.lobj[k], n)
			}
		case 'u':
			t.C.Point(x86.OpUnlock, p.lobj[k])
			p.l[k].Release(t.C, p.lobj[k])
		case 'f':
			t.C.Fence()
		case 'm':
			t.C.Point(x86.OpAlloc, p.Obj())
			p.seen[cpu] *= 31
			if p.armed > 0 {
				t.C.Touch(p.Obj(), x86.AccWrite)
				p.armed--
				p.seen[cpu]++
			}
		case 'x':
			p.seen[cpu] = p.seen[cpu]*31 + p.w[k].AddReturn(t.C, p.obj[k], int32(cpu*10+i+1))
		case 'd':
			t.C.Point(x86.OpWrite, p.obj[k])
			t.C.Drain()
			p.w[k].Poke(int32(cpu*10 + i + 1))
		}
	}
	if p.tso {
		t.C.Fence()
	}
	if p.left--; p.left == 0 {
		p.gate.Close()
		t.C.Wrote(p.end)
	}
	for n := 1; p.left > 0; n++ {
		t.C.SpinWait(p.end, n)
	}
}

func (p *wordProgram) judge(h *explore.StateHash) (string, string) {
	for i := range p.w {
		h.PutUint(fmt.Sprint("word", i), uint64(p.w[i].Peek()))
	}
	for i := range p.seen {
		h.PutUint(fmt.Sprint("seen", i), uint64(p.seen[i]))
	}
	return explore.Safe, ""
}

// TestReduceCountsClasses has programs whose equivalence classes can be counted by hand.
func TestReduceCountsClasses(t *testing.T) {
	y := newToys()
	for _, c := range []struct {
		tasks   []string
		classes uint64
	}{
		{[]string{"w0", "w1"}, 1},
		{[]string{"w0", "w0"}, 2},
		{[]string{"w0", "w0", "w0"}, 6},
		{[]string{"w0", "w0", "w0", "w0"}, 24},
		{[]string{"w0", "w1", "w2", "w3"}, 1},
		{[]string{"w0w1", "w1w0"}, 4 - 1}, // both second writes cannot come first
		{[]string{"w0r1", "w1r0"}, 3},     // store buffering without buffers
		{[]string{"w0w0", "w0w0"}, 6},
		{[]string{"r0", "r0", "w0"}, 4}, // each read before or after
		{[]string{"a0", "a0", "a0"}, 1},
		{[]string{"a0", "a0", "r0"}, 4},
		{[]string{"l0a1u0", "l0a1u0"}, 2},
		{[]string{"l0w1u0", "l0w1u0", "l0w1u0"}, 6},
		{[]string{"l0u0l0u0", "l0u0"}, 3},
		{[]string{"w0", "?0w1", "r1"}, 3}, // without w1 nothing else: its read is alone
	} {
		target := y.words(c.tasks...)
		r := reduce(t, target, explore.ReduceOptions{})
		assert.True(t, r.Complete)
		assert.Equal(t, c.classes, r.Classes, "%v", c.tasks)
		assert.Equal(t, c.classes, r.Schedules, "%v: a class was run twice", c.tasks)
	}
}

// TestReduceSeesWhatDFSSees compares the final states of all schedules with those of one
// schedule of each class.
func TestReduceSeesWhatDFSSees(t *testing.T) {
	y := newToys()
	targets := []explore.Target{
		y.counter(1, 0, false), y.counter(1, 0, true), y.abba(true),
		y.read(false), y.read(true), y.words("w0w0", "w0w0"), y.words("w0r1", "w1r0"), y.words("w0?1", "w1?0"),
		y.words("w0", "?0w1", "?1w2"), y.words("a0r0", "a0r0"), y.words("l0r1w1u0", "l0r1w1u0"), y.words("l0l1u1u0", "l1l0u0u1"),
		y.words("w0w1", "r1r0", "a0"),
	}
	for seed := range uint64(6) {
		targets = append(targets, y.words(randomWords(seed, 2, 3)...), y.words(randomWords(seed, 3, 1)...))
	}
	for _, target := range targets {
		r := reduce(t, target, explore.ReduceOptions{})
		full := exhaust(t, target, explore.ExhaustOptions{Preemptions: 100})
		require.True(t, r.Complete && full.Complete, target.Name)
		assert.Equal(t, full.FinalStates(), r.FinalStates(), target.Name)
		for v := range full.ByVerdict {
			assert.NotZero(t, r.ByVerdict[v], "%s: %s", target.Name, v)
		}
		t.Logf("%s: %d schedules, %d classes: 1/%.0f", target.Name, full.Schedules, r.Classes, float64(full.Schedules)/float64(r.Schedules))
	}
}

// TestReduceLooksBehindALock: who waits for a lock while another writes a word is let on by
// the lock's release, and not by the write that it reads once it has the lock. So that the
// word is read before it is written is a schedule of its own.
func TestReduceLooksBehindALock(t *testing.T) {
	y := newToys()
	for _, tasks := range [][]string{
		{"r1w0", "l8w1u8r1", "l8r0w1x0u8"}, {"l8a1x0u8", "r1a0", "l8r0x1a1u8"}, {"r0r1", "l8w0u8a0r0", "l8x0x1u8"},
	} {
		target := y.words(tasks...)
		r := reduce(t, target, explore.ReduceOptions{})
		full := exhaust(t, target, explore.ExhaustOptions{Preemptions: 100, Cut: true})
		require.True(t, r.Complete && full.Complete, target.Name)
		assert.Equal(t, full.FinalStates(), r.FinalStates(), target.Name)
	}
}

// TestReduceWithFailures compares the final states where allocations may fail: a search
// chooses which.
func TestReduceWithFailures(t *testing.T) {
	for fails := range 3 {
		y := newToys()
		y.fails = fails
		for _, c := range []struct {
			tasks  []string
			states [3]int // with so many failures
		}{
			{[]string{"m0"}, [3]int{1, 2, 2}},
			{[]string{"m0m0", "w0"}, [3]int{1, 3, 4}},
			{[]string{"m0", "m0"}, [3]int{1, 3, 4}},
			{[]string{"m0m0", "m0"}, [3]int{1, 4, 7}},
			{[]string{"m0w1", "r1m0"}, [3]int{2, 6, 8}},
			{[]string{"l8m0w1u8", "l8r1m0u8"}, [3]int{2, 6, 8}},
		} {
			target := y.words(c.tasks...)
			r := reduce(t, target, explore.ReduceOptions{})
			full := exhaust(t, target, explore.ExhaustOptions{Preemptions: 100, Cut: true})
			require.True(t, r.Complete && full.Complete, target.Name)
			assert.Equal(t, full.FinalStates(), r.FinalStates(), "%v, %d failures", c.tasks, fails)
			assert.Len(t, r.FinalStates(), c.states[fails], "%v, %d failures", c.tasks, fails)
			assert.Equal(t, uint64(0), r.Schedules-r.Classes, "%v, %d failures: a class was run twice", c.tasks, fails)
		}
		obs := y.words("m0m0", "m0").Run(explore.Spec{Kind: explore.KindSwitches}.Strategy(), nil)
		none := newToys().words("m0m0", "m0").Run(explore.Spec{Kind: explore.KindSwitches}.Strategy(), nil)
		assert.Equal(t, none.State, obs.State, "without a departure from the default rule nothing fails")
	}
}

// randomWords makes a program of so many tasks of so many steps.
func randomWords(seed uint64, tasks, steps int) []string {
	next := func(n uint64) uint64 {
		seed = seed*6364136223846793005 + 1442695040888963407
		return seed >> 33 % n
	}
	var out []string
	for range tasks {
		text := ""
		for range steps {
			text += string("rwa?"[next(4)]) + string("01"[next(2)])
		}
		out = append(out, text)
	}
	return out
}

func TestReduceIsTheSameOnAnyNumberOfWorkers(t *testing.T) {
	y := newToys()
	target := y.words("l0w1r2u0", "w2l0r1u0", "a2")
	one := reduce(t, target, explore.ReduceOptions{Workers: 1})
	three := reduce(t, target, explore.ReduceOptions{Workers: 3})
	assert.Equal(t, one.Schedules, three.Schedules)
	assert.Equal(t, one.Blocked, three.Blocked)
	assert.Equal(t, one.Witnesses, three.Witnesses)
}

func TestReduceBounds(t *testing.T) {
	y := newToys()
	target := y.words("w0", "w0", "w0", "w0")
	r := reduce(t, target, explore.ReduceOptions{Schedules: 3})
	assert.False(t, r.Complete)
	assert.EqualValues(t, 3, r.Schedules)
	assert.NotZero(t, r.Left, "the frontier")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, err := explore.Reduce(ctx, target, explore.ReduceOptions{})
	require.NoError(t, err)
	assert.True(t, r.Interrupted)
	assert.NotZero(t, r.Left)
	_, err = explore.Reduce(ctx, target, explore.ReduceOptions{Workers: -1})
	assert.ErrorContains(t, err, "Workers")
}

// TestReduceWitnessReplays runs the witness of a search by its token.
func TestReduceWitnessReplays(t *testing.T) {
	y := newToys()
	for _, target := range []explore.Target{y.counter(2, 0, false), y.abba(true), y.read(false)} {
		w := reduce(t, target, explore.ReduceOptions{}).FirstBad()
		require.NotNil(t, w, target.Name)
		obs := target.Run(w.Token.Spec.Strategy(), nil)
		assert.Equal(t, w.Verdict, obs.Verdict, target.Name)
	}
}

// TestReduceLooksBehindAnOops has a task that stops the machine before the other has done
// anything that could race with it.
func TestReduceLooksBehindAnOops(t *testing.T) {
	y := newToys()
	r := reduce(t, y.oops(), explore.ReduceOptions{})
	assert.NotZero(t, r.ByVerdict["bug"])
	assert.NotZero(t, r.ByVerdict[explore.Safe], "the schedules in which the other comes first")
}

// oops has a task that stops the machine unless another has set a word.
func (y *toys) oops() explore.Target {
	return explore.Target{Name: "oops", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var w x86.Word32
			obj := m.NewObj(x86.ClassWord)
			start(m, "victim", 0, func(t *sched.Task) {
				if w.Load(t.C, obj) == 0 {
					t.Oops("not set")
				}
			})
			start(m, "setter", 1, func(t *sched.Task) { w.Store(t.C, obj, 1) })
			return func(*explore.StateHash) (string, string) { return explore.Safe, "" }
		})
	}}
}

// TestIndependentStepsCommute swaps steps that the dependency relation calls independent.
func TestIndependentStepsCommute(t *testing.T) {
	y := newToys()
	for _, target := range []explore.Target{
		y.counter(2, 1, true), y.abba(false), y.words("l0r1w1u0a2", "a2l0r1w1u0"), y.words("w0?1a2", "w1?0a2", "r2"),
	} {
		n, err := explore.CheckIndependence(target, 1, 60, 4)
		assert.NoError(t, err, "go test ./kernel/explore -run TestIndependentStepsCommute")
		assert.Greater(t, n, 40, target.Name)
	}
}

// twice has a task of each CPU write a word, and when the machine has come to rest another one
// that looks at the words, as a program is looked at for what it has left behind.
func (y *toys) twice() explore.Target {
	return explore.Target{Name: "twice", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 3, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var w [3]x86.Word32
			var obj [3]x86.ObjID
			for cpu := range w {
				obj[cpu] = m.NewObj(x86.ClassWord)
				start(m, fmt.Sprint("writer", cpu), cpu, func(t *sched.Task) { w[cpu].Store(t.C, obj[cpu], 1) })
			}
			return func(h *explore.StateHash) (string, string) {
				start(m, "reader", 0, func(t *sched.Task) {
					for i := range w {
						h.PutUint("word", uint64(w[i].Load(t.C, obj[i])))
					}
				})
				m.Run()
				return explore.Safe, ""
			}
		})
	}}
}

// TestRestOrdersSteps: what is done after the machine has been at rest comes after all that was
// done before, and giving it something to do is not part of whoever's step was the last.
func TestRestOrdersSteps(t *testing.T) {
	target := newToys().twice()
	n, err := explore.CheckIndependence(target, 1, 60, 4)
	assert.NoError(t, err)
	assert.Greater(t, n, 40)
	cut := exhaust(t, target, explore.ExhaustOptions{Preemptions: 1, Cut: true})
	assert.EqualValues(t, 1, cut.Classes)
	r := reduce(t, target, explore.ReduceOptions{})
	assert.Equal(t, cut.FinalStates(), r.FinalStates())
	assert.EqualValues(t, 1, r.Schedules+r.Blocked, "no step conflicts with one that could come before it")
}

// slowSpace is an address space whose switch takes two steps.
type slowSpace struct{ obj x86.ObjID }

func (s slowSpace) SwitchIn(c *x86.CPU) {
	c.Point(x86.OpRMW, s.obj)
	c.Point(x86.OpFence, 0)
}
func (s slowSpace) Lazy(*x86.CPU) {}

// TestSwitchedOutIsSeen: a task may be woken or taken elsewhere as soon as its CPU has switched to
// another one, which is steps after that other one was chosen: who looks for a CPU for it, or for a
// task to take, depends on that step.
func TestSwitchedOutIsSeen(t *testing.T) {
	y := newToys()
	target := func(sleeps bool) explore.Target {
		return explore.Target{Name: "switch", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
			return y.run(s, o, 3, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
				task := func(name string, cpu int, fn func(*sched.Task)) *sched.Task {
					t := m.NewTask(sched.TaskOptions{Name: name, CPU: cpu + 1, Ctx: slowSpace{m.NewObj(x86.ClassWord)}}, fn)
					m.Start(nil, t)
					return t
				}
				ran := -1
				first := task("first", 0, func(t *sched.Task) {
					if sleeps {
						t.SetState(sched.TaskInterruptible)
					}
					t.Schedule()
					ran = t.C.ID
				})
				task("other", 1, func(t *sched.Task) {
					for range 3 {
						t.Point(x86.OpYield, 0)
					}
					if sleeps {
						m.Wake(t, first)
					}
				})
				task("brief", 2, func(*sched.Task) {})
				task("second", 0, func(t *sched.Task) {
					for range 3 {
						t.Point(x86.OpYield, 0)
					}
				})
				return func(h *explore.StateHash) (string, string) {
					h.PutUint("ran on", uint64(ran+1))
					return explore.Safe, ""
				}
			})
		}}
	}
	for _, sleeps := range []bool{false, true} {
		_, err := explore.CheckIndependence(target(sleeps), 1, 300, 10)
		assert.NoError(t, err, "%v", sleeps)
	}
}

// TestEndlessRunsAreNotCompared: where a livelock is noticed, and what its report says, counts points,
// so two that differ in the order of independent steps do not end alike.
func TestEndlessRunsAreNotCompared(t *testing.T) {
	y := newToys()
	target := explore.Target{Name: "endless", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		obs := y.run(s, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var w x86.Word32
			obj, other := m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
			start(m, "waiter", 0, func(t *sched.Task) {
				for w.Load(t.C, obj) == 0 {
				}
			})
			start(m, "worker", 1, func(t *sched.Task) {
				t.Point(x86.OpWrite, other)
				t.Progress()
			})
			return func(*explore.StateHash) (string, string) { return explore.Safe, "" }
		})
		var h explore.StateHash
		h.PutString("detail", obs.Detail)
		obs.State = h.Sum()
		return obs
	}}
	require.Equal(t, "livelock", target.Run(sched.NewRandom(1), nil).Verdict)
	n, err := explore.CheckIndependence(target, 1, 5, 10)
	assert.NoError(t, err)
	assert.Zero(t, n)
}

// TestCutSeesWhatDFSSees compares the final states of a depth-first search with those of
// one that stops where another schedule has been.
func TestCutSeesWhatDFSSees(t *testing.T) {
	y := newToys()
	for _, c := range []struct {
		target explore.Target
		bound  int
	}{
		{y.counter(1, 0, false), 100}, {y.counter(2, 0, true), 2}, {y.abba(true), 100},
		{y.words("w0w1", "r1r0", "a0"), 100}, {y.words("w0r1w2a3", "w1r0r2a3", "a3r1"), 2},
	} {
		full := exhaust(t, c.target, explore.ExhaustOptions{Preemptions: c.bound})
		cut := exhaust(t, c.target, explore.ExhaustOptions{Preemptions: c.bound, Cut: true})
		require.True(t, full.Complete && cut.Complete)
		assert.Equal(t, full.FinalStates(), cut.FinalStates(), c.target.Name)
		assert.Less(t, cut.Schedules, full.Schedules, c.target.Name)
		t.Logf("%s, %d preemptions: %d schedules, cut %d: 1/%.1f", c.target.Name, c.bound, full.Schedules, cut.Schedules, float64(full.Schedules)/float64(cut.Schedules))
	}
}
