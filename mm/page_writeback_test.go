package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Reclaim of a zone does not return while more is being written than vm.dirty_ratio
// allows. On a machine of 1 MiB without this, direct reclaim sends every page to the swap
// device, finds none that it can free and calls the OOM killer, with swap nearly empty.
func TestReclaimWaitsForWritesInFlight(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{CPUs: 1, Regime: sched.Timed}, bytes: 1 << 20})
	var pages []*page.Page
	left := uint64(0)
	r.run(func(u *user) {
		tk, pm := u.t, u.s.Pages
		tk.User = false
		for range 60 {
			p := pm.Alloc(tk, page.GFPKernel, 0, "test")
			pm.TestSetWriteback(tk, p)
			pages = append(pages, p)
		}
		device := r.m.NewTask(sched.TaskOptions{Name: "device"}, func(d *sched.Task) {
			for _, p := range pages {
				d.SleepFor(1_000_000)
				pm.EndPageWriteback(d, p)
				pm.WriteEnded(d)
			}
		})
		r.m.Start(tk, device)
		ts := stateOf(tk)
		sc := ts.scanControl(tk, page.GFPKernel, 0)
		before := r.m.Now()
		u.s.shrinkZone(tk, defPriority, 0, sc)
		sc.busy = false
		left = uint64(r.m.Trace().Gauge(trace.NrWriteback))
		assert.Less(t, r.m.Now()-before, uint64(congestionNap), "a nap ends with the next write")
		_, dirty := u.s.dirtyLimits()
		assert.EqualValues(t, dirty+dirty/10, left, "just as much is being written as may be")
		assert.Less(t, left, uint64(60))
		tk.User = true
	})
	r.m.Start(nil, r.m.NewTask(sched.TaskOptions{Name: "free"}, func(tk *sched.Task) {
		for _, p := range pages {
			r.s.Pages.Put(tk, p)
		}
	}))
	assert.NoError(t, r.m.Run().Err())
	r.end()
}

// A caller that may not start I/O waits once and goes on, because what it holds may be
// what the writing needs.
func TestReclaimWithoutIOWaitsOnce(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{CPUs: 1, Regime: sched.Timed}, bytes: 1 << 20})
	r.run(func(u *user) {
		tk, pm := u.t, u.s.Pages
		tk.User = false
		var pages [60]*page.Page
		for i := range pages {
			pages[i] = pm.Alloc(tk, page.GFPKernel, 0, "test")
			pm.TestSetWriteback(tk, pages[i])
		}
		before := tk.C.Now()
		u.s.throttleVMWriteout(tk, page.GFPNoIO)
		waited := r.m.Cost().CyclesToNS(tk.C.Now() - before)
		assert.InDelta(t, congestionNap, float64(waited), congestionNap/10)
		for _, p := range pages {
			pm.EndPageWriteback(tk, p)
			pm.Put(tk, p)
		}
		tk.User = true
	})
	r.end()
}
