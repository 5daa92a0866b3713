package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
)

// A request that is in flight when its context is destroyed ends without an event, also for
// a thread that waits for one: io_getevents then says EINVAL (aio_cancel_all, aio_complete).
func TestDestroyedContextGivesNoEvents(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		run(t, withDisk(o), func(th *Thread) {
			fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
			require.NoError(t, err)
			a := th.MustMmap(4096)
			ctx, err := th.IoSetup(1)
			require.NoError(t, err)
			var evs []IOEvent
			var werr error
			w := th.Go("waiter", func(c *Thread) {
				evs, werr = c.IoGetevents(ctx, 1, 1, -1)
			})
			n, err := th.IoSubmit(ctx, []IOCB{{Op: fs.IOCBCmdPread, FD: fd, Buf: a, Len: 4096}})
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NoError(t, th.IoDestroy(ctx))
			require.NoError(t, th.Join(w))
			if o.Regime == sched.Timed {
				assert.Empty(t, evs, "the disk takes longer than the call")
			}
			if len(evs) == 0 { // it was not over before
				assert.ErrorIs(t, werr, unix.EINVAL)
			}
		})
	})
}
