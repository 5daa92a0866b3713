package mutants

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// TestMutantsAreFound searches for each mutant, and searches the kernel that it was made
// from for as many schedules.
func TestMutantsAreFound(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, m := range All() {
		t.Run(m.Name, func(t *testing.T) {
			r, err := explore.Search(context.Background(), m.Target(false, hosts), explore.Options{
				Schedules: 20_000, Seed: 1, StopAtFirst: true})
			require.NoError(t, err)
			w := r.FirstBad()
			if assert.NotNil(t, w, "not found") {
				t.Logf("schedule %d: %s: %.300s", w.Schedule+1, w.Verdict, w.Detail)
			}
			r, err = explore.Search(context.Background(), m.Target(true, hosts), explore.Options{
				Schedules: 150, Seed: 1, StopAtFirst: true})
			require.NoError(t, err)
			if w := r.FirstBad(); w != nil {
				t.Errorf("the kernel itself: schedule %d: %s: %s", w.Schedule+1, w.Verdict, w.Detail)
			}
		})
	}
}
