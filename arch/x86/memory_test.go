package x86

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/trace"
)

func TestMemorySizes(t *testing.T) {
	h := newHost(4<<30, 2<<30)
	for _, bytes := range []uint64{0, 4096, 1<<20 - 4096, 1<<20 + 1, 1<<20 + 2048, 64<<30 + 4096, 1 << 60, ^uint64(0)} {
		m, err := h.NewMemory(MemoryOptions{Bytes: bytes})
		var se *SizeError
		require.ErrorAs(t, err, &se, "%d", bytes)
		assert.Nil(t, m)
		assert.Equal(t, bytes, se.Bytes)
		assert.Contains(t, err.Error(), "limit")
	}
	if arenaCap > 0 {
		_, err := h.NewMemory(MemoryOptions{Bytes: arenaCap + PageSize})
		var se *SizeError
		require.ErrorAs(t, err, &se)
		assert.EqualValues(t, arenaCap, se.Limit)
	}
	big := newHost(8<<40, 8<<40)
	assert.Error(t, big.check(maxMemory+PageSize))
	if arenaCap == 0 {
		assert.NoError(t, big.check(maxMemory))
		assert.NoError(t, newHost(32<<30, 8<<30).check(512<<30))
		assert.Error(t, newHost(32<<30, 8<<30).check(512<<30+PageSize))
	}
}

func TestHugeMachineCostsWhatItTouches(t *testing.T) {
	if arenaCap > 0 {
		t.Skip("needs mapped memory")
	}
	h := newHost(16<<30, 1<<30)
	m, err := h.NewMemory(MemoryOptions{Bytes: 64 << 30})
	require.NoError(t, err)
	pages := m.PageArray(64)
	last := PFN(m.Frames() - 1)
	require.True(t, m.Touch(last, 1))
	store8(m.Frame(last), 7)
	rec := unsafe.Add(pages, uintptr(last)*64)
	store8(rec, 8)
	assert.Equal(t, last, m.PageIndex(rec))
	_, used := h.Budget()
	assert.EqualValues(t, 1, used)
	m.Release()
	m, err = h.NewMemory(MemoryOptions{Bytes: 64 << 30})
	require.NoError(t, err)
	assert.Zero(t, load8(m.Frame(last)))
	assert.Zero(t, load8(unsafe.Add(m.PageArray(64), uintptr(last)*64)))
	m.Release()
	h.Close()
}

// Whatever a machine touched, the next one finds zeroes, and the host's
// account is right.
func TestRecycledMemoryIsZero(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, available := range []uint64{1 << 30, 500 * PageSize} { // the second drops what it may not keep
		h := newHost(16<<30, available)
		const frames = 256
		for round := range 200 {
			m, err := h.NewMemory(MemoryOptions{Bytes: frames * PageSize})
			require.NoError(t, err)
			pages := m.PageArray(64)
			all := unsafe.Slice((*byte)(m.base), frames*PageSize)
			require.Equal(t, -1, bytes.IndexFunc(all, func(r rune) bool { return r != 0 }), "round %d", round)
			recs := unsafe.Slice((*byte)(pages), frames*64)
			require.Equal(t, -1, bytes.IndexFunc(recs, func(r rune) bool { return r != 0 }), "round %d", round)
			touched := map[PFN]bool{}
			for range rnd.IntN(6) {
				pfn := PFN(rnd.IntN(frames))
				n := 1 + rnd.IntN(min(frames-int(pfn), 140))
				if rnd.IntN(4) == 0 {
					n = 1
				}
				if rnd.IntN(8) == 0 {
					pfn, n = 0, frames
				}
				require.True(t, m.Touch(pfn, n))
				for f := pfn; f < pfn+PFN(n); f++ {
					touched[f] = true
					m.Bytes(f)[rnd.IntN(PageSize)] = 1
					store8(unsafe.Add(pages, uintptr(f)*64+uintptr(rnd.IntN(8)*8)), ^uint64(0))
				}
			}
			if rnd.IntN(2) == 0 { // a device writes where nobody was yet
				m.DMAWrite(PFN(rnd.IntN(frames-1)), PageSize-4, []byte("overflow"))
			}
			_, used := h.Budget()
			require.GreaterOrEqual(t, used, uint64(len(touched)))
			require.LessOrEqual(t, used, uint64(frames))
			m.Release()
			m.Release() // harmless
			_, used = h.Budget()
			require.LessOrEqual(t, used, h.keep)
		}
		h.Close()
		_, used := h.Budget()
		assert.Zero(t, used)
	}
}

// A translation may lead to a frame that was never handed out; what is stored
// there must not survive either.
func TestStoreToUntouchedFrame(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 8<<20, det, false)
		r.entry(va0, LevelPTE).Poke(MkPTE(200, userRW|PteAccessed|PteDirty))
		r.store(r.cpus[0], va0, 8, 1)
		const va = 0x40000000
		r.entry(va, LevelPMD).Poke(MkPTE(1024, userRW).MkHuge())
		r.store(r.cpus[0], va+77*PageSize, 8, 1)
		h := r.mem.host
		r.mem.Release()
		m, err := h.NewMemory(MemoryOptions{Bytes: 8 << 20})
		require.NoError(t, err)
		assert.Zero(t, load8(m.Frame(200)))
		assert.Zero(t, load8(m.Frame(1024+77)))
	})
}

func TestBudget(t *testing.T) {
	h := newHost(16<<30, 500*PageSize) // of which 400 frames
	a, err := h.NewMemory(MemoryOptions{Bytes: 2 << 20})
	require.NoError(t, err)
	limit, _ := h.Budget()
	require.EqualValues(t, 400, limit)
	assert.True(t, a.Touch(0, 190))
	assert.True(t, a.Touch(100, 90), "touching again is free")
	b, err := h.NewMemory(MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	assert.False(t, b.Touch(0, 211))
	_, used := h.Budget()
	assert.EqualValues(t, 190, used, "a refusal marks nothing")
	assert.True(t, b.Touch(0, 210))
	assert.False(t, b.Touch(220, 1))
	assert.True(t, b.Touch(0, 210))
	a.Release() // stays populated, in the pool
	_, used = h.Budget()
	assert.EqualValues(t, 400, used)
	assert.True(t, b.Touch(210, 40), "idle memory is given up before anybody is refused")
	_, used = h.Budget()
	assert.EqualValues(t, 250, used)
	b.Release() // more than the pool keeps
	_, used = h.Budget()
	assert.Zero(t, used)
	b, err = h.NewMemory(MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	assert.True(t, b.Touch(9, 0))
	nonsense(t, func() { b.Touch(250, 7) })
	b.Release()
	h.Close()
}

func TestPageArray(t *testing.T) {
	h := newHost(16<<30, 1<<30)
	m, err := h.NewMemory(MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	p := m.PageArray(64)
	assert.Equal(t, p, m.PageArray(64))
	assert.Panics(t, func() { m.PageArray(32) })
	assert.Panics(t, func() { m.PageArray(48) })
	for _, pfn := range []PFN{0, 1, 255} {
		assert.Equal(t, pfn, m.PageIndex(unsafe.Add(p, uintptr(pfn)*64)))
	}
	m.Release()
	m, err = h.NewMemory(MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	m.PageArray(128) // another kernel, another record
	assert.Equal(t, PFN(3), m.PageIndex(unsafe.Add(m.pages, 3*128)))
}

func TestFrames(t *testing.T) {
	m, err := NewHost().NewMemory(MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	assert.EqualValues(t, 256, m.Frames())
	assert.True(t, m.Valid(255))
	assert.False(t, m.Valid(256))
	assert.False(t, m.Valid(NoPFN))
	assert.Zero(t, uintptr(m.Frame(0))%PageSize)
	m.Bytes(3)[5] = 9
	assert.EqualValues(t, 9, load1(unsafe.Add(m.Frame(3), 5)))
	nonsense(t, func() { m.Bytes(256) })
	assert.True(t, m.Prefault(10, 20))
	assert.Zero(t, load8(m.Frame(15)))
	assert.False(t, m.b.touched[0]>>9&1 != 0)
}

func TestDMA(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	r.record = true
	src := []byte("a device does not ask")
	r.mem.DMAWrite(10, PageSize-5, src)
	assert.Equal(t, "a dev", string(r.mem.Bytes(10)[PageSize-5:]))
	assert.Equal(t, "ice does", string(r.mem.Bytes(11)[:8]))
	got := make([]byte, len(src))
	r.mem.DMARead(10, PageSize-5, got)
	assert.Equal(t, src, got)
	r.mem.DMAWrite(255, PageSize-4, src[:4])
	r.mem.DMAWrite(3, 7, nil)
	assert.Empty(t, r.points, "the device side has no points")
	for _, at := range []struct {
		pfn PFN
		off uint64
		n   int
	}{{256, 0, 1}, {255, PageSize - 3, 4}, {NoPFN, 0, 1}, {3, ^uint64(0) - 2, 8}, {3, 1 << 40, 1}} {
		n := nonsense(t, func() { r.mem.DMAWrite(at.pfn, at.off, make([]byte, at.n)) })
		assert.ErrorContains(t, error(n), "DMA write")
		nonsense(t, func() { r.mem.DMARead(at.pfn, at.off, make([]byte, at.n)) })
	}
}

func TestCopyAndClearPage(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		for i := range r.mem.Bytes(20) {
			r.mem.Bytes(20)[i] = byte(i * 3)
		}
		r.mem.Touch(20, 2)
		r.record = true
		before := c.Now()
		r.mem.CopyPage(c, 21, 20)
		assert.True(t, bytes.Equal(r.mem.Bytes(20), r.mem.Bytes(21)))
		if det {
			require.Len(t, r.points, 16)
			assert.Equal(t, pointSeen{OpCopyRead, FrameObj(20, 3*SectorSize)}, r.points[6])
			assert.Equal(t, pointSeen{OpCopyWrite, FrameObj(21, 3*SectorSize)}, r.points[7])
			assert.Equal(t, c.Cost.CopyPage+16*c.Cost.PointBase, c.Now()-before)
		} else {
			assert.Equal(t, c.Cost.CopyPage+c.Cost.PointBase, c.Now()-before)
		}
		before, r.points = c.Now(), nil
		r.mem.ClearPage(c, 21)
		assert.True(t, bytes.Equal(r.mem.Bytes(21), make([]byte, PageSize)))
		if det {
			assert.Len(t, r.points, 8)
			assert.Equal(t, c.Cost.ClearPage+8*c.Cost.PointBase, c.Now()-before)
		}
		assert.EqualValues(t, 1, c.Trace.Value(trace.EmuPageCopies))
		assert.EqualValues(t, 1, c.Trace.Value(trace.EmuPageClears))
		nonsense(t, func() { r.mem.CopyPage(c, 256, 1) })
		nonsense(t, func() { r.mem.CopyPage(c, 1, 256) })
		nonsense(t, func() { r.mem.ClearPage(c, 256) })
	})
}

// A device that writes between the sectors of a copy makes it torn: the copy
// has what was there when each sector was read, not when it was written.
func TestCopyTearsBetweenSectors(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	r.onPoint = func(c *CPU, op Op, obj ObjID) {
		if op == OpCopyWrite && obj == FrameObj(21, 2*SectorSize) {
			r.onPoint = nil
			r.mem.DMAWrite(20, 0, bytes.Repeat([]byte{1}, PageSize))
		}
	}
	r.mem.CopyPage(r.cpus[0], 21, 20)
	got := r.mem.Bytes(21)
	assert.Equal(t, make([]byte, 3*SectorSize), got[:3*SectorSize], "sector 2 was read before")
	assert.Equal(t, bytes.Repeat([]byte{1}, 5*SectorSize), got[3*SectorSize:])
}

func TestFrameAccess(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		src := bytes.Repeat([]byte("0123456789"), 60)
		r.record = true
		r.mem.WriteFrame(c, 5, PageSize-300, src)
		assert.Equal(t, src[:300], r.mem.Bytes(5)[PageSize-300:])
		assert.Equal(t, src[300:], r.mem.Bytes(6)[:300])
		if det {
			assert.Equal(t, []pointSeen{{OpCopyWrite, FrameObj(5, PageSize-300)}, {OpCopyWrite, FrameObj(6, 0)}}, r.points)
		}
		dst := make([]byte, len(src))
		r.mem.ReadFrame(c, 5, PageSize-300, dst)
		assert.Equal(t, src, dst)
		nonsense(t, func() { r.mem.ReadFrame(c, 255, 4000, dst) })
	})
}

func TestNonsenseIsAnError(t *testing.T) {
	var err error = Nonsense{What: "page walk", Frame: 0x99, Obj: PTEObj(4, LevelPMD, va0)}
	assert.ErrorContains(t, err, "address space 4, level 1")
	assert.True(t, errors.As(err, new(Nonsense)))
}
