package bench

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// search runs n schedules of the small form of forkscrew under stock on so many host
// threads, and returns how long that took, and how many points they had (the median).
// Finding the corruption is not an error, and neither is it the end.
func search(hosts *kernel.Hosts, n, workers int) (d time.Duration, points uint64) {
	w := workload.Lookup("forkscrew")
	t := matrix.Target(w, w.Values(true), mm.Stock{}, hosts)
	// As the explore verb has it: a schedule's garbage is small and short-lived.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	start := time.Now()
	r, err := explore.Search(context.Background(), *t, explore.Options{Schedules: uint64(n), Workers: workers, Seed: 1})
	d = time.Since(start)
	must(err, "search")
	if bad := r.ByVerdict[matrix.Broken] + r.ByVerdict[explore.Panicked]; bad > 0 {
		panic(fmt.Errorf("%d of %d schedules did not work", bad, r.Schedules))
	}
	return d, r.StepsMedian
}
