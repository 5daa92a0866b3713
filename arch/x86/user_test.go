package x86

import (
	"bytes"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/trace"
)

func TestAccessSizes(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		first := r.mapPage(va0, userRW)
		second := r.mapPage(va0+PageSize, userRW)
		model := make([]byte, 2*PageSize)
		x := uint64(0x123456789abcdef1)
		for _, size := range []int{1, 2, 4, 8} {
			for off := PageSize - 520; off < PageSize+16; off++ {
				x = x*6364136223846793005 + 1442695040888963407
				r.store(c, va0+uint64(off), size, x)
				want := uint64(0)
				for i := range size {
					model[off+i] = byte(x >> (8 * i))
					want |= x >> (8 * i) & 0xff << (8 * i)
				}
				require.Equal(t, want, r.load(c, va0+uint64(off), size), "size %d offset %d", size, off)
			}
		}
		got := append(bytes.Clone(r.mem.Bytes(first)), r.mem.Bytes(second)...)
		assert.True(t, bytes.Equal(model, got))
		assert.Panics(t, func() { c.Load(va0, 3) })
		assert.Panics(t, func() { c.Store(va0, 16, 0) })
	})
}

func TestStaleStore(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, true)
	c := r.cpus[0]
	pfn := r.mapPage(va0, userRW)
	r.store(c, va0, 8, 1)
	assert.EqualValues(t, 0, c.Trace.Value(trace.EmuStaleTLBStore))
	r.entry(va0, LevelPTE).SetWrprotect(c)
	r.store(c, va0, 8, 2)
	assert.EqualValues(t, 2, r.peek(pfn, 0), "no flush: the store goes through")
	assert.EqualValues(t, 1, c.Trace.Value(trace.EmuStaleTLBStore))
	r.load(c, va0, 8)
	assert.EqualValues(t, 0, c.Trace.Value(trace.EmuStaleTLBLoad), "a load is still allowed")
	c.FlushTLBOne(va0)
	assert.Equal(t, FaultProt|FaultWrite|FaultUser, c.Store(va0, 8, 3))
	assert.EqualValues(t, va0, c.CR2)
	assert.EqualValues(t, 2, r.peek(pfn, 0))

	r.load(c, va0, 8)
	r.entry(va0, LevelPTE).Xchg(c, 0)
	r.load(c, va0, 8)
	assert.EqualValues(t, 1, c.Trace.Value(trace.EmuStaleTLBLoad))
}

// The first store through a clean translation must go to memory and set D.
func TestStoreNeedsDirty(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		r.mapPage(va0, userRW)
		ref := r.entry(va0, LevelPTE)
		r.load(c, va0, 8)
		assert.False(t, ref.Peek().Dirty())
		ref.Poke(ref.Peek().WrProtect())
		assert.Equal(t, FaultProt|FaultWrite|FaultUser, c.Store(va0, 8, 1), "read-cached only: the store walks and sees")
		ref.Poke(ref.Peek().MkWrite())
		r.store(c, va0, 8, 1)
		assert.True(t, ref.Peek().Dirty())
	})
}

// Whatever happens at an access's point, the access uses what the TLB says
// after it.
func TestAccessIsAtomicWithInterrupts(t *testing.T) {
	type kind struct {
		name string
		run  func(c *CPU) FaultCode
	}
	kinds := []kind{
		{"store", func(c *CPU) FaultCode { return c.Store(va0, 8, 99) }},
		{"unaligned store", func(c *CPU) FaultCode { return c.Store(va0+1, 4, 99) }},
		{"write bytes", func(c *CPU) FaultCode { _, ec := c.WriteBytes(va0, []byte{99}); return ec }},
		{"xchg", func(c *CPU) FaultCode { _, ec := c.Xchg32(va0, 99); return ec }},
		{"split store", func(c *CPU) FaultCode { return c.Store(va0+PageSize-4, 8, 99<<32|99) }},
	}
	for _, k := range kinds {
		for _, change := range []string{"move", "protect", "unmap", "nothing flushed"} {
			t.Run(k.name+"/"+change, func(t *testing.T) {
				r := newRig(t, 1, 1<<20, true, false)
				c := r.cpus[0]
				old, other := r.mapPage(va0, userRW), r.frame()
				r.mapPage(va0+PageSize, userRW)
				r.store(c, va0, 8, 0)
				r.store(c, va0+PageSize, 8, 0)
				// At the last point of the access: for a split one that is the second page's.
				seen := 0
				r.onPoint = func(c *CPU, op Op, obj ObjID) {
					if op != OpStore && op != OpRMW {
						return
					}
					if seen++; k.name == "split store" && seen < 2 {
						return
					}
					r.onPoint = nil
					c.Raise(VecFlush0)
				}
				r.onIRQ = func(c *CPU, v Vector) {
					ref := r.entry(va0, LevelPTE)
					switch change {
					case "move":
						ref.Poke(MkPTE(other, userRW))
					case "protect":
						ref.Poke(ref.Peek().WrProtect())
					case "unmap", "nothing flushed":
						ref.Poke(0)
					}
					if change != "nothing flushed" {
						c.FlushTLBOne(va0)
					}
				}
				ec := k.run(c)
				wrote := func(pfn PFN) bool { return !bytes.Equal(r.mem.Bytes(pfn), make([]byte, PageSize)) }
				switch change {
				case "move":
					assert.Equal(t, NoFault, ec)
					assert.False(t, wrote(old))
					assert.True(t, wrote(other))
				case "protect":
					assert.Equal(t, FaultProt|FaultWrite|FaultUser, ec)
					assert.False(t, wrote(old))
				case "unmap":
					assert.Equal(t, FaultWrite|FaultUser, ec)
					assert.False(t, wrote(old))
				case "nothing flushed":
					assert.Equal(t, NoFault, ec)
					assert.True(t, wrote(old))
				}
			})
		}
	}
}

// A load that is restarted reads through the new translation, also where it
// moved from small to large pages.
func TestLoadRestarts(t *testing.T) {
	r := newRig(t, 1, 8<<20, true, false)
	c := r.cpus[0]
	const va = va0 &^ (PMDSize - 1)
	r.mapPage(va, userRW)
	r.load(c, va, 8)
	r.mem.DMAWrite(512, 0, []byte{5})
	r.onPoint = func(c *CPU, op Op, obj ObjID) {
		if op == OpLoad {
			r.onPoint = nil
			r.entry(va, LevelPMD).Poke(MkPTE(512, userRW).MkHuge())
			c.TLB.drop(va)
		}
	}
	assert.EqualValues(t, 5, r.load(c, va, 8))
}

func TestSplitFaultsWithoutEffect(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		pfn := r.mapPage(va0, userRW)
		assert.Equal(t, FaultWrite|FaultUser, c.Store(va0+PageSize-4, 8, ^uint64(0)))
		assert.EqualValues(t, va0+PageSize, c.CR2, "the fault is in the second page")
		assert.Zero(t, r.peek(pfn, PageSize-8))
		second := r.mapPage(va0+PageSize, userRW)
		r.store(c, va0+PageSize-4, 8, 0x1122334455667788)
		assert.EqualValues(t, 0x5566778800000000, r.peek(pfn, PageSize-8))
		assert.EqualValues(t, 0x11223344, r.peek(second, 0))
		assert.EqualValues(t, 0x1122334455667788, r.load(c, va0+PageSize-4, 8))
	})
}

func TestBulk(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		a, b := r.mapPage(va0, userRW), r.mapPage(va0+PageSize, userRW)
		src := make([]byte, 2*PageSize-100)
		for i := range src {
			src[i] = byte(i*7 + 1)
		}
		n, ec := c.WriteBytes(va0+100, src)
		assert.Equal(t, NoFault, ec)
		assert.Equal(t, len(src), n)
		assert.True(t, bytes.Equal(src, append(bytes.Clone(r.mem.Bytes(a)[100:]), r.mem.Bytes(b)...)))
		dst := make([]byte, len(src))
		r.record = true
		n, ec = c.ReadBytes(va0+100, dst)
		assert.Equal(t, NoFault, ec)
		assert.Equal(t, len(dst), n)
		assert.True(t, bytes.Equal(src, dst))
		if det {
			require.Len(t, r.points, 16)
			for i, p := range r.points {
				pfn, sector := a, i
				if i >= 8 {
					pfn, sector = b, i-8
				}
				assert.Equal(t, pointSeen{OpLoad, FrameObj(pfn, uint64(sector)*SectorSize)}, p)
			}
		}
		n, ec = c.WriteBytes(va0+PageSize+96, src)
		assert.Equal(t, FaultWrite|FaultUser, ec)
		assert.Equal(t, PageSize-96, n)
		assert.EqualValues(t, va0+2*PageSize, c.CR2)
		n, ec = c.ReadBytes(va0, nil)
		assert.Zero(t, n)
		assert.Equal(t, NoFault, ec)
	})
}

// A bulk copy is not one step: others see it, and act, between its sectors.
func TestBulkGoesBySectors(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	pfn := r.mapPage(va0, userRW)
	r.store(c, va0, 8, 0)
	seen := []uint64{}
	r.onPoint = func(c *CPU, op Op, obj ObjID) {
		if op == OpStore {
			seen = append(seen, r.peek(pfn, 0)&1, r.peek(pfn, 512)&1)
		}
	}
	c.WriteBytes(va0, bytes.Repeat([]byte{1}, 1024))
	assert.Equal(t, []uint64{0, 0, 1, 0}, seen)
}

func TestUnalignedPassesAPointForEachSector(t *testing.T) {
	r := newRig(t, 1, 1<<20, true, false)
	c := r.cpus[0]
	pfn := r.mapPage(va0, userRW)
	r.store(c, va0, 8, 0)
	r.record = true
	r.store(c, va0+510, 4, 1)
	assert.Equal(t, []pointSeen{{OpStore, FrameObj(pfn, 0)}, {OpStore, FrameObj(pfn, 512)}}, r.points)
}

func TestLockedWords(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, false)
		c := r.cpus[0]
		pfn := r.mapPage(va0, userRW)
		prev, ec := c.CAS32(va0+4, 0, 7)
		assert.Equal(t, []any{uint32(0), NoFault}, []any{prev, ec})
		prev, ec = c.CAS32(va0+4, 0, 8)
		assert.Equal(t, []any{uint32(7), NoFault}, []any{prev, ec})
		old, ec := c.Xchg32(va0+4, 9)
		assert.Equal(t, []any{uint32(7), NoFault}, []any{old, ec})
		v, ec := c.AddReturn32(va0+4, ^uint32(0))
		assert.Equal(t, []any{uint32(8), NoFault}, []any{v, ec})
		assert.EqualValues(t, uint64(8)<<32, r.peek(pfn, 0))
		_, ec = c.Xchg32(va0+2, 1)
		assert.Equal(t, FaultAlign, ec)
		ref := r.entry(va0, LevelPTE)
		ref.Poke(ref.Peek().WrProtect())
		c.FlushTLBOne(va0)
		_, ec = c.CAS32(va0+4, 12345, 1)
		assert.Equal(t, FaultProt|FaultWrite|FaultUser, ec, "cmpxchg needs write permission even if it fails")
	})
}

func TestNoAllocations(t *testing.T) {
	both(t, func(t *testing.T, det bool) {
		r := newRig(t, 1, 1<<20, det, det)
		c := r.cpus[0]
		r.mapPage(va0, userRW)
		r.mapPage(va0+PageSize, userRW)
		r.mapPage(va0+2*PageSize, userRW)
		buf := make([]byte, 2*PageSize)
		for name, fn := range map[string]func(){
			"load":      func() { c.Load(va0, 8) },
			"store":     func() { c.Store(va0, 8, 1) },
			"split":     func() { c.Store(va0+PageSize-4, 8, 1) },
			"walk":      func() { c.Walk(va0, true, true) },
			"fault":     func() { c.Load(va0+1<<30, 8) },
			"flush one": func() { c.FlushTLBOne(va0) },
			"flush all": func() { c.FlushTLBAll() },
			"read":      func() { c.ReadBytes(va0+8, buf) },
			"write":     func() { c.WriteBytes(va0+8, buf) },
			"cas":       func() { c.CAS32(va0, 0, 0) },
			"copy page": func() { r.mem.CopyPage(c, 100, 101); r.mem.ClearPage(c, 100) },
			"dma":       func() { r.mem.DMAWrite(100, 0, buf[:512]); r.mem.DMARead(100, 0, buf[:512]) },
			"frame":     func() { r.mem.WriteFrame(c, 100, 3, buf[:1000]); r.mem.ReadFrame(c, 100, 3, buf[:1000]) },
			"pte":       func() { e := r.entry(va0, LevelPTE); e.Set(c, e.Load(c)); e.TestAndClearYoung(c) },
			"touch":     func() { r.mem.Touch(200, 10) },
			"init":      func() { c.Init(0, c.Det, c.Account, r.mem, c.Cost, c.Trace, r); c.CR3 = r.pgd },
		} {
			assert.Zero(t, testing.AllocsPerRun(20, fn), name)
		}
	})
}

// Emulated memory is raced over by design: the detector must not see it.
func TestRacesAreHidden(t *testing.T) {
	r := newRig(t, 2, 1<<20, false, false)
	pfn := r.mapPage(va0, userRW|PteAccessed|PteDirty)
	other := r.frame()
	var wg sync.WaitGroup
	for i, c := range r.cpus {
		c.SetLimit(math.MaxUint64)
		wg.Go(func() {
			buf := make([]byte, 600)
			for k := range uint64(500) {
				c.Store(va0+uint64(i), 1, k)
				c.Store(va0, 8, k)
				c.Load(va0, 8)
				c.Load(va0+3, 4)
				c.WriteBytes(va0, buf)
				c.ReadBytes(va0, buf)
				c.AddReturn32(va0, 1)
				r.mem.DMAWrite(pfn, 0, buf[:512])
				r.mem.DMARead(pfn, 0, buf[:512])
				r.mem.CopyPage(c, other, pfn)
				r.mem.ClearPage(c, other)
				ref := r.entry(va0, LevelPTE)
				ref.SetWrprotect(c)
				ref.Set(c, MkPTE(pfn, userRW))
				c.FlushTLBOne(va0)
			}
		})
	}
	wg.Wait()
}
