package kernel

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// devLoad and devStore are a word as the device sees it.
func devLoad(th *Thread, d *DeviceMap, off uint64) (uint64, error) {
	var b [8]byte
	err := th.MappedRead(d, off, b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

func devStore(th *Thread, d *DeviceMap, off, v uint64) error {
	return th.MappedWrite(d, off, binary.LittleEndian.AppendUint64(nil, v))
}

// deviceStory does to a device's memory what can happen to memory, and returns where the
// device saw, or wrote to, something else than the process.
func deviceStory(th *Thread, change func(*mm.MMUNotifier)) (stale []string) {
	const page = 4096
	try := func(name string, n uint64, fn func(a uint64, d *DeviceMap) (got, want any)) {
		a := th.MustMmap(n * page)
		d, err := th.MapDevice(a, n*page)
		if err != nil {
			th.Task().Oops("MapDevice: %v", err)
		}
		change(&d.notifier)
		if got, want := fn(a, d); fmt.Sprint(got) != fmt.Sprint(want) {
			stale = append(stale, name)
		}
		_ = th.UnmapDevice(d)
	}
	see := func(d *DeviceMap, off uint64) string {
		v, err := devLoad(th, d, off)
		return fmt.Sprint(v, err)
	}
	try("fork", 1, func(a uint64, d *DeviceMap) (got, want any) {
		th.Store64(a, 1)
		_ = devStore(th, d, 8, 2) // a writable entry
		r, w, _ := th.Pipe()
		pid, _ := th.Fork(func(c *Thread) {
			b := c.MustMmap(page)
			_, _ = c.ReadFD(r, b, 1)
			c.Exit(int(c.Load64(a + 8)))
		})
		_ = devStore(th, d, 8, 3) // must copy, as a store would
		_, _ = th.WriteFD(w, a, 1)
		_, st, _ := th.Wait(pid)
		_, _ = th.Close(r), th.Close(w)
		return fmt.Sprint(st, th.Load64(a+8)), fmt.Sprint(Exited(2), 3)
	})
	try("cow", 1, func(a uint64, d *DeviceMap) (got, want any) {
		th.Store64(a, 1)
		r, w, _ := th.Pipe()
		pid, _ := th.Fork(func(c *Thread) {
			b := c.MustMmap(page)
			_, _ = c.ReadFD(r, b, 1)
		})
		before := see(d, 0) // a read-only entry of the shared page
		th.Store64(a, 7)
		got = before + see(d, 0)
		_, _ = th.WriteFD(w, a, 1)
		_, _, _ = th.Wait(pid)
		_, _ = th.Close(r), th.Close(w)
		return got, "1 <nil>7 <nil>"
	})
	try("munmap", 2, func(a uint64, d *DeviceMap) (got, want any) {
		th.Store64(a, 5)
		before := see(d, 0)
		_ = th.Munmap(a, page)
		return before + see(d, 0), "5 <nil>" + fmt.Sprint(0, unix.EFAULT)
	})
	try("dontneed", 2, func(a uint64, d *DeviceMap) (got, want any) {
		th.Store64(a, 5)
		before := see(d, 0)
		_ = th.Madvise(a, page, mm.MadvDontNeed)
		return before + see(d, 0), "5 <nil>0 <nil>"
	})
	try("mprotect", 2, func(a uint64, d *DeviceMap) (got, want any) {
		_ = devStore(th, d, 0, 5)
		_ = th.Mprotect(a, page, mm.ProtRead)
		return devStore(th, d, 0, 6), unix.EFAULT
	})
	try("mremap", 2, func(a uint64, d *DeviceMap) (got, want any) {
		th.Store64(a, 5)
		before := see(d, 0)
		to := th.MustMmap(page)
		_, _ = th.Mremap(a, page, page, mm.MremapMayMove|mm.MremapFixed, to)
		return before + see(d, 0), "5 <nil>" + fmt.Sprint(0, unix.EFAULT)
	})
	try("swap", 2, func(a uint64, d *DeviceMap) (got, want any) {
		th.Store64(a, 5)
		before := see(d, 0)
		if !pageoutTries(th, th.m, a) {
			return "not swapped out", ""
		}
		for range 8 { // until the page itself has gone
			_ = th.Nanosleep(1_000_000)
			_ = th.Kernel(func(task *sched.Task) error {
				th.m.pages.LRUAddDrain(task)
				th.m.sys.DropClean(task)
				return nil
			})
		}
		if n := th.m.sys.SwapCachePages(); n != 0 {
			return fmt.Sprint(n, " pages in the swap cache"), ""
		}
		th.Fill(th.MustMmap(4*page), 4*page, 9) // whoever needs a page gets the one that is free now
		th.Store64(a, 6)
		return before + see(d, 0), "5 <nil>6 <nil>"
	})
	try("ksm", 20, func(a uint64, d *DeviceMap) (got, want any) {
		_ = th.Madvise(a, 20*page, mm.MadvMergeable)
		for i := range uint64(20) {
			_ = devStore(th, d, i*page, 5) // writable entries of pages that are equal
		}
		_ = th.KSMScan(2)
		merged := th.m.KSMStats().PagesSharing > 0
		_ = devStore(th, d, 0, 6)
		got = fmt.Sprint(merged, see(d, 0), see(d, page), th.Load64(a), th.Load64(a+page))
		return got, fmt.Sprint(true, "6 <nil>", "5 <nil>", 6, 5)
	})
	return stale
}

// A device that is told of changes pins nothing, and never has a page that the process does
// not have. Each way of being told is needed: what is not told is seen.
func TestDeviceWithNotifierSeesNoStalePage(t *testing.T) {
	off := func(change func(*mm.MMUNotifier)) []string {
		o := withSwapDisk(Options{CPUs: 2, Regime: sched.Timed, KSM: true}, 256)
		m := boot(t, o)
		var stale []string
		out := m.Run(func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			stale = deviceStory(th, change)
		})
		require.NoError(t, out.Err())
		atRest(t, m)
		assert.NotZero(t, m.Trace().Sum(trace.EmuMMUNotifier))
		return stale
	}
	assert.Empty(t, off(func(*mm.MMUNotifier) {}))
	// Reclaim asks whether the page is young, and this device then lets go of it.
	assert.Equal(t, []string{"cow"}, off(func(n *mm.MMUNotifier) { n.InvalidatePage = nil }))
	assert.Equal(t, []string{"cow", "swap"}, off(func(n *mm.MMUNotifier) { n.InvalidatePage, n.ClearFlushYoung = nil, nil }))
	assert.Equal(t, []string{"fork", "munmap", "dontneed", "mprotect", "mremap"},
		off(func(n *mm.MMUNotifier) { n.InvalidateRangeStart, n.InvalidateRangeEnd = nil, nil }))
	assert.Empty(t, off(func(n *mm.MMUNotifier) { n.ChangePTE = nil }), "InvalidatePage is called then")
	assert.Equal(t, []string{"cow", "ksm"}, off(func(n *mm.MMUNotifier) { n.ChangePTE, n.InvalidatePage = nil, nil }))
	assert.Empty(t, off(func(n *mm.MMUNotifier) { n.ClearFlushYoung = nil }), "then the page just looks older than it is")
}

// A device and its process take turns in storing while others fork, reclaim and merge.
func TestDeviceWithNotifierUnderPressure(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		if o.Regime == sched.Free {
			o.Memory, o.NoStack = 1<<20, true
		}
		o.KSM = true
		m, _ := run(t, withSwapDisk(o, 64), func(th *Thread) {
			require.NoError(t, th.Swapon(swapDev, 0))
			a := th.MustMmap(2 * 4096)
			require.NoError(t, th.Madvise(a, 2*4096, mm.MadvMergeable))
			th.Store64(a, 0)
			th.Store64(a+4096, 0)
			d, err := th.MapDevice(a, 2*4096)
			require.NoError(t, err)
			other := th.Go("disturber", func(th *Thread) {
				for range 3 {
					pid, err := th.Fork(func(c *Thread) { c.Store64(a+512, 1) })
					if err == nil {
						_, _, _ = th.Wait(pid)
					}
					_ = th.Madvise(a, 2*4096, mm.MadvPageout)
					_ = th.KSMScan(1)
				}
			})
			for i := range uint64(4) {
				require.NoError(t, devStore(th, d, 0, 2*i+1))
				require.Equal(t, 2*i+1, th.Load64(a), "what the device stored")
				th.Store64(a, 2*i+2)
				v, err := devLoad(th, d, 0)
				require.NoError(t, err)
				require.Equal(t, 2*i+2, v, "what the process stored")
			}
			require.NoError(t, th.Join(other))
			require.NoError(t, th.UnmapDevice(d))
			assert.Equal(t, unix.EINVAL, th.UnmapDevice(d))
			assert.Equal(t, unix.EFAULT, devStore(th, d, 0, 1))
		})
		assert.Zero(t, m.Trace().Sum(trace.EmuDMAFreed))
	})
}

// The end of the process empties the device's page table before its pages go, and the
// driver may let go later.
func TestDeviceOfADeadProcess(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o Options) {
		var d *DeviceMap
		run(t, o, func(th *Thread) {
			pid, err := th.Fork(func(c *Thread) {
				a := c.MustMmap(4096)
				d, _ = c.MapDevice(a, 4096)
				_ = devStore(c, d, 0, 1)
			})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, unix.EIO, devStore(th, d, 0, 2))
			assert.True(t, d.gone)
			assert.Nil(t, d.table[0].p)
			require.NoError(t, th.UnmapDevice(d))
		})
	})
}

func TestMapDeviceErrors(t *testing.T) {
	run(t, Options{}, func(th *Thread) {
		for _, c := range [][2]uint64{{1, 4096}, {4096, 0}, {0, ^uint64(0)}, {^uint64(0) &^ 4095, 4096}} {
			_, err := th.MapDevice(c[0], c[1])
			assert.Equal(t, unix.EINVAL, err, "%#x", c)
		}
		a := th.MustMmap(4096)
		d, err := th.MapDevice(a, 100)
		require.NoError(t, err)
		assert.Equal(t, unix.EINVAL, th.MappedRead(d, 99, make([]byte, 2)))
		assert.NoError(t, th.MappedRead(d, 99, make([]byte, 1)))
		require.NoError(t, th.UnmapDevice(d))
	})
}
