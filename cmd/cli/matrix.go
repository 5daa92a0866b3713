package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

func runMatrix(e *env, args []string) error {
	var races []string
	for _, w := range workload.Races() {
		races = append(races, w.Name)
	}
	fs := newFlags(e, "matrix", "[flags]", fmt.Sprintf(`Run every policy on every workload and print a table of verdicts.

The overview has a line for each policy and a column for each group of workloads, and
beneath it what the policy costs there, compared with stock. With -v,
or if -policies, -workloads or -groups leave something out, there is a table for each
group, and the evidence for every cell: what was seen, the token that replays it, or how
far was searched.

Each cell is searched with so many schedules of the workload's small form; -parallel also
runs its default size in the parallel regime, which cannot be replayed. A cell is "safe"
only as far as its bound says: so many schedules, or, where they are few, all with at most one
preemption besides. 200 schedules of all cells take a minute on two cores. 2000
take ten minutes and find some more of what is rare: races of gup-fast with fork
or reclaim, of which one schedule in a thousand shows something. -preemptions 1 is
exhaustive within its bound, for some cells at a time.

The races of one page, which are for exhaustive searches, are not in the table:
%s.
-workloads with their names runs them; -preemptions 1 then ends in a second or two.

Interrupted by Ctrl-C, it prints what was found so far and exits with 3.`, strings.Join(races, ", ")),
		"cowlab matrix -format json > known.json",
		"cowlab matrix -from known.json -policies pg_gup",
		"cowlab matrix -expect known.json",
		"cowlab matrix -groups swap,hugetlb -policies dio_pin",
		"cowlab matrix -workloads read_fork,write_store -preemptions 1",
		"cowlab matrix -costs -schedules 50 -workloads forkscrew",
		"cowlab matrix -policies pg_gup -workloads forkscrew -schedules 20000 -seed 7")
	policies := fs.String("policies", "", "comma-separated `names`; default all")
	workloads := fs.String("workloads", "", "comma-separated `names`; default all")
	groups := fs.String("groups", "", "comma-separated `names` or their beginnings; default all (forward race, reverse race, disclosure, swap, hugetlb, other users, semantics, liveness)")
	verbose := fs.Bool("v", false, "print a table for each group and the evidence for every cell, and not the overview")
	form := fs.String("format", "text", "text, md or json")
	schedules := fs.Int("schedules", 200, "schedules of the small form for each cell; a quarter of it for huge pages, which take longer")
	preemptions := fs.Int("preemptions", -1, "search instead every schedule with at most so many preemptions; 1 takes a second a cell, 2 some minutes")
	complete := fs.Uint64("complete", 100, "search a cell that is safe also with every schedule of at most one preemption, if there are no more than so many")
	seed := fs.Uint64("seed", 1, "numbers the search; the same seed searches the same schedules")
	par := fs.Int("parallel", 0, "runs of the default size in the parallel regime for each cell; 1 for all cells takes some minutes")
	costs := fs.Bool("costs", false, "show also what each cell's small form takes in the timed regime: atomics, fences, line transfers, page copies, faults, interrupts, memory, virtual ns, the longest fork")
	from := fs.String("from", "", "run nothing: print the table in a `file` written with -format json")
	expect := fs.String("expect", "", "compare the verdicts with those in a `file` written with -format json; exit 1 if they differ")
	workers := fs.Int("workers", 0, "host threads that search; 0 means one for each core")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	if err := oneOf("format", *form, "text", "md", "json"); err != nil {
		return err
	}
	if *schedules < 0 || *par < 0 {
		return usagef("-schedules and -parallel must not be negative")
	}
	if err := checkWorkers(*workers); err != nil {
		return err
	}
	if *preemptions < -1 || *preemptions > 100 {
		return usagef("-preemptions is %d, must be 0 to 100", *preemptions)
	}
	if *schedules == 0 && *par == 0 && *preemptions < 0 {
		return usagef("-schedules 0 and -parallel 0 together leave nothing to run")
	}
	if *from != "" {
		if name := firstGiven(fs, "schedules", "preemptions", "complete", "seed", "parallel", "workers"); name != "" {
			return usagef("-%s is for a search, and -from runs nothing", name)
		}
	}
	ps, err := e.choosePolicies(*policies)
	if err != nil {
		return err
	}
	ws, err := chooseWorkloads(*workloads)
	if err != nil {
		return err
	}
	gs, err := chooseGroups(*groups)
	if err != nil {
		return err
	}
	if len(workload.Columns(ws, gs)) == 0 {
		return usagef("-workloads %s has nothing in -groups %s", *workloads, *groups)
	}
	var want *matrix.Table
	if *expect != "" {
		if want, err = readTable("expect", *expect); err != nil {
			return err
		}
	}
	var t *matrix.Table
	if *from != "" {
		if t, err = readTable("from", *from); err != nil {
			return err
		}
		if t, err = t.Only(listed(*policies), listed(*workloads), gs); err != nil {
			return usagef("-from %s: %v", *from, err)
		}
	} else {
		defer debug.SetGCPercent(debug.SetGCPercent(400)) // a schedule's garbage is small and short-lived
		bar := newProgress(e)
		t, err = matrix.Run(e.ctx, matrix.Options{
			Policies: ps, Workloads: ws, Groups: gs, Schedules: *schedules, Seed: *seed, Parallel: *par, Workers: *workers,
			Exhaustive: *preemptions >= 0, Preemptions: max(*preemptions, 0), Complete: *complete, Costs: *costs, RowCosts: true, Progress: bar.show,
		})
		bar.clear()
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	var werr error
	switch *form {
	case "json":
		werr = t.WriteJSON(e.stdout)
	case "md":
		werr = t.WriteMarkdown(e.stdout)
	default:
		detail := *verbose || t.Small() || *policies+*workloads+*groups != ""
		werr = t.WriteText(e.stdout, detail)
		if werr == nil && !detail {
			_, werr = fmt.Fprintln(e.stdout, "\ncowlab matrix -v shows every column, cowlab matrix -policies NAME what there is of one policy.")
		}
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

// readTable reads a stored table that a flag names.
func readTable(flag, path string) (*matrix.Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("-%s: %v", flag, err)
	}
	t, err := matrix.ReadJSON(f)
	f.Close()
	if err != nil {
		return nil, usagef("-%s %s: %v", flag, path, err)
	}
	return t, nil
}

// listed are the names in a list.
func listed(s string) (out []string) {
	for _, name := range strings.Split(s, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// chooseGroups reads a list of groups, each by its name or the beginning of it.
func chooseGroups(s string) (out []string, err error) {
	for _, name := range listed(s) {
		n := len(out)
		for _, g := range workload.Groups() {
			if strings.HasPrefix(g, strings.ToLower(name)) {
				out = append(out, g)
			}
		}
		if len(out) != n+1 {
			return nil, usagef("-groups: %q%s: must begin one of %s", name, didYouMean(name, workload.Groups()), strings.Join(workload.Groups(), ", "))
		}
	}
	return out, nil
}
