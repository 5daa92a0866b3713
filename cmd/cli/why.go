package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

func runWhy(e *env, args []string) error {
	fs := newFlags(e, "why", "WORKLOAD -policy P", `Say why a workload is safe under a policy: the nearest miss.

The schedule in which the workload goes wrong under another policy (-against, as a rule
stock) is looked for, minimised, and made under this one, at the places where the same
things happen. What is printed is how far it came, and which operation of the policy then
stood in its way. That explains one schedule; it proves nothing about others.`,
		"cowlab why forkscrew -policy pg_gup",
		"cowlab why dma_thread -policy directio_sem -params forks=1")
	policy := fs.String("policy", "", "the `policy` that is safe")
	against := fs.String("against", "stock", "the `policy` that is not")
	params := fs.String("params", "", "parameters of the workload's small form, as `a=0,w=3`")
	schedules := fs.Uint64("schedules", 2000, "how many schedules to search for a witness")
	seed := fs.Uint64("seed", 1, "number of the search")
	draw := fs.Bool("diagram", true, "draw the nearest miss")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 || *policy == "" {
		return usagef("why wants a workload and -policy")
	}
	w, err := findWorkload(pos[0])
	if err != nil {
		return err
	}
	v, err := w.Parse(*params, true)
	if err != nil {
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
	return e.whySafe(w, v, p, other, explore.WhyOptions{Schedules: *schedules, Seed: *seed}, *draw)
}

// whySafe prints the nearest miss of a workload under policy p that goes wrong under
// another one. The error is errDiffer's if p is not safe.
func (e *env) whySafe(w *workload.Workload, v workload.Values, p, against mm.Policy, o explore.WhyOptions, draw bool) error {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	bar := newProgress(e)
	bar.show("looking for a witness under "+against.Name(), 0)
	n, err := matrix.WhySafe(e.ctx, w, v, p, against, hosts, o)
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
	fmt.Fprintf(e.stdout, "%s under %s: safe in the nearest miss that was found.\n\n", title(w, v), p.Name())
	n.Write(e.stdout)
	if draw {
		near := &matrix.Story{Story: n.Near}
		fmt.Fprintf(e.stdout, "\n%s\n\n%s", strings.TrimSpace(near.Legend), near.Diagram(explore.DiagramOptions{NoHead: true}))
	}
	return nil
}
