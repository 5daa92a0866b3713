package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// Transfers between pages of the swap cache and their slots: Linux 2.6.29
// mm/page_io.c. Each is one bio of one page; the block layer merges neighbours.

// slotSectors is how many sectors a slot has.
const slotSectors = x86.PageSize >> blk.SectorShift

// swapBio makes the bio for a page of the swap cache (get_swap_bio; it does not fail).
func (s *System) swapBio(t *sched.Task, p *page.Page, dir blk.Dir) *blk.Bio {
	e := x86.PTE(p.Private).Swap()
	dev := s.swap.areas[e.Type].dev // the entry is in use: the area stays
	b := dev.System().AllocBio(t, dev, dir, e.Offset*slotSectors, 1)
	b.AddPage(p, 0, x86.PageSize)
	return b
}

// swapWritepage writes a page to its slot, or finds that nobody needs the slot
// (swap_writepage). The page is unlocked when it returns, and has the flag Writeback
// until the completion interrupt clears it.
//
// Preconditions:
//   - p is locked, in the swap cache, and its flag Dirty has been cleared
func (s *System) swapWritepage(t *sched.Task, p *page.Page) {
	pm := s.Pages
	if s.tryToFreeSwap(t, p) {
		pm.UnlockPage(t, p)
		return
	}
	b := s.swapBio(t, p, blk.Write)
	b.EndIO = endSwapBioWrite
	t.C.Trace.Inc(trace.PSwpOut)
	t.C.Trace.Event(trace.EvSwapOut, t.C.Now(), uint64(pm.PFN(p)), p.Private, 0)
	area := x86.PTE(p.Private).Swap().Type
	pm.TestSetWriteback(t, p)
	pm.UnlockPage(t, p)
	b.Dev.System().SubmitBio(t, b)
	t.C.Touch(plugObj, x86.AccWrite)
	s.swap.plug[area].Poke(1)
}

// endSwapBioWrite is the completion of swapWritepage (end_swap_bio_write). A page that
// could not be written is dirty again.
func endSwapBioWrite(t *sched.Task, b *blk.Bio, err error) {
	s := SystemOf(t)
	p := b.Vec[0].Page
	if err != nil {
		s.Pages.SetFlag(t, p, page.Error)
		s.SetPageDirty(t, p)
		s.Pages.ClearFlag(t, p, page.Reclaim)
	}
	s.Pages.EndPageWriteback(t, p)
	b.Dev.System().PutBio(t, b)
}

// swapReadpage begins to read a page of the swap cache (swap_readpage). The
// completion interrupt unlocks it.
//
// Preconditions:
//   - p is locked by the caller, in the swap cache, and not up to date
func (s *System) swapReadpage(t *sched.Task, p *page.Page) {
	b := s.swapBio(t, p, blk.Read)
	b.EndIO = endSwapBioRead
	t.C.Trace.Inc(trace.PSwpIn)
	t.C.Trace.Event(trace.EvSwapIn, t.C.Now(), uint64(s.Pages.PFN(p)), p.Private, 0)
	area := x86.PTE(p.Private).Swap().Type
	s.Pages.DisownLock(t, p)
	b.Dev.System().SubmitBio(t, b)
	t.C.Touch(plugObj, x86.AccWrite)
	s.swap.plug[area].Poke(1)
}

// endSwapBioRead is the completion of swapReadpage (end_swap_bio_read).
func endSwapBioRead(t *sched.Task, b *blk.Bio, err error) {
	s := SystemOf(t)
	p := b.Vec[0].Page
	if err != nil {
		s.Pages.SetFlag(t, p, page.Error)
		s.Pages.ClearFlag(t, p, page.Uptodate)
	} else {
		s.Pages.SetFlag(t, p, page.Uptodate)
	}
	s.Pages.UnlockPage(t, p)
	b.Dev.System().PutBio(t, b)
}

// plugObj names the words that say which areas are to be unplugged.
const plugObj = x86.ObjID(x86.ClassWord)<<56 | 1<<44

// swapUnplug lets the devices begin with what was submitted to them
// (swap_unplug_io_fn). In Linux a timer does it after 3 ms, or whoever waits for a
// page; here the submitter does it once it has no more to submit.
func (s *System) swapUnplug(t *sched.Task) {
	sw := &s.swap
	t.C.Touch(plugObj, x86.AccRead)
	for i := range sw.plug {
		if sw.plug[i].Peek() == 0 {
			continue
		}
		t.C.Touch(plugObj, x86.AccWrite)
		sw.plug[i].Poke(0)
		sw.lock.Lock(t)
		a := sw.areas[i]
		sw.lock.Unlock(t)
		if a != nil {
			a.dev.System().Unplug(t, a.dev)
		}
	}
}
