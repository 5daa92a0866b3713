package kernel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// hugeRefs returns the references on the huge page at addr.
func hugeRefs(th *Thread, addr uint64) int {
	e, _ := th.MM().PeekHugePTE(addr)
	return int(th.Machine().Pages().Page(e.PFN()).Count.Peek())
}

// Both ways to pin give the small pages, and count them on the head.
func TestHugePins(t *testing.T) {
	for _, fast := range []bool{false, true} {
		run(t, timedHuge(2), func(th *Thread) {
			a := th.MustMmapHuge(2, hugeSize, mm.MapPrivate)
			at := a + hugeSize - 3*4096
			r, err := th.RegisterMemory(at, 5*4096, RegisterOptions{Write: true, Fast: fast}) // faults in
			require.NoError(t, err)
			if fast {
				require.NoError(t, th.UnregisterMemory(r))
				before := th.Machine().Trace().Sum(trace.EmuGUPFastPages)
				r, err = th.RegisterMemory(at, 5*4096, RegisterOptions{Write: true, Fast: fast})
				require.NoError(t, err)
				assert.EqualValues(t, 5, th.Machine().Trace().Sum(trace.EmuGUPFastPages)-before)
			}
			assert.Equal(t, 4, hugeRefs(th, a))
			assert.Equal(t, 3, hugeRefs(th, a+hugeSize))
			first, _ := th.MM().PeekHugePTE(a)
			pages := th.Machine().Pages()
			for i, p := range r.Pages()[:3] {
				assert.Equal(t, first.PFN()+509+x86.PFN(i), pages.PFN(p))
				assert.True(t, p.Has(page.Tail))
			}
			assert.True(t, r.Pages()[3].Has(page.Head))
			require.NoError(t, th.DeviceWrite(r, 3*4096-512, bytes.Repeat([]byte{7}, 1024)))
			assert.Equal(t, bytes.Repeat([]byte{7}, 1024), th.Bytes(a+hugeSize-512, 1024))
			// The pins keep the pages when the mapping goes.
			require.NoError(t, th.Munmap(a, 2*hugeSize))
			wantPool(t, th.Machine(), 2, 0, 0, 0)
			require.NoError(t, th.UnregisterMemory(r))
			wantPool(t, th.Machine(), 2, 2, 0, 0)
		})
	}
}

// The bug of this project on huge pages, where it takes no second process: the page that a
// device has pinned is copied because it is referenced, whenever its entry is
// read-only.
func TestHugeWrongCopyWhilePinned(t *testing.T) {
	for name, makeReadOnly := range map[string]func(th *Thread, a uint64){
		"fork, and the child has ended": func(th *Thread, a uint64) {
			pid, err := th.Fork(func(c *Thread) { c.Exit(0) })
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		},
		"mprotect": func(th *Thread, a uint64) {
			require.NoError(t, th.Mprotect(a, hugeSize, mm.ProtRead))
			require.NoError(t, th.Mprotect(a, hugeSize, protRW))
		},
		"nothing": func(*Thread, uint64) {},
	} {
		run(t, timedHuge(2), func(th *Thread) {
			a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
			th.Store64(a, 1)
			r, err := th.RegisterMemory(a+8192, 512, RegisterOptions{Write: true})
			require.NoError(t, err)
			makeReadOnly(th, a)
			before, _ := th.MM().PeekHugePTE(a)
			th.Store64(a, 2)
			after, _ := th.MM().PeekHugePTE(a)
			require.NoError(t, th.DeviceWrite(r, 0, bytes.Repeat([]byte{0xaa}, 512)))
			lost := th.Load8(a+8192) != 0xaa
			assert.Equal(t, name != "nothing", lost, name)
			assert.Equal(t, lost, before.PFN() != after.PFN(), name)
			require.NoError(t, th.UnregisterMemory(r))
		})
	}
}

// huge_ptep_clear_flush is empty on x86 in 2.6.29: after hugetlb_cow the other threads of
// the process read the old page until something flushes their TLBs.
func TestHugeCOWDoesNotFlush(t *testing.T) {
	run(t, timedHuge(2), func(th *Thread) {
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		sync := th.MustMmapShared(4096)
		th.Store64(a, 1)
		pid, err := th.Fork(func(c *Thread) { // keeps the page shared, and only looks
			for c.Load32(sync) < 3 {
				c.Usleep(10)
			}
		})
		require.NoError(t, err)
		reader := th.Go("reader", func(r *Thread) {
			assert.Equal(t, uint64(1), r.Load64(a)) // into this processor's TLB
			r.Store32(sync, 1)
			for r.Load32(sync) < 2 {
				r.Compute(1000)
			}
			assert.Equal(t, uint64(1), r.Load64(a), "2.6.29 leaves the old translation")
			assert.NoError(t, r.Mprotect(sync, 4096, mm.ProtRead)) // flushes
			assert.NoError(t, r.Mprotect(sync, 4096, protRW))
			assert.Equal(t, uint64(2), r.Load64(a))
		})
		for th.Load32(sync) < 1 {
			th.Compute(1000)
		}
		th.Store64(a, 2)
		th.Store32(sync, 2)
		require.NoError(t, th.Join(reader))
		th.Store32(sync, 3)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
	})
}

// A pin for reading of what nobody has touched gets the zero page, and in 2.6.29 so does
// what comes behind it in the same call, touched or not.
func TestHugeReadPinOfUntouchedMemory(t *testing.T) {
	run(t, timedHuge(3), func(th *Thread) {
		a := th.MustMmapHuge(3, hugeSize, mm.MapPrivate)
		th.Store64(a, 1) // makes the tables
		th.Store64(a+2*hugeSize, 9)
		got := func(at, n uint64) []byte {
			r, err := th.RegisterMemory(at, n, RegisterOptions{})
			require.NoError(t, err)
			b := make([]byte, n)
			require.NoError(t, th.DeviceRead(r, 0, b))
			require.NoError(t, th.UnregisterMemory(r))
			return b
		}
		assert.Equal(t, make([]byte, 4096), got(a+hugeSize, 4096))
		wantPool(t, th.Machine(), 3, 1, 1, 0)
		both := got(a+2*hugeSize-4096, 8192)
		assert.Zero(t, both[4096], "zeroes though the page has 9: zeropage_ok is never cleared")
		assert.EqualValues(t, 9, got(a+2*hugeSize, 4096)[0])
		wantPool(t, th.Machine(), 3, 1, 1, 0)
	})
}

// LTP's hugemmap11 and the kernel's selftest hugetlb_dio: O_DIRECT from and to huge pages,
// with beginnings and ends in the middle of a page; no pin is left behind.
func TestHugeDirectIO(t *testing.T) {
	const size = 64 << 10
	for _, async := range []bool{false, true} {
		for i, c := range [][2]uint64{{0, size}, {512, size}, {0, size - 512}, {1024, size - 1536}} {
			t.Run(fmt.Sprintf("%v/%d", async, i), func(t *testing.T) {
				o := timedHuge(2)
				o.Disks = []Disk{{Name: "vda", Size: 1 << 20}}
				m, _ := run(t, o, func(th *Thread) {
					fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
					require.NoError(t, err)
					a := th.MustMmapHuge(2, hugeSize, mm.MapPrivate)
					from, to := a+hugeSize-size/2+c[0], a+c[0]
					want := make([]byte, c[1]-c[0])
					for i := range want {
						want[i] = byte(i*7 + i>>9)
					}
					th.Write(from, want)
					ctx, err := th.IoSetup(4)
					require.NoError(t, err)
					move := func(op fs.Opcode, at uint64) {
						if !async {
							call := th.Pwrite
							if op == fs.IOCBCmdPread {
								call = th.Pread
							}
							n, err := call(fd, at, len(want), 0)
							require.NoError(t, err)
							assert.Equal(t, len(want), n)
							return
						}
						_, err := th.IoSubmit(ctx, []IOCB{{Op: op, FD: fd, Buf: at, Len: uint64(len(want))}})
						require.NoError(t, err)
						ev, err := th.IoGetevents(ctx, 1, 1, -1)
						require.NoError(t, err)
						assert.EqualValues(t, len(want), ev[0].Res)
					}
					move(fs.IOCBCmdPwrite, from)
					assert.True(t, bytes.Equal(want, th.Machine().DiskData("vda")[:len(want)]), "what is on the disk")
					if async || i > 0 {
						th.Machine().DiskData("vda")[3] ^= 0xff
						want[3] ^= 0xff
					}
					move(fs.IOCBCmdPread, to)
					assert.True(t, bytes.Equal(want, th.Bytes(to, len(want))), "what came from the disk")
					assert.Equal(t, 1, hugeRefs(th, a))
					require.NoError(t, th.Munmap(a, 2*hugeSize))
					wantPool(t, th.Machine(), 2, 2, 0, 0)
				})
				assert.EqualValues(t, 0, m.Trace().Sum(trace.EmuDMAFreed))
			})
		}
	}
}

// The last reference to a huge page may go in the interrupt that ends a transfer.
func TestHugePageFreedInInterrupt(t *testing.T) {
	o := timedHuge(1)
	o.Disks = []Disk{{Name: "vda", Size: 1 << 20}}
	run(t, o, func(th *Thread) {
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		th.Store64(a, 1)
		ctx, err := th.IoSetup(1)
		require.NoError(t, err)
		_, err = th.IoSubmit(ctx, []IOCB{{Op: fs.IOCBCmdPread, FD: fd, Buf: a, Len: 8192}})
		require.NoError(t, err)
		require.NoError(t, th.Munmap(a, hugeSize))
		wantPool(t, th.Machine(), 1, 0, 0, 0)
		_, err = th.IoGetevents(ctx, 1, 1, -1)
		require.NoError(t, err)
		wantPool(t, th.Machine(), 1, 1, 0, 0)
	})
}

// The other users of get_user_pages, and calls that make pages present.
func TestHugePinUsers(t *testing.T) {
	run(t, timedHuge(6), func(th *Thread) {
		m := th.Machine()
		a, err := th.Mmap(0, 2*hugeSize, protRW, mm.MapPrivate|mm.MapPopulate|anonHuge, -1, 0)
		require.NoError(t, err)
		wantPool(t, m, 6, 4, 0, 0)
		vec, err := th.Mincore(a+hugeSize-4096, 8192)
		require.NoError(t, err)
		assert.Equal(t, []byte{1, 1}, vec)
		b := th.MustMmapHuge(1, hugeSize, mm.MapShared)
		vec, err = th.Mincore(b, 4096)
		require.NoError(t, err)
		assert.Equal(t, []byte{0}, vec)
		require.NoError(t, th.Mlock(b, hugeSize))
		wantPool(t, m, 6, 3, 0, 0)

		r, w, err := th.Pipe()
		require.NoError(t, err)
		th.Store64(a+hugeSize, 5)
		n, err := th.Vmsplice(w, a+hugeSize, 8192, 0)
		require.NoError(t, err)
		assert.Equal(t, 8192, n)
		assert.Equal(t, 3, hugeRefs(th, a+hugeSize))
		buf := th.MustMmap(8192)
		_, err = th.ReadFD(r, buf, 8192)
		require.NoError(t, err)
		assert.Equal(t, uint64(5), th.Load64(buf))
		assert.Equal(t, 1, hugeRefs(th, a+hugeSize))

		// A debugger's poke breaks COW, and leaves the entry writable in a read-only mapping.
		pid, err := th.Fork(func(c *Thread) {
			assert.NoError(t, c.Mprotect(a+hugeSize, hugeSize, mm.ProtRead))
			c.Store32(b+64, 1)
			for c.Load32(b+64) == 1 {
				c.Usleep(10)
			}
			assert.Equal(t, uint64(6), c.Load64(a+hugeSize))
			assert.NoError(t, c.TryStore64(a+hugeSize, 8), "hugetlb_cow does not ask whether the mapping may be written to")
		})
		require.NoError(t, err)
		for th.Load32(b+64) == 0 {
			th.Usleep(10)
		}
		word, err := th.PtracePeek(pid, a+hugeSize)
		require.NoError(t, err)
		assert.Equal(t, uint64(5), word)
		require.NoError(t, th.PtracePoke(pid, a+hugeSize, 6))
		some := make([]byte, 8)
		k, err := th.ProcessVMReadv(pid, a+hugeSize, some)
		require.NoError(t, err)
		assert.Equal(t, 8, k)
		assert.EqualValues(t, 6, some[0])
		th.Store32(b+64, 2)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, uint64(5), th.Load64(a+hugeSize))

		assert.ErrorIs(t, th.FutexWait(b+128, 1, 0, 0), unix.EAGAIN)
	})
}

// MADV_DONTFORK and our MADV_DONTCOW on huge pages.
func TestHugeForkAdvice(t *testing.T) {
	run(t, timedHuge(4), func(th *Thread) {
		a := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		b := th.MustMmapHuge(1, hugeSize, mm.MapPrivate)
		th.Store64(a, 1)
		th.Store64(b, 2)
		require.NoError(t, th.Madvise(a, hugeSize, mm.MadvDontFork))
		require.NoError(t, th.Madvise(b, hugeSize, mm.MadvDontCOW))
		r, err := th.RegisterMemory(b+4096, 512, RegisterOptions{Write: true})
		require.NoError(t, err)
		was, _ := th.MM().PeekHugePTE(b)
		pid, err := th.Fork(func(c *Thread) {
			_, err := c.TryLoad64(a)
			assert.Error(t, err)
			assert.Equal(t, uint64(2), c.Load64(b))
			assert.NoError(t, c.TryStore64(b, 3))
			wantPool(t, c.Machine(), 4, 1, 0, 0)
		})
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		th.Store64(b, 4)
		is, _ := th.MM().PeekHugePTE(b)
		assert.Equal(t, was.PFN(), is.PFN())
		require.NoError(t, th.DeviceWrite(r, 0, []byte{9}))
		assert.EqualValues(t, 9, th.Load8(b+4096))
		require.NoError(t, th.UnregisterMemory(r))
	})
}

// Random operations of a parent and its children against plain byte maps.
func TestHugeAgainstModel(t *testing.T) {
	const pages = 3
	for seed := range uint64(5) {
		run(t, hugeOptions(Options{CPUs: 1, Regime: sched.Timed}, 16), func(th *Thread) {
			rng := rand.New(rand.NewPCG(seed, 1))
			private := th.MustMmapHuge(pages, hugeSize, mm.MapPrivate)
			shared := th.MustMmapHuge(pages, hugeSize, mm.MapShared)
			sharedModel := map[uint64]byte{}
			var life func(th *Thread, model map[uint64]byte, depth int)
			life = func(th *Thread, model map[uint64]byte, depth int) {
				for range 30 {
					off := uint64(rng.IntN(pages))*hugeSize + uint64(rng.IntN(6))*hugeSize/6&^7
					base, m := private, model
					if rng.IntN(3) == 0 {
						base, m = shared, sharedModel
					}
					switch rng.IntN(8) {
					case 0, 1, 2:
						v := byte(rng.IntN(255) + 1)
						th.Store8(base+off, v)
						m[off] = v
					case 3:
						at := private + off&^(hugeSize-1)
						require.NoError(t, th.Mprotect(at, hugeSize, mm.ProtRead))
						require.NoError(t, th.Mprotect(at, hugeSize, protRW))
					case 4:
						if depth < 2 {
							mine := map[uint64]byte{}
							for k, v := range model {
								mine[k] = v
							}
							pid, err := th.Fork(func(c *Thread) { life(c, mine, depth+1) })
							require.NoError(t, err)
							if rng.IntN(2) == 0 {
								_, _, err = th.Wait(pid)
								require.NoError(t, err)
							}
						}
					default:
						require.Equal(t, m[off], th.Load8(base+off), "seed %d depth %d offset %#x", seed, depth, off)
					}
				}
				for {
					if _, _, err := th.Wait(-1); err != nil {
						break
					}
				}
			}
			life(th, map[uint64]byte{}, 0)
		})
	}
}
