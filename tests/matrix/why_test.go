package matrix

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

func why(t *testing.T, name, params string, p mm.Policy) (*explore.NearMiss, error) {
	w := workload.Lookup(name)
	v, err := w.Parse(params, true)
	require.NoError(t, err)
	hosts := kernel.NewHosts()
	t.Cleanup(hosts.Close)
	return WhySafe(context.Background(), w, v, p, policy.Stock{}, hosts, explore.WhyOptions{Schedules: 400, Seed: 1, Runs: 100})
}

// The nearest miss names the operation that the policy is about: for PG_gup, fork's look
// at the flag that gup-fast set; the second look at the entry where the pin comes after
// the fork; for the semaphore, fork's wait for the one who pins.
func TestWhy(t *testing.T) {
	for _, c := range []struct {
		workload     string
		policy       mm.Policy
		closed, hook string // text of the operation, and the policy's method
		wrote        string // the method that had written what it read, or taken the lock
		missing      string // what the witness does and this run does not
	}{
		{"pin_fork", policy.PGGUP{}, `^read flags of page \d+: .*policy0`, "PGGUP.ForkPTE", "PGGUP.FastTake", `^write pte of mm 2: none -> page \d+ RO`},
		{"forkscrew", policy.PGGUP{}, `^read flags of page \d+: .*policy0`, "PGGUP.ForkPTE", "PGGUP.FastTake", `^write pte of mm 2: none -> page \d+ RO`},
		{"dma_thread", policy.PGGUP{}, `^read flags of page \d+: .*policy0`, "PGGUP.ForkPTE", "PGGUP.FastTake", `^write pte of mm 2: none -> page \d+ RO`},
		{"forkscrewreverse", policy.PGGUP{}, `^read pte of mm 1: page \d+ RO`, "PGGUP.FastTake", "PGGUP.ForkPTE", `^dma read page \d+`},
		{"forkscrew", policy.DirectIOSem{}, `^lock pinned_sem \d+: waits`, "DirectIOSem.ForkLock", "DirectIOSem.PinBegin", `^dma write page \d+`},
	} {
		t.Run(c.workload+" "+c.policy.Name(), func(t *testing.T) {
			t.Parallel()
			n, err := why(t, c.workload, "", c.policy)
			require.NoError(t, err)
			var text strings.Builder
			n.Write(&text)
			assert.Equal(t, n.Switches, n.Found)
			assert.False(t, n.Searched)
			assert.Equal(t, explore.Safe, n.Near.Verdict)
			require.NotNil(t, n.Closed, text.String())
			assert.Regexp(t, c.closed, n.Closed.Text)
			assert.Equal(t, c.hook, n.Closed.Hook)
			require.NotNil(t, n.Wrote, text.String())
			assert.Equal(t, c.wrote, n.Wrote.Hook)
			if !n.Closed.Waits {
				assert.Equal(t, deviceSteps(n.Witness), deviceSteps(n.Near), "devices and timers act in the same order")
			}
			assert.Less(t, n.Matched, n.Critical, "it is a miss")
			require.NotNil(t, n.Missing, text.String())
			assert.NotContains(t, n.Missing.Text, "ipi", "who is told of a flush has nothing to do with what is lost")
			if c.missing != "" {
				assert.Regexp(t, c.missing, n.Missing.Text)
			}
			if n.Closed.Waits {
				assert.Regexp(t, `^read lock pinned_sem \d+`, n.Wrote.Text, "who holds it")
				assert.Greater(t, n.Closed.N, n.Wrote.N)
			}
			assert.Contains(t, text.String(), "What closed it: "+c.hook)
			assert.Contains(t, text.String(), "proves nothing")

			// Both runs can be looked at.
			for _, s := range []*explore.Story{n.Witness, n.Near} {
				tok, err := explore.ParseToken(s.Token)
				require.NoError(t, err)
				assert.NotEmpty(t, tok.Policy)
			}
		})
	}
}

// What is not safe, and what stock does not lose either, is said to be so.
func TestWhyNothingToExplain(t *testing.T) {
	_, err := why(t, "pin_fork", "", policy.DirectIOSem{})
	var unsafe *explore.Unsafe
	require.ErrorAs(t, err, &unsafe)
	assert.Equal(t, "lost-read", unsafe.Story.Verdict)
	assert.Contains(t, err.Error(), "cl1.pin_fork.directio_sem.")

	_, err = why(t, "dma_thread", "a=0", policy.PGGUP{})
	var nothing *explore.NoWitness
	require.ErrorAs(t, err, &nothing)
	assert.EqualValues(t, 400, nothing.Schedules)
}

// deviceSteps lists what devices and timers did.
func deviceSteps(s *explore.Story) (out []string) {
	for i := range s.Steps {
		if st := &s.Steps[i]; st.CPU == explore.DeviceLane {
			out = append(out, st.Task+" "+st.Op)
		}
	}
	return out
}
