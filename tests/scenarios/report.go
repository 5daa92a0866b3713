package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
)

// Strategy says how a scenario's schedules are searched. Another way to search is another
// field here and a case in search. One that leaves out schedules as equivalent to others has
// to know that hold, release and functions in a column (r = refs(A)) concern the whole
// machine, though they have no schedule point.
type Strategy struct {
	// Schedules is how many schedules of the portfolio are run, zero means as many as the
	// scenario says; Seed numbers them.
	Schedules uint64
	Seed      uint64
	// Exhaustive runs every schedule with at most Preemptions preemptions instead.
	Exhaustive  bool
	Preemptions int
	// Workers is how many host threads search; zero means GOMAXPROCS.
	Workers int
	// Progress, if not nil, is called now and then with how far the search is, 0 to 1.
	Progress func(done float64)
}

// search runs the schedules, and says in words which.
func (st Strategy) search(ctx context.Context, t *explore.Target) (*explore.Report, string, error) {
	progress := func(done float64) {
		if st.Progress != nil {
			st.Progress(done)
		}
	}
	if st.Exhaustive {
		rep, err := explore.Exhaust(ctx, *t, explore.ExhaustOptions{
			Preemptions: st.Preemptions, Workers: st.Workers,
			Progress: func(c explore.Covered) { progress(c.Share) },
		})
		if err != nil {
			return nil, "", err
		}
		bound := fmt.Sprintf("all %d schedules with at most %d preemptions", rep.Schedules, rep.Preemptions)
		if !rep.Complete {
			bound = fmt.Sprintf("interrupted after %d schedules", rep.Schedules)
		}
		return &rep.Report, bound, nil
	}
	rep, err := explore.Search(ctx, *t, explore.Options{
		Schedules: st.Schedules, Seed: st.Seed, Workers: st.Workers, Every: 100,
		Progress: func(p explore.Progress) { progress(float64(p.Done) / float64(p.Planned)) },
	})
	if err != nil {
		return nil, "", err
	}
	bound := fmt.Sprintf("%d schedules of %d points (median)", rep.Schedules, rep.StepsMedian)
	if rep.Interrupted {
		bound = fmt.Sprintf("interrupted after %d schedules", rep.Schedules)
	}
	return rep, bound, nil
}

// Observed is what a search of a scenario under a policy showed.
type Observed struct {
	Scenario string `json:"scenario"`
	Policy   string `json:"policy"`
	// Condition is the condition with its quantifier.
	Condition string `json:"condition"`
	// States are the final states, the frequent ones first.
	States []StateCount `json:"states"`
	// Positive and Negative count the runs in which the condition held, and did not.
	Positive uint64 `json:"positive"`
	Negative uint64 `json:"negative"`
	// Observation is Never, Sometimes or Always: how often the condition held.
	Observation string `json:"observation"`
	// Also are the verdicts other than a natural end that runs came to.
	Also []string `json:"also"`
	// Bound says how far was searched.
	Bound string `json:"bound"`
	// Holds is set if the condition, with its quantifier, is true.
	Holds bool `json:"holds"`
	// Expected is what the scenario expects of the policy, or "" if it names it not. Ok is
	// set if that was observed; without it, if the condition is true and nothing else went
	// wrong.
	Expected string `json:"expected"`
	Ok       bool   `json:"ok"`
}

// StateCount is a final state, how many runs ended in it, a token of the first of them, and what
// there is to say about a state that is no natural end.
type StateCount struct {
	State    string `json:"state"`
	Positive bool   `json:"positive"`
	Runs     uint64 `json:"runs"`
	Token    string `json:"token"`
	Detail   string `json:"detail,omitempty"`
}

// Observe searches a scenario under a policy. When ctx ends, it returns what was found so
// far with ctx's error.
func (s *Scenario) Observe(ctx context.Context, p mm.Policy, hosts *kernel.Hosts, st Strategy) (*Observed, error) {
	if st.Schedules == 0 {
		st.Schedules = s.schedules()
	}
	rep, bound, err := st.search(ctx, s.Target(p, hosts))
	if err != nil {
		return nil, err
	}
	o := &Observed{
		Scenario: s.Name, Policy: p.Name(), Condition: fmt.Sprintf("%s %s", s.Cond.Quant, s.Cond), Bound: bound,
		States: []StateCount{}, Also: []string{},
	}
	for _, w := range rep.Witnesses {
		n := rep.ByVerdict[w.Verdict]
		if w.Verdict == explore.Panicked {
			return nil, fmt.Errorf("%s under %s: %s (%s)", s.Name, p.Name(), w.Detail, w.Token)
		}
		sc := StateCount{State: StateOf(w.Verdict), Positive: Positive(w.Verdict), Runs: n, Token: w.Token.String()}
		if sc.Positive {
			o.Positive += n
		} else {
			o.Negative += n
		}
		for _, e := range endings(sc.State) {
			sc.Detail = w.Detail
			if !slices.Contains(o.Also, e) {
				o.Also = append(o.Also, e)
			}
		}
		o.States = append(o.States, sc)
	}
	slices.Sort(o.Also)
	slices.SortStableFunc(o.States, func(a, b StateCount) int {
		switch {
		case a.Positive != b.Positive && a.Positive:
			return -1
		case a.Positive != b.Positive:
			return 1
		case a.Runs != b.Runs:
			return int(int64(b.Runs) - int64(a.Runs))
		}
		return strings.Compare(a.State, b.State)
	})
	switch {
	case o.Positive == 0:
		o.Observation = "Never"
	case o.Negative == 0:
		o.Observation = "Always"
	default:
		o.Observation = "Sometimes"
	}
	s.judge(o)
	return o, ctx.Err()
}

// schedules is how many schedules are searched if nobody says.
func (s *Scenario) schedules() uint64 {
	if s.Search != 0 {
		return s.Search
	}
	return DefaultSchedules
}

// judge compares with what the scenario expects of the policy; where it names the policy
// not, the condition itself must be true, and nothing else must go wrong.
func (s *Scenario) judge(o *Observed) {
	switch s.Cond.Quant {
	case Never:
		o.Holds = o.Positive == 0
	case Sometimes:
		o.Holds = o.Positive > 0
	default:
		o.Holds = o.Negative == 0
	}
	for _, e := range s.Expects {
		if e.Policy.Text != o.Policy {
			continue
		}
		var also []string
		for _, a := range e.Also {
			also = append(also, a.Text)
		}
		slices.Sort(also)
		o.Expected = strings.TrimSpace(title(string(e.Quant)) + " " + strings.Join(also, " "))
		o.Ok = o.Observation == title(string(e.Quant)) && slices.Equal(also, o.Also)
		return
	}
	inCondition := map[string]bool{}
	eachTerm(s.Cond.Expr, func(t *Term) { inCondition[t.Func] = true })
	o.Ok = o.Holds
	for _, a := range o.Also {
		o.Ok = o.Ok && inCondition[a]
	}
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// WriteText prints an observation as litmus7 does.
func (o *Observed) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Test %s under %s\nHistogram (%d states)\n", o.Scenario, o.Policy, len(o.States))
	for _, s := range o.States {
		mark := negative
		if s.Positive {
			mark = positive
		}
		fmt.Fprintf(&b, "%-8d%s%s\n", s.Runs, mark, s.State)
	}
	fmt.Fprintf(&b, "%s\nWitnesses\nPositive: %d, Negative: %d\nCondition %s\n", okText(o.Holds), o.Positive, o.Negative, o.Condition)
	fmt.Fprintf(&b, "Observation %s %s %d %d\n", o.Scenario, o.Observation, o.Positive, o.Negative)
	switch {
	case o.Expected != "" && o.Ok:
		fmt.Fprintf(&b, "Expected %s\n", o.Expected)
	case o.Expected != "":
		fmt.Fprintf(&b, "Expected %s, which is not what was observed\n", o.Expected)
	}
	if len(o.Also) > 0 {
		fmt.Fprintf(&b, "Endings %s\n", strings.Join(o.Also, " "))
	}
	fmt.Fprintf(&b, "Searched %s\n", o.Bound)
	for _, s := range o.States {
		if s.Positive || s.Detail != "" {
			line, _, _ := strings.Cut(s.Detail, "\n")
			if line != "" {
				line = "  # " + line
			}
			fmt.Fprintf(&b, "  cowlab replay %s%s\n", s.Token, line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteShort prints an observation in a line: herd's, with the policy behind the name.
func (o *Observed) WriteShort(w io.Writer) error {
	line := fmt.Sprintf("Observation %-24s %-14s %-9s %6d %6d  %s", o.Scenario, o.Policy, o.Observation, o.Positive, o.Negative, okText(o.Holds))
	for _, a := range o.Also {
		line += " " + a
	}
	if !o.Ok {
		line += "  (not what was expected)"
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func okText(ok bool) string {
	if ok {
		return "Ok"
	}
	return "No"
}

// Difference says in a line what was observed and what was expected.
func (o *Observed) Difference() string {
	want := o.Expected
	if want == "" {
		want = "that " + o.Condition
	}
	return fmt.Sprintf("%s under %s: observed %s, expected %s", o.Scenario, o.Policy,
		strings.TrimSpace(o.Observation+" "+strings.Join(o.Also, " ")), want)
}

// WriteJSON prints observations as one JSON object.
func WriteJSON(w io.Writer, all []*Observed) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Tests []*Observed `json:"tests"`
	}{all})
}
