package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// maxFDs is RLIMIT_NOFILE.
const maxFDs = 1024

// inlineFDs is how many files fit into files_struct itself (NR_OPEN_DEFAULT); beyond that
// the table is allocated, twice as large each time.
const inlineFDs = 64

// files is a process's table of open files: files_struct. Its threads share it; fork
// copies it, and both copies refer to the same files.
type files struct {
	lock lock.SpinLock
	fds  []*fs.File // by descriptor, nil where there is none; protected by lock
}

func (f *files) init(m *Machine) { f.lock.Init(m.sched, lock.Files) }

// get returns the file of a descriptor with a reference for the caller (fget); EBADF
// if there is none.
func (f *files) get(t *sched.Task, fd int) (*fs.File, error) {
	f.lock.Lock(t)
	if fd < 0 || fd >= len(f.fds) || f.fds[fd] == nil {
		f.lock.Unlock(t)
		return nil, unix.EBADF
	}
	file := f.fds[fd]
	file.Get(t)
	f.lock.Unlock(t)
	return file, nil
}

// install puts a file into the lowest free place and returns its descriptor (get_unused_fd,
// fd_install). The caller's reference becomes the table's, unless there is an error: EMFILE if
// there are too many, ENOMEM.
func (f *files) install(t *sched.Task, file *fs.File) (int, error) {
	f.lock.Lock(t)
	fd := 0
	for fd < len(f.fds) && f.fds[fd] != nil {
		fd++
	}
	if fd >= maxFDs {
		f.lock.Unlock(t)
		return -1, unix.EMFILE
	}
	if fd == len(f.fds) {
		if fd >= inlineFDs && fd&(fd-1) == 0 && mm.SystemOf(t).Pages.FailSite(t, "fdtable") { // expand_fdtable
			f.lock.Unlock(t)
			return -1, unix.ENOMEM
		}
		f.fds = append(f.fds, nil)
	}
	f.fds[fd] = file
	f.lock.Unlock(t)
	return fd, nil
}

// remove takes a file out of the table; its reference becomes the caller's.
func (f *files) remove(t *sched.Task, fd int) (*fs.File, error) {
	f.lock.Lock(t)
	if fd < 0 || fd >= len(f.fds) || f.fds[fd] == nil {
		f.lock.Unlock(t)
		return nil, unix.EBADF
	}
	file := f.fds[fd]
	f.fds[fd] = nil
	f.lock.Unlock(t)
	return file, nil
}

// copyTo gives a forked child the same files (dup_fd). Nobody else sees the child's
// table yet.
func (f *files) copyTo(t *sched.Task, child *files) {
	f.lock.Lock(t)
	for _, file := range f.fds {
		if file != nil {
			file.Get(t)
		}
		child.fds = append(child.fds, file)
	}
	f.lock.Unlock(t)
}

// closeAll closes everything, when the process ends (exit_files). Nobody else uses the
// table any more.
func (f *files) closeAll(t *sched.Task) {
	for fd, file := range f.fds {
		if file != nil {
			f.fds[fd] = nil
			file.Put(t)
		}
	}
	f.fds = nil
}
