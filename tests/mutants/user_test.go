package mutants

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// TestUserStoresAreBuffered is the litmus test SB in user memory: two threads each store
// to a word and then load the other's.
func TestUserStoresAreBuffered(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range []struct {
		name       string
		tso, fence bool
		want       bool
	}{{"no buffers", false, false, false}, {"buffers", true, false, true}, {"locked instructions", true, true, false}} {
		m := &Mutant{Name: c.name, Options: kernel.Options{TSO: c.tso}, Program: func(t *kernel.Thread, r *Run) {
			x := t.MustMmap(2 * pageSize)
			y := x + pageSize
			t.Store64(x, 0)
			t.Store64(y, 0)
			r.Begin()
			half := func(t *kernel.Thread, mine, other uint64) uint32 {
				if c.fence {
					t.Xchg32(mine, 1)
				} else {
					t.Store32(mine, 1)
				}
				return t.Load32(other)
			}
			var seen uint32
			w := t.Go("other", func(w *kernel.Thread) { seen = half(w, y, x) })
			mine := half(t, x, y)
			r.must(t.Join(w))
			if mine+seen == 0 {
				r.Bad("both loads were early")
			}
			if t.Load32(x) != 1 || t.Load32(y) != 1 {
				r.Bad("system call: a store is lost")
			}
		}}
		rep, err := explore.Search(context.Background(), m.Target(true, hosts), explore.Options{Schedules: 1500, Seed: 1})
		require.NoError(t, err)
		assert.Equal(t, c.want, rep.ByVerdict["wrong"] > 0, "%s: %v", c.name, rep.ByVerdict)
		if w := rep.Witness("wrong"); w != nil {
			assert.Equal(t, "both loads were early", w.Detail)
		}
	}
}
