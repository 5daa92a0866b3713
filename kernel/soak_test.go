package kernel

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// The soak of everything that holds pages, at once: swap, forks, direct I/O, huge pages,
// vmsplice and KSM. Its long forms are
//
//	go test -race ./kernel -run TestSoakEverything$ -timeout 30m -args -soakfor 10m
//	go test ./kernel -run TestSoakEverythingSmall -timeout 30m -args -soak 5000
var soakFor = flag.Duration("soakfor", 0, "how long the soak of everything lasts in the parallel regime; 0 is one round")

// everything is one program with its memory. Each part of the memory has one thread that
// stores to it, and that checks what it stored.
type everything struct {
	t      *testing.T
	pages  uint64 // of the part that is swapped
	plain  uint64 // these pages
	merge  uint64 // mergePages pages that are equal, in pairs
	splice uint64 // splicePages pages that go through a pipe
	huge   uint64 // one huge page
	direct int    // the disk
	disk   []byte // what it holds
}

const (
	mergePages  = 8
	splicePages = 4
	soakSwap    = "/dev/swap"
)

// setUp maps and fills everything. Errors end the test: nothing has begun yet.
func (e *everything) setUp(th *Thread) {
	fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
	require.NoError(e.t, err)
	e.direct = fd
	e.plain = th.MustMmap(e.pages << 12)
	e.merge = th.MustMmap(mergePages << 12)
	e.splice = th.MustMmap(splicePages << 12)
	e.huge = th.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
	require.NoError(e.t, th.Madvise(e.merge, mergePages<<12, mm.MadvMergeable))
	for i := range uint64(mergePages) {
		th.Fill(e.merge+i<<12, 1<<12, byte(i/2+1))
	}
	for i := range uint64(splicePages) {
		th.Store64(e.splice+i<<12, pattern(i, 7))
	}
	th.Store64(e.huge, 1)
	th.Store64(e.huge+mm.HugePage2M-8, 1)
}

// stores writes numbers to a share of the plain pages, and reads some of them from the disk
// besides; both must be there afterwards. What is read is another sector in each round: the
// last round's contents would not show that this one's were lost.
func (e *everything) stores(c *Thread, share, shares, round uint64) {
	const at = 1024
	sector := func(i uint64) uint64 { return (i + round) * x86.SectorSize % uint64(len(e.disk)) }
	for i := share; i < e.pages; i += shares {
		c.Store64(e.plain+i<<12, pattern(i, round))
		if i%16 == share {
			if _, err := c.Pread(e.direct, e.plain+i<<12+at, x86.SectorSize, int64(sector(i))); err != nil {
				e.t.Errorf("direct read: %v", err)
			}
		}
	}
	for i := share; i < e.pages; i += shares {
		if got := c.Load64(e.plain + i<<12); got != pattern(i, round) {
			e.t.Errorf("page %d in round %d is %#x", i, round, got)
		}
		if i%16 == share && !bytes.Equal(c.Bytes(e.plain+i<<12+at, x86.SectorSize), e.disk[sector(i):sector(i)+x86.SectorSize]) {
			e.t.Errorf("page %d in round %d lost what was read into it", i, round)
		}
	}
}

// merges has equal pages merged, and stores to one of each pair.
func (e *everything) merges(c *Thread, round uint64) {
	for i := range uint64(mergePages) {
		c.Load8(e.merge + i<<12) // what is in swap is not merged
	}
	if err := c.KSMScan(2); err != nil {
		e.t.Errorf("ksm: %v", err)
	}
	for i := uint64(1); i < mergePages; i += 2 {
		c.Store64(e.merge+i<<12+8, round)
	}
	for i := range uint64(mergePages) {
		if got, want := c.Load8(e.merge+i<<12), byte(i/2+1); got != want {
			e.t.Errorf("merged page %d holds %#x, not %#x", i, got, want)
		}
		if got := c.Load64(e.merge + i<<12 + 8); i%2 == 1 && got != round {
			e.t.Errorf("merged page %d has lost a store: %#x", i, got)
		}
	}
	for i := uint64(1); i < mergePages; i += 2 {
		c.Fill(e.merge+i<<12+8, 8, byte(i/2+1)) // equal again
	}
}

// splices sends pages through a pipe by reference.
func (e *everything) splices(c *Thread) {
	r, w, err := c.Pipe()
	if err != nil {
		e.t.Errorf("pipe: %v", err)
		return
	}
	into := c.MustMmap(splicePages << 12)
	n, err := c.Vmsplice(w, e.splice, splicePages<<12, 0)
	if err != nil || n != splicePages<<12 {
		e.t.Errorf("vmsplice: %d, %v", n, err)
	}
	_ = c.Madvise(e.splice, splicePages<<12, mm.MadvPageout)
	for got := 0; got < n; {
		k, err := c.ReadFD(r, into+uint64(got), n-got)
		if err != nil || k == 0 {
			e.t.Errorf("pipe: %d, %v", k, err)
			break
		}
		got += k
	}
	for i := range uint64(splicePages) {
		if got := c.Load64(into + i<<12); got != pattern(i, 7) {
			e.t.Errorf("page %d of the pipe is %#x", i, got)
		}
	}
	_ = c.Close(w)
	_ = c.Close(r)
	_ = c.Munmap(into, splicePages<<12)
}

// forks makes a child that stores to what it shares with its parent, the huge page included.
func (e *everything) forks(th *Thread, round, every uint64) {
	pid, err := th.Fork(func(c *Thread) {
		for i := uint64(0); i < e.pages; i += every {
			c.Store64(e.plain+i<<12+64, i+1)
		}
		c.Store64(e.huge, 2)
		for i := uint64(0); i < e.pages; i += every {
			if got := c.Load64(e.plain + i<<12 + 64); got != i+1 {
				e.t.Errorf("child: page %d is %#x", i, got)
			}
		}
		if got := c.Load64(e.huge + mm.HugePage2M - 8); got != round {
			e.t.Errorf("child: the huge page ends with %d, not %d", got, round)
		}
	})
	if err != nil {
		e.t.Errorf("fork: %v", err)
		return
	}
	_, st, err := th.Wait(pid)
	if err != nil || st != Exited(0) {
		e.t.Errorf("child: %v, %v", st, err)
	}
	if got := th.Load64(e.huge); got != 1 {
		e.t.Errorf("parent: the huge page begins with %d", got)
	}
	th.Store64(e.huge+mm.HugePage2M-8, round+1)
	for i := uint64(0); i < e.pages; i += every {
		if got := th.Load64(e.plain + i<<12 + 64); got != 0 {
			e.t.Errorf("parent: page %d shows a child's store", i)
		}
	}
}

// round does all of it at once.
func (e *everything) round(th *Thread, round, workers, every uint64) {
	var joins []*Thread
	add := func(name string, fn func(c *Thread)) { joins = append(joins, th.Go(name, fn)) }
	for w := range workers {
		add(fmt.Sprint("worker", w), func(c *Thread) { e.stores(c, w, workers, round) })
	}
	add("ksm", func(c *Thread) { e.merges(c, round) })
	add("splicer", func(c *Thread) { e.splices(c) })
	e.forks(th, round, every)
	for _, j := range joins {
		_ = th.Join(j)
	}
}

// soakOptions is a machine with a disk, swap on an image file, huge pages and KSM.
func soakOptions(t *testing.T, o Options, swapPages int64) Options {
	image := filepath.Join(t.TempDir(), "swap.img")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, swapPages<<12))
	o.KSM = true
	o.Disks = []Disk{{Name: "vda", Size: 64 << 10}, {Name: "swap", ImagePath: image, Swap: true}}
	return o
}

// TestSoakEverything has a working set of three times the memory that is not huge pages, on
// four CPUs in the parallel regime.
func TestSoakEverything(t *testing.T) {
	const ram = 6 << 20 // besides the huge pages
	o := soakOptions(t, Options{CPUs: 4, HugePages: 3, Memory: ram + 3*mm.HugePage2M}, 16384)
	m := boot(t, o)
	m.MM().SetOvercommit(mm.OvercommitAlways, 0)
	e := &everything{t: t, pages: 3 * ram >> 12, disk: content(64 << 10)}
	copy(m.DiskData("vda"), e.disk)
	began, rounds := time.Now(), uint64(0)
	out := m.Run(func(th *Thread) {
		require.NoError(t, th.Swapon(soakSwap, 0))
		e.setUp(th)
		for rounds == 0 || time.Since(began) < *soakFor && !t.Failed() {
			rounds++
			e.round(th, rounds, 2 /* workers */, 13)
		}
		// Beside the others the pages may all have been in swap again whenever KSM came, if the
		// host ran those: once more, alone.
		e.merges(th, rounds+1)
	})
	require.NoError(t, out.Err(), "%d rounds: %s", rounds, out.Detail)
	assert.Empty(t, out.Victims)
	tr := m.Trace()
	t.Logf("%d rounds in %v: %d pages written, %d read, %d merged, %d huge copies", rounds, time.Since(began).Round(time.Second),
		tr.Sum(trace.PSwpOut), tr.Sum(trace.PSwpIn), tr.Sum(trace.EmuKSMMerges), tr.Sum(trace.EmuHugeCopy))
	assert.Positive(t, tr.Sum(trace.PSwpIn))
	assert.Positive(t, tr.Sum(trace.EmuKSMMerges))
	atRest(t, m)
}

// hog is a process besides that stores to much of the memory there is, and looks at some of it
// again. It may be killed.
func (e *everything) hog(th *Thread, pages uint64) (pid int) {
	pid, err := th.Fork(func(c *Thread) {
		a := c.MustMmap(pages << 12)
		for i := range pages {
			c.Store64(a+i<<12, pattern(i, 3))
		}
		for i := uint64(0); i < pages; i += 32 {
			if got := c.Load64(a + i<<12); got != pattern(i, 3) {
				e.t.Errorf("hog: page %d is %#x", i, got)
			}
		}
	})
	require.NoError(e.t, err)
	return pid
}

// scarce sets memory aside until each zone of the small soak's machine has shortFrames left, and
// brings the watermarks so near to each other that kswapd comes too late for tasks on three CPUs:
// whoever allocates reclaims himself. It returns what was set aside.
func scarce(t *testing.T, m *Machine) (aside []*page.Page) {
	pm := m.Pages()
	for _, order := range []int{10, 8, 7} {
		for range pm.NumZones() {
			p := pm.AllocBoot(order, "set aside")
			require.NotNil(t, p)
			aside = append(aside, p)
		}
	}
	require.EqualValues(t, shortFrames*pm.NumZones()-1, pm.FreePages(), "frame 0 is nobody's")
	pm.SetMinFree(24)
	return aside
}

const (
	shortFrames = 128
	hogPages    = 130 // three of them and the program are more than memory
)

// reclaimers is on how many CPUs somebody reclaimed directly.
func reclaimers(m *Machine) (cpus int) {
	for i := range m.Trace().CPUs() {
		if m.Trace().CPU(i).Value(trace.AllocStall) > 0 {
			cpus++
		}
	}
	return cpus
}

// TestSoakEverythingSmall is the small form in the free regime, with invariants on: pages go
// out by advice. In every third schedule kswapd takes them too, because all of memory but
// what the program needs lies below the watermarks; in another third three more processes fill
// the little memory that there is, and whoever allocates reclaims himself, on all CPUs at once.
//
// With less room under high watermarks the OOM killer comes, and rightly so: what is mapped sits in
// the pagevecs and per-CPU lists of three zones, so that kswapd, which is awake from the first page
// on, finds a handful of pages on the lists of a zone, looks at them six times over and
// says all_unreclaimable; direct reclaim then passes the zone by, frees nothing and gives up,
// with all of swap free. The badness is the size of the address space: the child, which goes
// before its parent, and then number 1, because there is nobody else.
func TestSoakEverythingSmall(t *testing.T) {
	seeds := *soakSeeds
	if seeds == 0 {
		seeds = 12
		if testing.Short() {
			seeds = 3
		}
	}
	const room = 60 // pages; see above
	var points, merged, read, reclaims, stalls, crowded uint64
	for seed := *firstSeed; seed < *firstSeed+seeds; seed++ {
		o := soakOptions(t, Options{CPUs: 3, Memory: 24 << 20, HugePages: 3, NoStack: true, Regime: sched.Free, Strategy: sched.NewRandom(seed)}, 1024)
		short := seed%3 == 2
		switch {
		case seed%4 == 1 && !short: // it is not fair: who naps until a write has ended would keep the writer's CPU waiting
			o.Strategy = sched.NewPCT(seed, 3, 20_000)
		case seed%4 == 2:
			o.Preempt = sched.PreemptFull
		}
		m := boot(t, o)
		m.MM().SetOvercommit(mm.OvercommitAlways, 0)
		m.CheckSteps(997, nil)
		var aside []*page.Page
		switch {
		case short:
			aside = scarce(t, m)
		case seed%3 == 1:
			m.Pages().SetMinFree(m.Pages().FreePages() - room)
		}
		e := &everything{t: t, pages: 3, disk: content(64 << 10)}
		copy(m.DiskData("vda"), e.disk)
		out := m.Run(func(th *Thread) {
			require.NoError(t, th.Swapon(soakSwap, 0))
			var hogs []int
			for range m.Trace().CPUs() {
				if short {
					hogs = append(hogs, e.hog(th, hogPages))
				}
			}
			e.setUp(th)
			pager := th.Go("pager", func(c *Thread) {
				for range 6 { // the first looks at the accessed bits; writing takes its time
					_ = c.Madvise(e.plain, e.pages<<12, mm.MadvPageout)
					_ = c.Kernel(func(task *sched.Task) error { m.sys.DropClean(task); return nil })
				}
			})
			e.round(th, 1, 1 /* worker */, 1)
			_ = th.Join(pager)
			for _, pid := range hogs {
				_, _, err := th.Wait(pid)
				require.NoError(t, err)
			}
			_ = th.Kernel(func(task *sched.Task) error {
				for _, p := range aside {
					m.Pages().FreeCompound(task, p)
				}
				return nil
			})
		})
		require.NoError(t, out.Err(), "seed %d", seed)
		stalls += m.Trace().Sum(trace.AllocStall)
		if reclaimers(m) > 1 {
			crowded++
		}
		points += out.Result.Steps
		reclaims += m.Trace().Sum(trace.PageOutRun)
		merged += m.Trace().Sum(trace.EmuKSMMerges)
		read += m.Trace().Sum(trace.PSwpIn)
		m.Sched().SetObserver(nil)
		assert.Empty(t, m.Check(), "seed %d", seed)
		assert.Empty(t, m.Leaks(), "seed %d", seed)
		m.Shutdown()
		if t.Failed() {
			t.Fatalf("again: go test ./kernel -run 'TestSoakEverythingSmall' -args -seed %d -soak 1", seed)
		}
	}
	t.Logf("%d schedules of %d points: %d pages read from swap, %d merged, %d passes of kswapd, %d of direct reclaim, on more than one CPU in %d schedules",
		seeds, points/seeds, read, merged, reclaims, stalls, crowded)
	assert.Positive(t, min(read, merged))
	if seeds > 1 {
		assert.Positive(t, reclaims)
		assert.GreaterOrEqual(t, crowded, seeds/4, "schedules with direct reclaim on more than one CPU")
	}
}
