package policy

import (
	"context"
	"testing"
	"sort"
	"time"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
)

func TestZZ(t *testing.T) {
	explore.Debug = true
	defer func() {
		var ps []string
		for o := range explore.Pairs { ps = append(ps, o) }
		sort.Slice(ps, func(i, j int) bool { return explore.Pairs[ps[i]] > explore.Pairs[ps[j]] })
		for _, c := range ps[:70] { t.Log(explore.Pairs[c], c) }
		type c struct { o x86.ObjID; n int }
		var cs []c
		for o, n := range explore.Counts { cs = append(cs, c{o,n}) }
		sort.Slice(cs, func(i, j int) bool { return cs[i].n > cs[j].n })
		for _, c := range cs { t.Log(c.n, new(sched.Machine).ObjName(c.o), uint64(c.o)>>56, uint64(c.o)&0xffffff) }
	}()
	for _, p := range []mm.Policy{PGGUP{}} {
		start := time.Now()
		r, err := explore.Reduce(context.Background(), c1Target(p), explore.ReduceOptions{Schedules: 200000, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		d := time.Since(start)
		t.Logf("complete %v: %d schedules, %d classes, %d blocked, left %d, %v, %d states clocked %d; %v %.0f/s", r.Complete, r.Schedules, r.Classes, r.Blocked, r.Left, r.ByVerdict, r.States, r.Clocked, d, float64(r.Schedules+r.Blocked)/d.Seconds())
	}
}
