package explore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

// TestPOSFindsAndReplays searches with partial-order sampling alone.
func TestPOSFindsAndReplays(t *testing.T) {
	y := newToys()
	for _, target := range []explore.Target{y.counter(2, 0, false), y.abba(true), y.read(false)} {
		r := search(t, target, explore.Options{Mode: explore.POSOnly, Schedules: 200, Seed: 1})
		w := r.FirstBad()
		require.NotNil(t, w, target.Name)
		tok, err := explore.ParseToken(w.Token.String())
		require.NoError(t, err)
		assert.Equal(t, explore.KindPOS, tok.Spec.Kind)
		obs := target.Run(tok.Spec.Strategy(), nil)
		assert.Equal(t, w.Verdict, obs.Verdict)
		assert.Equal(t, w.State, obs.State)
	}
}

// TestPOSSamplesOrdersEvenly has a task that works on its own for long beside two that write to
// one word: a random walk hardly ever lets the one that comes late be first, and
// sampling of orders does it half of the time.
func TestPOSSamplesOrdersEvenly(t *testing.T) {
	y := newToys()
	target := y.words("r1r2r3r4r5r6w0", "w0")
	share := func(m explore.Mode) float64 {
		r := search(t, target, explore.Options{Mode: m, Schedules: 1000, Seed: 1})
		require.Len(t, r.FinalStates(), 2, "%s", m)
		return float64(r.ByState(r.FinalStates()[0])) / 1000
	}
	random, pos := share(explore.RandomOnly), share(explore.POSOnly)
	assert.True(t, random < 0.05 || random > 0.95, "random: %v", random)
	assert.InDelta(t, 0.5, pos, 0.4, "partial-order sampling: %v", pos)
}

// TestPortfolioHasEveryStrategy looks at what a search of the portfolio is made of.
func TestPortfolioHasEveryStrategy(t *testing.T) {
	o := explore.Options{Mode: explore.Portfolio}
	kinds, depths := map[explore.Kind]int{}, map[int]int{}
	for i := range uint64(120) {
		s := o.SpecOf(i)
		kinds[s.Kind]++
		if s.Kind == explore.KindPCT {
			depths[s.Depth]++
		}
	}
	assert.Equal(t, map[explore.Kind]int{explore.KindRandom: 40, explore.KindPOS: 40, explore.KindPCT: 40}, kinds)
	for d := 1; d <= 4; d++ {
		assert.NotZero(t, depths[d], "depth %d", d)
	}
	assert.Len(t, depths, 4)
}
