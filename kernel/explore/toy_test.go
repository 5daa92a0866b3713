package explore_test

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// toys makes targets of a few lines on a bare machine: no memory management,
// only words, locks and tasks.
type toys struct {
	mem   *x86.Host
	coros *sched.Host
	waste int // object numbers given away before the program begins
	tso   bool
	fails int // allocations that may fail
}

func newToys() *toys { return &toys{mem: x86.NewHost(), coros: &sched.Host{}} }

// numbered are toys whose objects have other numbers.
func (y *toys) numbered(waste int) *toys { return &toys{mem: y.mem, coros: y.coros, waste: waste} }

// buffered are toys whose CPUs have store buffers.
func (y *toys) buffered() *toys { return &toys{mem: y.mem, coros: y.coros, tso: true} }

// run boots a machine, lets setup add tasks to it, runs it, and asks judge for
// the verdict if the machine ended by itself.
func (y *toys) run(s sched.Strategy, o sched.Observer, cpus int, setup func(m *sched.Machine) (judge func(h *explore.StateHash) (verdict, detail string))) explore.Observation {
	mem, err := y.mem.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
	if err != nil {
		panic(err)
	}
	m, err := sched.New(sched.Options{CPUs: cpus, Regime: sched.Free, Strategy: s, Mem: mem, Host: y.coros, StepLimit: 100_000, TSO: y.tso, Watchdog: sched.NoWatchdog})
	if err != nil {
		panic(err)
	}
	m.SetObserver(o)
	for range y.waste {
		m.NewObj(x86.ClassWord)
	}
	judge := setup(m)
	r := m.Run()
	obs := explore.Observation{Steps: r.Steps, Result: r}
	var h explore.StateHash
	obs.Verdict, obs.Detail = judge(&h)
	if v := explore.VerdictOf(r); v != "" {
		obs.Verdict, obs.Detail = v, r.Detail
	}
	h.PutString("verdict", obs.Verdict)
	obs.State = h.Sum()
	m.Shutdown()
	mem.Release()
	return obs
}

func start(m *sched.Machine, name string, cpu int, fn func(*sched.Task)) {
	m.Start(nil, m.NewTask(sched.TaskOptions{Name: name, CPU: cpu + 1}, fn))
}

// toyLock is a spinlock that the order checker knows nothing of.
type toyLock struct {
	w   x86.SpinWord
	obj x86.ObjID
}

func (l *toyLock) lock(t *sched.Task) {
	t.C.Point(x86.OpLock, l.obj)
	for n := 1; !l.w.TryLock(); n++ {
		t.C.SpinWait(l.obj, n)
	}
}

func (l *toyLock) unlock(t *sched.Task) {
	t.C.Point(x86.OpUnlock, l.obj)
	l.w.Unlock()
	t.C.Wrote(l.obj)
}

// counter has two tasks add to a word n times each by load and store, with a lock
// around it or not, and noise points of their own before and after.
func (y *toys) counter(n, noise int, locked bool) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var w x86.Word32
			l := toyLock{obj: m.NewObj(x86.ClassLock)}
			obj := m.NewObj(x86.ClassWord)
			for cpu := range 2 {
				private := m.NewObj(x86.ClassWord)
				start(m, fmt.Sprint("adder", cpu), cpu, func(t *sched.Task) {
					work := func() {
						for range noise {
							t.Point(x86.OpWrite, private)
						}
					}
					for range n {
						work()
						addOne(t, &w, obj, &l, locked)
						work()
					}
				})
			}
			return func(h *explore.StateHash) (string, string) {
				v := w.Peek()
				h.PutUint("counter", uint64(v))
				if v != int32(2*n) {
					return "lost-update", fmt.Sprintf("counter is %d, not %d", v, 2*n)
				}
				return explore.Safe, ""
			}
		})
	}
	t := explore.Target{Name: "counter", Policy: "none", Run: run, Params: []explore.Param{{Key: "n", Value: fmt.Sprint(n)}}}
	if locked {
		t.Policy = "spinlock"
	}
	return t
}

func addOne(t *sched.Task, w *x86.Word32, obj x86.ObjID, l *toyLock, locked bool) {
	if locked {
		l.lock(t)
	}
	v := w.Load(t.C, obj)
	w.Store(t.C, obj, v+1)
	if locked {
		l.unlock(t)
	}
}

// abba has two tasks take two locks, in different order if wrong.
func (y *toys) abba(wrong bool) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			l := [2]toyLock{{obj: m.NewObj(x86.ClassLock)}, {obj: m.NewObj(x86.ClassLock)}}
			done := 0
			for cpu := range 2 {
				first := 0
				if wrong {
					first = cpu
				}
				start(m, fmt.Sprint("taker", cpu), cpu, func(t *sched.Task) {
					takeBoth(t, &l[first], &l[1-first])
					done++
				})
			}
			return func(h *explore.StateHash) (string, string) {
				h.PutUint("done", uint64(done))
				return explore.Safe, ""
			}
		})
	}
	return explore.Target{Name: "abba", Policy: "none", Run: run}
}

func takeBoth(t *sched.Task, a, b *toyLock) {
	a.lock(t)
	b.lock(t)
	b.unlock(t)
	a.unlock(t)
}

// dma is a device event that stores into a word and interrupts a CPU.
type dma struct {
	c   *x86.CPU
	w   *x86.Word32
	obj x86.ObjID
}

func (d *dma) Fire(*sched.Machine, *trace.CPU) {
	d.w.Poke(42)
	d.c.Raise(x86.VecBlock)
}
func (d *dma) Op() x86.Op     { return x86.OpDMAWrite }
func (d *dma) Obj() x86.ObjID { return d.obj }
func (d *dma) Name() string   { return "disk 0 sector 8" }

// read has a task start a transfer and, unless it waits, look at the buffer
// too early.
func (y *toys) read(wait bool) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		return y.run(gate, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var buf, done x86.Word32
			var got int32
			obj, flag := m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
			m.RegisterIRQ(x86.VecBlock, func(t *sched.Task) { bioEndIO(t, &done, flag) })
			start(m, "reader", 0, func(t *sched.Task) {
				for range 20 {
					t.Point(x86.OpYield, 0) // set-up, not searched
				}
				gate.Open()
				m.AddEvent(1000, &dma{t.C, &buf, obj})
				got = directRead(t, &buf, obj, &done, flag, wait)
			})
			return func(h *explore.StateHash) (string, string) {
				h.PutUint("got", uint64(got))
				if got != 42 {
					return "lost-read", fmt.Sprintf("read %d, the disk has 42", got)
				}
				return explore.Safe, ""
			}
		})
	}
	return explore.Target{Name: "read", Policy: "none", Run: run}
}

func bioEndIO(t *sched.Task, done *x86.Word32, flag x86.ObjID) {
	done.Store(t.C, flag, 1)
	t.C.Wrote(flag)
}

func directRead(t *sched.Task, buf *x86.Word32, obj x86.ObjID, done *x86.Word32, flag x86.ObjID, wait bool) int32 {
	if wait {
		for n := 1; done.Load(t.C, flag) == 0; n++ {
			t.C.SpinWait(flag, n)
		}
	}
	return buf.Load(t.C, obj)
}
