package claims

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/tests/workload"
)

// swapExperiments are programs with reclaim in them.
func swapExperiments() []experiment {
	disks := []kernel.Disk{swapDisk(), {Name: "vda", Size: 8 * x86.SectorSize}}
	return []experiment{
		{name: "claim-c18", options: kernel.Options{Disks: disks}, run: dirtyOrLost},
		{name: "claim-c18-clean", options: kernel.Options{Disks: disks, NoDirtyDIO: true}, run: dirtyOrLost},
		{name: "claim-c30", options: kernel.Options{Disks: disks[:1]}, run: reclaimInFork},
		{name: "claim-c33-dontneed", options: kernel.Options{Disks: disks[:1]}, run: compared(func(c *kernel.Thread, buf, _ uint64) error {
			return c.Madvise(buf, x86.PageSize, mm.MadvDontNeed)
		})},
		{name: "claim-c33-munmap", options: kernel.Options{Disks: disks[:1]}, run: compared(func(c *kernel.Thread, buf, _ uint64) error {
			return c.Munmap(buf, x86.PageSize)
		})},
		{name: "claim-c33-fork", options: kernel.Options{Disks: disks[:1]}, run: compared(func(c *kernel.Thread, _, over uint64) error {
			pid, err := c.Fork(func(g *kernel.Thread) { awaitWord(g, over) })
			if err == nil {
				_, _, err = c.Wait(pid)
			}
			return err
		})},
		{name: "claim-c33-one", text: `"reclaim looks at a page that is pinned and mapped once, while others pin it too"
machine swap=64K
map A 1 page private
init A = 1

 P0                 | P1                ;
 pin h A write fast |                   ;
 @1                 | @1                ;
 s = swapout A      | pin g A read fast ;
                    | unpin g           ;

never swapped(P0:A) = 1
`},
		{name: "claim-c33-harm", options: kernel.Options{Disks: disks[:1]}, run: pinnedThenShared},
	}
}

// dirtyOrLost reads from a disk into a page that reclaim takes out and a load brings back
// meanwhile, and has reclaim look again afterwards.
func dirtyOrLost(t *kernel.Thread, p *play) {
	if !p.must(t.Swapon("/dev/swap", 0), "swapon") {
		return
	}
	buf := t.MustMmap(x86.PageSize)
	t.Store64(buf, 1)
	copy(t.Machine().DiskData("vda"), bytes.Repeat([]byte{0x64}, x86.SectorSize))
	fd, err := t.Open("/dev/vda", fs.ORdonly|fs.ODirect)
	if !p.must(err, "open") {
		return
	}
	p.begin()
	reader := t.Go("reader", func(t *kernel.Thread) {
		_, err := t.Pread(fd, buf+x86.SectorSize, x86.SectorSize, 0)
		p.must(err, "read")
	})
	pageOut(t, p, buf)
	_ = t.Load64(buf)
	p.must(t.Join(reader), "join")
	pageOut(t, p, buf)
	t.Usleep(20_000) // until it is written
	reclaimInactive(t)
	got := t.Load8(buf + x86.SectorSize)
	p.see(workload.LostRead, got != 0x64, "what the device had written is gone when the page comes back from swap")
	p.must(t.Close(fd), "close")
}

// pageOut has reclaim look at a page until its pte is a swap entry, a few times.
func pageOut(t *kernel.Thread, p *play, addr uint64) {
	for i := 0; i < 4 && !t.MM().PeekPTE(addr).IsSwap(); i++ {
		p.must(t.Madvise(addr, x86.PageSize, mm.MadvPageout), "madvise")
	}
}

// reclaimInFork forks with a pinned page that nobody seems to have used for long, while
// reclaim takes what it can.
func reclaimInFork(t *kernel.Thread, p *play) {
	if !p.must(t.Swapon("/dev/swap", 0), "swapon") {
		return
	}
	buf := t.MustMmap(x86.PageSize)
	t.Store64(buf, 1)
	reg, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true})
	if !p.must(err, "register") {
		return
	}
	grownOld(t, buf)
	p.begin()
	reclaim := t.Go("reclaim", func(t *kernel.Thread) {
		reclaimInactive(t)
	})
	pid, err := t.Fork(func(c *kernel.Thread) { _ = c.Load64(buf) })
	if p.must(err, "fork") {
		_, _, err = t.Wait(pid)
		p.must(err, "wait")
	}
	p.must(t.Join(reclaim), "join")
	p.must(t.UnregisterMemory(reg), "unregister")
}

// reclaimInactive reclaims the inactive lists once.
func reclaimInactive(t *kernel.Thread) {
	_ = t.Kernel(func(task *sched.Task) error { t.MM().Sys.DropClean(task); return nil })
}

// grownOld makes a page one that nobody seems to have used for long: it is on the inactive
// list, and its ptes are old.
func grownOld(t *kernel.Thread, addr uint64) {
	s := t.MM().Sys
	_ = t.Kernel(func(task *sched.Task) error {
		pg := s.Pages.Page(t.MM().PeekPTE(addr).PFN())
		s.Pages.LRUAddDrain(task)
		s.PageReferenced(task, pg, false /* locked */)
		s.Pages.IsolateLRU(task, pg)
		s.Pages.ClearFlag(task, pg, page.Active)
		s.Pages.PutbackLRU(task, pg)
		s.Pages.LRUAddDrain(task)
		return nil
	})
}

// sharer is a child that shares the memory, and does something when it is told to.
type sharer struct {
	now, over uint64 // words: it may do it; the program is over
	pid       int
}

func newSharer(t *kernel.Thread, p *play, do func(c *kernel.Thread, over uint64) error) (s sharer, ok bool) {
	s.now = t.MustMmapShared(x86.PageSize)
	s.over = s.now + 64
	t.Store32(s.now, 0)
	var err error
	s.pid, err = t.Fork(func(c *kernel.Thread) {
		awaitWord(c, s.now)
		p.must(do(c, s.over), "child")
	})
	return s, p.must(err, "fork")
}

// tell lets the child do it.
func (s sharer) tell(t *kernel.Thread) { setWord(t, s.now) }

// wait waits until the child, and what it has forked, has ended.
func (s sharer) wait(t *kernel.Thread, p *play) {
	setWord(t, s.over)
	_, _, err := t.Wait(s.pid)
	p.must(err, "wait")
}

func setWord(t *kernel.Thread, word uint64) {
	t.Store32(word, 1)
	_, _ = t.FutexWake(word, 1<<30, kernel.FutexShared)
}

func awaitWord(t *kernel.Thread, word uint64) {
	for t.Load32(word) == 0 {
		_ = t.FutexWait(word, 0, 0 /* no timeout */, kernel.FutexShared)
	}
}

// compared has reclaim look at a page that two processes map and one has pinned for reading,
// while the other does something to the counts. It must stay.
func compared(do func(c *kernel.Thread, buf, over uint64) error) func(t *kernel.Thread, p *play) {
	return func(t *kernel.Thread, p *play) {
		if !p.must(t.Swapon("/dev/swap", 0), "swapon") {
			return
		}
		buf := t.MustMmap(x86.PageSize)
		t.Store64(buf, 1)
		other, ok := newSharer(t, p, func(c *kernel.Thread, over uint64) error { return do(c, buf, over) })
		if !ok {
			return
		}
		// A plain reference by hand: some rows un-COW what is pinned, and then nobody shares.
		pfn := t.MM().PeekPTE(buf).PFN()
		pages := t.MM().Sys.Pages
		pg := pages.Page(pfn)
		_ = t.Kernel(func(task *sched.Task) error { pages.GetAs(task, pg, page.RefPin); return nil })
		grownOld(t, buf)
		p.begin()
		other.tell(t)
		reclaimInactive(t)
		p.see(workload.WrongCopy, t.MM().PeekPTE(buf).IsSwap(), "reclaim unmapped a page that is pinned")
		other.wait(t, p)
		_ = t.Kernel(func(task *sched.Task) error { pages.PutAs(task, pg, page.RefPin); return nil })
	}
}

// pinnedThenShared pins a page for writing, forks, and has reclaim look at it while the
// child gives it up; then a load, a store, and the device writes.
func pinnedThenShared(t *kernel.Thread, p *play) {
	if !p.must(t.Swapon("/dev/swap", 0), "swapon") {
		return
	}
	buf := t.MustMmap(x86.PageSize)
	t.Store64(buf, 1)
	reg, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true, Fast: true})
	if !p.must(err, "register") {
		return
	}
	other, ok := newSharer(t, p, func(c *kernel.Thread, _ uint64) error { return c.Madvise(buf, x86.PageSize, mm.MadvDontNeed) })
	if !ok {
		return
	}
	grownOld(t, buf)
	p.begin()
	other.tell(t)
	reclaimInactive(t)
	_ = t.Load64(buf)
	t.Store64(buf, 2)
	p.must(t.DeviceWrite(reg, x86.SectorSize, []byte{0x64}), "device write")
	p.see(workload.LostRead, t.Load8(buf+x86.SectorSize) != 0x64, "the process does not see what the device wrote")
	other.wait(t, p)
	p.must(t.UnregisterMemory(reg), "unregister")
}
