package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

func TestStopEndsARun(t *testing.T) {
	for _, r := range []sched.Regime{sched.Parallel, sched.Timed, sched.Free} {
		m := boot(t, Options{CPUs: 2, Regime: r, StepLimit: 1 << 60})
		out := m.Run(func(th *Thread) {
			_, _ = th.Fork(forever)
			m.Stop("enough")
			forever(th)
		})
		assert.Equal(t, sched.Stopped, out.Reason)
		assert.ErrorContains(t, out.Err(), "enough")
		assert.False(t, m.AtRest())
	}
}

// A driver pins a page inside a system call and lets go of it in another.
func TestKernelCode(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		m, _ := run(t, o, func(th *Thread) {
			a := th.MustMmap(4096)
			th.Store64(a, 7)
			var pins [1]*page.Page
			require.NoError(t, th.Kernel(func(task *sched.Task) error {
				assert.False(t, task.User)
				n, err := mm.GetUserPagesFast(task, a, 1, true, mm.PinGet, pins[:])
				assert.Equal(t, 1, n)
				return err
			}))
			require.NoError(t, th.Munmap(a, 4096))
			pfn := th.Machine().Pages().PFN(pins[0])
			assert.Equal(t, byte(7), th.Machine().Sched().Mem().Bytes(pfn)[0], "the pin keeps the page")
			assert.ErrorIs(t, th.Kernel(func(task *sched.Task) error {
				th.Machine().MM().PutUserPage(task, pins[0], mm.PinGet)
				return unix.EIO
			}), unix.EIO)
			assert.True(t, th.Task().User)
			assert.Less(t, th.CPU(), 2)
			assert.Same(t, th.MM(), th.Process().MM())
		})
		assert.True(t, m.AtRest())
		assert.Nil(t, m.Block())
	})
}

func TestProcessAfterItsEnd(t *testing.T) {
	m := boot(t, Options{})
	p := m.Start("named", func(th *Thread) { th.Exit(3) })
	_, ok := p.Status()
	assert.False(t, ok)
	m.Run(nil)
	st, ok := p.Status()
	assert.True(t, ok)
	assert.Equal(t, Exited(3), st)
	assert.Equal(t, 1, p.PID())
	assert.Equal(t, "named", p.Name())
	assert.Nil(t, p.MM())
	m.Start("nothing", nil)
	require.NoError(t, m.Run(nil).Err())
}

func TestSnapshotOfALargeMachineListsWhatIsMapped(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Memory: 128 << 20})
	var s *Snapshot
	out := m.Run(func(th *Thread) {
		a := th.MustMmap(8192)
		th.Fill(a, 8192, 1)
		s = m.Snapshot(nil)
		e, ok := s.Leaf(1, a)
		assert.True(t, ok)
		assert.NotNil(t, s.Page(e.PFN()))
		again := m.Snapshot(s)
		assert.Same(t, s, again)
	})
	require.NoError(t, out.Err())
	assert.Len(t, s.Spaces[0].VMAs, 2)
	leaves := 0
	for _, e := range s.Spaces[0].Entries {
		if e.Level == x86.LevelPTE {
			leaves++
		}
	}
	assert.Equal(t, 2, leaves)
}

func TestWritingForms(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o Options) {
		m := boot(t, withDisk(o))
		out := m.Run(func(th *Thread) {
			a := th.MustMmap(8192)
			th.Fill(a, 512, 'a')
			th.Fill(a+4096, 512, 'b')
			fd, err := th.Open("/dev/vda", fs.OWronly|fs.ODirect)
			require.NoError(t, err)
			iov := []IOVec{{Base: a, Len: 512}, {Base: a + 4096, Len: 512}}
			for _, write := range []func() (int, error){
				func() (int, error) { return th.WriteFD(fd, a, 512) },
				func() (int, error) { return th.Writev(fd, iov) },
				func() (int, error) { return th.Pwritev(fd, iov, 4096) },
			} {
				n, err := write()
				assert.NoError(t, err)
				assert.Positive(t, n)
			}
		})
		require.NoError(t, out.Err())
		d := m.DiskData("vda")
		assert.Equal(t, "aab", string([]byte{d[511], d[512], d[1024]}))
		assert.Equal(t, "ab", string([]byte{d[4096], d[4096+512]}))
		atRest(t, m)
	})
}

func TestOutOfMemoryInATryForm(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Memory: 1 << 20, Regime: sched.Timed})
	out := m.Run(func(th *Thread) {
		a, err := th.Mmap(0, 4<<20, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous|mm.MapNoReserve, -1, 0)
		require.NoError(t, err)
		for i := uint64(0); ; i += 4096 {
			if err := th.TryStore32(a+i, 1); err != nil {
				t.Error("killed, not told")
				return
			}
		}
	})
	require.NoError(t, out.Result.Err())
	assert.Equal(t, KilledBy(SIGKILL), out.Exits[0].Status)
	assert.Len(t, out.Victims, 1)
	atRest(t, m)
}
