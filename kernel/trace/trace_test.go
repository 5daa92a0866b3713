package trace

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCounterNames(t *testing.T) {
	seen := map[string]Counter{}
	for i := range NumCounters {
		c := Counter(i)
		name := c.String()
		require.NotEmpty(t, name, "counter %d has no name", i)
		old, dup := seen[name]
		require.False(t, dup, "%s names counters %d and %d", name, old, i)
		seen[name] = c
		assert.Equal(t, !c.IsLinux(), strings.HasPrefix(name, "emu_"), "%s: the prefix emu_ marks what Linux has not", name)
		back, ok := CounterByName(name)
		assert.True(t, ok)
		assert.Equal(t, c, back)
	}
	assert.True(t, NrWritebackTemp.IsGauge())
	assert.False(t, PGPgIn.IsGauge())
	assert.False(t, EmuIPISent.IsLinux())
	_, ok := CounterByName("no such counter")
	assert.False(t, ok)
	assert.Equal(t, "counter?", Counter(NumCounters).String())
}

func TestKindsTable(t *testing.T) {
	opened := map[EventKind]EventKind{}
	for k := range NumEventKinds {
		require.NotEmpty(t, k.String(), "event kind %d has no name", k)
		info := kinds[k]
		if k.Phase() == End {
			b := k.Opens()
			assert.Equal(t, Begin, b.Phase(), "%v ends %v, which is no begin", k, b)
			assert.Equal(t, kinds[b].slice, info.slice)
			assert.NotContains(t, opened, b, "%v has two ends", b)
			opened[b] = k
		} else {
			assert.Equal(t, EvNone, k.Opens())
		}
		assert.Equal(t, k.Phase() != Instant, info.slice != "", "%v", k)
		for j := 1; j < 3; j++ {
			assert.False(t, info.args[j-1].how == fNone && info.args[j].how != fNone, "%v: hole in the arguments", k)
		}
	}
	for k := range NumEventKinds {
		if k.Phase() == Begin {
			assert.Contains(t, opened, k, "%v has no end", k)
		}
	}
	assert.Equal(t, []string{"address", "old_pfn", "new_pfn"}, EvCOWCopy.ArgNames())
	assert.Equal(t, "event?", NumEventKinds.String())
	assert.Equal(t, Instant, NumEventKinds.Phase())
}

func TestSums(t *testing.T) {
	tr := New(2, Options{})
	tr.CPU(0).Inc(PGFault)
	tr.CPU(1).Add(PGFault, 4)
	tr.Device().Inc(EmuDMAChunks)
	tr.CPU(0).Add(NrDirty, 3)
	tr.CPU(1).Sub(NrDirty, 2)
	tr.CPU(1).Dec(NrDirty)
	tr.CPU(1).Dec(NrDirty)
	assert.EqualValues(t, 5, tr.Sum(PGFault))
	assert.EqualValues(t, 1, tr.Sum(EmuDMAChunks))
	assert.EqualValues(t, -1, tr.Gauge(NrDirty))
	assert.EqualValues(t, 4, tr.CPU(1).Value(PGFault))

	before := tr.Snapshot()
	require.Len(t, before, NumCounters)
	tr.CPU(0).Add(NrDirty, 5)
	tr.CPU(1).Sub(NrFreePages, 7)
	d := Delta(before, tr.Snapshot())
	assert.EqualValues(t, 5, d[NrDirty])
	assert.EqualValues(t, -7, d[NrFreePages])
	assert.EqualValues(t, 0, d[PGFault])

	tr.Reset()
	assert.EqualValues(t, 0, tr.Sum(PGFault))
	assert.Panics(t, func() { tr.CPU(2) }, "the device is not a CPU")
	assert.Equal(t, 2, tr.CPUs())
}

// A sum may be taken while the owner counts: under the race detector this
// test fails if Sum is an ordinary function.
func TestSumWhileRunning(t *testing.T) {
	tr := New(1, Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			tr.CPU(0).Inc(PGFault)
		}
	}()
	var last uint64
	for range 1000 {
		s := tr.Sum(PGFault)
		require.GreaterOrEqual(t, s, last)
		last = s
	}
	<-done
	assert.EqualValues(t, 1000, tr.Sum(PGFault))
}

func TestMergeOrder(t *testing.T) {
	tr := New(2, Options{Events: true, Ring: 8})
	tr.CPU(1).Task = 7
	tr.CPU(1).Event(EvMark, 10, 1, 0, 0)
	tr.CPU(1).Event(EvMark, 10, 2, 0, 0)
	tr.CPU(0).Event(EvMark, 10, 3, 0, 0)
	tr.Device().Event(EvDMA, 5, 4, 0, 0)
	tr.CPU(0).Event(EvMark, 20, 5, 0, 0)
	tr.Device().Event(EvDMA, 20, 6, 0, 0)
	tr.CPU(1).Event(EvMark, 15, 7, 0, 0)

	var order []uint64
	for _, e := range tr.Events() {
		order = append(order, e.A)
	}
	assert.Equal(t, []uint64{4, 3, 1, 2, 7, 5, 6}, order, "by time, then CPU, then sequence; the device last")
	assert.Equal(t, Event{Time: 10, Seq: 1, Task: 7, A: 2, Kind: EvMark, CPU: 1}, tr.Events()[3])

	order = nil
	for _, e := range tr.Tail(2) {
		order = append(order, e.A)
	}
	assert.Equal(t, []uint64{5, 6}, order)
	assert.Len(t, tr.Tail(100), 7)
}

func TestSerialOrder(t *testing.T) {
	tr := New(2, Options{Events: true, Ring: 8, Serial: true})
	tr.CPU(1).Event(EvMark, 900, 0, 0, 0)
	tr.CPU(0).Event(EvMark, 3, 1, 0, 0)
	tr.Device().Event(EvDMA, 0, 2, 0, 0)
	tr.CPU(1).Event(EvMark, 901, 3, 0, 0)
	for i, e := range tr.Events() {
		assert.EqualValues(t, i, e.A, "clocks do not matter")
		assert.EqualValues(t, i, e.Seq)
	}
	tr.Reset()
	tr.CPU(0).Event(EvMark, 1, 0, 0, 0)
	assert.EqualValues(t, 0, tr.Events()[0].Seq)
}

func TestRingWrap(t *testing.T) {
	tr := New(2, Options{Events: true, Ring: 5}) // rounded up to 8
	for i := range uint64(20) {
		tr.CPU(0).Event(EvMark, i, i, 0, 0)
	}
	tr.CPU(1).Event(EvMark, 100, 100, 0, 0)
	ev := tr.Events()
	require.Len(t, ev, 9)
	for i, e := range ev[:8] {
		assert.EqualValues(t, 12+i, e.A)
		assert.EqualValues(t, 12+i, e.Seq)
	}
	assert.EqualValues(t, 12, tr.Dropped())
	assert.EqualValues(t, 12, tr.CPU(0).Dropped())
	assert.EqualValues(t, 0, tr.CPU(1).Dropped())
	tr.Reset()
	assert.Empty(t, tr.Events())
	assert.EqualValues(t, 0, tr.Dropped())
}

func TestEnable(t *testing.T) {
	tr := New(1, Options{Ring: 4})
	c := tr.CPU(0)
	c.Event(EvMark, 1, 1, 0, 0)
	assert.False(t, c.On())
	assert.Empty(t, tr.Events())
	tr.Enable(true)
	c.Event(EvMark, 2, 2, 0, 0)
	tr.Enable(false)
	c.Event(EvMark, 3, 3, 0, 0)
	require.Len(t, tr.Events(), 1)
	assert.EqualValues(t, 2, tr.Events()[0].A)

	var zero CPU
	zero.Inc(PGFault)
	zero.Event(EvMark, 1, 1, 0, 0)
	assert.EqualValues(t, 1, zero.Value(PGFault))
}

func TestNoAllocations(t *testing.T) {
	for _, on := range []bool{false, true} {
		c := New(1, Options{Events: on, Ring: 64}).CPU(0)
		n := testing.AllocsPerRun(1000, func() {
			c.Event(EvCOWCopy, 1, 2, 3, 4)
			c.Inc(PGFault)
		})
		assert.Zero(t, n, "events on: %v", on)
	}
}

func BenchmarkInc(b *testing.B) {
	c := New(1, Options{}).CPU(0)
	for b.Loop() {
		c.Inc(PGFault)
	}
}

func BenchmarkEvent(b *testing.B) {
	for _, on := range []bool{false, true} {
		name := "events=off"
		if on {
			name = "events=on"
		}
		b.Run(name, func(b *testing.B) {
			c := New(1, Options{Events: on, Ring: 1 << 12}).CPU(0)
			b.ReportAllocs()
			for b.Loop() {
				c.Event(EvCOWCopy, 1, 2, 3, 4)
			}
		})
	}
}

func BenchmarkSum(b *testing.B) {
	tr := New(8, Options{})
	for b.Loop() {
		tr.Sum(PGFault)
	}
}
