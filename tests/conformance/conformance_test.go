package conformance

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

var rewrite = flag.Bool("rewrite", false, "record testdata anew")

func timed(p mm.Policy, h *kernel.Hosts) kernel.Options {
	return kernel.Options{CPUs: 2, Regime: sched.Timed, Policy: p, Hosts: h, CheckLocks: true}
}

// TestStock checks every case against what stands beside it.
func TestStock(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range All() {
		t.Run(c.Name, func(t *testing.T) {
			got, err := Execute(c, timed(policy.Lookup("stock"), hosts))
			require.NoError(t, err)
			t.Logf("%s\n  %s", got, c.Stock)
			if want, failing := strings.CutPrefix(c.Stock, "fail: "); failing {
				assert.True(t, strings.HasPrefix(got, "fail: "), "%s, but it should fail: %s", got, want)
			} else {
				assert.Equal(t, c.Stock, got)
			}
		})
	}
}

// TestRecorded runs every case under every policy and compares with what was seen when
// the table was recorded.
func TestRecorded(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	const golden = "testdata/cow.txt"
	var got bytes.Buffer
	for i, c := range All() {
		if i > 0 {
			got.WriteByte('\n')
		}
		fmt.Fprintln(&got, c.Name)
		for _, p := range policy.All() {
			result := run(t, c, p, hosts)
			require.Equal(t, result, run(t, c, p, hosts), "%s under %s: two runs", c.Name, p.Name())
			fmt.Fprintf(&got, "    %-26s %s\n", p.Name(), result)
		}
	}
	if *rewrite {
		require.NoError(t, os.WriteFile(golden, got.Bytes(), 0o644))
		return
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got.String(), "to record it anew: go test ./tests/conformance -rewrite")
}

// run executes a case; how it ended badly is a result too.
func run(t *testing.T, c *Case, p mm.Policy, hosts *kernel.Hosts) string {
	t.Helper()
	result, err := Execute(c, timed(p, hosts))
	if err != nil {
		result, _, _ = strings.Cut("ended badly: "+strings.TrimSpace(err.Error()), "\n")
		result, _, _ = strings.Cut(result, " at 0x") // nor where
		if before, _, ok := strings.Cut(result, "livelock"); ok {
			result = before + "livelock" // nor after how many points
		}
	}
	return result
}

// TestAnySchedule: the processes of a case go in lock-step, so stock shows the same in
// any schedule.
func TestAnySchedule(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for _, c := range All() {
		want, err := Execute(c, timed(policy.Lookup("stock"), hosts))
		require.NoError(t, err)
		for seed := range seeds {
			o := timed(policy.Lookup("stock"), hosts)
			o.Regime, o.Strategy = sched.Free, sched.NewRandom(seed)
			got, err := Execute(c, o)
			require.NoError(t, err, "%s, seed %d", c.Name, seed)
			assert.Equal(t, want, got, "%s, seed %d; again: go test ./tests/conformance -run '^TestAnySchedule$'", c.Name, seed)
		}
	}
}
