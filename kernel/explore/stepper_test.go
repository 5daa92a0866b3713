package explore_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// tally has a task add to a word twice, and captures it with a panel that shows the word
// and, while it is 1, a row that comes and goes.
func tally(t *testing.T) *explore.Story {
	y := newToys()
	var w x86.Word32
	target := explore.Target{Name: "tally", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		w.Poke(0)
		return y.run(s, o, 1, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			obj := m.NewObj(x86.ClassWord)
			start(m, "adder", 0, func(t *sched.Task) {
				w.Add(t.C, obj, 1)
				w.Add(t.C, obj, 1)
				t.Point(x86.OpFence, 0)
				t.Point(x86.OpFence, 0)
			})
			return func(*explore.StateHash) (string, string) { return explore.Safe, "" }
		})
	}}
	return explore.Capture(target, explore.Spec{Kind: explore.KindSwitches}, explore.CaptureOptions{
		Snapshot: func(_ *sched.Machine, to explore.Sink) {
			to.Panel("words", "Words", 1, "name", "value")
			if to.Row(0, 1, uint64(w.Peek())) {
				to.Cells("w", fmt.Sprint(w.Peek()))
			}
			if w.Peek() == 1 && to.Row(0, 2, 0) {
				to.Cells("one", "yes")
			}
		},
	})
}

// The stepper goes forwards and backwards and shows the state and what changed at each step.
func TestStepper(t *testing.T) {
	story := tally(t)
	var at []int // the two additions
	for _, s := range story.Steps {
		if s.OpID == x86.OpAdd {
			at = append(at, s.N)
		}
	}
	require.Len(t, at, 2)
	p := explore.NewStepper(story)
	do := func(line string) string {
		var b strings.Builder
		assert.False(t, p.Do(&b, line))
		return b.String()
	}
	do(fmt.Sprint("goto ", at[0]-1))
	assert.Regexp(t, `(?m)^  name  value\n  w     0\n$`, do("words"))
	do("n")
	assert.Regexp(t, `(?m)^  name  value\n\* w     1\n\* one   yes\n$`, do("words"))
	assert.Contains(t, do("diff"), "  w: value: 0 -> 1\n  one: new: yes\n")
	do(fmt.Sprint("goto ", at[1]))
	assert.Regexp(t, `(?m)^  name  value\n\* w     2\n$`, do("words"))
	assert.Contains(t, do("diff"), "  w: value: 1 -> 2\n  one: gone\n")
	assert.Contains(t, do("diff 0"), "  w: value: 0 -> 2\n")
	do("p 100000")
	assert.Equal(t, 0, p.At())
	assert.Contains(t, do("w"), "before the first step")
	do("n")
	do("")
	assert.Equal(t, 2, p.At(), "an empty line repeats")
	assert.Contains(t, do("goto 7777"), "is no step")
	assert.Contains(t, do("help"), "words [TEXT]       Words as they are now")
	var b strings.Builder
	assert.True(t, p.Do(&b, "q"))
}

func TestKeyText(t *testing.T) {
	for _, k := range []explore.Key{{}, {Hi: 1, Lo: ^uint64(0)}, {Hi: 1 << 31, Lo: 5}} {
		b, err := json.Marshal(k)
		require.NoError(t, err)
		var again explore.Key
		require.NoError(t, json.Unmarshal(b, &again))
		assert.Equal(t, k, again)
	}
	assert.Less(t, explore.Key{Hi: 2, Lo: 9}.String(), explore.Key{Hi: 10}.String(), "keys sort as text")
	var k explore.Key
	assert.Error(t, json.Unmarshal([]byte(`"x"`), &k))
}

// The page loads nothing and its text cannot end the script.
func TestHTMLIsOneSafeFile(t *testing.T) {
	story := tally(t)
	story.Target = `</script><script>alert("x")</script>{{js}}`
	var b strings.Builder
	require.NoError(t, story.HTML(&b, explore.DiagramOptions{}))
	assert.NotContains(t, b.String(), `<script>alert`)
	assert.Equal(t, 1, strings.Count(b.String(), `"use strict"`), "what the story says is not a template")
	assert.NotRegexp(t, `(?i)(src|href)\s*=|https?://|@import|url\(`, b.String())
	assert.NotContains(t, b.String(), "{{title}}")
	assert.NotContains(t, b.String(), "{{text}}")
}
