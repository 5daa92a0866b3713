package matrix

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// TestSearchChoosesReclaim: driver_fork has no word of reclaim, and no schedule of it goes wrong
// under pg_gup. With a page that may be reclaimed at any moment it has both holes of docs/findings.md that
// need nothing else: 23, the fork copies the entry of a page that is pinned, and 25, the fork gives
// an entry its write bit. The token says so and repeats; minimised, little is left. Who
// asks at the fault whether the page is pinned loses nothing.
func TestSearchChoosesReclaim(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	search := func(params, pol string) *explore.Report {
		r, err := explore.Search(context.Background(), *withParams(t, hosts, "driver_fork", params, pol), explore.Options{Schedules: 600, Seed: 1})
		require.NoError(t, err)
		return r
	}
	r := search("reclaim=1", "pg_gup")
	target := withParams(t, hosts, "driver_fork", "reclaim=1", "pg_gup")
	for verdict, departures := range map[string]int{"lost-read": 3, "bug": 6} {
		w := r.Witness(verdict)
		require.NotNil(t, w, "%s: %v", verdict, r.ByVerdict)
		tok, err := explore.ParseToken(w.Token.String())
		require.NoError(t, err)
		assert.Equal(t, []explore.Param{{Key: "reclaim", Value: "1"}}, tok.Params)
		obs := target.Run(tok.Spec.Strategy(), nil)
		assert.Equal(t, verdict, obs.Verdict)
		assert.Equal(t, obs.State, target.Run(tok.Spec.Strategy(), nil).State)
		least, err := explore.Shrink(context.Background(), *target, tok.Spec, explore.ShrinkOptions{Runs: 600})
		require.NoError(t, err)
		assert.Equal(t, verdict, least.Observation.Verdict)
		assert.Equal(t, 1, count(least.Recording.Decisions, reclaims))
		assert.LessOrEqual(t, least.After.Departures, departures)
	}
	assert.NotContains(t, r.ByVerdict, Broken)
	for _, c := range [][2]string{{"", "pg_gup"}, {"reclaim=1", "dio_pin"}, {"reclaim=3", "pinned_ptes_after"}} {
		r := search(c[0], c[1])
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%s under %s: %v", c[0], c[1], r.ByVerdict)
	}
}

// reclaims says whether a decision has a page reclaimed: there is one page.
func reclaims(d explore.Decision) bool { return d.Op == x86.OpReclaim }

// TestNoReclaimUnlessAsked: a machine without -reclaim has neither its events nor its processor.
func TestNoReclaimUnlessAsked(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for params, want := range map[string]int{"": 0, "reclaim=1": 1} {
		_, rec := explore.Record(*withParams(t, hosts, "driver_fork", params, "stock"), sched.NewRandom(1))
		assert.Equal(t, want, count(rec.Decisions, reclaims), params)
		lane := count(rec.Decisions, func(d explore.Decision) bool { return d.Actor == explore.CPUActor(2) })
		assert.Equal(t, want > 0, lane > 0, params)
	}
}
