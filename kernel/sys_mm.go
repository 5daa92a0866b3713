package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/mm"
)

// Memory system calls. Each is documented where it is implemented, in package mm;
// errors are unix.Errno.

// Mmap maps length bytes and returns the address: mmap(2). fd and off only count
// without mm.MapAnonymous. Errors are those of mm.SysMmap, EBADF for a descriptor that
// is not open, and ENODEV for a file that cannot be mapped, as block devices cannot yet.
// With mm.MapAnonymous|mm.MapHugetlb it maps huge pages: see MustMmapHuge.
func (t *Thread) Mmap(addr, length uint64, prot mm.Prot, flags mm.MapFlags, fd int, off uint64) (uint64, error) {
	task := t.enter(SysMmap, addr, length)
	req := mm.MmapRequest{Addr: addr, Len: length, Prot: prot, Flags: flags}
	var f *fs.File
	var err error
	if flags&mm.MapAnonymous == 0 {
		if f, err = t.p.files.get(task, fd); err == nil {
			req.File, req.Mapping, err = mappingOf(f)
		}
	}
	if err == nil {
		addr, err = mm.SysMmap(task, t.p.space, req, off)
	}
	if f != nil {
		f.Put(task)
	}
	if err != nil {
		addr = 0
	}
	t.leave(SysMmap, result(int64(addr), err))
	return addr, err
}

// MmapAnon maps length bytes of private, readable, writable, anonymous memory
// wherever there is room: malloc of something large. The error is ENOMEM, or EINVAL
// for no length.
func (t *Thread) MmapAnon(length uint64) (uint64, error) {
	return t.Mmap(0, length, mm.ProtRead|mm.ProtWrite, mm.MapPrivate|mm.MapAnonymous, -1, 0)
}

// MustMmap is MmapAnon for programs that have no use for an error: if it fails, the
// process ends with SIGABRT, as a C program does that calls abort.
func (t *Thread) MustMmap(length uint64) uint64 {
	addr, err := t.MmapAnon(length)
	if err != nil {
		t.abort(fmt.Sprintf("mmap of %d bytes: %v", length, err))
	}
	return addr
}

// MustMmapShared is MustMmap for memory that forked children share with the process
// instead of getting a copy (MAP_SHARED).
func (t *Thread) MustMmapShared(length uint64) uint64 {
	addr, err := t.Mmap(0, length, mm.ProtRead|mm.ProtWrite, mm.MapShared|mm.MapAnonymous, -1, 0)
	if err != nil {
		t.abort(fmt.Sprintf("mmap of %d bytes: %v", length, err))
	}
	return addr
}

// Abort ends the process with SIGABRT. It does not return.
func (t *Thread) Abort() { t.abort("it called Abort") }

// abort is Abort with a reason for the machine's user.
func (t *Thread) abort(why string) {
	task, p := t.enter(SysTgkill, uint64(t.tid), uint64(SIGABRT)), t.p
	at := userLine()
	off := p.sighand.LockIRQSave(task)
	if !p.groupExiting {
		p.why, p.endedAt = why, at
	}
	p.startGroupExitLocked(task, KilledBy(SIGABRT))
	p.sighand.UnlockIRQRestore(task, off)
	t.unwind()
}

// Munmap unmaps a range; that nothing is mapped there is no error: munmap(2). Errors
// are those of mm.SysMunmap.
func (t *Thread) Munmap(addr, length uint64) error {
	task := t.enter(SysMunmap, addr, length)
	err := mm.SysMunmap(task, t.p.space, addr, length)
	t.leave(SysMunmap, result(0, err))
	return err
}

// Mprotect changes the protection of a range: mprotect(2). Errors are those of
// mm.SysMprotect.
func (t *Thread) Mprotect(addr, length uint64, prot mm.Prot) error {
	task := t.enter(SysMprotect, addr, length)
	err := mm.SysMprotect(task, t.p.space, addr, length, prot)
	t.leave(SysMprotect, result(0, err))
	return err
}

// Madvise gives advice about a range: madvise(2). Errors are those of mm.SysMadvise.
func (t *Thread) Madvise(addr, length uint64, advice mm.Advice) error {
	task := t.enter(SysMadvise, addr, length)
	err := mm.SysMadvise(task, t.p.space, addr, length, advice)
	t.leave(SysMadvise, result(0, err))
	return err
}

// Brk moves the end of the heap and returns where it then is. As the system call, it
// returns the old end if it cannot; Brk(0) asks.
func (t *Thread) Brk(addr uint64) uint64 {
	task := t.enter(SysBrk, addr, 0)
	end := mm.SysBrk(task, t.p.space, addr)
	t.leave(SysBrk, int64(end))
	return end
}

// Sbrk moves the end of the heap by n bytes and returns the old end, or ENOMEM, as
// the C library's function does.
func (t *Thread) Sbrk(n int64) (uint64, error) {
	old := t.Brk(0)
	if n == 0 {
		return old, nil
	}
	if want := old + uint64(n); t.Brk(want) != want {
		return 0, unix.ENOMEM
	}
	return old, nil
}

// Mremap makes the mapping at addr newLength bytes long instead of oldLength, moving it
// if it has to and flags permit, and returns where it then is: mremap(2). newAddr only
// counts with mm.MremapFixed. Errors are those of mm.SysMremap.
func (t *Thread) Mremap(addr, oldLength, newLength uint64, flags mm.MremapFlags, newAddr uint64) (uint64, error) {
	task := t.enter(SysMremap, addr, oldLength)
	at, err := mm.SysMremap(task, t.p.space, addr, oldLength, newLength, flags, newAddr)
	t.leave(SysMremap, result(int64(at), err))
	return at, err
}

// Mincore says for each page of a range whether it is in memory: mincore(2). The answer
// is a Go slice with 1 or 0 for each page, and not emulated memory. Errors are those of
// mm.SysMincore; with ENOMEM the pages before the hole have been answered.
func (t *Thread) Mincore(addr, length uint64) ([]byte, error) {
	task := t.enter(SysMincore, addr, length)
	vec, err := mm.SysMincore(task, t.p.space, addr, length)
	t.leave(SysMincore, result(0, err))
	return vec, err
}

// RemapFilePages is refused: remap_file_pages(2). There are no nonlinear mappings here; the
// error says what to do instead, and is ENOSYS for errors.Is.
func (t *Thread) RemapFilePages(addr, length uint64, prot mm.Prot, pgoff uint64, flags mm.MapFlags) error {
	task := t.enter(SysRemapFile, addr, length)
	err := mm.SysRemapFilePages(task, t.p.space, addr, length, prot, pgoff, flags)
	t.leave(SysRemapFile, result(0, err))
	return err
}
