package mutants

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// Measure says how soon a mutant was found, in the mean over several seeds.
type Measure struct {
	// Runs and Found count the searches and those that found it.
	Runs, Found int
	// Schedules is the mean number of schedules, that of the searches that gave up included.
	Schedules float64
	// Mean and Worst are host time.
	Mean, Worst time.Duration
	// Verdict is what the first search saw.
	Verdict string
}

// Take searches for the mutant with one strategy, once for each seed, at most limit
// schedules each.
func (m *Mutant) Take(ctx context.Context, hosts *kernel.Hosts, mode explore.Mode, seeds int, limit uint64) (Measure, error) {
	x := Measure{Runs: seeds}
	total := time.Duration(0)
	for seed := range seeds {
		begin := time.Now()
		r, err := explore.Search(ctx, m.Target(false, hosts), explore.Options{
			Schedules: limit, Seed: uint64(seed) + 1, Mode: mode, StopAtFirst: true})
		if err != nil {
			return x, err
		}
		took := time.Since(begin)
		total += took
		x.Worst = max(x.Worst, took)
		x.Schedules += float64(r.Schedules) / float64(seeds)
		if w := r.FirstBad(); w != nil {
			x.Found++
			if x.Verdict == "" {
				x.Verdict = w.Verdict
			}
		}
	}
	x.Mean = total / time.Duration(seeds)
	return x, nil
}

// Row is a mutant with both measures.
type Row struct {
	Mutant            *Mutant
	Portfolio, Random Measure
}

// Table formats rows as Markdown. The last columns say how many times more schedules, and how
// much more time, plain random needs; ">" where it did not always find the mutant.
func Table(rows []Row) string {
	var b strings.Builder
	b.WriteString("| what is missing | in | shows as | portfolio: schedules | seconds | worst | random: schedules | seconds | found | factor | in time |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		more := ""
		if r.Random.Found < r.Random.Runs {
			more = ">"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %.3f | %.2f | %s%s | %s%.3f | %d of %d | %s%.1f | %s%.1f |\n", r.Mutant.Name, r.Mutant.Where, r.Portfolio.Verdict,
			count(r.Portfolio.Schedules), r.Portfolio.Mean.Seconds(), r.Portfolio.Worst.Seconds(),
			more, count(r.Random.Schedules), more, r.Random.Mean.Seconds(), r.Random.Found, r.Random.Runs,
			more, r.Random.Schedules/r.Portfolio.Schedules, more, r.Random.Mean.Seconds()/r.Portfolio.Mean.Seconds())
	}
	return b.String()
}

func count(n float64) string { return fmt.Sprint(math.Round(n)) }
