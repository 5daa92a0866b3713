package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// File system calls. Buffers are emulated memory. Errors are unix.Errno, as
// documented in package fs, and EBADF for a descriptor that is not open.

// IOVec is a buffer of a vectored transfer: struct iovec.
type IOVec = fs.IOVec

// Open opens a file and returns the lowest free descriptor: open(2). Disks are
// /dev/NAME. Errors are those of fs.System.Open (ENOENT, EROFS, ...) and EMFILE.
func (t *Thread) Open(path string, flags fs.OpenFlags) (fd int, err error) {
	task := t.enter(SysOpen, 0, uint64(flags))
	fd = -1
	var f *fs.File
	if f, err = t.m.fs.Open(task, path, flags); err == nil {
		if fd, err = t.p.files.install(task, f); err != nil {
			f.Put(task)
		}
	}
	t.leave(SysOpen, result(int64(fd), err))
	return fd, err
}

// Close closes a descriptor: close(2). The file itself goes with the last one of all
// processes and the last transfer in flight.
func (t *Thread) Close(fd int) error {
	task := t.enter(SysClose, uint64(fd), 0)
	f, err := t.p.files.remove(task, fd)
	if err == nil {
		f.Put(task)
	}
	t.leave(SysClose, result(0, err))
	return err
}

// Dup returns another descriptor for the same open file: dup(2). Errors: EBADF, EMFILE.
func (t *Thread) Dup(fd int) (int, error) {
	task := t.enter(SysDup, uint64(fd), 0)
	dup := -1
	f, err := t.p.files.get(task, fd)
	if err == nil {
		if dup, err = t.p.files.install(task, f); err != nil {
			f.Put(task)
		}
	}
	t.leave(SysDup, result(int64(dup), err))
	return dup, err
}

// withFile runs a system call on the file of a descriptor.
func (t *Thread) withFile(nr Sysno, fd int, arg uint64, fn func(task *sched.Task, f *fs.File) (int64, error)) (int, error) {
	task := t.enter(nr, uint64(fd), arg)
	f, err := t.p.files.get(task, fd)
	n := int64(0)
	if err == nil {
		n, err = fn(task, f)
		f.Put(task)
	}
	t.leave(nr, result(n, err))
	return int(n), err
}

// Pread reads n bytes at offset off of the file into memory at addr: pread(2). It
// returns how many bytes were read, fewer than n at the end of the file.
func (t *Thread) Pread(fd int, addr uint64, n int, off int64) (int, error) {
	return t.transfer(SysPread64, fd, addr, n, off)
}

// Pwrite writes n bytes of memory at addr to offset off of the file: pwrite(2).
func (t *Thread) Pwrite(fd int, addr uint64, n int, off int64) (int, error) {
	return t.transfer(SysPwrite64, fd, addr, n, off)
}

// ReadFD reads n bytes at the file's position into memory at addr: read(2). Read is the
// load instruction.
func (t *Thread) ReadFD(fd int, addr uint64, n int) (int, error) {
	return t.transfer(SysRead, fd, addr, n, 0)
}

// WriteFD writes n bytes of memory at addr at the file's position: write(2). Write is
// the store instruction.
func (t *Thread) WriteFD(fd int, addr uint64, n int) (int, error) {
	return t.transfer(SysWrite, fd, addr, n, 0)
}

// transfer is the four simple transfers. It is written out, without a closure, because
// direct I/O in a loop is what workloads do.
func (t *Thread) transfer(nr Sysno, fd int, addr uint64, n int, off int64) (int, error) {
	task := t.enter(nr, uint64(fd), addr)
	f, err := t.p.files.get(task, fd)
	got := int64(0)
	if err == nil {
		switch nr {
		case SysPread64:
			got, err = f.Pread(task, addr, uint64(n), off)
		case SysPwrite64:
			got, err = f.Pwrite(task, addr, uint64(n), off)
		case SysRead:
			got, err = f.Read(task, addr, uint64(n))
		case SysWrite:
			got, err = f.Write(task, addr, uint64(n))
		}
		f.Put(task)
	}
	t.leave(nr, result(got, err))
	return int(got), err
}

// Preadv is Pread for several buffers, one after the other: preadv(2).
func (t *Thread) Preadv(fd int, iov []IOVec, off int64) (int, error) {
	return t.withFile(SysPreadv, fd, uint64(len(iov)), func(task *sched.Task, f *fs.File) (int64, error) {
		return f.Preadv(task, iov, off)
	})
}

// Pwritev is Pwrite for several buffers: pwritev(2).
func (t *Thread) Pwritev(fd int, iov []IOVec, off int64) (int, error) {
	return t.withFile(SysPwritev, fd, uint64(len(iov)), func(task *sched.Task, f *fs.File) (int64, error) {
		return f.Pwritev(task, iov, off)
	})
}

// Readv is ReadFD for several buffers: readv(2).
func (t *Thread) Readv(fd int, iov []IOVec) (int, error) {
	return t.withFile(SysReadv, fd, uint64(len(iov)), func(task *sched.Task, f *fs.File) (int64, error) {
		return f.Readv(task, iov)
	})
}

// Writev is WriteFD for several buffers: writev(2).
func (t *Thread) Writev(fd int, iov []IOVec) (int, error) {
	return t.withFile(SysWritev, fd, uint64(len(iov)), func(task *sched.Task, f *fs.File) (int64, error) {
		return f.Writev(task, iov)
	})
}

// Lseek moves the file's position and returns it: lseek(2). whence is fs.SeekSet,
// fs.SeekCur or fs.SeekEnd.
func (t *Thread) Lseek(fd int, off int64, whence int) (int64, error) {
	pos := int64(0)
	_, err := t.withFile(SysLseek, fd, uint64(off), func(task *sched.Task, f *fs.File) (n int64, err error) {
		pos, err = f.Lseek(task, off, whence)
		return pos, err
	})
	return pos, err
}

// Fsync waits until what was written to the file is on its device: fsync(2).
func (t *Thread) Fsync(fd int) error {
	_, err := t.withFile(SysFsync, fd, 0, func(task *sched.Task, f *fs.File) (int64, error) {
		return 0, f.Fsync(task)
	})
	return err
}

// mappable is a file that can be mapped.
type mappable interface {
	mm.MmapFile
	// Mapping returns the file's pages.
	Mapping() *mm.AddressSpace
}

// mappingOf returns what mmap needs of a file; ENODEV if it cannot be mapped.
func mappingOf(f *fs.File) (mm.VMFile, *mm.AddressSpace, error) {
	if h, mode := f.Huge(); h != nil {
		return h.File(mode), h.Mapping(), nil
	}
	m, ok := any(f).(mappable)
	if !ok {
		return nil, nil, unix.ENODEV
	}
	return m, m.Mapping(), nil
}
