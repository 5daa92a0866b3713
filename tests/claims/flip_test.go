package claims

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// renamed is a policy under another's name.
type renamed struct {
	mm.Policy
	name string
}

func (p renamed) Name() string { return p.name }

// as puts what one row does under the name of another.
func as(name, row string) mm.Policy { return renamed{policy.Lookup(row), name} }

// less is a policy without some of its hooks: there the core runs 2.6.29's code.
type less struct {
	mm.Policy
	hooks mm.HookSet
}

func (p less) Hooks() mm.HookSet { return p.Policy.Hooks() &^ p.hooks }

func without(name string, hooks mm.HookSet) mm.Policy { return less{policy.Lookup(name), hooks} }

// forgetful is stock with a reclaim that takes a pinned page's dirtiness for granted.
type forgetful struct{ mm.Stock }

func (forgetful) Name() string      { return "stock" }
func (forgetful) Hooks() mm.HookSet { return mm.HookReclaim }
func (forgetful) Pageout(t *sched.Task, p *page.Page) bool {
	pages := mm.SystemOf(t).Pages
	if pages.Refs(t, p) > 2 {
		pages.ClearFlag(t, p, page.Dirty)
	}
	return true
}

// keeps is stock in which neither mprotect nor KSM takes the write bit.
type keeps struct{ mm.Stock }

func (keeps) Name() string                               { return "stock" }
func (keeps) Hooks() mm.HookSet                          { return mm.HookMprotect | mm.HookKSM }
func (keeps) Mprotect(*mm.VMA, x86.PTE, *page.Page) bool { return true }
func (keeps) KSM(*mm.Unmap) bool                         { return false }

// takesOver is stock whose hugetlb_cow counts mappings and not references.
type takesOver struct{ mm.Stock }

func (takesOver) Name() string      { return "stock" }
func (takesOver) Hooks() mm.HookSet { return mm.HookHugeWP }
func (takesOver) HugeWP(f *mm.Fault) mm.WPNext {
	pages := f.MM.Sys.Pages
	if pages.Refs(f.T, f.Page) <= 2 { // the mapping's and a pin's
		return mm.WPReuse
	}
	return mm.WPCopyPage
}

// TestVerdictsFlip breaks the policy that a claim is about, under the same name: the verdict
// must be another one. It is computed from what runs, and the claim can fail.
func TestVerdictsFlip(t *testing.T) {
	for _, c := range []struct {
		id        string
		is        Verdict
		broken    mm.Policy
		becomes   Verdict
		schedules uint64
		policies  []string // the rows there are; nil: all
	}{
		{"C1", Depends, renamed{noSecondLook{policy.Lookup("pg_gup")}, "pg_gup"}, Confirmed, 300, nil},
		{"C7", Confirmed, as("stock", "pg_gup"), NotFound, 300, nil},
		{"C8", Confirmed, as("pg_gup", "pg_gup_v1"), Refuted, 100, nil},
		{"C9", Confirmed, as("pg_gup", "pg_dontcow"), Refuted, 60, nil},
		{"C12", NotFound, without("pg_dontcow", mm.HookFast|mm.HookFastTake), Confirmed, 60, nil},
		{"C13", Confirmed, as("directio_sem_v1", "pg_gup"), NotFound, 60, nil},
		{"C14", Depends, without("fork_lock", mm.HookPin|mm.HookForkLock), Confirmed, 40, nil},
		{"C15", Depends, without("wp_page_count", mm.HookWP), NotFound, 20, nil},
		{"C16", Confirmed, as("wp_page_count_noswap_fixed", "pinned_ptes_after"), NotFound, 100, nil},
		{"C17", Depends, without("pinned_ptes_after", mm.HookReclaim), Refuted, 80, nil},
		{"C18", NotFound, forgetful{}, Depends, 150, nil},
		{"C25", Confirmed, as("directed_cow", "pg_gup"), NotFound, 20, nil},
		{"C27", Confirmed, as("pg_gup", "stock"), NotFound, 400, []string{"stock", "pg_gup"}},
		{"C28", Confirmed, as("stock", "pg_gup"), NotFound, 60, nil},
		{"C29", Confirmed, as("stock", "pg_gup"), NotFound, 60, nil},
		{"C30", Depends, as("pg_gup", "pg_dontcow"), NotFound, 200, nil},
		{"C31", Depends, as("stock", "pg_gup"), NotFound, 20, []string{"stock", "pg_gup"}},
		{"C32", Confirmed, as("pg_gup", "stock"), Depends, 160, nil},
		{"C33", Confirmed, without("pinned_ptes_after", mm.HookReclaim), Depends, 80, nil},
		{"C35", Refuted, as("stock", "pg_gup"), Confirmed, 20, []string{"stock"}},
		{"C36", Refuted, keeps{}, Confirmed, 10, nil},
		{"C37", Depends, without("pg_gup", mm.HookForkPTE), Confirmed, 20, nil},
		{"C38", NotFound, takesOver{}, Confirmed, 60, nil},
	} {
		t.Run(c.id, func(t *testing.T) {
			if raceBuild && !slices.Contains([]string{"C15", "C16", "C25", "C38"}, c.id) {
				t.Skip("searches of one goroutine; builds without the race detector run it")
			}
			claim := Lookup(c.id)
			require.NotNil(t, claim)
			var rows, broken []mm.Policy
			for _, p := range policy.All() {
				if c.policies != nil && !slices.Contains(c.policies, p.Name()) {
					continue
				}
				rows = append(rows, p)
				if p.Name() == c.broken.Name() {
					p = c.broken
				}
				broken = append(broken, p)
			}
			settled := func(rows []mm.Policy) Settled {
				out, err := Run(t.Context(), []Claim{*claim}, Options{Policies: rows, Schedules: max(c.schedules, 1)}, nil)
				require.NoError(t, err)
				require.Len(t, out, 1)
				require.Empty(t, out[0].Error)
				require.NotEmpty(t, out[0].Evidence)
				return out[0]
			}
			s := settled(rows)
			assert.Equal(t, c.is, s.Verdict, "%s", s.detail())
			s = settled(broken)
			assert.Equal(t, c.becomes, s.Verdict, "broken: %s", s.detail())
		})
	}
}

// TestSampleRefutesNothing: what no schedule of a sample showed is not found; what no schedule of
// all within the bound showed is refuted; and what a schedule disproves is refuted in any case.
func TestSampleRefutesNothing(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	l := newLab(t.Context(), Options{Schedules: 300}, hosts)
	sample := l.Ask(workload.LostRead, "pg_gup", "swapout-plain")
	assert.Equal(t, NotFound, Settle(sample.Shows(workload.LostRead)))
	assert.Equal(t, NotFound, Settle(sample.Never(), sample.ShowsAny()))
	assert.Equal(t, Confirmed, Settle(sample.Never()))
	assert.Equal(t, Refuted, Settle(sample.ShowsAny(), Fact(false)))
	all := l.AskAll(workload.LostRead, "pg_gup", "swapout-plain")
	assert.True(t, all.exhaustive())
	assert.Contains(t, all.bound(), "all ")
	assert.False(t, sample.exhaustive())
	assert.Equal(t, Refuted, Settle(all.Shows(workload.LostRead)))
	assert.Equal(t, NotFound, Settle(Exists(false, all, sample)))
	assert.Equal(t, NotFound, Settle(Exists(false)))
}

// TestClaimsAreInOrder: numbers are unique and ascend, and each claim says what it has to.
func TestClaimsAreInOrder(t *testing.T) {
	last := 0
	for _, c := range All() {
		assert.Greater(t, c.number(), last, c.ID)
		last = c.number()
		for _, text := range []string{c.Who, c.Lines, c.Says, c.Ran} {
			assert.NotEmpty(t, text, c.ID)
		}
		assert.Equal(t, c.Says, Lookup(c.ID).Says)
	}
	assert.Nil(t, Lookup("C0"))
}

// TestExperimentThatCannotBeMade: a row that is missing is said, and is no verdict.
func TestExperimentThatCannotBeMade(t *testing.T) {
	out, err := Run(t.Context(), []Claim{*Lookup("C15")}, Options{Policies: []mm.Policy{policy.Lookup("stock")}, Schedules: 1}, nil)
	require.NoError(t, err)
	require.Len(t, out, 1)
	assert.Equal(t, `there is no policy "wp_page_count"`, out[0].Error)
	assert.Empty(t, out[0].Verdict)
	assert.Contains(t, out[0].detail(), "error: there is no policy")
}

// TestBrokenProgramIsNoVerdict: a program that does not work in some schedule ends the
// experiment; it must not pass for a policy under which nothing was found.
func TestBrokenProgramIsNoVerdict(t *testing.T) {
	claim := Claim{ID: "C999", Settle: func(l *Lab) Result {
		e := experiment{name: "broken", run: func(_ *kernel.Thread, p *play) { p.must(unix.EIO, "read") }}
		return Result{Verdict: If(l.Explore(anything, e.program(l.Policy("stock"), l.hosts)).Safe())}
	}}
	out, err := Run(t.Context(), []Claim{claim}, Options{Schedules: 2}, nil)
	require.NoError(t, err)
	assert.Contains(t, out[0].Error, "broken under stock: broken: read: input/output error")
	assert.Empty(t, out[0].Verdict)
}
