package fs

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// System is the file layer of one machine.
type System struct {
	m      *sched.Machine // immutable
	pages  *page.Map      // immutable
	blk    *blk.System    // immutable
	mem    userMemory     // immutable
	policy pinPolicy      // immutable

	cpus   []cpuState        // by CPU number; each is its CPU's
	inodes map[string]*Inode // by path; boot time only

	noBioRef bool // mm.BreakDIORef; immutable

	dirty bioDirty
	aio   aioState
	pipes pipeList
	huge  hugetlbfs

	// SendSIGPIPE sends SIGPIPE to a task that writes to a pipe without readers; nil:
	// it only gets EPIPE. Set at boot.
	SendSIGPIPE func(t *sched.Task)

	// NoDirtyDIO leaves the pages that direct I/O reads into as clean as they are. Set at boot.
	NoDirtyDIO bool
}

// cpuState is the free lists of a CPU. They are touched by whoever runs the CPU,
// and no point is passed meanwhile.
type cpuState struct {
	dios    *DIO
	kiocbs  *Kiocb
	bounces *bounce
	_       [64]byte
}

// New makes the file layer of a machine over its memory manager and block layer.
// Every device that b has becomes a file /dev/<name>; see also AddDevice. b is nil on a
// machine without disks. Boot time only.
func New(s *mm.System, b *blk.System) *System {
	f := newSystem(s.M, s.Pages, b, mmMemory{s}, s.Policy())
	f.huge.init(s.M, s)
	f.noBioRef = s.Broken(mm.BreakDIORef)
	return f
}

func newSystem(m *sched.Machine, pages *page.Map, b *blk.System, mem userMemory, p mm.Policy) *System {
	s := &System{
		m: m, pages: pages, blk: b, mem: mem, policy: newPinPolicy(p),
		cpus: make([]cpuState, m.CPUs()), inodes: map[string]*Inode{},
	}
	s.dirty.init(s)
	s.aio.init(s)
	if b != nil {
		for _, d := range b.Devices() {
			s.AddDevice("/dev/"+d.Name(), d)
		}
	}
	return s
}

// AddDevice gives a block device a path, such as the name of an image. A device may
// have several. Boot time only.
func (s *System) AddDevice(path string, d *blk.Device) *Inode {
	i := newBlockInode(s, path, d)
	s.inodes[path] = i
	return i
}

// Paths returns the paths that Open knows, in no order.
func (s *System) Paths() []string {
	out := make([]string, 0, len(s.inodes))
	for p := range s.inodes {
		out = append(out, p)
	}
	return out
}

// OpenFlags are the flags of open(2), with x86-64 Linux's values on every host.
type OpenFlags uint32

// The open flags.
const (
	ORdonly    OpenFlags = 0
	OWronly    OpenFlags = 01
	ORdwr      OpenFlags = 02
	OAccmode   OpenFlags = 03
	OCreat     OpenFlags = 0100
	OExcl      OpenFlags = 0200
	OTrunc     OpenFlags = 01000
	OAppend    OpenFlags = 02000
	ONonblock  OpenFlags = 04000
	ODsync     OpenFlags = 010000 // O_SYNC of 2.6.29
	ODirect    OpenFlags = 040000
	OLargefile OpenFlags = 0100000
	ODirectory OpenFlags = 0200000
	OCloexec   OpenFlags = 02000000
)

// CanRead and CanWrite report what a file opened with these flags may be used for.
func (f OpenFlags) CanRead() bool  { return f&OAccmode != OWronly }
func (f OpenFlags) CanWrite() bool { return f&OAccmode == OWronly || f&OAccmode == ORdwr }

// Inode is a file's identity: struct inode.
type Inode struct {
	// FS is the file layer. Immutable.
	FS *System
	// Path is the name the file was registered under. Immutable.
	Path string
	// Dev is the device that holds the file's blocks, nil for a pipe. Immutable.
	Dev *blk.Device
	// Block is set for a block-device file. Immutable.
	Block bool
	// IMutex orders buffered access, and direct access to files that want it.
	IMutex lock.Mutex
	// IAllocSem is held for reading while direct I/O to a file with DIOLocking is
	// in flight. It may be released by an interrupt handler.
	IAllocSem lock.RWSem

	ops     FileOps
	pipe    *Pipe         // nil unless it is one; immutable
	huge    *mm.HugeInode // nil unless it is of hugetlbfs; immutable
	blkbits uint          // log2 of the block size (i_blkbits); immutable
	size    x86.Word64    // i_size in bytes
	obj     x86.ObjID     // names size; immutable
}

// Size returns the file's size in bytes: a visible read (i_size_read).
func (i *Inode) Size(t *sched.Task) int64 {
	if i.huge != nil {
		return i.huge.Size(t)
	}
	return int64(i.size.Load(t.C, i.obj))
}

// BlockBits returns log2 of the file's block size.
func (i *Inode) BlockBits() uint { return i.blkbits }

// FileOps is what a kind of file does: file_operations. Results are bytes
// transferred and unix.Errno values.
type FileOps interface {
	// AIORead and AIOWrite transfer to and from user memory (aio_read, aio_write).
	// If iocb is asynchronous they may return errIOCBQueued, and aioComplete
	// is called later. They may change iov.
	AIORead(t *sched.Task, iocb *Kiocb, iov []IOVec, pos int64) (int64, error)
	AIOWrite(t *sched.Task, iocb *Kiocb, iov []IOVec, pos int64) (int64, error)
	// Fsync waits until what was written is on the device.
	Fsync(t *sched.Task, f *File) error
}

// File is an open file: struct file. Descriptors are the kernel's; several may
// refer to one File.
type File struct {
	// Inode and Flags are immutable after Open.
	Inode *Inode
	Flags OpenFlags

	pos  x86.Word64 // f_pos; not protected, as in 2.6.29
	refs x86.Word32 // f_count
	obj  x86.ObjID  // names pos and refs; immutable
}

// Open opens a path of the device table, or creates or opens a file of hugetlbfs
// (HugetlbfsDir). Errors: ENOENT for a path nobody
// registered (EROFS with OCreat: there is no file system to create it in), EEXIST,
// ENOTDIR, EROFS for writing to a read-only device, EINVAL, ENFILE if there is no memory.
func (s *System) Open(t *sched.Task, path string, flags OpenFlags) (*File, error) {
	if path == "" {
		return nil, unix.ENOENT
	}
	if size, ok := hugetlbfsPath(path); ok && s.huge.sys != nil {
		return s.openHuge(t, path, size, flags)
	}
	i := s.inodes[path]
	switch {
	case i == nil && s.isDir(path):
		if flags.CanWrite() || flags&OCreat != 0 {
			return nil, unix.EISDIR
		}
		return nil, unix.EACCES // directories cannot be read here
	case i == nil && flags&OCreat != 0:
		return nil, unix.EROFS
	case i == nil:
		return nil, unix.ENOENT
	case flags&(OCreat|OExcl) == OCreat|OExcl:
		return nil, unix.EEXIST
	case flags&ODirectory != 0:
		return nil, unix.ENOTDIR
	case flags.CanWrite() && i.Dev.ReadOnly():
		return nil, unix.EROFS
	}
	if s.pages.FailSite(t, siteFile) {
		return nil, unix.ENFILE
	}
	return s.newFile(i, flags), nil
}

// siteFile names the allocation of a struct file (get_empty_filp), for page.Map.FailAt.
const siteFile = "file"

// newFile makes an open file with one reference.
func (s *System) newFile(i *Inode, flags OpenFlags) *File {
	f := &File{Inode: i, Flags: flags, obj: s.m.NewObj(x86.ClassWord)}
	f.refs.Poke(1)
	return f
}

// isDir reports whether a path leads to registered ones.
func (s *System) isDir(path string) bool {
	dir := strings.TrimRight(path, "/") + "/"
	for p := range s.inodes {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	return s.huge.sys != nil && (dir == HugetlbfsDir+"/" || dir == Hugetlbfs1GDir+"/")
}

// Get takes a reference (get_file): for another descriptor, or for a request in flight.
func (f *File) Get(t *sched.Task) { f.refs.Add(t.C, f.obj, 1) }

// Put drops a reference (fput). It may be called in interrupt context, unless the file
// is a pipe, whose last Put closes an end and may sleep, or of hugetlbfs: a transfer to
// these is never completed by an interrupt.
func (f *File) Put(t *sched.Task) {
	switch n := f.refs.AddReturn(t.C, f.obj, -1); {
	case n < 0:
		t.Oops("fput: file %s has no references", f.Inode.Path)
	case n == 0 && f.Inode.pipe != nil:
		f.Inode.pipe.closeEnd(t, f)
	case n == 0 && f.Inode.huge != nil:
		f.Inode.huge.Put(t)
	}
}

// Refs returns the number of references, for invariants.
func (f *File) Refs() int { return int(f.refs.Peek()) }

// Name returns the file's path, as /proc/pid/maps and /proc/pid/fd show it.
func (f *File) Name() string { return f.Inode.Path }

// Whence says what the offset of Lseek is relative to.
const (
	SeekSet = 0
	SeekCur = 1
	SeekEnd = 2
)

// Lseek moves the file's position (block_llseek): EINVAL if it would lie outside the
// device, ESPIPE for a pipe.
func (f *File) Lseek(t *sched.Task, offset int64, whence int) (int64, error) {
	i := f.Inode
	if i.pipe != nil {
		return 0, unix.ESPIPE
	}
	i.IMutex.Lock(t)
	size := i.Size(t)
	err := error(nil)
	switch whence {
	case SeekSet:
	case SeekCur:
		offset += int64(f.pos.Load(t.C, f.obj))
	case SeekEnd:
		offset += size
	default:
		err = unix.EINVAL
	}
	if err == nil && (offset < 0 || offset > size) {
		err = unix.EINVAL
	}
	if err == nil {
		f.pos.Store(t.C, f.obj, uint64(offset))
	}
	i.IMutex.Unlock(t)
	if err != nil {
		return 0, err
	}
	return offset, nil
}

// Fsync waits until what was written is on the device.
func (f *File) Fsync(t *sched.Task) error { return f.Inode.ops.Fsync(t, f) }
