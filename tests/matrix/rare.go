package matrix

import (
	"context"
	"fmt"
	"slices"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/workload"
)

// rarity is a verdict that a search of the usual length is likely to miss in some cells of a column.
type rarity struct {
	workload, params string
	policies         []string
	verdict          workload.Verdict
}

// rarities are those that longer searches have met.
func rarities() []rarity {
	return []rarity{
		// Fork copies the first huge page, which takes a thousand steps, and shares the second. The other thread
		// has to be between its two stores when the copy ends, and done before the second entry is write-protected:
		// one schedule in a thousand.
		{"torn", "huge=1,apart=1", []string{"pg_gup_v1", "pg_gup", "pinned_ptes_before", "pinned_ptes_after", "fork_lock_lookup"}, workload.TornSnapshot},
	}
}

// rare searches a cell of those once more, as long as is searched for what only the parallel regime
// has shown, if the usual search has missed it. Nothing is entered that this does not find.
func (c *Cell) rare(ctx context.Context, t *explore.Target, o *Options, seen map[workload.Verdict]evidence) error {
	for _, r := range rarities() {
		if _, ok := seen[r.verdict]; ok || r.workload != c.Workload || r.params != c.Params || !slices.Contains(r.policies, c.Policy) {
			continue
		}
		found := map[workload.Verdict]evidence{r.verdict: {detail: fmt.Sprintf("in none of %d schedules", c.Schedules)}}
		if err := hunt(ctx, t, o, found); err != nil {
			return err
		}
		if e := found[r.verdict]; e.token != "" {
			seen[r.verdict] = e
		}
	}
	return nil
}
