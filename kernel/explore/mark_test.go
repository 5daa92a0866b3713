package explore_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// shrunk is a minimised schedule of a target's finding.
func shrunk(t *testing.T, target explore.Target, verdict string) explore.Spec {
	w := found(t, target, verdict)
	s, err := explore.Shrink(context.Background(), target, w.Spec, explore.ShrinkOptions{Runs: 500})
	require.NoError(t, err)
	return s.Spec
}

// Marks lead to the run that they were made from, whatever the strategy was.
func TestMarksRepeat(t *testing.T) {
	y := newToys()
	for _, target := range []explore.Target{y.counter(3, 4, false), y.abba(true), y.read(false)} {
		for seed := range uint64(20) {
			spec := explore.Spec{Kind: explore.KindRandom, Seed: seed}
			if seed%2 != 0 {
				spec = explore.Spec{Kind: explore.KindPCT, Depth: 3, Length: 60, Seed: seed}
			}
			want, rec := explore.Record(target, spec.Strategy())
			f := explore.Follow(target, explore.Marks(target, spec, explore.CaptureOptions{}), nil)
			require.Nil(t, f.Lost)
			assert.Equal(t, want.State, f.State)
			assert.Equal(t, rec.Hash(), f.Recording.Hash())
			assert.Empty(t, f.Other)
		}
	}
}

// The switches survive a change that has nothing to do with them: other steps before and
// between, other numbers of objects. The same switches at their bare places do not.
func TestMarksSurviveAnUnrelatedChange(t *testing.T) {
	y := newToys()
	target := y.counter(1, 3, false)
	spec := shrunk(t, target, "lost-update")
	marks := explore.Marks(target, spec, explore.CaptureOptions{})
	require.Len(t, marks, 1)

	changed := y.counter(1, 8, false)
	obs, _ := explore.Record(changed, spec.Strategy())
	require.Equal(t, explore.Safe, obs.Verdict, "the bare places are others now")
	f := explore.Follow(changed, marks, nil)
	require.Nil(t, f.Lost)
	assert.Equal(t, "lost-update", f.Verdict)
	assert.NotEqual(t, marks[0].At, f.Found[0])
	assert.Equal(t, []explore.Found{explore.ByObject}, f.How)

	// Objects with other numbers.
	renumbered := changed
	renumbered.Run = func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.numbered(7).counter(1, 8, false).Run(s, o)
	}
	f = explore.Follow(renumbered, marks, nil)
	require.Nil(t, f.Lost)
	assert.Equal(t, "lost-update", f.Verdict)
	assert.Equal(t, []explore.Found{explore.ByRank}, f.How)

	// The run found is named by a token of its own.
	obs, _ = explore.Record(renumbered, f.Spec.Strategy())
	assert.Equal(t, f.State, obs.State)
}

// A place that does not come is said to be missing, with both sides; what follows the
// marks before it can be another strategy.
func TestLostMark(t *testing.T) {
	y := newToys()
	target := y.counter(2, 1, false)
	spec := shrunk(t, target, "lost-update")
	marks := explore.Marks(target, spec, explore.CaptureOptions{})
	extra := marks[len(marks)-1]
	extra.Before.Op, extra.Nth = x86.OpDMARead, 3
	f := explore.Follow(target, append(marks, extra), nil)
	require.NotNil(t, f.Lost)
	assert.Equal(t, len(marks), f.Lost.Index)
	assert.Len(t, f.Found, len(marks))
	assert.Equal(t, "lost-update", f.Verdict, "the run is the one along the marks found")
	assert.Regexp(t, `(?s)^replay diverges at switch 2\n  recorded: cpu . is about to dma read .*time 3.*\n  program:  cpu . never .* it made \d+ steps.*the last of them: cpu \d: \w+`, f.Lost.Error())

	states := map[uint64]bool{}
	for seed := range uint64(10) {
		f := explore.Follow(target, marks, explore.Spec{Kind: explore.KindRandom, Seed: seed}.Strategy)
		assert.Len(t, f.Found, len(marks))
		states[f.Recording.Hash()] = true
		obs, _ := explore.Record(target, f.Spec.Strategy())
		assert.Equal(t, f.State, obs.State, "what was continued has a token too")
	}
	assert.Greater(t, len(states), 3, "the runs go on differently")
}

func TestSwitchFile(t *testing.T) {
	y := newToys()
	target := y.read(false)
	target.Params = []explore.Param{{Key: "a", Value: "5 12"}}
	spec := explore.Spec{Kind: explore.KindRandom, Seed: 3}
	f := &explore.SwitchFile{Target: "read", Params: target.Params, Policy: "no ne", Verdict: "lost-read",
		Marks: explore.Marks(target, spec, explore.CaptureOptions{})}
	require.NotEmpty(t, f.Marks)
	var b bytes.Buffer
	require.NoError(t, f.Write(&b))
	again, err := explore.ParseSwitchFile(bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, f, again)
	assert.True(t, explore.IsSwitchFile(b.String()))
	assert.Equal(t, strings.Count(b.String(), "\nswitch "), len(f.Marks), "one switch on a line")

	head := "# cowlab switches 1\ntarget x\npolicy y\n"
	for text, want := range map[string]string{
		"":                                      "no target line",
		"cl1.x":                                 `the first line is "cl1.x", must be "# cowlab switches 1"`,
		"# cowlab switches 1\ntarget x\n":       "no policy line",
		head + "target z":                       "line 4: one target",
		head + "policy":                         "line 4: one policy",
		head + "jump 3":                         `line 4: it begins with "jump", must be target,`,
		head + "switch":                         "a switch without stop=",
		head + "switch at=x":                    "line 4: at:",
		head + "switch stop=gpu1":               `stop: "gpu1" is no actor; cpu0 and event3 are`,
		head + "switch stop=cpu-1":              `no actor`,
		head + "switch op=jump":                 `unknown operation "jump"`,
		head + "switch nth=0":                   "nth: 0, must be at least 1",
		head + "switch nth=1 nth=2":             "given twice",
		head + "switch colour=red":              "colour: unknown; known are",
		head + "switch op=\"pte":                "quotes that do not end",
		head + "switch nonsense":                "not of the form key=value",
		head + "param \"a":                      "quotes that do not end",
		head + strings.Repeat("x", 1<<17):       "too long",
		head + "switch id=99999999999999999999": "id:",
	} {
		_, err := explore.ParseSwitchFile(strings.NewReader(text))
		assert.ErrorContains(t, err, want, "%.60q", text)
	}
	_, err = explore.ParseSwitchFile(strings.NewReader(head + "switch stop=cpu0 op=lock id=0 nth=1 go=event3"))
	assert.NoError(t, err)
	fmt.Fprint(&b, "\n# a remark\n")
	_, err = explore.ParseSwitchFile(&b)
	assert.NoError(t, err)
}
