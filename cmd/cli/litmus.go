package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/spec"
)

func runLitmus(e *env, args []string) error {
	fs := newFlags(e, "litmus", "FILE|NAME... [flags]", `Run scenarios under every policy, over many schedules, and print the final states as
litmus tests do: how often each was seen, "*>" before those in which the condition holds.

A scenario is a shipped one's name (-list shows them), a file that ends in `+scenarios.Suffix+`, a
random program's name (spec-17 is that of seed 17), or "all" for all that ship. "go doc ./tests/scenarios" explains the format.

Exit code 1 if a policy does not do what the scenario expects of it; where it expects
nothing of a policy, if the condition is not true.`,
		"cowlab litmus S1",
		"cowlab litmus S1 -print > mine.litmus",
		"cowlab litmus mine.litmus -policies stock,pg_gup -schedules 5000",
		"cowlab litmus S7 -policies pg_gup -preemptions 1",
		"cowlab litmus all -format short")
	policies := fs.String("policies", "", "comma-separated `names`; default all")
	schedules := fs.Uint64("schedules", 0, "schedules for each policy; 0 means as many as the scenario asks for, 100 if it does not")
	preemptions := fs.Int("preemptions", -1, "run instead every schedule with at most so many preemptions")
	seed := fs.Uint64("seed", 1, "numbers the search; the same seed searches the same schedules")
	workers := fs.Int("workers", 0, "host threads that search; 0 means one for each core")
	form := fs.String("format", "text", "text, short (a line for each policy) or json")
	list := fs.Bool("list", false, "list the scenarios that ship and stop")
	print := fs.Bool("print", false, "print the scenarios in their canonical form and stop")
	shrink := fs.Bool("shrink", false, "print the fewest operations that still tell each policy of -policies from one under which the condition never holds")
	pos, err := parse(fs, args, 1<<10)
	if err != nil {
		return err
	}
	if *list && given(fs, "format") {
		return usagef("-list prints text, and -format is for results")
	}
	if *list {
		return listScenarios(e)
	}
	if len(pos) == 0 {
		return usagef("litmus wants scenarios: files, names (cowlab litmus -list shows them) or all")
	}
	if err := oneOf("format", *form, "text", "short", "json"); err != nil {
		return err
	}
	if *preemptions < -1 || *preemptions > 100 {
		return usagef("-preemptions is %d, must be 0 to 100", *preemptions)
	}
	if err := checkWorkers(*workers); err != nil {
		return err
	}
	if *schedules > 1<<40 {
		return usagef("-schedules is %d, must be at most %d", *schedules, 1<<40)
	}
	ps, err := e.choosePolicies(*policies)
	if err != nil {
		return err
	}
	chosen, err := chooseScenarios(pos)
	if err != nil {
		return err
	}
	if *print {
		for i, s := range chosen {
			if i > 0 {
				fmt.Fprintln(e.stdout)
			}
			fmt.Fprint(e.stdout, s.Print())
		}
		return nil
	}
	e.warnExpects(chosen)
	st := scenarios.Strategy{Schedules: *schedules, Seed: *seed, Exhaustive: *preemptions >= 0, Preemptions: max(*preemptions, 0), Workers: *workers}
	if *shrink {
		return e.shrinkScenarios(chosen, ps, st)
	}
	return e.observe(chosen, ps, st, *form)
}

// observe runs scenarios and prints what was seen.
func (e *env) observe(chosen []*scenarios.Scenario, ps []mm.Policy, st scenarios.Strategy, form string) error {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	bar := newProgress(e)
	all := []*scenarios.Observed{}
	var diffs []string
	var ended error
	total := len(chosen) * len(ps)
	for i, s := range chosen {
		for k, p := range ps {
			done := i*len(ps) + k
			what := fmt.Sprintf("%s on %s", p.Name(), s.Name)
			st.Progress = func(part float64) { bar.show(what, (float64(done)+part)/float64(total)) }
			o, err := s.Observe(e.ctx, p, hosts, st)
			bar.clear()
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			ended = err
			if o != nil {
				all = append(all, o)
				if !o.Ok {
					diffs = append(diffs, o.Difference())
				}
				if err := printObserved(e, o, form, len(all) == 1); err != nil {
					return err
				}
			}
			if ended != nil {
				break
			}
		}
		if ended != nil {
			break
		}
	}
	if form == "json" {
		if err := scenarios.WriteJSON(e.stdout, all); err != nil {
			return err
		}
	}
	if ended != nil {
		return ended
	}
	if len(diffs) > 0 {
		return fmt.Errorf("%w in %d of %d tests:\n  %s", errDiffer, len(diffs), len(all), strings.Join(diffs, "\n  "))
	}
	return nil
}

func printObserved(e *env, o *scenarios.Observed, form string, first bool) error {
	switch form {
	case "json":
		return nil
	case "short":
		return o.WriteShort(e.stdout)
	}
	if !first {
		fmt.Fprintln(e.stdout)
	}
	return o.WriteText(e.stdout)
}

// shrinkScenarios prints, for each policy under which the condition is seen to hold, the
// fewest operations that tell it from a policy under which it is not.
func (e *env) shrinkScenarios(chosen []*scenarios.Scenario, ps []mm.Policy, st scenarios.Strategy) error {
	if st.Exhaustive {
		return usagef("-shrink and -preemptions do not go together")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	bar := newProgress(e)
	for _, s := range chosen {
		var safe mm.Policy
		for _, p := range e.policies {
			o, err := s.Observe(e.ctx, p, hosts, st)
			if err != nil {
				return err
			}
			if o.Positive == 0 && len(o.Also) == 0 {
				safe = p
				break
			}
		}
		if safe == nil {
			return usagef("%s: the condition holds under every policy at times: nothing tells which operations matter", s.Name)
		}
		for _, p := range ps {
			if p.Name() == safe.Name() {
				continue
			}
			st.Progress = func(part float64) { bar.show(fmt.Sprintf("shrinking %s under %s", s.Name, p.Name()), part) }
			least, err := s.Minimise(e.ctx, p, safe, hosts, st)
			bar.clear()
			switch {
			case e.ctx.Err() != nil:
				return e.ctx.Err()
			case err != nil:
				fmt.Fprintf(e.stdout, "(* %v *)\n\n", err)
			default:
				fmt.Fprintf(e.stdout, "(* %s tells %s from %s. *)\n%s\n", s.Name, p.Name(), safe.Name(), least.Print())
			}
		}
	}
	return nil
}

// chooseScenarios looks scenarios up by name or file.
func chooseScenarios(names []string) ([]*scenarios.Scenario, error) {
	var out []*scenarios.Scenario
	for _, n := range names {
		if n == "all" {
			all, err := scenarios.All()
			if err != nil {
				return nil, err
			}
			out = append(out, all...)
			continue
		}
		s, err := findScenario(n)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// warnExpects says which expect lines of files name no policy: a slip of the pen there would
// not be noticed. It is no error, since the file may be meant for a command with more policies.
func (e *env) warnExpects(all []*scenarios.Scenario) {
	names := policyNames(e.policies)
	for _, s := range all {
		if s.File() == "" {
			continue
		}
		for _, x := range s.Expects {
			if n := x.Policy; !slices.Contains(names, n.Text) {
				fmt.Fprintf(e.stderr, "cowlab: %s:%d:%d: there is no policy %q%s; this line expects nothing\n",
					s.File(), n.Pos.Line, n.Pos.Col, n.Text, didYouMean(n.Text, names))
			}
		}
	}
}

// findScenario looks a scenario up: a file if it is called like one, else a shipped one.
func findScenario(name string) (*scenarios.Scenario, error) {
	name = strings.TrimPrefix(name, scenarioPrefix)
	if strings.HasSuffix(name, scenarios.Suffix) {
		s, err := scenarios.Load(name)
		if err != nil {
			return nil, usagef("%v", err)
		}
		return s, nil
	}
	if seed, ok := spec.Seed(name); ok {
		p, err := spec.Random(seed)
		if err != nil {
			return nil, err
		}
		return p.Scenario(), nil
	}
	names := scenarios.Names()
	for _, n := range names {
		if n != name {
			continue
		}
		s, err := scenarios.Lookup(name)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
		return nil, usagef("scenario files end in %s, %q does not", scenarios.Suffix, name)
	}
	return nil, usagef("unknown scenario %q%s; cowlab litmus -list shows them, files end in %s", name, didYouMean(name, names), scenarios.Suffix)
}

func listScenarios(e *env) error {
	all, err := scenarios.All()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SCENARIO\tWHAT")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%s\n", s.Name, s.Doc)
	}
	return w.Flush()
}
