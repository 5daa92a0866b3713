package explore_test

import (
	"testing"

	"github.com/cowlab/cowlab/kernel/explore"
)

func TestZZ1(t *testing.T) {
	y := newToys()
	for _, c := range []explore.Target{y.words("w0", "w1"), y.words("w0", "w0")} {
		explore.Debug = false
		r := reduce(t, c, explore.ReduceOptions{Schedules: 12, Workers: 1})
		t.Logf("%s complete %v: %d schedules, %d classes, %d blocked, %v, %d states", c.Name, r.Complete, r.Schedules, r.Classes, r.Blocked, r.ByVerdict, r.States)
	}
}
