package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
)

func runWhy(e *env, args []string) error {
	fs := newFlags(e, "why", "WORKLOAD|SCENARIO -policy P", `Say why a workload or a scenario is safe under a policy: the nearest miss.

The schedule in which it goes wrong under another policy (-against, as a rule
stock) is looked for, minimised, and made under this one, at the places where the same
things happen. What is printed is how far it came, and which operation of the policy then
stood in its way. That explains one schedule; it proves nothing about others.

A scenario is named as for cowlab explore. It goes wrong where its condition holds (that of
"always": where it does not), and where it comes to no natural end.`,
		"cowlab why forkscrew -policy pg_gup",
		"cowlab why dma_thread -policy directio_sem -params forks=1",
		"cowlab why S1 -policy pg_gup")
	policy := fs.String("policy", "", "the `policy` that is safe")
	against := fs.String("against", "stock", "the `policy` that is not")
	params := fs.String("params", "", "parameters of the workload's small form, as `a=0,w=3`; a scenario has tso, fail, races and reclaim")
	schedules := fs.Uint64("schedules", 2000, "how many schedules to search for a witness")
	seed := fs.Uint64("seed", 1, "number of the search")
	draw := fs.Bool("diagram", true, "draw the nearest miss")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 || *policy == "" {
		return usagef("why wants a workload or a scenario, and -policy")
	}
	prog, err := findProgram(pos[0])
	if err != nil {
		return err
	}
	if err := prog.parse(*params); err != nil {
		return usagef("%v", err)
	}
	p, err := e.findPolicy(*policy)
	if err != nil {
		return err
	}
	other, err := e.findPolicy(*against)
	if err != nil {
		return err
	}
	if *schedules == 0 {
		return usagef("-schedules must be at least 1")
	}
	return e.whySafe(prog, p, other, explore.WhyOptions{Schedules: *schedules, Seed: *seed}, *draw)
}

// whySafe prints the nearest miss of a program under policy p that goes wrong under
// another one. The error is errDiffer's if p is not safe.
func (e *env) whySafe(prog *searched, p, against mm.Policy, o explore.WhyOptions, draw bool) error {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	bar := newProgress(e)
	bar.show("looking for a witness under "+against.Name(), 0)
	n, err := matrix.WhyTargets(e.ctx, *prog.judged(against, hosts), *prog.judged(p, hosts), o)
	bar.clear()
	var unsafe *explore.Unsafe
	var nothing *explore.NoWitness
	switch {
	case errors.As(err, &unsafe):
		return fmt.Errorf("%w: %w", errDiffer, err)
	case errors.As(err, &nothing):
		fmt.Fprintf(e.stdout, "%v.\n", nothing)
		return nil
	case err != nil:
		return err
	}
	fmt.Fprintf(e.stdout, "%s under %s: safe in the nearest miss that was found.\n\n", prog.title(), p.Name())
	n.Write(e.stdout)
	if draw {
		near := &matrix.Story{Story: n.Near}
		fmt.Fprintf(e.stdout, "\n%s\n\n%s", strings.TrimSpace(near.Legend), near.Diagram(explore.DiagramOptions{NoHead: true}))
	}
	return nil
}
