package spec

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/mm/policy"
)

var (
	long    = flag.Duration("spec", 0, "search random programs for that much processor time")
	outFlag = flag.String("spec-out", "", "a directory for what is found")
)

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestSearch(t *testing.T) {
	if *long == 0 {
		t.Skip("-args -spec 60m searches")
	}
	start := spent()
	o := Options{Policies: policy.All(), Seed: *seedFlag, Clock: func() time.Duration { return spent() - start }, Budget: *long, Minimise: true}
	var log, jlog *os.File
	if *outFlag != "" {
		require.NoError(t, os.MkdirAll(*outFlag, 0o755))
		var err error
		log, err = os.Create(filepath.Join(*outFlag, "holes.txt"))
		require.NoError(t, err)
		defer log.Close()
		jlog, err = os.Create(filepath.Join(*outFlag, "holes.json"))
		require.NoError(t, err)
		defer jlog.Close()
	}
	n := 0
	o.Found = func(h *Hole) {
		n++
		if log != nil {
			b, err := json.Marshal(map[string]any{"policy": h.Policy, "verdict": h.Verdict, "detail": h.Detail, "kinds": h.Kinds, "seed": h.Seed,
				"text": h.Program.Print(), "switches": h.Switches, "ops": size(h.Program), "finding": h.Finding})
			require.NoError(t, err)
			fmt.Fprintf(jlog, "%s\n", b)
		}
		text := fmt.Sprintf("### %d finding=%d %s\nspec %+v\n%s\n", n, h.Finding, h, h.Spec, h.Program.Print())
		if log != nil {
			fmt.Fprint(log, text)
		} else {
			t.Log(text)
		}
	}
	last := time.Duration(0)
	o.Progress = func(r *Result) {
		if now := o.Clock(); log != nil && now-last > 20*time.Second {
			last = now
			_ = os.WriteFile(filepath.Join(*outFlag, "progress.txt"), []byte(summary(r, now)), 0o644)
		}
	}
	r, err := Search(context.Background(), o)
	require.NoError(t, err)
	text := summary(r, o.Clock())
	t.Log(text)
	if log != nil {
		require.NoError(t, os.WriteFile(filepath.Join(*outFlag, "summary.txt"), []byte(text), 0o644))
	}
}

func summary(r *Result, spent time.Duration) string {
	s := fmt.Sprintf("%s of processor time: %d programs (%d vague, %d with failing allocations, %d with reclaim), %d schedules, %d terms (%d racing), %d holes\n",
		spent, r.Programs, r.Vague, r.Failing, r.Swapping, r.Schedules, r.Bytes, r.Racing, len(r.Holes))
	for _, p := range sorted(r.Verdicts) {
		s += fmt.Sprintf("%-26s", p)
		for _, v := range sorted(r.Verdicts[p]) {
			s += fmt.Sprintf(" %s=%d", v, r.Verdicts[p][v])
		}
		s += "\n"
	}
	for _, h := range r.Holes {
		s += fmt.Sprintf("%6d runs, finding %d: %s\n", h.Runs, h.Finding, h)
	}
	return s
}
