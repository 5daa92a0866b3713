package x86

import (
	"fmt"
	"testing"
	"unsafe"
)

const benchVA = 0x7f0000000000

func benchRig(b *testing.B, pages int) *rig {
	r := newRig(b, 1, 64<<20, false, false)
	for i := range pages {
		r.mapPage(benchVA+uint64(i)*PageSize, userRW)
		r.store(r.cpus[0], benchVA+uint64(i)*PageSize, 8, 1)
	}
	return r
}

func BenchmarkLoad(b *testing.B) {
	for _, bc := range []struct {
		name  string
		pages int
		size  int
		step  uint64
	}{{"hit", 1, 8, 0}, {"hit4", 1, 4, 0}, {"hit64pages", 64, 8, PageSize + 64}, {"unaligned", 1, 8, 0}} {
		b.Run(bc.name, func(b *testing.B) {
			r := benchRig(b, bc.pages)
			c := r.cpus[0]
			va, sum := uint64(benchVA), uint64(0)
			if bc.name == "unaligned" {
				va += 3
			}
			end := va + uint64(bc.pages)*PageSize
			for b.Loop() {
				v, ec := c.Load(va, bc.size)
				if ec != NoFault {
					b.Fatal(ec)
				}
				sum += v
				if va += bc.step; va >= end {
					va = benchVA
				}
			}
			_ = sum
		})
	}
	b.Run("miss", func(b *testing.B) {
		r := benchRig(b, 2)
		c := r.cpus[0]
		for b.Loop() {
			c.TLB.drop(benchVA)
			if _, ec := c.Load(benchVA, 8); ec != NoFault {
				b.Fatal(ec)
			}
		}
	})
	b.Run("huge", func(b *testing.B) {
		r := newRig(b, 1, 64<<20, false, false)
		r.entry(benchVA, LevelPMD).Poke(MkPTE(512, userRW|PtePSE))
		for b.Loop() {
			if _, ec := r.cpus[0].Load(benchVA+0x1238, 8); ec != NoFault {
				b.Fatal(ec)
			}
		}
	})
	b.Run("floor", func(b *testing.B) { // table look-up, pointer, move
		r := benchRig(b, 1)
		t := &r.cpus[0].TLB
		sum := uint64(0)
		va := uint64(benchVA)
		for b.Loop() {
			e := &t.small[va>>12&1023]
			if e.rtag == va&PageMask {
				sum += load8(unsafe.Add(t.base, va+e.off))
			}
		}
		_ = sum
	})
}

func BenchmarkStore(b *testing.B) {
	r := benchRig(b, 1)
	c := r.cpus[0]
	b.Run("hit", func(b *testing.B) {
		for b.Loop() {
			if ec := c.Store(benchVA, 8, 7); ec != NoFault {
				b.Fatal(ec)
			}
		}
	})
}

func BenchmarkWalk(b *testing.B) {
	for _, pages := range []int{1, 512, 8192} {
		b.Run(fmt.Sprintf("warm/pages=%d", pages), func(b *testing.B) {
			r := benchRig(b, pages)
			c := r.cpus[0]
			i := 0
			for b.Loop() {
				if _, _, ec := c.Walk(benchVA+uint64(i)*PageSize, false, true); ec != NoFault {
					b.Fatal(ec)
				}
				if i++; i == pages {
					i = 0
				}
			}
		})
	}
}

func BenchmarkFlush(b *testing.B) {
	r := benchRig(b, 64)
	c := r.cpus[0]
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			c.FlushTLBOne(benchVA)
		}
	})
	b.Run("all/entries=0", func(b *testing.B) {
		for b.Loop() {
			c.FlushTLBAll()
		}
	})
}

// BenchmarkCopy compares copies into user memory with the host's own.
func BenchmarkCopy(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		r := benchRig(b, 256)
		c := r.cpus[0]
		src := make([]byte, size)
		dst := make([]byte, size)
		for i := range src {
			src[i] = byte(i)
			dst[i] = 1
		}
		b.Run(fmt.Sprintf("WriteBytes/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				c.WriteBytes(benchVA, src)
			}
		})
		b.Run(fmt.Sprintf("ReadBytes/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				c.ReadBytes(benchVA, dst)
			}
		})
		b.Run(fmt.Sprintf("memcpy/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				copy(dst, src)
			}
		})
	}
}

func BenchmarkPage(b *testing.B) {
	r := benchRig(b, 256)
	c := r.cpus[0]
	b.Run("clear", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			r.mem.ClearPage(c, PFN(100+i&127))
		}
	})
	b.Run("copy", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			r.mem.CopyPage(c, PFN(100+i&63), PFN(164+i&63))
		}
	})
}

// BenchmarkFirstTouch writes every frame of fresh memory once.
func BenchmarkFirstTouch(b *testing.B) {
	for _, size := range []uint64{32 << 20, 128 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			for b.Loop() {
				h := newHost(16<<30, 8<<30)
				m, err := h.NewMemory(MemoryOptions{Bytes: size})
				if err != nil {
					b.Fatal(err)
				}
				for f := range m.Frames() {
					store8(m.Frame(PFN(f)), 1)
				}
				m.b.ram.free()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size/PageSize), "ns/page")
		})
	}
}

// BenchmarkRecycle boots and releases machines of which little was used, as the
// exploration of schedules does.
func BenchmarkRecycle(b *testing.B) {
	for _, bc := range []struct{ bytes, touched uint64 }{{1 << 20, 64}, {4 << 20, 64}, {256 << 20, 2048}, {1 << 30, 64}} {
		b.Run(fmt.Sprintf("bytes=%d/touched=%d", bc.bytes, bc.touched), func(b *testing.B) {
			if arenaCap > 0 && bc.bytes > arenaCap {
				b.Skip("above the cap")
			}
			h := newHost(16<<30, 8<<30)
			for b.Loop() {
				m, err := h.NewMemory(MemoryOptions{Bytes: bc.bytes})
				if err != nil {
					b.Fatal(err)
				}
				m.PageArray(64)
				m.Touch(1, int(bc.touched))
				m.Release()
			}
			h.Close()
		})
	}
}

// BenchmarkCPUInit prepares a CPU that has been in use.
func BenchmarkCPUInit(b *testing.B) {
	r := benchRig(b, 16)
	c := r.cpus[0]
	for b.Loop() {
		c.Init(0, true, false, r.mem, c.Cost, c.Trace, r)
	}
}
