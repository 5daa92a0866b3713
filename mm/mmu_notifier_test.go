package mm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// diary is a notifier that writes down what it is told.
type diary struct {
	MMUNotifier
	base    uint64
	entries []string
	young   bool
}

func newDiary(base uint64) *diary {
	d := &diary{base: base}
	note := func(t *sched.Task, format string, args ...any) {
		if !t.PreemptDisabled() {
			t.Oops("a notifier runs outside an RCU read side")
		}
		d.entries = append(d.entries, fmt.Sprintf(format, args...))
	}
	page := func(addr uint64) int64 { return (int64(addr) - int64(base)) >> x86.PageShift }
	d.Release = func(t *sched.Task, _ *MM) { note(t, "release") }
	d.ClearFlushYoung = func(t *sched.Task, _ *MM, addr uint64) bool {
		note(t, "young %d", page(addr))
		return d.young
	}
	d.ChangePTE = func(t *sched.Task, _ *MM, addr uint64, e x86.PTE) { note(t, "change %d", page(addr)) }
	d.InvalidatePage = func(t *sched.Task, _ *MM, addr uint64) { note(t, "page %d", page(addr)) }
	d.InvalidateRangeStart = func(t *sched.Task, _ *MM, a, b uint64) {
		note(t, "start %d-%d", page(a), page(b))
	}
	d.InvalidateRangeEnd = func(t *sched.Task, _ *MM, a, b uint64) { note(t, "end %d-%d", page(a), page(b)) }
	return d
}

// told returns what was noted since the last time.
func (d *diary) told() string {
	s := strings.Join(d.entries, ", ")
	d.entries = nil
	return s
}

// Each change of a pte tells the notifiers where 2.6.29 does.
func TestMMUNotifierCalls(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		a := r.mmap(k, mm, 8, protRW, 0)
		to := r.mmapAt(k, mm, 0x100000, 2, protRW, 0)
		r.fill(k, a, 8, 1)
		d := newDiary(a)
		require.NoError(t, MMUNotifierRegister(k, mm, &d.MMUNotifier))
		assert.Empty(t, d.told())

		require.NoError(t, SysMprotect(k, mm, a, 2*pgSize, ProtRead))
		assert.Equal(t, "start 0-2, end 0-2", d.told())
		require.NoError(t, SysMprotect(k, mm, a, 2*pgSize, protRW))
		d.told()
		r.store(k, a, 2)
		assert.Empty(t, d.told(), "a page that is reused stays where it is, and may do more")

		child, err := r.s.DupMM(k, mm)
		require.NoError(t, err)
		assert.Equal(t, "start 0-8, end 0-8", d.told(), "nobody has touched the other one")
		r.store(k, a, 3)
		assert.Equal(t, "page 0", d.told(), "copy-on-write")
		child.MMPut(k)
		assert.Empty(t, d.told(), "the child has no notifiers")

		p := r.pageAt(mm, a+pgSize)
		for range 2 {
			r.s.PageReferenced(k, p, false)
		}
		d.told()
		assert.Zero(t, r.s.PageReferenced(k, p, false))
		assert.Equal(t, "young 1", d.told())
		d.young = true
		assert.Equal(t, 1, r.s.PageReferenced(k, p, false), "the device has used it")
		d.told()

		at, err := SysMremap(k, mm, a+6*pgSize, 2*pgSize, 2*pgSize, MremapMayMove|MremapFixed, to)
		require.NoError(t, err)
		require.Equal(t, to, at)
		moved := d.told()
		n := (int64(to) - int64(a)) >> x86.PageShift
		assert.Equal(t, fmt.Sprintf("start %d-%d, end %d-%d, start 6-8, end 6-8, start 6-8, end 6-8", n, n+2, n, n+2), moved,
			"what was at the new place, the move, what is left at the old one")

		require.NoError(t, SysMadvise(k, mm, a+2*pgSize, pgSize, MadvDontNeed))
		assert.Equal(t, "start 2-3, end 2-3", d.told())
		require.NoError(t, SysMunmap(k, mm, a+4*pgSize, 2*pgSize))
		assert.Equal(t, "start 4-6, end 4-6", d.told())

		MMUNotifierUnregister(k, mm, &d.MMUNotifier)
		assert.Equal(t, "release", d.told())
		require.NoError(t, SysMunmap(k, mm, a, pgSize))
		assert.Empty(t, d.told())
	})
	assert.NotZero(t, r.m.Trace().Sum(trace.EmuMMUNotifier))
}

// Registering while a signal is pending fails, with every lock given back.
func TestMMUNotifierRegisterInterrupted(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed})
	r.run(func(k *sched.Task, mm *MM) {
		a := r.mmap(k, mm, 1, protRW, 0)
		s := r.mmap(k, mm, 1, protRW, MapShared)
		r.fill(k, a, 1, 1)
		d := newDiary(a)
		r.m.Signal(k, k, false /* fatal */)
		assert.Equal(t, unix.EINTR, MMUNotifierRegister(k, mm, &d.MMUNotifier))
		k.ClearSignal()
		r.store(k, s, 1)
		require.NoError(t, SysMprotect(k, mm, a, pgSize, ProtRead))
		assert.Empty(t, d.told())
	})
}

// When unregistering is over no method runs any more; and the pages of an address space do not
// go before Release has returned, whoever calls it.
func TestMMUNotifierMethodsEndBeforeUnregister(t *testing.T) {
	for seed := range uint64(60) {
		r := newPinRig(t, pinOptions{cpus: 2, bytes: 2 << 20, regime: sched.Free, seed: seed})
		r.run(func(k *sched.Task, mm *MM) {
			a := r.mmap(k, mm, 1, protRW, 0)
			r.fill(k, a, 1, 1)
			p := r.pageAt(mm, a)
			inside, over := 0, false
			slow := func(k *sched.Task) {
				if over {
					k.Oops("a method runs after the end of unregistering")
				}
				inside++
				for range 20 {
					r.s.Pages.Refs(k, p) // a point: others may run
				}
				inside--
			}
			n := &MMUNotifier{
				Release: func(k *sched.Task, m *MM) {
					slow(k)
					if p.MapCount.Peek() == 0 {
						k.Oops("the pages went before release was over")
					}
				},
				InvalidateRangeStart: func(k *sched.Task, _ *MM, _, _ uint64) { slow(k) },
			}
			require.NoError(t, MMUNotifierRegister(k, mm, n))
			mm.MMGet(k)
			mm.MMGrab(k)
			r.start(k, "other", 1, mm, func(k *sched.Task) {
				_ = SysMprotect(k, mm, a, pgSize, ProtRead)
			})
			ExitMM(k) // the other task may be the last user, and release
			MMUNotifierUnregister(k, mm, n)
			over = true
			if inside != 0 {
				k.Oops("unregistered while a method runs")
			}
			mm.MMDrop(k)
		})
	}
}
