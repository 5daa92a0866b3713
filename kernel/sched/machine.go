package sched

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Regime says how a machine is executed; see the package comment.
type Regime uint8

// The regimes.
const (
	Parallel Regime = iota
	Timed
	Free
)

// String returns the regime's name as flags spell it.
func (r Regime) String() string {
	switch r {
	case Parallel:
		return "parallel"
	case Timed:
		return "timed"
	case Free:
		return "free"
	}
	return "regime?"
}

// Preempt is the kernel's preemption model (CONFIG_PREEMPT_NONE or CONFIG_PREEMPT).
type Preempt uint8

// The preemption models.
const (
	PreemptNone Preempt = iota
	PreemptFull
)

// MaxCPUs is how many CPUs a machine may have: cpu_vm_mask is one word.
const MaxCPUs = 64

// Options describe a machine's processors and how they are run. The zero value
// is one CPU in the parallel regime, without preemption.
type Options struct {
	// CPUs is the number of processors, 1 to MaxCPUs; zero means 1.
	CPUs int
	// Regime chooses who runs next.
	Regime Regime
	// Strategy makes the choices of the Free regime; nil means NewRandom(1).
	Strategy Strategy
	// Preempt is the preemption model.
	Preempt Preempt
	// SliceNS is the time slice in virtual nanoseconds; zero means 3 ms.
	SliceNS uint64
	// StepLimit ends a deterministic run as a livelock: in the Free regime after
	// so many points, in the Timed one after so many without progress (see
	// Task.Progress). Zero means 20 million.
	StepLimit uint64
	// LivelockNS ends a parallel run in which virtual time advanced by so much
	// without any task making progress; zero means 60 s.
	LivelockNS uint64
	// Watchdog is how long, in host time, the machine may make no step before the
	// run ends as Stuck, with the name of the task that blocks in Go; zero means
	// DefaultWatchdog, NoWatchdog that nobody watches (deterministic regimes only).
	Watchdog time.Duration
	// CheckLocks turns on the lock-order checker (kernel/lock). It is always on
	// in the Free regime and in race-detector builds.
	CheckLocks bool
	// TSO gives each CPU a store buffer, as x86 has it (arch/x86/tso.go): a search over
	// schedules then also chooses when stores become visible to others, and a barrier
	// that is missing shows. Free regime only.
	TSO bool
	// CheckRaces looks for data races on the kernel's plain fields: see Task.ReadOf.
	// Deterministic regimes only.
	CheckRaces bool
	// SleepPoints has Task.SetState pass a schedule point, so that a search also has others
	// act between what a task did before and its saying that it is about to sleep. Without
	// it both are one step: the points of a program are the same as ever, and a task that is
	// taken off its queue before it says so sleeps for ever in the parallel regime only.
	SleepPoints bool
	// Isolated takes the last so many CPUs out of what the scheduler balances: a task runs there
	// only if it was started there (isolcpus= on Linux' command line).
	Isolated int
	// Mem is the physical memory. Required.
	Mem *x86.Memory
	// Cost is the cost model; nil means x86.DefaultCost().
	Cost *x86.CostModel
	// Trace receives counters and events; nil means counters only.
	Trace *trace.Trace
	// Host pools coroutines between machines; nil means a private one.
	Host *Host
}

// Validate reports what is wrong with the options, naming the field and its limits.
func (o *Options) Validate() error {
	if o.CPUs < 0 || o.CPUs > MaxCPUs {
		return fmt.Errorf("sched: CPUs is %d, must be 1 to %d", o.CPUs, MaxCPUs)
	}
	if o.Isolated < 0 || o.Isolated > 0 && o.Isolated >= max(o.CPUs, 1) {
		return fmt.Errorf("sched: Isolated is %d, must be less than CPUs", o.Isolated)
	}
	if o.Regime > Free {
		return fmt.Errorf("sched: unknown regime %d", o.Regime)
	}
	if o.CheckRaces && o.Regime == Parallel {
		return fmt.Errorf("sched: CheckRaces needs a deterministic regime")
	}
	if o.TSO && o.Regime != Free {
		return fmt.Errorf("sched: TSO needs the free regime, not the %v one", o.Regime)
	}
	if o.Watchdog < 0 && (o.Watchdog != NoWatchdog || o.Regime == Parallel) {
		return fmt.Errorf("sched: Watchdog is %v, must not be negative", o.Watchdog)
	}
	if o.Mem == nil {
		return fmt.Errorf("sched: Mem is required")
	}
	return nil
}

// Machine is one emulated computer's processors, tasks and time. Many machines
// may run in one process; they share nothing but a Host.
type Machine struct {
	// Local is the memory manager's state for the machine, as Task.Local is for a
	// task. Immutable after boot.
	Local any

	opts  Options
	det   bool
	host  *Host
	cost  *x86.CostModel
	cpus  []*cpu
	trace *trace.Trace

	handlers [x86.NumVectors]func(*Task) // immutable after boot

	events eventQueue

	// tasks lists every task that has a coroutine. Protected by tasksLock.
	tasks     map[int]*Task
	tasksLock x86.RawSpin
	nextTask  int           // protected by tasksLock
	live      atomic.Int64  // tasks that keep the machine from being quiet
	nextObj   atomic.Uint64 // numbers of locks and words

	// dying is set when live coroutines are to unwind at their next point.
	dying atomic.Bool
	// stop is set when the CPU loops are to return from Run. Atomic.
	stop atomic.Bool

	result     *Result // protected by resultLock
	bugs       []Bug   // protected by resultLock
	resultLock x86.RawSpin

	det1   detState // deterministic regimes only
	offers []offer  // events that may happen at any time; protected by whoever acts
	view   int      // whose stores memory shows, where there are store buffers; -1: those of nobody
	par    parState // parallel regime only
	rcu    rcuState
	acct   *accounts // nil unless costs are accounted
	// happens is the checker of data races, nil unless asked for.
	happens *happens
	slots   int // tasks so far, idle ones included; protected by tasksLock

	foot     *x86.Footprint // what the current step touches; deterministic regimes
	observer Observer       // immutable while running
	probing  bool           // the machine asks who has missed a wake-up; see probe
	namers   [256]func(id uint64) string
}

// cpu is the scheduler's side of a processor.
type cpu struct {
	x86.CPU
	m   *Machine
	rq  runQueue
	cur *Task // the task whose coroutine runs on this CPU. Owner.

	idle        *Task
	isolated    bool // see Options.Isolated; immutable
	needResched atomic.Bool
	sliceEnd    uint64 // clock at which cur's slice ends. Owner.
	// achieved counts system calls and faults completed here, for livelock detection.
	// Written by the owner, read by anybody.
	achieved x86.Word64
	// running is cur's number, 0 for the idle task, for the watchdog. Written by the
	// owner, read by anybody.
	running  x86.Word64
	pickedAt uint64 // clock at which cur was picked. Owner.
	prev     *Task  // task switched away from, to be released by the loop. Owner.

	expired     []*Timer // timers due on this CPU; protected by expiredLock
	expiredLock x86.RawSpin

	// Deterministic regimes: the pending operation, and whether the CPU is
	// disabled until waitObj is written.
	op      x86.Op
	obj     x86.ObjID
	drains  bool // the operation waits until the store buffer is empty
	waiting bool
	waitObj x86.ObjID

	// Parallel regime.
	isIdle atomic.Bool   // excluded from machine time
	pub    atomic.Uint64 // published clock
	parked atomic.Bool
	park   chan struct{}
	points uint64        // slow points that were due by the clock. Owner.
	due    uint64        // clock of the next one. Owner.
	beat   atomic.Uint64 // points, for the watchdog
	spin   spinning
	still  standstill
}

// New makes a machine. It runs nothing until Run.
func New(o Options) (*Machine, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	if o.SliceNS == 0 {
		o.SliceNS = 3_000_000
	}
	if o.StepLimit == 0 {
		o.StepLimit = 20_000_000
	}
	if o.Watchdog == 0 {
		o.Watchdog = DefaultWatchdog
	}
	if o.LivelockNS == 0 {
		o.LivelockNS = 60_000_000_000
	}
	if o.Cost == nil {
		o.Cost = x86.DefaultCost()
	}
	if o.Trace == nil {
		o.Trace = trace.New(o.CPUs, trace.Options{})
	}
	if o.Host == nil {
		o.Host = &Host{}
	}
	if o.Regime == Free && o.Strategy == nil {
		o.Strategy = NewRandom(1)
	}
	if o.Regime == Free || raceEnabled {
		o.CheckLocks = true
	}
	m := &Machine{
		opts: o, det: o.Regime != Parallel, host: o.Host, cost: o.Cost, trace: o.Trace,
		tasks: make(map[int]*Task),
	}
	m.det1.last, m.view = -1, -1
	if o.Regime == Free {
		m.foot = &x86.Footprint{}
		m.det1.choice.Foot = m.foot
	}
	if o.Regime == Timed {
		m.acct = newAccounts()
	}
	if o.CheckRaces {
		m.happens = newHappens()
	}
	m.cpus = make([]*cpu, o.CPUs)
	for i := range m.cpus {
		c := m.host.getCPU()
		c.m = m
		c.Init(i, m.det, m.acct != nil, o.Mem, o.Cost, o.Trace.CPU(i), m)
		c.Foot = m.foot
		if o.TSO {
			c.UseStoreBuffer()
		}
		if !m.det {
			c.park = make(chan struct{}, 1)
		}
		m.cpus[i] = c
		c.isolated = i >= o.CPUs-o.Isolated
		c.idle = m.newIdle(c)
		c.cur = c.idle
		c.waiting, c.waitObj = m.det, x86.CPUObj(i)
		c.isIdle.Store(true)
	}
	if o.Regime == Free {
		o.Strategy.Begin(o.CPUs)
	}
	m.events.next.Store(never)
	m.par.spins, m.par.quantum, m.par.yieldEvery = spinsIdle, quantum, yieldEvery
	if o.CPUs > runtime.GOMAXPROCS(0) {
		m.par.spins, m.par.quantum, m.par.yieldEvery = spinsCrowded, crowdedQuantum, crowdedYieldEvery
	}
	m.RegisterIRQ(x86.VecReschedule, func(*Task) {})
	m.RegisterIRQ(x86.VecTimer, runExpiredTimers)
	return m, nil
}

// CPUs returns the number of processors.
func (m *Machine) CPUs() int { return len(m.cpus) }

// CPU returns processor i.
func (m *Machine) CPU(i int) *x86.CPU { return &m.cpus[i].CPU }

// Mem returns the machine's physical memory.
func (m *Machine) Mem() *x86.Memory { return m.opts.Mem }

// Trace returns the machine's counters and events.
func (m *Machine) Trace() *trace.Trace { return m.trace }

// Current returns the task whose stack c executes on: the idle task if nobody
// else runs. Only for code that runs on c, and for machines at rest.
func (m *Machine) Current(c *x86.CPU) *Task { return m.cpus[c.ID].cur }

// Preempt returns the kernel's preemption model.
func (m *Machine) Preempt() Preempt { return m.opts.Preempt }

// Regime returns the execution regime.
func (m *Machine) Regime() Regime { return m.opts.Regime }

// Det reports whether the regime is deterministic.
func (m *Machine) Det() bool { return m.det }

// CheckLocks reports whether lock order is to be checked.
func (m *Machine) CheckLocks() bool { return m.opts.CheckLocks }

// Cost returns the cost model.
func (m *Machine) Cost() *x86.CostModel { return m.cost }

// Steps returns how many schedule points a deterministic machine has passed.
func (m *Machine) Steps() uint64 { return m.det1.steps }

// NewObj numbers a lock or word of the machine. Numbers are given in the order
// of the calls, so they mean the same in every run of a deterministic program.
func (m *Machine) NewObj(class x86.Class) x86.ObjID {
	return x86.Obj(class, m.nextObj.Add(1))
}

// Now returns machine time in virtual nanoseconds: in the deterministic
// regimes the time of whoever runs, in the parallel one an estimate.
func (m *Machine) Now() uint64 { return m.cost.CyclesToNS(m.nowCycles()) }

func (m *Machine) nowCycles() uint64 {
	if m.det {
		return m.det1.time
	}
	return m.parTime()
}

// Progress tells the livelock detection that something was achieved: a system
// call or a fault ended.
func (t *Task) Progress() {
	if !t.M.det {
		c := &t.M.cpus[t.C.ID].achieved
		c.Poke(c.Peek() + 1)
		return
	}
	t.M.det1.live.achieved(t.M.det1.steps)
	if t.M.opts.Regime == Timed {
		t.M.det1.since = t.M.det1.steps
	}
}
