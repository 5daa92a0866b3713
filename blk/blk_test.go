package blk

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

func TestReadWriteWait(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o sched.Options) {
		r := newRig(t, o, DeviceOptions{})
		var p *page.Page
		r.run(func(t *sched.Task) {
			p = r.alloc(t)
			b := r.bio(t, Read, 16, p, 512, 2048, nil)
			if err := r.sys.SubmitBioWait(t, b); err != nil {
				t.Oops("read: %v", err)
			}
			r.sys.PutBio(t, b)
			b = r.bio(t, Write, 100, p, 1024, 512, nil)
			if err := r.sys.SubmitBioWait(t, b); err != nil {
				t.Oops("write: %v", err)
			}
			r.sys.PutBio(t, b)
		})
		r.holds(p, 512, 2048, 16)
		assert.Equal(t, r.bytes(p)[1024:1536], r.disk.Data()[100*512:101*512])
		assert.Equal(t, pattern(101*512), r.disk.Data()[101*512])
		tr := r.m.Trace()
		assert.EqualValues(t, 2, tr.Sum(trace.EmuBios))
		assert.EqualValues(t, 5, tr.Sum(trace.EmuDMAChunks))
		assert.EqualValues(t, 2560, tr.Sum(trace.EmuDMABytes))
		assert.EqualValues(t, 2, tr.Sum(trace.PGPgIn))
		assert.EqualValues(t, 0, tr.Sum(trace.PGPgOut), "half a KiB")
		assert.Zero(t, tr.Sum(trace.EmuDMAFreed))
	})
}

// batch waits for several bios and notes the order and place of their ends.
type batch struct {
	left  int
	order []*Bio
	errs  map[*Bio]error
	cpus  map[*Bio]int
	lock  lock.SpinLock
	wait  lock.WaitQueue
}

func newBatch(r *rig) *batch {
	b := &batch{errs: map[*Bio]error{}, cpus: map[*Bio]int{}}
	b.lock.Init(r.m, lock.Dio)
	b.wait.Init(r.m)
	return b
}

func (g *batch) end(t *sched.Task, b *Bio, err error) {
	off := g.lock.LockIRQSave(t)
	if !off && t.InIRQ() {
		t.Oops("EndIO with interrupts on")
	}
	g.left--
	g.order = append(g.order, b)
	g.errs[b], g.cpus[b] = err, t.C.ID
	g.lock.UnlockIRQRestore(t, off)
	g.wait.Wake(t)
}

func (g *batch) await(t *sched.Task) {
	g.wait.WaitEvent(t, func() bool {
		off := g.lock.LockIRQSave(t)
		done := g.left == 0
		g.lock.UnlockIRQRestore(t, off)
		return done
	})
}

func TestMerging(t *testing.T) {
	rot := Disk2009()
	for _, c := range []struct {
		name    string
		sectors []uint64 // of bios of one sector each
		want    int      // requests
		merges  uint64
		order   []int // of completion, as indices into sectors
	}{
		{"back", []uint64{8, 9, 10}, 1, 2, []int{0, 1, 2}},
		{"front", []uint64{10, 9, 8}, 1, 2, []int{2, 1, 0}},
		{"gap filled joins requests", []uint64{8, 10, 9}, 1, 2, []int{0, 2, 1}},
		{"front only of the last merged", []uint64{20, 30, 29}, 3, 0, []int{0, 1, 2}},
		{"apart", []uint64{20, 30, 40}, 3, 0, []int{0, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, sched.Options{CPUs: 1, Regime: sched.Timed, CheckLocks: true},
				DeviceOptions{Latency: &rot, Depth: 1})
			g := newBatch(r)
			var bios []*Bio
			var p *page.Page
			queued := 0
			r.run(func(t *sched.Task) {
				p = r.alloc(t)
				for i, s := range c.sectors {
					g.left++
					b := r.bio(t, Read, s, p, uint32(i)*512, 512, g.end)
					bios = append(bios, b)
					r.sys.SubmitBio(t, b)
				}
				_, queued = r.dev.InFlight()
				r.sys.Unplug(t, r.dev)
				g.await(t)
			})
			assert.Equal(t, c.want, queued, "requests behind the plug")
			assert.Equal(t, c.merges, r.m.Trace().Sum(trace.EmuBioMerges))
			for i, k := range c.order {
				assert.Same(t, bios[k], g.order[i], "completion %d", i)
			}
			for i, s := range c.sectors {
				r.holds(p, i*512, 512, s)
			}
		})
	}
}

func TestMergeLimits(t *testing.T) {
	rot := Disk2009()
	r := newRig(t, sched.Options{Regime: sched.Timed}, DeviceOptions{Latency: &rot, MaxSectors: 8, MaxSegments: 2})
	g := newBatch(r)
	queued := 0
	r.run(func(t *sched.Task) {
		p := r.alloc(t)
		b := r.sys.AllocBio(t, r.dev, Read, 0, 4)
		assertN := func(want, got uint32) {
			if want != got {
				t.Oops("AddPage took %d bytes, want %d", got, want)
			}
		}
		assertN(512, b.AddPage(p, 0, 512))
		assertN(512, b.AddPage(p, 512, 512)) // grows the piece
		if len(b.Vec) != 1 {
			t.Oops("%d pieces", len(b.Vec))
		}
		assertN(512, b.AddPage(p, 2048, 512))
		assertN(0, b.AddPage(p, 3584, 512))  // third segment
		assertN(0, b.AddPage(p, 2560, 4096)) // nine sectors
		r.sys.PutBio(t, b)
		for i := range 3 {
			g.left++
			r.sys.SubmitBio(t, r.bio(t, Read, uint64(i)*4, p, 0, 2048, g.end))
		}
		_, queued = r.dev.InFlight() // 0..7, 8..11
		r.sys.Unplug(t, r.dev)
		g.await(t)
	})
	assert.Equal(t, 2, queued)
}

// TestQueueUnplugsItself fills the plug.
func TestQueueUnplugsItself(t *testing.T) {
	rot := Disk2009()
	r := newRig(t, sched.Options{Regime: sched.Timed}, DeviceOptions{Latency: &rot})
	g := newBatch(r)
	served := 0
	r.run(func(t *sched.Task) {
		p := r.alloc(t)
		for i := range unplugThresh {
			g.left++
			r.sys.SubmitBio(t, r.bio(t, Read, uint64(i)*100, p, 0, 512, g.end))
		}
		served, _ = r.dev.InFlight()
		g.await(t)
	})
	assert.Equal(t, unplugThresh, served)
}

// TestCompletionCPU: bios end on the CPU that submitted them, or on that of the
// device's mask.
func TestCompletionCPU(t *testing.T) {
	t.Run("submitter", func(t *testing.T) { testCompletionCPU(t, 0) })
	t.Run("mask", func(t *testing.T) { testCompletionCPU(t, 1<<2|1<<1) })
}

func testCompletionCPU(t *testing.T, mask uint64) {
	regimes(t, 3, func(t *testing.T, o sched.Options) {
		r := newRig(t, o, DeviceOptions{Affinity: mask})
		var gs [3]*batch
		want := [3]map[*Bio]int{{}, {}, {}}
		for cpu := range gs {
			gs[cpu] = newBatch(r)
			g := gs[cpu]
			r.start(cpu, "submitter", func(t *sched.Task) {
				p := r.alloc(t)
				for i := range 4 {
					b := r.bio(t, Read, uint64(cpu*64+i*8), p, uint32(i)*1024, 1024, g.end)
					g.lock.LockIRQ(t)
					g.left++
					want[cpu][b] = t.C.ID
					if mask != 0 {
						want[cpu][b] = 1
					}
					g.lock.UnlockIRQ(t)
					r.sys.SubmitBio(t, b)
				}
				r.sys.Unplug(t, r.dev)
				g.await(t)
				r.pages.Put(t, p)
			})
		}
		r.finish()
		for cpu, g := range gs {
			assert.Len(t, g.order, 4)
			assert.Len(t, g.cpus, 4)
			for b, w := range want[cpu] { // not as maps: a difference would be printed with all that bios point to
				assert.Equal(t, w, g.cpus[b])
			}
		}
	})
}

func TestInjector(t *testing.T) {
	rot := Disk2009()
	regimes(t, 1, func(t *testing.T, o sched.Options) {
		r := newRig(t, o, DeviceOptions{Latency: &rot})
		r.dev.Inject.Add(Fault{First: 11, Last: 11, Reads: true, Count: 1})
		g := newBatch(r)
		var p *page.Page
		var bios []*Bio
		r.run(func(t *sched.Task) {
			p = r.alloc(t)
			for i := range 3 { // one merged request: 8-9, 10-11, 12-13
				g.left++
				b := r.bio(t, Read, 8+uint64(i)*2, p, uint32(i)*1024, 1024, g.end)
				bios = append(bios, b)
				r.sys.SubmitBio(t, b)
			}
			r.sys.Unplug(t, r.dev)
			g.await(t)
			// The second time it works.
			g.left = 1
			r.sys.SubmitBio(t, r.bio(t, Read, 11, p, 3072, 512, g.end))
			r.sys.Unplug(t, r.dev)
			g.await(t)
		})
		assert.NoError(t, g.errs[bios[0]])
		assert.Equal(t, unix.EIO, g.errs[bios[1]])
		assert.NoError(t, g.errs[bios[2]])
		r.holds(p, 0, 1024+512, 8) // up to the bad sector
		assert.Equal(t, make([]byte, 512), r.bytes(p)[1536:2048])
		r.holds(p, 2048, 1024, 12)
		r.holds(p, 3072, 512, 11)
		assert.Equal(t, 1, r.dev.Inject.Failed())
		assert.EqualValues(t, 1, r.m.Trace().Sum(trace.EmuBioErrors))
	})
}

func TestInjectorRules(t *testing.T) {
	var i Injector
	assert.EqualValues(t, noFailure, i.check(Read, 0, 100))
	i.Add(Fault{First: 10, Last: 19, Writes: true, Skip: 1, Count: 2})
	assert.EqualValues(t, noFailure, i.check(Read, 0, 100), "reads pass")
	assert.EqualValues(t, noFailure, i.check(Write, 20, 5), "beyond")
	assert.EqualValues(t, noFailure, i.check(Write, 0, 10), "before")
	assert.EqualValues(t, noFailure, i.check(Write, 0, 11), "skipped")
	assert.EqualValues(t, 10, i.check(Write, 0, 11))
	assert.EqualValues(t, 15, i.check(Write, 15, 50))
	assert.EqualValues(t, noFailure, i.check(Write, 15, 50), "count used up")
	assert.Equal(t, 2, i.Failed())
	i.Clear()
	assert.EqualValues(t, noFailure, i.check(Write, 15, 50))
}

// TestBadSector: what does not exist fails at once, and nothing is queued.
func TestBadSector(t *testing.T) {
	r := newRig(t, sched.Options{Regime: sched.Timed}, DeviceOptions{})
	r.run(func(t *sched.Task) {
		p := r.alloc(t)
		for _, s := range []uint64{2047, 2048, 1 << 60} {
			var got error
			b := r.bio(t, Read, s, p, 0, 1024, func(_ *sched.Task, _ *Bio, err error) { got = err })
			r.sys.SubmitBio(t, b)
			if got != unix.EIO {
				t.Oops("sector %d: %v", s, got)
			}
		}
	})
}

// TestFreedFrame: a frame that is freed under a request is written all the same,
// and counted.
func TestFreedFrame(t *testing.T) {
	r := newRig(t, sched.Options{Regime: sched.Timed}, DeviceOptions{})
	var p *page.Page
	r.run(func(t *sched.Task) {
		g := newBatch(r)
		p = r.alloc(t)
		g.left++
		b := r.bio(t, Read, 8, p, 0, 4096, g.end)
		r.sys.SubmitBio(t, b)
		r.sys.Unplug(t, r.dev)
		r.pages.Put(t, p)
		g.await(t)
	})
	r.holds(p, 0, 4096, 8)
	assert.EqualValues(t, 8, r.m.Trace().Sum(trace.EmuDMAFreed))
}

// TestTimed: two runs take the same virtual time, and it is what the model says.
func TestTimed(t *testing.T) {
	once := func(l Latency) (uint64, uint64) {
		r := newRig(t, sched.Options{CPUs: 2, Regime: sched.Timed}, DeviceOptions{Latency: &l})
		for cpu := range 2 {
			r.start(cpu, "reader", func(t *sched.Task) {
				p := r.alloc(t)
				for i := range 8 {
					b := r.bio(t, Read, uint64(cpu*512+i*16), p, 0, 4096, nil)
					if err := r.sys.SubmitBioWait(t, b); err != nil {
						t.Oops("%v", err)
					}
					r.sys.PutBio(t, b)
				}
			})
		}
		res := r.finish()
		return res.NS, res.Steps
	}
	for _, l := range []Latency{Disk2009(), FastDevice(), Instant()} {
		ns, steps := once(l)
		for range 2 {
			ns2, steps2 := once(l)
			assert.Equal(t, ns, ns2, l.Name)
			assert.Equal(t, steps, steps2, l.Name)
		}
		t.Logf("%s: %d ns, %d steps", l.Name, ns, steps)
		switch l.Name {
		case "disk2009": // 16 requests, one head, half a turn and a settling each
			assert.Greater(t, ns, uint64(16*(4_170_000+800_000)))
			assert.Less(t, ns, uint64(16*(4_170_000+800_000+100_000+40_000+8_000_000)))
		case "fast": // 8 one after another on each CPU
			assert.InDelta(t, 8*(50_000+4096*1.43), float64(ns), 60_000)
		}
	}
}

func TestLatencyModel(t *testing.T) {
	var c clock
	c.init(Latency{BaseNS: 10, SettleNS: 100, FullSeekNS: 1000, TurnNS: 50, ReadPSPerByte: 1000, WritePSPerByte: 2000})
	begin, length := c.serve(0, Read, 0, 1, 1000)
	assert.EqualValues(t, []uint64{10, 512}, []uint64{begin, length}, "the head is there already")
	begin, length = c.serve(0, Write, 1, 1, 1000)
	assert.EqualValues(t, []uint64{532, 1024}, []uint64{begin, length}, "waits for the unit")
	begin, _ = c.serve(5000, Read, 502, 1, 1000)
	assert.EqualValues(t, 5000+10+100+500+50, begin, "half a stroke")
}

// TestRequestsRunOut: submitters wait when the queue holds too many.
func TestRequestsRunOut(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o sched.Options) {
		r := newRig(t, o, DeviceOptions{MaxRequests: 4, Depth: 1})
		for cpu := range 2 {
			r.start(cpu, "submitter", func(t *sched.Task) {
				g := newBatch(r)
				p := r.alloc(t)
				for i := range 12 {
					g.lock.LockIRQ(t)
					g.left++
					g.lock.UnlockIRQ(t)
					r.sys.SubmitBio(t, r.bio(t, Read, uint64(cpu*200+i*4), p, 0, 512, g.end))
				}
				g.await(t)
				t.Progress()
				r.pages.Put(t, p)
			})
		}
		r.finish()
	})
}

func TestDeviceOptions(t *testing.T) {
	disk, err := NewRAMDisk(4096)
	require.NoError(t, err)
	odd, err := NewRAMDisk(512 * 3)
	require.NoError(t, err)
	for _, c := range []struct {
		o    DeviceOptions
		says string
	}{
		{DeviceOptions{}, "Backing is required"},
		{DeviceOptions{Backing: disk, SectorSize: 513}, "SectorSize is 513"},
		{DeviceOptions{Backing: disk, SectorSize: 8192}, "SectorSize is 8192"},
		{DeviceOptions{Backing: odd, SectorSize: 1024}, "size of 1536 bytes"},
		{DeviceOptions{Backing: disk, Depth: -1}, "Depth is -1"},
		{DeviceOptions{Backing: disk, MaxSectors: 1}, "MaxSectors is 1"},
		{DeviceOptions{Backing: disk, Latency: &Latency{Units: -1}}, "Units is -1"},
	} {
		assert.ErrorContains(t, c.o.Validate(), c.says)
	}
	_, err = newRig(t, sched.Options{CPUs: 2, Regime: sched.Timed}, DeviceOptions{}).sys.AddDevice(DeviceOptions{Backing: disk, Affinity: 1 << 2})
	assert.ErrorContains(t, err, "Affinity is 0x4")
	_, err = NewRAMDisk(100)
	assert.ErrorContains(t, err, "multiple of 512")
	_, err = RAMDiskOf(nil)
	assert.ErrorContains(t, err, "not zero")
}

// TestPooling: steady traffic allocates nothing for bios and requests.
func TestPooling(t *testing.T) {
	l := Instant()
	r := newRig(t, sched.Options{Regime: sched.Timed}, DeviceOptions{Latency: &l})
	r.run(func(t *sched.Task) {
		p := r.alloc(t)
		seen := map[*Bio]bool{}
		for range 100 {
			b := r.bio(t, Read, 0, p, 0, 512, nil)
			seen[b] = true
			if err := r.sys.SubmitBioWait(t, b); err != nil {
				t.Oops("%v", err)
			}
			r.sys.PutBio(t, b)
		}
		if len(seen) != 1 {
			t.Oops("%d bios for one at a time", len(seen))
		}
	})
}

func BenchmarkSubmitBioWait(b *testing.B) {
	l := Instant()
	r := newRig(b, sched.Options{Regime: sched.Parallel}, DeviceOptions{Latency: &l})
	r.run(func(t *sched.Task) {
		p := r.alloc(t)
		b.ReportAllocs()
		for b.Loop() {
			o := r.bio(t, Read, 0, p, 0, 4096, nil)
			if err := r.sys.SubmitBioWait(t, o); err != nil {
				t.Oops("%v", err)
			}
			r.sys.PutBio(t, o)
			t.Progress()
		}
	})
}
