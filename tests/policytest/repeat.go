package policytest

import (
	"fmt"
	"sync"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/tests/workload"
)

// differ compares two ways of running each cell under each schedule.
func (s *suite) differ(what string, a, b func(c *cell, spec explore.Spec) (uint64, error)) (out []Problem) {
	for _, c := range s.cells(false) {
		for _, spec := range s.specs() {
			x, err := a(&c, spec)
			if err == nil {
				var y uint64
				if y, err = b(&c, spec); err == nil && x != y {
					err = fmt.Errorf("%s: it ended in state %016x, and in %016x (%v)", what, x, y, spec)
				}
			}
			if err != nil {
				out = append(out, Problem{Where: c.String(), Says: err.Error()})
				break
			}
		}
	}
	return out
}

// free runs a cell in the free regime.
func (s *suite) free(tune func(*workload.Options)) func(c *cell, spec explore.Spec) (uint64, error) {
	return func(c *cell, spec explore.Spec) (uint64, error) {
		state, _, err := s.plain(c, s.p, spec.Strategy(), nil, tune)
		return state, err
	}
}

// timed runs a cell in the timed regime, which knows one schedule only.
func (s *suite) timed(c *cell, _ explore.Spec) (uint64, error) {
	state, _, err := s.plain(c, s.p, nil, nil, func(o *workload.Options) { o.Regime, o.StepLimit = sched.Timed, 200_000 })
	return state, err
}

// repeat runs everything twice.
func (s *suite) repeat() []Problem {
	out := s.differ("the same schedule twice", s.free(nil), s.free(nil))
	return append(out, s.differ("the timed regime twice", s.timed, s.timed)...)
}

// forceHooks sends every decision through the policy's methods.
func (s *suite) forceHooks() []Problem {
	return s.differ("with ForceHooks", s.free(nil), s.free(func(o *workload.Options) { o.ForceHooks = true }))
}

// alone runs two machines in turn, a step each, and compares with one after the other.
func (s *suite) alone() []Problem {
	return s.differ("beside another machine", s.free(nil), func(c *cell, spec explore.Spec) (uint64, error) {
		other := spec
		other.Seed += 1000
		b := newBaton()
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer b.leave(1)
			b.begin(1)
			_, _, _ = s.plain(c, s.p, other.Strategy(), b.turn(1), nil) // compared where it is the first
		}()
		b.begin(0)
		state, _, err := s.plain(c, s.p, spec.Strategy(), b.turn(0), nil)
		b.leave(0)
		wg.Wait()
		return state, err
	})
}

// baton is who may take a step: one of two machines on goroutines of their own.
type baton struct {
	to   [2]chan struct{}
	gone [2]chan struct{} // closed when that machine has ended
}

func newBaton() *baton {
	b := &baton{}
	for i := range b.to {
		b.to[i], b.gone[i] = make(chan struct{}), make(chan struct{})
	}
	return b
}

// begin waits for the first turn: the first machine has it.
func (b *baton) begin(me int) {
	if me == 1 {
		b.await(1)
	}
}

func (b *baton) await(me int) {
	select {
	case <-b.to[me]:
	case <-b.gone[1-me]:
	}
}

// leave is the end of a machine: the other goes on alone.
func (b *baton) leave(me int) { close(b.gone[me]) }

// turn is the observer that hands the baton over at each step and waits for it.
func (b *baton) turn(me int) sched.Observer { return turn{b, me} }

type turn struct {
	b  *baton
	me int
}

// Step implements sched.Observer.
func (t turn) Step(uint64, *sched.Task, x86.Op, x86.ObjID) { t.b.pass(t.me) }

// Device implements sched.Observer.
func (t turn) Device(uint64, sched.Event) { t.b.pass(t.me) }

func (b *baton) pass(me int) {
	select {
	case b.to[1-me] <- struct{}{}:
		b.await(me)
	case <-b.gone[1-me]:
	}
}
