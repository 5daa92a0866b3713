package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Limits are set, bind, are inherited, and are refused as Linux refuses them.
func TestRlimits(t *testing.T) {
	run(t, Options{CPUs: 1, Regime: sched.Timed}, func(th *Thread) {
		get := func(r Rlimit) [2]uint64 {
			soft, hard, err := th.Getrlimit(r)
			require.NoError(t, err)
			return [2]uint64{soft, hard}
		}
		const none = mm.RlimInfinity
		assert.Equal(t, [2]uint64{8 << 20, none}, get(RlimitStack))
		for _, r := range []Rlimit{RlimitAS, RlimitData, RlimitMemlock} {
			assert.Equal(t, [2]uint64{none, none}, get(r))
		}
		assert.Equal(t, unix.EINVAL, th.Setrlimit(RlimitAS, 2, 1), "soft above hard")
		assert.Equal(t, unix.EINVAL, th.Setrlimit(Rlimit(99), 1, 2))
		_, _, err := th.Getrlimit(Rlimit(99))
		assert.Equal(t, unix.EINVAL, err)

		require.NoError(t, th.Setrlimit(RlimitAS, 1<<20, 2<<20))
		_, err = th.MmapAnon(2 << 20)
		assert.Equal(t, unix.ENOMEM, err)
		require.NoError(t, th.Setrlimit(RlimitData, 4096, none))
		_, err = th.Sbrk(2 * 4096)
		assert.Equal(t, unix.ENOMEM, err)
		require.NoError(t, th.Setrlimit(RlimitAS, none, none), "root raises the hard limit")

		require.NoError(t, th.Setrlimit(RlimitMemlock, 0, 4096))
		a := th.MustMmap(2 * 4096)
		require.NoError(t, th.Mlock(a, 4096), "RLIMIT_MEMLOCK does not bind root")
		require.NoError(t, th.Munlock(a, 4096))
		pid, err := th.Fork(func(c *Thread) {
			c.MM().Limits.Unprivileged = true
			soft, hard, err := c.Getrlimit(RlimitMemlock)
			assert.NoError(t, err)
			assert.Equal(t, [2]uint64{0, 4096}, [2]uint64{soft, hard}, "inherited")
			assert.Equal(t, unix.EPERM, c.Mlock(a, 4096))
			assert.Equal(t, unix.EPERM, c.Setrlimit(RlimitMemlock, 0, 8192))
			assert.NoError(t, c.Setrlimit(RlimitMemlock, 4096, 4096))
			assert.NoError(t, c.Mlock(a, 4096))
			assert.Equal(t, unix.ENOMEM, c.Mlock(a, 2*4096))
			assert.NoError(t, c.Setrlimit(RlimitMemlock, 0, 0))
			assert.Equal(t, unix.EPERM, c.Setrlimit(RlimitMemlock, 0, 1), "what was lowered stays so")
		})
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
	})
}
