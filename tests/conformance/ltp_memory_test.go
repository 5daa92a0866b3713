package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// mmap, munmap, mprotect, mremap, brk, and LTP's programs that stress them.
var ltpMemory = []ltpCase{
	{"mmap05: PROT_NONE is SIGSEGV", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, mm.ProtNone, private)
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(a) })
	}},
	{"mmap12: MAP_POPULATE makes pages present", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 5, rw, private|mm.MapPopulate)
		vec, err := th.Mincore(a, 5*pg)
		assert.NoError(t, err)
		assert.Equal(t, []byte{1, 1, 1, 1, 1}, vec)
	}},
	{"mmap14: MAP_LOCKED is counted", func(t *testing.T, th *kernel.Thread) {
		before := th.MM().LockedVM
		a := mapped(t, th, 4, rw, private|mm.MapLocked)
		assert.Equal(t, before+4, th.MM().LockedVM)
		at, err := th.Mremap(a, 4*pg, 6*pg, mm.MremapMayMove, 0)
		assert.NoError(t, err)
		assert.Equal(t, before+6, th.MM().LockedVM)
		assert.NoError(t, th.Munmap(at, 6*pg))
		assert.Equal(t, before, th.MM().LockedVM)
	}},
	{"mmap18: MAP_GROWSDOWN grows", func(t *testing.T, th *kernel.Thread) {
		room := mapped(t, th, 20, mm.ProtNone, private)
		require.NoError(t, th.Munmap(room, 20*pg))
		a, err := th.Mmap(room+15*pg, 2*pg, rw, private|mm.MapFixed|mm.MapGrowsDown, -1, 0)
		require.NoError(t, err)
		th.Store8(a-3*pg, 1)
		assert.EqualValues(t, 1, th.Load8(a-3*pg))
	}},
	{"munmap01: then SIGSEGV, all or part", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, private)
		th.Fill(a, 4*pg, 1)
		assert.NoError(t, th.Munmap(a+2*pg, pg))
		assert.EqualValues(t, 1, th.Load8(a+3*pg))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a+2*pg, 1) })
		assert.NoError(t, th.Munmap(a, 4*pg))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(a) })
	}},
	{"munmap03: EINVAL", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 2, rw, private)
		assert.ErrorIs(t, th.Munmap(a, 0), unix.EINVAL)
		assert.ErrorIs(t, th.Munmap(a+1, pg), unix.EINVAL)
		assert.ErrorIs(t, th.Munmap(1<<47, pg), unix.EINVAL)
	}},
	{"mprotect01: errors", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		assert.ErrorIs(t, th.Mprotect(0, 1024, mm.ProtRead), unix.ENOMEM)
		assert.ErrorIs(t, th.Mprotect(a+1, 1024, mm.ProtRead), unix.EINVAL)
	}},
	{"mprotect02: read-only in a child is SIGSEGV", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		require.NoError(t, th.Mprotect(a, pg, mm.ProtRead))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a, 1) })
		require.NoError(t, th.Mprotect(a, pg, rw))
		th.Store8(a, 1)
	}},
	{"mprotect05: split and merge", func(t *testing.T, th *kernel.Thread) {
		before := th.MM().MapCount
		a := mapped(t, th, 4, rw, private)
		one := th.MM().MapCount
		assert.NoError(t, th.Mprotect(a+pg, pg, mm.ProtRead))
		assert.GreaterOrEqual(t, th.MM().MapCount, one+1)
		assert.NoError(t, th.Mprotect(a+pg, pg, rw))
		assert.Equal(t, one, th.MM().MapCount)
		assert.NoError(t, th.Munmap(a, 4*pg))
		assert.Equal(t, before, th.MM().MapCount)
	}},
	{"mremap01: a shared mapping grows", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 4, rw, shared)
		th.Store8(a+3*pg, 7)
		at, err := th.Mremap(a, 4*pg, 8*pg, mm.MremapMayMove, 0)
		require.NoError(t, err)
		assert.EqualValues(t, 7, th.Load8(at+3*pg))
		// The object has not grown: beyond its end is SIGBUS.
		dies(t, th, kernel.SIGBUS, func(c *kernel.Thread) { c.Load8(at + 4*pg) })
		twice, err := th.Mremap(at, 0, 4*pg, mm.MremapMayMove, 0)
		require.NoError(t, err)
		th.Store8(twice, 9)
		assert.EqualValues(t, 9, th.Load8(at), "the same pages a second time")
	}},
	{"mremap02, mremap03, mremap04: EINVAL, EFAULT, ENOMEM", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 2, rw, private)
		_, err := th.Mremap(a+4, pg, 2*pg, 0, 0)
		assert.ErrorIs(t, err, unix.EINVAL)
		_, err = th.Mremap(0x10000, pg, 2*pg, 0, 0)
		assert.ErrorIs(t, err, unix.EFAULT)
		_, err = th.Mremap(a, pg, 2*pg, 0, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
	}},
	{"mremap05: rules of MREMAP_FIXED", func(t *testing.T, th *kernel.Thread) {
		room := mapped(t, th, 8, mm.ProtNone, private)
		a := mapped(t, th, 2, rw, private)
		th.Store8(a+pg, 5)
		_, err := th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed, room)
		assert.ErrorIs(t, err, unix.EINVAL, "without MAYMOVE")
		_, err = th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed|mm.MremapMayMove, room+8)
		assert.ErrorIs(t, err, unix.EINVAL, "unaligned")
		_, err = th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed|mm.MremapMayMove, a+pg)
		assert.ErrorIs(t, err, unix.EINVAL, "overlap")
		at, err := th.Mremap(a, 2*pg, 2*pg, mm.MremapFixed|mm.MremapMayMove, room+3*pg)
		assert.NoError(t, err)
		assert.Equal(t, room+3*pg, at)
		assert.EqualValues(t, 5, th.Load8(at+pg))
	}},
	{"mremap06: a page that goes and comes back merges", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		for i := range uint64(3) {
			th.Store64(a+i*pg, i+1)
		}
		one := th.MM().MapCount
		away, err := th.Mremap(a+pg, pg, pg, mm.MremapMayMove|mm.MremapFixed, a-1<<30)
		require.NoError(t, err)
		assert.Equal(t, one+2, th.MM().MapCount)
		_, err = th.Mremap(away, pg, pg, mm.MremapMayMove|mm.MremapFixed, a+pg)
		require.NoError(t, err)
		assert.Equal(t, one, th.MM().MapCount)
		for i := range uint64(3) {
			assert.Equal(t, i+1, th.Load64(a+i*pg))
		}
	}},
	{"vma03: a length that would wrap", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		_, err := th.Mremap(a, pg, 1<<63, mm.MremapMayMove, 0)
		assert.ErrorIs(t, err, unix.EFAULT, "2.6.29: what cannot be promised leaves ret as it was")
		b := mapped(t, th, 1, rw, private|mm.MapNoReserve)
		_, err = th.Mremap(b, pg, 1<<63, mm.MremapMayMove, 0)
		assert.ErrorIs(t, err, unix.ENOMEM)
	}},
	{"vma01: 2.6.29 merges a child's copy with its neighbour (later kernels do not)", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 3, rw, private)
		require.NoError(t, th.Munmap(a+2*pg, pg))
		th.Store8(a, 1)
		pid, err := th.Fork(func(c *kernel.Thread) {
			n := c.MM().MapCount
			_, err := c.Mmap(a+2*pg, pg, rw, private|mm.MapFixed, -1, 0)
			assert.NoError(t, err)
			assert.Equal(t, n, c.MM().MapCount)
		})
		require.NoError(t, err)
		_, _, err = th.Wait(pid)
		assert.NoError(t, err)
	}},
	{"mmapstress08: pages 4 MiB apart", func(t *testing.T, th *kernel.Thread) {
		const far = 4 << 20
		a := mapped(t, th, 64*far/pg, rw, private|mm.MapNoReserve)
		for i := range uint64(64) {
			th.Store64(a+i*far, i)
		}
		b, err := th.Mremap(a, 64*far, 64*far, mm.MremapMayMove|mm.MremapFixed, a-1<<40)
		require.NoError(t, err)
		for i := range uint64(64) {
			assert.Equal(t, i, th.Load64(b+i*far))
		}
		assert.NoError(t, th.Munmap(b, 64*far))
	}},
	{"mmap02, mprotect03: a read-only mapping of shared memory", func(t *testing.T, th *kernel.Thread) {
		s := mapped(t, th, 1, rw, shared)
		th.Fill(s, pg, 7)
		a, err := again(t, th, s, 0, 1, mm.ProtRead, mm.MapShared)
		require.NoError(t, err)
		assert.Equal(t, th.Bytes(s, pg), th.Bytes(a, pg))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a, 1) })
		require.NoError(t, th.Mprotect(s, pg, mm.ProtRead))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(s, 1) })
		assert.EqualValues(t, 7, th.Load8(a))
	}},
	{"mmap04: /proc/self/maps has the permissions", func(t *testing.T, th *kernel.Thread) {
		for _, c := range []struct {
			prot  mm.Prot
			flags mm.MapFlags
			want  string
		}{
			{mm.ProtNone, private, "---p"}, {mm.ProtNone, shared, "---s"}, {mm.ProtRead, private, "r--p"},
			{mm.ProtRead, shared, "r--s"}, {mm.ProtWrite, private, "-w-p"}, {rw, shared, "rw-s"},
			{mm.ProtRead | mm.ProtExec, private, "r-xp"}, {rw | mm.ProtExec, shared, "rwxs"},
		} {
			a := mapped(t, th, 2, c.prot, c.flags)
			assert.Regexp(t, fmt.Sprintf("(?m)^%x-%x %s ", a, a+2*pg, c.want), th.Maps())
			require.NoError(t, th.Munmap(a, 2*pg))
		}
	}},
	{"mmap06: no length is EINVAL, neither private nor shared too", func(t *testing.T, th *kernel.Thread) {
		_, err := th.Mmap(0, 0, rw, private, -1, 0)
		errno(t, unix.EINVAL, err)
		_, err = th.Mmap(0, pg, rw, mm.MapAnonymous, -1, 0)
		errno(t, unix.EINVAL, err)
	}},
	{"mmap08: a closed descriptor is EBADF", func(t *testing.T, th *kernel.Thread) {
		fd, err := th.Open("/dev/vda", 0)
		require.NoError(t, err)
		require.NoError(t, th.Close(fd))
		_, err = th.Mmap(0, pg, mm.ProtRead, mm.MapShared, fd, 0)
		errno(t, unix.EBADF, err)
	}},
	{"mmap13: beyond the end of the object is SIGBUS", func(t *testing.T, th *kernel.Thread) {
		s := mapped(t, th, 1, rw, shared)
		a, err := again(t, th, s, 0, 2, rw, mm.MapShared)
		require.NoError(t, err)
		th.Store8(a, 1)
		dies(t, th, kernel.SIGBUS, func(c *kernel.Thread) { c.Store8(a+pg, 1) })
	}},
	{"mmap15: an address beyond user space is ENOMEM", func(t *testing.T, th *kernel.Thread) {
		_, err := th.Mmap(0xffffffff80000000, pg, rw, private|mm.MapFixed, -1, 0)
		errno(t, unix.ENOMEM, err)
	}},
	{"mmap19: two objects change places, and no translation is stale", func(t *testing.T, th *kernel.Thread) {
		one, two := mapped(t, th, 1, rw, shared), mapped(t, th, 1, rw, shared)
		th.Fill(one, pg, 1)
		th.Fill(two, pg, 2)
		a, err := again(t, th, one, 0, 1, mm.ProtRead, mm.MapPrivate)
		require.NoError(t, err)
		b, err := again(t, th, two, 0, 1, mm.ProtRead, mm.MapPrivate)
		require.NoError(t, err)
		assert.EqualValues(t, []uint8{1, 2}, []uint8{th.Load8(a), th.Load8(b)})
		require.NoError(t, th.Munmap(a, pg))
		require.NoError(t, th.Munmap(b, pg))
		_, err = again(t, th, two, a, 1, mm.ProtRead, mm.MapPrivate|mm.MapFixed)
		require.NoError(t, err)
		_, err = again(t, th, one, b, 1, mm.ProtRead, mm.MapPrivate|mm.MapFixed)
		require.NoError(t, err)
		assert.EqualValues(t, []uint8{2, 1}, []uint8{th.Load8(a), th.Load8(b)})
	}},
	{"munmap04, max_map_count, mmap11: at the limit of mappings", func(t *testing.T, th *kernel.Thread) {
		if th.Machine().Options().Regime != sched.Timed {
			return // 200,000 calls of one thread: once will do
		}
		const limit = 65530
		span := uint64(limit+16) * 2 * pg
		room, err := th.Mmap(0, span, mm.ProtNone, private|mm.MapNoReserve, -1, 0)
		require.NoError(t, err)
		require.NoError(t, th.Munmap(room, span))
		last := room
		for at := room; ; at += 2 * pg { // a page between, so that they do not merge
			if _, err = th.Mmap(at, pg, mm.ProtRead, private|mm.MapFixed, -1, 0); err != nil {
				break
			}
			last = at
		}
		errno(t, unix.ENOMEM, err)
		assert.Greater(t, th.MM().MapCount, limit)
		require.NoError(t, th.Munmap(last, pg))
		require.NoError(t, th.Munmap(last-2*pg, pg))
		_, err = th.Mmap(last, 3*pg, mm.ProtRead, private|mm.MapFixed, -1, 0)
		require.NoError(t, err)
		errno(t, unix.ENOMEM, th.Munmap(last+pg, pg), "its middle makes two")
		errno(t, unix.ENOMEM, th.Munmap(last, pg), "2.6.29 splits for an end too; not since 2.6.33")
		require.NoError(t, th.Munmap(last, 3*pg))
		require.NoError(t, th.Munmap(room, span))
	}},
	{"mprotect04: PROT_NONE is SIGSEGV, and back", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 1, rw, private)
		th.Store8(a, 3)
		require.NoError(t, th.Mprotect(a, pg, mm.ProtNone))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(a) })
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(a, 1) })
		require.NoError(t, th.Mprotect(a, pg, rw))
		assert.EqualValues(t, 3, th.Load8(a))
	}},
	{"brk01: the heap grows and shrinks", func(t *testing.T, th *kernel.Thread) {
		old := th.Brk(0)
		for _, inc := range []int64{5000, -3000, 3 * pg, -pg, 1} {
			was := th.Brk(0)
			_, err := th.Sbrk(inc)
			require.NoError(t, err)
			assert.Equal(t, was+uint64(inc), th.Brk(0))
			if inc > 0 {
				th.Store8(th.Brk(0)-1, 1)
			}
		}
		assert.Equal(t, old, th.Brk(old))
		assert.Equal(t, old, th.Brk(1), "not below where it began")
	}},
	{"brk02: a heap with a read-only page in it grows and shrinks", func(t *testing.T, th *kernel.Thread) {
		old := th.Brk(0)
		require.Equal(t, old+3*pg, th.Brk(old+3*pg))
		require.NoError(t, th.Mprotect(old+pg, pg, mm.ProtRead))
		require.Equal(t, old+5*pg, th.Brk(old+5*pg))
		th.Store8(old+4*pg, 1)
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Store8(old+pg, 1) })
		require.Equal(t, old, th.Brk(old))
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(old) })
	}},
	{"mmapstress03: a mapping over the tail of the heap", func(t *testing.T, th *kernel.Thread) {
		old := th.Brk(0)
		require.Equal(t, old+4*pg, th.Brk(old+4*pg))
		th.Store8(old, 1)
		_, err := th.Mmap(old+3*pg, 2*pg, rw, private|mm.MapFixed, -1, 0)
		require.NoError(t, err)
		th.Store8(old+4*pg, 2)
		assert.Equal(t, old+4*pg, th.Brk(old+8*pg), "the mapping is in the way")
		assert.Equal(t, old+2*pg, th.Brk(old+2*pg), "which shrinking takes along")
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(old + 3*pg) })
		assert.EqualValues(t, 2, th.Load8(old+4*pg))
		assert.EqualValues(t, 1, th.Load8(old))
		require.NoError(t, th.Munmap(old+4*pg, pg))
		assert.Equal(t, old+6*pg, th.Brk(old+6*pg))
	}},
	{"mmapstress05: neighbours that do not merge, in front and behind", func(t *testing.T, th *kernel.Thread) {
		room := mapped(t, th, 12, mm.ProtNone, private)
		require.NoError(t, th.Munmap(room, 12*pg))
		n := th.MM().MapCount
		for i, at := range []uint64{4, 8, 0} { // the middle one first
			_, err := th.Mmap(room+at*pg, 4*pg, rw, shared|mm.MapFixed, -1, 0)
			require.NoError(t, err)
			th.Fill(room+at*pg, 4*pg, byte(i))
			assert.Equal(t, n+i+1, th.MM().MapCount)
		}
		for i, at := range []uint64{4, 8, 0} {
			assert.EqualValues(t, i, th.Load8(room+at*pg+3*pg))
		}
		require.NoError(t, th.Munmap(room+3*pg, 6*pg))
		assert.Equal(t, n+2, th.MM().MapCount)
	}},
	{"mmapstress09: children on inherited shared memory", func(t *testing.T, th *kernel.Thread) {
		const n, pages = 4, 16
		s := mapped(t, th, pages, rw, shared)
		children(t, th, n, func(c *kernel.Thread, i int) {
			for round := range uint64(5) {
				for p := range uint64(pages) {
					mine := s + p*pg + uint64(i)*8
					c.Store64(mine, round<<32|p)
					if c.Load64(mine) != round<<32|p {
						c.Exit(1)
					}
				}
			}
		})
		for p := range uint64(pages) {
			for i := range uint64(n) {
				assert.Equal(t, 4<<32|p, th.Load64(s+p*pg+i*8))
			}
		}
	}},
	{"mmstress: threads that fault the same pages and their own, one of them forks", func(t *testing.T, th *kernel.Thread) {
		const pages = 24
		a := mapped(t, th, pages, rw, private)
		own := mapped(t, th, 4*pages, rw, private)
		threads(t, th, 4, func(w *kernel.Thread, i int) {
			if i == 3 {
				pid, err := w.Fork(func(c *kernel.Thread) { c.Fill(a, pages*pg, 9) })
				assert.NoError(t, err)
				_, st, err := w.Wait(pid)
				assert.NoError(t, err)
				assert.Equal(t, kernel.Exited(0), st)
			}
			for p := range uint64(pages) {
				w.Store64(a+p*pg+uint64(i)*8, p+1)
				w.Store64(own+(uint64(i)*pages+p)*pg, p+1)
			}
		})
		for p := range uint64(pages) {
			for i := range uint64(4) {
				assert.Equal(t, p+1, th.Load64(a+p*pg+i*8))
				assert.Equal(t, p+1, th.Load64(own+(i*pages+p)*pg))
			}
		}
	}},
	{"mmap1: one thread maps, writes and unmaps, another reads", func(t *testing.T, th *kernel.Thread) {
		at := mapped(t, th, 1, rw, private)
		word := mapped(t, th, 1, rw, private)
		require.NoError(t, th.Munmap(at, pg))
		reader := th.Go("reader", func(w *kernel.Thread) {
			for w.Load32(word) == 0 {
				b, err := w.TryLoad8(at)
				if err == nil && b != 0 && b != 'a' {
					t.Errorf("read %#x", b)
				}
				var sig *kernel.SigError
				if err != nil && (!errors.As(err, &sig) || sig.Sig != kernel.SIGSEGV) {
					t.Errorf("read: %v", err)
				}
				w.Yield()
			}
		})
		for range 60 {
			_, err := th.Mmap(at, pg, rw, private|mm.MapFixed, -1, 0)
			require.NoError(t, err)
			th.Store8(at, 'a')
			th.Yield()
			require.NoError(t, th.Munmap(at, pg))
		}
		th.Store32(word, 1)
		require.NoError(t, th.Join(reader))
	}},
	{"mallocstress: threads that allocate, use and free", func(t *testing.T, th *kernel.Thread) {
		threads(t, th, 4, func(w *kernel.Thread, i int) {
			var held []uint64
			for n := range uint64(12) {
				a, err := w.MmapAnon((n%4 + 1) * pg)
				if !assert.NoError(t, err) {
					return
				}
				w.Store64(a, uint64(i)<<32|n)
				held = append(held, a)
				if n%3 == 2 {
					assert.Equal(t, uint64(i)<<32|(n-2), w.Load64(held[n-2]))
					assert.NoError(t, w.Munmap(held[n-2], ((n-2)%4+1)*pg))
				}
			}
		})
	}},
	{"mem02: new memory is zero, and what grows keeps its contents", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 8, rw, private)
		assert.Zero(t, a%pg)
		assert.Equal(t, make([]byte, 8*pg), th.Bytes(a, 8*pg))
		th.Fill(a, 8*pg, 'x')
		b, err := th.Mremap(a, 8*pg, 24*pg, mm.MremapMayMove, 0)
		require.NoError(t, err)
		assert.Equal(t, append(bytes.Repeat([]byte{'x'}, 8*pg), make([]byte, 16*pg)...), th.Bytes(b, 24*pg))
		c, err := th.Mremap(b, 24*pg, 2*pg, 0, 0)
		require.NoError(t, err)
		assert.Equal(t, b, c, "what shrinks stays")
		dies(t, th, kernel.SIGSEGV, func(k *kernel.Thread) { k.Load8(c + 2*pg) })
	}},
	{"data_space: children with data of their own", func(t *testing.T, th *kernel.Thread) {
		a := mapped(t, th, 20, rw, private)
		children(t, th, 4, func(c *kernel.Thread, i int) {
			for round := range 3 {
				c.Fill(a, 20*pg, byte(16*i+round))
				for at := uint64(0); at < 20*pg; at += 512 {
					if c.Load8(a+at) != byte(16*i+round) {
						c.Exit(1)
					}
				}
			}
		})
		assert.Equal(t, make([]byte, 20*pg), th.Bytes(a, 20*pg))
	}},
	{"stack_space: children whose stacks grow", func(t *testing.T, th *kernel.Thread) {
		room := mapped(t, th, 64, mm.ProtNone, private)
		require.NoError(t, th.Munmap(room, 64*pg))
		s, err := th.Mmap(room+60*pg, 2*pg, rw, private|mm.MapFixed|mm.MapGrowsDown, -1, 0)
		require.NoError(t, err)
		children(t, th, 3, func(c *kernel.Thread, i int) {
			for p := range uint64(40) {
				c.Store64(s-p*pg, p<<8|uint64(i))
			}
			for p := range uint64(40) {
				if c.Load64(s-p*pg) != p<<8|uint64(i) {
					c.Exit(1)
				}
			}
		})
		dies(t, th, kernel.SIGSEGV, func(c *kernel.Thread) { c.Load8(s + 2*pg) })
	}},
	{"overcommit_memory: three modes", func(t *testing.T, th *kernel.Thread) {
		// SetOvercommit wants a machine at rest; nothing else of it runs here.
		sys, total := th.Machine().MM(), th.Machine().Pages().Frames()*pg
		try := func(bytes uint64) error {
			a, err := th.MmapAnon(bytes)
			if err == nil {
				assert.NoError(t, th.Munmap(a, bytes))
			}
			return err
		}
		sys.SetOvercommit(mm.OvercommitAlways, 0)
		assert.NoError(t, try(100*total))
		sys.SetOvercommit(mm.OvercommitNever, 50)
		errno(t, unix.ENOMEM, try(total))
		assert.NoError(t, try(total/4))
		sys.SetOvercommit(mm.OvercommitGuess, 0)
		errno(t, unix.ENOMEM, try(2*total))
		assert.NoError(t, try(total/2))
	}},
}
