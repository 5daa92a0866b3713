package x86

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The bits are the hardware's and Linux 2.6.29's, so the numbers are spelled out.
func TestPTEBits(t *testing.T) {
	assert.EqualValues(t, 0x67, PTETable)
	assert.EqualValues(t, 0x12345025, MkPTE(0x12345, PtePresent|PteUser|PteAccessed))
	assert.EqualValues(t, 0x80, PtePSE)
	assert.EqualValues(t, 0x200, PteSpecial)
	assert.EqualValues(t, 0x40, PteFile)
	assert.EqualValues(t, 0x100, PteProtNone)
	assert.EqualValues(t, 0x000ffffffffff278, PTEChangeMask)
}

func TestPTEPredicates(t *testing.T) {
	none := MkPTE(7, PteProtNone|PteAccessed)
	assert.True(t, none.Present() && none.ProtNone() && !none.HWPresent() && !none.IsSwap() && !none.IsFile())
	global := MkPTE(7, PtePresent|PteGlobal)
	assert.True(t, global.Present() && !global.ProtNone() && global.HWPresent())
	e := MkPTE(7, PtePresent)
	assert.True(t, e.MkWrite().Write() && !e.MkWrite().WrProtect().Write())
	assert.True(t, e.MkDirty().Dirty() && !e.MkDirty().MkClean().Dirty())
	assert.True(t, e.MkYoung().Young() && !e.MkYoung().MkOld().Young())
	assert.True(t, e.MkSpecial().Special() && e.MkHuge().Huge())
	assert.True(t, PTE(0).None() && !PTE(0).Present() && !PTE(0).IsSwap() && !PTE(0).IsFile())
	assert.Equal(t, NoPFN, PTE(1<<50|7<<12|PtePresent).PFN(), "a frame beyond 32 bits is no frame")
	assert.Equal(t, PFN(0xfffffffe), MkPTE(0xfffffffe, PteNX|PtePresent).PFN())
	assert.Equal(t, PteNX|PtePresent, MkPTE(5, PteNX|PtePresent).Flags())
}

func TestPTEModify(t *testing.T) {
	e := MkPTE(0x123, PtePresent|PteRW|PteUser|PteAccessed|PteDirty|PteSpecial)
	got := e.Modify(PteProtNone | PteNX)
	assert.Equal(t, MkPTE(0x123, PteProtNone|PteNX|PteAccessed|PteDirty|PteSpecial), got)
	assert.Equal(t, e, got.Modify(PtePresent|PteRW|PteUser))
	assert.Equal(t, MkPTE(0x123, PtePresent), MkPTE(0x123, PtePresent|PteUser).Modify(PtePresent|PteDirty),
		"D comes from the entry, never from the protection")
}

func TestSwapEntries(t *testing.T) {
	assert.EqualValues(t, 3<<1|1000<<9, MkSwapPTE(SwapEntry{Type: 3, Offset: 1000}))
	for range 1000 {
		s := SwapEntry{Type: uint8(rand.IntN(32)), Offset: 1 + rand.Uint64N(1<<55-1)}
		e := MkSwapPTE(s)
		require.Equal(t, s, e.Swap())
		require.True(t, e.IsSwap() && !e.Present() && !e.IsFile() && !e.None())
	}
	f := MkFilePTE(0x123456789)
	assert.True(t, f.IsFile() && !f.IsSwap() && !f.Present())
	assert.EqualValues(t, 0x123456789, f.FileOffset())
}

func TestPTEString(t *testing.T) {
	assert.Equal(t, "none", PTE(0).String())
	assert.Equal(t, "swap 2:0x30", MkSwapPTE(SwapEntry{2, 0x30}).String())
	assert.Equal(t, "file 0x30", MkFilePTE(0x30).String())
	assert.Equal(t, "pfn 0x99 WUAD----", MkPTE(0x99, PTETable).String())
	assert.Equal(t, "pfn 0x99 -----N--", MkPTE(0x99, PteProtNone).String())
}

func TestPTERef(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	table := r.frame()
	obj := PTEObj(1, 0, va0)
	ref := NewPTERef(r.mem, table, 511, obj)
	assert.True(t, PTERef{}.IsNil())
	assert.False(t, ref.IsNil())
	assert.Equal(t, 511, ref.Index())
	assert.Equal(t, 1, NewPTERef(r.mem, table, 0, obj).Next(obj+1).Index())
	e := MkPTE(9, userRW|PteAccessed)
	for _, tc := range []struct {
		op  Op
		run func() any
		ret any
		out PTE
	}{
		{OpPTEWrite, func() any { ref.Set(c, e); return nil }, nil, e},
		{OpPTERead, func() any { return ref.Load(c) }, e, e},
		{OpPTERMW, func() any { ref.SetWrprotect(c); return nil }, nil, e.WrProtect()},
		{OpPTERMW, func() any { return ref.TestAndClearYoung(c) }, true, e.WrProtect().MkOld()},
		{OpPTERMW, func() any { return ref.TestAndClearYoung(c) }, false, e.WrProtect().MkOld()},
		{OpPTERMW, func() any { return ref.CAS(c, e, 1) }, false, e.WrProtect().MkOld()},
		{OpPTERMW, func() any { return ref.CAS(c, e.WrProtect().MkOld(), e) }, true, e},
		{OpPTERMW, func() any { return ref.Xchg(c, 0) }, e, 0},
	} {
		// The point comes first: what happens at it is seen by the operation.
		before := ref.Peek()
		r.onPoint = func(*CPU, Op, ObjID) { assert.Equal(t, before, ref.Peek()) }
		r.record, r.points = true, nil
		assert.Equal(t, tc.ret, tc.run())
		assert.Equal(t, []pointSeen{{tc.op, obj}}, r.points)
		assert.Equal(t, tc.out, ref.Peek())
	}
	assert.EqualValues(t, 0, load8(r.mem.Frame(table)), "only the last entry was written")
}
