package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/claims"
	"github.com/cowlab/cowlab/tests/matrix"
)

func runClaims(e *env, args []string) error {
	fs := newFlags(e, "claims", "[flags] [ID...]", `Settle the thread's disputes by experiment: what was said, what was run, whether it is so.

Races are searched with a bounded number of schedules. With -deep, what none of them answers
is searched in every schedule with at most two preemptions (one, where a claim asks all
policies the same of a longer program), and the verdict says "exhaustive" with the counts. A
search that comes to -limit says that it has not ended, how far it came and what is left. A
device that acts before its turn, which is when no CPU can go on, is a preemption too.

Costs are counted in the timed regime; a comparison of times counts only if it survives
each constant of the cost model being varied by half either way.

Ctrl-C ends it with the claims that have been settled.

Exit codes: 0 if every claim has a verdict, 1 if an experiment could not be made.`,
		"cowlab claims -list",
		"cowlab claims C16",
		"cowlab claims -format json")
	form := fs.String("format", "text", "text or json")
	schedules := fs.Uint64("schedules", claims.DefaultSchedules, "schedules of each search")
	deep := fs.Bool("deep", false, "go on with every schedule that has at most two preemptions; all claims take about ten minutes on two idle cores")
	limit := fs.Uint64("limit", claims.DefaultLimit, "with -deep: end each search of all schedules after so many, and say so")
	seed := fs.Uint64("seed", 1, "numbers the searches; the same seed searches the same schedules")
	workers := fs.Int("workers", 0, "host threads that search; 0 means one for each core")
	list := fs.Bool("list", false, "list the claims, and run nothing")
	draw := fs.Bool("draw", false, "minimise and draw the first schedule of each claim that has one; the default if one claim is named")
	ids, err := parse(fs, args, 1000)
	if err != nil {
		return err
	}
	if err := oneOf("format", *form, "text", "json"); err != nil {
		return err
	}
	if !given(fs, "draw") {
		*draw = len(ids) == 1
	}
	if *schedules == 0 || *limit == 0 {
		return usagef("-schedules and -limit must be positive")
	}
	if err := checkWorkers(*workers); err != nil {
		return err
	}
	if given(fs, "limit") && !*deep {
		return usagef("-limit bounds the searches of -deep, which is not given")
	}
	chosen := claims.All()
	if len(ids) > 0 {
		if chosen, err = chooseClaims(ids); err != nil {
			return err
		}
	}
	if *list && *form != "text" {
		return usagef("-list prints text, and -format is for results")
	}
	if *list {
		return claims.WriteList(e.stdout, chosen)
	}
	bar := newProgress(e)
	settled, err := claims.Run(e.ctx, chosen, claims.Options{
		Policies: e.policies, Schedules: *schedules, Deep: *deep, Limit: *limit, Seed: *seed, Workers: *workers,
	}, bar.show)
	bar.clear()
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			return err
		}
		fmt.Fprintf(e.stderr, "cowlab: in %s; %d of %d claims are settled\n", chosen[len(settled)].ID, len(settled), len(chosen))
	}
	var werr error
	if *form == "json" {
		werr = claims.WriteJSON(e.stdout, settled)
	} else {
		werr = claims.WriteText(e.stdout, settled)
	}
	if err = errors.Join(err, werr); err != nil {
		return err
	}
	for _, s := range settled {
		if s.Error != "" {
			return fmt.Errorf("%s: %s: %w", s.ID, s.Error, errDiffer)
		}
		if *draw && *form == "text" {
			if err := e.drawClaim(&s); err != nil {
				return err
			}
		}
	}
	return nil
}

// given reports whether a flag stood on the command line.
func given(fs *flag.FlagSet, name string) (yes bool) {
	fs.Visit(func(f *flag.Flag) { yes = yes || f.Name == name })
	return yes
}

// drawClaim minimises and draws the first schedule among a claim's evidence.
func (e *env) drawClaim(s *claims.Settled) error {
	i := slices.IndexFunc(s.Evidence, func(ev claims.Evidence) bool { return ev.Token != "" })
	if i < 0 {
		return nil
	}
	tok, err := explore.ParseToken(s.Evidence[i].Token)
	if err != nil {
		return err
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	sch := &schedule{tok: tok, hosts: hosts}
	if sch.named, err = e.resolve(tok, hosts); err != nil {
		return err
	}
	if err := e.minimise(sch); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout)
	e.showRun(sch, sch.target.Run(sch.tok.Spec.Strategy(), nil), 1)
	e.showStory(matrix.Tell(sch.target, sch.tok.Spec), explore.DiagramOptions{NoHead: true})
	return nil
}

// chooseClaims finds claims by their numbers, in the order given.
func chooseClaims(ids []string) ([]claims.Claim, error) {
	var names []string
	for _, c := range claims.All() {
		names = append(names, c.ID)
	}
	var out []claims.Claim
	for _, id := range ids {
		c := claims.Lookup(id)
		if c == nil {
			return nil, usagef("unknown claim %q%s; there are %s to %s", id, didYouMean(id, names), names[0], names[len(names)-1])
		}
		out = append(out, *c)
	}
	return out, nil
}
