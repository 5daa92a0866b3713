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
	policyFlag = flag.String("spec-policy", "", "the policy of TestProgram")
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
		if !Broken(w.Verdict) || p.known(pol, hosts, &w) != 0 {
			continue
		}
		small, seen := Minimise(context.Background(), p, pol, hosts, w.Verdict, 60, false)
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
	n, each := uint64(46), uint64(5)
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
		assert.Greater(t, seen[explore.Safe], uint64(4000))
	}
}

// TestProgram repeats one program under one policy, with more schedules.
func TestProgram(t *testing.T) {
	pol := policy.Lookup(*policyFlag)
	if pol == nil {
		t.Skip("-args -spec-seed 17 -spec-policy pg_gup repeats the program of seed 17 under pg_gup")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	p, err := Random(*seedFlag)
	require.NoError(t, err)
	t.Logf("%s%s", p.Text.Print(), p.Model)
	t.Logf("%s: %v", pol.Name(), unknown(t, p, pol, hosts, schedules, *seedFlag, "the program of the flags"))
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
q = A[512] | madvise A dofork | r = A[0] | await e ;
pin h A[0:1K] write fast | pwrite A[512:1K] at 512 | A[512] = 7 | @1 ;
set e | @1 | @1 | dma h[512] = 0x64 ;
fork C | S[0] = 9 | | ;
A[0] = 2 | | | ;
@1 | | | ;`)
	small, seen := Minimise(t.Context(), p, stock, hosts, "lost-read", 40, true)
	require.NotNil(t, seen, "nothing is lost")
	assert.Contains(t, seen.Detail, "P0:A[512] is 0x1, allowed 0x64")
	for _, k := range kinds(small.Text) {
		assert.Contains(t, []string{"dma write", "fork", "order", "pin write", "store"}, k, "%s", small.Text.Print())
	}
	assert.LessOrEqual(t, size(small.Text), 7, "%s", small.Text.Print())
	assert.Len(t, small.Text.Maps, 1)
	assert.Empty(t, small.Text.Pipes)
}
