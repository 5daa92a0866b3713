package sched

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
)

// bell is a device that rings.
type bell struct{ rung atomic.Bool }

func (b *bell) Fire(*Machine, *trace.CPU) { b.rung.Store(true) }
func (b *bell) Op() x86.Op                { return x86.OpEvent }
func (b *bell) Obj() x86.ObjID            { return x86.Obj(x86.ClassTimer, 1) }
func (b *bell) Name() string              { return "bell" }

// The host may run one CPU of a machine and not another, for as long as it likes. To a
// guest that is stolen time: devices work on, and the CPU finds its clock put forward. A device that
// waited for the slowest CPU would finish no write while the other sends it all of
// memory, and the OOM killer would come for want of pages that have been written.
func TestDevicesDoNotWaitForACPUThatTheHostDoesNotRun(t *testing.T) {
	m := boot(t, Options{CPUs: 2})
	var ring bell
	var stopped atomic.Bool
	release := make(chan struct{})
	var inTime bool
	var before, after uint64
	start := func(name string, cpu int, fn func(*Task)) {
		m.Start(nil, m.NewTask(TaskOptions{Name: name, CPU: cpu + 1}, fn))
	}
	work := func(t *Task) {
		t.C.Charge(quantum)
		t.Point(x86.OpYield, 0)
	}
	start("stolen from", 1, func(t *Task) {
		work(t)
		stopped.Store(true)
		<-release
		work(t)
		after = t.C.Now()
	})
	start("running", 0, func(t *Task) {
		for !stopped.Load() {
			runtime.Gosched()
		}
		m.AddEvent(50_000, &ring)
		for i := 0; i < 1000 && !ring.rung.Load(); i++ {
			work(t)
		}
		inTime, before = ring.rung.Load(), m.nowCycles()
		close(release)
	})
	require.NoError(t, m.Run().Err())
	assert.True(t, inTime, "the device waited for a CPU that stood still")
	assert.GreaterOrEqual(t, after, before, "the clock of who was stolen from")
}
