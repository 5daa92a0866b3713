package spec

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// Options bound a search through random programs.
type Options struct {
	// Policies are asked in turn about each program.
	Policies []mm.Policy
	// Seed is the first program's; the next ones follow.
	Seed uint64
	// Programs bounds how many there are; zero means that only Budget does.
	Programs uint64
	// Schedules is how many of each program run under each policy; zero means 18.
	Schedules uint64
	// Clock tells how much processor time has been spent, and Budget how much may be; no
	// Budget, no bound.
	Clock  func() time.Duration
	Budget time.Duration
	// Minimise makes what is found small, and recognises it when it comes again.
	Minimise bool
	// Found, if not nil, is told of each hole when it has been made small; Progress of each program.
	Found    func(*Hole)
	Progress func(*Result)
}

// Result is what a search has found.
type Result struct {
	// Programs and Schedules count what ran, under all policies together; Vague the programs of
	// which the model predicts no bytes, Failing those with an allocation that fails, Swapping
	// those with reclaim.
	Programs, Schedules, Vague, Failing, Swapping uint64
	// Bytes counts the terms that were compared, Racing those of them with more than one value.
	Bytes, Racing uint64
	// Verdicts counts runs by policy and verdict, in one word; what the policy does not promise has
	// "~" before it.
	Verdicts map[string]map[string]uint64
	// Holes are broken promises, in the order in which they were found.
	Holes []*Hole
}

// Hole is a promise that a policy breaks, in the smallest program that was found for it.
type Hole struct {
	Policy  string
	Verdict string // with what an assertion said
	Detail  string // which byte, in the witness
	Kinds   []string
	Did     []deed // what Spec does to pinned pages
	Seed    uint64 // of the program in which it was found
	Program *scenarios.Scenario
	Spec    explore.Spec // of a schedule of Program that shows it
	// Token replays the schedule in which it was seen first, in the program of Seed.
	Token    explore.Token
	Switches int
	Runs     uint64 // runs that showed it, or something that looks the same
	// Finding is the section of docs/findings.md that it belongs to; zero if it is new.
	Finding int

	known *hole
}

// like reports whether a run that looks like the hole, in a program of these kinds, can be it: it does what the
// finding takes or, if the hole is new, it is nothing that is known.
func (h *Hole) like(kinds []string, did func() []deed) bool {
	if h.known != nil {
		return h.known.does(did)
	}
	return lookup(h.Policy, h.Verdict, kinds, did) == nil
}

// String names the hole in a line.
func (h *Hole) String() string {
	return fmt.Sprintf("%s: %s (%s) [%s], seed %d, %d operations, %d switches", h.Policy, h.Verdict, h.Detail, strings.Join(h.Kinds, ", ")+h.deeds(), h.Seed, size(h.Program), h.Switches)
}

// deeds lists Did behind the kinds.
func (h *Hole) deeds() (s string) {
	for _, d := range h.Did {
		s += "; " + string(d)
	}
	return s
}

// aboutByte is a finding about a byte, as Finding.String has it.
var aboutByte = regexp.MustCompile(`^[a-z-]+: (\S+) is \S+, allowed (0x[0-9a-fx or]+)$`)

// Scenario returns the hole as a scenario that asks whether it is there: what `cowlab litmus`
// runs, draws and shrinks, and what can be kept.
func (h *Hole) Scenario() (*scenarios.Scenario, error) {
	cond := string(word(h.Verdict))
	if m := aboutByte.FindStringSubmatch(h.Detail); m != nil {
		var not []string
		for v := range strings.SplitSeq(m[2], " or ") {
			not = append(not, m[1]+" != "+v)
		}
		cond = strings.Join(not, ` /\ `)
	}
	c := *h.Program
	c.Doc = fmt.Sprintf("%s under %s", word(h.Verdict), h.Policy)
	c.Story = fmt.Sprintf("Found by the random program %s. Under %s:\n%s", Name(h.Seed), h.Policy, h.Detail)
	text, _, _ := strings.Cut(c.Print(), "\nnever ")
	return scenarios.Parse(c.Name, text+"\nnever "+cond+"\n")
}

// Search runs random programs under all policies and compares with the model.
func Search(ctx context.Context, o Options) (*Result, error) {
	if o.Schedules == 0 {
		o.Schedules = 18
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	r := &Result{Verdicts: map[string]map[string]uint64{}}
	for seed := o.Seed; ctx.Err() == nil; seed++ {
		if o.Programs > 0 && r.Programs == o.Programs || o.Budget > 0 && o.Clock() >= o.Budget {
			break
		}
		p, err := Random(seed)
		if err != nil {
			return r, err
		}
		r.count(p.Model)
		for _, pol := range o.Policies {
			if err := r.ask(ctx, &o, p, pol, hosts, seed); err != nil {
				return r, err
			}
		}
		if o.Progress != nil {
			o.Progress(r)
		}
	}
	return r, ctx.Err()
}

func (r *Result) count(m *Model) {
	r.Programs++
	if m.Vague != "" {
		r.Vague++
	}
	if m.fails {
		r.Failing++
	}
	if m.swaps {
		r.Swapping++
	}
	for _, t := range m.Terms {
		r.Bytes++
		if t.Racing() {
			r.Racing++
		}
	}
}

// ask runs a program under a policy.
func (r *Result) ask(ctx context.Context, o *Options, p *Program, pol mm.Policy, hosts *kernel.Hosts, seed uint64) error {
	rep, err := explore.Search(ctx, *p.Target(pol, hosts), explore.Options{Schedules: o.Schedules, Seed: seed, Workers: 1})
	if err != nil {
		return err
	}
	name := pol.Name()
	if r.Verdicts[name] == nil {
		r.Verdicts[name] = map[string]uint64{}
	}
	r.Schedules += rep.Schedules
	for _, w := range rep.Witnesses {
		n := rep.ByVerdict[w.Verdict]
		if w.Verdict == explore.Panicked {
			return fmt.Errorf("seed %d under %s: %s", seed, name, w.Detail)
		}
		short := string(word(w.Verdict))
		if strings.HasPrefix(w.Verdict, unpromised) {
			short = unpromised + short
		}
		r.Verdicts[name][short] += n
		if Broken(w.Verdict) {
			r.broken(ctx, o, p, pol, hosts, seed, w, n)
		}
	}
	return nil
}

// broken recognises a broken promise, or makes it small.
func (r *Result) broken(ctx context.Context, o *Options, p *Program, pol mm.Policy, hosts *kernel.Hosts, seed uint64, w explore.Witness, n uint64) {
	has := kinds(p.Text)
	did := sync.OnceValue(func() []deed { return deeds(p.Target(pol, hosts), w.Spec) })
	for _, h := range r.Holes {
		if h.Policy == pol.Name() && h.Verdict == w.Verdict && within(h.Kinds, has) && h.like(has, did) {
			h.Runs += n
			return
		}
	}
	h := &Hole{Policy: pol.Name(), Verdict: w.Verdict, Detail: w.Detail, Seed: seed, Program: p.Text, Spec: w.Spec, Token: w.Token, Runs: n}
	small := p
	if o.Minimise {
		least, seen := Minimise(ctx, p, pol, hosts, w.Verdict, min(max(6*o.Schedules/n, 60), 600), Known(pol.Name(), w.Verdict, has, did) != 0)
		if seen != nil {
			small = least
			h.Program, h.Spec, h.Detail = small.Text, seen.Spec, seen.Detail
			t := small.Target(pol, hosts)
			if s, err := explore.Shrink(ctx, *t, seen.Spec, explore.ShrinkOptions{Runs: 600}); err == nil {
				h.Spec, h.Switches, h.Detail = s.Spec, s.After.Departures, s.Observation.Detail
			}
		}
	}
	h.Kinds, h.Did = kinds(h.Program), deeds(small.Target(pol, hosts), h.Spec)
	if h.known = lookup(h.Policy, h.Verdict, h.Kinds, func() []deed { return h.Did }); h.known != nil {
		h.Finding = h.known.finding
	}
	for _, k := range r.Holes {
		if k.Policy == h.Policy && k.Verdict == h.Verdict && slices.Equal(k.Kinds, h.Kinds) && k.Finding == h.Finding {
			k.Runs += n
			return
		}
	}
	r.Holes = append(r.Holes, h)
	if o.Found != nil {
		o.Found(h)
	}
}

// within reports whether all of a are in b.
func within[T comparable](a, b []T) bool {
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}
