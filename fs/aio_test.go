package fs

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

func (u *user) setup(nr uint32) ContextID {
	id, err := u.r.fs.IoSetup(u.t, nr)
	u.must(err)
	return id
}

func (u *user) submit(id ContextID, iocbs ...*IOCB) {
	n, err := u.r.fs.IoSubmit(u.t, id, iocbs)
	u.want("io_submit", int64(n), err, int64(len(iocbs)), nil)
}

// events fetches n events and returns them by Data.
func (u *user) events(id ContextID, n int) map[uint64]int64 {
	buf := make([]IOEvent, n)
	got, err := u.r.fs.IoGetevents(u.t, id, n, buf, nil)
	u.want("io_getevents", int64(got), err, int64(n), nil)
	res := map[uint64]int64{}
	for _, e := range buf {
		if _, twice := res[e.Data]; twice {
			u.t.Oops("two events of request %d", e.Data)
		}
		res[e.Data] = e.Res
	}
	return res
}

func (u *user) destroy(id ContextID) { u.must(u.r.fs.IoDestroy(u.t, id)) }

func TestAIO(t *testing.T) {
	regimes(t, 2, 20, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdwr | ODirect)
			a := u.mmap(16)
			id := u.setup(8)
			var iocbs []*IOCB
			for i := range 8 { // 1.5 pages each, two in a page here and there
				iocbs = append(iocbs, &IOCB{Data: uint64(i), Obj: uint64(i) << 8, Opcode: IOCBCmdPread, File: f,
					Buf: a + uint64(i)*6144, Nbytes: 6144, Offset: int64(i * 8192)})
			}
			u.submit(id, iocbs...)
			for i, res := range u.events(id, 8) {
				u.want("read", res, nil, 6144, nil)
				u.holds(a+i*6144, 6144, int(i*8192))
			}
			u.submit(id, &IOCB{Data: 1, Opcode: IOCBCmdPwritev, File: f, Offset: 128 << 10,
				Iov: []IOVec{{a, 4096}, {a + 8192, 512}}})
			u.want("writev", u.events(id, 1)[1], nil, 4608, nil)
			u.submit(id, &IOCB{Data: 2, Opcode: IOCBCmdPreadv, File: f, Offset: 128 << 10,
				Iov: []IOVec{{a + 12288, 512}, {a + 12288 + 1024, 4096}}})
			u.want("readv", u.events(id, 1)[2], nil, 4608, nil)
			u.holds(a+12288, 512, 0)
			u.destroy(id)
			f.Put(u.t)
			if f.Refs() != 0 {
				u.t.Oops("file has %d references", f.Refs())
			}
		})
		assert.EqualValues(t, 10, r.sum(trace.EmuAIORequests))
		assert.EqualValues(t, 10, r.sum(trace.EmuAIOCompletions))
	})
}

// TestAIOErrors: what is refused at once, and what an event tells.
func TestAIOErrors(t *testing.T) {
	r := newRig(t, one())
	r.dev.Inject.Add(blk.Fault{First: 100, Last: 100, Reads: true})
	r.run(func(u *user) {
		s := u.r.fs
		for nr, want := range map[uint32]error{0: unix.EINVAL, 1 << 24: unix.EINVAL, aioMaxNr + 1: unix.EAGAIN} {
			_, err := s.IoSetup(u.t, nr)
			u.want("io_setup", 0, err, 0, want)
		}
		f, ro := u.open(ORdwr|ODirect), u.open(ORdonly|ODirect)
		a := u.mmap(2)
		id := u.setup(4)
		submit := func(what string, id ContextID, want error, o ...*IOCB) {
			n, err := s.IoSubmit(u.t, id, o)
			u.want(what, int64(n), err, 0, want)
		}
		good := IOCB{File: f, Buf: a, Nbytes: 512}
		bad := func(fn func(o *IOCB)) *IOCB { o := good; fn(&o); return &o }
		submit("no such context", id+1, unix.EINVAL, &good)
		submit("nil", id, unix.EFAULT, nil)
		submit("bad file", id, unix.EBADF, bad(func(o *IOCB) { o.File = nil }))
		submit("opcode", id, unix.EINVAL, bad(func(o *IOCB) { o.Opcode = IOCBCmdNoop }))
		submit("not open for writing", id, unix.EBADF, bad(func(o *IOCB) { o.File, o.Opcode = ro, IOCBCmdPwrite }))
		submit("kernel address", id, unix.EFAULT, bad(func(o *IOCB) { o.Buf = 1 << 47 }))
		submit("length", id, unix.EINVAL, bad(func(o *IOCB) { o.Nbytes = 1 << 63 }))
		n, err := s.IoSubmit(u.t, id, []*IOCB{&good, nil, &good})
		u.want("second is bad", int64(n), err, 1, nil)
		u.events(id, 1)

		event := func(what string, want int64, o *IOCB) {
			u.submit(id, o)
			u.want(what, u.events(id, 1)[0], nil, want, nil)
		}
		event("misaligned", -int64(unix.EINVAL), bad(func(o *IOCB) { o.Offset = 1 }))
		event("negative offset", -int64(unix.EINVAL), bad(func(o *IOCB) { o.Offset = -512 }))
		event("unmapped", -int64(unix.EFAULT), bad(func(o *IOCB) { o.Buf = 0x5000 }))
		event("bad sector", -int64(unix.EIO), bad(func(o *IOCB) { o.Offset = 51200 }))
		event("at the end", 0, bad(func(o *IOCB) { o.Offset = 1 << 20 }))
		event("across the end", 512, bad(func(o *IOCB) { o.Offset, o.Nbytes = 1<<20-512, 4096 }))
		event("beyond the end", -int64(unix.ENOSPC), bad(func(o *IOCB) { o.Opcode, o.Offset = IOCBCmdPwrite, 1<<20 }))
		event("nothing", 0, bad(func(o *IOCB) { o.Nbytes = 0 }))

		buf := make([]IOEvent, 2)
		for _, min := range []int{-1, 3} {
			k, err := s.IoGetevents(u.t, id, min, buf, nil)
			u.want("min_nr", int64(k), err, 0, unix.EINVAL)
		}
		k, err := s.IoGetevents(u.t, id+1, 1, buf, nil)
		u.want("no such context", int64(k), err, 0, unix.EINVAL)
		k, err = s.IoGetevents(u.t, id, 0, buf, nil)
		u.want("no events wanted", int64(k), err, 0, nil)
		u.destroy(id)
		u.want("destroyed twice", 0, s.IoDestroy(u.t, id), 0, unix.EINVAL)
		f.Put(u.t)
		ro.Put(u.t)
		if f.Refs() != 0 || ro.Refs() != 0 {
			u.t.Oops("files have %d and %d references", f.Refs(), ro.Refs())
		}
	})
}

// TestAIORingFull: requests and events that nobody fetched take places alike.
func TestAIORingFull(t *testing.T) {
	regimes(t, 1, 3, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			a := u.mmap(1)
			id := u.setup(1)
			o := &IOCB{File: f, Buf: a, Nbytes: 512}
			many := make([]*IOCB, 200)
			for i := range many {
				many[i] = o
			}
			n, err := u.r.fs.IoSubmit(u.t, id, many)
			u.want("io_submit", int64(n), err, 126, nil)
			buf := make([]IOEvent, 126)
			k, err := u.r.fs.IoGetevents(u.t, id, 126, buf, nil)
			u.want("io_getevents", int64(k), err, 126, nil)
			u.submit(id, o)
			u.events(id, 1)
			u.destroy(id)
			f.Put(u.t)
		})
	})
}

func TestAIOTimeout(t *testing.T) {
	l := blk.Latency{Name: "slow", BaseNS: 5_000_000, Depth: 4}
	cfg := one()
	cfg.disk.Latency = &l
	r := newRig(t, cfg)
	r.run(func(u *user) {
		s := u.r.fs
		f := u.open(ORdonly | ODirect)
		a := u.mmap(1)
		id := u.setup(4)
		buf := make([]IOEvent, 4)
		u.submit(id, &IOCB{File: f, Buf: a, Nbytes: 512})
		for _, c := range []struct {
			ns, min, max uint64
			want         int
		}{{0, 0, 50_000, 0}, {1_000_000, 1_000_000, 1_100_000, 0}, {10_000_000, 3_500_000, 4_500_000, 1}} {
			begin := s.m.Now()
			k, err := s.IoGetevents(u.t, id, 1, buf, &c.ns)
			u.want("io_getevents", int64(k), err, int64(c.want), nil)
			if took := s.m.Now() - begin; took < c.min || took > c.max {
				u.t.Oops("timeout of %d ns took %d ns", c.ns, took)
			}
		}
		// Some events, but fewer than wanted.
		u.submit(id, &IOCB{File: f, Buf: a, Nbytes: 512})
		ns := uint64(20_000_000)
		k, err := s.IoGetevents(u.t, id, 2, buf, &ns)
		u.want("io_getevents", int64(k), err, 1, nil)
		u.destroy(id)
		f.Put(u.t)
	})
}

// TestAIOSignal: a signal ends the wait.
func TestAIOSignal(t *testing.T) {
	regimes(t, 2, 5, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			id := u.setup(4)
			me := u.t
			u.m.MMGet(u.t)
			other := u.r.spawn(u.t, 1, u.m, func(v *user) { v.r.m.Signal(v.t, me, false) })
			buf := make([]IOEvent, 1)
			k, err := u.r.fs.IoGetevents(u.t, id, 1, buf, nil)
			u.want("io_getevents", int64(k), err, 0, unix.EINTR)
			u.t.ClearSignal()
			other.Wait(u.t)
			u.destroy(id)
		})
	})
}

// TestAIODestroy: io_destroy waits for requests, and ends other threads' waits.
func TestAIODestroy(t *testing.T) {
	regimes(t, 2, 12, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			a := u.mmap(4)
			id := u.setup(4)
			u.m.MMGet(u.t)
			other := u.r.spawn(u.t, 1, u.m, func(v *user) {
				buf := make([]IOEvent, 3)
				k, err := v.r.fs.IoGetevents(v.t, id, 3, buf, nil)
				if !(err == unix.EINVAL && k == 0 || err == nil && k > 0 && k <= 2) {
					v.t.Oops("io_getevents: %d, %v", k, err)
				}
			})
			for i := range 2 {
				u.submit(id, &IOCB{File: f, Buf: a + uint64(i)*8192, Nbytes: 8192, Offset: int64(i * 65536)})
			}
			u.destroy(id)
			u.holds(a, 8192, 0)
			u.holds(a+8192, 8192, 65536)
			if f.Refs() != 1 {
				u.t.Oops("file has %d references", f.Refs())
			}
			other.Wait(u.t)
			f.Put(u.t)
		})
	})
}

// TestAIOGone: the buffer is unmapped, or the process ends, while requests are in
// flight. Their pages live until the last chunk has moved.
func TestAIOGone(t *testing.T) {
	for _, how := range []string{"munmap", "exit with exit_aio", "exit without"} {
		t.Run(how, func(t *testing.T) {
			regimes(t, 2, 12, func(t *testing.T, cfg config) {
				r := newRig(t, cfg)
				r.run(func(u *user) {
					f := u.open(ORdwr | ODirect)
					a := u.mmap(8)
					u.put(a, fill(8*4096, 0x11))
					id := u.setup(4)
					u.submit(id, &IOCB{Data: 0, File: f, Buf: a + 512, Nbytes: 4 * 4096},
						&IOCB{Data: 1, File: f, Opcode: IOCBCmdPwrite, Buf: a + 5*4096, Nbytes: 2 * 4096, Offset: 256 << 10})
					switch how {
					case "munmap":
						u.munmap(a, 8)
						for i, res := range u.events(id, 2) {
							u.want("event", res, nil, []int64{4 * 4096, 2 * 4096}[i], nil)
						}
						u.destroy(id)
					case "exit with exit_aio":
						u.r.fs.ExitAIO(u.t, u.m)
						if ids := u.r.fs.Contexts(u.t, u.m); len(ids) > 0 {
							u.t.Oops("contexts are left")
						}
					case "exit without":
						// The context keeps the address space's structure: take that
						// off again for the leak check.
						c := u.r.fs.lookup(u.t, id)
						u.r.fs.forget(u.t, c)
						c.MM.MMDrop(u.t)
					}
					f.Put(u.t)
				})
				assert.Equal(t, fill(8*4096, 0x11)[5*4096:7*4096], r.disk[256<<10:256<<10+2*4096])
				assert.Zero(t, r.sum(trace.EmuDMAFreed), "pages were freed under the device")
			})
		})
	}
}

// TestReferences follows a page's references through an asynchronous read.
func TestReferences(t *testing.T) {
	l := blk.Latency{Name: "slow", BaseNS: 50_000_000, Units: 8, Depth: 8}
	cfg := one()
	cfg.disk.Latency = &l
	r := newRig(t, cfg)
	r.run(func(u *user) {
		f := u.open(ORdonly | ODirect)
		a := u.mmap(3)
		u.put(a, make([]byte, 3*4096))
		u.drain()
		refs := func(what string, want ...int) {
			for i, w := range want {
				if _, n := u.extra(a + uint64(i)*4096); n != w {
					u.t.Oops("%s: page %d has %d references beyond its mapping, want %d", what, i, n, w)
				}
			}
		}
		refs("before", 0, 0, 0)
		id := u.setup(8)
		u.submit(id, &IOCB{Data: 0, File: f, Buf: a, Nbytes: 8192})
		refs("whole pages", 1, 1, 0)
		u.submit(id, &IOCB{Data: 1, File: f, Buf: a + 512, Nbytes: 4096, Offset: 65536})
		refs("one request across a page boundary", 2, 2, 0)
		u.submit(id, &IOCB{Data: 2, File: f, Opcode: IOCBCmdPreadv, Offset: 131072,
			Iov: []IOVec{{a + 8192, 512}, {a + 8192 + 1024, 512}, {a + 8192 + 1536, 512}}})
		refs("segments of one page", 2, 2, 2) // the last two are one piece
		u.events(id, 3)
		refs("after", 0, 0, 0)
		u.destroy(id)
		f.Put(u.t)
	})
}

// TestCleanedInFlight: a page that is cleaned while the device writes it is dirtied
// again by the workqueue, not in the interrupt.
func TestCleanedInFlight(t *testing.T) {
	regimes(t, 1, 10, func(t *testing.T, cfg config) {
		cfg.disk.Latency = &blk.Latency{Name: "slow", BaseNS: 50_000_000, Depth: 8}
		r := newRig(t, cfg)
		dirty := false
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			a := u.mmap(2)
			u.put(a, make([]byte, 8192))
			p, _ := u.extra(a + 4096)
			id := u.setup(8)
			u.submit(id, &IOCB{File: f, Buf: a, Nbytes: 8192})
			if !p.Has(page.Dirty) {
				u.t.Oops("page is not dirty after submission")
			}
			pm := u.r.mm.Pages
			pm.LockPage(u.t, p)
			pm.ClearFlag(u.t, p, page.Dirty)
			pm.UnlockPage(u.t, p)
			u.want("read", u.events(id, 1)[0], nil, 8192, nil)
			u.holds(a, 8192, 0)
			u.t.SleepFor(1_000_000)
			dirty = p.Has(page.Dirty)
			u.destroy(id)
			f.Put(u.t)
		})
		if cfg.Regime == sched.Timed { // elsewhere the request may have ended before
			assert.True(t, dirty)
			assert.EqualValues(t, 1, r.sum(trace.EmuWorkqueueRuns))
		}
	})
}

// TestAIOForeignContext: contexts belong to an address space.
func TestAIOForeignContext(t *testing.T) {
	r := newRig(t, one())
	r.run(func(u *user) {
		id := u.setup(1)
		child, err := u.r.mm.DupMM(u.t, u.m)
		u.must(err)
		u.r.spawn(u.t, 0, child, func(c *user) {
			n, err := c.r.fs.IoSubmit(c.t, id, nil)
			c.want("io_submit", int64(n), err, 0, unix.EINVAL)
			c.want("io_destroy", 0, c.r.fs.IoDestroy(c.t, id), 0, unix.EINVAL)
		}).Wait(u.t)
		u.destroy(id)
	})
}

// TestLostRead is the race this project is about, through all of this room: an
// asynchronous read into half a page, a fork, and a store to the other half.
func TestLostRead(t *testing.T) {
	lost := 0
	const seeds = 30
	for seed := range seeds {
		cfg := config{Options: sched.Options{CPUs: 2, Regime: sched.Free, Strategy: sched.NewPCT(uint64(seed), 3, 2000)}}
		r := newRig(t, cfg)
		gone := false
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			a := u.mmap(1)
			u.put(a, make([]byte, 4096))
			id := u.setup(1)
			u.submit(id, &IOCB{File: f, Buf: a, Nbytes: 1024})
			child, err := u.r.mm.DupMM(u.t, u.m)
			u.must(err)
			done := u.r.spawn(u.t, 1, child, func(c *user) {})
			u.put(a+2048, []byte{1})
			u.want("read", u.events(id, 1)[0], nil, 1024, nil)
			for i, b := range u.get(a, 1024) {
				gone = gone || b != pattern(i)
			}
			done.Wait(u.t)
			u.destroy(id)
			f.Put(u.t)
		})
		if gone {
			lost++
		}
	}
	t.Logf("stock loses %d of %d reads", lost, seeds)
	assert.Positive(t, lost)
	assert.Less(t, lost, seeds)
}

var _ mm.Policy = (*witness)(nil)
