package explore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Mode is how a search chooses its strategies.
type Mode string

// The modes.
const (
	Portfolio  Mode = "portfolio" // random, PCT of each depth and partial-order sampling in turn
	RandomOnly Mode = "random"
	PCTOnly    Mode = "pct"
	POSOnly    Mode = "pos"
)

// Probes is how many schedules come first, before any whose strategy needs to
// know how long the program is: they measure that.
const Probes = 8

// Options say how to search. The zero value searches 1,000 schedules of the
// portfolio on all cores.
type Options struct {
	// Schedules is how many schedules to run; zero means 1,000.
	Schedules uint64
	// Seed selects the schedules. Another seed gives others.
	Seed uint64
	// Workers is how many machines run at once; zero means GOMAXPROCS.
	Workers int
	// Mode is the choice of strategies; empty means Portfolio.
	Mode Mode
	// PCTDepth is the greatest depth of PCT, 1 to MaxDepth; zero means 4. The
	// depths take turns.
	PCTDepth int
	// StopAtFirst ends the search with the first schedule that Bad holds for.
	StopAtFirst bool
	// Bad says which verdicts are findings; nil means all but Safe.
	Bad func(verdict string) bool
	// Enough, if not nil, is asked after each schedule whether what the report has is enough.
	// Then the search ends there, as with StopAtFirst.
	Enough func(*Report) bool
	// Progress, if not nil, is called from the goroutine of Search about every
	// Every schedules; zero means 1,000.
	Progress func(Progress)
	Every    uint64
	// Clock measures the rate: the host's time since some moment. Without it
	// there is no rate.
	Clock func() time.Duration
}

// MaxWorkers bounds the host threads of a search.
const MaxWorkers = 4096

// Validate reports what is wrong with the options, naming the field and its limits.
func (o *Options) Validate() error {
	switch o.Mode {
	case "", Portfolio, RandomOnly, PCTOnly, POSOnly:
	default:
		return fmt.Errorf("explore: unknown strategy %q; known are %s, %s, %s, %s", string(o.Mode), Portfolio, RandomOnly, PCTOnly, POSOnly)
	}
	if o.PCTDepth < 0 || o.PCTDepth > MaxDepth {
		return fmt.Errorf("explore: PCTDepth is %d, must be 1 to %d", o.PCTDepth, MaxDepth)
	}
	if o.Workers < 0 || o.Workers > MaxWorkers {
		return fmt.Errorf("explore: Workers is %d, must be 1 to %d", o.Workers, MaxWorkers)
	}
	return nil
}

func (o *Options) setDefaults() {
	if o.Schedules == 0 {
		o.Schedules = 1000
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Mode == "" {
		o.Mode = Portfolio
	}
	if o.PCTDepth == 0 {
		o.PCTDepth = 4
	}
	if o.Bad == nil {
		o.Bad = func(v string) bool { return v != Safe }
	}
	if o.Every == 0 {
		o.Every = 1000
	}
}

// mix makes a seed of 48 bits (short in tokens) from a search's seed and a
// schedule's number: the finaliser of splitmix64, twice.
func mix(seed, i uint64) uint64 {
	z := seed
	for _, add := range [2]uint64{0x9e3779b97f4a7c15, i} {
		z += add
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
	}
	return z >> 16
}

// spec returns the strategy of schedule i; length is the program's, once known.
// Until then PCT has depth 1, which needs no length.
func (o *Options) spec(i, length uint64) Spec {
	seed := mix(o.Seed, i)
	switch {
	case o.Mode == RandomOnly || o.Mode == Portfolio && i%3 == 0:
		return Spec{Kind: KindRandom, Seed: seed}
	case o.Mode == POSOnly || o.Mode == Portfolio && i%3 == 2:
		return Spec{Kind: KindPOS, Seed: seed}
	}
	if i < Probes {
		return Spec{Kind: KindPCT, Depth: 1, Seed: seed}
	}
	turn := i
	if o.Mode == Portfolio {
		turn /= 3
	}
	depth := 1 + int((turn+1)%uint64(o.PCTDepth)) // depth 1 has few schedules: it need not be first
	if depth == 1 {
		return Spec{Kind: KindPCT, Depth: 1, Seed: seed}
	}
	return Spec{Kind: KindPCT, Depth: depth, Length: length, Seed: seed}
}

// outcome is what the collector hears of one schedule.
type outcome struct {
	obs  Observation
	spec Spec
	len  uint64 // steps as the strategy counts them
}

// batch is a range of schedules, done by one worker.
type batch struct {
	lo, hi uint64
	length uint64
	done   []outcome // from lo on; shorter than the range if it was cut short
}

// batchSize is a compromise between talk and latency.
const batchSize = 16

// Search runs many schedules of a target. Its report is the same for any number
// of workers. If ctx ends, the report covers the schedules up to the first one
// that was not run.
func Search(ctx context.Context, t Target, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	s := &search{ctx: ctx, target: &t, o: &o, report: newReport(&t, &o), late: map[uint64]*batch{}}
	limit := 2 * o.Workers
	s.jobs, s.results = make(chan *batch, limit), make(chan *batch, limit)
	ended := make(chan struct{})
	for range o.Workers {
		go func() {
			s.work()
			ended <- struct{}{}
		}()
	}
	var begin time.Duration
	if o.Clock != nil {
		begin = o.Clock()
	}
	s.clock = func() time.Duration {
		if o.Clock == nil {
			return 0
		}
		return o.Clock() - begin
	}
	probes := uint64(Probes)
	if o.Mode == RandomOnly || o.Mode == POSOnly {
		probes = 0
	}
	s.phase(0, min(probes, o.Schedules), 1, limit)
	s.report.Length = max(s.length, 1)
	s.phase(min(probes, o.Schedules), o.Schedules, batchSize, limit)
	close(s.jobs)
	for range o.Workers {
		<-ended
	}
	if s.err != nil {
		return nil, s.err
	}
	s.report.finish(s.clock())
	return s.report, nil
}

type search struct {
	err     error // a machine is stuck: the search is given up
	ctx     context.Context
	target  *Target
	o       *Options
	report  *Report
	clock   func() time.Duration
	jobs    chan *batch
	results chan *batch

	late    map[uint64]*batch // results that wait for earlier ones, by their first schedule
	next    uint64            // first schedule not in the report
	length  uint64            // longest run so far
	stopped bool              // the report is complete
	shown   uint64            // schedules at the last progress report
}

// phase runs the schedules lo to hi.
func (s *search) phase(lo, hi, size uint64, limit int) {
	running := 0
	for {
		for running < limit && lo < hi && !s.stopped {
			b := &batch{lo: lo, hi: min(lo+size, hi), length: s.report.Length}
			lo = b.hi
			s.jobs <- b // there is room: the channel holds limit
			running++
		}
		if running == 0 {
			return
		}
		b := <-s.results
		running--
		s.late[b.lo] = b
		for !s.stopped && s.late[s.next] != nil {
			b := s.late[s.next]
			delete(s.late, s.next)
			s.fold(b)
		}
	}
}

// fold enters a batch into the report. Batches come in order.
func (s *search) fold(b *batch) {
	for i := range b.done {
		out := &b.done[i]
		s.length = max(s.length, out.len)
		s.report.add(s.next, out)
		s.next++
		if err := out.obs.Result.Stuck(); err != nil {
			s.stopped, s.err = true, err
			return
		}
		if s.o.StopAtFirst && s.o.Bad(out.obs.Verdict) {
			s.stopped = true
			return
		}
		if s.o.Enough != nil && s.o.Enough(s.report) {
			s.stopped = true
			return
		}
	}
	if s.next < b.hi {
		s.stopped, s.report.Interrupted = true, true
	}
	if s.o.Progress != nil && s.next-s.shown >= s.o.Every {
		s.shown = s.next
		s.o.Progress(s.report.progress(s.clock()))
	}
}

// work is a worker: it runs the schedules of the batches it gets.
func (s *search) work() {
	run, done := s.target.worker()
	for b := range s.jobs {
		b.done = make([]outcome, 0, b.hi-b.lo)
		for i := b.lo; i < b.hi && s.ctx.Err() == nil; i++ {
			spec := s.o.spec(i, b.length)
			m := meter{Strategy: spec.Strategy()}
			obs := guarded(run, &m, nil)
			b.done = append(b.done, outcome{obs, spec, m.steps})
			if obs.Result.Stuck() != nil {
				break
			}
			if s.o.StopAtFirst && s.o.Bad(obs.Verdict) {
				break
			}
		}
		s.results <- b
	}
	done()
}

var _ sched.Strategy = (*meter)(nil)

// Progress is how far a search has got.
type Progress struct {
	// Done and Planned count schedules.
	Done, Planned uint64
	// Rate is in schedules per second, zero if unknown.
	Rate float64
	// Left is the estimated time to the end, zero if unknown.
	Left time.Duration
	// ByVerdict counts the schedules by verdict. It must not be kept.
	ByVerdict map[string]uint64
}

// Witness is a schedule that showed a verdict.
type Witness struct {
	// Schedule is its number in the search.
	Schedule uint64
	Spec     Spec
	// Token names it.
	Token Token
	// Observation is what the run saw.
	Observation
}

// Report is the outcome of a search.
type Report struct {
	// Planned and Schedules count the schedules asked for and those that the report covers.
	Planned, Schedules uint64
	// Interrupted is set when the context ended the search.
	Interrupted bool
	// ByVerdict counts the schedules by verdict.
	ByVerdict map[string]uint64
	// Witnesses holds the first schedule of each verdict, in ascending order.
	Witnesses []Witness
	// StepsMin, StepsMedian and StepsMax are schedule points per run.
	StepsMin, StepsMedian, StepsMax uint64
	// States is how many different final states were seen; at least so many if
	// it is MaxStates.
	States int
	// Length is the program's length that PCT was given, in points.
	Length uint64
	// Elapsed and Rate are the host's time and schedules per second; zero without a clock.
	Elapsed time.Duration
	Rate    float64

	target *Target
	steps  map[uint64]uint64 // points -> runs
	states map[uint64]uint64 // final state -> runs
}

// MaxStates bounds how many final states a search tells apart.
const MaxStates = 1 << 16

func newReport(t *Target, o *Options) *Report {
	return &Report{
		Planned: o.Schedules, ByVerdict: map[string]uint64{}, target: t,
		steps: map[uint64]uint64{}, states: map[uint64]uint64{},
	}
}

func (r *Report) add(i uint64, out *outcome) {
	v := out.obs.Verdict
	if r.ByVerdict[v] == 0 {
		r.Witnesses = append(r.Witnesses, Witness{i, out.spec, r.target.Token(out.spec), out.obs})
	}
	r.Schedules++
	r.ByVerdict[v]++
	r.steps[out.obs.Steps]++
	if _, known := r.states[out.obs.State]; known || len(r.states) < MaxStates {
		r.states[out.obs.State]++
	}
}

func (r *Report) progress(elapsed time.Duration) Progress {
	p := Progress{Done: r.Schedules, Planned: r.Planned, ByVerdict: r.ByVerdict}
	if elapsed > 0 {
		p.Rate = float64(r.Schedules) / elapsed.Seconds()
		p.Left = time.Duration(float64(r.Planned-r.Schedules) / p.Rate * 1e9)
	}
	return p
}

func (r *Report) finish(elapsed time.Duration) {
	r.Elapsed = elapsed
	if elapsed > 0 {
		r.Rate = float64(r.Schedules) / elapsed.Seconds()
	}
	r.States = len(r.states)
	lengths := make([]uint64, 0, len(r.steps))
	for n := range r.steps {
		lengths = append(lengths, n)
	}
	if len(lengths) == 0 {
		return
	}
	slices.Sort(lengths)
	r.StepsMin, r.StepsMax = lengths[0], lengths[len(lengths)-1]
	var below uint64
	for _, n := range lengths {
		if below += r.steps[n]; 2*below >= r.Schedules {
			r.StepsMedian = n
			return
		}
	}
}

// FinalStates returns the different final states, in ascending order; at most MaxStates.
func (r *Report) FinalStates() []uint64 {
	s := make([]uint64, 0, len(r.states))
	for h := range r.states {
		s = append(s, h)
	}
	slices.Sort(s)
	return s
}

// Witness returns the first schedule that showed the verdict, or nil.
func (r *Report) Witness(verdict string) *Witness {
	for i := range r.Witnesses {
		if r.Witnesses[i].Verdict == verdict {
			return &r.Witnesses[i]
		}
	}
	return nil
}

// FirstBad returns the first schedule whose verdict is not Safe, or nil.
func (r *Report) FirstBad() *Witness {
	for i := range r.Witnesses {
		if r.Witnesses[i].Verdict != Safe {
			return &r.Witnesses[i]
		}
	}
	return nil
}
