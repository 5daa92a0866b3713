package explore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// watch stops a machine at the step after the first write of a word, as the check of invariants does that
// looks at what the step before has left behind.
type watch struct {
	word x86.ObjID
	seen bool
}

func (w *watch) Step(_ uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	if w.seen {
		t.Oops("word 0 has been written")
	}
	w.seen = op == x86.OpWrite && obj == w.word
}

func (*watch) Device(uint64, sched.Event) {}

// watched is words on a machine that is stopped behind the first write of word 0. Another task that comes to
// its end before that stops it, too, and the verdict is "late".
func (y *toys) watched(tasks ...string) explore.Target {
	return explore.Target{Name: "watched " + fmt.Sprint(tasks), Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		obs := y.run(gate, o, len(tasks)+1, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			p := newWordProgram(m, gate, tasks)
			m.SetObserver(&watch{word: p.obj[0]})
			for cpu, text := range tasks {
				start(m, fmt.Sprint("task", cpu), cpu, func(t *sched.Task) { p.run(t, text) })
			}
			start(m, "late", len(tasks), func(t *sched.Task) {
				for range 3 {
					p.w[9].Store(t.C, p.obj[9], 1)
				}
				t.Oops("late")
			})
			return p.judge
		})
		if r := obs.Result; r.Oops != nil && r.Oops.Msg == "late" {
			obs.Verdict = "late"
		}
		return obs
	}}
}

// TestWatchEndsTheRun: the step at which an observer stops the machine did not happen. The one before it,
// for which it was stopped, ended the run: it and the one before that are not independent. The reduction
// tries the others before it all the same.
func TestWatchEndsTheRun(t *testing.T) {
	y := newToys()
	for _, tasks := range [][]string{{"w0"}, {"w0w2"}, {"w2w0w2", "w1r2w1"}, {"w0", "w1w1"}} {
		target := y.watched(tasks...)
		r := reduce(t, target, explore.ReduceOptions{})
		full := exhaust(t, target, explore.ExhaustOptions{Preemptions: 100, Cut: true})
		require.True(t, r.Complete && full.Complete, target.Name)
		assert.NotZero(t, full.ByVerdict["late"], target.Name)
		assert.NotZero(t, full.ByVerdict["bug"], target.Name)
		for v := range full.ByVerdict {
			assert.NotZero(t, r.ByVerdict[v], "%s: %s", target.Name, v)
		}
		_, err := explore.CheckIndependence(target, 1, 50, 10)
		assert.NoError(t, err)
	}
}
