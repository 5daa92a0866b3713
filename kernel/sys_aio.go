package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
)

// Asynchronous I/O: the system calls behind libaio. Requests are Go values, not
// emulated memory; their buffers are emulated memory. On a machine without disks they
// are ENOSYS.

// ContextID names a context for asynchronous requests: aio_context_t.
type ContextID = fs.ContextID

// IOEvent is the end of a request: struct io_event. Res is the number of bytes
// transferred, or minus an error number.
type IOEvent = fs.IOEvent

// The requests of an IOCB.
const (
	IOCBCmdPread   = fs.IOCBCmdPread
	IOCBCmdPwrite  = fs.IOCBCmdPwrite
	IOCBCmdFsync   = fs.IOCBCmdFsync
	IOCBCmdPreadv  = fs.IOCBCmdPreadv
	IOCBCmdPwritev = fs.IOCBCmdPwritev
)

// IOCB is an asynchronous request: struct iocb.
type IOCB struct {
	// Op is IOCBCmdPread and so on.
	Op fs.Opcode
	// FD is the file's descriptor.
	FD int
	// Buf and Len are the buffer, Iov the buffers of the vectored forms.
	Buf, Len uint64
	Iov      []IOVec
	// Off is the offset in the file.
	Off int64
	// Data and Obj come back with the event.
	Data, Obj uint64
}

// maxEvents bounds what one IoGetevents returns.
const maxEvents = 1 << 16

// IoSetup makes a context for at least nr requests in flight: io_setup(2). Errors:
// EINVAL, EAGAIN.
func (t *Thread) IoSetup(nr uint32) (ContextID, error) {
	task := t.enter(SysIoSetup, uint64(nr), 0)
	var id ContextID
	err := error(unix.ENOSYS)
	if t.m.blk != nil {
		id, err = t.m.fs.IoSetup(task, nr)
	}
	t.leave(SysIoSetup, result(0, err))
	return id, err
}

// IoDestroy ends a context when its requests have completed: io_destroy(2). EINVAL if
// there is no such context.
func (t *Thread) IoDestroy(id ContextID) error {
	task := t.enter(SysIoDestroy, uint64(id), 0)
	err := error(unix.ENOSYS)
	if t.m.blk != nil {
		err = t.m.fs.IoDestroy(task, id)
	}
	t.leave(SysIoDestroy, result(0, err))
	return err
}

// IoSubmit submits requests and returns how many were accepted: io_submit(2). An error
// is that of the first request, none of them being accepted then; a bad request
// further on only ends the list. Errors: EINVAL, EBADF, EFAULT, EAGAIN.
func (t *Thread) IoSubmit(id ContextID, reqs []IOCB) (int, error) {
	task := t.enter(SysIoSubmit, uint64(id), uint64(len(reqs)))
	n, err := 0, error(unix.ENOSYS)
	if t.m.blk != nil {
		s := &t.aio
		s.grow(len(reqs))
		for i := range reqs {
			r, u := &reqs[i], &s.iocbs[i]
			*u = fs.IOCB{Data: r.Data, Obj: r.Obj, Opcode: r.Op, Buf: r.Buf, Nbytes: r.Len, Iov: r.Iov, Offset: r.Off}
			u.File, _ = t.p.files.get(task, r.FD) // nil is EBADF when its turn comes
			s.ptrs[i] = u
		}
		n, err = t.m.fs.IoSubmit(task, id, s.ptrs[:len(reqs)])
		for i := range reqs {
			if f := s.iocbs[i].File; f != nil {
				f.Put(task)
			}
			s.iocbs[i] = fs.IOCB{}
		}
	}
	t.leave(SysIoSubmit, result(int64(n), err))
	return n, err
}

// submission is a thread's room for what it submits. Owner.
type submission struct {
	iocbs []fs.IOCB
	ptrs  []*fs.IOCB
}

func (s *submission) grow(n int) {
	if len(s.iocbs) < n {
		s.iocbs, s.ptrs = make([]fs.IOCB, n), make([]*fs.IOCB, n)
	}
}

// IoGetevents fetches up to nr events, waiting until there are minNr: io_getevents(2).
// timeoutNS is in virtual nanoseconds; negative is for ever. When time is up it
// returns what there is. Errors: EINVAL, EINTR.
func (t *Thread) IoGetevents(id ContextID, minNr, nr int, timeoutNS int64) ([]IOEvent, error) {
	if nr < 0 || minNr < 0 || minNr > nr {
		return nil, unix.EINVAL
	}
	task := t.enter(SysIoGetevents, uint64(id), uint64(nr))
	n, err := 0, error(unix.ENOSYS)
	var events []IOEvent
	if t.m.blk != nil {
		var timeout *uint64
		if timeoutNS >= 0 {
			ns := uint64(timeoutNS)
			timeout = &ns
		}
		events = make([]IOEvent, min(nr, maxEvents))
		n, err = t.m.fs.IoGetevents(task, id, minNr, events, timeout)
	}
	t.leave(SysIoGetevents, result(int64(n), err))
	if err != nil {
		return nil, err
	}
	return events[:n], nil
}

// exitAIO ends the contexts of the thread's address space, and waits for what is in
// flight (exit_aio). A vfork's child leaves them to its parent.
func (t *Thread) exitAIO() {
	if p := t.p; t.m.blk != nil && p.space != nil && !p.borrowed {
		t.m.fs.ExitAIO(t.task, p.space)
	}
}
