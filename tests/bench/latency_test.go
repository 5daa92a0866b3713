package bench

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// forkLatency returns how many virtual nanoseconds fork takes while an asynchronous direct
// read is in flight on a device that takes a millisecond.
func forkLatency(tb testing.TB, p mm.Policy) (ns uint64) {
	tb.Helper()
	m, err := kernel.Boot(kernel.Options{
		CPUs: 2, Memory: 8 << 20, Regime: sched.Timed, Policy: p,
		Disks: []kernel.Disk{{Name: "vda", Size: 1 << 20, Latency: &blk.Latency{Name: "1ms", BaseNS: 1_000_000}}},
	})
	require.NoError(tb, err)
	defer m.Shutdown()
	out := m.Run(func(t *kernel.Thread) {
		buf := t.MustMmap(4 * x86.PageSize)
		t.Fill(buf, 4*x86.PageSize, 1)
		fd, err := t.Open("/dev/vda", fs.ORdonly|fs.ODirect)
		if !assert.NoError(tb, err) {
			return
		}
		ctx, err := t.IoSetup(1)
		assert.NoError(tb, err)
		_, err = t.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPread, FD: fd, Buf: buf, Len: x86.PageSize}})
		assert.NoError(tb, err)
		begin := t.ClockGettime()
		pid, err := t.Fork(func(c *kernel.Thread) { c.Exit(0) })
		ns = t.ClockGettime() - begin
		assert.NoError(tb, err)
		_, _, err = t.Wait(pid)
		assert.NoError(tb, err)
		ev, err := t.IoGetevents(ctx, 1, 1, -1)
		assert.NoError(tb, err)
		assert.Len(tb, ev, 1)
		assert.NoError(tb, t.IoDestroy(ctx))
		assert.NoError(tb, t.Close(fd))
	})
	require.NoError(tb, out.Err(), "%s under %s", out.Detail, p.Name())
	return ns
}
