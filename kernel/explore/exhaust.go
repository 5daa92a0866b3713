package explore

import (
	"context"
	"fmt"
	"runtime"

	"github.com/cowlab/cowlab/kernel/sched"
)

// ExhaustOptions bound an exhaustive search.
type ExhaustOptions struct {
	// Preemptions is how often a schedule may leave a CPU that could have gone on, or
	// let a device or timer act before its turn, which is when no CPU can go on and
	// it is the oldest. Where the CPU that ran cannot go on, the choice among the
	// other CPUs is free.
	Preemptions int
	// Schedules ends the search after so many; zero means no bound.
	Schedules uint64
	// GiveUp ends the search as soon as it is known that Schedules are not enough: with at
	// most one preemption that is after the few schedules without any, which show all of
	// those with one but for what comes free after a preemption.
	GiveUp bool
	// Cut leaves out what follows a decision that another schedule, with no more
	// preemptions, has come to as well: with the same steps before it in the same
	// partial order. Happens-before caching, as in Musuvathi and Qadeer, Partial-order
	// reduction for context-bounded state exploration, 2007. The final states are
	// the same, schedules far fewer.
	Cut bool
	// Workers is how many machines run at once; zero means GOMAXPROCS.
	Workers int
	// Enough, if not nil, is asked now and then, and whenever all schedules with so many
	// preemptions have been run, whether what there is is enough. Then the search ends there.
	// When it is asked does not depend on the number of workers.
	Enough func(*Exhausted) bool
	// Progress, if not nil, is called now and then from the goroutine of Exhaust.
	Progress func(Covered)
}

// Validate reports what is wrong with the options, naming the field and its limits.
func (o *ExhaustOptions) Validate() error {
	if o.Preemptions < 0 || o.Preemptions > 100 {
		return fmt.Errorf("explore: Preemptions is %d, must be 0 to 100", o.Preemptions)
	}
	if o.Workers < 0 || o.Workers > MaxWorkers {
		return fmt.Errorf("explore: Workers is %d, must be 1 to %d", o.Workers, MaxWorkers)
	}
	return nil
}

// Exhausted is the outcome of an exhaustive search.
type Exhausted struct {
	Report
	// Preemptions is the bound.
	Preemptions int
	// Merged counts the schedules that came to where another one had been; zero without Cut.
	Merged uint64
	// Classes is how many equivalence classes the schedules are of, as [Reduced] counts them: with
	// Cut all that have a schedule within the bound. Other than there, a CPU may try to take a
	// lock that is held, and where it did is told apart. Zero without Cut.
	Classes uint64
	// Complete is set when every schedule within the bound has been run.
	Complete bool
	// Through is the number of preemptions up to which every schedule has been run, and Within
	// how many schedules these are: -1 and 0 if there is one without preemptions that has not.
	Through int
	Within  uint64
	// Left is how many schedules are known that have not been run, which is less than
	// there are; zero if Complete.
	Left uint64
}

// Exhaust runs every schedule of a target with at most so many preemptions, each once,
// those with few before those with many (the bound is that of CHESS: Musuvathi and
// Qadeer, PLDI 2007). Its report is the same for any number of workers.
//
// A schedule is named by where it departs from the default rule. Running one shows who
// else could have acted at each decision; each of those, at a place behind the last
// departure, makes another schedule. So none is run twice.
func Exhaust(ctx context.Context, t Target, o ExhaustOptions) (*Exhausted, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	r := &Exhausted{Report: *newReport(&t, &Options{}), Preemptions: o.Preemptions, Through: -1}
	// waves[k] are the schedules known so far that have k preemptions.
	waves := make([][]plan, o.Preemptions+1)
	waves[0] = []plan{{weight: 1}}
	seen, classes := map[uint64]struct{}{}, classSet{}
	var cover coverage
	for k := range waves {
		for len(waves[k]) > 0 {
			n := min(len(waves[k]), waveSize)
			wave := waves[k][:n:n]
			waves[k] = waves[k][n:]
			results := runWave(ctx, &t, wave, &o)
			for i := range results {
				res := &results[i]
				if !res.ran || o.Schedules != 0 && r.Schedules == o.Schedules {
					r.Interrupted = ctx.Err() != nil
					r.Left = planned(waves) + uint64(n-i)
					r.finish(0)
					return r, nil
				}
				if res.err != nil {
					return nil, res.err
				}
				r.add(r.Schedules, &res.outcome)
				if o.Cut && classes.add(res.class) {
					r.Classes++
				}
				live := res.branches
				for j := range live {
					if b := &live[j]; o.Cut && b.first && known(seen, b.key) {
						r.Merged++
						live = live[:j]
						break
					}
				}
				unit := cover.divide(res, len(live), wave[i].weight, o.Preemptions-k)
				for _, b := range live {
					if c := k + b.cost; c <= o.Preemptions {
						waves[c] = append(waves[c], plan{from: &wave[i], sw: Switch{At: b.at, To: b.to}, weight: unit * b.height})
					}
				}
			}
			r.Left = planned(waves)
			if len(waves[k]) == 0 {
				r.Through, r.Within = k, r.Schedules
			}
			if o.Progress != nil {
				if r.Left == 0 {
					cover.keep(cover.claim())
				}
				o.Progress(Covered{Done: r.Schedules, Left: r.Left, Share: cover.share()})
			}
			giveUp := o.GiveUp && o.Schedules != 0 && r.Schedules+r.Left > o.Schedules
			if r.Left > 0 && (giveUp || o.Enough != nil && o.Enough(r)) {
				r.finish(0)
				return r, nil
			}
		}
	}
	r.Through, r.Within, r.Complete = o.Preemptions, r.Schedules, true
	r.finish(0)
	return r, nil
}

// planned is how many schedules are planned.
func planned(waves [][]plan) (n uint64) {
	for _, w := range waves {
		n += uint64(len(w))
	}
	return n
}

// waveSize is how many schedules are run before their branches are looked at.
const waveSize = 1024

// plan is a schedule to run: the departures of another one, and one more.
type plan struct {
	from   *plan // nil for the schedule without departures
	sw     Switch
	weight float64 // the part of the whole that it and what is below it are taken for
}

// switches lists a plan's departures.
func (p *plan) switches() []Switch {
	if p.from == nil {
		return nil
	}
	return append(p.from.switches(), p.sw)
}

// branch is somebody who could have acted at a decision instead.
type branch struct {
	at   uint64
	to   ActorID
	cost int // 1 if the CPU that ran could have gone on, or if it is a device
	last int // the CPU that ran
	// With ExhaustOptions.Cut: what led to the decision and which CPU ran, as a hash, and
	// whether this is its first branch.
	key   uint64
	first bool
	// How many schedules are taken to follow, 0 if it is behind the bound.
	height float64
}

type waveResult struct {
	outcome
	branches []branch
	class    uint64 // with Cut
	ran      bool
	err      error
}

// runWave runs schedules on several workers; the results are in the schedules' order.
func runWave(ctx context.Context, t *Target, wave []plan, o *ExhaustOptions) []waveResult {
	results := make([]waveResult, len(wave))
	jobs, ended := make(chan int), make(chan struct{})
	workers := min(o.Workers, len(wave))
	for range workers {
		go func() {
			run, done := t.worker()
			var tracker porRun
			for i := range jobs {
				spec := Spec{Kind: KindSwitches, Switches: wave[i].switches()}
				b := &brancher{inner: spec.Strategy()}
				if n := len(spec.Switches); n > 0 {
					b.from = spec.Switches[n-1].At + 1
				}
				if o.Cut {
					tracker.follow(b.inner)
					b.inner = &tracker
				}
				m := meter{Strategy: b}
				obs := guarded(run, &m, nil)
				results[i] = waveResult{outcome: outcome{obs, spec, m.steps}, branches: b.branches, ran: true}
				if o.Cut {
					tracker.finish(abrupt(&obs))
					tracker.keys(b.branches)
					results[i].class, results[i].err = tracker.class, tracker.err
				}
				if err := obs.Result.Stuck(); err != nil {
					results[i].err = err
				}
			}
			done()
			ended <- struct{}{}
		}()
	}
	for i := range wave {
		if ctx.Err() != nil {
			break
		}
		jobs <- i
	}
	close(jobs)
	for range workers {
		<-ended
	}
	return results
}

// brancher notes who else could have acted at each decision from a place on.
type brancher struct {
	follower
	inner    sched.Strategy
	from     uint64
	n        uint64
	branches []branch
}

// Begin implements sched.Strategy.
func (b *brancher) Begin(cpus int) {
	b.reset()
	b.inner.Begin(cpus)
}

// Pick implements sched.Strategy.
func (b *brancher) Pick(ch *sched.Choice) int {
	b.fix(ch)
	n := b.n
	b.n++
	chosen := b.inner.Pick(ch)
	if n >= b.from && len(ch.Enabled) > 1 {
		goesOn := 0
		for i := range ch.Enabled {
			if ch.Enabled[i].CPU >= 0 && ch.Enabled[i].CPU == ch.Last {
				goesOn = 1
			}
		}
		for i := range ch.Enabled {
			cost := goesOn
			if ch.Enabled[i].CPU < 0 {
				cost = 1
			}
			if i != chosen {
				b.branches = append(b.branches, branch{at: n, to: actorOf(&ch.Enabled[i]), cost: cost, last: ch.Last})
			}
		}
	}
	b.took(&ch.Enabled[chosen])
	return chosen
}

// maxSeen bounds how many decisions a search remembers; later ones are all taken for new.
const maxSeen = 1 << 23

// known reports whether a decision has been met before, and remembers it.
func known(seen map[uint64]struct{}, key uint64) bool {
	if _, ok := seen[key]; ok {
		return true
	}
	if len(seen) < maxSeen {
		seen[key] = struct{}{}
	}
	return false
}

// follow makes the run note what another strategy chooses.
func (r *porRun) follow(s sched.Strategy) {
	r.start(nil, nil, nil)
	r.inner, r.from = s, never
}

// keys fills in the keys of branches of a run that is finished.
func (r *porRun) keys(branches []branch) {
	for i := range branches {
		b := &branches[i]
		b.first = i == 0 || branches[i-1].at != b.at
		b.key = mix(r.sums[b.at], uint64(b.last+1))
	}
}
