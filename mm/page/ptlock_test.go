package page

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/sched"
)

func TestPageTableLockKeepsToItsWords(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{Regime: sched.Timed})
	r.run(func(k *sched.Task) {
		m := r.p
		p, q := m.Alloc(k, GFPKernel|GFPZero, 0, "t"), m.Alloc(k, GFPKernel|GFPZero, 0, "t")
		m.PTLockInit(m.PFN(p))
		m.PTLockInit(m.PFN(q))
		a, b := m.PTL(m.PFN(p)), m.PTL(m.PFN(q))
		a.Lock(k)
		assert.True(t, a.Locked())
		assert.False(t, b.Locked())
		b.LockNested(k)
		a.Unlock(k)
		b.Unlock(k)
		assert.NotEqual(t, a.Obj(), b.Obj())
		assert.Equal(t, 1, m.Refs(k, p))
		assert.Zero(t, m.MapRefs(k, p))
		assert.Zero(t, p.Flags.Peek())
		m.PTLockFree(m.PFN(p))
		m.PTLockFree(m.PFN(q))
		assert.Zero(t, p.Mapping|p.Index|p.Private)
		m.Put(k, p)
		m.Put(k, q)
	})
	r.empty()
}
