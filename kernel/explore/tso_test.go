package explore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
)

// litmusOp is an instruction of a litmus test.
type litmusOp struct {
	what byte // 'W'rite 1, 'R'ead into the next register, 'F'ence, 'X'change with 1, 'U'nlock after a write under a lock
	word int
}

// litmus has one list of instructions for each CPU; registers are numbered through.
type litmus [][]litmusOp

var (
	wx, wy = litmusOp{'W', 0}, litmusOp{'W', 1}
	rx, ry = litmusOp{'R', 0}, litmusOp{'R', 1}
	xx, xy = litmusOp{'X', 0}, litmusOp{'X', 1}
	ux, uy = litmusOp{'U', 0}, litmusOp{'U', 1}
	fence  = litmusOp{'F', 0}
)

// target makes a program of a litmus test: the verdict is what the registers hold.
func (l litmus) target(y *toys, tso bool) explore.Target {
	return explore.Target{Name: "litmus", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		mem, err := y.mem.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
		if err != nil {
			panic(err)
		}
		defer mem.Release()
		m, err := sched.New(sched.Options{CPUs: len(l), Regime: sched.Free, Strategy: s, Mem: mem, Host: y.coros,
			StepLimit: 10_000, TSO: tso, Watchdog: sched.NoWatchdog})
		if err != nil {
			panic(err)
		}
		defer m.Shutdown()
		m.SetObserver(o)
		var words [2]x86.Word64
		var locks [2]lock.SpinLock
		objs := [2]x86.ObjID{m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)}
		locks[0].Init(m, lock.Queue)
		locks[1].Init(m, lock.LRULock)
		n := 0
		for _, ops := range l {
			for _, op := range ops {
				if op.what == 'R' {
					n++
				}
			}
		}
		regs := make([]byte, n)
		first := 0
		for cpu, ops := range l {
			at := first
			start(m, fmt.Sprint("cpu", cpu), cpu, func(t *sched.Task) {
				reg := at
				for _, op := range ops {
					w, obj := &words[op.word], objs[op.word]
					switch op.what {
					case 'W':
						w.Store(t.C, obj, 1)
					case 'R':
						regs[reg] = '0' + byte(w.Load(t.C, obj))
						reg++
					case 'F':
						t.C.Fence()
					case 'X':
						w.Xchg(t.C, obj, 1)
					case 'U':
						locks[op.word].LockIRQ(t)
						w.Store(t.C, obj, 1)
						locks[op.word].UnlockIRQ(t)
					}
				}
			})
			for _, op := range ops {
				if op.what == 'R' {
					first++
				}
			}
		}
		r := m.Run()
		obs := explore.Observation{Verdict: string(regs), Steps: r.Steps, Result: r}
		if v := explore.VerdictOf(r); v != "" {
			obs.Verdict = v
		}
		for i := range words {
			if words[i].Peek() != 1 && len(l[0]) > 0 {
				obs.Verdict = "store lost"
			}
		}
		return obs
	}}
}

// TestStoreBuffers runs the litmus tests of x86-TSO: of all relaxations only that of a
// store and a later load is to be seen, with store buffers, and where no barrier is.
func TestStoreBuffers(t *testing.T) {
	y := newToys()
	for _, c := range []struct {
		name    string
		l       litmus
		outcome string
		relaxed bool // the outcome is seen with store buffers
	}{
		{"SB", litmus{{wx, ry}, {wy, rx}}, "00", true},
		{"SB with fences", litmus{{wx, fence, ry}, {wy, fence, rx}}, "00", false},
		{"SB with one fence", litmus{{wx, fence, ry}, {wy, rx}}, "00", true},
		{"SB with locked instructions", litmus{{xx, ry}, {xy, rx}}, "00", false},
		{"SB over the release of spinlocks", litmus{{ux, ry}, {uy, rx}}, "00", true},
		{"SB+rfi: a CPU sees its own store early", litmus{{wx, rx, ry}, {wy, ry, rx}}, "1010", true},
		{"own stores are never missed", litmus{{wx, rx, wy}, {wy, rx}}, "00", false},
		{"MP", litmus{{wx, wy}, {ry, rx}}, "10", false},
		{"MP over a spinlock", litmus{{wx, uy}, {ry, rx}}, "10", false},
		{"LB", litmus{{rx, wy}, {ry, wx}}, "11", false},
		{"IRIW", litmus{{wx}, {wy}, {rx, ry}, {ry, rx}}, "1010", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, tso := range []bool{false, true} {
				r, err := explore.Search(context.Background(), c.l.target(y, tso), explore.Options{Schedules: 600, Seed: 1})
				require.NoError(t, err)
				bound := 3
				if len(c.l) > 2 {
					bound = 2
				}
				e, err := explore.Exhaust(context.Background(), c.l.target(y, tso), explore.ExhaustOptions{Preemptions: bound, Schedules: 3000})
				require.NoError(t, err)
				t.Logf("TSO %v: %v, %v", tso, r.ByVerdict, e.ByVerdict)
				assert.Zero(t, r.ByVerdict["store lost"]+e.ByVerdict["store lost"])
				if n := r.ByVerdict[c.outcome] + e.ByVerdict[c.outcome]; tso && c.relaxed {
					assert.NotZero(t, n)
				} else {
					assert.Zero(t, n, "TSO %v", tso)
				}
			}
		})
	}
}

// TestStoreBufferTokens checks that a schedule with store buffers repeats, also in the
// form of switches.
func TestStoreBufferTokens(t *testing.T) {
	target := litmus{{wx, ry}, {wy, rx}}.target(newToys(), true)
	r, err := explore.Search(context.Background(), target, explore.Options{Schedules: 600, Seed: 1})
	require.NoError(t, err)
	w := r.Witness("00")
	require.NotNil(t, w)
	min, err := explore.Shrink(context.Background(), target, w.Spec, explore.ShrinkOptions{})
	require.NoError(t, err)
	tok, err := explore.ParseToken(target.Token(min.Spec).String())
	require.NoError(t, err)
	assert.Equal(t, "00", target.Run(tok.Spec.Strategy(), nil).Verdict)
}

func TestStoreBuffersNeedTheFreeRegime(t *testing.T) {
	y := newToys()
	mem, err := y.mem.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
	require.NoError(t, err)
	defer mem.Release()
	_, err = sched.New(sched.Options{Regime: sched.Timed, Mem: mem, TSO: true})
	assert.ErrorContains(t, err, "free regime")
}
