package kernel

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

var rewriteOOM = flag.Bool("rewrite", false, "rewrite testdata")

// The report of the OOM killer, word for word, and /proc/meminfo after it: the timed regime
// gives the same numbers on every host. go test ./kernel -run OOMReport -rewrite
func TestOOMReport(t *testing.T) {
	o := small(Options{CPUs: 2, Regime: sched.Timed, Events: true})
	o.Disks[0].Size = 64 << 12
	m := boot(t, o)
	m.MM().SetOvercommit(mm.OvercommitAlways, 0)
	out := m.Run(func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		_ = th.MustMmapShared(4 << 12)
		a := th.MustMmap(20 << 12)
		th.Fill(a, 20<<12, 3)
		_, err := th.Fork(func(c *Thread) {
			b := c.MustMmap(4000 << 12)
			for i := range uint64(4000) {
				c.Store64(b+i<<12, i)
			}
		})
		require.NoError(t, err)
		_, _, err = th.Wait(-1)
		require.NoError(t, err)
	})
	require.NoError(t, out.Err())
	require.Len(t, out.Victims, 1)
	seen := map[trace.EventKind]trace.Event{}
	for _, e := range m.Trace().Events() {
		seen[e.Kind] = e
	}
	for _, k := range []trace.EventKind{trace.EvReclaimBegin, trace.EvReclaimEnd, trace.EvUnmap, trace.EvSwapOut, trace.EvKswapdWake} {
		assert.Contains(t, seen, k, "%v", k)
	}
	v := out.Victims[0]
	assert.Equal(t, [3]uint64{uint64(v.PID), v.Score, v.Pages}, [3]uint64{seen[trace.EvOOMKill].A, seen[trace.EvOOMKill].B, seen[trace.EvOOMKill].C})
	got := v.Report + "\n" + m.Meminfo()
	const golden = "testdata/oom.txt"
	if *rewriteOOM {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

// The report shows whose a process is: root's, or nobody's if it is Limits.Unprivileged.
func TestOOMReportShowsUsers(t *testing.T) {
	m := boot(t, small(Options{CPUs: 1, Regime: sched.Timed}))
	m.MM().SetOvercommit(mm.OvercommitAlways, 0)
	out := m.Run(func(th *Thread) {
		_, err := th.Fork(func(c *Thread) {
			c.p.space.Limits.Unprivileged = true
			b := c.MustMmap(4000 << 12)
			c.Fill(b, 4000<<12, 1)
		})
		require.NoError(t, err)
		_, _, err = th.Wait(-1)
		require.NoError(t, err)
	})
	require.NoError(t, out.Err())
	require.Len(t, out.Victims, 1)
	assert.Regexp(t, `(?m)^\[    1\]     0     1 .* init$`, out.Victims[0].Report)
	assert.Regexp(t, `(?m)^\[    2\] 65534     2 .* init.2$`, out.Victims[0].Report)
}

// Who turns swap off goes first, however small (PF_SWAPOFF); a process without root's
// capabilities counts sixteen times as much as one with.
func TestBadness(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Regime: sched.Timed, NoStack: true})
	out := m.Run(func(th *Thread) {
		th.MustMmap(160 << 12)
		assert.EqualValues(t, 10, th.p.badnessLocked(th.p.space))
		th.p.space.Limits.Unprivileged = true
		assert.EqualValues(t, 160, th.p.badnessLocked(th.p.space))
		th.p.space.Limits.Unprivileged = false
		_, err := th.Fork(func(c *Thread) {
			c.MustMmap(40 << 12)
			parent := th.p
			assert.EqualValues(t, (160+200/2+1)/16, parent.badnessLocked(parent.space), "half of the child, and one")
		})
		require.NoError(t, err)
		_, _, err = th.Wait(-1)
		require.NoError(t, err)
	})
	require.NoError(t, out.Err())
}
