package explore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// cuts is a strategy that wants no more of any run.
type cuts struct{}

func (cuts) Begin(int)              {}
func (cuts) Pick(*sched.Choice) int { return sched.Cut }

// TestGatePassesACutOn: that a run is cut is no index into who is enabled.
func TestGatePassesACutOn(t *testing.T) {
	g := explore.NewGate(cuts{})
	g.Begin(1)
	ch := &sched.Choice{Last: -1, Enabled: []sched.Actor{{CPU: 0}}}
	assert.Equal(t, 0, g.Pick(ch), "closed: the default rule")
	g.Open()
	assert.Equal(t, sched.Cut, g.Pick(ch))
}
