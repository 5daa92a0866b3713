package explore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

func reduce(t *testing.T, target explore.Target, o explore.ReduceOptions) *explore.Reduced {
	t.Helper()
	r, err := explore.Reduce(context.Background(), target, o)
	require.NoError(t, err)
	return r
}

// words has each of several tasks, on a CPU of its own, make accesses to words: a text
// of letters for each, 'r', 'w' or 'a' (add) and the word's digit.
func (y *toys) words(tasks ...string) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		return y.run(gate, o, len(tasks), func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			var w [10]x86.Word32
			var obj [10]x86.ObjID
			for i := range obj {
				obj[i] = m.NewObj(x86.ClassWord)
			}
			seen := make([]int32, len(tasks))
			for cpu, text := range tasks {
				start(m, fmt.Sprint("task", cpu), cpu, func(t *sched.Task) {
					if cpu == 0 {
						gate.Open()
					}
					for i := 0; i < len(text); i += 2 {
						k := text[i+1] - '0'
						switch text[i] {
						case 'r':
							seen[cpu] = seen[cpu]*31 + w[k].Load(t.C, obj[k])
						case 'w':
							w[k].Store(t.C, obj[k], int32(cpu*10+i+1))
						case 'a':
							w[k].Add(t.C, obj[k], int32(cpu+1))
						}
					}
				})
			}
			return func(h *explore.StateHash) (string, string) {
				for i := range w {
					h.PutUint(fmt.Sprint("word", i), uint64(w[i].Peek()))
				}
				for i := range seen {
					h.PutUint(fmt.Sprint("seen", i), uint64(seen[i]))
				}
				return explore.Safe, ""
			}
		})
	}
	return explore.Target{Name: "words", Policy: "none", Run: run}
}

func TestReduceZZ(t *testing.T) {
	y := newToys()
	for _, c := range []explore.Target{
		y.words("w0", "w1"), y.words("w0", "w0"), y.words("w0w0", "w0w0"), y.words("w0", "w0", "w0"), y.words("w0", "w1", "w2"),
		y.words("w0r1", "w1r0"), y.words("a0", "a0", "a0"), y.counter(1, 0, false), y.counter(2, 0, false), y.counter(2, 0, true), y.abba(true), y.abba(false), y.read(false), y.read(true),
	} {
		r := reduce(t, c, explore.ReduceOptions{})
		f := exhaust(t, c, explore.ExhaustOptions{Preemptions: 100, Schedules: 20_000})
		t.Logf("%s complete %v: %d schedules, %d classes, %d blocked, %v, %d states; dfs complete %v: %d, %v, %d states", c.Name, r.Complete, r.Schedules, r.Classes, r.Blocked, r.ByVerdict, r.States, f.Complete, f.Schedules, f.ByVerdict, f.States)
		assert.True(t, r.Complete)
	}
}
