package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// choosing lets pages be reclaimed as soon as they are on offer, and the reclaimer act before
// everybody else.
type choosing struct{ offered map[x86.ObjID]int }

func (choosing) Begin(int) {}

func (s choosing) Pick(ch *sched.Choice) int {
	for i := range ch.Enabled {
		if a := &ch.Enabled[i]; a.Op == x86.OpReclaim {
			s.offered[a.Obj]++
			return i
		}
	}
	for i := range ch.Enabled {
		if ch.Enabled[i].CPU == 2 || ch.Enabled[i].CPU < 0 {
			return i
		}
	}
	return explore.Default(ch)
}

// What a search chooses is reclaimed to the end: written, freed, and read again by who wants
// it. A pinned page loses its pte and stays. A page that has come since is not on offer; as many are
// reclaimed as may be. The machine has swap by itself.
func TestReclaimEvents(t *testing.T) {
	for _, c := range []struct {
		n    int
		pin  bool
		gone int
	}{{1, false, 1}, {2, false, 2}, {3, false, 3}, {1, true, 1}} {
		s := choosing{map[x86.ObjID]int{}}
		m := boot(t, Options{CPUs: 2, Regime: sched.Free, NoStack: true, Strategy: s, ReclaimEvents: c.n})
		assert.Equal(t, 3, m.Options().CPUs)
		pages, was := m.Trace().Sum(trace.PSwpOut), uint64(0)
		out := m.Run(func(th *Thread) {
			a := th.MustMmap(4 * x86.PageSize)
			for i := range uint64(3) {
				th.Store64(a+i<<x86.PageShift, 7+i)
			}
			var reg *Registration
			if c.pin {
				var err error
				reg, err = th.RegisterMemory(a, 3*x86.PageSize, RegisterOptions{Write: true, Fast: true, Kind: mm.PinPin})
				require.NoError(t, err)
			}
			m.OfferReclaim()
			th.Store64(a+3<<x86.PageShift, 10)
			gone := 0
			for i := range uint64(4) {
				if th.MM().PeekPTE(a + i<<x86.PageShift).IsSwap() {
					gone++
				}
			}
			assert.Equal(t, c.gone, gone, "%+v", c)
			assert.True(t, th.MM().PeekPTE(a+3<<x86.PageShift).Present(), "a page that was on no list")
			pages, was = m.Trace().Sum(trace.PSwpOut), m.Trace().Sum(trace.PSwpIn)
			for i := range uint64(4) {
				assert.Equal(t, 7+i, th.Load64(a+i<<x86.PageShift))
			}
			if c.pin {
				assert.NoError(t, th.UnregisterMemory(reg))
			}
		})
		require.NoError(t, out.Err())
		want := uint64(c.gone)
		if c.pin {
			want = 0
		}
		assert.Equal(t, want, pages, "written: %+v", c)
		assert.Equal(t, want > 0, m.Trace().Sum(trace.PSwpIn) > was, "read again: %+v", c)
		assert.Len(t, s.offered, 3, "%+v", c)
		for o, n := range s.offered {
			assert.Equal(t, 1, n, "%v", o)
		}
		atRest(t, m)
	}
}

// feet notes how steps touch an object.
type feet struct {
	obj  x86.ObjID
	seen map[x86.Access]int
}

func (feet) Begin(int) {}

func (f feet) Pick(ch *sched.Choice) int {
	for _, t := range ch.Foot.Touches {
		if t.Obj == f.obj {
			f.seen[t.How]++
		}
	}
	return explore.Default(ch)
}

// Who submits to a swap disk, and who unplugs it for all, say so: else two CPUs that swap pass for
// independent where one unplugs what the other has submitted.
func TestUnpluggingIsALook(t *testing.T) {
	f := feet{x86.Obj(x86.ClassWord, 1<<44), map[x86.Access]int{}}
	m := boot(t, Options{Regime: sched.Free, NoStack: true, Strategy: f, Disks: []Disk{{Name: "swap", Size: 64 << 10, Swap: true}}})
	require.NoError(t, m.Run(func(th *Thread) {
		require.NoError(t, th.Swapon("/dev/swap", 0))
		a := th.MustMmap(x86.PageSize)
		th.Store64(a, 1)
		require.NoError(t, th.Madvise(a, x86.PageSize, mm.MadvPageout))
	}).Err())
	assert.GreaterOrEqual(t, f.seen[x86.AccWrite], 2, "submitted, and unplugged")
	assert.Positive(t, f.seen[x86.AccRead])
	atRest(t, m)
}

// Who says that the race begins, or ends, on a machine without the option says nothing.
func TestReclaimEventsAreAnOption(t *testing.T) {
	m := boot(t, Options{CPUs: 2, Regime: sched.Free})
	require.NoError(t, m.Run(func(*Thread) { m.OfferReclaim(); m.AwaitReclaim() }).Err())
	assert.Equal(t, 2, m.Options().CPUs)
	assert.Nil(t, m.Disk(reclaimSwap))
	for _, c := range []struct {
		o   Options
		err string
	}{
		{Options{ReclaimEvents: 1}, "ReclaimEvents only makes sense in the free regime, not in the parallel one"},
		{Options{ReclaimEvents: 4, Regime: sched.Free}, "ReclaimEvents is 4, must be 0 to 3"},
		{Options{ReclaimEvents: 1, CPUs: sched.MaxCPUs, Regime: sched.Free}, "CPUs is 64, the limit is 63 (ReclaimEvents takes one more)"},
	} {
		_, err := Boot(c.o)
		assert.ErrorContains(t, err, c.err)
	}
}
