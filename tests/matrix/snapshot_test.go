package matrix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// fullSink keeps every row of every snapshot, whether it has changed or not.
type fullSink struct {
	panel string
	key   explore.Key
	rows  map[string]bool // of the snapshot being taken
}

func (f *fullSink) Panel(id, _ string, _ int, _ ...string) { f.panel = id }
func (f *fullSink) Row(hi, lo, _ uint64) bool {
	f.key = explore.Key{Hi: hi, Lo: lo}
	return true
}
func (f *fullSink) Cells(cells ...string) { f.rows[fmt.Sprint(f.panel, f.key, cells)] = true }

// What changed at each step, put together, is the state as a whole look at it finds it at
// that step: no change is missed, none made up. After JSON too.
func TestStoryStatesAreComplete(t *testing.T) {
	w := workload.Lookup("forkscrew")
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, p := range []mm.Policy{policy.Stock{}, policy.PGGUP{}} {
		var full []map[string]bool
		o := CaptureOptions()
		inner := o.Snapshot
		o.Snapshot = func(m *sched.Machine, to explore.Sink) {
			inner(m, to)
			f := &fullSink{rows: map[string]bool{}}
			inner(m, f)
			full = append(full, f.rows)
		}
		captured := explore.Capture(*Target(w, w.Values(true), p, hosts), explore.Spec{Kind: explore.KindRandom, Seed: 3}, o)
		require.NotEmpty(t, full)
		var text bytes.Buffer
		require.NoError(t, captured.JSON(&text))
		var story explore.Story
		require.NoError(t, json.Unmarshal(text.Bytes(), &story))
		assert.Equal(t, captured.Steps, story.Steps)

		// The first look was before the first step; the last step has none.
		assert.GreaterOrEqual(t, len(full), len(story.Steps))
		at := 0
		for n := 0; n < len(full)-1; n++ {
			if n%31 != 0 { // each costs a run through all before it
				continue
			}
			got := map[string]bool{}
			for i, pn := range story.Panels {
				if pn.ID == "tasks" || pn.ID == "events" {
					continue // the machine's own
				}
				for _, r := range story.Rows(i, n) {
					if r.Cells != nil {
						got[fmt.Sprint(pn.ID, r.Key, r.Cells)] = true
					}
				}
			}
			require.Equal(t, full[n], got, "after step %d", n)
			at++
		}
		assert.Greater(t, at, 20)
		for _, id := range []string{"pt", "page", "tlb", "bytes", "tasks", "events"} {
			i := story.PanelIndex(id)
			require.GreaterOrEqual(t, i, 0, id)
			changes := 0
			for _, s := range story.Steps {
				for _, c := range s.Changes {
					if c.Panel == i {
						changes++
					}
				}
			}
			assert.NotZero(t, changes, "%s never changes", id)
		}
	}
}

// Looking at a run does not change it: a captured run ends like one that is not.
func TestCaptureDoesNotDisturb(t *testing.T) {
	w := workload.Lookup("forkscrewreverse")
	hosts := kernel.NewHosts()
	defer hosts.Close()
	target := Target(w, w.Values(true), policy.PGDontCOW{}, hosts)
	for seed := range uint64(5) {
		s := explore.Spec{Kind: explore.KindRandom, Seed: seed}
		assert.Equal(t, target.Run(s.Strategy(), nil).State, Tell(target, s).State)
	}
}
