package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// pinWitness counts what a policy is told of the users of get_user_pages.
type pinWitness struct {
	mm.Stock
	open, begun map[mm.PinUserKind]int
	refuse      error
}

func newPinWitness() *pinWitness {
	return &pinWitness{open: map[mm.PinUserKind]int{}, begun: map[mm.PinUserKind]int{}}
}

func (*pinWitness) Name() string            { return "witness" }
func (*pinWitness) Hooks() mm.HookSet       { return mm.HookPin }
func (*pinWitness) VmsplicePin() mm.PinKind { return mm.PinPin }

func (w *pinWitness) PinBegin(u *mm.PinUser) error {
	if w.refuse != nil {
		return w.refuse
	}
	if u.T == nil || u.MM == nil || len(u.Ranges) == 0 {
		u.T.Oops("PinUser %+v", u)
	}
	w.open[u.Kind]++
	w.begun[u.Kind]++
	return nil
}

func (w *pinWitness) PinEnd(t *sched.Task, u *mm.PinUser) {
	if w.open[u.Kind]--; w.open[u.Kind] < 0 {
		t.Oops("PinEnd without PinBegin: %+v", u)
	}
}

// PinEnd comes when the last page of an operation has been given back, and not before.
func TestPinUsersTellThePolicy(t *testing.T) {
	w := newPinWitness()
	run(t, Options{CPUs: 2, Regime: sched.Timed, Policy: w}, func(th *Thread) {
		r, wr, err := th.Pipe()
		require.NoError(t, err)
		a, b := th.MustMmap(40*4096), th.MustMmap(40*4096)
		open := func(k mm.PinUserKind, want int) {
			t.Helper()
			assert.Equal(t, want, w.open[k])
		}
		_, err = th.Vmsplice(wr, a, 3*4096, 0)
		assert.NoError(t, err)
		open(mm.UserVmsplice, 1)
		_, err = th.Vmsplice(wr, a+100, 4096, 0) // two pages
		assert.NoError(t, err)
		open(mm.UserVmsplice, 2)
		_, err = th.ReadFD(r, b, 3*4096-1)
		assert.NoError(t, err)
		open(mm.UserVmsplice, 2)
		_, err = th.ReadFD(r, b, 1)
		assert.NoError(t, err)
		open(mm.UserVmsplice, 1)
		_, err = th.Vmsplice(wr, a, 20*4096, fs.SpliceNonblock) // 16 found, 14 fit
		assert.NoError(t, err)
		open(mm.UserVmsplice, 2)
		_, err = th.Vmsplice(wr, a, 4096, fs.SpliceNonblock)
		assert.ErrorIs(t, err, unix.EAGAIN)
		open(mm.UserVmsplice, 2)
		_, err = th.Vmsplice(wr, 0x1000, 4096, 0)
		assert.ErrorIs(t, err, unix.EFAULT)
		open(mm.UserVmsplice, 2)
		w.refuse = unix.EBUSY
		_, err = th.Vmsplice(wr, a, 4096, 0)
		assert.ErrorIs(t, err, unix.EBUSY)
		_, err = th.RegisterMemory(a, 4096, RegisterOptions{})
		assert.ErrorIs(t, err, unix.EBUSY)
		w.refuse = nil
		reg, err := th.RegisterMemory(a, 4096, RegisterOptions{Fast: true})
		require.NoError(t, err)
		open(mm.UserDriver, 1)
		assert.NoError(t, th.UnregisterMemory(reg))
		open(mm.UserDriver, 0)
		_, err = th.RegisterMemory(0x1000, 4096, RegisterOptions{})
		assert.ErrorIs(t, err, unix.EFAULT)
		open(mm.UserDriver, 0)
		pid, err := th.Fork(func(c *Thread) { c.Usleep(100) })
		require.NoError(t, err)
		_, _ = th.PtracePeek(pid, a)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
		open(mm.UserPtrace, 0)
		assert.NoError(t, th.Close(r))
		open(mm.UserVmsplice, 2) // a pipe keeps what nobody reads until both ends are closed
		assert.NoError(t, th.Close(wr))
		open(mm.UserVmsplice, 0)
	})
	assert.Positive(t, w.begun[mm.UserPtrace])
}

// Every allocation behind pipes, debuggers and drivers may fail: nothing is left behind.
func TestPinUsersOutOfMemory(t *testing.T) {
	sites := []string{"pipe_write", "do_anonymous_page", "cow_user_page", "do_wp_page", "pte_alloc_one", "mincore", "buffered_io"}
	for _, site := range sites {
		for nth := 1; nth <= 2; nth++ {
			t.Run(fmt.Sprintf("%s/%d", site, nth), func(t *testing.T) {
				run(t, withDisk(Options{CPUs: 2, Regime: sched.Timed, CheckLocks: true}), func(th *Thread) {
					a := th.MustMmap(4 << 20)
					b := th.MustMmap(8 * 4096)
					th.Fill(b, 8*4096, 1)
					r, w, err := th.Pipe2(fs.ONonblock)
					require.NoError(t, err)
					disk, err := th.Open("/dev/vda", fs.ORdwr)
					require.NoError(t, err)
					pid, err := th.Fork(func(c *Thread) { c.Usleep(5000) })
					require.NoError(t, err)
					th.Machine().Pages().FailAt(site, nth)
					_, _ = th.WriteFD(w, b, 3*4096)
					_, _ = th.Vmsplice(w, a, 4*4096, 0)
					_, _ = th.Vmsplice(w, b, 4*4096, 0)
					_ = th.PtracePoke(pid, b, 1)
					_, _ = th.PtracePeek(pid, a+8192)
					if reg, err := th.RegisterMemory(a+1<<20, 8*4096, RegisterOptions{Write: true}); err == nil {
						assert.NoError(t, th.UnregisterMemory(reg))
					}
					if reg, err := th.RegisterMemory(b, 8*4096, RegisterOptions{Umem: true}); err == nil {
						assert.NoError(t, th.UnregisterMemory(reg))
					}
					_, _ = th.Mincore(a, 4<<20)
					_, _ = th.Splice(r, disk, 5000, 0)
					_, _ = th.Mremap(b, 8*4096, 16*4096, mm.MremapMayMove, 0)
					th.Machine().Pages().FailNever()
					_, _, err = th.Wait(pid)
					assert.NoError(t, err)
				})
			})
		}
	}
}

// Many processes with one pipe, that write, splice, read and leave at random: every
// byte that went in comes out, or was still in the pipe.
func TestPipeRandom(t *testing.T) {
	regimes(t, 3, func(t *testing.T, o Options) {
		run(t, o, func(th *Thread) {
			r, w, err := th.Pipe()
			require.NoError(t, err)
			buf := th.MustMmap(64 * 4096)
			sums := th.MustMmapShared(4096)
			th.Fill(buf, 64*4096, 1)
			var pids []int
			for i := range uint64(4) {
				pid, err := th.Fork(func(c *Thread) {
					rnd := rand.New(rand.NewPCG(i, 9))
					mine := sums + i*8
					if i%2 == 0 {
						assert.NoError(t, c.Close(r))
						for range 12 {
							n := 1 + rnd.IntN(5*4096)
							var k int
							var err error
							if rnd.IntN(2) == 0 {
								k, err = c.WriteFD(w, buf+uint64(rnd.IntN(4096)), n)
							} else {
								k, err = c.Vmsplice(w, buf+uint64(rnd.IntN(4096)), n, 0)
							}
							assert.NoError(t, err)
							c.Store64(mine, c.Load64(mine)+uint64(k))
						}
						return
					}
					assert.NoError(t, c.Close(w))
					for {
						k, err := c.ReadFD(r, buf, 1+rnd.IntN(3*4096))
						if k == 0 || err != nil {
							assert.NoError(t, err)
							return
						}
						for _, v := range c.Bytes(buf, k) {
							if v != 1 {
								assert.EqualValues(t, 1, v)
								return
							}
						}
						c.Store64(mine, c.Load64(mine)+uint64(k))
					}
				})
				require.NoError(t, err)
				pids = append(pids, pid)
			}
			assert.NoError(t, th.Close(r))
			assert.NoError(t, th.Close(w))
			for _, pid := range pids {
				_, _, err := th.Wait(pid)
				assert.NoError(t, err)
			}
			assert.Greater(t, th.Load64(sums), uint64(4096))
			assert.Equal(t, th.Load64(sums)+th.Load64(sums+16), th.Load64(sums+8)+th.Load64(sums+24))
		})
	})
}
