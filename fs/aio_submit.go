package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// Opcode says what an IOCB asks for.
type Opcode uint16

// The opcodes of 2.6.29. The others of the ABI are EINVAL for the files there are.
const (
	IOCBCmdPread   Opcode = 0
	IOCBCmdPwrite  Opcode = 1
	IOCBCmdFsync   Opcode = 2
	IOCBCmdFdsync  Opcode = 3
	IOCBCmdNoop    Opcode = 6
	IOCBCmdPreadv  Opcode = 7
	IOCBCmdPwritev Opcode = 8
)

// IOCB is one request of io_submit: struct iocb, with the descriptor resolved.
type IOCB struct {
	// Data and Obj come back with the event: aio_data, and the user's address of the iocb.
	Data, Obj uint64
	Opcode    Opcode
	// File is what the descriptor refers to, nil for a bad one.
	File *File
	// Buf and Nbytes are the buffer of a Pread or Pwrite, Iov those of the vectored forms.
	Buf, Nbytes uint64
	Iov         []IOVec
	Offset      int64
}

// IoSubmit submits requests in order and returns how many were accepted
// (io_submit). It stops at the first that is not, and returns its error if that is
// the first of all. What goes wrong later, a misaligned buffer included, is told
// by the request's event.
//
// Errors: EINVAL (no such context, bad opcode, offset or vector), EBADF, EFAULT, EAGAIN (the
// ring has no place).
func (s *System) IoSubmit(t *sched.Task, id ContextID, iocbs []*IOCB) (int, error) {
	c := s.lookup(t, id)
	if c == nil {
		return 0, unix.EINVAL
	}
	for i, u := range iocbs {
		if err := c.submitOne(t, u); err != nil {
			if i > 0 {
				err = nil
			}
			return i, err
		}
	}
	return len(iocbs), nil
}

// submitOne is io_submit_one.
func (c *Kioctx) submitOne(t *sched.Task, u *IOCB) error {
	if u == nil {
		return unix.EFAULT
	}
	if int64(u.Nbytes) < 0 {
		return unix.EINVAL
	}
	if u.File == nil {
		return unix.EBADF
	}
	u.File.Get(t)
	k := c.getReq(t, u)
	if k == nil {
		u.File.Put(t)
		return unix.EAGAIN
	}
	if err := k.setup(u); err != nil {
		c.putReq(t, k) // the submitter's
		c.putReq(t, k) // there will be no completion
		return err
	}
	t.C.Trace.Inc(trace.EmuAIORequests)
	k.run(t)
	c.putReq(t, k)
	return nil
}

// getReq takes a place in the ring (__aio_get_req); nil if there is none, or the
// context is being destroyed.
func (c *Kioctx) getReq(t *sched.Task, u *IOCB) *Kiocb {
	noMem := c.fs.pages.FailSite(t, "kiocb")
	c.lock.LockIRQ(t)
	ok := !noMem && !c.dead && c.reqsActive < c.room()
	if ok {
		c.reqsActive++
	}
	c.lock.UnlockIRQ(t)
	if !ok {
		return nil
	}
	k := c.fs.allocKiocb(t, u.File, u.Offset)
	k.ctx, k.op, k.data, k.obj, k.users = c, u.Opcode, u.Data, u.Obj, 2
	return k
}

// putReq drops a use of a request (aio_put_req).
func (c *Kioctx) putReq(t *sched.Task, k *Kiocb) {
	c.lock.LockIRQ(t)
	last := c.dropLocked(t, k)
	c.lock.UnlockIRQ(t)
	if last {
		c.free(t, k)
	}
}

// dropLocked drops a use; the last one gives the place back (__aio_put_req).
//
// Preconditions:
//   - c.lock is held
func (c *Kioctx) dropLocked(t *sched.Task, k *Kiocb) (last bool) {
	c.lock.AssertHeld(t)
	k.users--
	if k.users > 0 {
		return false
	}
	c.reqsActive--
	if c.reqsActive == 0 && c.dead {
		c.wait.Wake(t)
	}
	return true
}

func (c *Kioctx) free(t *sched.Task, k *Kiocb) {
	f := k.File
	c.fs.freeKiocb(t, k)
	f.Put(t)
}

// setup checks what the opcode needs (aio_setup_iocb).
func (k *Kiocb) setup(u *IOCB) error {
	write := u.Opcode == IOCBCmdPwrite || u.Opcode == IOCBCmdPwritev
	switch u.Opcode {
	case IOCBCmdPread, IOCBCmdPwrite, IOCBCmdPreadv, IOCBCmdPwritev:
		// The mode comes before the buffer, as in aio_setup_iocb.
		if write && !k.File.Flags.CanWrite() || !write && !k.File.Flags.CanRead() {
			return unix.EBADF
		}
	}
	switch u.Opcode {
	case IOCBCmdPread, IOCBCmdPwrite:
		if !accessOK(u.Buf, u.Nbytes) {
			return unix.EFAULT
		}
		k.inline[0] = IOVec{u.Buf, u.Nbytes}
		k.nbytes = int64(u.Nbytes)
	case IOCBCmdPreadv, IOCBCmdPwritev:
		n, err := checkVector(u.Iov)
		if err != nil {
			return err
		}
		k.iov = append(k.iov, u.Iov...)
		k.nbytes = int64(n)
	default:
		return unix.EINVAL
	}
	k.left = k.nbytes
	return nil
}

// run starts a request, and completes it unless that will happen in an interrupt
// (aio_run_iocb).
func (k *Kiocb) run(t *sched.Task) {
	s := k.ctx.fs
	n, err := k.rwVect(t)
	if err != errIOCBQueued {
		s.aioComplete(t, k, n, err)
	}
}

// rwVect transfers until everything is, or nothing more can be
// (aio_rw_vect_retry). A part that has been transferred counts for more than an
// error after it where data was written.
func (k *Kiocb) rwVect(t *sched.Task) (int64, error) {
	if k.Pos < 0 {
		return 0, unix.EINVAL
	}
	iov := k.iov
	if k.op == IOCBCmdPread || k.op == IOCBCmdPwrite {
		iov = k.inline[:]
	}
	write := k.op == IOCBCmdPwrite || k.op == IOCBCmdPwritev
	for {
		var n int64
		var err error
		if write {
			n, err = k.File.Inode.ops.AIOWrite(t, k, iov, k.Pos)
		} else {
			n, err = k.File.Inode.ops.AIORead(t, k, iov, k.Pos)
		}
		if err != nil {
			if write && err != errIOCBQueued && k.nbytes > k.left {
				return k.nbytes - k.left, nil
			}
			return 0, err
		}
		k.left -= n
		if n == 0 || k.left <= 0 || !write && k.File.Inode.pipe != nil { // a pipe is read once
			return k.nbytes - k.left, nil
		}
		iov = iovSkip(iov, uint64(n))
	}
}

// aioComplete puts a request's event into the ring and wakes who waits for it
// (aio_complete). It is called in interrupt context too.
func (s *System) aioComplete(t *sched.Task, k *Kiocb, n int64, err error) {
	c := k.ctx
	e := IOEvent{Data: k.data, Obj: k.obj, Res: n}
	if err != nil {
		e.Res = -int64(errnoOf(err))
	}
	off := c.lock.LockIRQSave(t)
	if !c.dead { // else aio_cancel_all has marked it: it gets no event
		c.ring[c.tail] = e
		c.tail = (c.tail + 1) % len(c.ring)
	}
	t.C.Trace.Inc(trace.EmuAIOCompletions)
	last := c.dropLocked(t, k)
	if c.wait.Active(t.C) {
		c.wait.Wake(t)
	}
	c.lock.UnlockIRQRestore(t, off)
	if last {
		c.free(t, k)
	}
}

func errnoOf(err error) unix.Errno {
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}
