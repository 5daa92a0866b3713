package speed

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// smallFloors returns floors of the least size, closed with the test.
func smallFloors(tb testing.TB, order Order) *Floors {
	tb.Helper()
	f, err := NewFloors(FloorOptions{Frames: 1024, PTEs: 1024, Order: order})
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, f.Close()) })
	return f
}

// The floors must do the work they are the floor of.
func TestFloorsDoTheirWork(t *testing.T) {
	for _, order := range []Order{Sequential, Shuffled} {
		t.Run(order.String(), func(t *testing.T) {
			f := smallFloors(t, order)
			const n = 1024
			f.ForkPages(n)
			for i, pte := range f.parent {
				require.Zero(t, pte&pteRW)
				require.Equal(t, pte, f.child[i])
				d := f.desc(pte)
				require.Equal(t, [2]uint32{1, 1}, [2]uint32{d.count, d.mapcount})
			}
			assert.Equal(t, uint64(n), f.rss)
			f.Pin(n)
			for i, pte := range f.parent {
				require.Equal(t, pte>>12, f.pages[i])
				require.Equal(t, uint32(2), f.desc(pte).count)
			}
			f.UnmapPages(n)
			freed := 0
			for pte := f.sink; pte != 0; pte = f.desc(pte).next {
				freed++
			}
			assert.Equal(t, n, freed, "every page is on the free list")
			assert.Zero(t, f.child[0]|f.child[n-1])
			f.ExitPages(n)
			assert.Zero(t, f.desc(f.parent[7]).count)
			f.Reuse(n)
			assert.Equal(t, f.parent[7]|pteRW, f.child[7])
			assert.Zero(t, f.desc(f.parent[7]).flags)
			f.parent[3] |= pteRW
			f.Protect(n)
			assert.Zero(t, f.parent[3]&pteRW)

			for i := range f.order {
				f.frame(uint32(i))[5] = byte(i)
			}
			f.Copy(300)
			f.Copy(300) // wraps around at 512
			assert.Equal(t, 88, f.next)
			for i := range 512 {
				require.Equal(t, byte(f.order[i]), f.frame(f.order[512+i])[5])
			}
			f.Clear(n)
			for i := range f.order {
				require.Zero(t, f.frame(uint32(i))[5])
			}
			f.frame(9)[9] = 1
			f.ClearTogether(n)
			assert.Zero(t, f.frame(9)[9])
			before := f.desc(f.parent[11]).count
			f.PinTogether(n)
			assert.Equal(t, before+1, f.desc(f.parent[11]).count)
		})
	}
}

func TestFloorsOfAccesses(t *testing.T) {
	f := smallFloors(t, Shuffled)
	const lines = HitSpan / 64
	f.Store(lines) // the sequence meets every line once
	assert.Zero(t, f.tlb.miss)
	f.sink = 0
	f.Load(lines)
	assert.Equal(t, uint64(lines*(lines-1)/2), f.sink)
	f.sink = 0
	f.loadInlined(lines)
	assert.Equal(t, uint64(lines*(lines-1)/2), f.sink)
	f.tlb.load(hitBase + HitSpan)
	assert.Equal(t, uint64(1), f.tlb.miss)

	f.sink = 0
	f.Walk(2)
	first := uint64(0)<<12 | ptePresent | pteRW
	second := uint64(1)<<12 | ptePresent | pteRW // a stride further: the second page
	assert.Equal(t, first+second, f.sink)

	f.mem[megabyte-1], f.mem[2*megabyte-1] = 7, 0
	f.CopyMiB(1)
	assert.Equal(t, byte(7), f.mem[2*megabyte-1])

	f.sink = 0
	f.Switch(3)
	assert.Equal(t, uint64(1+2+3), f.sink)
}

func TestFlushReachesEveryCPU(t *testing.T) {
	f := smallFloors(t, Sequential)
	for _, cpus := range []int{2, 4} {
		assert.Positive(t, f.Flush(3, cpus))
	}
	words := []*flushWord{{}, {}}
	stopped := make(chan struct{})
	for _, w := range words {
		go w.serve(stopped)
	}
	for g := range uint32(5) {
		flush(words, g+1)
	}
	for _, w := range words {
		w.stop()
	}
	for range words {
		<-stopped
	}
	assert.Equal(t, [2]uint64{5, 5}, [2]uint64{words[0].local, words[1].local})
}

func TestFloorOptions(t *testing.T) {
	_, err := NewFloors(FloorOptions{Frames: 10})
	assert.Error(t, err)
	_, err = NewFloors(FloorOptions{PTEs: 1 << 21})
	assert.Error(t, err)
	f, err := NewFloors(FloorOptions{Frames: 1024, PTEs: 1024})
	require.NoError(t, err)
	require.NoError(t, f.Close())
	assert.Error(t, f.Close())
}

// BenchmarkSpeed/<row>/<order>/floor times the floors alone; the metric ns/unit
// is the one that the speed table shows.
func BenchmarkSpeed(b *testing.B) {
	for _, order := range []Order{Sequential, Shuffled} {
		f, err := NewFloors(FloorOptions{Order: order})
		require.NoError(b, err)
		for _, op := range Catalog(f) {
			if op.Floor != nil {
				b.Run(op.Name+"/order="+order.String()+"/floor", func(b *testing.B) { batches(b, op.N, op.Floor) })
			}
		}
		b.Run("load-hit-inlined/order="+order.String()+"/floor", func(b *testing.B) { batches(b, 2_000_000, f.loadInlined) })
		require.NoError(b, f.Close())
	}
}

// batches reports what the floor says it took, without its setting up.
func batches(b *testing.B, n int, floor func(n int) time.Duration) {
	floor(n)
	var total time.Duration
	units := 0
	for b.Loop() {
		total += floor(n)
		units += n
	}
	b.ReportMetric(float64(total.Nanoseconds())/float64(units), "ns/unit")
}
