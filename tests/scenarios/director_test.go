package scenarios

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// says is a strategy that always answers the same.
type says int

func (says) Begin(int)                {}
func (s says) Pick(*sched.Choice) int { return int(s) }

// TestHeldDisksCanBeCut: while disks are held the strategy chooses among fewer actors, and
// what it says is an index into those; that it cuts the run is no index.
func TestHeldDisksCanBeCut(t *testing.T) {
	ch := &sched.Choice{Last: -1, Enabled: []sched.Actor{
		{CPU: -1, Seq: 1, Op: x86.OpEvent, Obj: x86.Obj(x86.ClassDev, 1)}, // what is held
		{CPU: 0}, {CPU: 1},
	}}
	for said, want := range map[says]int{0: 1, 1: 2, sched.Cut: sched.Cut} {
		d := newDirector(said)
		d.Begin(2)
		d.gate.Open()
		d.held = true
		assert.Equal(t, want, d.Pick(ch), "said %d", said)
	}
}
