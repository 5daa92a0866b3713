package x86

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/trace"
)

const va0 = 0x7f12_3456_7000

// both runs a test with every point slow and with none.
func both(t *testing.T, fn func(t *testing.T, det bool)) {
	t.Run("det", func(t *testing.T) { fn(t, true) })
	t.Run("parallel", func(t *testing.T) { fn(t, false) })
}

func TestWalkPermissions(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		testWalkPermissions(t, det, 0)
		testWalkPermissions(t, det, PteAccessed|PteDirty)
	})
}

// testWalkPermissions lets each level in turn lack a bit; the others have
// everything. The leaf begins with the given A and D bits.
func testWalkPermissions(t *testing.T, det bool, ad PTE) {
	for level := LevelPTE; level < NumLevels; level++ {
		for _, tc := range []struct {
			clear       PTE
			write, user bool
			want        FaultCode
		}{
			{0, false, true, NoFault},
			{0, true, true, NoFault},
			{PteRW, false, true, NoFault},
			{PteRW, true, true, FaultProt | FaultWrite | FaultUser},
			{PteRW, true, false, FaultProt | FaultWrite}, // CR0.WP
			{PteUser, false, true, FaultProt | FaultUser},
			{PteUser, true, true, FaultProt | FaultWrite | FaultUser},
			{PteUser, true, false, NoFault},
			{PtePresent, false, true, FaultUser},
			{PtePresent, true, true, FaultWrite | FaultUser},
			{PtePresent, true, false, FaultWrite},
		} {
			r := newRig(t, 1, 1<<20, det, false)
			c := r.cpus[0]
			pfn := r.mapPage(va0, userRW|ad)
			ref := r.entry(va0, level)
			ref.Poke(ref.Peek() &^ tc.clear)
			e, size, ec := c.Walk(va0+5, tc.write, tc.user)
			require.Equal(t, tc.want, ec, "level %d without %#x", level, uint64(tc.clear))
			_, cached := c.Lookup(va0, tc.write)
			require.Equal(t, ec == NoFault && tc.clear != PteUser, cached)
			leaf := r.entry(va0, LevelPTE).Peek()
			if ec != NoFault {
				require.Equal(t, ad, leaf&(PteAccessed|PteDirty), "a refused access leaves the leaf alone")
				continue
			}
			require.Equal(t, pfn, e.PFN())
			require.Equal(t, uint64(PageSize), size)
			require.Equal(t, tc.clear&PteRW == 0, e.Write(), "RW combined over the levels")
			require.True(t, leaf.Young())
			require.Equal(t, tc.write || ad != 0, leaf.Dirty())
		}
	}
}

func TestWalkFastAgreesWithSlow(t *testing.T) {
	fast, slow := newRig(t, 1, 1<<20, false, false), newRig(t, 1, 1<<20, true, false)
	for _, r := range []*rig{fast, slow} {
		r.mapPage(va0, userRW|PteAccessed|PteDirty)
		r.mapPage(va0+PageSize, PtePresent|PteUser|PteAccessed)
		r.mapPage(va0+2*PageSize, PtePresent|PteRW|PteAccessed)
	}
	for i := range uint64(4) {
		for mode := range 4 {
			va := va0 + i*PageSize
			f, s := fast.cpus[0], slow.cpus[0]
			f0, s0 := f.Now(), s.Now()
			fe, fs, fc := f.Walk(va, mode&1 != 0, mode&2 != 0)
			se, ss, sc := s.Walk(va, mode&1 != 0, mode&2 != 0)
			assert.Equal(t, []any{se, ss, sc, s.Now() - s0}, []any{fe, fs, fc, f.Now() - f0})
			assert.Equal(t, s.Snapshot(), f.Snapshot())
		}
	}
}

func TestWalkOutsideUserSpace(t *testing.T) {
	r := newRig(t, 1, 1<<20, false, false)
	r.mapPage(0, userRW|PteAccessed|PteDirty)
	for _, va := range []uint64{TaskSize, 1 << 47, 1 << 48, 0xffff800000000000, ^uint64(0) &^ 7} {
		_, ec := r.cpus[0].Load(va, 8)
		assert.Equal(t, FaultUser, ec, "%#x must not alias a low address", va)
	}
	_, ec := r.cpus[0].Load(0, 8)
	assert.Equal(t, NoFault, ec)
}

// An entry that changes between the walker's read and its locked update must
// not get a bit, and the walk must see the new one.
func TestWalkRechecks(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	r.mapPage(va0, userRW)
	ref := r.entry(va0, LevelPTE)
	r.onPoint = func(c *CPU, op Op, obj ObjID) {
		if op == OpPTERMW {
			r.onPoint = nil
			ref.Poke(0)
		}
	}
	assert.Equal(t, FaultWrite|FaultUser, c.Store(va0, 8, 1))
	assert.Equal(t, PTE(0), ref.Peek())
	assert.EqualValues(t, 1, c.Trace.Value(trace.EmuPTEWalkRetries))

	other := r.frame()
	r.mapPage(va0, userRW)
	r.onPoint = func(c *CPU, op Op, obj ObjID) {
		if op == OpPTERMW {
			r.onPoint = nil
			ref.Poke(MkPTE(other, userRW))
		}
	}
	r.store(c, va0, 8, 42)
	assert.EqualValues(t, 42, r.peek(other, 0))
}

func TestWalkObjectsAndPoints(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	r.mapPage(va0, userRW)
	r.record = true
	r.store(r.cpus[0], va0+520, 8, 1)
	pfn := r.entry(va0, LevelPTE).Peek().PFN()
	assert.Equal(t, []pointSeen{
		{OpPTERead, PTEObj(1, LevelPGD, va0)},
		{OpPTERead, PTEObj(1, LevelPUD, va0)},
		{OpPTERead, PTEObj(1, LevelPMD, va0)},
		{OpPTERead, PTEObj(1, LevelPTE, va0)},
		{OpPTERMW, PTEObj(1, LevelPTE, va0)},
		{OpStore, FrameObj(pfn, 520)},
	}, r.points)
}

// Interrupts wait until the walk is over: a table may be freed, and its frame
// used for something else, as soon as the flush interrupt has been taken.
func TestWalkIsNotInterrupted(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	old := r.mapPage(va0, userRW)
	other := r.frame()
	r.store(c, va0, 8, 1)
	c.FlushTLBAll()
	taken := 0
	r.onPoint = func(c *CPU, op Op, obj ObjID) {
		if obj == PTEObj(1, LevelPMD, va0) {
			r.onPoint = nil
			c.Raise(VecCall)
		}
	}
	r.onIRQ = func(c *CPU, v Vector) {
		taken++
		_, ok := c.Lookup(va0, false)
		assert.True(t, ok, "taken after the fill")
		r.entry(va0, LevelPTE).Poke(MkPTE(other, userRW))
		c.FlushTLBOne(va0)
	}
	r.store(c, va0, 8, 99)
	assert.Equal(t, 1, taken)
	assert.EqualValues(t, 1, r.peek(old, 0), "nothing goes through a translation flushed after the walk")
	assert.EqualValues(t, 99, r.peek(other, 0))
}

func TestHugePage(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 8<<20, det, false)
		c := r.cpus[0]
		const va = va0 &^ (PMDSize - 1)
		ref := r.entry(va, LevelPMD)
		ref.Poke(MkPTE(512, userRW).MkHuge())
		r.store(c, va+0x12345_8&^7, 8, 77)
		assert.EqualValues(t, 77, r.peek(512+0x123, 0x458))
		assert.True(t, ref.Peek().Dirty() && ref.Peek().Young())
		info, ok := c.Lookup(va+PMDSize-1, true)
		assert.True(t, ok)
		assert.Equal(t, TLBEntryInfo{VA: va, Size: PMDSize, PFN: 512, Writable: true,
			Flags: userRW | PtePSE | PteAccessed | PteDirty}, info)
		assert.EqualValues(t, 1, c.Trace.Value(trace.EmuTLBMiss))
		r.load(c, va+PMDSize-8, 8)
		assert.EqualValues(t, 1, c.Trace.Value(trace.EmuTLBMiss))
		c.FlushTLBOne(va + 3*PageSize)
		_, ok = c.Lookup(va, false)
		assert.False(t, ok)
	})
}

// A 1 GiB page is in the TLB in parts of 2 MiB; invlpg of any address drops them all.
func TestGiganticPage(t *testing.T) {
	if err := NewHost().Check(2 << 30); err != nil {
		t.Skip(err) // race-detector builds keep memory in the Go heap
	}
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 2<<30, det, false)
		c := r.cpus[0]
		const va, other = uint64(5 * PUDSize), uint64(9*PUDSize + 4*PMDSize)
		ref := r.entry(va, LevelPUD)
		ref.Poke(MkPTE(1<<18, userRW).MkHuge())
		r.entry(other, LevelPMD).Poke(MkPTE(512, userRW).MkHuge())
		for i := range uint64(3) {
			r.store(c, va+i*PMDSize*100+8, 8, 70+i)
			assert.EqualValues(t, 70+i, r.peek(PFN(1<<18+i*512*100), 8))
		}
		r.store(c, other, 8, 1)
		assert.True(t, ref.Peek().Dirty() && ref.Peek().Young())
		info, ok := c.Lookup(va+PMDSize*100, true)
		assert.True(t, ok)
		assert.Equal(t, TLBEntryInfo{VA: va + PMDSize*100, Size: PMDSize, PFN: 1<<18 + 512*100, Writable: true,
			Flags: userRW | PtePSE | PteAccessed | PteDirty}, info)
		leaf, size := r.mem.PeekWalk(c.CR3, va+PUDSize-1)
		assert.EqualValues(t, PUDSize, size)
		assert.EqualValues(t, 1<<18, leaf.PFN())
		c.FlushTLBOne(va + 3*PMDSize)
		for i := range uint64(3) {
			_, ok = c.Lookup(va+i*PMDSize*100, false)
			assert.False(t, ok, "part %d", i)
		}
		_, ok = c.Lookup(other, true)
		assert.True(t, ok)
		r.entry(va, LevelPUD).Poke(MkPTE(512, userRW).MkHuge())
		nonsense(t, func() { c.Load(va, 8) })
	})
}

// A frame that nobody wrote is not written by clearing it, and copies as zeroes.
func TestHugeClearAndCopy(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 8<<20, det, false)
		c := r.cpus[0]
		old := bytes.Repeat([]byte{9}, PageSize)
		r.mem.WriteFrame(c, 1024, 0, old)
		r.mem.WriteFrame(c, 1536, 0, old)
		r.mem.WriteFrame(c, 1537, 0, old)
		before := c.Now()
		r.mem.CopyHuge(c, 1536, 1024, 2)
		assert.Equal(t, old, r.mem.Bytes(1536))
		assert.Equal(t, make([]byte, PageSize), r.mem.Bytes(1537), "the source was never written")
		r.mem.ClearHuge(c, 1024, 512)
		assert.Equal(t, make([]byte, PageSize), r.mem.Bytes(1024))
		assert.False(t, r.mem.touched(1025))
		assert.GreaterOrEqual(t, c.Now()-before, 512*c.Cost.ClearPage+2*c.Cost.CopyPage)
		assert.EqualValues(t, 512, c.Trace.Value(trace.EmuPageClears))
		assert.EqualValues(t, 2, c.Trace.Value(trace.EmuPageCopies))
		nonsense(t, func() { r.mem.ClearHuge(c, 2047, 2) })
	})
}

func TestNonsenseEntries(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		for _, tc := range []struct {
			level int
			entry PTE
		}{
			{LevelPTE, MkPTE(256, userRW)},
			{LevelPTE, MkPTE(1, userRW) | 1<<50}, // would be frame 1 if cut to 32 bits
			{LevelPMD, MkPTE(256, PTETable)},
			{LevelPUD, MkPTE(1, PTETable) | 1<<51},
			{LevelPGD, MkPTE(0xfffffff, PTETable)},
			{LevelPMD, MkPTE(1, userRW).MkHuge()},
			{LevelPMD, MkPTE(512, userRW).MkHuge()},
			{LevelPMD, MkPTE(0, userRW).MkHuge()}, // begins in memory, ends outside
			{LevelPUD, MkPTE(0, userRW).MkHuge()},
		} {
			r := newRig(t, 1, 1<<20, det, false)
			r.mapPage(va0, userRW)
			r.entry(va0, tc.level).Poke(tc.entry)
			n := nonsense(t, func() { r.cpus[0].Load(va0, 8) })
			assert.NotEmpty(t, n.Error())
		}
		r := newRig(t, 1, 1<<20, det, false)
		r.cpus[0].LoadCR3(9999, 1)
		assert.EqualValues(t, 9999, nonsense(t, func() { r.cpus[0].Load(va0, 8) }).Frame)
		nonsense(t, func() { NewPTERef(r.mem, 256, 0, 0) })
	})
}

func TestPTEObj(t *testing.T) {
	for level := range NumLevels {
		for _, va := range []uint64{0, va0, TaskSize - 1} {
			mm, l, first := SplitPTEObj(PTEObj(77, level, va))
			assert.EqualValues(t, 77, mm)
			assert.Equal(t, level, l)
			assert.Equal(t, va&^(LevelSize(level)-1), first)
			assert.Equal(t, PTEObj(77, level, first), PTEObj(77, level, va), "one entry, one name")
			assert.NotEqual(t, PTEObj(77, level, va), PTEObj(77, level, va+LevelSize(level)))
		}
	}
}

func TestPeekWalk(t *testing.T) {
	r := newRig(t, 1, 1<<20, false, false)
	pfn := r.mapPage(va0, userRW)
	e, size := r.mem.PeekWalk(r.pgd, va0)
	assert.Equal(t, MkPTE(pfn, userRW), e, "no bits set")
	assert.EqualValues(t, PageSize, size)
	ref := r.entry(va0, LevelPUD)
	ref.Poke(ref.Peek().WrProtect())
	e, _ = r.mem.PeekWalk(r.pgd, va0)
	assert.False(t, e.Write())
	ref.Poke(MkPTE(9999, PTETable))
	_, size = r.mem.PeekWalk(r.pgd, va0)
	assert.Zero(t, size)
	_, size = r.mem.PeekWalk(r.pgd, TaskSize)
	assert.Zero(t, size)
}
