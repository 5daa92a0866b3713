package matrix

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// withParams is a workload's small form with parameters, under a policy.
func withParams(t *testing.T, hosts *kernel.Hosts, name, params, pol string) *explore.Target {
	t.Helper()
	w := workload.Lookup(name)
	v, err := w.Parse(params, true)
	require.NoError(t, err)
	return Target(w, v, policy.Lookup(pol), hosts)
}

// TestSearchChoosesFailures: a fork that runs out of memory under pg_gup leaves a map count
// behind (docs/findings.md, 24). One failure at the right moment does it, and depth-first search
// finds the moment; the token repeats it, and minimised it has that failure and what
// brings the pin before it. Stock loses nothing whatever fails.
func TestSearchChoosesFailures(t *testing.T) {
	if Race {
		t.Skip("long searches of machines that one goroutine runs")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	target := withParams(t, hosts, "pin_fork", "fail=1", "pg_gup")
	r, err := explore.Exhaust(context.Background(), *target, explore.ExhaustOptions{Preemptions: 2, Cut: true, Schedules: 3000})
	require.NoError(t, err)
	w := r.Witness("bug")
	require.NotNil(t, w, "%v", r.ByVerdict)
	tok, err := explore.ParseToken(w.Token.String())
	require.NoError(t, err)
	assert.Equal(t, []explore.Param{{Key: "fail", Value: "1"}}, tok.Params)
	obs := target.Run(tok.Spec.Strategy(), nil)
	assert.Equal(t, "bug", obs.Verdict)
	assert.Equal(t, obs.State, target.Run(tok.Spec.Strategy(), nil).State)
	least, err := explore.Shrink(context.Background(), *target, tok.Spec, explore.ShrinkOptions{Runs: 600})
	require.NoError(t, err)
	assert.Equal(t, 1, failures(least.Recording))
	assert.LessOrEqual(t, least.After.Departures, 2)
	none, err := explore.Exhaust(context.Background(), *withParams(t, hosts, "pin_fork", "", "pg_gup"),
		explore.ExhaustOptions{Preemptions: 2, Cut: true, Schedules: 1000})
	require.NoError(t, err)
	assert.Equal(t, none.Schedules, none.ByVerdict[explore.Safe], "without a failure: %v", none.ByVerdict)
	for _, params := range []string{"fail=1", "fail=3"} {
		s, err := explore.Search(context.Background(), *withParams(t, hosts, "pin_fork", params, "stock"), explore.Options{Schedules: 400, Seed: 1})
		require.NoError(t, err)
		for _, v := range []string{"bug", "leak", "deadlock", "livelock", Broken} {
			assert.Zero(t, s.ByVerdict[v], "stock, %s: %v", params, s.ByVerdict)
		}
		assert.NotZero(t, s.ByVerdict["oom"], "a failure that a fault met")
	}
}

// failures counts the allocations that a schedule makes fail before everybody is through.
func failures(r *explore.Recording) int {
	last := 0
	for i := range r.Decisions {
		if r.Decisions[i].Actor.CPU() >= 0 {
			last = i
		}
	}
	return count(r.Decisions[:last], func(d explore.Decision) bool { return d.Op == x86.OpFail })
}

// count counts the decisions of a schedule that are of a kind.
func count(ds []explore.Decision, is func(explore.Decision) bool) (n int) {
	for _, d := range ds {
		if is(d) {
			n++
		}
	}
	return n
}

// TestStoreBuffersAreAParameter: a schedule with store buffers has steps of buffers, its token says
// tso, and repeats; there are none without.
func TestStoreBuffersAreAParameter(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	drains := func(target *explore.Target, s explore.Spec) (n int) {
		_, rec := explore.Record(*target, s.Strategy())
		for cpu := range 4 {
			n += count(rec.Decisions, func(d explore.Decision) bool { return d.Actor == explore.EventActor(sched.DrainSeq(cpu)) })
		}
		return n
	}
	for _, params := range []string{"", "tso=1"} {
		target := withParams(t, hosts, "pin_fork", params, "stock")
		r, err := explore.Search(context.Background(), *target, explore.Options{Schedules: 300, Seed: 1})
		require.NoError(t, err)
		w := r.Witness("lost-read")
		require.NotNil(t, w)
		if params == "" {
			assert.Empty(t, w.Token.Params)
			assert.Zero(t, drains(target, w.Spec))
			continue
		}
		assert.Equal(t, []explore.Param{{Key: "tso", Value: "1"}}, w.Token.Params)
		assert.Positive(t, drains(target, w.Spec))
		assert.Equal(t, "lost-read", target.Run(w.Spec.Strategy(), nil).Verdict)
	}
	for _, name := range []string{"stock", "pg_gup", "pg_dontcow"} {
		n, err := explore.CheckIndependence(*withParams(t, hosts, "forkscrew", "tso=1,fail=1", name), 1, 6, 6)
		assert.NoError(t, err, name)
		assert.Positive(t, n)
	}
}

// TestStateDoesNotNameFrames: the same leak of another frame is the same final state.
func TestStateDoesNotNameFrames(t *testing.T) {
	leak := func(note string) uint64 {
		return State(&workload.Outcome{Findings: []workload.Finding{{Verdict: workload.Leak, Want: -1, Got: -1, Note: note}}})
	}
	one := leak("pfn 0x5 order 0: count 1; same as page 5, not page 7")
	assert.Equal(t, one, leak("pfn 0x1f order 0: count 1; same as page 31, not page 4"))
	assert.NotEqual(t, one, leak("pfn 0x5 order 0: count 1; same as page 6, not page 7"))
	assert.NotEqual(t, one, leak("pfn 0x5 order 0: count 2; same as page 5, not page 7"))
}

// TestStateDoesNotCountFreeMemory: the report of a process that was killed for want of memory says how much
// there was, which is no part of what happened; who was killed is.
func TestStateDoesNotCountFreeMemory(t *testing.T) {
	killed := func(note string) uint64 {
		return State(&workload.Outcome{Findings: []workload.Finding{{Verdict: workload.OOM, Want: -1, Got: -1, Note: note}}})
	}
	one := killed("process 1 (init) killed, 1 pages mapped, 499 free")
	assert.Equal(t, one, killed("process 1 (init) killed, 1 pages mapped, 501 free"))
	assert.Equal(t, one, killed("process 1 (init) killed, 2 pages mapped, 501 free"))
	assert.NotEqual(t, one, killed("process 2 (init) killed, 1 pages mapped, 499 free"))
}

// TestMachineParametersNeedTheirRegime: what a search chooses makes no sense elsewhere.
func TestMachineParametersNeedTheirRegime(t *testing.T) {
	w := workload.Lookup("pin_fork")
	for _, c := range []struct {
		params string
		regime sched.Regime
		err    string
	}{
		{"tso=1", sched.Parallel, "pin_fork: tso=1 is for searches, in the free regime; this is the parallel one"},
		{"fail=2", sched.Timed, "pin_fork: fail=2 is for searches, in the free regime; this is the timed one"},
		{"races=1", sched.Parallel, "races=1 is for the deterministic regimes"},
		{"races=1", sched.Timed, ""},
	} {
		v, err := w.Parse(c.params, true)
		require.NoError(t, err)
		_, err = workload.Execute(w, workload.Options{Small: true, Regime: c.regime, Values: v})
		if c.err == "" {
			assert.NoError(t, err)
		} else {
			assert.ErrorContains(t, err, c.err)
		}
	}
	_, err := w.Parse("fail=4", true)
	assert.ErrorContains(t, err, "fail is 4, must be 0 to 3")
}
