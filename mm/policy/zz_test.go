package policy

import (
	"context"
	"testing"
	"time"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
)

func TestZZ(t *testing.T) {
	for _, p := range []mm.Policy{PGGUP{}, PGGUP{noRecheck: true}} {
		start := time.Now()
		r, err := explore.Reduce(context.Background(), c1Target(p), explore.ReduceOptions{Schedules: 100000})
		if err != nil {
			t.Fatal(err)
		}
		d := time.Since(start)
		t.Logf("complete %v: %d schedules, %d classes, %d blocked, left %d, %v, %d states clocked %d; %v %.0f/s", r.Complete, r.Schedules, r.Classes, r.Blocked, r.Left, r.ByVerdict, r.States, r.Clocked, d, float64(r.Schedules+r.Blocked)/d.Seconds())
	}
}
