package matrix

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Costs are what one run of a workload's small form took in the timed regime, set-up and
// processes' ends included. They are the same each time.
type Costs struct {
	Atomics       uint64 `json:"atomics"`        // bus-locked operations
	Fences        uint64 `json:"fences"`         // full barriers
	LineTransfers uint64 `json:"line_transfers"` // cache lines fetched from another CPU
	PageCopies    uint64 `json:"page_copies"`    // of 4 KiB
	Faults        uint64 `json:"faults"`
	IPIs          uint64 `json:"ipis"`
	NS            uint64 `json:"ns"` // virtual time
	// Memory is how many pages of 4 KiB were in use at most, huge pages among them: what
	// a policy copies early it also keeps.
	Memory uint64 `json:"memory"`
	// ForkNS is how long the longest fork took, in virtual time, waiting included.
	ForkNS uint64 `json:"fork_ns"`
	// Ended says how the run ended if the machine did not come to rest; the figures are
	// then those until that moment.
	Ended string `json:"ended,omitempty"`
}

// Row is what a policy costs of itself.
type Row struct {
	Policy string `json:"policy"`
	// ForkNS is how long fork takes while an asynchronous direct read of a device that
	// takes a millisecond is in flight.
	ForkNS uint64 `json:"fork_ns"`
	// Failed says why ForkNS could not be measured: the policy's fork, or the read, did not end.
	Failed string `json:"failed,omitempty"`
	// Groups are what the groups' columns take under it.
	Groups map[string]GroupCosts `json:"groups,omitempty"`
}

// fork is ForkNS in microseconds, with the unit behind it.
func (r *Row) fork(unit string) string {
	if r.Failed != "" {
		return "-"
	}
	return fmt.Sprintf("%.1f%s", float64(r.ForkNS)/1000, unit)
}

// costStepLimit is when a run that makes no progress is given up, in points.
const costStepLimit = 2_000_000

// CostsOf runs the small form of a workload under a policy once in the timed regime.
func CostsOf(w *workload.Workload, v workload.Values, p mm.Policy, hosts *kernel.Hosts) (*Costs, error) {
	var most memoryWatch
	longest := uint64(0)
	out, err := workload.Execute(w, workload.Options{
		Policy: p, Values: v, Small: true, Regime: sched.Timed, Hosts: hosts, StepLimit: costStepLimit,
		Observer: &most, Events: true,
		Booted: func(m *kernel.Machine) { most.m = m },
		Done:   func(m *kernel.Machine) { longest = longestFork(m) },
	})
	if err != nil {
		return nil, err
	}
	n := out.Counters
	c := &Costs{
		Atomics: n[trace.EmuAtomics], Fences: n[trace.EmuFences], LineTransfers: n[trace.EmuLineTransfers],
		PageCopies: n[trace.EmuPageCopies], Faults: n[trace.PGFault], IPIs: n[trace.EmuIPISent], NS: out.NS,
		Memory: most.pages, ForkNS: longest,
	}
	if out.Result.Reason != sched.Quiet {
		c.Ended = out.Result.Reason.String()
	}
	return c, nil
}

// memoryWatch keeps the most memory that was in use.
type memoryWatch struct {
	m     *kernel.Machine
	pages uint64
}

// Step implements sched.Observer.
func (w *memoryWatch) Step(uint64, *sched.Task, x86.Op, x86.ObjID) {
	w.pages = max(w.pages, pagesInUse(w.m))
}

// Device implements sched.Observer.
func (w *memoryWatch) Device(uint64, sched.Event) {}

// pagesInUse is how many pages have been allocated and not freed, with those of huge pages
// that are not in their pool.
func pagesInUse(m *kernel.Machine) uint64 {
	tr := m.Trace()
	n := tr.Sum(trace.PGAllocDMA) + tr.Sum(trace.PGAllocDMA32) + tr.Sum(trace.PGAllocNormal) + tr.Sum(trace.PGAllocMovable) - tr.Sum(trace.PGFree)
	for _, pool := range m.MM().HugePools() {
		n -= pool.Free * (pool.Size >> x86.PageShift)
	}
	return n
}

// longestFork is the longest fork that the machine's events tell of; forks that have not
// returned are none.
func longestFork(m *kernel.Machine) (ns uint64) {
	began := map[uint64]uint64{} // task -> when, in cycles
	cost := m.Sched().Cost()
	for _, e := range m.Trace().Events() {
		switch {
		case e.A != uint64(kernel.SysFork):
		case e.Kind == trace.EvSyscallEnter:
			began[e.Task] = e.Time
		case e.Kind == trace.EvSyscallExit:
			if from, ok := began[e.Task]; ok && e.Time > from {
				ns = max(ns, cost.CyclesToNS(e.Time-from))
			}
		}
	}
	return ns
}

// ForkLatency returns how many virtual nanoseconds fork takes under a policy while an
// asynchronous direct read is in flight, on a device that takes a millisecond.
func ForkLatency(p mm.Policy, hosts *kernel.Hosts) (ns uint64, err error) {
	const pages = 4
	m, err := kernel.Boot(kernel.Options{
		CPUs: 2, Memory: 8 << 20, Regime: sched.Timed, Policy: p, Hosts: hosts,
		Disks: []kernel.Disk{{Name: "vda", Size: 1 << 20, Latency: &blk.Latency{Name: "1ms", BaseNS: 1_000_000}}},
	})
	if err != nil {
		return 0, err
	}
	defer m.Shutdown()
	var failed error
	must := func(err error, call string) {
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", call, err)
		}
	}
	out := m.Run(func(t *kernel.Thread) {
		buf := t.MustMmap(pages * x86.PageSize)
		t.Fill(buf, pages*x86.PageSize, 1)
		fd, err := t.Open("/dev/vda", fs.ORdonly|fs.ODirect)
		must(err, "open")
		ctx, err := t.IoSetup(1)
		must(err, "io_setup")
		_, err = t.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPread, FD: fd, Buf: buf, Len: x86.PageSize}})
		must(err, "io_submit")
		begin := t.ClockGettime()
		pid, err := t.Fork(func(c *kernel.Thread) { c.Exit(0) })
		ns = t.ClockGettime() - begin
		must(err, "fork")
		_, _, err = t.Wait(pid)
		must(err, "wait")
		_, err = t.IoGetevents(ctx, 1, 1, -1)
		must(err, "io_getevents")
		must(t.IoDestroy(ctx), "io_destroy")
		must(t.Close(fd), "close")
	})
	if failed == nil {
		failed = out.Err()
	}
	if failed != nil {
		return 0, fmt.Errorf("fork latency under %s: %w", p.Name(), failed)
	}
	return ns, nil
}
