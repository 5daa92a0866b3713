package fs

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// hugetlbfs, mounted twice: files in HugetlbfsDir have pages of 2 MiB, those in Hugetlbfs1GDir
// pages of 1 GiB. Open creates them, mmap and ftruncate make use of them, read copies out of
// them; write is EINVAL. A file lives until it is unlinked and nobody uses it. What they
// are is in package mm. Linux 2.6.29 fs/hugetlbfs/inode.c.

// The mount points of hugetlbfs.
const (
	HugetlbfsDir   = "/hugetlbfs"
	Hugetlbfs1GDir = "/hugetlbfs1G"
)

// hugetlbfs is the names of both.
type hugetlbfs struct {
	sys *mm.System // nil without a memory manager; immutable
	// mutex is the directories' i_mutex.
	mutex lock.Mutex
	files map[string]*Inode // by path; protected by mutex
}

func (h *hugetlbfs) init(m *sched.Machine, sys *mm.System) {
	h.sys = sys
	h.mutex.Init(m, lock.IMutex)
}

// hugetlbfsPath returns the page size of a path in hugetlbfs; ok is false for any other.
func hugetlbfsPath(path string) (size uint64, ok bool) {
	for dir, size := range map[string]uint64{HugetlbfsDir: mm.HugePage2M, Hugetlbfs1GDir: mm.HugePage1G} {
		if name, ok := strings.CutPrefix(path, dir+"/"); ok && name != "" && !strings.Contains(name, "/") {
			return size, true
		}
	}
	return 0, false
}

// openHuge is Open for a path in hugetlbfs. Errors: ENOENT, EEXIST, ENOTDIR, EINVAL with
// ODirect, which hugetlbfs does not have, ENFILE and ENOSPC if there is no memory.
func (s *System) openHuge(t *sched.Task, path string, size uint64, flags OpenFlags) (*File, error) {
	h := &s.huge
	h.mutex.Lock(t)
	i, err := h.files[path], error(nil)
	switch {
	case i == nil && flags&OCreat == 0:
		err = unix.ENOENT
	case i != nil && flags&(OCreat|OExcl) == OCreat|OExcl:
		err = unix.EEXIST
	case flags&ODirectory != 0:
		err = unix.ENOTDIR
	case flags&ODirect != 0:
		err = unix.EINVAL
	case s.pages.FailSite(t, siteFile):
		err = unix.ENFILE
	case i == nil:
		i, err = s.newHugeInode(t, path, size)
	}
	var f *File
	if err == nil {
		i.huge.Get(t)
		f = s.newFile(i, flags)
	}
	h.mutex.Unlock(t)
	if err == nil && flags&OTrunc != 0 && flags.CanWrite() {
		err = i.huge.Truncate(t, 0)
	}
	return f, err
}

// newHugeInode makes a file, whose name has the reference. The caller holds the mutex.
func (s *System) newHugeInode(t *sched.Task, path string, size uint64) (*Inode, error) {
	ino, err := s.huge.sys.NewHugeInode(t, path, size)
	if err != nil {
		return nil, err
	}
	ino.SetLinked(true)
	i := &Inode{FS: s, Path: path, ops: hugetlbFile{}, huge: ino, obj: s.m.NewObj(x86.ClassWord)}
	i.IMutex.Init(s.m, lock.IMutex)
	i.IAllocSem.Init(s.m, lock.IAllocSem)
	if s.huge.files == nil {
		s.huge.files = map[string]*Inode{}
	}
	s.huge.files[path] = i
	return i, nil
}

// Unlink takes the name of a file of hugetlbfs away; the file goes with its last user. ENOENT:
// there is no such file; EPERM: it is of a file system where names stay.
func (s *System) Unlink(t *sched.Task, path string) error {
	if _, ok := hugetlbfsPath(path); !ok {
		if s.inodes[path] != nil {
			return unix.EPERM
		}
		return unix.ENOENT
	}
	h := &s.huge
	h.mutex.Lock(t)
	i := h.files[path]
	delete(h.files, path)
	h.mutex.Unlock(t)
	if i == nil {
		return unix.ENOENT
	}
	i.huge.SetLinked(false)
	i.huge.Put(t)
	return nil
}

// Truncate sets the file's size: ftruncate(2). EINVAL: not opened for writing, not a file
// whose size can be set, or a size that is negative or no multiple of the page size.
func (f *File) Truncate(t *sched.Task, size int64) error {
	if f.Inode.huge == nil || !f.Flags.CanWrite() {
		return unix.EINVAL
	}
	return f.Inode.huge.Truncate(t, size)
}

// Huge returns what stands behind a file of hugetlbfs and how it was opened; nil for others.
func (f *File) Huge() (*mm.HugeInode, mm.FileMode) {
	mode := mm.FileMode(0)
	if f.Flags.CanRead() {
		mode |= mm.FModeRead
	}
	if f.Flags.CanWrite() {
		mode |= mm.FModeWrite
	}
	return f.Inode.huge, mode
}

// hugetlbFile is hugetlbfs_file_operations.
type hugetlbFile struct{}

// AIORead implements FileOps: hugetlbfs_read. A hole reads as zeroes. Unlike 2.6.29, and as
// later kernels, it does not hold i_mutex while it copies: a fault in the buffer and an
// mmap of the file could wait for each other.
func (hugetlbFile) AIORead(t *sched.Task, iocb *Kiocb, iov []IOVec, pos int64) (int64, error) {
	if !iocb.sync() {
		return 0, unix.EINVAL // there is no aio_read
	}
	s, h := iocb.File.Inode.FS, iocb.File.Inode.huge
	buf := make([]byte, x86.PageSize)
	done := int64(0)
	for _, v := range iov {
		for at := uint64(0); at < v.Len; {
			left := h.Size(t) - pos
			if left <= 0 {
				return done, nil
			}
			off := uint64(pos) & (x86.PageSize - 1)
			n := min(v.Len-at, x86.PageSize-off, uint64(left))
			clear(buf)
			if head, sub := h.FindPage(t, pos); head != nil {
				s.m.Mem().ReadFrame(t.C, s.pages.PFN(sub), off, buf[:n])
				s.pages.Put(t, head)
			}
			k := s.mem.copyToUser(t, v.Base+at, buf[:n])
			done, pos, at = done+int64(k), pos+int64(k), at+uint64(k)
			if uint64(k) < n {
				if done == 0 {
					return 0, unix.EFAULT
				}
				return done, nil
			}
		}
	}
	return done, nil
}

// AIOWrite implements FileOps: there is no write.
func (hugetlbFile) AIOWrite(*sched.Task, *Kiocb, []IOVec, int64) (int64, error) {
	return 0, unix.EINVAL
}

// Fsync implements FileOps: nothing is ever written anywhere.
func (hugetlbFile) Fsync(*sched.Task, *File) error { return nil }
