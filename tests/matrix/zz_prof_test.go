package matrix

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

func TestZZProf(t *testing.T) {
	name := os.Getenv("W")
	n, _ := strconv.Atoi(os.Getenv("N"))
	pol := os.Getenv("P")
	w := workload.Lookup(name)
	hosts := kernel.NewHosts()
	tg := Target(w, w.Values(true), policy.Lookup(pol), hosts)
	start := time.Now()
	mode := explore.Mode(os.Getenv("MODE"))
	r, err := explore.Search(context.Background(), *tg, explore.Options{Schedules: uint64(n), Workers: 1, Seed: 1, Mode: mode})
	d := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s %v: %.0f/s, steps %d..%d..%d, %v states %d", name, d, float64(n)/d.Seconds(), r.StepsMin, r.StepsMedian, r.StepsMax, r.ByVerdict, r.States)
}

func TestZZDpor(t *testing.T) {
	name := os.Getenv("W")
	n, _ := strconv.Atoi(os.Getenv("N"))
	w := workload.Lookup(name)
	hosts := kernel.NewHosts()
	vals := w.Values(true)
	tg := Target(w, vals, policy.Lookup(os.Getenv("P")), hosts)
	nw := 2
	start := time.Now()
	r, err := explore.Reduce(context.Background(), *tg, explore.ReduceOptions{Schedules: uint64(n), Workers: nw})
	d := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("complete %v: %d schedules, %d classes, %d blocked, left %d, %v, %d states clocked %d; %v %.0f/s", r.Complete, r.Schedules, r.Classes, r.Blocked, r.Left, r.ByVerdict, r.States, r.Clocked, d, float64(r.Schedules+r.Blocked)/d.Seconds())
}
