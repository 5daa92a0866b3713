package claims

import (
	"flag"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
)

var long = flag.Bool("long", false, "compare all experiments that may be cut with every schedule, not just one: two minutes")

// TestCutLeavesOutNothing: of the experiments that may be cut, all schedules within a bound have
// the same final states and verdicts as those that are left. Without -long it is one of them, under
// one policy that shows both verdicts.
func TestCutLeavesOutNothing(t *testing.T) {
	if underRace {
		t.Skip("the programs run one step at a time")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	l := newLab(t.Context(), Options{}, hosts)
	n := 0
	for _, e := range experiments() {
		if !e.cut {
			continue
		}
		for _, pol := range []string{"pg_gup", "pg_gup" + oneLook, "pg_dontcow"} {
			n++
			if !*long && (e.name != "claim-c1" || pol != "pg_gup"+oneLook) {
				continue
			}
			target, err := target(e.name, Policy(policy.All(), pol), l.hosts)
			require.NoError(t, err)
			search := func(cut bool) *explore.Exhausted {
				r, err := explore.Exhaust(t.Context(), *target, explore.ExhaustOptions{Preemptions: 1, Cut: cut})
				require.NoError(t, err)
				require.True(t, r.Complete)
				return r
			}
			all, some := search(false), search(true)
			t.Logf("%s under %s: %d schedules, cut %d; %d final states", e.name, pol, all.Schedules, some.Schedules, all.States)
			assert.Less(t, some.Schedules, all.Schedules)
			assert.Equal(t, all.FinalStates(), some.FinalStates(), "%s under %s", e.name, pol)
			assert.Equal(t, verdicts(all), verdicts(some), "%s under %s", e.name, pol)
		}
	}
	assert.GreaterOrEqual(t, n, 9)
}

func verdicts(r *explore.Exhausted) (all []string) {
	for v := range r.ByVerdict {
		all = append(all, v)
	}
	slices.Sort(all)
	return all
}
