package workload

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// pinFork is the race in its smallest form, the one that the thread argues about in
// lines 376-402: one thread has a driver pin a page by gup-fast, for a device to write
// to, while another forks and then stores to a different part of the page. The device
// writes when both are done. Nothing but the page-table entry decides, so this is where
// a missing look at it shows.
func pinFork() *Workload {
	return withHuge(&Workload{
		Name:  "pin_fork",
		Title: "a driver pins a page by gup-fast while another thread forks and stores; then the device writes",
		Group: ForwardRace,
		Lines: "376-402",
		Params: []Param{
			{Name: "rounds", Usage: "how often, each time with a fresh page", Default: 400, Small: 1, Min: 1, Max: 1 << 20, Amount: true},
		},
		Needs:  mm.Forward | mm.OtherPins,
		Memory: func(Values) uint64 { return 4 << 20 },
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main: func(t *kernel.Thread, r *Run) {
			for i := int64(0); i < r.Values["rounds"] && !r.over(); i++ {
				pinForkRound(t, r)
			}
		},
	}, onePage, "huge=1")
}

const (
	pinnedByte = 0xaa // what the device writes
	pinnedAt   = x86.SectorSize
)

func pinForkRound(t *kernel.Thread, r *Run) {
	buf := r.mapBuffer(t, x86.PageSize)
	word := t.MustMmapShared(x86.PageSize)
	stored, seen := word, word+64
	t.Store64(buf, 0)
	r.begin()
	driver := t.Go("driver", func(t *kernel.Thread) {
		var pinned [1]*page.Page
		s := t.MM().Sys
		user := mm.PinUser{MM: t.MM(), Kind: mm.UserDriver, Write: true, Async: true, Ranges: []mm.Range{{Addr: buf, Len: x86.PageSize}}}
		err := t.Kernel(func(task *sched.Task) error {
			user.T = task
			if err := s.PinBegin(&user); err != nil {
				return err
			}
			_, err := mm.GetUserPagesFast(task, buf, 1, true /* write */, mm.PinPin, pinned[:])
			return err
		})
		if r.failed(err, "get_user_pages_fast") {
			return
		}
		awaitWord(t, stored)
		_ = t.Kernel(func(task *sched.Task) error {
			pfn := s.Pages.PFN(pinned[0])
			task.Point(x86.OpDMAWrite, x86.FrameObj(pfn, pinnedAt))
			s.Mem.DMAWrite(pfn, pinnedAt, []byte{pinnedByte})
			s.PutUserPage(task, pinned[0], mm.PinPin)
			s.PinEnd(task, &user)
			return nil
		})
		r.compare(LostRead, "pinned page", pinnedAt, []byte{pinnedByte}, t.Bytes(buf+pinnedAt, 1))
		setWord(t, seen)
	})
	pid, err := t.Fork(func(c *kernel.Thread) {
		before := c.Bytes(buf+pinnedAt, 1)
		awaitWord(c, seen)
		r.compare(ChildChanged, "child's page", pinnedAt, before, c.Bytes(buf+pinnedAt, 1))
		c.Exit(0)
	})
	t.Store64(buf, 1)
	setWord(t, stored)
	r.failed(t.Join(driver), "join")
	setWord(t, seen)
	if !r.failed(err, "fork") {
		_, _, err := t.Wait(pid)
		r.failed(err, "wait")
	}
	r.unmapBuffer(t, buf, x86.PageSize)
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}

// setWord and awaitWord are an event in shared memory.
func setWord(t *kernel.Thread, word uint64) {
	t.Store32(word, 1)
	_, _ = t.FutexWake(word, 1<<30, kernel.FutexShared)
}

func awaitWord(t *kernel.Thread, word uint64) {
	for t.Load32(word) == 0 {
		_ = t.FutexWait(word, 0, 0 /* no timeout */, kernel.FutexShared)
	}
}
