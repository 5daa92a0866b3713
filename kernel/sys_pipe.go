package kernel

import (
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Pipes and splicing. Errors are unix.Errno values, as documented in package fs.

// Pipe makes a pipe and returns descriptors of its reading and its writing end: pipe(2).
// ReadFD and WriteFD transfer, and wait for data or room. The error is EMFILE.
func (t *Thread) Pipe() (r, w int, err error) { return t.doPipe(SysPipe, 0) }

// Pipe2 is Pipe with flags: fs.ONonblock, fs.OCloexec; others are EINVAL.
func (t *Thread) Pipe2(flags fs.OpenFlags) (r, w int, err error) { return t.doPipe(SysPipe2, flags) }

func (t *Thread) doPipe(nr Sysno, flags fs.OpenFlags) (r, w int, err error) {
	task := t.enter(nr, uint64(flags), 0)
	r, w = -1, -1
	rf, wf, err := t.m.fs.Pipe(task, flags)
	if err == nil {
		if r, err = t.p.files.install(task, rf); err != nil {
			rf.Put(task)
			wf.Put(task)
		} else if w, err = t.p.files.install(task, wf); err != nil {
			if f, err2 := t.p.files.remove(task, r); err2 == nil {
				f.Put(task)
			}
			wf.Put(task)
			r = -1
		}
	}
	t.leave(nr, result(0, err))
	return r, w, err
}

// Vmsplice puts n bytes of memory at addr into a pipe without copying them, or copies
// from the pipe if fd is its reading end: vmsplice(2) with one buffer. It returns how many
// bytes went, at most 16 pages' worth into the pipe. See fs.File.Vmsplice.
func (t *Thread) Vmsplice(fd int, addr uint64, n int, flags fs.SpliceFlags) (int, error) {
	return t.Vmsplicev(fd, []IOVec{{Base: addr, Len: uint64(n)}}, flags)
}

// Vmsplicev is Vmsplice for several buffers.
func (t *Thread) Vmsplicev(fd int, iov []IOVec, flags fs.SpliceFlags) (int, error) {
	return t.withFile(SysVmsplice, fd, uint64(len(iov)), func(task *sched.Task, f *fs.File) (int64, error) {
		return f.Vmsplice(task, iov, flags)
	})
}

// Splice moves up to n bytes from a pipe to a file at its position: splice(2). See
// fs.System.Splice.
func (t *Thread) Splice(in, out int, n int, flags fs.SpliceFlags) (int, error) {
	return t.withFile(SysSplice, in, uint64(out), func(task *sched.Task, f *fs.File) (int64, error) {
		to, err := t.p.files.get(task, out)
		if err != nil {
			return 0, err
		}
		k, err := t.m.fs.Splice(task, f, nil, to, nil, uint64(n), flags)
		to.Put(task)
		return k, err
	})
}
