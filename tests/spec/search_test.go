package spec

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/scenarios"
)

var (
	long    = flag.Duration("spec", 0, "search random programs for that much processor time")
	outFlag = flag.String("spec-out", "", "a directory for what is found: a scenario for each hole, and progress.txt")
)

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestSearch is the long form: -args -spec 60m searches for an hour of processor time. It
// fails for a hole that Known does not list.
func TestSearch(t *testing.T) {
	if *long == 0 {
		t.Skip("-args -spec 60m searches for an hour of processor time")
	}
	start := spent()
	o := Options{Policies: policy.All(), Seed: *seedFlag, Clock: func() time.Duration { return spent() - start }, Budget: *long, Minimise: true}
	if *outFlag != "" {
		require.NoError(t, os.MkdirAll(*outFlag, 0o755))
	}
	found := 0
	o.Found = func(h *Hole) {
		found++
		s, err := h.Scenario()
		require.NoError(t, err)
		if *outFlag != "" {
			name := fmt.Sprintf("%03d-finding-%d-%s-%s%s", found, h.Finding, h.Policy, word(h.Verdict), scenarios.Suffix)
			require.NoError(t, os.WriteFile(filepath.Join(*outFlag, name), []byte(s.Print()), 0o644))
		}
		if h.Finding == 0 {
			t.Errorf("new: %s\n%s", h, s.Print())
		}
	}
	last := time.Duration(0)
	o.Progress = func(r *Result) {
		if now := o.Clock(); *outFlag != "" && now-last > 20*time.Second {
			last = now
			require.NoError(t, os.WriteFile(filepath.Join(*outFlag, "progress.txt"), []byte(summary(r, now)), 0o644))
		}
	}
	r, err := Search(context.Background(), o)
	require.NoError(t, err)
	t.Log(summary(r, o.Clock()))
}

// summary is a result in words.
func summary(r *Result, spent time.Duration) string {
	s := fmt.Sprintf("%s of processor time: %d programs (%d not predicted, %d with failing allocations, %d with reclaim), %d runs, %d bytes (%d racing), %d holes\n",
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

// TestHolesAreScenarios: what a search finds is kept as a scenario, which finds it again.
func TestHolesAreScenarios(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	stock := claiming{policy.Lookup("stock"), mm.Forward | mm.OtherPins | mm.AIO, 0}
	r, err := Search(t.Context(), Options{Policies: []mm.Policy{stock}, Seed: 40, Programs: 10, Schedules: 12, Minimise: true})
	require.NoError(t, err)
	require.NotEmpty(t, r.Holes)
	for _, h := range r.Holes {
		s, err := h.Scenario()
		require.NoError(t, err)
		o, err := s.Observe(t.Context(), policy.Lookup("stock"), nil, scenarios.Strategy{Schedules: 60, Seed: 1})
		require.NoError(t, err)
		assert.NotZero(t, o.Positive, "%s\n%s", h, s.Print())
		again, err := Random(h.Seed)
		require.NoError(t, err)
		assert.Equal(t, h.Verdict, again.Target(stock, nil).Run(h.Token.Spec.Strategy(), nil).Verdict, "the token repeats the run")
	}
}
