package spec

import (
	"context"
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

var (
	seedFlag   = flag.Uint64("spec-seed", 1, "the seed of the first program, or of TestProgram's")
	policyFlag = flag.String("spec-policy", "", "the policy of TestProgram; empty means all")
)

// schedules is how many schedules of each program the tests run, as the search does.
const schedules = 18

// unknown runs a program under a policy and fails for a hole that Known does not list. It
// returns what was seen.
func unknown(t *testing.T, p *Program, pol mm.Policy, hosts *kernel.Hosts, n, seed uint64, command string) map[string]uint64 {
	t.Helper()
	rep, err := explore.Search(context.Background(), *p.Target(pol, hosts), explore.Options{Schedules: n, Seed: seed, Workers: 1})
	require.NoError(t, err)
	for _, w := range rep.Witnesses {
		if !Broken(w.Verdict) || Known(pol.Name(), w.Verdict, kinds(p.Text)) != 0 {
			continue
		}
		small, seen := Minimise(context.Background(), p, pol, hosts, w.Verdict, 60)
		detail := w.Detail
		if seen != nil {
			detail = seen.Detail
		}
		t.Errorf("%s breaks what it promises: %s, in %d of %d schedules\n%s\n%s\nminimised: %s\n%s", pol.Name(), w.Detail,
			rep.ByVerdict[w.Verdict], rep.Schedules, command, p.Text.Print(), detail, small.Text.Print())
	}
	return rep.ByVerdict
}

// TestPrograms is the metamorphic test in its short form: the same random programs under every
// policy, compared with the model.
func TestPrograms(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	n, each := uint64(40), uint64(6)
	if race {
		n, each = 3, 2
	}
	seen := map[string]uint64{}
	for seed := *seedFlag; seed < *seedFlag+n; seed++ {
		p, err := Random(seed)
		require.NoError(t, err)
		for _, pol := range policy.All() {
			command := fmt.Sprintf("go test ./tests/spec -run 'TestProgram$' -v -args -spec-seed %d -spec-policy %s", seed, pol.Name())
			for v, k := range unknown(t, p, pol, hosts, each, seed, command) {
				seen[v] += k
			}
		}
	}
	if !race {
		assert.NotZero(t, seen["~lost-read"], "a policy that promises nothing loses a read")
		assert.Greater(t, seen[explore.Safe], uint64(5000))
	}
}

// TestProgram repeats one program, with more schedules.
func TestProgram(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	p, err := Random(*seedFlag)
	require.NoError(t, err)
	t.Logf("%s%s", p.Text.Print(), p.Model)
	for _, pol := range policy.All() {
		if pol.Name() == *policyFlag {
			t.Logf("%s: %v", pol.Name(), unknown(t, p, pol, hosts, schedules, *seedFlag, "the program of the flags"))
		}
	}
}

// TestGenerate: every seed makes a program that parses; most are modelled; the same seed makes the
// same one.
func TestGenerate(t *testing.T) {
	vague, racing, terms := 0, 0, 0
	verbs := map[string]bool{}
	for seed := range uint64(1500) {
		p, err := Random(seed)
		require.NoError(t, err)
		if p.Model.Vague != "" {
			vague++
		}
		for _, x := range p.Model.Terms {
			terms++
			if x.Racing() {
				racing++
			}
		}
		for _, k := range kinds(p.Text) {
			verbs[k] = true
		}
	}
	a, err := Generate(7)
	require.NoError(t, err)
	b, err := Generate(7)
	require.NoError(t, err)
	assert.Equal(t, a.Print(), b.Print())
	assert.Less(t, vague, 450)
	assert.Greater(t, terms, 12000)
	assert.Greater(t, racing, terms/10)
	assert.Less(t, racing, terms/2)
	for _, k := range []string{"pin write", "pin read", "dma write", "dma read", "disk read", "disk write", "fork", "wait", "exit", "vmsplice", "pipe_read",
		"munmap", "mremap", "mprotect r", "madvise dontneed", "madvise dontfork", "madvise dontcow", "swapout", "reclaim", "peek", "poke", "mmap",
		"mlock", "unpin", "fail any", "fail do_wp_page", "file", "shared", "untouched", "read-only"} {
		assert.Contains(t, verbs, k)
	}
}

// claiming is a policy that claims more, or has fewer hooks, than it has.
type claiming struct {
	mm.Policy
	more mm.Guarantee
	less mm.HookSet
}

func (c claiming) Claims() mm.Guarantee { return c.Policy.Claims() | c.more }
func (c claiming) Hooks() mm.HookSet    { return c.Policy.Hooks() &^ c.less }

// TestMutants: a policy that does not do what it claims is caught by random programs.
func TestMutants(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	for _, c := range []struct {
		name    string
		policy  mm.Policy
		want    string
		seed, n uint64 // where it is found, and a few programs around
	}{
		{"stock that claims to keep reads", claiming{policy.Lookup("stock"), mm.Forward | mm.OtherPins | mm.AIO, 0}, "lost-read", 0, 60},
		{"stock that claims to keep the child's memory", claiming{policy.Lookup("stock"), mm.Forward | mm.OtherPins | mm.AIO, 0}, "child-changed", 0, 60},
		{"stock that claims to keep files", claiming{policy.Lookup("stock"), mm.Reverse | mm.AIO, 0}, "leak-to-disk", 0, 120},
		{"pg_gup without the copy at fork", claiming{policy.Lookup("pg_gup"), 0, mm.HookForkPTE}, "lost-read", 0, 60},
		{"pg_dontcow without the copy at fork", claiming{policy.Lookup("pg_dontcow"), 0, mm.HookForkPTE}, "lost-read", 0, 60},
		{"pg_gup without the forced write fault", claiming{policy.Lookup("pg_gup"), 0, mm.HookFollow}, "leak-to-child", 0, 120},
		{"sentry_pin_copy without the copy at fork", claiming{policy.Lookup("sentry_pin_copy"), 0, mm.HookForkPTE}, "lost-read", 0, 60},
	} {
		r, err := Search(t.Context(), Options{Policies: []mm.Policy{c.policy}, Seed: c.seed, Programs: c.n})
		require.NoError(t, err)
		assert.NotZero(t, r.Verdicts[c.policy.Name()][c.want], "%s: %v", c.name, r.Verdicts)
	}
}

// TestMinimise: what is left of a random program that loses a read is a pin, a fork, a store and a
// transfer.
func TestMinimise(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	stock := claiming{policy.Lookup("stock"), mm.Forward | mm.OtherPins, 0}
	p := parse(t, `P0 | P1 | C child | D device ;
B1 = A[512] | swapout A[0] | r = A[0] | await e ;
pin h A[0:1K] write fast | pwrite A[512:1K] at 512 | A[512] = 7 | @1 ;
set e | @1 | @1 | dma h[512] = 0x64 ;
fork C | S[0] = 9 | | ;
A[0] = 2 | | | ;
@1 | | | ;`)
	small, seen := Minimise(t.Context(), p, stock, hosts, "~lost-read", 40)
	require.NotNil(t, seen, "nothing is lost")
	_ = small
}
