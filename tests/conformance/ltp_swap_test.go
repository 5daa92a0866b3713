package conformance

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/vmtest"
)

// Programs on a machine that is short of memory, swap devices, and what happens when those are full too.
var ltpSwap = []ltpCase{
	{"swapon01, swapoff01: a device on and off, with something on it", func(t *testing.T, th *kernel.Thread) {
		require.NoError(t, th.Swapon(swapDisk, 0))
		total, free := th.Machine().MM().SwapPages()
		assert.Positive(t, total)
		assert.Equal(t, total, free)
		a := mapped(t, th, 4, rw, private)
		th.Fill(a, 4*pg, 6)
		for i := uint64(0); i < 1000 && !swapped(th, a, 4*pg); i++ {
			require.NoError(t, th.Madvise(a, 4*pg, mm.MadvPageout))
			require.NoError(t, th.Nanosleep(1000))
		}
		require.True(t, swapped(th, a, 4*pg))
		require.NoError(t, th.Swapoff(swapDisk))
		total, _ = th.Machine().MM().SwapPages()
		assert.Zero(t, total)
		es, err := th.Pagemap(a, 4*pg)
		assert.NoError(t, err)
		for _, e := range es {
			assert.True(t, e.Present())
		}
		assert.EqualValues(t, 6, th.Load8(a+3*pg))
	}},
	{"swapon02, swapoff02: errors", func(t *testing.T, th *kernel.Thread) {
		errno(t, unix.ENOENT, th.Swapon("/dev/none", 0))
		errno(t, unix.EINVAL, th.Swapon("/dev/vda", 0), "no signature")
		errno(t, unix.ENOENT, th.Swapoff("/dev/none"))
		errno(t, unix.EINVAL, th.Swapoff("/dev/vda"))
		require.NoError(t, th.Swapon(swapDisk, 0))
		errno(t, unix.EBUSY, th.Swapon(swapDisk, 0))
		require.NoError(t, th.Swapoff(swapDisk))
		errno(t, unix.EINVAL, th.Swapoff(swapDisk))
	}},
	{"swapping01: using slightly more than there is does not swap everything", func(t *testing.T, th *kernel.Thread) {
		require.NoError(t, th.Swapon(swapDisk, 0))
		sys := th.Machine().MM()
		there := th.Machine().Pages().FreePages()
		pages := there * 13 / 10
		children(t, th, 1, func(c *kernel.Thread, _ int) {
			a := c.MustMmap(pages * pg)
			for p := range pages {
				c.Store64(a+p*pg, p)
			}
			total, free := sys.SwapPages()
			if used := total - free; used > there {
				t.Errorf("%d pages are in swap for %d too many", used, pages-there)
			}
			for p := range pages {
				if c.Load64(a+p*pg) != p {
					c.Exit(1)
				}
			}
		})
	}},
	{"mmapstress06: shared memory larger than what is left goes to swap and comes back", func(t *testing.T, th *kernel.Thread) {
		require.NoError(t, th.Swapon(swapDisk, 0))
		pages := th.Machine().Pages().FreePages() * 13 / 10
		a := mapped(t, th, pages, rw, shared)
		for p := range pages {
			th.Store64(a+p*pg, p)
		}
		assert.Positive(t, th.Machine().Trace().Sum(trace.PSwpOut))
		children(t, th, 2, func(c *kernel.Thread, i int) {
			for p := uint64(i); p < pages; p += 2 {
				if c.Load64(a+p*pg) != p {
					c.Exit(1)
				}
			}
		})
	}},
	{"mtest01: children that use most of memory and swap together", func(t *testing.T, th *kernel.Thread) {
		require.NoError(t, th.Swapon(swapDisk, 0))
		_, free := th.Machine().MM().SwapPages()
		each := (th.Machine().Pages().FreePages() + free) * 7 / 10 / 3
		children(t, th, 3, func(c *kernel.Thread, i int) {
			a := c.MustMmap(each * pg)
			for p := range each {
				c.Store64(a+p*pg, uint64(i)<<32|p)
			}
			for p := range each {
				if c.Load64(a+p*pg) != uint64(i)<<32|p {
					c.Exit(1)
				}
			}
		})
	}},
	{"page01, page02: processes with arrays, written from both ends", func(t *testing.T, th *kernel.Thread) {
		require.NoError(t, th.Swapon(swapDisk, 0))
		const pages = 100
		children(t, th, 4, func(c *kernel.Thread, i int) {
			a := c.MustMmap(pages * pg)
			for p := range uint64(pages / 2) {
				c.Store64(a+p*pg, p)
				c.Store64(a+(pages-1-p)*pg, p)
			}
			for p := range uint64(pages / 2) {
				if c.Load64(a+p*pg) != p || c.Load64(a+(pages-1-p)*pg) != p {
					c.Exit(1)
				}
			}
		})
	}},
	{"oom01: who takes everything is killed, the others live", func(t *testing.T, th *kernel.Thread) {
		th.Machine().MM().SetOvercommit(mm.OvercommitAlways, 0)
		a := th.MustMmap(10 * pg)
		th.Fill(a, 10*pg, 3)
		dies(t, th, kernel.SIGKILL, func(c *kernel.Thread) {
			b := c.MustMmap(2000 * pg)
			for p := range uint64(2000) {
				c.Store64(b+p*pg, p)
			}
		})
		assert.Equal(t, bytes.Repeat([]byte{3}, 10*pg), th.Bytes(a, 10*pg))
	}},
	{"min_free_kbytes: who takes everything leaves so much free", func(t *testing.T, th *kernel.Thread) {
		// Like SetOvercommit, SetMinFree wants a machine at rest; nothing else of it runs here.
		th.Machine().MM().SetOvercommit(mm.OvercommitAlways, 0)
		pages := th.Machine().Pages()
		reserve := pages.Frames() / 4
		pages.SetMinFree(reserve)
		minimum, _, _ := pages.Watermarks()
		assert.InDelta(t, reserve, minimum, 2)
		touched := uint64(0)
		dies(t, th, kernel.SIGKILL, func(c *kernel.Thread) {
			b := c.MustMmap(2000 * pg)
			for p := range uint64(2000) {
				c.Store64(b+p*pg, p)
				touched++
				if free := pages.FreePages(); free < minimum {
					t.Errorf("%d pages are free after page %d, not %d", free, p, minimum)
				}
			}
		})
		assert.Greater(t, touched, reserve)
	}},
}

// TestSwapFiles is swapon03: there are MAX_SWAPFILES swap areas, and one more is EPERM.
func TestSwapFiles(t *testing.T) {
	const most = 32
	o := kernel.Options{Regime: sched.Timed, Memory: 4 << 20}
	for i := range most + 1 {
		o.Disks = append(o.Disks, kernel.Disk{Name: fmt.Sprintf("swap%d", i), Size: mm.MinSwap, Swap: true})
	}
	vmtest.New(t, o).Run(func(th *kernel.Thread) {
		for i := range most {
			require.NoError(t, th.Swapon(fmt.Sprintf("/dev/swap%d", i), 0))
		}
		last := fmt.Sprintf("/dev/swap%d", most)
		errno(t, unix.EPERM, th.Swapon(last, 0))
		require.NoError(t, th.Swapoff("/dev/swap7"))
		assert.NoError(t, th.Swapon(last, 0))
	})
}
