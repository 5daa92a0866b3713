package claims

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// dropping is a policy some of whose hooks are never called, under its own name.
type dropping struct {
	mm.Policy
	drop mm.HookSet
}

func (w dropping) Hooks() mm.HookSet { return w.Policy.Hooks() &^ w.drop }

// noFast is a policy whose gup-fast always goes the slow way.
type noFast struct{ mm.Policy }

func (p noFast) Hooks() mm.HookSet     { return p.Policy.Hooks() | mm.HookFast }
func (noFast) FastBegin(*mm.Fast) bool { return false }

// barrier is a policy whose gup-fast has a barrier more for each call.
type barrier struct{ mm.Policy }

func (p barrier) Hooks() mm.HookSet { return p.Policy.Hooks() | mm.HookFast }
func (barrier) FastBegin(f *mm.Fast) bool {
	f.T.C.Fence()
	return true
}

// swapped returns the policies with one replaced.
func swapped(all []mm.Policy, name string, by func(mm.Policy) mm.Policy) []mm.Policy {
	for i, p := range all {
		if p.Name() == name {
			all[i] = by(p)
		}
	}
	return all
}

func drop(h mm.HookSet) func(mm.Policy) mm.Policy {
	return func(p mm.Policy) mm.Policy { return dropping{p, h} }
}

func settleWith(t *testing.T, hosts *kernel.Hosts, id string, policies []mm.Policy) Settled {
	t.Helper()
	c := Lookup(id)
	require.NotNil(t, c, id)
	s := settle(newLab(context.Background(), Options{Policies: policies}, hosts), *c)
	require.Empty(t, s.Error, id)
	return s
}

// TestCostVerdictsFollowThePolicies takes out of a policy what decides a claim: the verdict
// must be another one.
func TestCostVerdictsFollowThePolicies(t *testing.T) {
	if underRace {
		t.Skip("one task at a time: the race detector has nothing to see")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range []struct {
		id, policy, what string
		change           func(mm.Policy) mm.Policy
	}{
		{"C2", "pg_gup", "goes the slow way always", func(p mm.Policy) mm.Policy { return noFast{p} }},
		{"C3", "pg_gup", "takes plain references", drop(mm.HookFastTake)},
		{"C4", "pg_gup", "forks as stock", drop(mm.HookForkPTE)},
		{"C5", "pg_gup", "forks as stock", drop(mm.HookForkPTE)},
		{"C6", "pg_gup", "adds the references of a huge page at once", drop(mm.HookFastHuge)},
		{"C10", "vm_dontcow", "copies nothing behind the vma", drop(mm.HookForkVMA | mm.HookForkPTE)},
		{"C11", "pg_dontcow_v2", "asks no mark in gup-fast", drop(mm.HookFastTake)},
		{"C19", "directio_sem", "does not break COW", drop(mm.HookGUPVMA | mm.HookFast)},
		{"C20", "stock", "has a barrier more in gup-fast", func(p mm.Policy) mm.Policy { return barrier{p} }},
		{"C21", "directio_sem", "does not lock in fork", drop(mm.HookForkLock)},
		{"C22", "directio_sem", "does not lock in direct I/O", drop(mm.HookPin)},
		{"C23", "stock", "has no gup-fast", func(p mm.Policy) mm.Policy { return noFast{p} }},
		{"C24", "directed_cow", "copies for who writes", drop(mm.HookWP)},
		{"C26", "pg_dontcow", "does not break COW", drop(mm.HookGUPVMA | mm.HookTaken)},
		{"C34", "pg_gup", "copies neither small pages nor huge ones, and pg_dontcow forks as stock", drop(mm.HookForkPTE | mm.HookForkHuge)},
		{"C39", "ksm_fork", "forks as stock", drop(mm.HookForkPTE)},
	} {
		t.Run(c.id, func(t *testing.T) {
			was := settleWith(t, hosts, c.id, nil)
			policies := swapped(policy.All(), c.policy, c.change)
			if c.id == "C34" { // both sides of the dispute have to be right
				policies = swapped(policies, "pg_dontcow", drop(mm.HookForkPTE))
			}
			now := settleWith(t, hosts, c.id, policies)
			t.Logf("%s, and %s if %s %s", was.Verdict, now.Verdict, c.policy, c.what)
			assert.NotEqual(t, was.Verdict, now.Verdict)
		})
	}
}

// TestCostsRepeat: experiments in the timed regime come out the same to the last digit, on
// machines whose pools were used by others in between.
func TestCostsRepeat(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	ids := []string{"C3", "C6", "C10", "C11", "C19", "C21", "C26", "C34", "C39", "C5"}
	var first []Settled
	for _, id := range ids {
		first = append(first, settleWith(t, hosts, id, nil))
	}
	for i, id := range ids {
		assert.Equal(t, first[i].Result, settleWith(t, hosts, id, nil).Result, id)
	}
}
