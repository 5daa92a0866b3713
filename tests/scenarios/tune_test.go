package scenarios

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// careless is stock with a hook that writes what no lock protects.
type careless struct {
	mm.Stock
	what *int
}

func (careless) Name() string      { return "careless" }
func (careless) Hooks() mm.HookSet { return mm.HookFast }
func (c careless) FastBegin(f *mm.Fast) bool {
	f.T.WriteOf(c.what, "what")
	return true
}

// TestTuningActs: with fail an allocation of a scenario fails in some schedule, with races a data race of the kernel is
// told; neither happens by itself, nor by the other one.
func TestTuningActs(t *testing.T) {
	hosts := newHosts(t)
	touch, err := Parse("touch", `cowlab touch
"memory is touched first"
map A 1 page private
 P0       ;
 A[0] = 1 ;
never oom`)
	require.NoError(t, err)
	pins, err := Parse("pins", `cowlab pins
"two threads pin at once"
map A 1 page private
init A = 1
 P0                 | P1                ;
 pin h A write fast | pin g A read fast ;
never bug`)
	require.NoError(t, err)
	ends := func(s *Scenario, p mm.Policy, tune Tuning, as string) bool {
		rep, err := explore.Search(t.Context(), *s.Tuned(tune).Target(p, hosts), explore.Options{Schedules: 40, Seed: 1, Workers: 1})
		require.NoError(t, err)
		for v := range rep.ByVerdict {
			if slices.Contains(Endings(v), as) {
				return true
			}
		}
		return false
	}
	stock, racing := policy.Lookup("stock"), careless{what: new(int)}
	for _, c := range []struct {
		tune         Tuning
		title, token string
		fails, races bool
	}{
		{Tuning{}, "", "", false, false},
		{Tuning{Fail: 1}, "fail=1", "~fail~1.", true, false},
		{Tuning{Races: true}, "races=1", "~races~1.", false, true},
		{Tuning{Fail: 1, Races: true}, "fail=1,races=1", "~fail~1~races~1.", true, true},
	} {
		assert.Equal(t, c.title, c.tune.String())
		back, err := ParseTuning(c.title)
		require.NoError(t, err)
		assert.Equal(t, c.tune, back)
		assert.Contains(t, touch.Tuned(c.tune).Target(stock, hosts).Token(explore.Spec{Kind: explore.KindRandom}).String(), c.token)
		assert.Equal(t, c.fails, ends(touch, stock, c.tune, "oom"), "an allocation fails: %s", c.title)
		assert.Equal(t, c.races, ends(pins, racing, c.tune, "bug"), "a data race is told: %s", c.title)
	}
}
