package kernel

import (
	"fmt"
	"os"
	"time"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// DefaultMemory is the size of a machine that does not say.
const DefaultMemory = 64 << 20

// maxFailEvents bounds Options.FailEvents.
const maxFailEvents = 1000

// Options describe a machine to boot. The zero value is one processor with 64
// MiB, no disks, Linux 2.6.29's own memory management and the parallel regime.
type Options struct {
	// CPUs is the number of processors, 1 to sched.MaxCPUs; zero means 1.
	CPUs int
	// Memory is the size of physical memory in bytes, a multiple of 4 KiB from
	// 1 MiB on; zero means DefaultMemory. It may exceed the host's: only what
	// the machine touches costs. What it touches is bounded by Hosts.
	Memory uint64
	// HugePages and HugePages1G are how many pages of 2 MiB and of 1 GiB are put into the
	// pools of hugetlbfs at boot, out of Memory (hugepages= on the kernel's command line).
	// See Thread.SetNrHugepages for changing the former later.
	HugePages, HugePages1G int
	// Prefault makes the host populate all of Memory before Boot returns, so that
	// no page's first use is slower than the second. Memory must then fit the host.
	Prefault bool
	// Regime chooses who runs next; see package sched.
	Regime sched.Regime
	// Strategy makes the choices of the free regime; nil means random with seed 1.
	Strategy sched.Strategy
	// Preempt is the kernel's preemption model.
	Preempt sched.Preempt
	// Policy decides how fork, copy-on-write and pins meet; nil means mm.Stock.
	Policy mm.Policy
	// ForceHooks sends every decision through the policy's methods, so that
	// wall-clock comparisons do not measure the dispatch. See mm.Options.
	ForceHooks bool
	// Break takes lines out of the kernel, for tests of what should notice: see mm.Break.
	Break mm.Break
	// KSM makes it a kernel with KSM, which merges nothing until Thread.KSMRun.
	KSM bool
	// Disks are the machine's block devices, which Thread.Open finds as
	// /dev/NAME.
	Disks []Disk
	// Events records typed events beside the counters.
	Events bool
	// Ring is the number of events that each processor remembers; zero means
	// trace.DefaultRing.
	Ring int
	// Hosts pools host memory and coroutines between machines. Nil means
	// private pools, which go with the machine: right for a single machine, slow
	// for thousands.
	Hosts *Hosts
	// CheckLocks turns on the lock-order checker. It is always on in the free
	// regime and in race-detector builds.
	CheckLocks bool
	// CheckRaces looks for data races on the kernel's plain fields, as far as they are told
	// to it (sched.Task.ReadOf, WriteOf). Go's race detector sees none of them in a
	// deterministic regime. Not in the parallel regime.
	CheckRaces bool
	// TSO gives each CPU a store buffer, so that a search over schedules also chooses when
	// a store becomes visible to others: see sched.Options. Free regime only.
	TSO bool
	// FailEvents makes so many failures of allocations choices of the search: each is an
	// event that the strategy may let happen between any two steps, and the next
	// allocation fails; of FailSite only, unless that is empty. See Machine.FailAt for failures
	// at a place that is known. Free regime only.
	FailEvents int
	FailSite   string
	// ReclaimEvents makes it a choice of the search that a page is reclaimed: each of the pages that
	// are on a list of reclaim when OfferReclaim is called is an event that the strategy may
	// let happen between any two steps, and so many of them do something. The machine has one
	// more CPU then, for the task that does it, and a swap disk, turned on when the first
	// thread begins, if none of Disks is one. Free regime only.
	ReclaimEvents int
	// StepLimit ends a deterministic run as a livelock; see sched.Options.
	StepLimit uint64
	// LivelockNS ends a parallel run in which so much virtual time passed
	// without progress; see sched.Options.
	LivelockNS uint64
	// Watchdog is how long, in host time, the machine may make no step before the
	// run ends as sched.Stuck, naming the task that blocks in Go; zero means
	// sched.DefaultWatchdog.
	Watchdog time.Duration
	// SliceNS is the time slice in virtual nanoseconds; zero means 3 ms.
	SliceNS uint64
	// Cost is the cost model; nil means x86.DefaultCost().
	Cost *x86.CostModel
	// NoStack leaves new processes without a stack mapping: a search over
	// schedules then has fewer steps to make.
	NoStack bool
	// NoDirtyDIO leaves out that direct I/O marks the pages dirty that it has read into
	// (set_page_dirty_lock in dio_bio_complete and bio_set_pages_dirty): for experiments
	// that ask what it is good for.
	NoDirtyDIO bool
}

// Hosts are the pools that machines share. The methods of both are safe for
// concurrent use: machines on different goroutines may share one Hosts.
type Hosts struct {
	// Mem pools physical memory and bounds how much all machines may touch.
	Mem *x86.Host
	// Sched pools coroutines.
	Sched *sched.Host
}

// NewHosts looks at the host's memory and returns empty pools.
func NewHosts() *Hosts { return &Hosts{Mem: x86.NewHost(), Sched: &sched.Host{}} }

// Close gives what the pools hold back to the operating system. Machines must
// have been shut down.
func (h *Hosts) Close() {
	h.Sched.Close()
	h.Mem.Close()
}

// LimitError says that the host cannot run a machine as described, and which
// limit stands against it.
type LimitError struct {
	What  string // the field of Options, as "Memory"
	Asked uint64
	Limit uint64
	Why   string // where the limit comes from
}

// Error describes the refusal in one line.
func (e *LimitError) Error() string {
	return fmt.Sprintf("kernel: %s is %d, the limit is %d (%s)", e.What, e.Asked, e.Limit, e.Why)
}

// Validate reports what is wrong with the options, naming the field and the
// limit. Sizes are checked against the host, its control group and the build
// (race-detector builds keep emulated memory in the Go heap and cap it): the
// error is then a *LimitError or an *x86.SizeError.
func (o *Options) Validate() error {
	if o.CPUs < 0 {
		return fmt.Errorf("kernel: CPUs is %d", o.CPUs)
	}
	if o.CPUs > sched.MaxCPUs {
		return &LimitError{"CPUs", uint64(o.CPUs), sched.MaxCPUs, "one word holds a set of processors"}
	}
	if o.Regime > sched.Free {
		return fmt.Errorf("kernel: unknown regime %d", o.Regime)
	}
	if o.Preempt > sched.PreemptFull {
		return fmt.Errorf("kernel: unknown preemption model %d", o.Preempt)
	}
	if o.Strategy != nil && o.Regime != sched.Free {
		return fmt.Errorf("kernel: a Strategy only makes sense in the free regime, not in the %v one", o.Regime)
	}
	if o.CheckRaces && o.Regime == sched.Parallel {
		return fmt.Errorf("kernel: CheckRaces needs a deterministic regime")
	}
	if o.TSO && o.Regime != sched.Free {
		return fmt.Errorf("kernel: TSO only makes sense in the free regime, not in the %v one", o.Regime)
	}
	switch {
	case o.FailEvents < 0 || o.FailEvents > maxFailEvents:
		return fmt.Errorf("kernel: FailEvents is %d, must be 0 to %d", o.FailEvents, maxFailEvents)
	case o.FailEvents > 0 && o.Regime != sched.Free:
		return fmt.Errorf("kernel: FailEvents only makes sense in the free regime, not in the %v one", o.Regime)
	case o.ReclaimEvents < 0 || o.ReclaimEvents > OfferedReclaims:
		return fmt.Errorf("kernel: ReclaimEvents is %d, must be 0 to %d", o.ReclaimEvents, OfferedReclaims)
	case o.ReclaimEvents > 0 && o.Regime != sched.Free:
		return fmt.Errorf("kernel: ReclaimEvents only makes sense in the free regime, not in the %v one", o.Regime)
	case o.ReclaimEvents > 0 && o.CPUs == sched.MaxCPUs:
		return &LimitError{"CPUs", uint64(o.CPUs), sched.MaxCPUs - 1, "ReclaimEvents takes one more"}
	case o.FailEvents == 0 && o.FailSite != "":
		return fmt.Errorf("kernel: FailSite is %q, but FailEvents is 0: no failure is asked for", o.FailSite)
	}
	if o.Ring < 0 || o.Ring > 1<<24 {
		return fmt.Errorf("kernel: Ring is %d, must be 0 to %d", o.Ring, 1<<24)
	}
	if h := o.Hosts; h != nil && (h.Mem == nil || h.Sched == nil) {
		return fmt.Errorf("kernel: Hosts lacks a pool; NewHosts makes both")
	}
	if err := o.validateMemory(); err != nil {
		return err
	}
	for i := range o.Disks {
		d := &o.Disks[i]
		if err := d.validate(); err != nil {
			return err
		}
		for _, other := range o.Disks[:i] {
			if other.Name == d.Name {
				return fmt.Errorf("kernel: two disks are called %q", d.Name)
			}
		}
	}
	return nil
}

func (o *Options) validateMemory() error {
	host := o.host()
	if err := host.Check(o.memory()); err != nil {
		return fmt.Errorf("kernel: Memory: %w", err)
	}
	for _, p := range []struct {
		name string
		n    int
		size uint64
	}{{"HugePages", o.HugePages, mm.HugePage2M}, {"HugePages1G", o.HugePages1G, mm.HugePage1G}} {
		if p.n < 0 {
			return fmt.Errorf("kernel: %s is %d, must be 0 or more", p.name, p.n)
		}
		if limit := o.memory() / p.size; uint64(p.n) > limit {
			return &LimitError{p.name, uint64(p.n), limit, "pages of that size in Memory"}
		}
	}
	if !o.Prefault {
		return nil
	}
	if limit, _ := host.Budget(); o.memory()>>x86.PageShift > limit {
		return &LimitError{"Memory", o.memory(), limit << x86.PageShift,
			"Prefault: the share of free memory, of the host or of a control group, that machines may touch"}
	}
	return nil
}

// host returns the pool to ask about sizes.
func (o *Options) host() *x86.Host {
	if o.Hosts != nil {
		return o.Hosts.Mem
	}
	return x86.NewHost()
}

func (o *Options) memory() uint64 {
	if o.Memory == 0 {
		return DefaultMemory
	}
	return o.Memory
}

// validate reports what is wrong with a disk.
func (d *Disk) validate() error {
	if d.Name == "" {
		return fmt.Errorf("kernel: a disk has no name")
	}
	switch {
	case d.ImagePath == "" && d.Size == 0:
		return fmt.Errorf("kernel: disk %s has neither Size nor ImagePath", d.Name)
	case d.ImagePath != "" && d.Size != 0:
		return fmt.Errorf("kernel: disk %s has both Size and ImagePath", d.Name)
	case d.Size%x86.SectorSize != 0:
		return fmt.Errorf("kernel: disk %s: Size is %d, must be a multiple of %d", d.Name, d.Size, x86.SectorSize)
	}
	if d.Swap && (d.ReadOnly || d.ImagePath == "" && d.Size < mm.MinSwap) {
		return fmt.Errorf("kernel: disk %s: Swap: it is read-only, or smaller than %d bytes", d.Name, mm.MinSwap)
	}
	if d.ImagePath != "" {
		if _, err := os.Stat(d.ImagePath); err != nil {
			return fmt.Errorf("kernel: disk %s: %w", d.Name, err)
		}
	}
	return nil
}
