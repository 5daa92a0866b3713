package kernel

import (
	"fmt"
	"io"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// Disk describes a block device: host memory, or a plain file of the host.
type Disk struct {
	// Name is what Thread.Open calls the device, after /dev/. Required.
	Name string
	// Size makes a RAM disk of so many bytes, a multiple of 512, all zero.
	Size uint64
	// ImagePath makes the contents those of a plain file of the host, whose size
	// is the device's. What the machine writes is in the file afterwards.
	ImagePath string
	// ReadOnly makes writes fail with EROFS; the image is opened for reading only.
	ReadOnly bool
	// SectorSize is the logical sector size in bytes, 512 to 4096; zero means 512.
	SectorSize int
	// Swap writes the header of a swap area to the disk at Boot, as mkswap(8) does: see
	// Thread.Swapon. The size must be at least mm.MinSwap.
	Swap bool
	// Latency is the time model; nil means blk.FastDevice().
	Latency *blk.Latency
	// Affinity is the mask of CPUs that the disk interrupts, blk.DeviceOptions'.
	Affinity uint64
	// Inject lists transfers that fail; more can be added later: Machine.Disk.
	Inject []blk.Fault
}

// Machine is one emulated computer with its kernel. Many machines may run in one
// program; they share nothing but Hosts.
//
// Unless it says otherwise, a method is for whoever made the machine, between runs.
type Machine struct {
	opts     Options        // immutable
	hosts    *Hosts         // immutable
	ownHosts bool           // immutable
	mem      *x86.Memory    // immutable
	sched    *sched.Machine // immutable
	trace    *trace.Trace   // immutable
	pages    *page.Map      // immutable
	sys      *mm.System     // immutable
	blk      *blk.System    // nil without disks; immutable
	fs       *fs.System     // immutable
	disks    []disk         // immutable
	last     *sched.Result  // of the last run; for whoever runs the machine
	down     bool           // Shutdown has been called

	// tasklist is tasklist_lock: it orders births, deaths and adoptions.
	tasklist lock.SpinLock
	root     Process              // parent of what Start made and of orphans; has no threads
	pids     [pidBuckets]*Process // pid_hash; protected by tasklist
	lastPID  int                  // protected by tasklist
	exits    []Exit               // since Boot; protected by tasklist
	ended    uint64               // processes that have ended; protected by tasklist
	victims  []Victim             // since Boot; protected by tasklist

	taskNames taskNames
	futexes   [futexBuckets]futexBucket
}

// disk is a block device as the machine knows it.
type disk struct {
	name   string
	dev    *blk.Device
	ram    *blk.RAMDisk // nil for an image
	closer io.Closer    // nil for a RAM disk
}

// Boot makes a machine. It runs nothing until Run. The error names the option that
// cannot be had; see Options.Validate.
//
// A machine takes host memory only for what it touches, and gives everything back
// at Shutdown. With shared Hosts, booting costs some tens of microseconds.
func Boot(o Options) (*Machine, error) {
	m := &Machine{}
	if o.Hosts == nil {
		o.Hosts = NewHosts()
		m.ownHosts = true
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	isolated := 0
	if o.ReclaimEvents > 0 {
		o.addReclaimer()
		isolated = 1
	}
	o.Memory = o.memory()
	m.opts, m.hosts = o, o.Hosts
	mem, err := o.Hosts.Mem.NewMemory(x86.MemoryOptions{Bytes: o.Memory})
	if err != nil {
		return nil, fmt.Errorf("kernel: Memory: %w", err)
	}
	m.mem = mem
	if err := m.boot(isolated); err != nil {
		if m.sched != nil {
			m.sched.Shutdown()
		}
		m.release()
		return nil, err
	}
	return m, nil
}

func (m *Machine) boot(isolated int) error {
	o := &m.opts
	if o.Prefault && !m.mem.Prefault(0, int(m.mem.Frames())) {
		return &LimitError{"Memory", o.Memory, o.Memory - x86.PageSize, "Prefault: other machines hold the host's share"}
	}
	m.trace = trace.New(o.CPUs, trace.Options{Events: o.Events, Ring: o.Ring, Serial: o.Regime != sched.Parallel})
	var err error
	m.sched, err = sched.New(sched.Options{
		CPUs: o.CPUs, Isolated: isolated, Regime: o.Regime, Strategy: o.Strategy, Preempt: o.Preempt, SliceNS: o.SliceNS,
		StepLimit: o.StepLimit, LivelockNS: o.LivelockNS, Watchdog: o.Watchdog, CheckLocks: o.CheckLocks, TSO: o.TSO, CheckRaces: o.CheckRaces,
		Mem: m.mem, Cost: o.Cost, Trace: m.trace, Host: o.Hosts.Sched,
	})
	if err != nil {
		return err
	}
	m.registerNamers()
	m.pages = page.NewMap(m.sched, m.mem)
	m.sys, err = mm.NewSystem(m.sched, m.pages, mm.Options{Policy: o.Policy, ForceHooks: o.ForceHooks, KSM: o.KSM, Break: o.Break})
	if err != nil {
		return err
	}
	if err := m.bootHugePages(); err != nil {
		return err
	}
	if o.FailEvents > 0 {
		m.pages.OfferFailures(o.FailSite, o.FailEvents)
	}
	if o.ReclaimEvents > 0 {
		m.sys.BootReclaimer(o.ReclaimEvents, o.CPUs-1)
	}
	m.pages.OutOfMemory = m.outOfMemoryKill
	m.tasklist.Init(m.sched, lock.TaskList)
	m.root.m, m.root.name = m, "swapper"
	for i := range m.futexes {
		m.futexes[i].lock.Init(m.sched, lock.Futex)
	}
	return m.addDisks()
}

// registerNamers tells reports how to name what the kernel has numbered.
func (m *Machine) registerNamers() {
	m.sched.RegisterNamer(x86.ClassLock, lock.Namer)
	m.sched.RegisterNamer(x86.ClassTask, func(id uint64) string { return "task " + m.taskName(id) })
	m.sched.RegisterNamer(x86.ClassTimer, func(id uint64) string { return "timer of task " + m.taskName(id) })
	m.sched.RegisterNamer(x86.ClassWait, m.waitName)
	for _, c := range [...]x86.Class{x86.ClassPTE, x86.ClassPage, x86.ClassFrame, x86.ClassWord} {
		m.sched.RegisterNamer(c, func(id uint64) string { return m.sys.NameObj(x86.Obj(c, id)) })
	}
}

// eachProcess calls fn for the processes that have not been reaped, in no order, without
// a lock: for reports of a machine that stands still.
func (m *Machine) eachProcess(fn func(p *Process)) {
	for _, p := range m.pids {
		for ; p != nil; p = p.hashNext {
			fn(p)
		}
	}
}

// taskName names a live task by its thread.
func (m *Machine) taskName(id uint64) string {
	name := fmt.Sprint(id)
	m.eachProcess(func(p *Process) {
		for _, th := range p.threads {
			if th.task != nil && uint64(th.task.ID) == id {
				name += " " + th.task.Name
			}
		}
	})
	return name
}

// waitName names a pipe's or a process's wait queues.
func (m *Machine) waitName(id uint64) (name string) {
	if name = m.fs.WaitName(x86.Obj(x86.ClassWait, id)); name != "" {
		return name
	}
	m.eachProcess(func(p *Process) {
		if p.childrenEnded.Obj().ID() == id {
			name = fmt.Sprintf("children of process %d %s", p.pid, p.name)
		}
		for _, th := range p.threads {
			if th.joiners.Obj().ID() == id {
				name = fmt.Sprintf("end of thread %d of process %d", th.tid, p.pid)
			}
		}
	})
	return name
}

func (m *Machine) addDisks() error {
	if len(m.opts.Disks) == 0 {
		m.addFiles()
		return nil
	}
	m.blk = blk.NewSystem(m.sched, m.pages)
	for i := range m.opts.Disks {
		o := &m.opts.Disks[i]
		d := disk{name: o.Name}
		var backing blk.Backing
		var err error
		if o.ImagePath != "" {
			var img *blk.Image
			if img, err = blk.OpenImage(o.ImagePath, o.ReadOnly); err == nil {
				backing, d.closer = img, img
			}
		} else if d.ram, err = blk.NewRAMDisk(int64(o.Size)); err == nil {
			backing = d.ram
		}
		if err == nil && o.Swap {
			err = makeSwap(backing)
		}
		if err != nil {
			return fmt.Errorf("kernel: disk %s: %w", o.Name, err)
		}
		m.disks = append(m.disks, d)
		d.dev, err = m.blk.AddDevice(blk.DeviceOptions{
			Name: o.Name, Backing: backing, SectorSize: o.SectorSize, Latency: o.Latency, ReadOnly: o.ReadOnly,
			Affinity: o.Affinity,
		})
		if err != nil {
			return fmt.Errorf("kernel: disk %s: %w", o.Name, err)
		}
		for _, f := range o.Inject {
			d.dev.Inject.Add(f)
		}
		m.disks[i] = d
	}
	m.addFiles()
	return nil
}

// addFiles makes the file layer, over the disks there are.
func (m *Machine) addFiles() {
	m.fs = fs.New(m.sys, m.blk)
	m.fs.NoDirtyDIO = m.opts.NoDirtyDIO
	m.fs.SendSIGPIPE = func(t *sched.Task) {
		th := t.Owner.(*Thread)
		th.p.sendSignal(t, th, SigInfo{Signal: SIGPIPE, Code: SIUser, PID: th.p.pid})
	}
}

// Shutdown ends what still runs, closes the disks' images and gives host memory and
// coroutines back. The machine cannot be used afterwards, but Outcomes, counters and
// events remain. It is safe to call more than once.
func (m *Machine) Shutdown() {
	if m.down {
		return
	}
	m.down = true
	m.sched.Shutdown()
	m.release()
}

// release gives back what does not belong to the scheduler.
func (m *Machine) release() {
	for _, d := range m.disks {
		if d.closer != nil {
			_ = d.closer.Close() // written at DMA time, nothing is buffered
		}
	}
	stuck := false
	if m.sched != nil {
		// A coroutine that blocks in Go cannot be unwound and may wake up later:
		// the memory that it would write to is lost.
		stuck = m.last != nil && m.last.Reason == sched.Stuck
	}
	if !stuck {
		m.mem.Release()
	}
	if m.ownHosts {
		m.hosts.Close()
	}
}

// Sched returns the machine's processors, tasks and time.
func (m *Machine) Sched() *sched.Machine { return m.sched }

// MM returns the memory manager.
func (m *Machine) MM() *mm.System { return m.sys }

// Pages returns the struct pages and the page allocator.
func (m *Machine) Pages() *page.Map { return m.pages }

// Trace returns the counters and events. Sums may be taken at any time.
func (m *Machine) Trace() *trace.Trace { return m.trace }

// Block returns the block layer, nil if the machine has no disks.
func (m *Machine) Block() *blk.System { return m.blk }

// FS returns the file layer. Without disks there are only pipes.
func (m *Machine) FS() *fs.System { return m.fs }

// Options returns the options that the machine was booted with, defaults filled in.
func (m *Machine) Options() Options { return m.opts }

// Disk returns the named block device, nil if there is none.
func (m *Machine) Disk(name string) *blk.Device {
	for i := range m.disks {
		if m.disks[i].name == name {
			return m.disks[i].dev
		}
	}
	return nil
}

// DiskData returns the contents of the named RAM disk, which may be read and
// written while nothing runs; nil if there is no such RAM disk.
func (m *Machine) DiskData(name string) []byte {
	for i := range m.disks {
		if d := &m.disks[i]; d.name == name && d.ram != nil {
			return d.ram.Data()
		}
	}
	return nil
}

// View says how the machine's events are shown: names of tasks and system calls, the
// unit of time.
func (m *Machine) View() trace.View {
	return trace.View{
		Names: trace.Namer{
			Task:    m.taskNames.name,
			Syscall: func(nr uint64) string { return Sysno(nr).String() },
			Lock:    func(obj uint64) string { return m.sched.ObjName(x86.ObjID(obj)) },
			Oops:    m.sched.OopsText,
		},
		Hz:    uint64(m.sched.Cost().GHz * 1e9),
		Steps: m.opts.Regime == sched.Free,
		CPUs:  m.opts.CPUs, Dropped: m.trace.Dropped(),
	}
}

// taskNames remembers names of tasks that have ended, for traces. It is the tool's.
type taskNames struct {
	lock  x86.RawSpin
	names []string // by task ID; protected by lock
}

func (n *taskNames) add(id int, name string) {
	n.lock.Lock()
	for len(n.names) <= id {
		n.names = append(n.names, "")
	}
	n.names[id] = name
	n.lock.Unlock()
}

func (n *taskNames) name(id uint64) string {
	n.lock.Lock()
	s := ""
	if id < uint64(len(n.names)) {
		s = n.names[id]
	}
	n.lock.Unlock()
	return s
}
