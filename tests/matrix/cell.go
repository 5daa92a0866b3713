package matrix

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Cell is one policy on one workload.
type Cell struct {
	Policy   string `json:"policy"`
	Workload string `json:"workload"`
	// Params are the parameters that differ from the defaults, as "a=0".
	Params string `json:"params"`
	// Verdict is the gravest thing seen, Also the others.
	Verdict workload.Verdict   `json:"verdict"`
	Also    []workload.Verdict `json:"also"`
	// Bound says how far was searched.
	Bound string `json:"bound"`
	// Token replays the verdict; empty if it was only seen in the parallel regime, or
	// if there is nothing to replay.
	Token string `json:"token"`
	// Detail is the evidence.
	Detail string `json:"detail"`
	// Why says which step of 2.6.29 a failing cell of stock comes from, in tables that know.
	Why string `json:"why,omitempty"`
	// Costs are what the small form takes in the timed regime; nil if nobody asked.
	Costs *Costs `json:"costs,omitempty"`
	// Group is the group that the workload is in with these parameters.
	Group string `json:"group,omitempty"`
	// How says how the verdict was established.
	How How `json:"how,omitempty"`
	// Schedules is how many schedules were run, Hits in how many of them the verdict was
	// seen; of a safe cell it is not given.
	Schedules uint64 `json:"schedules,omitempty"`
	Hits      uint64 `json:"hits,omitempty"`
	// Preemptions is the bound of an exhaustive search; nil if it was another one.
	Preemptions *int `json:"preemptions,omitempty"`
}

// How says how a verdict was established.
type How string

// The ways.
const (
	Witness    How = "witness"    // there is a token that replays it
	Exhaustive How = "exhaustive" // no schedule within the bound shows anything, nor any of the others that were run
	Schedules  How = "schedules"  // none of so many schedules does
	Runs       How = "parallel"   // seen, or not seen, in the parallel regime only: there is no token
)

// Table is a result of the matrix.
type Table struct {
	Cells []Cell `json:"cells"`
	// Rows are the costs that a policy has of itself; empty if nobody asked.
	Rows []Row `json:"rows,omitempty"`
}

// Options say what to run. The zero value runs nothing.
type Options struct {
	Policies  []mm.Policy
	Workloads []*workload.Workload
	// Groups, if there are any, leave out the columns that are in none of them.
	Groups []string
	// Schedules is how many schedules of the small form each cell is searched with; those
	// of huge pages, where a schedule takes some times as long, with a quarter of it.
	Schedules int
	// Exhaustive searches every schedule with at most Preemptions preemptions instead.
	Exhaustive  bool
	Preemptions int
	// Complete is up to how many schedules a cell in which they show nothing is searched with
	// all that have at most one preemption as well; zero means not at all.
	Complete uint64
	// Seed numbers the searches: the same seed searches the same schedules.
	Seed uint64
	// Parallel is how often the default size is run in the parallel regime.
	Parallel int
	// Costs runs each cell's small form once in the timed regime too. That says what it
	// takes, and has no say in the verdict.
	Costs bool
	// RowCosts does that too, and keeps only the sums: Table.Rows.
	RowCosts bool
	// Workers is how many host threads search; zero means GOMAXPROCS.
	Workers int
	// Progress, if not nil, is told what is being done, and how far it is (0 to 1).
	Progress func(what string, done float64)
}

// Run fills the table. When ctx ends, it returns what was found so far with ctx's error.
func Run(ctx context.Context, o Options) (*Table, error) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	type job struct {
		v workload.Variant
		p mm.Policy
	}
	var jobs []job
	for _, v := range workload.Columns(o.Workloads, o.Groups) {
		for _, p := range o.Policies {
			jobs = append(jobs, job{v, p})
		}
	}
	t := &Table{Cells: []Cell{}}
	for i, j := range jobs {
		if ctx.Err() != nil {
			return t, ctx.Err()
		}
		part := func(done float64) {
			if o.Progress != nil {
				o.Progress(strings.TrimSpace(fmt.Sprintf("%s on %s %s", j.p.Name(), j.v.Name, j.v.Params)), (float64(i)+done)/float64(len(jobs)))
			}
		}
		part(0)
		c, err := runCell(ctx, j.v, j.p, hosts, &o, part)
		if err != nil && !errors.Is(err, context.Canceled) {
			return t, err
		}
		t.Cells = append(t.Cells, *c)
	}
	if o.Costs || o.RowCosts {
		groups := t.groupCosts()
		for _, p := range o.Policies {
			if ctx.Err() != nil {
				break
			}
			ns, err := ForkLatency(p, hosts)
			r := Row{Policy: p.Name(), ForkNS: ns, Groups: groups[p.Name()]}
			if err != nil { // the cells have been searched all the same
				r.Failed = err.Error()
			}
			t.Rows = append(t.Rows, r)
		}
	}
	if !o.Costs {
		for i := range t.Cells {
			t.Cells[i].Costs = nil
		}
	}
	return t, ctx.Err()
}
