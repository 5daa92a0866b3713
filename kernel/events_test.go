package kernel

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// eventsOf returns the events of one kind.
func eventsOf(m *Machine, k trace.EventKind) (found []trace.Event) {
	for _, e := range m.Trace().Events() {
		if e.Kind == k {
			found = append(found, e)
		}
	}
	return found
}

// Each page that is pinned and unpinned is an event with the kind of the reference, and as long
// as it is no plain one, counted.
func TestPinsAreTraced(t *testing.T) {
	const n = 5
	var want []uint64
	m, _ := run(t, Options{CPUs: 2, Regime: sched.Timed, Events: true}, func(th *Thread) {
		a := th.MustMmap(n << 12)
		for i := range uint64(n) {
			th.Store64(a+i<<12, 1)
		}
		require.NoError(t, th.Kernel(func(task *sched.Task) error {
			s := mm.SystemOf(task)
			pages := make([]*page.Page, n)
			for _, kind := range []mm.PinKind{mm.PinLongterm, mm.PinGet} {
				got, err := mm.GetUserPagesFast(task, a, n, true, kind, pages)
				if got != n {
					return err
				}
				s.PutUserPages(task, pages, kind)
			}
			for _, p := range pages {
				want = append(want, uint64(s.Pages.PFN(p)))
			}
			return nil
		}))
	})
	for kind, counter := range map[trace.EventKind]trace.Counter{trace.EvPin: trace.EmuNrFollPinAcquired, trace.EvUnpin: trace.EmuNrFollPinReleased} {
		var pfns []uint64
		kinds := map[uint64]int{}
		for _, e := range eventsOf(m, kind) {
			assert.EqualValues(t, 1, e.B)
			if e.C == trace.PinLongterm {
				pfns = append(pfns, e.A)
			}
			kinds[e.C]++
		}
		assert.Equal(t, want, pfns, "%v", kind)
		assert.Equal(t, map[uint64]int{trace.PinLongterm: n, trace.PinGet: n}, kinds, "%v", kind)
		assert.EqualValues(t, n, m.Trace().Sum(counter))
	}
}

// The history of an entry is in the trace: each change says what there was before.
func TestEntriesAreTraced(t *testing.T) {
	var a uint64
	m, _ := run(t, Options{CPUs: 1, Regime: sched.Timed, Events: true}, func(th *Thread) {
		a = th.MustMmap(4096)
		th.Store64(a, 1)
		require.NoError(t, th.Mprotect(a, 4096, mm.ProtRead))
		require.NoError(t, th.Mprotect(a, 4096, mm.ProtRead|mm.ProtWrite))
		th.Store64(a, 2)
	})
	now, n := x86.PTE(0), 0
	const hardware = x86.PteAccessed | x86.PteDirty // set without an event
	for _, e := range eventsOf(m, trace.EvPTESet) {
		if e.A == a {
			assert.Equal(t, now&^hardware, x86.PTE(e.B)&^hardware, "change %d", n)
			now = x86.PTE(e.C)
			n++
		}
	}
	assert.Equal(t, 4, n, "the first fault, two mprotects, the second fault")
	assert.True(t, now.Write())
}

// Who wakes whom, and who waits for which lock.
func TestWakeUpsAndContentionAreTraced(t *testing.T) {
	var spin lock.SpinLock
	m, _ := run(t, Options{CPUs: 2, Regime: sched.Timed, Events: true}, func(th *Thread) {
		spin.Init(th.Machine().Sched(), lock.PTL)
		a := th.MustMmap(4096)
		hold := func(th *Thread) {
			_ = th.Kernel(func(task *sched.Task) error {
				for range 30 {
					spin.Lock(task)
					task.C.Charge(10_000)
					spin.Unlock(task)
				}
				sem := &mm.CurrentMM(task).MmapSem
				sem.DownWrite(task)
				task.SleepFor(500_000)
				sem.UpWrite(task)
				return nil
			})
		}
		other := th.Go("other", hold)
		hold(th)
		th.Store64(a, 1)
		require.NoError(t, th.Join(other))
	})
	how := map[uint64]int{}
	open := map[uint64]uint64{}
	for _, e := range m.Trace().Events() {
		switch e.Kind {
		case trace.EvLockWait:
			how[e.B]++
			open[e.Task] = e.A
		case trace.EvLockGot:
			assert.Equal(t, open[e.Task], e.A)
			assert.Zero(t, e.B)
			delete(open, e.Task)
		}
	}
	assert.Empty(t, open, "waited for, and never got")
	assert.NotZero(t, how[trace.LockWrite], "mmap_sem")
	assert.NotZero(t, how[trace.LockSpin])
	woken := map[uint64]bool{}
	for _, e := range eventsOf(m, trace.EvSchedWake) {
		woken[e.A] = true
	}
	assert.Len(t, woken, 2, "each of the two threads: the other at its start, and who waits for mmap_sem")
	var b strings.Builder
	require.NoError(t, trace.WriteFtrace(&b, m.Trace().Events(), m.View()))
	assert.Regexp(t, `contention_begin: .*mmap_sem.* \(flags=WRITE\)`, b.String())
}

// An assertion that failed is where it failed in the trace, with its text; a mark is where
// the program put it.
func TestOopsesAndMarksAreTraced(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Regime: sched.Timed, Events: true})
	out := m.Run(func(th *Thread) {
		th.Mark(7, 8, 9)
		_ = th.Kernel(func(task *sched.Task) error {
			task.Warn("page %d is odd", 3)
			task.Oops("page %d is wrong", 4)
			return nil
		})
	})
	require.Error(t, out.Err())
	marks, oopses := eventsOf(m, trace.EvMark), eventsOf(m, trace.EvOops)
	require.Len(t, marks, 1)
	assert.Equal(t, [3]uint64{7, 8, 9}, [3]uint64{marks[0].A, marks[0].B, marks[0].C})
	require.Len(t, oopses, 2)
	names := m.View().Names
	assert.Contains(t, string(names.AppendText(nil, oopses[0])), "page 3 is odd")
	assert.Contains(t, string(names.AppendText(nil, oopses[1])), "page 4 is wrong")
}
