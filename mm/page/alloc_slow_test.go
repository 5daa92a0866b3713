package page

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/sched"
)

// fill takes all memory that GFPKernel may have.
func fill(tk *sched.Task, m *Map) (live []*Page) {
	for {
		p := m.Alloc(tk, GFPKernel|GFPNoRetry, 0, "fill")
		if p == nil {
			return live
		}
		live = append(live, p)
	}
}

// One task at a time is at the OOM killer; the others wait and find what its victim gave
// back (try_set_zone_oom).
func TestOneTaskAtTheOOMKiller(t *testing.T) {
	for seed := range uint64(20) {
		r := newRig(t, 1<<20, sched.Options{CPUs: 3, Regime: sched.Free, Strategy: sched.NewRandom(seed)})
		m := r.p
		var live []*Page
		r.start(0, "fill", func(tk *sched.Task) { live = fill(tk, m) })
		assert.NoError(t, r.m.Run().Err())
		inside, kills := 0, 0
		m.OutOfMemory = func(tk *sched.Task, _ GFP, _ int) bool {
			inside++
			assert.Equal(t, 1, inside, "seed %d", seed)
			kills++
			m.SleepUninterruptible(tk, 10_000_000)
			for _, p := range live {
				m.Put(tk, p)
			}
			live = nil
			m.DrainLocalPages(tk)
			inside--
			return true
		}
		for i := range 3 {
			r.start(i, "alloc", func(tk *sched.Task) {
				p := m.Alloc(tk, GFPKernel, 0, "test")
				if assert.NotNil(t, p) {
					m.Put(tk, p)
				}
			})
		}
		assert.NoError(t, r.m.Run().Err(), "seed %d", seed)
		assert.Equal(t, 1, kills, "seed %d: one victim is enough", seed)
		r.empty()
	}
}

// An allocation whose reclaim freed something that others took naps until the next write
// ends, and tries again; it does not ask the OOM killer (congestion_wait).
func TestAllocationNapsUntilAWriteEnds(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{CPUs: 1, Regime: sched.Timed})
	m := r.p
	m.OutOfMemory = func(*sched.Task, GFP, int) bool { t.Error("OOM killer"); return false }
	r.run(func(tk *sched.Task) {
		live := fill(tk, m)
		passes := 0
		m.Reclaim = func(tk *sched.Task, _ GFP, _ int) uint64 {
			if passes++; passes == 3 {
				for _, p := range live {
					m.Put(tk, p)
				}
				m.DrainLocalPages(tk)
			}
			return 1
		}
		r.m.Start(tk, r.m.NewTask(sched.TaskOptions{Name: "device"}, func(d *sched.Task) {
			d.SleepFor(1_000_000)
			m.WriteEnded(d)
		}))
		before := r.m.Now()
		p := m.Alloc(tk, GFPKernel, 0, "test")
		took := r.m.Now() - before
		assert.Equal(t, 3, passes)
		assert.Greater(t, took, uint64(retryNap), "the second nap lasts as long as it may")
		assert.Less(t, took, uint64(retryNap+2_000_000), "the first ends with the write")
		m.Put(tk, p)
	})
	m.Reclaim = nil
	r.empty()
}
