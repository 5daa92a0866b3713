package policy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// TestBarriersOfC1 asks which barriers of the fixes matter on x86: C1's program on CPUs
// with store buffers.
//
// pg_gup's two do not. On either side what has to be visible is written by a locked
// instruction, and that is a barrier: fork's write protection, gup-fast's get_page and
// SetPageGUP. With a mark that is set by a plain store (__SetPageGUP) gup-fast's barrier
// is all there is, and its removal shows. Nor does that behind write_protect_seq: the
// next thing fork does is to take a ptl.
func TestBarriersOfC1(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy mm.Policy
		tso    bool
		lost   bool
	}{
		{"pg_gup", PGGUP{}, true, false},
		{"pg_gup without its barriers", PGGUP{noBarrier: true}, true, false},
		{"pg_gup with a plain store", PGGUP{plainFlag: true}, true, false},
		{"pg_gup with a plain store and without its barriers", PGGUP{plainFlag: true, noBarrier: true}, true, true},
		{"the same where stores are visible at once", PGGUP{plainFlag: true, noBarrier: true}, false, false},
		{"pin_copy", PinCopy{}, true, false},
		{"pin_copy without its barrier", PinCopy{follPin: follPin{noBarrier: true}}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.lost && Race {
				t.Skip("a long search of one goroutine; builds without the race detector run it")
			}
			n := uint64(1500)
			if c.lost {
				n = 4000
			}
			if Race {
				n = 100
			}
			target := c1TargetOn(c.policy, sched.Options{TSO: c.tso})
			r, err := explore.Search(context.Background(), target, explore.Options{
				Schedules: n, Seed: 1, StopAtFirst: c.lost})
			require.NoError(t, err)
			for _, w := range r.Witnesses {
				t.Logf("%s: %d of %d (first %d), %s: %.600s", w.Verdict, r.ByVerdict[w.Verdict], r.Schedules, w.Schedule, w.Token.Command(), w.Detail)
			}
			if c.lost {
				assert.NotZero(t, r.ByVerdict["lost-read"])
				return
			}
			assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		})
	}
}
