package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// reapEvery is how many bios are submitted between two looks at those that have ended.
const reapEvery = 64

// dioBioEndIO ends a bio of a synchronous request, usually in an interrupt: the
// waiting task does the rest (dio_bio_end_io).
func dioBioEndIO(t *sched.Task, b *blk.Bio, _ error) {
	d := b.Private.(*DIO)
	off := d.bioLock.LockIRQSave(t)
	t.WriteOf(d, "dio")
	b.Next = d.bioList
	d.bioList = b
	d.refcount--
	if d.refcount == 1 && d.waiter != nil {
		t.M.Wake(t, d.waiter)
	}
	d.bioLock.UnlockIRQRestore(t, off)
}

// dioBioEndAIO ends a bio of an asynchronous request, usually in an interrupt; the
// last one ends the request (dio_bio_end_aio).
func dioBioEndAIO(t *sched.Task, b *blk.Bio, _ error) {
	d := b.Private.(*DIO)
	_ = d.dioBioComplete(t, b)
	off := d.bioLock.LockIRQSave(t)
	t.WriteOf(d, "dio")
	d.refcount--
	left := d.refcount
	if left == 1 && d.waiter != nil {
		t.M.Wake(t, d.waiter)
	}
	d.bioLock.UnlockIRQRestore(t, off)
	if left > 0 {
		return
	}
	n, err := d.dioComplete(t, nil)
	d.fs.aioComplete(t, d.iocb, n, err)
	d.ended(t)
}

// dioBioComplete is done with a bio: it puts the pages (dio_bio_complete).
func (d *DIO) dioBioComplete(t *sched.Task, b *blk.Bio) error {
	err := b.Err
	if err != nil {
		d.ioError.Poke(1)
	}
	if d.isAsync && d.rw == blk.Read {
		d.fs.bioCheckPagesDirty(t, b) // takes the bio over
	} else {
		for i := range b.Vec {
			p := b.Vec[i].Page
			if d.rw == blk.Read && !compound(p) && !d.fs.NoDirtyDIO {
				d.fs.mem.setPageDirtyLock(t, p)
			}
			d.put(t, p)
		}
		d.fs.blk.PutBio(t, b)
	}
	if err != nil {
		return unix.EIO
	}
	return nil
}

// compound reports whether a page is part of a huge page (PageCompound).
func compound(p *page.Page) bool { return p.Has(page.Head) || p.Has(page.Tail) }

// dioBioReap completes bios that have ended while more are submitted, so that a
// long request does not hold all its pages until the end (dio_bio_reap).
func (d *DIO) dioBioReap(t *sched.Task) error {
	d.reapCounter++
	if d.reapCounter <= reapEvery {
		return nil
	}
	var err error
	for {
		off := d.bioLock.LockIRQSave(t)
		t.WriteOf(d, "dio")
		b := d.bioList
		if b != nil {
			d.bioList, b.Next = b.Next, nil
		}
		d.bioLock.UnlockIRQRestore(t, off)
		if b == nil {
			break
		}
		if err2 := d.dioBioComplete(t, b); err == nil {
			err = err2
		}
	}
	d.reapCounter = 0
	return err
}

// dioAwaitOne waits for a bio of the list, or for the last bio in flight, and
// returns nil in the latter case (dio_await_one).
func (d *DIO) dioAwaitOne(t *sched.Task) *blk.Bio {
	off := d.bioLock.LockIRQSave(t)
	t.WriteOf(d, "dio")
	for d.refcount > 1 && d.bioList == nil {
		t.SetState(sched.TaskUninterruptible)
		d.waiter = t
		d.bioLock.UnlockIRQRestore(t, off)
		t.WaitingOn(d.bioLock.Obj())
		t.Schedule()
		off = d.bioLock.LockIRQSave(t)
		t.WriteOf(d, "dio")
		d.waiter = nil
	}
	b := d.bioList
	if b != nil {
		d.bioList, b.Next = b.Next, nil
	}
	d.bioLock.UnlockIRQRestore(t, off)
	return b
}

// dioAwaitCompletion waits for every bio in flight (dio_await_completion).
func (d *DIO) dioAwaitCompletion(t *sched.Task) {
	for b := d.dioAwaitOne(t); b != nil; b = d.dioAwaitOne(t) {
		_ = d.dioBioComplete(t, b)
	}
}

// dioComplete computes the request's result and lets go of its locks
// (dio_complete). It runs in the submitting task or in an interrupt.
func (d *DIO) dioComplete(t *sched.Task, err error) (int64, error) {
	if err == errIOCBQueued {
		err = nil // every bio ended before the submission did
	}
	n := d.result
	if n > 0 && d.rw == blk.Read && d.offset+n > d.iSize {
		n = d.iSize - d.offset
	}
	if d.endIO != nil && d.result > 0 {
		d.endIO(t, d, d.offset, n)
	}
	if d.lockType == DIOLocking {
		d.inode.IAllocSem.UpReadNonOwner(t)
	}
	d.fs.policy.p.PinEnd(t, &d.pin)
	if err == nil {
		err = d.pageErrors
	}
	if err == nil && d.ioError.Peek() != 0 {
		err = unix.EIO
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// ended is the end of the completion: where Linux frees the dio.
func (d *DIO) ended(t *sched.Task) {
	d.fs.policy.p.PinReleased(t, &d.pin)
	d.release(t)
}
