package matrix

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Costs are what one run of a workload's small form took in the timed regime, set-up and
// processes' ends included. They are the same each time.
type Costs struct {
	Atomics       uint64 `json:"atomics"`        // bus-locked operations
	Fences        uint64 `json:"fences"`         // full barriers
	LineTransfers uint64 `json:"line_transfers"` // cache lines fetched from another CPU
	PageCopies    uint64 `json:"page_copies"`    // of 4 KiB
	Faults        uint64 `json:"faults"`
	IPIs          uint64 `json:"ipis"`
	NS            uint64 `json:"ns"` // virtual time
	// Ended says how the run ended if the machine did not come to rest; the figures are
	// then those until that moment.
	Ended string `json:"ended,omitempty"`
}

// costStepLimit is when a run that makes no progress is given up, in points.
const costStepLimit = 2_000_000

// CostsOf runs the small form of a workload under a policy once in the timed regime.
func CostsOf(w *workload.Workload, v workload.Values, p mm.Policy, hosts *kernel.Hosts) (*Costs, error) {
	out, err := workload.Execute(w, workload.Options{
		Policy: p, Values: v, Small: true, Regime: sched.Timed, Hosts: hosts, StepLimit: costStepLimit,
	})
	if err != nil {
		return nil, err
	}
	n := out.Counters
	c := &Costs{
		Atomics: n[trace.EmuAtomics], Fences: n[trace.EmuFences], LineTransfers: n[trace.EmuLineTransfers],
		PageCopies: n[trace.EmuPageCopies], Faults: n[trace.PGFault], IPIs: n[trace.EmuIPISent], NS: out.NS,
	}
	if out.Result.Reason != sched.Quiet {
		c.Ended = out.Result.Reason.String()
	}
	return c, nil
}

// writeCosts writes a line for each cell that has costs, beside its verdict, and nothing if
// none has.
func (t *Table) writeCosts(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	some := false
	for _, c := range t.Cells {
		if c.Costs == nil {
			continue
		}
		if !some {
			fmt.Fprintln(tw, "POLICY\tWORKLOAD\tVERDICT\tATOMICS\tFENCES\tLINES\tCOPIES\tFAULTS\tIPIS\tNS")
			some = true
		}
		k := c.Costs
		ended := ""
		if k.Ended != "" {
			ended = " until " + k.Ended
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d%s\n", c.Policy, column{c.Workload, c.Params}, c.words(true),
			k.Atomics, k.Fences, k.LineTransfers, k.PageCopies, k.Faults, k.IPIs, k.NS, ended)
	}
	if !some {
		return nil
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}
