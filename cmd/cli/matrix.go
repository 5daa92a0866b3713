package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cowlab/cowlab/tests/matrix"
)

func runMatrix(e *env, args []string) error {
	fs := newFlags(e, "matrix", "[flags]", `Run every policy on every workload and print a table of verdicts with evidence.

Each cell is searched with many schedules of the workload's small form, which can be
replayed, and run in its default size in the parallel regime, which cannot. A cell is
"safe" only as far as its bound says.

Interrupted by Ctrl-C, it prints what was found so far and exits with 3.`,
		"cowlab matrix -format json > known.json",
		"cowlab matrix -expect known.json",
		"cowlab matrix -costs -schedules 50 -parallel 0 -workloads forkscrew",
		"cowlab matrix -policies pg_gup -workloads forkscrew -schedules 20000 -parallel 0 -seed 7")
	policies := fs.String("policies", "", "comma-separated `names`; default all")
	workloads := fs.String("workloads", "", "comma-separated `names`; default all")
	form := fs.String("format", "text", "text, md or json")
	schedules := fs.Int("schedules", 500, "schedules of the small form for each cell")
	preemptions := fs.Int("preemptions", -1, "search instead every schedule with at most so many preemptions; 1 takes a second a cell, 2 some minutes")
	seed := fs.Uint64("seed", 1, "numbers the search; the same seed searches the same schedules")
	par := fs.Int("parallel", 1, "runs of the default size in the parallel regime for each cell")
	costs := fs.Bool("costs", false, "show also what each cell's small form takes in the timed regime: atomics, fences, line transfers, page copies, faults, interrupts, virtual ns")
	expect := fs.String("expect", "", "compare the verdicts with those in a `file` written with -format json; exit 1 if they differ")
	workers := fs.Int("workers", 0, "host threads that search; 0 means one for each core")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	if err := oneOf("format", *form, "text", "md", "json"); err != nil {
		return err
	}
	if *schedules < 0 || *par < 0 || *workers < 0 {
		return usagef("-schedules, -parallel and -workers must not be negative")
	}
	if *preemptions < -1 || *preemptions > 100 {
		return usagef("-preemptions is %d, must be 0 to 100", *preemptions)
	}
	if *schedules == 0 && *par == 0 && *preemptions < 0 {
		return usagef("-schedules 0 and -parallel 0 together leave nothing to run")
	}
	ps, err := e.choosePolicies(*policies)
	if err != nil {
		return err
	}
	ws, err := chooseWorkloads(*workloads)
	if err != nil {
		return err
	}
	var want *matrix.Table
	if *expect != "" {
		f, err := os.Open(*expect)
		if err != nil {
			return usagef("-expect: %v", err)
		}
		want, err = matrix.ReadJSON(f)
		f.Close()
		if err != nil {
			return usagef("-expect %s: %v", *expect, err)
		}
	}
	bar := newProgress(e)
	t, err := matrix.Run(e.ctx, matrix.Options{
		Policies: ps, Workloads: ws, Schedules: *schedules, Seed: *seed, Parallel: *par, Workers: *workers,
		Exhaustive: *preemptions >= 0, Preemptions: max(*preemptions, 0), Costs: *costs, Progress: bar.show,
	})
	bar.clear()
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	var werr error
	switch *form {
	case "json":
		werr = t.WriteJSON(e.stdout)
	case "md":
		werr = t.WriteMarkdown(e.stdout)
	default:
		werr = t.WriteText(e.stdout)
	}
	if err = errors.Join(err, werr); err != nil {
		return err
	}
	if want != nil {
		if diffs := t.Differences(want); len(diffs) > 0 {
			return fmt.Errorf("%w in %d of %d cells:\n  %s", errDiffer, len(diffs), len(t.Cells), strings.Join(diffs, "\n  "))
		}
	}
	return nil
}
