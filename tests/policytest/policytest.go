package policytest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Options say how hard to test, and what is known. The zero value is what Run does.
type Options struct {
	// Schedules is how many schedules of each workload's small form are searched; zero
	// means 60. The one that is about gup-fast and fork gets a hundred times as many.
	Schedules int
	// Short is for those who test many policies: Schedules is 5, also for that one.
	Short bool
	// Seed numbers the schedules; the same seed tests the same ones. Zero means 1.
	Seed uint64
	// Workloads are the programs; nil means all.
	Workloads []*workload.Workload
	// Known lists problems that are expected.
	Known []Known
	// Hosts pools machines; nil means private pools.
	Hosts *kernel.Hosts
}

// Known is a problem that is expected, and why. A problem matches if it is the check's, and
// its place and text contain Where and Says.
type Known struct{ Check, Where, Says, Why string }

func (k *Known) matches(p *Problem) bool {
	return p.Check == k.Check && strings.Contains(p.Where, k.Where) && strings.Contains(p.Says, k.Says)
}

// Problem is something that a policy does not satisfy.
type Problem struct {
	// Check is the name of the check, Where the workload with its parameters, or the method.
	Check, Where string
	// Says is what was seen; schedule is a run that shows it, nil if it takes more than one.
	Says     string
	schedule *schedule
}

// String tells the problem without the schedule.
func (p *Problem) String() string { return fmt.Sprintf("%s: %s", p.Where, p.Says) }

// check is one of the things that are tested.
type check struct {
	name string
	run  func(s *suite) []Problem
}

func checks() []check {
	return []check{
		{"identity", (*suite).identity}, {"races", (*suite).races}, {"invariants", (*suite).invariants},
		{"repeat", (*suite).repeat}, {"force_hooks", (*suite).forceHooks}, {"alone", (*suite).alone},
		{"no_memory", (*suite).noMemory},
	}
}

// suite is a policy being tested.
type suite struct {
	ctx   context.Context
	p     mm.Policy
	o     Options
	hosts *kernel.Hosts

	mu    sync.Mutex
	stuck error // a machine is stuck in a method of the policy: nothing more is run; protected by mu
}

// gaveUp notes err if it says that a machine is stuck, and returns the first such error.
func (s *suite) gaveUp(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is := (*sched.StuckError)(nil); s.stuck == nil && errors.As(err, &is) {
		s.stuck = err
	}
	return s.stuck
}

func newSuite(ctx context.Context, p mm.Policy, o Options) *suite {
	if o.Schedules == 0 {
		o.Schedules = 60
		if o.Short {
			o.Schedules = 5
		}
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Workloads == nil {
		o.Workloads = workload.All()
	}
	return &suite{ctx: ctx, p: p, o: o, hosts: o.Hosts}
}

// Run tests a policy.
func Run(t *testing.T, p mm.Policy) {
	t.Helper()
	RunWith(t, p, Options{})
}

// RunWith is Run with options.
func RunWith(t *testing.T, p mm.Policy, o Options) {
	t.Helper()
	s := newSuite(t.Context(), p, o)
	if s.hosts == nil {
		s.hosts = kernel.NewHosts()
		defer s.hosts.Close()
	}
	asked, err := s.asked()
	if err != nil {
		t.Fatalf("policytest: %v", err)
	}
	seen, ran := make([]bool, len(o.Known)), 0
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			if asked != nil {
				s.replay(t, c.name, asked)
				return
			}
			if s.gaveUp(nil) != nil {
				t.Skip("a machine is stuck")
			}
			ran++
			problems := c.run(s)
			if err := s.gaveUp(nil); err != nil {
				t.Fatalf("policytest: %s: %v\nIt cannot be interrupted: nothing more is tested.", p.Name(), err)
			}
			for _, problem := range problems {
				problem.Check = c.name
				if k := s.known(&problem, seen); k != nil {
					t.Logf("known: %v: %s", &problem, k.Why)
					continue
				}
				text := problem.String()
				if problem.schedule != nil {
					text += "\n" + s.explain(t.Name(), *problem.schedule)
				}
				t.Errorf("policytest: %s: %s", p.Name(), text)
			}
		})
	}
	for i, k := range o.Known {
		if !seen[i] && ran == len(checks()) {
			t.Errorf("policytest: %s: %s: %s: %q is listed as known, but was not seen; take it out", p.Name(), k.Check, k.Where, k.Says)
		}
	}
}

// known finds what excuses a problem, and notes that it was needed.
func (s *suite) known(p *Problem, seen []bool) (k *Known) {
	for i := range s.o.Known {
		if s.o.Known[i].matches(p) {
			seen[i] = true
			k = &s.o.Known[i]
		}
	}
	return k
}

// cell is a workload with parameters of its small form.
type cell struct {
	w      *workload.Workload
	params string
	values workload.Values
}

func (c *cell) String() string { return strings.TrimSpace(c.w.Name + " " + c.params) }

// cells are all workloads in all their variants, or in the first only.
func (s *suite) cells(all bool) []cell {
	var out []cell
	for _, w := range s.o.Workloads {
		variants := w.Variants
		if len(variants) == 0 {
			variants = []string{""}
		}
		if !all {
			variants = variants[:1]
		}
		for _, params := range variants {
			v, err := w.Parse(params, true)
			if err != nil {
				panic(fmt.Sprintf("%s %s: %v", w.Name, params, err)) // the workload's own variant
			}
			out = append(out, cell{w, params, v})
		}
	}
	return out
}
