package explore_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

func search(t testing.TB, target explore.Target, o explore.Options) *explore.Report {
	t.Helper()
	r, err := explore.Search(context.Background(), target, o)
	require.NoError(t, err)
	return r
}

var modes = []explore.Mode{explore.RandomOnly, explore.PCTOnly, explore.Portfolio}

func TestSearchFindsALostUpdate(t *testing.T) {
	y := newToys()
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := search(t, y.counter(1, 10, false), explore.Options{Mode: mode, Schedules: 500, Seed: 1})
			w := r.Witness("lost-update")
			require.NotNil(t, w, "%v", r.ByVerdict)
			assert.Equal(t, "counter is 1, not 2", w.Detail)
			assert.Same(t, w, r.FirstBad())
			assert.NotZero(t, r.ByVerdict[explore.Safe])
			assert.EqualValues(t, 500, r.Schedules)
			assert.Equal(t, 2, r.States)
			assert.Positive(t, r.StepsMin)
			assert.LessOrEqual(t, r.StepsMin, r.StepsMedian)
			assert.LessOrEqual(t, r.StepsMedian, r.StepsMax)
		})
	}
}

// TestSearchHasEnough: it ends with the schedule after which Enough says so, whatever the
// workers have begun.
func TestSearchHasEnough(t *testing.T) {
	y := newToys()
	for _, workers := range []int{1, 3} {
		r := search(t, y.counter(2, 3, true), explore.Options{Schedules: 400, Workers: workers,
			Enough: func(r *explore.Report) bool { return r.Schedules == 21 }})
		assert.EqualValues(t, 21, r.Schedules)
		assert.False(t, r.Interrupted)
	}
}

func TestSearchFindsNothingUnderALock(t *testing.T) {
	y := newToys()
	for _, mode := range modes {
		r := search(t, y.counter(2, 3, true), explore.Options{Mode: mode, Schedules: 400})
		assert.Equal(t, map[string]uint64{explore.Safe: 400}, r.ByVerdict, mode)
		assert.Nil(t, r.FirstBad())
	}
}

func TestSearchFindsADeadlock(t *testing.T) {
	y := newToys()
	for _, mode := range modes {
		r := search(t, y.abba(true), explore.Options{Mode: mode, Schedules: 400})
		w := r.Witness("deadlock")
		require.NotNil(t, w, mode)
		assert.Contains(t, w.Detail, "spins on lock")
		assert.Equal(t, sched.Deadlock, w.Result.Reason)
		r = search(t, y.abba(false), explore.Options{Mode: mode, Schedules: 200})
		assert.Len(t, r.ByVerdict, 1, mode)
	}
}

func TestSearchChoosesWhenDevicesAct(t *testing.T) {
	y := newToys()
	for _, mode := range modes {
		r := search(t, y.read(false), explore.Options{Mode: mode, Schedules: 100})
		assert.Len(t, r.ByVerdict, 2, mode)
		r = search(t, y.read(true), explore.Options{Mode: mode, Schedules: 100})
		assert.Equal(t, map[string]uint64{explore.Safe: 100}, r.ByVerdict, mode)
	}
}

// strip leaves what must not depend on the number of workers.
func strip(r *explore.Report) explore.Report {
	c := explore.Report{
		Planned: r.Planned, Schedules: r.Schedules, Interrupted: r.Interrupted, ByVerdict: r.ByVerdict,
		StepsMin: r.StepsMin, StepsMedian: r.StepsMedian, StepsMax: r.StepsMax, States: r.States, Length: r.Length,
	}
	for _, w := range r.Witnesses {
		w.Result = nil
		c.Witnesses = append(c.Witnesses, w)
	}
	return c
}

func TestReportDoesNotDependOnWorkers(t *testing.T) {
	y := newToys()
	for _, mode := range modes {
		for _, stop := range []bool{false, true} {
			for _, seed := range []uint64{0, 1, 99} {
				o := explore.Options{Mode: mode, Schedules: 150, Seed: seed, StopAtFirst: stop, Workers: 1}
				target := y.counter(1, 40, false)
				one := strip(search(t, target, o))
				for _, n := range []int{2, 3, 17} {
					o.Workers = n
					assert.Equal(t, one, strip(search(t, target, o)), "%s, %d workers, stop %v", mode, n, stop)
				}
				if stop && one.ByVerdict["lost-update"] > 0 {
					last := one.Witnesses[len(one.Witnesses)-1]
					assert.Equal(t, "lost-update", last.Verdict)
					assert.Equal(t, last.Schedule+1, one.Schedules, "nothing after the first finding counts")
				}
			}
		}
	}
}

func TestSearchEndsWithItsContext(t *testing.T) {
	y := newToys()
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	r, err := explore.Search(ctx, y.counter(1, 5, true), explore.Options{
		Schedules: 1 << 40, Every: 50,
		Progress: func(p explore.Progress) {
			calls++
			assert.EqualValues(t, 1<<40, p.Planned)
			if p.Done >= 200 {
				cancel()
			}
		},
	})
	require.NoError(t, err)
	assert.True(t, r.Interrupted)
	assert.GreaterOrEqual(t, r.Schedules, uint64(200))
	assert.Less(t, r.Schedules, uint64(10_000))
	assert.GreaterOrEqual(t, calls, 3)

	r, err = explore.Search(ctx, y.counter(1, 5, true), explore.Options{})
	require.NoError(t, err)
	assert.True(t, r.Interrupted)
	assert.Zero(t, r.Schedules)
}

func TestAPanicOfTheTargetIsAVerdict(t *testing.T) {
	target := explore.Target{Name: "bad", Policy: "none", Run: func(sched.Strategy, sched.Observer) explore.Observation { panic("oh") }}
	r := search(t, target, explore.Options{Schedules: 20})
	assert.EqualValues(t, 20, r.ByVerdict[explore.Panicked])
	assert.Contains(t, r.FirstBad().Detail, "oh")
}

func TestWorkersHaveTheirOwnRunners(t *testing.T) {
	y := newToys()
	target := y.counter(1, 2, false)
	made, disposed := make(chan int, 10), make(chan int, 10)
	target.Worker = func() (explore.Runner, func()) {
		made <- 1
		return target.Run, func() { disposed <- 1 }
	}
	search(t, target, explore.Options{Schedules: 50, Workers: 3})
	assert.Len(t, made, 3)
	assert.Len(t, disposed, 3)
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []explore.Options{{Mode: "dfs"}, {PCTDepth: 10}, {PCTDepth: -1}, {Workers: -1}} {
		_, err := explore.Search(context.Background(), explore.Target{}, o)
		assert.Error(t, err, "%+v", o)
	}
}

func TestNobodyIsLeftBehind(t *testing.T) {
	y := newToys()
	search(t, y.abba(true), explore.Options{Schedules: 100})
	y.coros.Close()
	before := runtime.NumGoroutine()
	search(t, y.abba(true), explore.Options{Schedules: 300})
	y.coros.Close()
	// Those who are about to end may take a while, where the host runs others.
	for begin := time.Now(); runtime.NumGoroutine() > before+2 && time.Since(begin) < time.Minute; {
		time.Sleep(time.Millisecond)
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before+2)
}

// An unfair strategy must not make a livelock of a task that polls.
func TestUnfairStrategiesAreBound(t *testing.T) {
	y := newToys()
	target := explore.Target{Name: "poll", Policy: "none", Run: func(s sched.Strategy, o sched.Observer) explore.Observation {
		return y.run(s, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			flag := false
			start(m, "poller", 0, func(t *sched.Task) {
				for !flag {
					t.Point(0, 0)
				}
			})
			start(m, "setter", 1, func(t *sched.Task) {
				t.Point(0, 0)
				flag = true
			})
			return func(*explore.StateHash) (string, string) { return explore.Safe, "" }
		})
	}}
	r := search(t, target, explore.Options{Mode: explore.PCTOnly, Schedules: 60})
	assert.Equal(t, map[string]uint64{explore.Safe: 60}, r.ByVerdict)
	assert.Greater(t, r.StepsMax, uint64(explore.FairBound))
	obs, _ := explore.Record(target, explore.Spec{Kind: explore.KindSwitches}.Strategy())
	assert.Equal(t, explore.Safe, obs.Verdict)
}

// BenchmarkSchedules measures schedules per second of a program of about 500 points.
func BenchmarkSchedules(b *testing.B) {
	for _, mode := range modes {
		for _, workers := range []int{1, 2} {
			b.Run("mode="+string(mode)+"/workers="+string(rune('0'+workers)), func(b *testing.B) {
				target := newToys().counter(5, 22, true)
				r := search(b, target, explore.Options{
					Schedules: uint64(b.N), Mode: mode, Workers: workers,
					Clock: func() time.Duration { return b.Elapsed() },
				})
				b.ReportMetric(r.Rate, "schedules/s")
				b.ReportMetric(float64(r.StepsMedian), "points")
			})
		}
	}
}
