package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// dioRefillPages looks up to 64 of the segment's pages up (dio_refill_pages). If
// that fails in the middle of a write whose blocks are mapped already, ZERO_PAGE takes
// the page's place, so that the blocks do not keep stale data, and the error is
// told later.
func (d *DIO) dioRefillPages(t *sched.Task) error {
	s := d.fs
	want := min(d.totalPages-d.currPage, dioPages)
	got, err := s.mem.getUserPagesFast(t, d.currUserAddress, want, d.rw == blk.Read, s.policy.kind, d.pages[:want])
	if got > 0 {
		t.C.Trace.Add(trace.EmuDIOPages, uint64(got))
		d.currUserAddress += uint64(got) << x86.PageShift
		d.currPage += got
		d.head, d.tail = 0, got
		return nil
	}
	if err == nil {
		err = unix.EFAULT
	}
	if d.blocksAvailable == 0 || d.rw == blk.Read {
		return err
	}
	zero := s.mem.zeroPage(t)
	if zero == nil {
		return unix.ENOMEM
	}
	if d.pageErrors == nil {
		d.pageErrors = err
	}
	s.mem.take(t, zero, s.policy.kind)
	d.pages[0] = zero
	d.head, d.tail = 0, 1
	return nil
}

// dioGetPage returns the next page of the segment, with the reference that
// get_user_pages took (dio_get_page).
func (d *DIO) dioGetPage(t *sched.Task) (*page.Page, error) {
	if d.head == d.tail {
		if err := d.dioRefillPages(t); err != nil {
			return nil, err
		}
	}
	p := d.pages[d.head]
	d.pages[d.head] = nil
	d.head++
	return p, nil
}

// dioCleanup puts the pages that were looked up and not used (dio_cleanup).
func (d *DIO) dioCleanup(t *sched.Task) {
	for d.head < d.tail {
		p := d.pages[d.head]
		d.pages[d.head] = nil
		d.head++
		d.put(t, p)
	}
}

// submitPageSection submits n bytes of p from off on to a block of the device
// (submit_page_section). They are kept back as the current page: the next
// section may continue it. The page gets a reference for that.
func (d *DIO) submitPageSection(t *sched.Task, p *page.Page, off, n uint32, block uint64) error {
	if d.curPage == p && d.curPageOffset+d.curPageLen == off &&
		d.curPageBlock+uint64(d.curPageLen>>d.blkbits) == block {
		d.curPageLen += n
		if d.boundary {
			err := d.dioSendCurPage(t)
			d.dropCurPage(t)
			return err
		}
		return nil
	}
	if d.curPage != nil {
		err := d.dioSendCurPage(t)
		d.dropCurPage(t)
		if err != nil {
			return err
		}
	}
	d.fs.mem.take(t, p, d.fs.policy.kind)
	d.curPage, d.curPageOffset, d.curPageLen, d.curPageBlock = p, off, n, block
	return nil
}

// dropCurPage drops the current page's reference.
func (d *DIO) dropCurPage(t *sched.Task) {
	p := d.curPage
	d.curPage = nil
	d.put(t, p)
}

// dioSendCurPage puts the current page into the bio, after submitting the one
// there is if the page does not continue it or it is full (dio_send_cur_page).
func (d *DIO) dioSendCurPage(t *sched.Task) error {
	if d.bio != nil && (d.finalBlockInBio != d.curPageBlock || d.boundary) {
		d.dioBioSubmit(t)
	}
	if d.bio == nil {
		if err := d.dioNewBio(t); err != nil {
			return err
		}
	}
	if d.dioBioAddPage(t) {
		return nil
	}
	d.dioBioSubmit(t)
	if err := d.dioNewBio(t); err != nil {
		return err
	}
	if !d.dioBioAddPage(t) {
		t.Oops("page does not fit into an empty bio")
	}
	return nil
}

// dioNewBio begins a bio at the current page's block (dio_new_bio).
func (d *DIO) dioNewBio(t *sched.Task) error {
	if err := d.dioBioReap(t); err != nil {
		return err
	}
	dev := d.inode.Dev
	n := min(d.pagesInIO, dev.VecsFor())
	if n <= 0 {
		t.Oops("direct I/O has more pages than it counted")
	}
	b := d.fs.blk.AllocBio(t, dev, d.rw, d.curPageBlock<<(d.blkbits-blk.SectorShift), n)
	b.Sync = d.rw == blk.Write // WRITE_SYNC
	b.EndIO = dioBioEndIO
	if d.isAsync {
		b.EndIO = dioBioEndAIO
	}
	d.bio = b
	d.boundary = false
	return nil
}

// dioBioAddPage adds the current page to the bio, with a reference of its own, and
// reports whether there was room (dio_bio_add_page).
func (d *DIO) dioBioAddPage(t *sched.Task) bool {
	if d.bio.AddPage(d.curPage, d.curPageOffset, d.curPageLen) != d.curPageLen {
		return false
	}
	if d.curPageLen+d.curPageOffset == x86.PageSize {
		d.pagesInIO-- // done with this page
	}
	if !d.fs.noBioRef {
		d.fs.mem.take(t, d.curPage, d.fs.policy.kind)
	}
	d.finalBlockInBio = d.curPageBlock + uint64(d.curPageLen>>d.blkbits)
	return true
}

// dioBioSubmit sends the bio off (dio_bio_submit). The pages of an asynchronous read
// are dirtied now, because the interrupt that ends it cannot.
func (d *DIO) dioBioSubmit(t *sched.Task) {
	b := d.bio
	d.bio = nil
	d.boundary = false
	b.Private = d
	off := d.bioLock.LockIRQSave(t)
	t.WriteOf(d, "dio")
	d.refcount++
	d.bioLock.UnlockIRQRestore(t, off)
	if d.isAsync && d.rw == blk.Read {
		d.fs.bioSetPagesDirty(t, b)
	}
	d.fs.blk.SubmitBio(t, b)
}

// dioZeroBlock zeroes the part of a new block of the file that the request does not
// cover, before it or (end) after it (dio_zero_block).
func (d *DIO) dioZeroBlock(t *sched.Task, end bool) {
	d.startZeroDone = true
	if d.blkfactor == 0 || !d.mapBH.New {
		return
	}
	perBlock := uint64(1) << d.blkfactor
	n := d.blockInFile & (perBlock - 1)
	if n == 0 {
		return
	}
	if end {
		n = perBlock - n
	}
	zero := d.fs.mem.zeroPage(t)
	if zero == nil {
		return
	}
	if d.submitPageSection(t, zero, 0, uint32(n<<d.blkbits), d.nextBlockForIO) == nil {
		d.nextBlockForIO += n
	}
}
