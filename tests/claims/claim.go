package claims

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// Claim is a sentence of the thread and the experiment that settles it.
type Claim struct {
	// ID is the claim's number, as "C1".
	ID string
	// Who said it, and Lines where in the thread.
	Who, Lines string
	// Says is the claim in our words.
	Says string
	// Ran says what the experiment does.
	Ran string
	// Settle runs it. It reports through the lab's result; see Result.
	Settle func(l *Lab) Result
}

// Verdict is what an experiment says of a claim.
type Verdict string

// The verdicts.
const (
	Confirmed Verdict = "confirmed"
	Refuted   Verdict = "refuted"
	Depends   Verdict = "depends"
	// NotFound is said of what a claim says there is, if no schedule of a sample showed it:
	// that is no refutation.
	NotFound Verdict = "not found"
)

// Result is what came out.
type Result struct {
	Verdict Verdict `json:"verdict"`
	// On says what a verdict depends on, or adds what one word cannot say.
	On string `json:"on,omitempty"`
	// Evidence is what was seen, a line each; tokens replay.
	Evidence []Evidence `json:"evidence"`
}

// Evidence is one thing that was seen.
type Evidence struct {
	Text  string `json:"text"`
	Token string `json:"token,omitempty"`
}

// String returns the evidence in one line.
func (e Evidence) String() string {
	if e.Token == "" {
		return e.Text
	}
	return e.Text + ": cowlab replay " + e.Token
}

// All returns the claims, by number.
func All() []Claim {
	var all []Claim
	for _, group := range [][]Claim{races(), users(), swaps(), stays(), huges(), found(), costs()} {
		all = append(all, group...)
	}
	slices.SortStableFunc(all, func(a, b Claim) int { return a.number() - b.number() })
	return all
}

// number is the number in the ID.
func (c *Claim) number() int {
	n, _ := strconv.Atoi(strings.TrimPrefix(c.ID, "C"))
	return n
}

// Lookup returns the claim with an ID, in whatever case, nil if there is none.
func Lookup(id string) *Claim {
	for _, c := range All() {
		if strings.EqualFold(c.ID, id) {
			return &c
		}
	}
	return nil
}

// Options say how hard to look. The zero value is the default bound.
type Options struct {
	// Policies are looked up by name here; nil means policy.All(). A name that is
	// missing makes the experiment fail.
	Policies []mm.Policy
	// Schedules bounds each search; zero means DefaultSchedules.
	Schedules uint64
	// Deep goes on where a sample has not answered what is asked, with every schedule that has at
	// most two preemptions; at most one, where a claim asks all policies the same of a longer program.
	Deep bool
	// Limit ends each search of all schedules after so many with Deep: the evidence then says that it
	// did not end, and what is left. Zero means DefaultLimit.
	Limit uint64
	// Seed numbers the searches; zero means 1.
	Seed uint64
	// Workers is how many host threads search; zero means one for each core.
	Workers int
}

// DefaultSchedules is the bound of a search that does not say.
const DefaultSchedules = 600

// DefaultLimit is how many schedules a search of all takes that does not say.
const DefaultLimit = 300_000

// Settled is a claim with its result.
type Settled struct {
	Claim  `json:"-"`
	ID     string `json:"id"`
	Who    string `json:"who"`
	Lines  string `json:"lines"`
	Says   string `json:"claim"`
	Ran    string `json:"ran"`
	Bound  string `json:"bound"`
	Result `json:"result"`
	// Error is why there is no verdict; empty if there is.
	Error string `json:"error,omitempty"`
}

// Run settles claims one after the other. When ctx ends it returns what it has, with
// ctx's error. progress, which may be nil, is told before each, and how far it is; and again
// and again during long searches, from the goroutine of Run.
func Run(ctx context.Context, cs []Claim, o Options, progress func(id string, done float64)) ([]Settled, error) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	l := newLab(ctx, o, hosts)
	var out []Settled
	for i, c := range cs {
		if progress != nil {
			part := float64(i) / float64(len(cs))
			progress(c.ID, part)
			l.tell = func(what string) { progress(c.ID+": "+what, part) }
		}
		s := settle(l, c)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		out = append(out, s)
	}
	return out, nil
}

// settle runs one claim. What makes an experiment impossible is a panic of the lab.
func settle(l *Lab, c Claim) (s Settled) {
	s = Settled{Claim: c, ID: c.ID, Who: c.Who, Lines: c.Lines, Says: c.Says, Ran: c.Ran}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			s.Error = r.Error()
		default:
			panic(r)
		}
	}()
	l.made = nil
	s.Result = c.Settle(l)
	s.Bound = bounds(l.made, &l.o)
	if s.Verdict == NotFound {
		on := s.Bound + "; " + s.On
		if !l.o.Deep {
			on = "in " + on
		}
		s.On = strings.TrimSuffix(on, "; ")
	}
	return s
}

// failure is why an experiment could not be made.
type failure struct{ error }

func fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
