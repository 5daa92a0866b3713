package workload

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// Workload is a program with parameters and a property that it checks.
type Workload struct {
	// Name is the workload's id in tables and tokens, Title one line for people,
	// Group one of the constants (see GroupOf), Lines where in the thread it comes from.
	Name, Title, Group, Lines string
	// GroupFor, if not nil, is the group where it depends on the values.
	GroupFor func(Values) string
	// Params are its parameters.
	Params []Param
	// Variants are the parameter settings that the matrix runs, as Parse reads them.
	Variants []string
	// Valid checks values against each other; nil: nothing to check.
	Valid func(Values) error
	// Needs is what a policy has to promise for the property to hold; NeedsFor, if not
	// nil, says so where it depends on the values.
	Needs    mm.Guarantee
	NeedsFor func(Values) mm.Guarantee
	// Memory is the machine's RAM in bytes.
	Memory func(Values) uint64
	// CPUs and SmallCPUs are the processors of the two forms.
	CPUs, SmallCPUs int
	// DiskBytes is the size of the disk, Fill its contents when it is made for the
	// run; nil: zeros.
	DiskBytes func(Values) int64
	Fill      func(v Values, disk []byte)
	// Latency is the disk's time model in the default size.
	Latency func() blk.Latency
	// Writes is set if the program writes to the disk.
	Writes bool
	// Tune changes what the machine is: further disks, huge pages; nil: nothing.
	Tune func(v Values, o *kernel.Options)
	// Main is the program.
	Main func(t *kernel.Thread, r *Run)
	// Check looks at the disk when the machine is quiet; nil: nothing.
	Check func(r *Run)
}

// All returns the workloads, in the order of tables.
func All() []*Workload {
	return withMachine([]*Workload{
		dmaThread(), forkscrew(), pinFork(), lateDMA(), forkTwice(), database(), userWays(),
		forkscrewreverse(), snapshotWriter(),
		vmspliceDisclosure(),
		swapPin(),
		ptracePeek(), dmaAfterUnmap(), ksmPin(),
		tornCopy(), mprotectPin(), forkStorm(),
		readOnlyBuffer(),
	})
}

// Requires is what a policy has to promise for the property to hold with these values.
func (w *Workload) Requires(v Values) mm.Guarantee {
	if w.NeedsFor != nil {
		return w.NeedsFor(v)
	}
	return w.Needs
}

// Promised reports whether policy p promises what the workload checks with these values.
func (w *Workload) Promised(p mm.Policy, v Values) bool {
	needs := w.Requires(v)
	return p.Claims()&needs == needs
}

// Lookup returns the workload with the given name, one of All or of Races; nil if there
// is none.
func Lookup(name string) *Workload {
	for _, w := range append(All(), Races()...) {
		if w.Name == name {
			return w
		}
	}
	return nil
}

// Options say how a workload is run. The zero value is the default size in the parallel
// regime under stock.
type Options struct {
	// Policy is what the machine runs; nil means mm.Stock.
	Policy mm.Policy
	// Values are the parameters; nil means the form's own.
	Values Values
	// Small chooses the small form.
	Small bool
	// Regime, Strategy and Observer are the scheduler's.
	Regime   sched.Regime
	Strategy sched.Strategy
	Observer sched.Observer
	// CPUs overrides the workload's own number; zero does not.
	CPUs int
	// Content is what the disk made for the run holds at first, if the caller has it
	// already (Workload.Content); nil: it is made. It is not written to.
	Content []byte
	// Image is the path of a disk image to use instead of a disk made for the run.
	Image string
	// ForceHooks sends every decision through the policy's methods; see mm.Options.
	ForceHooks bool
	// Events turns event recording on.
	Events bool
	// Hosts pools memory and coroutines; nil means none.
	Hosts *kernel.Hosts
	// Cost is the cost model; nil means the default.
	Cost *x86.CostModel
	// Latency is the disk's latency model; nil means the workload's own, and
	// for the small form kernel's default.
	Latency *blk.Latency
	// CheckEvery is how often a run in the free regime checks every invariant, in steps;
	// zero means every 256, a negative number never. The page that a step touches is
	// checked after each step.
	CheckEvery int
	// CheckRaces is kernel.Options'; the parameter "races" turns it on as well.
	CheckRaces bool
	// TSO is kernel.Options'; the parameter "tso" turns it on as well.
	TSO bool
	// StepLimit bounds a deterministic run; zero means 200,000 in the Free regime for the small
	// form, and 100 million for others.
	StepLimit uint64
	// Watchdog is that of kernel.Options, or sched.NoWatchdog for a deterministic run of which
	// there are thousands.
	Watchdog time.Duration
	// Booted is called with the machine before it runs: to stop it from outside, or
	// to look at it.
	Booted func(*kernel.Machine)
	// Done is called with the machine when it has come to rest, before it is shut down.
	Done func(*kernel.Machine)
}

// Run is a workload being run: what the program sees of its surroundings, and where it
// reports to.
type Run struct {
	// Values are the parameters.
	Values Values
	// Disk is the path of the disk in the emulated machine.
	Disk string

	w         *Workload
	content   []byte // what the disk held when the run began; immutable
	m         *kernel.Machine
	gate      *explore.Gate // nil unless a strategy was given
	imagePath string        // of the disk; empty if it was made for the run

	mu       sync.Mutex
	findings []Finding // protected by mu
	errs     []string  // protected by mu
	killed   bool      // a process was killed; set when the machine is at rest
	gaveUp   bool      // a call that should have worked has failed; protected by mu
}

// Outcome is what a run showed.
type Outcome struct {
	// Verdict is the gravest thing seen, Also the others.
	Verdict Verdict
	Also    []Verdict
	// Findings are what was wrong, at most a few of each kind; Problems are failures
	// of the run that are no verdict, such as a system call that should have worked.
	Findings []Finding
	Problems []string
	// Result is how the machine came to rest.
	Result *sched.Result
	// Counters are the machine's counters, indexed by trace.Counter.
	Counters []uint64
	// Points is how many schedule points a deterministic run passed.
	Points uint64
	// NS is virtual time in nanoseconds.
	NS uint64
	// Meminfo is /proc/meminfo at the end, Victims are the processes that were killed for want
	// of memory, with the OOM killer's reports.
	Meminfo string
	Victims []kernel.Victim
	// Disk is what a disk made for the run held at the end; nil for an image.
	Disk []byte
}

// checkEvery is the default of Options.CheckEvery: a walk over all pages takes as long as
// a hundred steps.
const checkEvery = 256

// maxFindings bounds what is kept of each verdict.
const maxFindings = 4

// begin ends the set-up: in the free regime the strategy decides from here on. Until
// then the schedule is the default one, so that a search is not spent on it.
func (r *Run) begin() {
	if r.gate != nil {
		r.m.OfferReclaim()
		r.gate.Open()
	}
}

// end ends what is searched: see explore.Gate.Close.
func (r *Run) end() {
	if r.gate != nil {
		r.m.AwaitReclaim()
		r.gate.Close()
	}
}

func (r *Run) find(f Finding) {
	if f.Verdict.Corrupts() && r.ended() {
		return
	}
	r.mu.Lock()
	n := 0
	for _, o := range r.findings {
		if o.Verdict == f.Verdict {
			n++
		}
	}
	if n < maxFindings {
		r.findings = append(r.findings, f)
	}
	r.mu.Unlock()
}

// compare reports the first byte in which got differs from want.
func (r *Run) compare(v Verdict, where string, base int64, want, got []byte) {
	if bytes.Equal(want, got) {
		return
	}
	for i := range want {
		if want[i] != got[i] {
			r.find(Finding{Verdict: v, Where: where, Offset: base + int64(i), Want: int(want[i]), Got: int(got[i])})
			return
		}
	}
}

// failed records an error of a call that should have worked, and reports whether there
// was one.
func (r *Run) failed(err error, call string) bool {
	if err == nil {
		return false
	}
	r.broken(fmt.Sprintf("%s: %v", call, err))
	return true
}

// broken records that the program does not get any further. Where an allocation was made to
// fail, that is what it was made for.
func (r *Run) broken(what string) {
	mishap := r.mishap()
	r.mu.Lock()
	r.gaveUp = true
	if len(r.errs) < 16 && !mishap {
		r.errs = append(r.errs, what)
	}
	r.mu.Unlock()
}

// mishap reports whether an allocation was made to fail.
func (r *Run) mishap() bool {
	return r.Values[failParam] > 0 && r.m.Trace().Sum(trace.EmuAllocFailInjected) > 0
}

// ended reports whether a mishap ended the program, or one of its processes, before its time.
// What it then finds in its memory proves nothing.
func (r *Run) ended() bool {
	return r.mishap() && (r.over() || r.killed || r.m.Trace().Sum(trace.EmuOOMKills) > 0)
}

// bereft reports that all who are left over in a deadlock wait for others of the program and
// hold nothing: the others were ended by a mishap, or could not wake them. The kernel
// has no part in that.
func (r *Run) bereft(deadlock string) bool {
	return r.mishap() && !strings.Contains(deadlock, "state D") &&
		strings.Count(strings.TrimSpace(deadlock), "\n") == strings.Count(deadlock, "holds no locks")
}

// abandoned reports that what leaked is a pin of the program, which was ended before it could
// give it back.
func (r *Run) abandoned(leak string) bool {
	_, held, _ := strings.Cut(leak, "held by ")
	held, _, _ = strings.Cut(held, ";")
	return r.ended() && strings.HasPrefix(held, "pin ") && !strings.Contains(held, ",")
}

// over reports whether there is no point in going on.
func (r *Run) over() bool {
	r.mu.Lock()
	over := r.gaveUp
	r.mu.Unlock()
	return over
}

// expect returns what the disk held at off when the run began: for an image given by the
// user, as read by the host and not through the emulated path.
func (r *Run) expect(off int64, n int) []byte { return r.content[off : off+int64(n)] }

// image returns what the disk holds now.
func (r *Run) image(off int64, n int) []byte {
	if data := r.m.DiskData(diskName); data != nil {
		return data[off : off+int64(n)]
	}
	b := make([]byte, n)
	f, err := os.Open(r.imagePath)
	if err == nil {
		_, err = f.ReadAt(b, off)
		f.Close()
	}
	r.failed(err, "disk image")
	return b
}

const (
	diskName = "vda"
	diskPath = "/dev/" + diskName
)

// Execute runs a workload once. An error means that it could not be run at all.
func Execute(w *Workload, o Options) (*Outcome, error) {
	r, ko, err := prepare(w, &o)
	if err != nil {
		return nil, err
	}
	m, err := kernel.Boot(ko)
	if err != nil {
		return nil, err
	}
	r.m = m
	copy(m.DiskData(diskName), r.content)
	switch {
	case o.Regime == sched.Free && o.CheckEvery >= 0:
		if o.CheckEvery == 0 {
			o.CheckEvery = checkEvery
		}
		m.CheckSteps(uint64(o.CheckEvery), o.Observer)
	case o.Observer != nil:
		m.Sched().SetObserver(o.Observer)
	}
	if o.Booted != nil {
		o.Booted(m)
	}
	ko2 := m.Run(func(t *kernel.Thread) { w.Main(t, r) })
	if err := ko2.Result.Stuck(); err != nil {
		m.Shutdown()
		return nil, err
	}
	out := r.conclude(ko2)
	out.Meminfo, out.Victims = m.Meminfo(), ko2.Victims
	if o.Done != nil {
		o.Done(m)
	}
	m.Shutdown()
	return out, nil
}

// prepare checks the options and makes the disk.
func prepare(w *Workload, o *Options) (*Run, kernel.Options, error) {
	if o.Values == nil {
		o.Values = w.Values(o.Small)
	}
	if err := w.Validate(o.Values); err != nil {
		return nil, kernel.Options{}, err
	}
	if o.CPUs == 0 {
		o.CPUs = w.CPUs
		if o.Small {
			o.CPUs = w.SmallCPUs
		}
	}
	if o.StepLimit == 0 && o.Regime == sched.Free {
		o.StepLimit = 200_000
		if !o.Small {
			o.StepLimit = 100_000_000 // a default size takes some millions
		}
	}
	if err := w.CheckRegime(o.Values, o.Regime); err != nil {
		return nil, kernel.Options{}, err
	}
	o.TSO = o.TSO || o.Values[tsoParam] != 0
	o.CheckRaces = o.CheckRaces || o.Values[racesParam] != 0
	r := &Run{Values: o.Values, Disk: diskPath, w: w}
	if o.Strategy != nil {
		r.gate = explore.NewGate(o.Strategy)
		o.Strategy = r.gate
	}
	disk := kernel.Disk{Name: diskName}
	size := w.DiskBytes(o.Values)
	if o.Image != "" {
		data, err := readImage(o.Image, size)
		if err != nil {
			return nil, kernel.Options{}, err
		}
		r.content = data
		disk.ImagePath, disk.ReadOnly = o.Image, !w.Writes
		r.imagePath = o.Image
	} else {
		if r.content = o.Content; int64(len(r.content)) != size {
			r.content = w.Content(o.Values)
		}
		disk.Size = uint64(size)
	}
	disk.Latency = o.Latency
	if disk.Latency == nil && !o.Small {
		l := w.Latency()
		disk.Latency = &l
	}
	ko := kernel.Options{
		CPUs: o.CPUs, Memory: w.Memory(o.Values), Regime: o.Regime, Strategy: o.Strategy,
		Policy: o.Policy, ForceHooks: o.ForceHooks, Disks: []kernel.Disk{disk}, Events: o.Events,
		Hosts: o.Hosts, Cost: o.Cost, StepLimit: o.StepLimit, Watchdog: o.Watchdog,
		CheckRaces: o.CheckRaces, TSO: o.TSO, FailEvents: o.Values.Int(failParam),
		ReclaimEvents: o.Values.Int(reclaimParam),
		LivelockNS:    2_000_000_000, // no workload waits longer for anything
	}
	if w.Tune != nil {
		w.Tune(o.Values, &ko)
	}
	return r, ko, nil
}

// Content is what a disk made for a run with these values holds at first.
func (w *Workload) Content(v Values) []byte {
	data := make([]byte, w.DiskBytes(v))
	if w.Fill != nil {
		w.Fill(v, data)
	}
	return data
}

// readImage reads the part of a disk image that a workload will use.
func readImage(path string, size int64) ([]byte, error) {
	st, err := os.Stat(path) // and then open, which waits if it is a pipe
	if err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("disk image %s is not a plain file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	if st.Size() < size {
		return nil, fmt.Errorf("disk image %s has %d bytes, the workload needs %d (make it larger, or ask for less with its parameters)", path, st.Size(), size)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, fmt.Errorf("disk image %s: %w", path, err)
	}
	return data, nil
}

// conclude turns what was reported and how the machine came to rest into an outcome.
func (r *Run) conclude(ko *kernel.Outcome) *Outcome {
	res := ko.Result
	for _, e := range ko.Exits {
		r.killed = r.killed || e.Status.Signaled()
	}
	switch res.Reason {
	case sched.Deadlock:
		if !r.bereft(res.Detail) {
			r.note(Deadlock, res.Detail)
		}
	case sched.Livelock:
		r.note(Livelock, res.Detail)
	case sched.Oopsed:
		r.note(Bug, res.Oops.Error())
	case sched.Panicked:
		r.note(Bug, res.Detail)
	case sched.Quiet:
		if r.w.Check != nil {
			r.w.Check(r)
		}
		for _, err := range r.m.Check() {
			r.note(Bug, "invariant: "+err.Error())
		}
		for _, err := range r.m.Leaks() {
			if !r.abandoned(err) {
				r.note(Leak, err)
			}
		}
	}
	for _, b := range ko.Bugs {
		r.note(Bug, b.Msg)
	}
	for _, v := range ko.Victims {
		r.note(OOM, fmt.Sprintf("process %d (%s) killed, %d pages mapped, %d free", v.PID, v.Name, v.Pages, v.FreePages))
	}
	if n := r.m.Trace().Sum(trace.EmuPolicyRefusals); n > 0 {
		r.note(Refused, fmt.Sprintf("%d requests turned down by the policy", n))
	}
	out := &Outcome{
		Verdict: Safe, Findings: r.findings, Problems: r.errs, Result: res,
		Counters: r.m.Trace().Snapshot(), Points: res.Steps, NS: res.NS, Disk: r.m.DiskData(diskName),
	}
	for _, v := range gravity {
		for _, f := range r.findings {
			if f.Verdict != v {
				continue
			}
			if out.Verdict == Safe {
				out.Verdict = v
			} else {
				out.Also = append(out.Also, v)
			}
			break
		}
	}
	return out
}

// note records a finding that has no byte to show.
func (r *Run) note(v Verdict, text string) {
	r.find(Finding{Verdict: v, Want: -1, Got: -1, Note: text})
}

// First returns the first finding of the outcome's verdict, nil if it is safe.
func (o *Outcome) First() *Finding {
	for i := range o.Findings {
		if o.Findings[i].Verdict == o.Verdict {
			return &o.Findings[i]
		}
	}
	return nil
}
