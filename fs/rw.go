package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// IOVec is one buffer of user memory: struct iovec.
type IOVec struct{ Base, Len uint64 }

// maxIOVec is UIO_MAXIOV.
const maxIOVec = 1024

// maxRWCount is the most that one call transfers (MAX_RW_COUNT).
const maxRWCount = 1<<31 - x86.PageSize

// errIOCBQueued says that the request will be completed by aioComplete
// (EIOCBQUEUED). It never reaches a program.
const errIOCBQueued = unix.Errno(529)

// Kiocb is one read or write in progress: struct kiocb.
type Kiocb struct {
	// File and Pos are the file and the position in it. Owner.
	File *File
	Pos  int64

	ctx      *Kioctx // nil for a synchronous request; immutable while in use
	op       Opcode
	data     uint64 // for the event (ki_user_data)
	obj      uint64 // for the event (ki_obj.user)
	users    int    // submitter and completion; protected by ctx.lock
	iov      []IOVec
	nbytes   int64
	left     int64
	inline   [1]IOVec
	linkFree *Kiocb
}

// sync reports whether the request's submitter waits for it (is_sync_kiocb).
func (k *Kiocb) sync() bool { return k.ctx == nil }

func (s *System) allocKiocb(t *sched.Task, f *File, pos int64) *Kiocb {
	c := &s.cpus[t.C.ID]
	k := c.kiocbs
	if k != nil {
		c.kiocbs = k.linkFree
		k.linkFree = nil
	} else {
		k = &Kiocb{}
	}
	k.File, k.Pos = f, pos
	return k
}

func (s *System) freeKiocb(t *sched.Task, k *Kiocb) {
	*k = Kiocb{iov: k.iov[:0]}
	c := &s.cpus[t.C.ID]
	k.linkFree = c.kiocbs
	c.kiocbs = k
}

// Pread reads n bytes at pos into user memory at addr. The file's position is neither used nor
// changed. It returns fewer bytes at the end of the file.
//
// Errors: EBADF (not open for reading), EINVAL (pos negative; misaligned with ODirect),
// ESPIPE (a pipe), EFAULT, EIO, ENOMEM.
func (f *File) Pread(t *sched.Task, addr, n uint64, pos int64) (int64, error) {
	if err := f.seekable(pos); err != nil {
		return 0, err
	}
	return f.single(t, addr, n, pos, false /* write */)
}

// Pwrite writes n bytes from user memory at addr to pos. Errors as Pread; ENOSPC at
// the end of a device, EPERM if it has become read-only.
func (f *File) Pwrite(t *sched.Task, addr, n uint64, pos int64) (int64, error) {
	if err := f.seekable(pos); err != nil {
		return 0, err
	}
	return f.single(t, addr, n, pos, true /* write */)
}

// Preadv and Pwritev are Pread and Pwrite for up to 1024 buffers, one after the
// other.
func (f *File) Preadv(t *sched.Task, iov []IOVec, pos int64) (int64, error) {
	if err := f.seekable(pos); err != nil {
		return 0, err
	}
	return f.vector(t, iov, pos, false /* write */)
}

// Pwritev: see Preadv.
func (f *File) Pwritev(t *sched.Task, iov []IOVec, pos int64) (int64, error) {
	if err := f.seekable(pos); err != nil {
		return 0, err
	}
	return f.vector(t, iov, pos, true /* write */)
}

// Read and Write transfer at the file's position and move it.
func (f *File) Read(t *sched.Task, addr, n uint64) (int64, error) {
	pos := f.pos.Load(t.C, f.obj)
	got, err := f.single(t, addr, n, int64(pos), false /* write */)
	return f.moved(t, pos, got, err)
}

// Write: see Read.
func (f *File) Write(t *sched.Task, addr, n uint64) (int64, error) {
	pos := f.pos.Load(t.C, f.obj)
	got, err := f.single(t, addr, n, int64(pos), true /* write */)
	return f.moved(t, pos, got, err)
}

// Readv and Writev are Read and Write for several buffers.
func (f *File) Readv(t *sched.Task, iov []IOVec) (int64, error) {
	pos := f.pos.Load(t.C, f.obj)
	got, err := f.vector(t, iov, int64(pos), false /* write */)
	return f.moved(t, pos, got, err)
}

// Writev: see Readv.
func (f *File) Writev(t *sched.Task, iov []IOVec) (int64, error) {
	pos := f.pos.Load(t.C, f.obj)
	got, err := f.vector(t, iov, int64(pos), true /* write */)
	return f.moved(t, pos, got, err)
}

func (f *File) moved(t *sched.Task, pos uint64, got int64, err error) (int64, error) {
	if err == nil {
		f.pos.Store(t.C, f.obj, pos+uint64(got))
	}
	return got, err
}

func (f *File) single(t *sched.Task, addr, n uint64, pos int64, write bool) (int64, error) {
	if err := f.verify(pos, n, write); err != nil {
		return 0, err
	}
	if !accessOK(addr, n) {
		return 0, unix.EFAULT
	}
	k := f.Inode.FS.allocKiocb(t, f, pos)
	k.inline[0] = IOVec{addr, min(n, maxRWCount)}
	return f.run(t, k, k.inline[:], write)
}

// uioFastIOV is how many buffers fit on the stack (UIO_FASTIOV).
const uioFastIOV = 8

func (f *File) vector(t *sched.Task, iov []IOVec, pos int64, write bool) (int64, error) {
	n, err := checkVector(iov)
	if err == nil {
		err = f.verify(pos, n, write)
	}
	if err == nil && len(iov) > uioFastIOV && f.Inode.FS.pages.FailSite(t, "iovec") {
		err = unix.ENOMEM
	}
	if err != nil || n == 0 {
		return 0, err
	}
	k := f.Inode.FS.allocKiocb(t, f, pos)
	k.iov = append(k.iov, iov...)
	return f.run(t, k, k.iov, write)
}

// run is do_sync_read and do_sync_write.
func (f *File) run(t *sched.Task, k *Kiocb, iov []IOVec, write bool) (n int64, err error) {
	if write {
		n, err = f.Inode.ops.AIOWrite(t, k, iov, k.Pos)
	} else {
		n, err = f.Inode.ops.AIORead(t, k, iov, k.Pos)
	}
	if err == errIOCBQueued {
		t.Oops("a synchronous request was queued")
	}
	f.Inode.FS.freeKiocb(t, k)
	if err != nil {
		return 0, err
	}
	return n, nil
}

// checkVector sums the lengths (rw_copy_check_uvector).
func checkVector(iov []IOVec) (n uint64, err error) {
	if len(iov) > maxIOVec {
		return 0, unix.EINVAL
	}
	for _, v := range iov {
		if int64(v.Len) < 0 || int64(n+v.Len) < 0 {
			return 0, unix.EINVAL
		}
		n += v.Len
	}
	return n, nil
}

// seekable is what the calls with a position ask first (FMODE_PREAD, FMODE_PWRITE).
func (f *File) seekable(pos int64) error {
	switch {
	case pos < 0:
		return unix.EINVAL
	case f.Inode.pipe != nil:
		return unix.ESPIPE
	}
	return nil
}

// verify is what sys_pread64, vfs_read and rw_verify_area check.
func (f *File) verify(pos int64, n uint64, write bool) error {
	switch {
	case pos < 0:
		return unix.EINVAL
	case write && !f.Flags.CanWrite() || !write && !f.Flags.CanRead():
		return unix.EBADF
	case int64(n) < 0 || pos+int64(n) < 0:
		return unix.EINVAL
	}
	return nil
}

// accessOK reports whether a range lies in user space (access_ok).
func accessOK(addr, n uint64) bool { return n <= x86.TaskSize && addr <= x86.TaskSize-n }

// genericSegmentChecks cuts a list of buffers before the first that is not in user
// space, which is an error only if it is the first of all (generic_segment_checks).
func genericSegmentChecks(iov []IOVec) (kept []IOVec, n int64, err error) {
	for i, v := range iov {
		if !accessOK(v.Base, v.Len) {
			if i == 0 {
				return nil, 0, unix.EFAULT
			}
			return iov[:i], n, nil
		}
		n += int64(v.Len)
	}
	return iov, n, nil
}

// iovShorten cuts the list to n bytes in place (iov_shorten).
func iovShorten(iov []IOVec, n uint64) []IOVec {
	for i := range iov {
		if iov[i].Len >= n {
			iov[i].Len = n
			return iov[:i+1]
		}
		n -= iov[i].Len
	}
	return iov
}

// iovSkip returns the list without its first n bytes; the slice is changed in place.
func iovSkip(iov []IOVec, n uint64) []IOVec {
	for len(iov) > 0 && n >= iov[0].Len {
		n -= iov[0].Len
		iov = iov[1:]
	}
	if len(iov) > 0 {
		iov[0].Base += n
		iov[0].Len -= n
	}
	return iov
}
