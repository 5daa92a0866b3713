package x86

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/trace"
)

func TestFlushes(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 2, 8<<20, det, false)
		c := r.cpus[0]
		for i := range uint64(100) {
			r.mapPage(va0+i*PageSize, userRW)
			r.load(c, va0+i*PageSize, 8)
			r.load(r.cpus[1], va0+i*PageSize, 8)
		}
		assert.Len(t, c.Snapshot(), 100)
		c.FlushTLBOne(va0 + 7*PageSize + 123)
		assert.Len(t, c.Snapshot(), 99)
		_, ok := c.Lookup(va0+7*PageSize, false)
		assert.False(t, ok)
		c.FlushTLBOne(va0 + tlbSmall*PageSize) // same place, other page
		assert.Len(t, c.Snapshot(), 99)
		assert.EqualValues(t, 2, c.Trace.Value(trace.EmuTLBFlushOne))
		assert.EqualValues(t, 1, c.Trace.Value(trace.EmuTLBFlushed))
		c.FlushTLBAll()
		assert.Empty(t, c.Snapshot())
		assert.EqualValues(t, 100, c.Trace.Value(trace.EmuTLBFlushed))
		assert.EqualValues(t, 1, c.Trace.Value(trace.EmuTLBFlushAll))
		assert.Len(t, r.cpus[1].Snapshot(), 100, "a TLB is its CPU's own")

		r.load(c, va0, 8)
		info := c.Snapshot()[0]
		assert.EqualValues(t, 3, info.Gen)
		assert.False(t, info.Writable)
	})
}

func TestConflictEvicts(t *testing.T) {
	r := newRig(t, 1, 1<<20, false, false)
	c := r.cpus[0]
	r.mapPage(va0, userRW)
	r.mapPage(va0+tlbSmall*PageSize, userRW)
	r.store(c, va0, 8, 1)
	r.load(c, va0+tlbSmall*PageSize, 8)
	_, ok := c.Lookup(va0, false)
	assert.False(t, ok)
	_, ok = c.Lookup(va0, true)
	assert.False(t, ok, "the write tag goes too")
	r.store(c, va0, 8, 2)
	r.load(c, va0+tlbSmall*PageSize, 8)
	assert.Equal(t, FaultProt|FaultWrite|FaultUser, func() FaultCode {
		ref := r.entry(va0, LevelPTE)
		ref.Poke(ref.Peek().WrProtect())
		return c.Store(va0, 8, 3)
	}())
}

func TestLoadCR3(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	first := r.pgd
	r.mapPage(va0, userRW)
	r.store(c, va0, 8, 1)
	r.pgd = r.frame()
	second := r.pgd
	r.mapPage(va0, userRW)
	r.record = true
	c.LoadCR3(second, 2)
	assert.Equal(t, []pointSeen{{OpFlushTLB, CPUObj(0)}}, r.points)
	assert.Zero(t, r.load(c, va0, 8))
	assert.Contains(t, r.points, pointSeen{OpPTERead, PTEObj(2, LevelPTE, va0)}, "entries are named by address space")
	c.LoadCR3(first, 1)
	assert.EqualValues(t, 1, r.load(c, va0, 8))
}

func TestFaultDropsEntry(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	r.mapPage(va0, userRW)
	r.load(c, va0, 8)
	r.entry(va0, LevelPTE).Poke(0)
	assert.Equal(t, FaultWrite|FaultUser, c.Store(va0, 8, 1))
	_, ok := c.Lookup(va0, false)
	assert.False(t, ok)
}

func TestInitEmptiesUsedTLB(t *testing.T) {
	r := newRig(t, 1, 8<<20, false, false)
	c := r.cpus[0]
	r.mapPage(va0, userRW)
	r.store(c, va0, 8, 1)
	r.entry(0x40000000, LevelPMD).Poke(MkPTE(512, userRW).MkHuge())
	r.store(c, 0x40000000, 8, 1)
	assert.Len(t, c.Snapshot(), 2)
	other := newRig(t, 1, 1<<20, false, false)
	c.Init(0, false, false, other.mem, DefaultCost(), other.tr.CPU(0), other)
	assert.Empty(t, c.Snapshot())
	for i := range c.TLB.small {
		assert.Equal(t, [2]uint64{noTag, noTag}, [2]uint64{c.TLB.small[i].rtag, c.TLB.small[i].wtag})
	}
	c.Init(0, false, false, nil, DefaultCost(), other.tr.CPU(0), other) // a machine without memory
}
