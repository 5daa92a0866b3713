package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// Program is a scenario with its model.
type Program struct {
	// Text is the scenario without what the model says; its condition asks for bugs only.
	Text *scenarios.Scenario
	// Model says what its bytes may be.
	Model *Model

	shown *scenarios.Scenario // Text, and all terms of the model in its states
}

// refusals is the term that says whether the policy has turned a request down: an
// asynchronous one does not break the run.
const refusals = "counter(emu_policy_refusals)"

// NewProgram models a scenario.
func NewProgram(s *scenarios.Scenario) (*Program, error) {
	p := &Program{Text: s, Model: NewModel(s), shown: s}
	if len(p.Model.Terms) > 0 {
		terms := []string{refusals}
		for _, t := range p.Model.Terms {
			terms = append(terms, t.Text)
		}
		shown, err := scenarios.Parse(s.Name, s.Print()+"show "+strings.Join(terms, ", ")+"\n")
		if err != nil {
			return nil, fmt.Errorf("%s with the model's terms: %w", s.Name, err)
		}
		p.shown = shown
	}
	return p, nil
}

// Scenario returns the program as it runs: its states show all that the model knows.
func (p *Program) Scenario() *scenarios.Scenario { return p.shown }

// Random returns the program of a seed.
func Random(seed uint64) (*Program, error) {
	s, err := Generate(seed)
	if err != nil {
		return nil, err
	}
	return NewProgram(s)
}

// unpromised stands before the verdict of a finding that the policy does not exclude.
const unpromised = "~"

// Target makes a program under a policy something to explore. The verdict of a run is what
// the model finds wrong, behind "~" if the policy does not promise otherwise.
func (p *Program) Target(pol mm.Policy, hosts *kernel.Hosts) *explore.Target {
	t := p.shown.Target(pol, hosts)
	t.Smaller = nil // those would not be held against the model; Minimise makes programs smaller
	run, claims, returns := t.Run, Promises(pol), p.Model.returns()
	t.Run = func(s sched.Strategy, ob sched.Observer) explore.Observation {
		var tr *traffic
		if returns {
			tr = watch(ob)
			ob = tr
		}
		o := run(s, ob)
		if !scenarios.IsState(o.Verdict) {
			return o
		}
		f := p.Model.judge(o.Verdict, o.Detail, claims, tr)
		if f == nil {
			o.Verdict = explore.Safe
			return o
		}
		o.Detail = f.String()
		o.Verdict = f.key()
		if !f.Promised(claims) {
			o.Verdict = unpromised + o.Verdict
		}
		return o
	}
	return t
}

// Broken reports whether a verdict of a Target means that a policy does not keep what it
// promises.
func Broken(verdict string) bool {
	return verdict != explore.Safe && !strings.HasPrefix(verdict, unpromised)
}

// word is a verdict without its details.
func word(verdict string) Verdict {
	v, _, _ := strings.Cut(strings.TrimPrefix(verdict, unpromised), ":")
	return Verdict(v)
}

// kinds lists the kinds of operations of a program, each once: what a hole is recognised by.
func kinds(s *scenarios.Scenario) []string {
	var out []string
	add := func(k string) {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	for _, c := range s.Columns {
		for _, op := range c.Rows {
			if op != nil {
				add(kindOf(op))
			}
		}
	}
	for _, f := range s.Fails {
		add("fail " + f.Site.Text)
	}
	for _, m := range s.Maps {
		switch {
		case m.File:
			add("file")
		case m.Shared:
			add("shared")
		case m.ReadOnly:
			add("read-only")
		}
		if m.Huge {
			add("huge")
		}
		if !slices.ContainsFunc(s.Inits, func(in scenarios.Init) bool { return in.Place.Name == m.Name.Text }) {
			add("untouched")
		}
	}
	slices.Sort(out)
	return out
}

// kindOf is an operation without its operands.
func kindOf(op *scenarios.Op) string {
	switch op.Verb {
	case "pin":
		if op.Has("write") {
			return "pin write"
		}
		return "pin read"
	case "madvise", "mprotect":
		return op.Verb + " " + op.Args[len(op.Args)-1].Word
	case "pread", "io_read":
		return "disk read"
	case "pwrite", "io_write":
		return "disk write"
	case scenarios.OpBarrier, "set", "await", "io_wait":
		return "order"
	}
	return op.Verb
}

// size counts what a program is made of.
func size(s *scenarios.Scenario) int {
	n := 0
	for _, c := range s.Columns {
		for _, op := range c.Rows {
			if op != nil {
				n++
			}
		}
	}
	return n
}
