package explore

import (
	"fmt"

	"github.com/cowlab/cowlab/kernel/sched"
)

// CheckIndependence tests the dependency relation against what the program does. It runs
// the target in random schedules, each under a strategy with the next seed, takes a pair of
// neighbouring steps that the relation calls independent, and runs the schedule once
// more with the two swapped. Everybody must be able to make the same choices,
// and the run must end in the same state, having taken the same steps in the same
// partial order. It returns how many pairs it tried; the error names the schedule and the steps.
//
// Runs that go on for ever are left out: where such a run is stopped is a matter of how many
// points it has passed at certain moments, and so is what it has done by then.
//
// A target's state must be made of what has a meaning, not of clocks.
func CheckIndependence(t Target, seed uint64, schedules, swaps int) (tried int, err error) {
	for i := range uint64(schedules) {
		var base porRun
		base.follow(sched.NewRandom(mix(seed, i)))
		want := t.once(&base, nil)
		if base.finish(false); base.err != nil {
			return tried, base.err
		}
		if want.Result != nil && want.Result.Reason == sched.Livelock {
			continue
		}
		order := make([]uint64, len(base.events)) // by names that mean the same in both runs
		for k := range order {
			order[k] = base.name(base.events[k].actor)
		}
		pairs := base.independent()
		for j := range uint64(swaps) {
			if len(pairs) == 0 {
				break
			}
			k := pairs[mix(seed^i, j)%uint64(len(pairs))]
			order[k], order[k+1] = order[k+1], order[k]
			var again porRun
			f := &forced{order: order}
			again.follow(f)
			got := t.once(&again, nil)
			again.finish(false)
			order[k], order[k+1] = order[k+1], order[k]
			tried++
			var what string
			switch {
			case f.failed:
				what = fmt.Sprintf("decision %d cannot be made any more", f.n)
			case got.Verdict != want.Verdict:
				what = fmt.Sprintf("the verdict is %s instead of %s", got.Verdict, want.Verdict)
			case got.State != want.State:
				what = "the final state is another one"
			case again.class != base.class:
				what = "the steps or their partial order are others"
			default:
				continue
			}
			a, b := &base.events[k], &base.events[k+1]
			return tried, fmt.Errorf("steps %d and %d of schedule %s are not independent: %s\n  actor %d: %s %s %v\n  actor %d: %s %s %v",
				k, k+1, t.Token(Spec{Kind: KindRandom, Seed: mix(seed, i)}), what,
				a.actor, a.op, objText(a.obj), base.touches[a.lo:a.hi], b.actor, b.op, objText(b.obj), base.touches[b.lo:b.hi])
		}
	}
	return tried, nil
}

// name names an actor as Actor.Chain does.
func (r *porRun) name(a uint8) uint64 {
	if int(a) < r.cpus {
		return uint64(a)
	}
	return r.chains[int(a)-r.cpus]
}

// independent returns the positions of the steps that could be swapped with the next one.
func (r *porRun) independent() (at []int) {
	for k := 0; k+1 < len(r.events); k++ {
		a, b := &r.events[k], &r.events[k+1]
		if a.actor == b.actor || r.enabled[k]>>b.actor&1 == 0 || k+1 >= r.stop {
			continue
		}
		if !dependent(r.touches[a.lo:a.hi], r.touches[b.lo:b.hi], r.buffers(a.actor, b.actor)) {
			at = append(at, k)
		}
	}
	return at
}

// forced makes the given choices.
type forced struct {
	order  []uint64
	n      int
	failed bool
}

// Begin implements sched.Strategy.
func (f *forced) Begin(int) {}

// Pick implements sched.Strategy.
func (f *forced) Pick(ch *sched.Choice) int {
	if f.n < len(f.order) {
		for i := range ch.Enabled {
			a := &ch.Enabled[i]
			if a.CPU >= 0 && uint64(a.CPU) == f.order[f.n] || a.CPU < 0 && a.Chain == f.order[f.n] {
				f.n++
				return i
			}
		}
	}
	f.failed = true
	return sched.Cut
}
