package spec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// head is what the programs of these tests have.
const head = `cowlab model
"a program"
machine disk=4K swap=64K
map A 1 page private
map S 1 page shared
pipe p
init A = 1
init disk[0:512] = 0xd0
init disk[512:1K] = 0xd1
`

func parse(t *testing.T, rows string) *Program {
	t.Helper()
	s, err := scenarios.Parse("model", head+rows+"\nnever bug\n")
	require.NoError(t, err)
	p, err := NewProgram(s)
	require.NoError(t, err)
	return p
}

// TestModel is the model against programs whose meaning is plain.
func TestModel(t *testing.T) {
	for _, c := range []struct{ name, rows, want string }{
		{"a store", "P0 ;\nA[0] = 2 ;", "P0:A[0]=0x2 P0:A[512]=0x1"},
		{"two threads store", "P0 | P1 ;\nA[0] = 2 | A[0] = 3 ;", "P0:A[0]=0x2 or 0x3"},
		{"in order", "P0 | P1 ;\nA[0] = 2 | @1 ;\n@1 | A[0] = 3 ;", "P0:A[0]=0x3"},
		{"fork copies", "P0 | C child ;\nfork C | r = A[0] ;\nA[0] = 2 | A[512] = 3 ;", "C:r=0x1 C:A[0]=0x1 C:A[512]=0x3 P0:A[0]=0x2 P0:A[512]=0x1"},
		{"fork beside a store", "P0 | P1 | C child ;\nfork C | A[0] = 2 | ;", "P0:A[0]=0x2 C:A[0]=0x1 or 0x2"},
		{"shared memory", "P0 | C child ;\nfork C | S[0] = 4 ;", "P0:S[0]=0x4 C:S[0]=0x4"},
		{"shared memory, waited for", "P0 | C child ;\nfork C | S[0] = 4 ;\nwait C | exit ;", "P0:S[0]=0x4"},
		{"set and await", "P0 | P1 ;\nA[0] = 2 | await e ;\nset e | r = A[0] ;", "P1:r=0x2"},
		{"a read arrives", "P0 ;\npread A[0:512] at 512 ;\nA[512] = 3 ;", "P0:A[0]=0xd1 P0:A[512]=0x3"},
		{"a read in flight", "P0 ;\nio_read A at 0 ;\nr = A[0] ;\nio_wait ;\nq = A[0] ;", "P0:r=0x1 or 0xd0 P0:q=0xd0"},
		{"a read in flight and a fork", "P0 | C child ;\nio_read A at 0 | ;\nfork C | ;\nA[512] = 9 | ;", "P0:A[0]=0xd0 C:A[0]=0x1 or 0xd0 P0:A[512]=0x9 or 0xd1"},
		{"a write in flight", "P0 ;\nio_write A[0:512] at 0 ;\nA[0] = 2 ;", "disk[0]=0x1 or 0x2 P0:A[0]=0x2"},
		{"a write of a child", "P0 | C child ;\nfork C | pwrite A[0:512] at 0 ;\nA[0] = 2 | ;", "disk[0]=0x1 P0:A[0]=0x2"},
		{"disk to disk", "P0 ;\npread A[0:512] at 512 ;\npwrite A[0:512] at 0 ;", "disk[0]=0xd1"},
		{"a pin", "P0 | C child | D device ;\npin h A write | | await e ;\nfork C | | dma h[512] = 0x64 ;\nset e | | ;", "P0:A[512]=0x64 C:A[512]=0x1 P0:A[0]=0x1"},
		{"a pin of replaced memory", "P0 ;\npin h A write ;\nmadvise A dontneed ;\ndma h[0] = 7 ;", "P0:A[0]=0x0 or 0x7 P0:A[512]=0x0"},
		{"a pin for reading", "P0 | C child ;\npin h A read | ;\nfork C | A[0] = 3 ;\nA[0] = 2 | ;\nr = dma h[0] | ;", "P0:r=0x2 C:A[0]=0x3"},
		{"a pipe", "P0 | C child ;\nvmsplice p A[0] | r = pipe_read p 1 ;\nfork C | A[0] = 9 ;\nA[0] = 2 | ;", "C:r=0x1 or 0x2 C:A[0]=0x9"},
		{"a debugger", "P0 | C child ;\nfork C | ;\npoke C:A[0] = 5 | ;\nr = peek C:A[0] | ;", "P0:r=0x5 C:A[0]=0x5 P0:A[0]=0x1"},
		{"moved memory", "P0 ;\nmremap A ;\nA[0] = 2 ;", "P0:A[0]=0x2 P0:A[512]=0x1"},
		{"memory that is not inherited", "P0 | C child ;\nmadvise A dontfork | ;\nfork C | ;", "P0:A[0]=0x1 C:A[0]=none"},
		{"new memory", "P0 | C child ;\nmmap M 1 page private | ;\nM[0] = 2 | ;\nfork C | ;\nM[0] = 3 | ;", "P0:M[0]=0x3 C:M[0]=0x2"},
		{"reclaim means nothing", "P0 ;\nA[0] = 2 ;\nswapout A ;\nreclaim ;", "P0:A[0]=0x2"},
	} {
		p := parse(t, c.rows)
		assert.Empty(t, p.Model.Vague, c.name)
		got := map[string]string{}
		for _, x := range p.Model.Terms {
			got[x.Text] = x.Allowed.String()
		}
		for part := range strings.SplitSeq(strings.ReplaceAll(c.want, " or ", "_or_"), " ") {
			name, want, _ := strings.Cut(strings.ReplaceAll(part, "_or_", " or "), "=")
			if want == "none" {
				assert.NotContains(t, got, name, c.name)
				continue
			}
			assert.Equal(t, want, got[name], "%s: %s", c.name, name)
		}
	}
}

// TestVague: where nobody can say what a program does, the model does not.
func TestVague(t *testing.T) {
	for _, c := range []struct{ rows, why string }{
		{"P0 | P1 ;\nA[0] = 2 | munmap A ;", "may be killed"},
		{"P0 ;\nmunmap A ;\nr = A[0] ;", "may be killed"},
		{"P0 ;\nmprotect A r ;\nA[0] = 2 ;", "may be killed"},
		{"P0 | P1 ;\npin h A write | mremap A ;", "pin h may fail"},
		{"P0 | P1 | D device ;\npin h A write | | dma h[0] = 1 ;", "before h is pinned"},
		{"P0 | P1 | C child ;\nfork C | madvise A dontfork | ;", "who inherits A"},
		{"P0 | C child ;\nvfork C | exit ;", "vfork"},
		{"P0 | P1 | C child ;\nr = peek C:A[0] | fork C | ;", "may not be there"},
		{"P0 | P1 ;\nset e | await f ;\nawait g | set g ;\nset f | ;", "wait for each other"},
	} {
		assert.Contains(t, parse(t, c.rows).Model.Vague, c.why, c.rows)
	}
}

// TestJudge: states that the model does not allow are called by what is wrong in them.
func TestJudge(t *testing.T) {
	const forward = mm.Forward | mm.OtherPins
	for _, c := range []struct {
		rows, state string
		want        Verdict
		needs       mm.Guarantee
	}{
		{"P0 | C child ;\npin h A write | ;\nfork C | ;\nA[0] = 2 | ;\ndma h[512] = 0x64 | ;", "P0:A[512]=0x1;", LostRead, forward},
		{"P0 | C child ;\npin h A write | ;\nfork C | ;\nA[0] = 2 | ;\ndma h[512] = 0x64 | ;", "C:A[512]=0x64;", ChildChanged, forward},
		{"P0 | C child ;\npin h A write pin | ;\nfork C | ;\nA[0] = 2 | ;\ndma h[512] = 0x64 | ;", "P0:A[512]=0x1;", LostRead, follWrite},
		{"P0 | C child ;\nio_read A at 0 | ;\nfork C | ;\nio_wait | ;", "P0:A[0]=0x1;", LostRead, mm.Forward | mm.AIO},
		{"P0 ;\nswapout A ;\npread A at 0 ;", "P0:A[0]=0x1;", LostRead, mm.Forward | mm.UnderSwap},
		{"P0 | C child ;\nfork C | A[0] = 7 ;\npwrite A[0:512] at 0 | ;", "disk[0]=0x7;", LeakToDisk, mm.Reverse},
		{"P0 | C child ;\nfork C | A[0] = 7 ;\nA[0] = 2 | ;\npwrite A[0:512] at 0 | ;", "disk[0]=0x1;", StaleWrite, 0},
		// An older value of one's own; or the child's, which has read the same from the disk into the page that is written out.
		{"P0 ;\npread A[0:512] at 512 ;\nA[0] = 2 ;\npwrite A[0:512] at 0 ;", "disk[0]=0xd1;", StaleWrite, mm.Forward},
		{"P0 | C child ;\npread A[0:512] at 512 | ;\nA[0] = 2 | ;\nfork C | pread A[0:512] at 512 ;\npwrite A[0:512] at 0 | ;", "disk[0]=0xd1;", StaleWrite, mm.Forward | mm.Reverse},
		{"P0 | C child ;\nfork C | r = pipe_read p 1 ;\nvmsplice p A[0] | A[0] = 9 ;", "C:r=0x9;", LeakToChild, mm.Disclosure | mm.OtherPins},
		{"P0 | C child ;\nfork C | A[0] = 7 ;", "P0:A[0]=0x7;", Shared, 0},
		{"P0 | P1 | C child ;\nA[512] = 2 | fork C | A[0] = 7 ;\n | io_write A[0:512] at 0 | ;\n | io_read A[512:1K] at 0 | ;", "P0:A[512]=0x7;", LeakToDisk, mm.Forward | mm.Reverse | mm.AIO},
		{"P0 | P1 | C child ;\nA[512] = 2 | fork C | A[512] = 7 ;\n | io_write A[0:512] at 0 | ;\n | io_read A[512:1K] at 0 | ;", "P0:A[512]=0x7;", Shared, 0},
		{"P0 | C child ;\nfork C | A[0] = 7 ;\nio_write A[0:512] at 0 | io_read A at 0 ;", "C:A[0]=0x7;", LostRead, mm.Forward | mm.Reverse | mm.AIO},
		{"P0 | C child ;\nfork C | ;\nA[0] = 2 | ;", "P0:A[0]=0x1;", LostStore, 0},
		{"P0 ;\npin h A read ;\nA[0] = 2 ;\nr = dma h[0] ;", "P0:r=0x1;", StalePin, mm.Nobody},
		{"P0 ;\nn = pread A at 0 ;", "P0:n=0x200;", ShortCall, 0},
		{"P0 ;\nA[0] = 2 ;", "P0:A[0]=0x2; bug;", Bug, 0},
		{"P0 ;\nA[0] = 2 ;", "P0:A[0]=0x2; leak;", Leak, 0},
		{"P0 ;\nA[0] = 2 ;", "P0:A[0]=0x1; leak;", LostStore, 0},
		{"P0 ;\nA[0] = 2 ;", "P0:A[0]=0x2;", "", 0},
		{"P0 ;\nA[0] = 2 ;", "P0:A[0]=?;", "", 0},
		{"P0 ;\nr = pipe_read p 1 ;", "deadlock;", "", 0},
		{"P0 | P1 ;\nvmsplice p A[0] | r = pipe_read p 1 ;\nq = pipe_read p 1 | ;", "deadlock;", "", 0},
		{"P0 ;\nA[0] = 2 ;", "deadlock;", Deadlock, 0},
	} {
		f := parse(t, c.rows).Model.judge(":>"+c.state, "", 0, nil)
		if c.want == "" {
			assert.Nil(t, f, "%s: %s", c.rows, c.state)
		} else if assert.NotNil(t, f, "%s: %s", c.rows, c.state) {
			assert.Equal(t, c.want, f.Verdict, "%s: %s", c.rows, c.state)
			assert.Equal(t, c.needs, f.Needs, "%s: %s", c.rows, c.state)
		}
	}
}

// TestShippedScenarios: the scenarios that ship are programs too. What the model says of
// them holds under policies that claim it, but for holes that are known.
func TestShippedScenarios(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	all, err := scenarios.All()
	require.NoError(t, err)
	modelled, terms := 0, 0
	for i, s := range all {
		p := bare(t, s)
		if p.Model.Vague == "" {
			modelled++
			terms += len(p.Model.Terms)
		}
		names, schedules := []string{"stock", "pg_gup", "sentry_pin_copy", "anon_exclusive"}, uint64(6)
		if race {
			names, schedules = names[i%4:i%4+1], 2
		}
		for _, name := range names {
			unknown(t, p, policy.Lookup(name), hosts, schedules, 1, fmt.Sprintf("cowlab litmus %s -policies %s", s.Name, name))
		}
	}
	assert.Greater(t, modelled, 70)
	assert.Greater(t, terms, 250)
}
