package blk

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// touches counts what steps touch besides their operations, and takes the first who can act.
type touches map[x86.Touch]int

func (touches) Begin(int) {}

func (d touches) Pick(ch *sched.Choice) int {
	for _, t := range ch.Foot.Touches {
		d[t]++
	}
	return 0
}

// TestPlugIsTouched: Unplug looks at the plug without the queue's lock, so who sets it and who removes
// it tell a search; and so it is with the number of requests, for which a submitter waits.
func TestPlugIsTouched(t *testing.T) {
	d := touches{}
	rot := Disk2009()
	r := newRig(t, sched.Options{CPUs: 1, Regime: sched.Free, Strategy: d}, DeviceOptions{MaxRequests: 4, Depth: 1, Latency: &rot})
	q := &r.dev.q
	plug, number := q.plugObj, q.allocatedObj()
	one := func(dir Dir) {
		r.run(func(t *sched.Task) {
			g := newBatch(r)
			p := r.alloc(t)
			g.left++
			r.sys.SubmitBio(t, r.bio(t, dir, 0, p, 0, 512, g.end))
			r.sys.Unplug(t, r.dev)
			g.await(t)
			r.pages.Put(t, p)
		})
	}
	one(Read)
	assert.Equal(t, 2, d[x86.Touch{Obj: plug, How: x86.AccWrite}], "set, and removed")
	assert.Equal(t, 2, d[x86.Touch{Obj: number, How: x86.AccAdd}], "one more, and one less")
	assert.Zero(t, d[x86.Touch{Obj: number, How: x86.AccRead}], "there was room")
	queues := map[x86.ObjID]bool{}
	clear(d)
	one(Write)
	for to := range d {
		if to.Obj.Class() == x86.ClassWait && to.How == x86.AccRead {
			queues[to.Obj] = true
		}
	}
	assert.Len(t, queues, 2, "who waits for a request, and who for the end of a write")
	r.run(func(t *sched.Task) {
		g := newBatch(r)
		p := r.alloc(t)
		for i := range 12 {
			g.lock.LockIRQ(t)
			g.left++
			g.lock.UnlockIRQ(t)
			r.sys.SubmitBio(t, r.bio(t, Read, uint64(i*4), p, 0, 512, g.end))
		}
		g.await(t)
		r.pages.Put(t, p)
	})
	assert.Positive(t, d[x86.Touch{Obj: number, How: x86.AccRead}], "a submitter waited")
}
