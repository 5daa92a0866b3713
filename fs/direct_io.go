package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// dioPages is how many user pages are looked up at a time (DIO_PAGES).
const dioPages = 64

// DIOLock says which locks direct I/O takes on behalf of the file.
type DIOLock uint8

// The kinds of locking (DIO_LOCKING, DIO_NO_LOCKING, DIO_OWN_LOCKING).
const (
	DIONoLocking  DIOLock = iota // none: block devices
	DIOLocking                   // i_mutex for reads until all is submitted; i_alloc_sem until the end
	DIOOwnLocking                // i_mutex for a moment: the file system has locks of its own
)

// MapBH is the answer of a GetBlock: a buffer_head as far as direct I/O uses it.
type MapBH struct {
	// Block is the block on the device, Size the length in bytes: in, what is
	// asked for; out, what is contiguous from Block on.
	Block, Size uint64
	// Mapped is false for a hole. New blocks hold nothing yet. Boundary says that
	// the next block needs a look-up that reads the device.
	Mapped, New, Boundary bool
}

// GetBlock maps blocks of a file to blocks of its device (get_block_t). create is
// set for writes.
type GetBlock func(t *sched.Task, i *Inode, block uint64, bh *MapBH, create bool) error

// DIO is one direct request: struct dio. It lives from the system call to the end
// of its last bio.
type DIO struct {
	fs *System // immutable

	// The submission. All of it is the submitting task's.
	bio                 *blk.Bio // being filled
	inode               *Inode
	rw                  blk.Dir
	lockType            DIOLock
	blkbits             uint   // log2 of the unit of what follows
	blkfactor           uint   // log2 of such units in a block of the file
	startZeroDone       bool   // the part of a new first block before the request is zeroed
	pagesInIO           int    // pages not yet in a bio, as an upper bound
	size                int64  // bytes asked for
	blockInFile         uint64 // next unit of the file
	blocksAvailable     uint64 // mapped units ahead
	finalBlockInRequest uint64 // unit after the current segment
	firstBlockInPage    uint64 // unit within the segment's first page
	boundary            bool   // send what there is
	reapCounter         int    // bios since the last reap
	getBlock            GetBlock
	finalBlockInBio     uint64 // unit on the device after the bio
	nextBlockForIO      uint64 // unit on the device that comes next
	mapBH               MapBH
	curPage             *page.Page // page that waits to be merged; has a reference
	curPageOffset       uint32
	curPageLen          uint32
	curPageBlock        uint64
	totalPages          int // of the current segment
	currPage            int // of which have been looked up
	currUserAddress     uint64
	pages               [dioPages]*page.Page // looked up and not yet used: [head, tail)
	head, tail          int
	pageErrors          error // a look-up failed while blocks were mapped

	// Completion.
	bioLock  lock.SpinLock // irq-safe
	refcount int           // bios in flight and the submission; protected by bioLock
	bioList  *blk.Bio      // ended, not yet completed; protected by bioLock
	waiter   *sched.Task   // protected by bioLock
	ioError  x86.Word32    // a bio failed
	iocb     *Kiocb        // immutable
	offset   int64         // immutable
	endIO    func(t *sched.Task, d *DIO, offset, n int64)
	isAsync  bool  // immutable once submitted
	iSize    int64 // immutable
	result   int64 // bytes submitted; the submission's until refcount drops

	pin   mm.PinUser
	holds x86.Word64 // submission and completion: who goes last frees. The tool's, not the machine's.
	next  *DIO       // free list
}

func (s *System) allocDIO(t *sched.Task) *DIO {
	c := &s.cpus[t.C.ID]
	d := c.dios
	if d != nil {
		c.dios = d.next
		d.next = nil
	} else {
		d = &DIO{fs: s}
		d.bioLock.Init(s.m, lock.Dio)
	}
	d.holds.Poke(2)
	return d
}

// release frees the DIO when both the submission and the completion are through
// with it.
func (d *DIO) release(t *sched.Task) {
	if d.holds.RawAdd(^uint64(0)) != 0 {
		return
	}
	// What has to be zero for the next request; directIOWorker sets the rest.
	d.inode, d.iocb, d.getBlock, d.endIO, d.waiter = nil, nil, nil, nil, nil
	d.startZeroDone, d.boundary = false, false
	d.size, d.result, d.reapCounter, d.blocksAvailable, d.pagesInIO = 0, 0, 0, 0, 0
	d.finalBlockInBio, d.nextBlockForIO, d.mapBH = 0, 0, MapBH{}
	d.pageErrors = nil
	d.ioError.Poke(0)
	clear(d.pages[:])
	d.pin = mm.PinUser{Ranges: d.pin.Ranges[:0]}
	c := &d.fs.cpus[t.C.ID]
	d.next = c.dios
	c.dios = d
}

// blockdevDirectIO is __blockdev_direct_IO. Offset and every buffer must be
// aligned to the file's blocks, or else to the device's sectors: EINVAL otherwise.
// For an asynchronous iocb it may return errIOCBQueued.
func (s *System) blockdevDirectIO(t *sched.Task, rw blk.Dir, iocb *Kiocb, inode *Inode, iov []IOVec, offset int64,
	getBlock GetBlock, endIO func(*sched.Task, *DIO, int64, int64), lockType DIOLock) (int64, error) {
	blkbits := inode.blkbits
	if uint64(offset)&(1<<blkbits-1) != 0 {
		blkbits = inode.Dev.SectorBits()
		if uint64(offset)&(1<<blkbits-1) != 0 {
			return 0, unix.EINVAL
		}
	}
	end := offset
	for _, v := range iov {
		end += int64(v.Len)
		if (v.Base|v.Len)&(1<<blkbits-1) != 0 {
			blkbits = inode.Dev.SectorBits()
			if (v.Base|v.Len)&(1<<blkbits-1) != 0 {
				return 0, unix.EINVAL
			}
		}
	}
	t.C.Trace.Inc(trace.EmuDIORequests)
	if s.pages.FailSite(t, "dio") {
		return 0, unix.ENOMEM
	}
	d := s.allocDIO(t)
	d.lockType = lockType
	mutexAgain := false
	if lockType != DIONoLocking {
		if rw == blk.Read && end > offset {
			// i_mutex keeps blocks from being allocated under the look-up. Here
			// dirty page cache would be written out.
			inode.IMutex.Lock(t)
			if lockType == DIOOwnLocking {
				inode.IMutex.Unlock(t)
				mutexAgain = true
			}
		}
		if lockType == DIOLocking {
			inode.IAllocSem.DownReadNonOwner(t)
		}
	}
	// A write that extends the file must not return before the blocks are written.
	d.isAsync = !iocb.sync() && !(rw == blk.Write && end > inode.Size(t))
	n, err := d.directIOWorker(t, rw, iocb, inode, iov, offset, blkbits, getBlock, endIO)
	d.release(t)
	if mutexAgain {
		inode.IMutex.Lock(t) // the caller expects it
	}
	return n, err
}

// pinBegin tells the policy, with all buffers of the request.
func (d *DIO) pinBegin(t *sched.Task, iov []IOVec) error {
	u := &d.pin
	u.T, u.MM, u.Kind, u.Write, u.Async = t, d.fs.mem.currentMM(t), mm.UserDirectIO, d.rw == blk.Read, d.isAsync
	for _, v := range iov {
		u.Ranges = append(u.Ranges, mm.Range{Addr: v.Base, Len: v.Len})
	}
	return d.fs.policy.p.PinBegin(u)
}

// directIOWorker is direct_io_worker: it submits everything, and waits for it unless
// the request is asynchronous and complete.
func (d *DIO) directIOWorker(t *sched.Task, rw blk.Dir, iocb *Kiocb, inode *Inode, iov []IOVec, offset int64,
	blkbits uint, getBlock GetBlock, endIO func(*sched.Task, *DIO, int64, int64)) (int64, error) {
	d.inode, d.rw, d.iocb, d.offset = inode, rw, iocb, offset
	d.blkbits, d.blkfactor = blkbits, inode.blkbits-blkbits
	d.blockInFile = uint64(offset) >> blkbits
	d.getBlock, d.endIO = getBlock, endIO
	d.finalBlockInBio, d.nextBlockForIO = ^uint64(0), ^uint64(0)
	d.iSize = inode.Size(t)
	d.refcount = 1
	if err := d.pinBegin(t, iov); err != nil {
		d.unlockFile(t)
		d.release(t)
		return 0, err
	}
	// An unaligned buffer may need zeroes before and after the request.
	if d.blkfactor != 0 {
		d.pagesInIO = 2
	}
	for _, v := range iov {
		d.pagesInIO += int((v.Base+v.Len+x86.PageSize-1)>>x86.PageShift - v.Base>>x86.PageShift)
	}
	var err error
	for _, v := range iov {
		if err = d.segment(t, v); err != nil {
			d.dioCleanup(t)
			break
		}
	}
	n, err := d.directIOFinish(t, err)
	d.fs.policy.p.PinSubmitted(t, &d.pin)
	return n, err
}

// segment submits one buffer: the loop body of direct_io_worker.
func (d *DIO) segment(t *sched.Task, v IOVec) error {
	d.size += int64(v.Len)
	d.firstBlockInPage = v.Base & (x86.PageSize - 1) >> d.blkbits
	d.finalBlockInRequest = d.blockInFile + v.Len>>d.blkbits
	d.head, d.tail, d.currPage = 0, 0, 0
	d.totalPages = int((v.Base+v.Len+x86.PageSize-1)>>x86.PageShift - v.Base>>x86.PageShift)
	d.currUserAddress = v.Base
	err := d.doDirectIO(t)
	d.result += int64(v.Len - (d.finalBlockInRequest-d.blockInFile)<<d.blkbits)
	return err
}

// directIOFinish is the second half of direct_io_worker: everything that can be
// submitted has been.
func (d *DIO) directIOFinish(t *sched.Task, err error) (int64, error) {
	if err == unix.ENOTBLK && d.rw == blk.Write {
		err = nil // the rest is for buffered I/O
	}
	d.dioZeroBlock(t, true /* end */)
	if d.curPage != nil {
		err2 := d.dioSendCurPage(t)
		if err == nil {
			err = err2
		}
		d.dropCurPage(t)
	}
	if d.bio != nil {
		d.dioBioSubmit(t)
	}
	d.fs.blk.Unplug(t, d.inode.Dev)
	d.dioCleanup(t) // a short read leaves pages behind
	if d.rw == blk.Read && d.lockType == DIOLocking {
		d.inode.IMutex.Unlock(t)
	}
	// The only place that leaves bios in flight: everything was submitted, so
	// completion can tell the whole result.
	if d.isAsync && err == nil && d.result != 0 && d.result == d.size {
		err = errIOCBQueued
	} else {
		d.dioAwaitCompletion(t)
	}
	off := d.bioLock.LockIRQSave(t)
	d.refcount--
	left := d.refcount
	d.bioLock.UnlockIRQRestore(t, off)
	if left > 0 {
		if err != errIOCBQueued {
			t.Oops("direct I/O returns with %d bios in flight", left)
		}
		return 0, err
	}
	n, err := d.dioComplete(t, err)
	d.ended(t)
	return n, err
}

// unlockFile undoes blockdevDirectIO's locks when nothing was submitted.
func (d *DIO) unlockFile(t *sched.Task) {
	if d.lockType == DIOLocking {
		if d.rw == blk.Read {
			d.inode.IMutex.Unlock(t)
		}
		d.inode.IAllocSem.UpReadNonOwner(t)
	}
}

// doDirectIO submits the current segment page by page (do_direct_IO).
func (d *DIO) doDirectIO(t *sched.Task) error {
	blkbits := d.blkbits
	blocksPerPage := uint64(x86.PageSize) >> blkbits
	blockInPage := d.firstBlockInPage
	for d.blockInFile < d.finalBlockInRequest {
		p, err := d.dioGetPage(t)
		if err != nil {
			return err
		}
		for blockInPage < blocksPerPage && d.blockInFile < d.finalBlockInRequest {
			if d.blocksAvailable == 0 {
				if err := d.mapBlocks(t); err != nil {
					d.put(t, p)
					return err
				}
			}
			if !d.mapBH.Mapped {
				switch eof, err := d.hole(t, p, blockInPage); {
				case err != nil:
					d.put(t, p)
					return err
				case eof:
					d.put(t, p)
					return nil
				}
				blockInPage++
				continue
			}
			if d.blkfactor != 0 && !d.startZeroDone {
				d.dioZeroBlock(t, false /* end */)
			}
			n := min(d.blocksAvailable, blocksPerPage-blockInPage, d.finalBlockInRequest-d.blockInFile)
			d.boundary = d.mapBH.Boundary
			err := d.submitPageSection(t, p, uint32(blockInPage<<blkbits), uint32(n<<blkbits), d.nextBlockForIO)
			if err != nil {
				d.put(t, p)
				return err
			}
			d.nextBlockForIO += n
			d.blockInFile += n
			blockInPage += n
			d.blocksAvailable -= n
		}
		d.put(t, p) // the reference of get_user_pages
		blockInPage = 0
	}
	return nil
}

// mapBlocks asks the file where its next blocks are (get_more_blocks and what
// do_direct_IO does with the answer).
func (d *DIO) mapBlocks(t *sched.Task) error {
	if d.pageErrors != nil {
		return d.pageErrors // the blocks that were mapped have been overwritten: now it may be told
	}
	count := d.finalBlockInRequest - d.blockInFile
	blocks := (count + 1<<d.blkfactor - 1) >> d.blkfactor
	d.mapBH = MapBH{Size: blocks << d.inode.blkbits}
	if err := d.getBlock(t, d.inode, d.blockInFile>>d.blkfactor, &d.mapBH, d.rw == blk.Write); err != nil {
		return err
	}
	if !d.mapBH.Mapped {
		return nil
	}
	d.blocksAvailable = d.mapBH.Size >> d.blkbits
	d.nextBlockForIO = d.mapBH.Block << d.blkfactor
	if d.blkfactor == 0 {
		return nil
	}
	// The request begins within a block of the file. What lies before it is
	// skipped, unless the block is new: then it will be zeroed.
	rest := d.blockInFile & (1<<d.blkfactor - 1)
	if !d.mapBH.New {
		d.nextBlockForIO += rest
	}
	d.blocksAvailable -= rest
	return nil
}

// hole deals with an unmapped unit: ENOTBLK for a write, zeroes for a read, or the
// end of the file.
func (d *DIO) hole(t *sched.Task, p *page.Page, blockInPage uint64) (eof bool, err error) {
	if d.rw == blk.Write {
		return false, unix.ENOTBLK
	}
	size := uint64(d.inode.Size(t))
	if d.blockInFile >= (size+1<<d.blkbits-1)>>d.blkbits {
		return true, nil
	}
	d.fs.zeroUser(t, p, blockInPage<<d.blkbits, 1<<d.blkbits)
	d.blockInFile++
	return false, nil
}

// zeroUser clears n bytes of a page from off on (zero_user).
func (s *System) zeroUser(t *sched.Task, p *page.Page, off, n uint64) {
	var zero [x86.PageSize]byte
	t.PreemptDisable()
	t.C.Mem.WriteFrame(t.C, s.pages.PFN(p), off, zero[:n])
	t.PreemptEnable()
}

func (d *DIO) put(t *sched.Task, p *page.Page) { d.fs.mem.put(t, p, d.fs.policy.kind) }
