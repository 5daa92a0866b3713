package spec

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// What is left of the random program of seed 4000590: a driver's write is lost in every run in which P1 stores before,
// and P0 reads from the disk what was in its place.
const (
	lostAndRead = `P0 | P1 | C child ;
 | pin h A write | ;
 | fork C | ;
pread A[0:512] at 512 | A[0] = 16 | ;
 | dma h[512] = 17 | ;
 | io_write A at 0 | ;`

	// The same, and P0 writes what it has read.
	lostAndWritten = `P0 | P1 | C child ;
 | pin h A write | ;
 | fork C | ;
pread A[0:512] at 512 | A[0] = 16 | ;
io_write A at 0 | dma h[512] = 17 | ;
A[0] = 18 | io_write A at 0 | ;`
)

// TestLossThroughDisk: rows 8 and 17 do not promise to keep what a driver writes. That the old byte comes to another
// place by way of the disk is no lost read and no stale write of theirs; who looks at the final state alone takes it for
// one. Row 9 keeps the driver's write, and nothing is wrong.
func TestLossThroughDisk(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, c := range []struct {
		rows, says string
		n          uint64
	}{
		{lostAndRead, "lost-read: P0:A[0] is 0x1, allowed 0x10 or 0x11 or 0xd1", 60},
		{lostAndWritten, "stale-write: disk[0] is 0x1, allowed 0x10 or 0x11 or 0x12 or 0xd1", 120},
	} {
		p := parse(t, c.rows)
		require.True(t, p.Model.returns())
		for _, name := range []string{"wp_page_count_noswap", "wp_page_count_noswap_fixed", "kosaki_v3"} {
			row := policy.Lookup(name)
			unseen := p.shown.Target(row, hosts)
			passes := map[string]bool{} // what passes for a hole in the final state alone
			run := unseen.Run
			unseen.Run = func(s sched.Strategy, ob sched.Observer) explore.Observation {
				o := run(s, ob)
				if f := p.Model.Judge(o, Promises(row)); f != nil && f.Promised(Promises(row)) {
					passes[f.String()] = true
				}
				return o
			}
			o := explore.Options{Schedules: c.n, Seed: 1, Workers: 1}
			_, err := explore.Search(t.Context(), *unseen, o)
			require.NoError(t, err)
			assert.Contains(t, passes, c.says, name)
			rep, err := explore.Search(t.Context(), *p.Target(row, hosts), o)
			require.NoError(t, err)
			for v := range rep.ByVerdict {
				assert.False(t, Broken(v), "%s: %v", name, rep.ByVerdict)
			}
			assert.NotZero(t, rep.ByVerdict[unpromised+string(LostRead)], "%s: %v", name, rep.ByVerdict)
		}
		rep, err := explore.Search(t.Context(), *p.Target(policy.Lookup("pinned_ptes_after"), hosts), explore.Options{Schedules: c.n, Seed: 1, Workers: 1})
		require.NoError(t, err)
		assert.Equal(t, map[string]uint64{explore.Safe: c.n}, rep.ByVerdict)
	}
}

// TestLossBesideDisk: a read that is lost in a program in which things come back from the disk is a lost read, also where
// a driver's write has been lost and nobody promises to keep that.
func TestLossBesideDisk(t *testing.T) {
	if race {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	p := parse(t, `P0 | P1 | C child ;
pin h A write | await e | ;
io_read A[0:512] at 512 | fork C | ;
set e | A[1K] = 16 | ;
io_wait | dma h[512] = 17 | ;
 | io_write A[512:1K] at 512 | ;`)
	require.True(t, p.Model.returns())
	row := claiming{policy.Lookup("stock"), mm.Forward | mm.AIO, 0}
	rep, err := explore.Search(t.Context(), *p.Target(row, hosts), explore.Options{Schedules: 60, Seed: 1, Workers: 1})
	require.NoError(t, err)
	w := rep.Witness(string(LostRead))
	require.NotNil(t, w, "%v", rep.ByVerdict)
	assert.Equal(t, "lost-read: P0:A[0] is 0x1, allowed 0x11 or 0xd1", w.Detail)
}

// TestTraffic: what a read brings counts only if it was written in the run.
func TestTraffic(t *testing.T) {
	tr := watch(nil)
	_, ok := tr.brought(0, 512, always)
	assert.False(t, ok, "nothing was read")
	tr.reads(512)
	_, ok = tr.brought(0, 512, always)
	assert.False(t, ok, "what was read was there from the beginning")
	tr = watch(nil)
	tr.writes(512, 0)
	tr.writes(512, 7)
	tr.reads(512)
	since, ok := tr.brought(7, 512, always)
	assert.True(t, ok)
	assert.Equal(t, 2, since)
	_, ok = tr.brought(7, 512, 2)
	assert.False(t, ok, "it was read later")
	_, ok = tr.brought(7, 0, always)
	assert.False(t, ok, "it was read elsewhere")
}

// TestJudgeThroughDisk: what was lost elsewhere counts only if the run shows that, and that the disk's byte was
// the one that is found, was written in the run, and was brought, by each read, in time.
func TestJudgeThroughDisk(t *testing.T) {
	const (
		dio     = mm.Forward
		drivers = dio | mm.OtherPins | mm.AIO | mm.Reverse
	)
	all := func(in ...func(*traffic)) []func(*traffic) { return in }
	out := func(off int64, v byte) func(*traffic) { return func(tr *traffic) { tr.writes(off, v) } }
	in := func(off int64) func(*traffic) { return func(tr *traffic) { tr.reads(off) } }
	stored := strings.Replace(lostAndRead, " | pin h", " | A[512] = 5 | ;\n | pin h", 1)
	twice := strings.Replace(lostAndWritten, "A[0] = 16 | ;", "A[0] = 16 | pread A[0:512] at 0 ;", 1)
	forked := strings.ReplaceAll(strings.Replace(lostAndRead, "C child", "C child | G child", 1), " | ;", " | | ;")
	const read, written = "P0:A[0]=0x1; P0:A[512]=0x1; disk[512]=0x1;", "disk[0]=0x1; P0:A[512]=0x1; disk[512]=0x1;"
	for _, c := range []struct {
		name, rows, state string
		run               []func(*traffic)
		kept              bool // it stays what the final state says
	}{
		{"the read brings what was lost", lostAndRead, read, all(out(512, 1), in(512)), false},
		{"the loss is seen in memory alone", lostAndRead, "P0:A[0]=0x1; P0:A[512]=0x1;", all(out(512, 1), in(512)), false},
		{"it is seen on the disk alone", lostAndRead, "P0:A[0]=0x1; disk[512]=0x1;", all(out(512, 1), in(512)), false},
		{"nothing was watched", lostAndRead, read, nil, true},
		{"the read brings what it should", lostAndRead, read, all(in(512), out(512, 1)), true},
		{"the read brings something else", lostAndRead, read, all(out(512, 17), in(512), out(512, 1)), true},
		{"one of two reads brings something else", lostAndRead, read, all(in(512), out(512, 1), in(512)), true},
		{"another place is read", lostAndRead, read, all(out(512, 1), in(0)), true},
		{"nothing else is lost in the end", lostAndRead, "P0:A[0]=0x1; P0:A[512]=0x11; disk[512]=0x11;", all(out(512, 1), in(512)), true},
		{"another value is in the place of what was lost", stored, "P0:A[0]=0x1; P0:A[512]=0x5; disk[512]=0x5;", all(out(512, 1), in(512)), true},
		{"it comes from the disk twice", twice, "C:A[0]=0x1; P0:A[512]=0x1;", all(out(512, 1), in(512), out(0, 1), in(0)), false},
		{"it is written again", lostAndWritten, written, all(out(512, 1), in(512), out(0, 1)), false},
		{"it is written before it is read", lostAndWritten, written, all(out(512, 1), out(0, 1), in(512)), true},
		{"something else is written last", lostAndWritten, written, all(out(512, 1), in(512), out(0, 16)), true},
		{"a load behind the read", lostAndRead + "\nr = A[0] | | ;", "P0:r=0x1; P0:A[512]=0x1;", all(out(512, 1), in(512)), false},
		{"a load that may come before it", lostAndRead + "\n | r = A[0] | ;", "P1:r=0x1; P0:A[512]=0x1;", all(out(512, 1), in(512)), true},
		{"a fork behind the read", forked + "\nfork G | | | ;", "G:A[0]=0x1; P0:A[512]=0x1;", all(out(512, 1), in(512)), false},
		{"a fork that may come before it", forked + "\n | fork G | | ;", "G:A[0]=0x1; P0:A[512]=0x1;", all(out(512, 1), in(512)), true},
	} {
		m := parse(t, c.rows).Model
		var tr *traffic
		if c.run != nil {
			tr = watch(nil)
			for _, f := range c.run {
				f(tr)
			}
		}
		f := m.judge(":>"+c.state, "", dio|mm.AIO|mm.Reverse, tr)
		if !assert.NotNil(t, f, c.name) {
			continue
		}
		assert.Equal(t, c.kept, f.Promised(dio|mm.AIO|mm.Reverse), "%s: %s", c.name, f)
		assert.True(t, f.Promised(drivers), "%s: %s", c.name, f)
	}
}
