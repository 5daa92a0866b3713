package explore

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"slices"

	"github.com/cowlab/cowlab/kernel/sched"
)

// ReduceOptions bound a search with partial-order reduction.
type ReduceOptions struct {
	// Schedules ends the search after so many; zero means no bound.
	Schedules uint64
	// Workers is how many machines run at once; zero means GOMAXPROCS.
	Workers int
	// StopAtFirst ends the search with the first schedule whose verdict is not Safe.
	StopAtFirst bool
	// Progress, if not nil, is called now and then from the goroutine of Reduce. Left is
	// the decisions that are known to need another schedule.
	Progress func(Covered)
}

// Validate reports what is wrong with the options, naming the field and its limits.
func (o *ReduceOptions) Validate() error {
	if o.Workers < 0 || o.Workers > MaxWorkers {
		return fmt.Errorf("explore: Workers is %d, must be 1 to %d", o.Workers, MaxWorkers)
	}
	return nil
}

// Reduced is the outcome of a search with partial-order reduction.
type Reduced struct {
	// Report covers the schedules that were run to their end.
	Report
	// Complete is set when every equivalence class has been run.
	Complete bool
	// Classes is how many equivalence classes of schedules were run: two schedules are
	// equivalent if one is the other with independent neighbouring steps swapped.
	Classes uint64
	// Blocked counts the runs that were cut because all they could still do has been
	// done in other runs.
	Blocked uint64
	// Left is how many decisions are known to need another schedule; zero if Complete.
	Left int
	// Clocked counts runs in which a task had a CPU for so long that the clock may
	// have decided who runs next. The reduction is not proven for those.
	Clocked uint64
}

// Reduce runs one schedule of each equivalence class of a target: dynamic partial-order
// reduction with source sets and sleep sets (Abdulla, Aronis, Jonsson and Sagonas, POPL
// 2014), over the dependency relation of depend.go. Its report is the same for any
// number of workers.
//
// Each run is looked through for races: pairs of steps that are dependent, of different
// actors, with nothing between that orders them. For each the search makes sure that
// the decision before the first of them is also made in a way that can put the
// second first. What a sibling has explored sleeps until a step that depends on it.
func Reduce(ctx context.Context, t Target, o ReduceOptions) (*Reduced, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	s := &reduction{
		target: &t, o: &o, classes: classSet{},
		out:  &Reduced{Report: *newReport(&t, &Options{})},
		jobs: make(chan *porJob, reduceWave), done: make(chan struct{}, reduceWave),
	}
	for range o.Workers {
		go s.work()
	}
	err := s.search(ctx)
	close(s.jobs)
	for range o.Workers {
		<-s.done
	}
	s.out.finish(0)
	if err != nil {
		return nil, err
	}
	return s.out, nil
}

// reduceWave is how many decisions are pursued at once. It is part of the order of
// the schedules, and so must not depend on the number of workers.
const reduceWave = 64

// maxClasses bounds how many equivalence classes are told apart by their hash; later
// ones are counted as different, which sleep sets see to.
const maxClasses = 1 << 20

// classSet are equivalence classes by their hash.
type classSet map[uint64]struct{}

// add enters a class and reports whether it is new.
func (c classSet) add(class uint64) bool {
	if _, known := c[class]; known {
		return false
	}
	if len(c) < maxClasses {
		c[class] = struct{}{}
	}
	return true
}

// segment is the part of a run behind the decision at which it leaves another one.
type segment struct {
	parent  *segment // nil for the first run
	at      int      // position of the first choice
	node    *node    // the decision at that position; nil for the first run
	choice  []uint8
	enabled []uint64
	sleep   []sleeper
	nodes   map[int]*node // decisions at which other runs leave this one, by position
}

// node is a decision at which more than one choice is needed.
type node struct {
	seg     *segment // whose choice at this position was the first one
	pos     int
	enabled uint64
	sleep   []sleeper // who slept when the first run came here
	asleep  uint64
	kids    []sleeper // who has been chosen here
	taken   uint64    // who has been chosen or is in todo
	todo    []todo
	queued  bool
}

// todo is an actor to choose at a decision, and who should follow.
type todo struct {
	actor  uint8
	way    []uint8
	weight float64 // the part of the whole that is taken to follow
}

// porJob is a run to make.
type porJob struct {
	node    *node // nil for the first run
	actor   uint8
	weight  float64
	run     porRun
	prefix  []uint8
	outcome outcome
	ran     bool
}

type reduction struct {
	target  *Target
	o       *ReduceOptions
	out     *Reduced
	stack   []*node // decisions with something to do, the latest on top
	left    int     // branches to do
	classes classSet
	cover   coverage
	found   []added // what todo the run in hand has added to, the shallowest first
	pool    []*porJob
	wave    []*porJob
	jobs    chan *porJob
	done    chan struct{}
	ctx     context.Context
}

func (s *reduction) work() {
	run, dispose := s.target.worker()
	for j := range s.jobs {
		j.ran = s.ctx.Err() == nil
		if j.ran {
			j.outcome.obs = guarded(run, &j.run, nil)
			j.run.finish(!j.run.blocked && abrupt(&j.outcome.obs))
		}
		s.done <- struct{}{}
	}
	dispose()
	s.done <- struct{}{}
}

// abrupt reports whether a run did not end by itself.
func abrupt(o *Observation) bool {
	return o.Result != nil && o.Result.Reason != sched.Quiet && o.Result.Reason != sched.Deadlock
}

func (s *reduction) search(ctx context.Context) error {
	s.ctx = ctx
	first := s.job()
	first.weight = 1
	first.run.start(nil, nil, nil)
	s.wave = append(s.wave, first)
	for len(s.wave) > 0 {
		for _, j := range s.wave {
			s.jobs <- j
		}
		for range s.wave {
			<-s.done
		}
		for i, j := range s.wave {
			if !j.ran {
				s.out.Interrupted = true
				s.out.Left = s.left + len(s.wave) - i
				return nil
			}
			if j.run.err != nil {
				return j.run.err
			}
			if err := j.outcome.obs.Result.Stuck(); err != nil {
				return err
			}
			s.fold(j)
			if s.full() && s.left+len(s.wave)-i > 1 {
				s.out.Left = s.left + len(s.wave) - i - 1
				return nil
			}
		}
		for _, j := range s.wave {
			if n := j.node; n != nil && len(n.todo) > 0 && !n.queued {
				s.push(n)
			}
		}
		s.pool = append(s.pool, s.wave...)
		s.next()
		if s.o.Progress != nil {
			left := s.left + len(s.wave)
			s.o.Progress(Covered{Done: s.out.Schedules + s.out.Blocked, Left: uint64(left), Share: s.cover.share()})
		}
	}
	s.out.Complete = true
	return nil
}

// full reports whether the search is to end here.
func (s *reduction) full() bool {
	if s.o.StopAtFirst && s.out.FirstBad() != nil {
		return true
	}
	return s.o.Schedules != 0 && s.out.Schedules+s.out.Blocked >= s.o.Schedules
}

func (s *reduction) job() *porJob {
	if n := len(s.pool); n > 0 {
		j := s.pool[n-1]
		s.pool = s.pool[:n-1]
		j.node = nil
		return j
	}
	return &porJob{}
}

func (s *reduction) push(n *node) {
	n.queued = true
	s.stack = append(s.stack, n)
}

// next takes the next wave off the stack: at most one branch of each decision, because
// the next one has to know what the first step of this one touched.
func (s *reduction) next() {
	s.wave = s.wave[:0]
	for len(s.wave) < reduceWave && len(s.stack) > 0 {
		n := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		n.queued = false
		j := s.job()
		j.node, j.actor = n, n.todo[0].actor
		way := n.todo[0].way
		j.weight = n.todo[0].weight
		n.todo = n.todo[1:]
		s.left--
		j.prefix = append(n.path(j.prefix[:0]), j.actor)
		j.run.start(j.prefix, way, n.sleep)
		j.run.sleep = append(j.run.sleep, n.kids...)
		s.wave = append(s.wave, j)
	}
}

// path returns the choices that lead to the decision.
func (n *node) path(to []uint8) []uint8 {
	to = slices.Grow(to, n.pos+1)[:n.pos]
	end := n.pos
	for s := n.seg; s != nil; s = s.parent {
		copy(to[s.at:end], s.choice)
		end = s.at
	}
	return to
}

// fold enters a run into the report and plans what its races ask for.
func (s *reduction) fold(j *porJob) {
	r := &j.run
	if n := j.node; n != nil {
		e := &r.events[r.from]
		n.kids = append(n.kids, sleeper{actor: j.actor, touches: slices.Clone(r.touches[e.lo:e.hi]), until: never})
	}
	if r.blocked {
		s.out.Blocked++
	} else {
		if s.classes.add(r.class) {
			s.out.Classes++
		}
		if res := j.outcome.obs.Result; res != nil && res.Clocked {
			s.out.Clocked++
		}
		if s.out.ByVerdict[j.outcome.obs.Verdict] == 0 {
			j.outcome.spec = s.witness(r)
		}
		s.out.add(s.out.Schedules, &j.outcome)
	}
	s.found = s.found[:0]
	var seg *segment // made when it is needed
	slices.SortStableFunc(r.races, func(a, b race) int { return a.pos - b.pos })
	for i := range r.races {
		c := &r.races[i]
		n := s.find(j, &seg, c)
		if n == nil {
			continue
		}
		if !c.each && c.mask&(n.taken|n.asleep) != 0 {
			continue
		}
		for m := c.mask &^ (n.taken | n.asleep); m != 0; m &= m - 1 {
			a := uint8(bits.TrailingZeros64(m))
			n.taken |= 1 << a
			next := todo{actor: a}
			if !c.each {
				next.way = r.way(c, a)
			}
			n.todo = append(n.todo, next)
			s.found = append(s.found, added{n, len(n.todo) - 1})
			s.left++
			if !c.each {
				break
			}
		}
		if len(n.todo) > 0 && !n.queued {
			s.push(n)
		}
	}
	s.divide(j)
}

// added is a branch: its decision, and its place in todo there.
type added struct {
	node *node
	at   int
}

// divide gives away the weight of a run to the branches it has added.
func (s *reduction) divide(j *porJob) {
	if j.node == nil {
		s.cover.length = len(j.run.events)
	}
	all := 1.0
	for _, f := range s.found {
		all += s.cover.size(f.node.pos)
	}
	for _, f := range s.found {
		f.node.todo[f.at].weight = j.weight * s.cover.size(f.node.pos) / all
	}
	s.cover.keep(j.weight / all)
}

const never = int(^uint(0) >> 1)

// find returns the decision of a race, or nil if nothing is to do there.
func (s *reduction) find(j *porJob, seg **segment, c *race) *node {
	r := &j.run
	at := *seg
	if c.pos > r.from || j.node == nil {
		if at == nil {
			at = &segment{at: r.from, node: j.node, sleep: slices.Clone(r.sleep)}
			if j.node != nil {
				at.parent = j.node.seg
			}
			for i := r.from; i < len(r.events); i++ {
				at.choice = append(at.choice, r.events[i].actor)
			}
			at.enabled = slices.Clone(r.enabled[r.from:])
			*seg = at
		}
	} else {
		if c.pos == r.from {
			return j.node
		}
		at = j.node.seg
		for at.at > c.pos {
			at = at.parent
		}
		if at.at == c.pos && at.node != nil {
			return at.node
		}
	}
	if n := at.nodes[c.pos]; n != nil {
		return n
	}
	n := &node{seg: at, pos: c.pos, enabled: at.enabled[c.pos-at.at]}
	first := at.choice[c.pos-at.at]
	for i := range at.sleep {
		if at.sleep[i].until > c.pos {
			n.sleep = append(n.sleep, at.sleep[i])
			n.asleep |= 1 << at.sleep[i].actor
		}
	}
	if !c.each && c.mask&(n.asleep|1<<first) != 0 {
		return nil // not worth keeping
	}
	e := &r.events[c.pos]
	n.kids = []sleeper{{actor: first, touches: slices.Clone(r.touches[e.lo:e.hi]), until: never}}
	n.taken = 1 << first
	if at.nodes == nil {
		at.nodes = map[int]*node{}
	}
	at.nodes[c.pos] = n
	return n
}

// witness repeats a run and returns its schedule as departures from the default rule.
func (s *reduction) witness(r *porRun) Spec {
	var again porRun
	prefix := make([]uint8, len(r.events))
	for i := range r.events {
		prefix[i] = r.events[i].actor
	}
	again.start(prefix, nil, nil)
	_, rec := Record(*s.target, &again)
	return Spec{Kind: KindSwitches, Switches: rec.Switches()}
}
