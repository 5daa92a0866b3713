package spec

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
)

// claiming is a policy that claims more, or has fewer hooks, than it has.
type claiming struct {
	mm.Policy
	more mm.Guarantee
	less mm.HookSet
}

func (c claiming) Claims() mm.Guarantee { return c.Policy.Claims() | c.more }
func (c claiming) Hooks() mm.HookSet    { return c.Policy.Hooks() &^ c.less }

func less(name string, hooks mm.HookSet) mm.Policy { return claiming{policy.Lookup(name), 0, hooks} }

// oneLook is pg_gup without the line of claim C1: gup-fast does not look at the pte again.
type oneLook struct{ mm.Policy }

func (oneLook) FastTake(f *mm.Fast, _ x86.PTERef, _ x86.PTE, p *page.Page) bool {
	pages := f.MM.Sys.Pages
	pages.GetAs(f.T, p, page.RefPin)
	if p.Anon() {
		pages.SetFlag(f.T, p, page.Policy0) // PG_gup
		f.T.C.Fence()
	}
	return true
}

// TestMutants: a policy that does not do what it claims is caught by random programs, which the
// policy itself passes.
func TestMutants(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	const reads = mm.Forward | mm.OtherPins | mm.AIO
	stock := policy.Lookup("stock")
	for _, c := range []struct {
		name    string
		policy  mm.Policy
		want    string
		seed, n uint64 // where programs begin that find it, and how many are enough
	}{
		{"stock that claims to keep reads", claiming{stock, reads, 0}, "lost-read", 40, 6},
		{"stock that claims to keep the child's memory", claiming{stock, reads, 0}, "child-changed", 82, 4},
		{"stock that claims to keep files", claiming{stock, mm.Reverse | mm.AIO, 0}, "leak-to-disk", 219, 3},
		{"pg_gup without the copy at fork", less("pg_gup", mm.HookForkPTE), "lost-read", 42, 4},
		{"pg_gup without the second look", oneLook{policy.Lookup("pg_gup")}, "leak-to-child", 51, 3},
		{"pg_gup without the forced write fault", less("pg_gup", mm.HookFollow), "leak-to-child", 51, 3},
		{"sentry_pin_copy without the copy at fork", less("sentry_pin_copy", mm.HookForkPTE), "lost-read", 42, 4},
		{"directio_sem without the semaphore", less("directio_sem", mm.HookForkLock), "lost-read", 162, 3},
	} {
		o := Options{Policies: []mm.Policy{c.policy}, Seed: c.seed, Programs: c.n}
		r, err := Search(t.Context(), o)
		require.NoError(t, err)
		assert.NotZero(t, r.Verdicts[c.policy.Name()][c.want], "%s: %v", c.name, r.Verdicts)
		whole := policy.Lookup(c.policy.Name())
		o.Policies = []mm.Policy{whole}
		r, err = Search(t.Context(), o)
		require.NoError(t, err)
		assert.Zero(t, r.Verdicts[whole.Name()][c.want], "%s itself: %v", whole.Name(), r.Verdicts)
	}
}
