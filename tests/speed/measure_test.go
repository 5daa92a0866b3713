package speed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// said returns a side that claims to take ns for each unit and writes its name.
func said(order *[]string, name string, ns int) func(n int) time.Duration {
	return func(n int) time.Duration {
		*order = append(*order, name)
		return time.Duration(ns * n)
	}
}

func TestSidesTakeTurnsBothWays(t *testing.T) {
	var order []string
	op := Op{
		Name: "x", Unit: "page", N: 10,
		Native:   NativeSpec{Func: said(&order, "N", 100)},
		Floor:    said(&order, "F", 40),
		Emulated: said(&order, "E", 50),
		Goal:     goal(native(1), floor(1.3), native(0.45)),
	}
	r, err := Measure(t.Context(), []Op{op}, Options{Pairs: 3})
	require.NoError(t, err)
	assert.Equal(t, "NFE NFE EFN NFE", strings.Join(order[:3], "")+" "+strings.Join(order[3:6], "")+" "+
		strings.Join(order[6:9], "")+" "+strings.Join(order[9:], ""), "the first round only warms up")
	l := r.Lines[0]
	assert.Equal(t, 100.0, *l.NativeNS)
	assert.Equal(t, 40.0, *l.FloorNS)
	assert.Equal(t, 50.0, *l.EmulatedNS)
	assert.Equal(t, 0.5, l.OverNative.Median)
	assert.Equal(t, 1.25, l.OverFloor.Median)
	assert.True(t, l.Foundation.Met)
	assert.False(t, l.Met)
	assert.False(t, r.Met())
	assert.Equal(t, "<= 1.3 x floor, <= 0.45 x native", l.Goal)

	r, err = Measure(t.Context(), []Op{op}, Options{Pairs: 1, Stage: FoundationStage})
	require.NoError(t, err)
	assert.Equal(t, "<= 1 x native", r.Lines[0].Goal)
	assert.True(t, r.Met())
}

// A host without a compiler or a free swap area does not miss a goal; a side of ours that
// fails does, and so does a rule that can be judged beside one that cannot.
func TestWhatIsNotMeasuredIsNotMissed(t *testing.T) {
	var order []string
	none := NativeSpec{Func: func(int) time.Duration { panic("no swap area") }}
	failed := func(int) time.Duration { panic("oops") }
	for _, c := range []struct {
		what string
		op   Op
		met  bool
	}{
		{"no native side", Op{Native: none, Emulated: said(&order, "E", 50), Goal: goal(native(1), native(1))}, true},
		{"no native side, the floor is kept", Op{Native: none, Floor: said(&order, "F", 40), Emulated: said(&order, "E", 50),
			Goal: goal(native(1), floor(1.3), native(1))}, true},
		{"no native side, the floor is missed", Op{Native: none, Floor: said(&order, "F", 30), Emulated: said(&order, "E", 50),
			Goal: goal(native(1), floor(1.3), native(1))}, false},
		{"no emulated side", Op{Native: NativeSpec{Func: said(&order, "N", 50)}, Emulated: failed, Goal: goal(native(1), native(1))}, false},
	} {
		c.op.Name, c.op.N = "x", 1
		r, err := Measure(t.Context(), []Op{c.op}, Options{Pairs: 1})
		require.NoError(t, err)
		assert.Equal(t, c.met, r.Met(), c.what)
	}
}

func TestReportJSON(t *testing.T) {
	var order []string
	ops := []Op{
		{Name: "a", N: 1, Floor: said(&order, "F", 3), Goal: goal(ns(8), ns(1))},
		{Name: "b", N: 1, Native: NativeSpec{Func: said(&order, "N", 2)}, Emulated: said(&order, "E", 1), Goal: goal(native(1), native(1))},
		{Name: "c", Value: func() (float64, error) { return 64, nil }, Goal: goal(value(64, "bytes"), value(64, "bytes"))},
	}
	r, err := Measure(t.Context(), ops, Options{Pairs: 2})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, r.WriteJSON(&b))
	assert.JSONEq(t, `{"lines":[
		{"op":"a","native_ns":null,"floor_ns":3,"emulated_ns":null,"goal":"<= 1 ns","met":false},
		{"op":"b","native_ns":2,"floor_ns":null,"emulated_ns":1,"goal":"<= 1 x native","met":true},
		{"op":"c","native_ns":null,"floor_ns":null,"emulated_ns":null,"goal":"<= 64 bytes","met":true}
	]}`, b.String())
	assert.Contains(t, b.String(), `"<= 1 ns"`, "readable, not escaped for HTML")

	empty, err := json.Marshal(newReport(Options{}))
	require.NoError(t, err)
	assert.Equal(t, `{"lines":[]}`, string(empty))
}

func TestTables(t *testing.T) {
	var order []string
	op := Op{Name: "fork-page", Unit: "page", N: 1, Native: NativeSpec{Probe: "fork-page"},
		Floor: said(&order, "F", 20), Emulated: said(&order, "E", 25), Goal: goal(native(1.5), floor(1.3)), Note: "a | note"}
	r, err := Measure(t.Context(), []Op{op}, Options{Pairs: 20, NoNative: ErrNoCompiler.Error()})
	require.NoError(t, err)
	var text, md bytes.Buffer
	require.NoError(t, r.WriteText(&text))
	require.NoError(t, r.WriteMarkdown(&md))
	for _, out := range []string{text.String(), md.String()} {
		assert.Contains(t, out, "20 interleaved rounds")
		assert.Contains(t, out, "native column empty: no C compiler")
		assert.Contains(t, out, "1.25 [1.25, 1.25]", "the interval is printed")
		assert.Contains(t, out, "<= 1.5 x native")
		assert.NotContains(t, out, "quick look")
	}
	assert.Contains(t, md.String(), "| fork-page | page | - | 20.0 | 25.0 | - | 1.25 [1.25, 1.25] | <= 1.5 x native | - | <= 1.3 x floor | yes |")
	for _, line := range strings.Split(md.String(), "\n")[2:5] {
		assert.Equal(t, len(row{})+1, strings.Count(line, "|"), line)
	}

	r, err = Measure(t.Context(), []Op{op}, Options{Pairs: 2})
	require.NoError(t, err)
	text.Reset()
	require.NoError(t, r.WriteText(&text))
	assert.Contains(t, text.String(), "quick look")
}

func TestASideThatFailsCostsItsColumnOnly(t *testing.T) {
	var order []string
	for name, broken := range map[string]func(int) time.Duration{
		"panic: an oops":     func(int) time.Duration { panic("an oops") },
		"left its goroutine": func(int) time.Duration { runtime.Goexit(); return 0 },
	} {
		op := Op{Name: "x", N: 1, Floor: said(&order, "F", 7), Emulated: broken, Goal: goal(floor(1), floor(1))}
		r, err := Measure(t.Context(), []Op{op}, Options{Pairs: 2})
		require.NoError(t, err)
		l := r.Lines[0]
		assert.Nil(t, l.EmulatedNS)
		assert.Equal(t, 7.0, *l.FloorNS)
		assert.False(t, l.Met)
		assert.Contains(t, strings.Join(l.Notes, ";"), name)
	}
}

func TestAHangingSideIsLeftBehind(t *testing.T) {
	var order []string
	release := make(chan struct{})
	defer close(release)
	op := Op{Name: "x", N: 1, Floor: said(&order, "F", 7), Goal: goal(floor(1), floor(1)),
		Emulated: func(int) time.Duration { <-release; return 0 }}
	// The floor, which does nothing, has to be through within the limit on a busy host too.
	r, err := Measure(t.Context(), []Op{op}, Options{Pairs: 2, BatchLimit: time.Second})
	require.NoError(t, err)
	assert.Nil(t, r.Lines[0].EmulatedNS)
	assert.NotNil(t, r.Lines[0].FloorNS)
	assert.Contains(t, strings.Join(r.Lines[0].Notes, ";"), "left behind")

	r, err = Measure(t.Context(), []Op{op}, Options{Pairs: 2, OpLimit: 20 * time.Millisecond})
	require.NoError(t, err)
	assert.Contains(t, strings.Join(r.Lines[0].Notes, ";"), "stopped after")
}

func TestCancelKeepsFinishedRows(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var order []string
	ops := []Op{
		{Name: "a", N: 1, Floor: said(&order, "F", 1)},
		{Name: "b", N: 1, Floor: func(n int) time.Duration { cancel(); return 1 }},
		{Name: "c", N: 1, Floor: said(&order, "F", 1)},
	}
	r, err := Measure(ctx, ops, Options{Pairs: 1})
	assert.ErrorIs(t, err, context.Canceled)
	require.Len(t, r.Lines, 1)
	assert.Equal(t, "a", r.Lines[0].Op)
}

func TestOptionsValidate(t *testing.T) {
	assert.NoError(t, Options{}.Validate())
	assert.Error(t, Options{Pairs: -1}.Validate())
	assert.Error(t, Options{Level: 1}.Validate())
	assert.Error(t, Options{OpLimit: -1}.Validate())
	_, err := Measure(t.Context(), nil, Options{Pairs: -1})
	assert.Error(t, err)
}

func TestCatalog(t *testing.T) {
	f := smallFloors(t, Sequential)
	ops := Catalog(f)
	seen := map[string]bool{}
	for _, op := range ops {
		assert.False(t, seen[op.Name], op.Name)
		seen[op.Name] = true
		assert.NotEmpty(t, op.Title, op.Name)
		assert.NotEmpty(t, op.Unit, op.Name)
		assert.NotEmpty(t, op.Goal.Foundation, op.Name)
		assert.NotEmpty(t, op.Goal.Final, op.Name)
		assert.Nil(t, op.Emulated, op.Name)
		for _, r := range append(op.Goal.Foundation, op.Goal.Final...) {
			assert.Greater(t, r.Factor, 0.0, op.Name)
			if r.Of == Floor {
				assert.NotNil(t, op.Floor, "%s is compared with a floor it lacks", op.Name)
			}
			if r.Of == Native && op.Native.empty() {
				assert.NotEmpty(t, op.Note, "%s has to say why it has no native side", op.Name)
			}
		}
	}
	for name := range f.loops() {
		assert.True(t, seen[name], "floor %s has no row", name)
	}
	assert.Len(t, Catalog(nil), len(ops))

	var order []string
	require.NoError(t, Attach(ops, "scale-gup", said(&order, "E", 1)))
	require.NoError(t, AttachBase(ops, "scale-gup", said(&order, "B", 2)))
	require.NoError(t, AttachValue(ops, "struct-page", func() (float64, error) { return 0, errors.New("no machine") }))
	assert.Error(t, Attach(ops, "nosuch", nil))
	two := []Op{*mustFind(t, ops, "scale-gup"), *mustFind(t, ops, "struct-page")}
	r, err := Measure(t.Context(), two, Options{Pairs: 1, Shrink: 1000})
	require.NoError(t, err)
	assert.True(t, r.Lines[0].Met)
	assert.Contains(t, r.Lines[0].Final.Text, "one CPU's speed")
	assert.False(t, r.Lines[1].Met)
	assert.Contains(t, r.Lines[1].Notes[0], "no machine")
}

func mustFind(t *testing.T, ops []Op, name string) *Op {
	t.Helper()
	op, err := find(ops, name)
	require.NoError(t, err)
	return op
}
