package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/tests/bench"
	"github.com/cowlab/cowlab/tests/speed"
)

func runSpeed(e *env, args []string) error {
	fs := newFlags(e, "speed", "[flags]", `Measure the host kernel (native), the bare memory operations (floor) and the emulator
side by side in one run, and hold the medians of the paired ratios against the goals.

The native column needs a C compiler; without one it says so.`)
	form := fs.String("format", "text", "text, md or json")
	pairs := fs.Int("pairs", 20, "rounds of each line; 20 give a 95 % interval")
	stage := fs.String("stage", "foundation", "the column of goals: foundation or goal")
	only := fs.String("only", "", "comma-separated `names` of lines, as swap-out,swap-in; default all; an unknown one lists them")
	expect := fs.Bool("check", false, "exit 1 if a line that was measured misses its goal")
	swapFile := fs.Bool("swapfile", false, "for native swap: put a swap file of 128 MiB into use for the run, if you are root")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	if err := oneOf("format", *form, "text", "md", "json"); err != nil {
		return err
	}
	if err := oneOf("stage", *stage, "foundation", "goal"); err != nil {
		return err
	}
	if *pairs == 0 { // which means the default to package speed
		return usagef("-pairs is 0, must be at least 1")
	}
	o := speed.Options{Pairs: *pairs, Stage: speed.FoundationStage}
	if *stage == "goal" {
		o.Stage = speed.FinalStage
	}
	if err := o.Validate(); err != nil {
		return usagef("%v", err)
	}
	floors, err := speed.NewFloors(speed.FloorOptions{})
	if err != nil {
		return err
	}
	defer floors.Close()
	ops := speed.Catalog(floors)
	hosts := kernel.NewHosts()
	defer hosts.Close()
	cleanup, err := bench.Attach(ops, hosts)
	defer cleanup()
	if err != nil {
		return err
	}
	if ops, err = chooseLines(ops, *only); err != nil {
		return err
	}
	probe, err := speed.BuildProbe(e.ctx, "")
	switch {
	case err == nil:
		probe.SwapFile = *swapFile
		defer probe.Close()
		o.Probe = probe
	case e.ctx.Err() != nil:
		return e.ctx.Err()
	default:
		o.NoNative = err.Error()
	}
	bar := newProgress(e)
	done := 0
	o.Progress = func(op speed.Op) {
		bar.show(op.Name, float64(done)/float64(len(ops)))
		done++
	}
	report, err := speed.Measure(e.ctx, ops, o)
	bar.clear()
	if report != nil {
		var werr error
		switch *form {
		case "json":
			werr = report.WriteJSON(e.stdout)
		case "md":
			werr = report.WriteMarkdown(e.stdout)
		default:
			werr = report.WriteText(e.stdout)
		}
		err = errors.Join(err, werr)
	}
	if err == nil && *expect && !report.Met() {
		return fmt.Errorf("speed: a goal is missed: %w", errDiffer)
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return err
}

// chooseLines keeps the named lines.
func chooseLines(ops []speed.Op, list string) ([]speed.Op, error) {
	if list == "" {
		return ops, nil
	}
	var names []string
	for _, op := range ops {
		names = append(names, op.Name)
	}
	var out []speed.Op
next:
	for _, n := range strings.Split(list, ",") {
		n = strings.TrimSpace(n)
		for _, op := range ops {
			if op.Name == n {
				out = append(out, op)
				continue next
			}
		}
		return nil, usagef("unknown line %q%s; there are %s", n, didYouMean(n, names), strings.Join(names, ", "))
	}
	return out, nil
}
