package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// SpliceFlags are the flags of splice and vmsplice.
type SpliceFlags uint32

// The flags, with Linux' values. Move and More are advice that nobody heeds here.
const (
	SpliceMove     SpliceFlags = 1
	SpliceNonblock SpliceFlags = 2
	SpliceMore     SpliceFlags = 4
	// SpliceGift offers the pages to whoever reads the pipe. In 2.6.29 only FUSE would
	// take them, and only a page that nobody else has; all that is left of it here
	// is that the memory must begin and end at a page.
	SpliceGift SpliceFlags = 8
)

// spliced is one vmsplice: the user pages of one call that are on their way, from
// PinBegin to PinEnd.
type spliced struct {
	pin  mm.PinUser
	kind mm.PinKind
	left x86.Word64 // pages not yet put. The tool's, not the machine's.
	obj  x86.ObjID  // names left; immutable
}

// putSpliced gives a page back that get_user_pages found for a vmsplice
// (page_cache_pipe_buf_release, spd_release_page). The last one ends the operation.
func (s *System) putSpliced(t *sched.Task, u *spliced, p *page.Page) {
	s.mem.put(t, p, u.kind)
	t.C.Touch(u.obj, x86.AccWrite)
	if u.left.RawAdd(^uint64(0)) == 0 {
		s.policy.p.PinEnd(t, &u.pin)
	}
}

// Vmsplice puts user memory into a pipe without copying it, or copies from the pipe
// to user memory if f is its reading end: vmsplice(2). Up to 16 pages go at once; each
// keeps a reference of get_user_pages for reading until somebody has read it, or the pipe
// goes. What is read is what the page holds then.
//
// It waits for room, or data, unless SpliceNonblock is set. Errors: EINVAL (more than
// 1024 buffers; SpliceGift with memory that is not whole pages), EBADF (not a pipe),
// EFAULT, EPIPE with SIGPIPE, EAGAIN, EINTR, ENOMEM, and what the policy's PinBegin says.
func (f *File) Vmsplice(t *sched.Task, iov []IOVec, flags SpliceFlags) (int64, error) {
	switch {
	case len(iov) > maxIOVec:
		return 0, unix.EINVAL
	case len(iov) == 0:
		return 0, nil
	case f.Inode.pipe == nil:
		return 0, unix.EBADF
	case f.Flags.CanWrite():
		return f.Inode.pipe.vmspliceToPipe(t, iov, flags)
	}
	return f.Inode.pipe.vmspliceToUser(t, iov, flags)
}

// piece is a page with a part of it: struct partial_page.
type piece struct{ off, len uint32 }

// vmspliceToPipe is vmsplice_to_pipe.
func (p *Pipe) vmspliceToPipe(t *sched.Task, iov []IOVec, flags SpliceFlags) (int64, error) {
	s := p.inode.FS
	u := &spliced{kind: s.policy.vmsplice, obj: p.inode.obj | 1<<40}
	u.pin = mm.PinUser{T: t, MM: s.mem.currentMM(t), Kind: mm.UserVmsplice, Async: true}
	for _, v := range iov {
		u.pin.Ranges = append(u.pin.Ranges, mm.Range{Addr: v.Base, Len: v.Len})
	}
	if err := s.policy.p.PinBegin(&u.pin); err != nil {
		return 0, err
	}
	var pages [PipeBuffers]*page.Page
	var parts [PipeBuffers]piece
	n, err := s.getIovecPageArray(t, iov, pages[:], parts[:], flags&SpliceGift != 0, u.kind)
	if n == 0 {
		s.policy.p.PinEnd(t, &u.pin)
		return 0, err
	}
	u.left.Poke(uint64(n))
	t.C.Trace.Add(trace.EmuVmsplicePages, uint64(n))
	return p.spliceToPipe(t, u, pages[:n], parts[:n], flags)
}

// getIovecPageArray looks up the pages of user memory that the pipe may get, at most 16,
// and says which part of each belongs to the buffers (get_iovec_page_array). An error
// counts only if there is no page.
func (s *System) getIovecPageArray(t *sched.Task, iov []IOVec, pages []*page.Page, parts []piece, aligned bool, kind mm.PinKind) (n int, err error) {
	for _, v := range iov {
		if v.Len == 0 {
			break
		}
		if !accessOK(v.Base, v.Len) {
			err = unix.EFAULT
			break
		}
		off, left := v.Base&^x86.PageMask, v.Len
		if aligned && (off != 0 || left&^x86.PageMask != 0) {
			err = unix.EINVAL
			break
		}
		want := int(min((off+left+x86.PageSize-1)>>x86.PageShift, uint64(PipeBuffers-n)))
		var got int
		if got, err = s.mem.getUserPagesFast(t, v.Base, want, false /* write */, kind, pages[n:]); got == 0 {
			break
		}
		for range got {
			k := min(left, x86.PageSize-off)
			parts[n] = piece{uint32(off), uint32(k)}
			off, left = 0, left-k
			n++
		}
		if left > 0 || got < want || n == PipeBuffers {
			break
		}
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

// spliceToPipe links pages into the pipe, waits for room, and gives back those for which
// there was none (splice_to_pipe). It returns once it has put in all that there was room
// for; only for the first page does it wait.
func (p *Pipe) spliceToPipe(t *sched.Task, u *spliced, pages []*page.Page, parts []piece, flags SpliceFlags) (done int64, err error) {
	s := p.inode.FS
	next, wake := 0, false
	p.inode.IMutex.Lock(t)
	for {
		if p.readers == 0 {
			s.sigpipe(t)
			err = unix.EPIPE
			break
		}
		if p.n < PipeBuffers {
			for p.n < PipeBuffers && next < len(pages) {
				p.bufs[(p.cur+p.n)%PipeBuffers] = pipeBuffer{page: pages[next], off: parts[next].off, len: parts[next].len, user: u}
				p.n++
				done += int64(parts[next].len)
				next++
			}
			wake = true
			break
		}
		if flags&SpliceNonblock != 0 {
			err = unix.EAGAIN
			break
		}
		if t.SignalPending() {
			err = unix.EINTR
			break
		}
		p.waitingWriters++
		p.pause(t)
		p.waitingWriters--
	}
	p.inode.IMutex.Unlock(t)
	if wake {
		p.wait.Wake(t)
	}
	for ; next < len(pages); next++ {
		s.putSpliced(t, u, pages[next])
	}
	if done > 0 {
		err = nil
	}
	return done, err
}

// vmspliceToUser is vmsplice_to_user: a plain copy.
func (p *Pipe) vmspliceToUser(t *sched.Task, iov []IOVec, flags SpliceFlags) (done int64, err error) {
	wake := false
	p.inode.IMutex.Lock(t)
	for _, v := range iov {
		if v.Len == 0 {
			break
		}
		if v.Base == 0 || !accessOK(v.Base, v.Len) {
			err = unix.EFAULT
			break
		}
		var n int64
		var w bool
		one := [1]IOVec{v}
		n, w, err = p.drain(t, v.Len, flags&SpliceNonblock != 0, true /* splice */, &iovCursor{iov: one[:]})
		done, wake = done+n, wake || w
		if uint64(n) < v.Len {
			break
		}
	}
	p.inode.IMutex.Unlock(t)
	if wake {
		p.wait.Wake(t)
	}
	if done > 0 {
		err = nil
	}
	return done, err
}

// Splice moves up to n bytes from a pipe to a file, at off or, if that is nil, at the
// file's position, which moves: splice(2). The bytes are copied, as 2.6.29 does, at the
// moment they are moved: what a page from vmsplice holds then. The other direction, which
// needs a page cache behind the file, is EINVAL, and so is everything else 2.6.29 has
// no operation for.
//
// Errors: EBADF, EINVAL, ESPIPE (an offset for the pipe), and those of writing.
func (s *System) Splice(t *sched.Task, in *File, offIn *int64, out *File, off *int64, n uint64, flags SpliceFlags) (int64, error) {
	p := in.Inode.pipe
	switch {
	case n == 0:
		return 0, nil
	case !in.Flags.CanRead() || !out.Flags.CanWrite():
		return 0, unix.EBADF
	case p == nil:
		return 0, unix.EINVAL
	case offIn != nil:
		return 0, unix.ESPIPE
	case out.Inode.pipe != nil:
		return 0, unix.EINVAL
	}
	pos := int64(out.pos.Load(t.C, out.obj))
	if off != nil {
		pos = *off
	}
	if err := out.verify(pos, n, true /* write */); err != nil {
		return 0, err
	}
	count, err := genericWriteChecks(t, out.Inode, pos, int64(min(n, maxRWCount)))
	if err != nil || count == 0 {
		return 0, err
	}
	b := s.getBounce(t)
	if b == nil {
		return 0, unix.ENOMEM
	}
	p.inode.IMutex.Lock(t)
	done, wake, err := p.drain(t, uint64(count), flags&SpliceNonblock != 0, true /* splice */, &fileSink{s: s, b: b, out: out.Inode, pos: pos})
	p.inode.IMutex.Unlock(t)
	if wake {
		p.wait.Wake(t)
	}
	s.putBounce(t, b)
	if err == nil {
		if off != nil {
			*off = pos + done
		} else {
			out.pos.Store(t.C, out.obj, uint64(pos+done))
		}
	}
	return done, err
}

// fileSink is pipe_to_file for a block device.
type fileSink struct {
	s   *System
	b   *bounce
	out *Inode
	pos int64
}

// take implements pipeSink: up to the end of a page of the file.
func (f *fileSink) take(t *sched.Task, _ *Pipe, chunk []byte) (int, error) {
	start := f.pos &^ (x86.PageSize - 1)
	n := int(min(x86.PageSize, f.out.Size(t)-start))
	at := int(f.pos - start)
	k := copy(f.b.buf[at:n], chunk)
	if k == 0 {
		return 0, unix.ENOSPC
	}
	if err := f.s.writePart(t, f.b, f.out, f.s.pages.PFN(f.b.page), start, n, at, k); err != nil {
		return 0, err
	}
	f.pos += int64(k)
	return k, nil
}
