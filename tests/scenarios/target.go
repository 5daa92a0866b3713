package scenarios

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// The disks of a scenario's machine.
const (
	diskName = "vda"
	swapName = "swap"
)

// The marks of a state: the condition holds in it, or not. They are those of litmus7.
const (
	positive = "*>"
	negative = ":>"
)

// Target makes a scenario under a policy something to explore. The verdict of a run is its
// final state, behind "*>" if the condition holds in it and ":>" if not. hosts pools
// machines between runs.
func (s *Scenario) Target(p mm.Policy, hosts *kernel.Hosts) *explore.Target {
	t := &explore.Target{Name: s.TokenName(), Policy: p.Name(), Params: s.params()}
	first := &sched.FirstRuns{}
	t.Run = func(st sched.Strategy, o sched.Observer) explore.Observation {
		return s.run(runOptions{policy: p, hosts: hosts, strategy: st, observer: o, watchdog: first.Watchdog()})
	}
	t.Smaller = func() []explore.Target { return s.smaller(p, hosts) }
	return t
}

// params are those of the scenario's tokens.
func (s *Scenario) params() []explore.Param {
	p := append([]explore.Param{{Key: sumParam, Value: s.origin().sum()}}, s.tune.params()...)
	return append(p, s.lessParams()...)
}

// TokenName is what tokens call the scenario: its name if it ships, else its file.
func (s *Scenario) TokenName() string {
	if s.path != "" {
		return s.path
	}
	return s.Name
}

// sumParam is the parameter of a scenario's tokens.
const sumParam = "sum"

// sum is a digest of what a scenario does: a token is for this text of it. Comments and
// what is expected do not count.
func (s *Scenario) sum() string {
	c := *s
	c.Story, c.Doc, c.Name, c.Expects = "", "", "", nil
	return fmt.Sprintf("%08x", uint32(xxhash.Sum64String(c.Print())))
}

// IsToken reports whether a token was made for a scenario, which can have the name of a workload.
func IsToken(t explore.Token) bool {
	return slices.ContainsFunc(t.Params, func(p explore.Param) bool { return p.Key == sumParam })
}

// CheckToken reports whether a token was made for another text of the scenario.
func (s *Scenario) CheckToken(t explore.Token) error {
	_, err := s.ForToken(t)
	return err
}

// runOptions say how to run a scenario once.
type runOptions struct {
	policy   mm.Policy
	hosts    *kernel.Hosts
	strategy sched.Strategy
	observer sched.Observer
	watchdog time.Duration
	events   bool
	done     func(*kernel.Machine)
}

// RunTraced runs a scenario under one schedule with event recording on; done is called with
// the machine when it has come to rest.
func (s *Scenario) RunTraced(p mm.Policy, hosts *kernel.Hosts, st sched.Strategy, done func(*kernel.Machine)) explore.Observation {
	return s.run(runOptions{policy: p, hosts: hosts, strategy: st, events: true, done: done})
}

// stepLimit ends a run as a livelock; a scenario takes some hundred steps.
const stepLimit = 60_000

// checkEvery is how often a run checks every invariant, in steps; the page that a step
// touches is checked after it.
const checkEvery = 64

// tooSmall reports whether a machine could not be booted because its huge pages found no room.
func tooSmall(err error) bool {
	var limit *kernel.LimitError
	return errors.As(err, &limit) && limit.What == "HugePages"
}

func (s *Scenario) run(o runOptions) explore.Observation {
	r := newRunner(s)
	r.dir = newDirector(o.strategy)
	ko := kernel.Options{
		CPUs: int(s.Machine.CPUs), Memory: uint64(s.Machine.Memory), Regime: sched.Free, Strategy: r.dir, Policy: o.policy,
		Hosts: o.hosts, Events: o.events, StepLimit: stepLimit, Watchdog: o.watchdog, NoStack: true,
		HugePages: int(s.Machine.Huge), KSM: s.Machine.KSM, TSO: s.Machine.TSO || s.tune.TSO,
		FailEvents: s.tune.Fail, ReclaimEvents: max(s.tune.Reclaim, int(s.Machine.Reclaim)), CheckRaces: s.tune.Races,
	}
	if ko.CPUs == 0 {
		ko.CPUs = min(max(len(s.Columns), 2), 4)
	}
	if s.tune.Bare {
		ko.CPUs = len(s.Columns) + 1
	}
	if ko.Memory == 0 {
		ko.Memory = 4 << 20
	}
	if s.Machine.Huge != 0 {
		ko.Memory += uint64(s.Machine.Huge+1) * x86.PMDSize // one for what boot breaks up
	}
	if s.Machine.Disk != 0 {
		ko.Disks = append(ko.Disks, kernel.Disk{Name: diskName, Size: uint64(s.Machine.Disk), Inject: s.faults()})
	}
	if s.Machine.Swap != 0 {
		ko.Disks = append(ko.Disks, kernel.Disk{Name: swapName, Size: uint64(s.Machine.Swap), Swap: true})
	}
	m, err := kernel.Boot(ko)
	for n := 0; n < 2*ko.CPUs && s.Machine.Huge != 0 && tooSmall(err); n++ {
		ko.Memory += x86.PMDSize // each CPU has a zone, and each zone ends, which a huge page must not cross
		m, err = kernel.Boot(ko)
	}
	if err != nil {
		return explore.Observation{Verdict: "broken", Detail: err.Error()}
	}
	r.m = m
	if s.tune.Bare {
		r.line = newLine(m.Sched())
	}
	disk := m.DiskData(diskName)
	for _, in := range s.Inits {
		if in.Place.Name == "disk" {
			for i := range disk[in.Place.Off : in.Place.Off+in.Place.Len] {
				disk[in.Place.Off+int64(i)] = byte(in.Value.N)
			}
		}
	}
	r.prepare()
	m.CheckSteps(checkEvery, o.observer)
	out := m.Run(r.lab)
	if out.Stuck() != nil {
		m.Shutdown()
		return explore.Observation{Verdict: "stuck", Detail: out.Detail, Result: out.Result}
	}
	obs := r.observe(out)
	if o.done != nil {
		o.done(m)
	}
	m.Shutdown()
	return obs
}

func (s *Scenario) faults() []blk.Fault {
	var out []blk.Fault
	for _, f := range s.Faults {
		out = append(out, blk.Fault{
			First: uint64(f.Place.Off) >> 9, Last: uint64(f.Place.Off+f.Place.Len-1) >> 9, Reads: !f.Write, Writes: f.Write,
		})
	}
	return out
}

// observe turns how the machine came to rest into a state.
func (r *runner) observe(out *kernel.Outcome) explore.Observation {
	st := &state{}
	obs := explore.Observation{Steps: out.Steps, Result: out.Result}
	note := func(verdict, detail string) {
		if !slices.Contains(st.verdicts, verdict) {
			st.verdicts = append(st.verdicts, verdict)
		}
		if obs.Detail == "" {
			obs.Detail = detail
		}
	}
	counters := r.m.Trace().Snapshot()
	switch out.Reason {
	case sched.Quiet:
		for _, err := range r.m.Check() {
			note("bug", "invariant: "+err.Error())
		}
		for _, l := range r.m.Leaks() {
			note("leak", l)
		}
	case sched.Deadlock:
		note("deadlock", out.Detail)
	case sched.Livelock:
		note("livelock", out.Detail)
	case sched.Oopsed:
		note("bug", out.Oops.Error())
	default:
		note("broken", out.Err().Error())
	}
	for i, b := range out.Bugs {
		note("bug", b.Msg)
		if i == 0 {
			obs.Detail = b.Msg // says more than what follows from it
		}
	}
	for _, v := range out.Victims {
		note("oom", fmt.Sprintf("process %d (%s) killed", v.PID, v.Name))
	}
	switch {
	case r.broken == "" || len(out.Victims) > 0: // what a killed process could not do is no fault of the program
	case r.m.Trace().Sum(trace.EmuPolicyRefusals) > 0:
		note("refused", r.broken) // the policy turns such requests down
	default:
		note("broken", r.broken)
	}
	if r.seen {
		st.vals = r.vals
		for _, t := range r.s.terms() {
			if p := t.Place; p != nil && p.Name == "disk" && p.Column == "" {
				st.vals[t.String()] = bytesValue(r.m.DiskData(diskName)[p.Off : p.Off+p.Len])
			}
		}
	}
	if obs.Detail == "" {
		obs.Detail = r.who()
	}
	mark := negative
	if st.holds(r.s.Cond.Expr) {
		mark = positive
	}
	obs.Verdict = mark + st.text(r.s)
	var h explore.StateHash
	h.PutString("verdict", obs.Verdict)
	if r.line != nil {
		h.PutUint("memory", r.digest)
		h.Put("disk", r.m.DiskData(diskName))
		obs.State = h.Sum()
		return obs
	}
	for i, c := range counters {
		h.PutUint(fmt.Sprint("counter", i), c)
	}
	h.PutUint("points", out.Steps)
	h.Put("disk", r.m.DiskData(diskName))
	obs.State = h.Sum()
	return obs
}

// who says which task of a diagram is which column.
func (r *runner) who() string {
	var parts []string
	for _, c := range r.s.Columns {
		if st := r.cols[c]; st.task != "" {
			parts = append(parts, st.task+" is "+c.Name.Text)
		}
	}
	return strings.Join(parts, ", ")
}

// Positive reports whether the condition holds in a state, as a run's verdict names it.
func Positive(verdict string) bool { return strings.HasPrefix(verdict, positive) }

// StateOf returns the state of a run's verdict without its mark.
func StateOf(verdict string) string {
	return strings.TrimPrefix(strings.TrimPrefix(verdict, positive), negative)
}

// IsState reports whether a verdict is the final state of a scenario.
func IsState(verdict string) bool {
	return Positive(verdict) || strings.HasPrefix(verdict, negative)
}

// Endings returns the verdict words in a state: how the run ended, if not by itself.
func Endings(state string) []string { return endings(StateOf(state)) }

// endings returns the verdict words in a state.
func endings(state string) []string {
	var out []string
	for _, f := range strings.Fields(state) {
		if w := strings.TrimSuffix(f, ";"); slices.Contains(verdictWords, w) {
			out = append(out, w)
		}
	}
	return out
}
