package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// parsed is an element of traceEvents as a viewer sees it, times in ns.
type parsed struct {
	Name string
	Ph   string
	TS   float64
	Dur  float64
	TID  int
	ID   uint64
	Args map[string]any

	start, end int64
}

func render(t *testing.T, events []Event, v View) []parsed {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, WritePerfetto(&b, events, v))
	var doc struct {
		DisplayTimeUnit string
		OtherData       map[string]string
		TraceEvents     []parsed
	}
	require.NoError(t, json.Unmarshal(b.Bytes(), &doc), "%s", b.String())
	assert.Equal(t, "ns", doc.DisplayTimeUnit)
	assert.Equal(t, fmt.Sprint(v.Dropped), doc.OtherData["dropped_events"])
	for i := range doc.TraceEvents {
		e := &doc.TraceEvents[i]
		e.start = int64(math.Round(e.TS * 1000))
		e.end = e.start + int64(math.Round(e.Dur*1000))
	}
	return doc.TraceEvents
}

func slicesOf(out []parsed, tid int) []parsed {
	var s []parsed
	for _, e := range out {
		if e.Ph == "X" && e.TID == tid {
			s = append(s, e)
		}
	}
	return s
}

// nested returns an error unless the slices of every track nest, taken in
// order of time and, where times are equal, in the order of the file.
func nested(out []parsed) error {
	stacks := map[int][]parsed{}
	var x []parsed
	for _, e := range out {
		if e.Ph == "X" {
			x = append(x, e)
		}
	}
	sort.SliceStable(x, func(i, j int) bool { return x[i].start < x[j].start })
	for _, e := range x {
		st := stacks[e.TID]
		for len(st) > 0 && st[len(st)-1].end <= e.start {
			st = st[:len(st)-1]
		}
		if len(st) > 0 && st[len(st)-1].end < e.end {
			return fmt.Errorf("tid %d: %s [%d,%d) overlaps %s [%d,%d)", e.TID, e.Name, e.start, e.end,
				st[len(st)-1].Name, st[len(st)-1].start, st[len(st)-1].end)
		}
		if e.end < e.start {
			return fmt.Errorf("%s ends before it begins", e.Name)
		}
		stacks[e.TID] = append(st, e)
	}
	return nil
}

// flows returns the arrows as "name from->to", and an error if one has no
// end, two ends, or an end that stands on no slice.
func flows(out []parsed) (arrows []string, err error) {
	starts := map[uint64]parsed{}
	done := map[uint64]bool{}
	tracks := map[int][]parsed{}
	for _, e := range out {
		if e.Ph == "X" {
			tracks[e.TID] = append(tracks[e.TID], e)
		}
	}
	for _, e := range out {
		if e.Ph != "s" && e.Ph != "f" {
			continue
		}
		stands := false
		for _, x := range tracks[e.TID] {
			stands = stands || x.start <= e.start && e.start <= x.end
		}
		if !stands {
			return nil, fmt.Errorf("%s %s at %d stands on no slice", e.Ph, e.Name, e.start)
		}
		if e.Ph == "s" {
			if _, dup := starts[e.ID]; dup {
				return nil, fmt.Errorf("two starts of %d", e.ID)
			}
			starts[e.ID] = e
			continue
		}
		s, ok := starts[e.ID]
		if !ok || done[e.ID] {
			return nil, fmt.Errorf("end of %s %d without a start", e.Name, e.ID)
		}
		done[e.ID] = true
		arrows = append(arrows, fmt.Sprintf("%s %d->%d", e.Name, s.TID, e.TID))
	}
	return arrows, nil
}

// The checkers themselves must be able to fail.
func TestCheckersFail(t *testing.T) {
	assert.Error(t, nested([]parsed{{Ph: "X", start: 0, end: 10}, {Ph: "X", start: 5, end: 15}}))
	assert.Error(t, nested([]parsed{{Ph: "X", start: 0, end: 5}, {Ph: "X", start: 0, end: 10}}), "inner before outer")
	assert.NoError(t, nested([]parsed{{Ph: "X", start: 0, end: 10}, {Ph: "X", start: 0, end: 10}, {Ph: "X", start: 10, end: 12}}))
	x := parsed{Ph: "X", start: 0, end: 10}
	_, err := flows([]parsed{{Ph: "s", ID: 1}})
	assert.Error(t, err)
	_, err = flows([]parsed{x, {Ph: "f", ID: 1}})
	assert.Error(t, err)
	_, err = flows([]parsed{x, {Ph: "s", ID: 1}, {Ph: "f", ID: 1}, {Ph: "f", ID: 1}})
	assert.Error(t, err)
}

// A fault that sleeps is cut where another task takes the CPU and goes on,
// marked as resumed, on the CPU where its task runs next.
func TestSlicesAcrossSwitch(t *testing.T) {
	out := render(t, []Event{
		{Time: 1000, Kind: EvSyscallEnter, Task: 1, A: 0},
		{Time: 2000, Kind: EvFaultEnter, Task: 1, A: 0x7000, B: 6},
		{Time: 3000, Kind: EvSchedSwitch, Task: 1, A: 1, B: 2, C: 2},
		{Time: 3500, Kind: EvGUPFastBegin, Task: 2, A: 0x1000, B: 1},
		{Time: 4000, Kind: EvGUPFastEnd, Task: 2, A: 0x1000, B: 1},
		{Time: 5000, Kind: EvSchedSwitch, CPU: 1, A: 0, B: 1},
		{Time: 6000, Kind: EvFaultExit, CPU: 1, Task: 1, A: 0x7000, B: 6, C: 4},
		{Time: 7000, Kind: EvSyscallExit, CPU: 1, Task: 1, A: 0, B: 8},
		{Time: 9000, Kind: EvMark, CPU: 0, Task: 2, A: 1},
	}, View{Names: testNames, Dropped: 2})
	require.NoError(t, nested(out))

	type seg struct {
		name       string
		start, end int64
		resumed    bool
	}
	segs := func(tid int) (s []seg) {
		for _, e := range slicesOf(out, tid) {
			s = append(s, seg{e.Name, e.start, e.end, e.Args["resumed"] == true})
		}
		return s
	}
	assert.Equal(t, []seg{
		{"writer", 1000, 3000, false}, {"read", 1000, 3000, false}, {"page fault", 2000, 3000, false},
		{"reader", 3000, 9000, false}, {"gup_fast", 3500, 4000, false},
	}, segs(0))
	assert.Equal(t, []seg{
		{"writer", 5000, 9000, false}, {"read", 5000, 7000, true}, {"page fault", 5000, 6000, true},
	}, segs(1))
	fault := slicesOf(out, 1)[2]
	assert.Equal(t, "0x4", fault.Args["result"], "the end's arguments join the begin's")
	assert.Equal(t, "0x7000", fault.Args["address"])

	names := map[int]string{}
	for _, e := range out {
		if e.Ph == "M" && e.Name == "thread_name" {
			names[e.TID] = e.Args["name"].(string)
		}
	}
	assert.Equal(t, map[int]string{0: "CPU 0", 1: "CPU 1", 2: "devices"}, names)
}

func TestArrows(t *testing.T) {
	out := render(t, []Event{
		{Time: 100, Kind: EvIPISend, Task: 1, A: 1, B: 0},                    // no flow id
		{Time: 150, Kind: EvIPISend, Task: 1, A: 2, B: 0, C: 7},              // flow id 7
		{Time: 160, Kind: EvIPISend, CPU: 2, Task: 3, A: 1, B: 0},            // joins the first
		{Time: 200, Kind: EvIPITake, CPU: 1, Task: 2, A: 0},                  // takes both
		{Time: 210, Kind: EvIPITake, CPU: 1, Task: 2, A: 0},                  // nothing left
		{Time: 220, Kind: EvIPITake, CPU: 2, Task: 3, A: 0, C: 8},            // another's id
		{Time: 230, Kind: EvIPITake, CPU: 2, Task: 3, A: 0, B: 0, C: 7},      // ours
		{Time: 300, Kind: EvBioSubmit, Task: 1, A: 11, B: 8, C: 4096},        // lane 0
		{Time: 310, Kind: EvBioSubmit, Task: 1, A: 12, B: 9, C: 512},         // lane 1
		{Time: 400, Kind: EvDMA, CPU: DeviceCPU, A: 5},                       // instant
		{Time: 500, Kind: EvBioComplete, CPU: 2, Task: 3, A: 11, B: 8},       // on a CPU
		{Time: 600, Kind: EvBioComplete, CPU: DeviceCPU, A: 12, C: BioError}, // by the device
		{Time: 650, Kind: EvBioSubmit, Task: 1, A: 13, B: 8, C: 512},         // lane 0 again
		{Time: 660, Kind: EvBioComplete, CPU: DeviceCPU, A: 99},              // its submission is lost
		{Time: 700, Kind: EvPin, Task: 1, A: 5, B: 2, C: PinPin},
		{Time: 750, Kind: EvPin, CPU: 2, Task: 3, A: 5, B: 1, C: PinPin}, // the same frame
		{Time: 800, Kind: EvUnpin, CPU: 1, Task: 2, A: 5, B: 2, C: PinPin},
		{Time: 850, Kind: EvUnpin, CPU: 1, Task: 2, A: 6, B: 1, C: PinPin}, // its pin is lost
		{Time: 860, Kind: EvUnpin, Task: 1, A: 5, B: 1, C: PinPin},
		{Time: 950, Kind: EvFaultExit, Task: 1, A: 0x1000}, // its begin is lost
	}, View{})
	require.NoError(t, nested(out))
	arrows, err := flows(out)
	require.NoError(t, err)
	assert.Equal(t, []string{"ipi 0->1", "ipi 2->1", "ipi 0->2", "bio 0->2", "bio 0->5", "pin 0->1", "pin 2->0"}, arrows,
		"track 5 is the second lane: 3 CPUs, devices, lane, lane")

	lane0, lane1 := slicesOf(out, 4), slicesOf(out, 5)
	require.Len(t, lane0, 2)
	require.Len(t, lane1, 1)
	assert.EqualValues(t, []int64{300, 500}, []int64{lane0[0].start, lane0[0].end})
	assert.EqualValues(t, []int64{310, 600}, []int64{lane1[0].start, lane1[0].end})
	assert.Equal(t, true, lane1[0].Args["error"])
	assert.Equal(t, true, lane0[1].Args["unfinished"])

	curve := map[string][]float64{}
	instants := 0
	for _, e := range out {
		switch e.Ph {
		case "C":
			curve[e.Name] = append(curve[e.Name], e.Args["value"].(float64))
		case "i":
			instants++
		}
	}
	assert.Equal(t, map[string][]float64{"pinned pages": {2, 3, 1, 0, 0}}, curve)
	assert.Equal(t, 3, instants, "the DMA chunk and the two unmatched ends")
}

// Random traces, with begins and ends that do not match, tasks that jump
// between CPUs, clocks that disagree and rings that wrapped, still nest.
func TestRandomTracesNest(t *testing.T) {
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 1))
		tr := New(3, Options{Events: true, Ring: 256, Serial: seed%2 == 0})
		var clock [4]uint64
		for range 700 {
			i := rng.IntN(4)
			c := tr.Device()
			if i < 3 {
				c = tr.CPU(i)
				c.Task = uint64(rng.IntN(4))
			}
			clock[i] += rng.Uint64N(300)
			c.Event(EventKind(1+rng.IntN(int(NumEventKinds)-1)), clock[i], rng.Uint64N(4), rng.Uint64N(3), rng.Uint64N(3))
		}
		out := render(t, tr.Events(), View{Hz: 2_800_000_000, Steps: seed%4 == 0, CPUs: 3, Dropped: tr.Dropped()})
		require.NoError(t, nested(out), "seed %d", seed)
		_, err := flows(out)
		require.NoError(t, err, "seed %d", seed)
	}
}

func TestPerfettoIsDeterministic(t *testing.T) {
	events := []Event{
		{Time: 1, Kind: EvBioSubmit, A: 1}, {Time: 2, Kind: EvBioSubmit, A: 2}, {Time: 3, Kind: EvForkBegin, A: 1, B: 2},
	}
	var a, b bytes.Buffer
	require.NoError(t, WritePerfetto(&a, events, View{}))
	require.NoError(t, WritePerfetto(&b, events, View{}))
	assert.Equal(t, a.String(), b.String())
	require.NoError(t, WritePerfetto(&a, nil, View{}), "an empty trace is a trace")
}

func BenchmarkPerfetto(b *testing.B) {
	tr := New(2, Options{Events: true, Ring: 1 << 10})
	for i := range uint64(1 << 10) {
		tr.CPU(0).Event(EvFaultEnter+EventKind(i&1), i*100, i, 0, 0)
		tr.CPU(1).Event(EvIPITake, i*100, 0, 0, 0)
	}
	events := tr.Events()
	var out bytes.Buffer
	for b.Loop() {
		out.Reset()
		if err := WritePerfetto(&out, events, View{}); err != nil {
			b.Fatal(err)
		}
	}
}
