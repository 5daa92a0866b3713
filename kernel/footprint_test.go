package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// raced is a target: prepare maps something, and then one or two threads do something to it while a
// page may be reclaimed.
func raced(t *testing.T, o Options, prepare func(*Thread) uint64, fns ...func(th *Thread, at uint64)) explore.Target {
	return explore.Target{Name: "raced", Policy: "stock", Run: func(s sched.Strategy, ob sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		o := o
		o.Regime, o.Strategy, o.NoStack, o.Hosts, o.Memory, o.CPUs = sched.Free, gate, true, testHosts, 8<<20, 2
		m, err := Boot(o)
		require.NoError(t, err)
		defer m.Shutdown()
		m.Sched().SetObserver(ob)
		out := m.Run(func(th *Thread) {
			at := prepare(th)
			gate.Open()
			m.OfferReclaim()
			if len(fns) == 1 {
				fns[0](th, at)
			} else {
				other := th.Go("other", func(th *Thread) { fns[1](th, at) })
				fns[0](th, at)
				_ = th.Join(other)
			}
			m.AwaitReclaim()
			gate.Close()
		})
		obs := explore.Observation{Verdict: explore.Safe, Result: out.Result}
		if err := out.Err(); err != nil {
			obs.Verdict, obs.Detail = "error", err.Error()
		}
		return obs
	}}
}

// TestLooksWithoutALock: what one CPU reads while another may be writing it, without a lock and
// without a point of its own, as the kernel does in places, is part of the step. Two threads that
// fault in one VMA look at whether it has an anon_vma; who puts a
// page back looks at whether it is locked in memory.
func TestLooksWithoutALock(t *testing.T) {
	const far = 4 << 20
	store := func(off uint64) func(*Thread, uint64) {
		return func(th *Thread, at uint64) { th.Store64(at+off, 1) }
	}
	for _, c := range []struct {
		name             string
		o                Options
		schedules, swaps int
		prepare          func(*Thread) uint64
		fns              []func(*Thread, uint64)
	}{
		{"anon_vma", Options{}, 20, 20, func(th *Thread) uint64 { return th.MustMmap(far + x86.PageSize) },
			[]func(*Thread, uint64){store(0), store(far)}},
		{"VM_LOCKED", Options{ReclaimEvents: 1}, 40, 10, func(th *Thread) uint64 {
			at := th.MustMmap(x86.PageSize)
			th.Store64(at, 1)
			return at
		}, []func(*Thread, uint64){func(th *Thread, at uint64) {
			for range 10 {
				_ = th.Mlock(at, x86.PageSize)
				_ = th.Munlock(at, x86.PageSize)
			}
		}}},
	} {
		target := raced(t, c.o, c.prepare, c.fns...)
		require.Equal(t, explore.Safe, target.Run(sched.NewRandom(1), nil).Verdict, c.name)
		n, err := explore.CheckIndependence(target, 1, c.schedules, c.swaps)
		assert.NoError(t, err, c.name)
		assert.Equal(t, c.schedules*c.swaps, n, c.name)
	}
}

// lookers notes how steps touch the words that are looked at without a lock, by their kind. It lets
// pages be reclaimed at once.
type lookers map[uint64]map[x86.Access]int

func (lookers) Begin(int) {}

func (l lookers) Pick(ch *sched.Choice) int {
	for _, t := range ch.Foot.Touches {
		if kind := t.Obj.ID() >> 40; t.Obj.Class() == x86.ClassWord && kind != 0 {
			if l[kind] == nil {
				l[kind] = map[x86.Access]int{}
			}
			l[kind][t.How]++
		}
	}
	for i := range ch.Enabled {
		if ch.Enabled[i].Op == x86.OpReclaim {
			return i
		}
	}
	return explore.Default(ch)
}

// TestLooksAndChangesAreTouched: both sides of what is looked at without a lock.
func TestLooksAndChangesAreTouched(t *testing.T) {
	const locked, listed, stack, mapped, shmemListed, count = 3, 4, 5, 9, 10, 11 // as mm numbers them
	l := lookers{}
	m := boot(t, Options{CPUs: 1, Regime: sched.Free, NoStack: true, Strategy: l, ReclaimEvents: 3})
	require.NoError(t, m.Run(func(th *Thread) {
		at := th.MustMmap(x86.PageSize)
		th.Store64(at, 1)
		shared := th.MustMmapShared(x86.PageSize)
		th.Store64(shared, 1)
		grows, err := th.Mmap(0x5000_0000, x86.PageSize, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous|mm.MapFixed|mm.MapGrowsDown, -1, 0)
		require.NoError(t, err)
		th.Store64(grows-x86.PageSize, 1)
		m.OfferReclaim()
		th.Load64(at)
		m.AwaitReclaim()
		th.Load64(shared)
		require.NoError(t, th.Mlock(at, x86.PageSize))
		require.NoError(t, th.Munmap(shared, x86.PageSize))
	}).Err())
	for _, kind := range []uint64{locked, listed, stack, shmemListed, count} {
		assert.Positive(t, l[kind][x86.AccRead], "%d is looked at", kind)
		assert.Positive(t, l[kind][x86.AccWrite]+l[kind][x86.AccAdd], "%d is changed", kind)
	}
	assert.GreaterOrEqual(t, l[mapped][x86.AccWrite], 2, "mapped, and unmapped")
	atRest(t, m)
}

// touched counts what steps touch besides their operations.
type touched map[x86.Touch]int

func (touched) Begin(int) {}

func (d touched) Pick(ch *sched.Choice) int {
	for _, t := range ch.Foot.Touches {
		d[t]++
	}
	return explore.Default(ch)
}

// numbered is the object with the given number of what a machine has one of, as mm numbers them.
func numbered(n uint64) x86.ObjID { return x86.Obj(x86.ClassWord, 1<<44|n) }

// TestWordsOfTheMachineAreTouched: both sides of what one CPU changes without a point and another looks at,
// or adds to and looks at the sum.
func TestWordsOfTheMachineAreTouched(t *testing.T) {
	const zero, promised, swapped = 1, 2, 3
	on := func(o Options, before func(*Machine), fn func(*Thread)) touched {
		d := touched{}
		o.CPUs, o.Regime, o.NoStack, o.Strategy = 2, sched.Free, true, d
		m := boot(t, o)
		if before != nil {
			before(m)
		}
		require.NoError(t, m.Run(fn).Err())
		return d
	}
	maps := func(th *Thread) { require.NoError(t, th.Munmap(th.MustMmap(x86.PageSize), x86.PageSize)) }

	d := on(Options{}, nil, maps)
	assert.Positive(t, d[x86.Touch{Obj: numbered(promised), How: x86.AccAdd}], "promised, and taken back")
	assert.Zero(t, d[x86.Touch{Obj: numbered(promised), How: x86.AccWrite}], "nobody asks for the sum")
	d = on(Options{}, func(m *Machine) { m.MM().SetOvercommit(mm.OvercommitNever, 90) }, maps)
	assert.Positive(t, d[x86.Touch{Obj: numbered(promised), How: x86.AccWrite}], "the sum is asked for")
	assert.Positive(t, d[x86.Touch{Obj: numbered(promised), How: x86.AccAdd}], "taken back")

	d = on(Options{}, nil, func(th *Thread) {
		require.NoError(t, th.Kernel(func(task *sched.Task) error {
			th.m.sys.ZeroPage(task)
			th.m.sys.ZeroPage(task)
			return nil
		}))
	})
	assert.Equal(t, 1, d[x86.Touch{Obj: numbered(zero), How: x86.AccWrite}], "made once")
	assert.Positive(t, d[x86.Touch{Obj: numbered(zero), How: x86.AccRead}])

	d = on(withSwapDisk(Options{}, 64), nil, func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		require.NoError(t, th.Kernel(func(task *sched.Task) error {
			th.m.sys.DropSwapCache(task)
			return nil
		}))
	})
	assert.Positive(t, d[x86.Touch{Obj: numbered(swapped), How: x86.AccWrite}])
	assert.Positive(t, d[x86.Touch{Obj: numbered(swapped), How: x86.AccRead}])
}

// TestInvalidationsAreTouched: who waits for the end of invalidations looks at their number without the
// lock under which it changes.
func TestInvalidationsAreTouched(t *testing.T) {
	d := touched{}
	m := boot(t, Options{CPUs: 2, Regime: sched.Free, NoStack: true, Strategy: d})
	var dm *DeviceMap
	require.NoError(t, m.Run(func(th *Thread) {
		at := th.MustMmap(x86.PageSize)
		var err error
		dm, err = th.MapDevice(at, x86.PageSize)
		require.NoError(t, err)
		require.NoError(t, th.Kernel(func(task *sched.Task) error {
			dm.rangeStart(task, nil, at, at+x86.PageSize)
			return nil
		}))
		other := th.Go("device", func(th *Thread) { require.NoError(t, devStore(th, dm, 0, 1)) })
		require.NoError(t, th.Nanosleep(1_000_000))
		require.NoError(t, th.Kernel(func(task *sched.Task) error {
			dm.rangeEnd(task, nil, at, at+x86.PageSize)
			return nil
		}))
		require.NoError(t, th.Join(other))
		require.NoError(t, th.UnmapDevice(dm))
	}).Err())
	assert.Positive(t, d[x86.Touch{Obj: dm.countObj(), How: x86.AccRead}])
	assert.GreaterOrEqual(t, d[x86.Touch{Obj: dm.countObj(), How: x86.AccAdd}], 2)
	assert.Positive(t, d[x86.Touch{Obj: dm.idle.Obj(), How: x86.AccRead}], "whether anybody waits")
}

// TestKSMRunIsTouched: ksmd looks without the mutex at whether it is to run.
func TestKSMRunIsTouched(t *testing.T) {
	d := touched{}
	m := boot(t, Options{CPUs: 2, Regime: sched.Free, NoStack: true, Strategy: d, KSM: true})
	require.NoError(t, m.Run(func(th *Thread) {
		require.NoError(t, th.KSMRun(mm.KSMRunMerge))
		require.NoError(t, th.Nanosleep(1_000_000))
		mergeable(t, th, 1, 1)
		require.NoError(t, th.KSMRun(mm.KSMRunStop))
	}).Err())
	how, waits := map[x86.Access]int{}, 0
	for to, n := range d {
		if to.Obj.Class() == x86.ClassWait && to.Obj.ID()>>40 == 1 {
			how[to.How] += n
			waits = d[x86.Touch{Obj: to.Obj &^ (1 << 40), How: x86.AccRead}]
		}
	}
	assert.Equal(t, 1, waits, "whether ksmd waits, when there is something to scan")
	assert.Positive(t, how[x86.AccRead])
	assert.GreaterOrEqual(t, how[x86.AccWrite], 2)
}

// TestSplicedPagesAreTouched: whoever puts the last page of a vmsplice ends it.
func TestSplicedPagesAreTouched(t *testing.T) {
	d := touched{}
	m := boot(t, Options{CPUs: 1, Regime: sched.Free, NoStack: true, Strategy: d})
	require.NoError(t, m.Run(func(th *Thread) {
		at := th.MustMmap(2 * x86.PageSize)
		th.Fill(at, 2*x86.PageSize, 1)
		r, w, err := th.Pipe()
		require.NoError(t, err)
		n, err := th.Vmsplice(w, at, 2*x86.PageSize, 0)
		require.NoError(t, err)
		require.Equal(t, 2*x86.PageSize, n)
		require.NoError(t, th.Close(r))
		require.NoError(t, th.Close(w))
	}).Err())
	n := 0
	for to, k := range d {
		if to.Obj.Class() == x86.ClassWord && to.Obj.ID()>>40 == 1 && to.How == x86.AccWrite {
			n += k
		}
	}
	assert.Equal(t, 2, n)
}
