package explore

import (
	"github.com/cowlab/cowlab/kernel/sched"
)

// pos is partial-order sampling (Yuan, Yang and Gu, CAV 2018): every pending step has a
// random priority, the highest acts, and then those that it conflicts with draw new
// ones, as the actor itself does for its next step. A random walk meets a partial
// order as often as it has schedules; here, orders of dependent steps are what is
// drawn, so rare ones are met more often.
//
// What a pending step will touch besides its operation is not known yet, so only
// operations are compared.
type pos struct {
	seed, draws uint64
	prio        []posPriority
}

type posPriority struct {
	actor ActorID
	value uint64
}

func newPOS(seed uint64) *pos { return &pos{seed: seed} }

// Begin implements sched.Strategy.
func (p *pos) Begin(int) {}

// draw returns a new priority.
func (p *pos) draw() uint64 {
	p.draws++
	return mix(p.seed, p.draws)
}

// of returns the place of an actor's priority.
func (p *pos) of(a ActorID) *uint64 {
	for i := range p.prio {
		if p.prio[i].actor == a {
			return &p.prio[i].value
		}
	}
	p.prio = append(p.prio, posPriority{a, p.draw()})
	return &p.prio[len(p.prio)-1].value
}

// forget drops the priority of an event, which happens once.
func (p *pos) forget(a ActorID) {
	for i := range p.prio {
		if p.prio[i].actor == a {
			p.prio = append(p.prio[:i], p.prio[i+1:]...)
			return
		}
	}
}

// Pick implements sched.Strategy.
func (p *pos) Pick(ch *sched.Choice) int {
	best := 0
	var most uint64
	for i := range ch.Enabled {
		a := &ch.Enabled[i]
		v := *p.of(actorOf(a))
		if a.Rare > 0 { // its turn comes when everybody else's priority is low
			v /= uint64(a.Rare) / 8
		}
		if i == 0 || v > most {
			best, most = i, v
		}
	}
	chosen := &ch.Enabled[best]
	how, touches := accessOf(chosen.Op, chosen.Obj)
	for i := range ch.Enabled {
		a := &ch.Enabled[i]
		if i == best || !touches || a.Obj != chosen.Obj {
			continue
		}
		if h, ok := accessOf(a.Op, a.Obj); ok && h.Conflicts(how) {
			*p.of(actorOf(a)) = p.draw()
		}
	}
	if chosen.CPU < 0 {
		p.forget(actorOf(chosen))
	} else {
		*p.of(actorOf(chosen)) = p.draw()
	}
	return best
}
