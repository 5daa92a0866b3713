package explore_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

func TestRecordingFile(t *testing.T) {
	y := newToys()
	target := y.read(true)
	_, rec := explore.Record(target, explore.Spec{Kind: explore.KindRandom, Seed: 5}.Strategy())
	var b bytes.Buffer
	require.NoError(t, rec.Write(&b))
	text := b.String()
	again, err := explore.ParseRecording(&b)
	require.NoError(t, err)
	assert.Equal(t, rec.Hash(), again.Hash())
	_, err = explore.Replay(target, again)
	require.NoError(t, err, "it replays step by step")
	_, err = explore.Replay(y.read(false), again)
	var d *explore.Divergence
	require.ErrorAs(t, err, &d, "another program does not")

	head := text[:strings.IndexByte(text, '\n')+1]
	for bad, want := range map[string]string{
		"":                       "empty",
		"hello":                  "the first line",
		head:                     "empty",
		head + "1 cpu0 lock 0x0": "line 2: decision 0, in four words, was expected",
		head + "0 cpu0 lock":     "line 2",
		head + "0 gpu0 lock 0x0": "no actor",
		head + "0 cpu0 jump 0x0": "unknown operation",
		head + "0 cpu0 lock x":   `line 2: "x" is no object: expected a number`,
		head + "0 cpu0 lock 1 2": "four words",
	} {
		_, err := explore.ParseRecording(strings.NewReader(bad))
		assert.ErrorContains(t, err, want, "%q", bad)
	}
}

// A run may follow a schedule for some decisions and go on by another strategy; what it
// did has a token of its own.
func TestContinued(t *testing.T) {
	y := newToys()
	target := y.counter(3, 2, false)
	first := explore.Spec{Kind: explore.KindRandom, Seed: 1}
	_, whole := explore.Record(target, first.Strategy())
	paths := map[uint64]bool{}
	const upto = 12
	for seed := range uint64(8) {
		s := explore.NewContinued(first.Strategy(), upto, explore.Spec{Kind: explore.KindRandom, Seed: seed}.Strategy())
		obs, rec := explore.Record(target, s)
		assert.Equal(t, whole.Decisions[:upto], rec.Decisions[:upto])
		paths[rec.Hash()] = true
		again, _ := explore.Record(target, explore.Spec{Kind: explore.KindSwitches, Switches: rec.Switches()}.Strategy())
		assert.Equal(t, obs.State, again.State)
	}
	assert.Greater(t, len(paths), 3)
}

func TestParseStrategy(t *testing.T) {
	for text, want := range map[string]explore.Spec{
		"default":     {Kind: explore.KindSwitches},
		"random":      {Kind: explore.KindRandom},
		"random/7":    {Kind: explore.KindRandom, Seed: 7},
		"random/0x1f": {Kind: explore.KindRandom, Seed: 31},
		"pct/9":       {Kind: explore.KindPCT, Depth: 3, Length: 100, Seed: 9},
		"pct5/9":      {Kind: explore.KindPCT, Depth: 5, Length: 100, Seed: 9},
	} {
		got, err := explore.ParseStrategy(text, 100)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for text, want := range map[string]string{
		"": "unknown strategy", "default/3": "unknown strategy", "rnd/3": "unknown strategy", "random/x": "seed", "pct0/1": "depth", "pctx": "depth",
	} {
		_, err := explore.ParseStrategy(text, 100)
		assert.ErrorContains(t, err, want)
	}
}
